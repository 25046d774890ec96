# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The built-in market: what it simulates follows the law it states, and the law follows its documentation."""

import numpy as np
import pytest
from scipy import stats

from forge_hf.data import SyntheticMarket
from forge_hf.errors import InvalidSequencesError, UnknownItemError


@pytest.fixture(scope="module")
def market():
    return SyntheticMarket(num_items=120, num_users=4000, embedding_dim=8, seed=5)


@pytest.fixture(scope="module")
def steps(market):
    """Every simulated step: its history and the item that came next."""
    sequences = market.sequences["items"][:]
    return [(items[:end], items[end]) for items in sequences for end in range(1, len(items))]


def test_law_equals_its_documentation(market):
    """Recomputed item by item from the public columns, for histories of one to four items."""
    items = market.items.to_dict()
    leaf = dict(zip(items["item_id"], items["leaf_category"], strict=True))
    style = dict(zip(items["item_id"], items["style"], strict=True))
    popularity = dict(zip(items["item_id"], market.popularity, strict=True))
    leaves = list(dict.fromkeys(leaf[item] for item in sorted(leaf)))
    histories = [sequence[: 1 + n % 4] for n, sequence in enumerate(market.sequences["items"][:40])]
    law = market.next_item_probabilities(histories)

    def share(candidates):
        total = sum(popularity[item] for item in candidates)
        return {item: popularity[item] / total for item in candidates}

    successors = {}
    for history, row in zip(histories, law, strict=True):
        last = history[-1]
        same = share([item for item in leaf if leaf[item] == leaf[last]])
        errors = {}
        for successor in leaves:
            following = share([item for item in leaf if leaf[item] == successor and style[item] == style[last]])
            expected = np.array(
                [
                    0.5 * following.get(item, 0) + 0.2 * same.get(item, 0) + 0.3 * popularity[item]
                    if item not in history
                    else 0
                    for item in items["item_id"]
                ]
            )
            errors[successor] = np.abs(expected / expected.sum() - row).max()
        matching = [successor for successor in leaves if errors[successor] < 1e-12]
        assert len(matching) == 1 and matching[0] != leaf[last]
        assert successors.setdefault(leaf[last], matching[0]) == matching[0]
    assert len(set(successors.values())) == len(successors)  # one to one


def test_rows_sum_to_one_and_seen_items_have_nothing(market):
    histories = market.sequences["items"][:200]
    law = market.next_item_probabilities(histories)
    assert law.shape == (200, 120)
    np.testing.assert_allclose(law.sum(axis=1), 1, rtol=1e-12)
    for history, row in zip(histories, law, strict=True):
        seen = np.isin(market.item_ids, history)
        assert (row[seen] == 0).all() and (row[~seen] > 0).all()


def test_simulated_steps_follow_the_law(market, steps):
    """The probability integral transform: where in the law's cumulative sum each next item fell must be uniform."""
    histories, following = zip(*steps, strict=True)
    law = market.next_item_probabilities(histories)
    assert len(law) > 40_000
    column = np.searchsorted(market.item_ids, following)
    upper = np.cumsum(law, axis=1)[np.arange(len(law)), column]
    width = law[np.arange(len(law)), column]
    assert (width > 0).all()
    uniform = upper - width * np.random.default_rng(0).random(len(law))
    assert stats.kstest(uniform, "uniform").pvalue > 0.001
    # And item by item: how often each one came next against the law's sum, as a chi-square statistic.
    counts, expected = np.bincount(column, minlength=120), law.sum(axis=0)
    variance = (law * (1 - law)).sum(axis=0)
    assert stats.chi2.sf(((counts - expected) ** 2 / variance).sum(), df=119) > 0.001


def test_best_possible_metrics_equal_those_of_simulated_users(market, steps):
    chosen = steps[::4]
    histories, following = zip(*chosen, strict=True)
    ranks = np.argsort(-market.next_item_probabilities(histories), axis=1)
    hits = ranks[:, :10] == np.searchsorted(market.item_ids, following)[:, None]
    error = 1 / np.sqrt(len(chosen))  # two standard errors of a proportion, at the least
    assert abs(market.best_possible_recall(histories, 10) - hits.any(axis=1).mean()) < error
    gains = (hits / np.log2(np.arange(10) + 2)).sum(axis=1)
    assert abs(market.best_possible_ndcg(histories, 10) - gains.mean()) < error
    assert market.best_possible_recall(histories, 120) == pytest.approx(1)


def test_no_item_repeats_and_lengths_are_as_asked():
    market = SyntheticMarket(num_items=40, num_users=300, embedding_dim=4, min_length=2, max_length=20, seed=1)
    sequences = market.sequences["items"][:]
    assert all(len(set(items)) == len(items) for items in sequences)
    assert {len(items) for items in sequences} == set(range(2, 21))
    assert len(set(market.sequences["user_id"])) == 300


def test_same_seed_same_market():
    first, again, other = (SyntheticMarket(num_items=60, num_users=20, seed=seed) for seed in (3, 3, 4))
    assert first.items.to_dict() == again.items.to_dict()
    assert first.sequences.to_dict() == again.sequences.to_dict()
    assert np.array_equal(first.embeddings, again.embeddings)
    assert not np.array_equal(first.embeddings, other.embeddings)
    assert first.sequences.to_dict() != other.sequences.to_dict()
    more_users = SyntheticMarket(num_items=60, num_users=30, seed=3)
    assert more_users.items.to_dict() == first.items.to_dict()
    assert np.array_equal(more_users.embeddings, first.embeddings)


def test_items_can_be_told_apart_and_embeddings_carry_the_tree():
    market = SyntheticMarket(num_users=1)
    assert market.embeddings.shape == (1000, 64) and market.embeddings.dtype == np.float32
    assert len(set(market.items["title"])) == len(set(market.items["item_id"])) == 1000
    assert [path[0] for path in market.items["categories"]] == market.items["top_category"][:]
    assert min(market.items["price"]) > 0
    normed = market.embeddings / np.linalg.norm(market.embeddings, axis=1, keepdims=True)
    similarity = normed @ normed.T
    np.fill_diagonal(similarity, -1)
    nearest = similarity.argmax(axis=1)
    for column, least in (("leaf_category", 0.9), ("style", 0.9)):
        labels = np.array(market.items[column])
        assert (labels == labels[nearest]).mean() > least


def test_the_default_market_leaves_room_between_baselines_and_the_best():
    market = SyntheticMarket()
    sequences = market.sequences["items"][:]
    histories, targets = [items[:-1] for items in sequences], [items[-1] for items in sequences]
    assert 0.4 < market.best_possible_recall(histories, 10) < 0.65
    popular = {market.item_ids[row] for row in np.argsort(-market.popularity)[:10]}
    assert np.mean([target in popular for target in targets]) < 0.1


@pytest.mark.parametrize(
    "arguments",
    [{"num_items": 39}, {"num_users": 0}, {"embedding_dim": 0}, {"min_length": 0}, {"min_length": 9, "max_length": 8}],
)
def test_impossible_markets_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        SyntheticMarket(**arguments)


def test_bad_histories_are_refused(market):
    with pytest.raises(UnknownItemError, match="nowhere"):
        market.next_item_probabilities([["B000001", "nowhere"]])
    with pytest.raises(InvalidSequencesError, match="rows 1"):
        market.next_item_probabilities([["B000001"], []])
    with pytest.raises(InvalidSequencesError, match="no rows"):
        market.best_possible_recall([], 10)
    with pytest.raises(ValueError, match="`k`"):
        market.best_possible_ndcg([["B000001"]], 121)
