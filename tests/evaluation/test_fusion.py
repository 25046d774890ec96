# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_hf.evaluation import reciprocal_rank_fusion


LIST = st.lists(st.integers(0, 9), max_size=6, unique=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LIST, LIST, LIST), min_size=1, max_size=3), st.integers(1, 12), st.integers(0, 60))
def test_against_exact_sums(rows, top_k, k):
    fused = reciprocal_rank_fusion([list(lists) for lists in zip(*rows, strict=True)], top_k=top_k, k=k)
    for lists, result in zip(rows, fused, strict=True):
        score = {
            item: sum(Fraction(1, k + ranked.index(item) + 1) for ranked in lists if item in ranked)
            for item in set().union(*lists)
        }
        assert len(result) == len(set(result)) == min(top_k, len(score))
        # Rounding may swap exact ties; nothing better is left out, and no worse item stands before a better one.
        assert [score[item] for item in result] == sorted(score.values(), reverse=True)[:top_k]


def test_one_list_stays_as_it_is_and_repeats_count_once():
    assert reciprocal_rank_fusion([[[3, 1, 2]]], top_k=2) == [[3, 1]]
    assert reciprocal_rank_fusion([[["a", "a", "b"]], [["b"]]], k=0) == [["b", "a"]]


def test_refusals():
    with pytest.raises(ValueError, match="`rankings`"):
        reciprocal_rank_fusion([[[1]], [[1], [2]]])
    with pytest.raises(ValueError, match="`rankings`"):
        reciprocal_rank_fusion([])
    with pytest.raises(ValueError, match="`top_k`"):
        reciprocal_rank_fusion([[[1]]], top_k=0)
