# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import itertools
from collections import defaultdict

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forge_hf.errors import ForgeError, InvalidCodesError
from forge_hf.generation import PrefixTable


@st.composite
def catalogs(draw):
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    return draw(st.lists(row, min_size=1, max_size=40)), sizes


full_trie = (list(itertools.product(range(3), range(2), range(2))), [3, 2, 2])
one_branch = ([(4, 0, 3)] * 3, [5, 1, 4])


@settings(max_examples=60, deadline=None)
@example(full_trie)
@example(one_branch)
@example(([(0,)], [1]))
@given(catalogs())
def test_equals_a_dictionary_trie(catalog):
    rows, sizes = catalog
    generator = torch.Generator().manual_seed(len(rows))
    token_ids = torch.randperm(sum(sizes) + 10, generator=generator)[: sum(sizes)]
    table = PrefixTable(torch.tensor(rows), sizes, token_ids)
    offsets = [sum(sizes[:level]) for level in range(len(sizes))]

    def tokens_of(codes):
        return [int(token_ids[offsets[level] + code]) for level, code in enumerate(codes)]

    items = defaultdict(list)
    for number, row in enumerate(rows):
        items[row].append(number)
    leaves = sorted(items)
    assert (table.num_items, table.num_leaves, table.num_levels) == (len(rows), len(leaves), len(sizes))
    everything = torch.arange(len(leaves))
    assert table.leaf_codes(everything).tolist() == [list(leaf) for leaf in leaves]
    assert table.leaf_tokens(everything).tolist() == [tokens_of(leaf) for leaf in leaves]
    item_rows, counts = table.items(everything)
    assert [part.tolist() for part in item_rows.split(counts.tolist())] == [items[leaf] for leaf in leaves]

    for depth in range(len(sizes)):
        prefixes = sorted({leaf[:depth] for leaf in leaves})
        assert table.num_nodes(depth) == len(prefixes)
        # every prefix that could be written: the legal ones are numbered in order, the others are refused
        possible = list(itertools.product(*(range(size) for size in sizes[:depth])))
        found = table.lookup(torch.tensor([tokens_of(prefix) for prefix in possible]).view(len(possible), depth))
        expected = [prefixes.index(prefix) if prefix in prefixes else -1 for prefix in possible]
        assert found.tolist() == expected
        children = table.children(depth, torch.arange(len(prefixes)))
        below = sorted({leaf[: depth + 1] for leaf in leaves})
        for node, prefix in enumerate(prefixes):
            continuations = [child for child in below if child[:-1] == prefix]
            legal = children.legal[node]
            assert children.nodes[node][legal].tolist() == [below.index(child) for child in continuations]
            assert children.tokens[node][legal].tolist() == [tokens_of(child)[-1] for child in continuations]


def test_lookup_refuses_what_is_no_prefix():
    table = PrefixTable(torch.tensor([[0, 0], [1, 1]]), [2, 2], token_ids=torch.tensor([5, 6, 8, 9]))
    # unknown tokens, beyond the vocabulary, negative, a code of another level, a dead prefix that goes on legally
    assert table.lookup(torch.tensor([[7], [1000], [-1], [8]])).tolist() == [-1] * 4
    assert table.lookup(torch.tensor([[5, 9], [6, 9], [7, 9], [8, 8]])).tolist() == [-1, 1, -1, -1]
    with pytest.raises(ValueError, match="3 tokens"):
        table.lookup(torch.tensor([[5, 8, 8]]))


def test_dead_nodes_and_leaves_are_empty():
    table = PrefixTable(torch.tensor([[0, 0], [0, 1]]), [1, 2])
    children = table.children(1, torch.tensor([[-1, 0]]))
    assert children.legal.tolist() == [[[False, False], [True, True]]]
    assert not table.children(1, torch.tensor([-1])).legal.any()
    assert table.leaf_codes(torch.tensor([-1, 1])).tolist() == [[-1, -1], [0, 1]]
    rows, counts = table.items(torch.tensor([1, -1, 0, 1]))
    assert (rows.tolist(), counts.tolist()) == ([1, 0, 1], [1, 0, 1, 1])


def test_codes_wider_than_64_bits():
    # 8 levels of 2048 codes pack into 88 bits
    codes = torch.tensor([[2047] * 8, [0] * 8, [2047] * 7 + [0]])
    table = PrefixTable(codes, [2048] * 8)
    assert table.leaf_codes(torch.arange(3)).tolist() == sorted(codes.tolist())


def test_to_returns_a_table_of_the_same_content():
    table = PrefixTable(torch.tensor([[0, 1], [1, 0]]), [2, 2])
    assert table.to("cpu") is table
    moved = table.to("meta")
    assert moved.device.type == "meta" and table.device.type == "cpu"
    assert moved.num_leaves == 2 and moved.codebook_sizes == (2, 2)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(0, 2, dtype=torch.int64), "empty"),
        (torch.zeros(3, 3, dtype=torch.int64), r"\(3, 3\)"),
        (torch.zeros(3, 2), "float32"),
        (torch.tensor([[0, 1], [0, 2]]), "row 1, level 1"),
        (torch.tensor([[-1, 1]]), "-1 in row 0, level 0"),
    ],
)
def test_refuses_bad_codes(codes, message):
    with pytest.raises(InvalidCodesError, match=message) as caught:
        PrefixTable(codes, [2, 2])
    assert isinstance(caught.value, ForgeError)


@pytest.mark.parametrize("token_ids", [[0, 1, 2], [0, 1, 2, 2], [-1, 1, 2, 3]])
def test_refuses_bad_token_ids(token_ids):
    with pytest.raises(ValueError, match="`token_ids`"):
        PrefixTable(torch.tensor([[0, 1]]), [2, 2], torch.tensor(token_ids))
