# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Tests of the quality measures, each against its definition in plain Python."""

import math
from collections import Counter

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
    prefix_collision_rates,
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
        with pytest.raises(ValueError, match="empty"):
            measure(empty)
