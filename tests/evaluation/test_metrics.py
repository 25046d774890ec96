# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Metrics against hand-made cases, brute force, scikit-learn and scipy."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_hf.evaluation import metrics


CASES = sorted(Path(__file__).with_name("cases").glob("*.json"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_hand_made_case(path):
    case = json.loads(path.read_text(encoding="utf-8"))
    value = getattr(metrics, case["metric"])(**case["inputs"])
    assert value == pytest.approx(case["expected"], abs=case["tolerance"]), case["description"]


def test_there_is_a_case_for_every_metric():
    assert {json.loads(path.read_text(encoding="utf-8"))["metric"] for path in CASES} == set(metrics.__all__)


# Few distinct ids, so that hits and duplicates are common.
ids = st.integers(0, 12)
rows = st.lists(st.tuples(st.lists(ids, max_size=8), st.lists(ids, min_size=1, max_size=5)), min_size=1, max_size=6)


def brute_force(ranking, truth, k):
    """Recall, NDCG and reciprocal rank of one row, place by place."""
    truth, found, gain, reciprocal = set(truth), set(), 0.0, 0.0
    for rank, item in enumerate(ranking[:k], start=1):
        if item in truth and item not in found:
            found.add(item)
            gain += 1 / math.log2(rank + 1)
            reciprocal = reciprocal or 1 / rank
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(truth)) + 1))
    return len(found) / len(truth), gain / ideal, reciprocal


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(1, 10), st.booleans())
def test_brute_force_on_ragged_lists(rows, k, as_text):
    if as_text:
        rows = [([f"i{i}" for i in ranking], [f"i{i}" for i in truth]) for ranking, truth in rows]
    rankings, truths = zip(*rows, strict=True)
    recall, ndcg, mrr = np.mean([brute_force(*row, k) for row in rows], axis=0)
    assert metrics.recall_at_k(rankings, truths, k) == pytest.approx(recall)
    assert metrics.hit_rate_at_k(rankings, truths, k) == pytest.approx(recall)
    assert metrics.ndcg_at_k(rankings, truths, k) == pytest.approx(ndcg)
    assert metrics.mrr_at_k(rankings, truths, k) == pytest.approx(mrr)
    distinct = {item for ranking in rankings for item in ranking[:k]}
    assert metrics.catalog_coverage_at_k(rankings, k, 13) == pytest.approx(len(distinct) / 13)


def pad(lists, width):
    return np.array([row + [-1] * (width - len(row)) for row in map(list, lists)]).reshape(len(lists), width)


@settings(max_examples=40, deadline=None)
@given(rows, st.integers(1, 10))
def test_padded_arrays_and_tensors_mean_the_same_as_lists(rows, k):
    rankings, truths = zip(*rows, strict=True)
    array, truth_array = pad(rankings, 8), pad(truths, 5)
    categories = [item % 3 for item in range(13)]
    for convert in (np.asarray, torch.from_numpy):
        for name in ("recall_at_k", "ndcg_at_k", "mrr_at_k", "hit_rate_at_k"):
            metric = getattr(metrics, name)
            expected = metric(rankings, truths, k)
            assert metric(convert(array), convert(truth_array), k) == pytest.approx(expected)
            assert metric(convert(array), truths, k) == pytest.approx(expected)
        for name, argument in (("catalog_coverage_at_k", 13), ("entropy_at_k", categories)):
            arguments = (k, argument) if name == "catalog_coverage_at_k" else (argument, k)
            metric = getattr(metrics, name)
            assert metric(convert(array), *arguments) == pytest.approx(metric(rankings, *arguments))
    one = [truth[0] for truth in truths]
    assert metrics.ndcg_at_k(array, np.array(one), k) == pytest.approx(metrics.ndcg_at_k(rankings, one, k))


distinct_rows = st.lists(
    st.tuples(st.permutations(range(9)), st.sets(st.integers(0, 8), min_size=1, max_size=4)), min_size=1, max_size=4
)


@settings(max_examples=25, deadline=None)
@given(distinct_rows, st.integers(1, 9))
def test_scikit_learn_agrees(rows, k):
    from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, recall_score

    rankings, truths = zip(*rows, strict=True)
    relevance = np.array([[item in truth for item in range(9)] for truth in truths])
    scores = np.array([[9.0 - ranking.index(item) for item in range(9)] for ranking in rankings])
    assert metrics.ndcg_at_k(rankings, truths, k) == pytest.approx(ndcg_score(relevance, scores, k=k))
    recall = recall_score(relevance, scores > 9 - k, average="samples")
    assert metrics.recall_at_k(rankings, truths, k) == pytest.approx(recall)
    # With one true item a row, the average precision of the whole ranking is the reciprocal rank.
    one = [min(truth) for truth in truths]
    relevance = np.array([[item == truth for item in range(9)] for truth in one])
    expected = label_ranking_average_precision_score(relevance, scores)
    assert metrics.mrr_at_k(rankings, one, 9) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.permutations(range(10)), min_size=1, max_size=4), st.integers(1, 10))
def test_entropy_agrees_with_scipy(rankings, k):
    from scipy.stats import entropy

    categories = {item: f"category {item // 3}" for item in range(10)}
    expected = np.mean([entropy(np.bincount([item // 3 for item in ranking[:k]])) for ranking in rankings])
    assert metrics.entropy_at_k(rankings, categories, k) == pytest.approx(expected)


def test_invalid_rate_of_padded_arrays():
    rows = np.array([[3, -1, 5], [7, 8, -1]])
    assert metrics.invalid_rate(rows, k=2) == pytest.approx(1 / 4)
    assert metrics.invalid_rate(torch.from_numpy(rows), k=3) == pytest.approx(2 / 6)
    assert metrics.invalid_rate(rows, k=3, valid=range(6)) == pytest.approx(4 / 6)


@pytest.mark.parametrize("metric", [metrics.recall_at_k, metrics.ndcg_at_k, metrics.mrr_at_k, metrics.hit_rate_at_k])
def test_bad_arguments_are_refused(metric):
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        metric([["a"]], ["a"], 0)
    with pytest.raises(ValueError, match="no rows"):
        metric([], [], 5)
    with pytest.raises(ValueError, match="2 rows .* 1"):
        metric([["a"], ["b"]], ["a"], 5)
    with pytest.raises(ValueError, match="row 1"):
        metric([["a"], ["b"]], ["a", []], 5)
    with pytest.raises(ValueError, match="integers"):
        metric(np.array([[0.5]]), [1], 5)


def test_bad_catalogs_are_refused():
    with pytest.raises(ValueError, match="`catalog_size` is 1"):
        metrics.catalog_coverage_at_k([["a", "b"]], 2, 1)
    with pytest.raises(ValueError, match="`categories` lacks"):
        metrics.entropy_at_k([["a", "b"]], {"a": 0}, 2)


def test_a_row_without_recommendations_scores_zero():
    assert metrics.recall_at_k([[], ["a"]], ["x", "a"], 5) == 0.5
    assert metrics.mrr_at_k([[]], ["x"], 5) == metrics.ndcg_at_k([[]], ["x"], 5) == 0
    assert metrics.entropy_at_k([[]], {}, 5) == metrics.catalog_coverage_at_k([[]], 5, 10) == 0
    assert metrics.invalid_rate([[]], 5) == 0
