# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Tests of the quality measures, each against its definition in plain Python."""

import math
from collections import Counter, defaultdict
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_hf.errors import InvalidCodesError
from forge_hf.semantic_ids import (
    codebook_perplexity,
    codebook_utilization,
    collision_rate,
    gini,
    max_load,
    pairs_by_shared_prefix,
    prefix_collision_rates,
    prefix_purity,
    random_pairs_by_shared_prefix,
)


SIZES = [4, 6, 3]
ROWS = st.lists(st.tuples(*[st.integers(0, size - 1) for size in SIZES]), min_size=1, max_size=40)


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_utilization_and_perplexity(rows):
    codes = torch.tensor(rows)
    used, perplexity = codebook_utilization(codes, SIZES), codebook_perplexity(codes, SIZES)
    for level, size in enumerate(SIZES):
        counts = Counter(row[level] for row in rows)
        entropy = -sum(n / len(rows) * math.log(n / len(rows)) for n in counts.values())
        assert used[level].item() == pytest.approx(len(counts) / size)
        assert perplexity[level].item() == pytest.approx(math.exp(entropy))


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_collision_rates(rows):
    codes = torch.tensor(rows)
    expected = [1 - len({row[: level + 1] for row in rows}) / len(rows) for level in range(len(SIZES))]
    assert prefix_collision_rates(codes).tolist() == pytest.approx(expected)
    assert collision_rate(codes) == pytest.approx(expected[-1])


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_gini_is_the_mean_difference(rows):
    sizes = list(Counter(rows).values())
    # The other definition: mean absolute difference of all pairs over twice the mean.
    difference = sum(abs(a - b) for a in sizes for b in sizes) / len(sizes) ** 2
    expected = difference / (2 * sum(sizes) / len(sizes))
    assert gini(torch.tensor(rows)) == pytest.approx(expected, abs=1e-12)


def test_known_values():
    assert gini(torch.tensor([[0, 0], [1, 0], [2, 2]])) == pytest.approx(0)
    # Buckets of 1 and 3 items: forge's formula gives 3/2 - 2 * (2 * 1 + 1 * 3) / (2 * 4).
    assert gini(torch.tensor([[0], [1], [1], [1]])) == pytest.approx(0.25)
    assert codebook_perplexity(torch.arange(4)[:, None], [8]).tolist() == pytest.approx([4])


def test_refusals():
    with pytest.raises(InvalidCodesError, match="row 0 level 1"):
        codebook_utilization(torch.tensor([[9, 0, 0]]), SIZES)
    empty = torch.empty(0, 3, dtype=torch.int64)
    for measure in (collision_rate, gini, prefix_collision_rates, lambda codes: codebook_utilization(codes, SIZES)):
        with pytest.raises(ValueError, match="at least one item"):
            measure(empty)


def frequency_table_gini(table):
    """FORGE's Gini (SID_generation/scripts/gini_coefficient.md) from `{load: semantic IDs of this load}`."""
    num_ids, num_items = sum(table.values()), sum(load * count for load, count in table.items())
    weighted, rank = 0, num_ids  # the emptiest weighs most
    for load, count in sorted(table.items()):
        weighted += load * sum(range(rank - count + 1, rank + 1))
        rank -= count
    return (num_ids + 1) / num_ids - 2 * weighted / (num_ids * num_items)


def test_gini_is_forges_on_its_own_example():
    table = {1: 100, 2: 50, 3: 20}
    loads = [load for load, count in table.items() for _ in range(count)]
    codes = torch.repeat_interleave(torch.arange(len(loads)), torch.tensor(loads))[:, None]
    assert gini(codes) == pytest.approx(frequency_table_gini(table), abs=1e-12)
    # 170 semantic IDs of 260 items; ranks 170 to 71 weigh 1 item, 70 to 21 two, 20 to 1 three.
    assert gini(codes) == pytest.approx(171 / 170 - 2 * (12050 * 1 + 2275 * 2 + 210 * 3) / (170 * 260))


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_gini_of_a_frequency_table(rows):
    assert gini(torch.tensor(rows)) == pytest.approx(frequency_table_gini(Counter(Counter(rows).values())), abs=1e-12)
    assert max_load(torch.tensor(rows)) == max(Counter(rows).values())


@given(ROWS, st.randoms())
@settings(max_examples=60, deadline=None)
def test_prefix_purity(rows, random):
    categories = [random.choice(["a", "b", "c", None]) for _ in rows]
    categories[0] = "a"
    codes = torch.tensor(rows)
    purity, chance = prefix_purity(codes, categories)
    for level in range(len(SIZES)):
        groups = defaultdict(Counter)
        for row, category in zip(rows, categories, strict=True):
            if category is not None:
                groups[row[: level + 1]][category] += 1
        best, known = sum(max(group.values()) for group in groups.values()), sum(map(Counter.total, groups.values()))
        assert purity[level].item() == pytest.approx(best / known)
        least = max(Counter(c for c in categories if c is not None).values()) / known
        assert least - 1e-12 <= chance[level].item() <= 1 + 1e-12


def test_purity_by_chance_is_the_mean_over_all_deals():
    codes, labels = torch.tensor([[0], [0], [1], [1]]), ["a", "a", "b", "b"]
    deals = list(permutations(labels))
    exact = sum(max(deal[:2].count("a"), deal[:2].count("b")) * 2 / 4 for deal in deals) / len(deals)
    assert exact == pytest.approx(2 / 3)
    # 5 deals a seed, each 1 or 1/2.
    chances = [prefix_purity(codes, labels, seed=seed)[1].item() for seed in range(200)]
    assert sum(chances) / 200 == pytest.approx(exact, abs=4 * 0.236 / math.sqrt(1000))


@given(ROWS.filter(lambda rows: len(rows) > 1), st.randoms())
@settings(max_examples=60, deadline=None)
def test_pairs_by_shared_prefix(rows, random):
    codes = torch.tensor(rows)
    pairs = [random.choices(range(len(rows)), k=2) for _ in range(9)]
    every = list(combinations(range(len(rows)), 2))
    for level in range(len(SIZES)):
        length = level + 1
        for chosen, measured in (
            (pairs, pairs_by_shared_prefix(codes, np.array(pairs))),
            (every, random_pairs_by_shared_prefix(codes)),
        ):
            expected = sum(rows[a][:length] == rows[b][:length] for a, b in chosen) / len(chosen)
            assert measured[level].item() == pytest.approx(expected)


def test_more_refusals():
    codes = torch.tensor([[0], [1]])
    with pytest.raises(ValueError, match="each of the 2 items, got 1"):
        prefix_purity(codes, ["a"])
    with pytest.raises(ValueError, match="isn't `None`"):
        prefix_purity(codes, [None, None])
    for pairs in (np.empty((0, 2), dtype=int), np.array([1, 2])):
        with pytest.raises(ValueError, match=r"`pairs` must have shape \(num_pairs, 2\)"):
            pairs_by_shared_prefix(codes, pairs)
    with pytest.raises(ValueError, match="two items"):
        random_pairs_by_shared_prefix(codes[:1])
