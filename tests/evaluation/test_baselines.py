# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Baselines against brute force, and against numbers measured elsewhere on real data."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_hf.data import ItemEmbeddings, leave_one_out, read_sequences
from forge_hf.errors import DuplicateItemError, InvalidSequencesError, UnknownItemError, UnsatisfiableRequestError
from forge_hf.evaluation import (
    NearestNeighborsBaseline,
    PopularityBaseline,
    RandomBaseline,
    ndcg_at_k,
    recall_at_k,
)


AMAZON = Path(__file__).parents[3] / "shared" / "data" / "amazon2014"
ITEMS = [f"i{row}" for row in range(12)]
TRAIN = [["i3", "i4", "i3"], ["i4", "i3", "i7"], ["i0", "i7"]]  # i3 three times, i4 and i7 twice, i0 once
EMBEDDINGS = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32) * np.arange(1, 13)[:, None]

histories = st.lists(st.lists(st.sampled_from(ITEMS), min_size=1, max_size=9), min_size=1, max_size=6)


def baselines():
    return [
        RandomBaseline(ITEMS, seed=3),
        PopularityBaseline(ITEMS, TRAIN),
        NearestNeighborsBaseline(EMBEDDINGS, ITEMS),
    ]


@settings(max_examples=25, deadline=None)
@given(histories, st.integers(1, 3), st.booleans())
def test_lists_are_full_distinct_and_without_the_history(histories, top_k, exclude_history):
    for baseline in baselines():
        ranked = baseline.rank(histories, top_k, exclude_history)
        assert len(ranked) == len(histories)
        for history, items in zip(histories, ranked, strict=True):
            assert len(items) == len(set(items)) == top_k
            assert not exclude_history or not set(items) & set(history)


@settings(max_examples=25, deadline=None)
@given(histories, st.integers(1, 3), st.booleans())
def test_order_equals_brute_force(histories, top_k, exclude_history):
    flat = [item for sequence in TRAIN for item in sequence]
    cosine = EMBEDDINGS @ EMBEDDINGS.T / np.outer(*[np.linalg.norm(EMBEDDINGS, axis=1)] * 2)
    keys = {
        PopularityBaseline: lambda history, item: (-flat.count(item), ITEMS.index(item)),
        NearestNeighborsBaseline: lambda history, item: -cosine[ITEMS.index(history[-1]), ITEMS.index(item)],
    }
    for baseline in baselines()[1:]:
        expected = [
            sorted(
                (item for item in ITEMS if not (exclude_history and item in history)),
                key=lambda item, history=history: keys[type(baseline)](history, item),
            )[:top_k]
            for history in histories
        ]
        assert baseline.rank(histories, top_k, exclude_history) == expected


def test_random_is_uniform_and_repeatable():
    baseline = RandomBaseline(ITEMS, seed=1)
    histories = [["i0", "i5"]] * 6000
    ranked = baseline.rank(histories, top_k=2)
    assert ranked == baseline.rank(histories, top_k=2)
    assert ranked != RandomBaseline(ITEMS, seed=2).rank(histories, top_k=2)
    for place in (0, 1):
        _, counts = np.unique([items[place] for items in ranked], return_counts=True)
        assert len(counts) == 10
        assert abs(counts - 600).max() < 5 * np.sqrt(600)


def test_neighbors_read_item_embeddings():
    items = ItemEmbeddings(EMBEDDINGS, item_ids=ITEMS)
    assert NearestNeighborsBaseline(items).rank([["i2"]], 4) == baselines()[2].rank([["i2"]], 4)
    assert NearestNeighborsBaseline(EMBEDDINGS).rank([[2]], 1, exclude_history=False) == [[2]]


def test_equal_embeddings_are_ranked_in_item_order():
    baseline = NearestNeighborsBaseline(np.ones((6, 3)), list("abcdef"))
    assert baseline.rank([["c"], ["f", "a"]], 3) == [["a", "b", "d"], ["b", "c", "d"]]


def test_batches_make_no_difference(monkeypatch):
    histories = [[ITEMS[row % 12], ITEMS[(row * 5) % 12]] for row in range(30)]
    whole = [baseline.rank(histories, 3) for baseline in baselines()[1:]]
    monkeypatch.setattr("forge_hf.evaluation.baselines._BATCH_SIZE", 7)
    assert [baseline.rank(histories, 3) for baseline in baselines()[1:]] == whole


def test_bad_input_is_refused():
    with pytest.raises(DuplicateItemError, match="1 repeated"):
        RandomBaseline(["a", "b", "a"])
    with pytest.raises(UnknownItemError, match="nowhere"):
        PopularityBaseline(ITEMS, [["nowhere"]])
    with pytest.raises(ValueError, match="2 ids for 12 embeddings"):
        NearestNeighborsBaseline(EMBEDDINGS, ["a", "b"])
    for baseline in baselines():
        with pytest.raises(UnknownItemError, match="nowhere"):
            baseline.rank([["i0"], ["nowhere"]])
        with pytest.raises(InvalidSequencesError, match="rows 1"):
            baseline.rank([["i0"], []])
        with pytest.raises(ValueError, match="`top_k`"):
            baseline.rank([["i0"]], 0)
        with pytest.raises(UnsatisfiableRequestError, match="row 1 has seen 2"):
            baseline.rank([["i0"], ["i1", "i2", "i1"]], 11)
        assert len(baseline.rank([["i0"], ["i1", "i2", "i1"]], 10)[1]) == 10


@pytest.mark.skipif(not AMAZON.is_dir(), reason=f"the Amazon 2014 data is not in {AMAZON}")
@pytest.mark.parametrize(
    ("name", "neighbors", "popular"),
    [
        ("beauty", (0.0464, 0.0331, 0.0635, 0.0387), 0.011),
        ("sports", (0.0209, 0.0140, 0.0313, 0.0173), 0.009),
    ],
)
def test_known_numbers_on_real_data(name, neighbors, popular):
    """Test split, every user, history masked: as stated beside the data."""
    splits = leave_one_out(read_sequences(AMAZON / name / "sequences.txt"))
    test = splits["test"].to_dict()
    path = AMAZON / name / "embeddings_minilm.safetensors"
    num_items = ItemEmbeddings.from_file(path).num_items
    embeddings = ItemEmbeddings.from_file(path, item_ids=list(range(1, num_items + 1)))

    ranked = NearestNeighborsBaseline(embeddings).rank(test["history"], 10)
    scores = [metric(ranked, test["target"], k) for k in (5, 10) for metric in (recall_at_k, ndcg_at_k)]
    # A few items have the same embedding: the stated numbers let the target win such ties, we rank in item order.
    np.testing.assert_allclose(scores, neighbors, atol=1e-4)

    ranked = PopularityBaseline(embeddings.item_ids, splits["train"]["items"]).rank(test["history"], 10)
    assert recall_at_k(ranked, test["target"], 10) == pytest.approx(popular, abs=6e-4)
