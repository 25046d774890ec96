# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import itertools
import json
import random
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from forge_hf import SemanticIdCatalog
from forge_hf.errors import CorruptCatalogError, FingerprintMismatchError, ForgeError, InvalidCodesError
from forge_hf.generation import PrefixTable, prefix_lookup


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


@st.composite
def wide_catalogs(draw):
    """Codebook sizes at the ends of the integer types, and codes at both ends of each codebook, often shared."""
    ends = [1, 2, 255, 256, 257, 2**15 - 1, 2**15, 2**15 + 1, 2**16 - 1, 2**16, 2**16 + 1]
    sizes = draw(st.lists(st.sampled_from(ends), min_size=1, max_size=7))
    return sizes, draw(st.integers(1, 100)), draw(st.integers(0, 2**20))


@settings(max_examples=40, deadline=None)
@example(([256] * 64, 60, 0))  # 512 bits
@example(([2**15 + 1] * 2, 300, 1))  # 31 bits
@example(([2**15, 2**16], 300, 1))
@example(([2**16] * 4, 300, 2))  # 64 bits
@example(([2**16 + 1] * 5, 300, 3))  # 81 bits, and up to 100 children a node
@example(([2**16, 1, 1, 2**16, 2**16, 2**16, 2], 300, 4))
@given(wide_catalogs())
def test_wide_codes_equal_a_dictionary_trie(catalog):
    sizes, num_items, seed = catalog
    choose = random.Random(seed)

    def row():
        start = choose.choice(rows)[: choose.randrange(len(sizes) + 1)] if rows else ()
        codes = (choose.choice([0, size - 1, choose.randrange(size)]) for size in sizes[len(start) :])
        return *start, *codes

    rows = []
    for _ in range(num_items):
        rows.append(row())
    table = PrefixTable(torch.tensor(rows), sizes)
    other_device = PrefixTable(torch.tensor(rows), sizes)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(prefix_lookup, "_has_arrays", lambda device: False)
        assert other_device.step_lookup is not None
    leaves = sorted(set(rows))
    assert table.leaf_codes(torch.arange(table.num_leaves)).tolist() == [list(leaf) for leaf in leaves]
    offsets = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    others = [row() for _ in range(50)]
    for depth in range(len(sizes) + 1):
        prefixes = sorted({leaf[:depth] for leaf in leaves})
        number = {prefix: node for node, prefix in enumerate(prefixes)}
        asked = [codes[:depth] for codes in rows + others]
        tokens = torch.tensor(asked, dtype=torch.int64).view(len(asked), depth) + offsets[:depth]
        expected = [number.get(prefix, -1) for prefix in asked]
        assert table.lookup(tokens).tolist() == other_device.lookup(tokens).tolist() == expected
        if depth:
            # one token more in each row that is a code of another level, of none, or no token at all
            wrong, column = tokens.clone(), choose.randrange(depth)
            here = range(int(offsets[column]), int(offsets[column]) + sizes[column])
            for line in range(len(wrong)):
                token = choose.choice([-1, -9, sum(sizes), 2**40, choose.randrange(sum(sizes))])
                wrong[line, column] = token if token not in here else -1
            assert table.lookup(wrong).tolist() == other_device.lookup(wrong).tolist() == [-1] * len(wrong)
        nodes = torch.arange(len(prefixes))
        results = [table.lookup(tokens), table.leaves_of(torch.arange(num_items)), *table.items(nodes)]
        if depth:
            results += [table.parent(depth, nodes), table.last_tokens(depth, nodes)]
        if depth < len(sizes):
            results += [*table.child_range(depth, nodes), *table.children(depth, nodes)[:2]]
        assert {result.dtype for result in results} == {torch.int64}
        if depth:
            parents = list(dict.fromkeys(prefix[:-1] for prefix in prefixes))
            number_of_parent = dict(zip(parents, range(len(parents)), strict=True))
            assert table.parent(depth, nodes).tolist() == [number_of_parent[prefix[:-1]] for prefix in prefixes]
            expected = [int(offsets[depth - 1]) + prefix[-1] for prefix in prefixes]
            assert table.last_tokens(depth, nodes).tolist() == expected
        if depth < len(sizes):
            degrees = Counter(prefix[:-1] for prefix in {leaf[: depth + 1] for leaf in leaves})
            assert table.degrees(depth, nodes).tolist() == [degrees[prefix] for prefix in prefixes]
    assert table.leaves_of(torch.arange(num_items)).tolist() == [leaves.index(codes) for codes in rows]


@settings(max_examples=40, deadline=None)
@example(full_trie, 0)
@example(one_branch, 1)
@example(([(0,)], [1]), 2)
@given(catalogs(), st.integers(0, 2**20))
def test_saved_moved_and_restricted_tables_are_what_they_should_be(catalog, seed):
    rows, sizes = catalog
    choose = random.Random(seed)
    table = PrefixTable(torch.tensor(rows), sizes, torch.tensor(choose.sample(range(sum(sizes) + 9), sum(sizes))))
    with tempfile.TemporaryDirectory() as folder:
        table.save_pretrained(folder)
        loaded = PrefixTable.from_pretrained(folder)
        assert [path.name for path in Path(folder).iterdir()] == ["prefix_table.safetensors"]
        assert loaded.num_bytes == table.num_bytes
        assert_same(loaded, table)
        # What is mapped into memory stays as it is when the file is replaced.
        PrefixTable(torch.zeros(1, 1, dtype=torch.int64), [1]).save_pretrained(folder)
        assert_same(loaded, table)
    kept = choose.sample(range(len(rows)), choose.randint(1, len(rows)))
    part = loaded.restrict(torch.tensor(kept))
    assert part.num_items == len(kept) and torch.equal(part.token_ids, table.token_ids)
    items = defaultdict(list)
    for row in sorted(kept):
        items[rows[row]].append(row)
    everything = torch.arange(part.num_leaves)
    assert part.leaf_codes(everything).tolist() == [list(leaf) for leaf in sorted(items)]
    found, counts = part.items(everything)
    assert [part.tolist() for part in found.split(counts.tolist())] == [items[leaf] for leaf in sorted(items)]
    leaves = [sorted(items).index(codes) if row in kept else -1 for row, codes in enumerate(rows)]
    assert part.leaves_of(torch.arange(len(rows))).tolist() == leaves
    with tempfile.TemporaryDirectory() as folder:
        part.save_pretrained(folder)
        assert_same(PrefixTable.from_pretrained(folder), part)
    # and once more, from what is left
    again = part.restrict(torch.tensor(kept[:1]))
    assert (again.items(torch.tensor([0]))[0].tolist(), again.leaf_codes(torch.tensor(0)).tolist()) == (
        kept[:1],
        list(rows[kept[0]]),
    )


def assert_same(table, other):
    assert (table.codebook_sizes, table.fingerprint) == (other.codebook_sizes, other.fingerprint)
    leaves = torch.arange(other.num_leaves)
    assert table.num_leaves == other.num_leaves
    assert torch.equal(table.leaf_tokens(leaves), other.leaf_tokens(leaves))
    for mine, theirs in zip(table.items(leaves), other.items(leaves), strict=True):
        assert torch.equal(mine, theirs)
    tokens = other.leaf_tokens(leaves)
    for depth in range(other.num_levels):
        nodes = table.lookup(tokens[:, :depth])
        assert torch.equal(nodes, other.lookup(tokens[:, :depth]))
        for mine, theirs in zip(table.children(depth, nodes), other.children(depth, nodes), strict=True):
            assert torch.equal(mine, theirs)


def test_few_bytes_an_item():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(8192, (300_000, 3), generator=generator)
    table = PrefixTable(codes, [8192] * 3)
    # 4 for the item's row, 4 for the prefix of two codes, 2 for the last code, and little for where children begin
    assert table.num_bytes < 11.5 * len(codes)
    leaves = table.leaves_of(torch.arange(len(codes)))
    assert torch.equal(table.leaf_codes(leaves), codes)
    assert torch.equal(table.lookup(table.leaf_tokens(leaves)), leaves)


def test_refuses_rows_that_it_does_not_hold():
    table = PrefixTable(torch.tensor([[0], [1], [1]]), [2])
    with pytest.raises(ValueError, match="`rows` must be one or more rows of the catalog of 3, got none"):
        table.restrict(torch.tensor([], dtype=torch.int64))
    with pytest.raises(ValueError, match="got 2 from -1 to 1"):
        table.restrict(torch.tensor([1, -1]))
    with pytest.raises(ValueError, match="got 1 from 3 to 3"):
        table.restrict(torch.tensor([3, 3]))
    with pytest.raises(ValueError, match=r"hold 2 that the table doesn't: \[0, 2\]"):
        table.restrict(torch.tensor([1])).restrict(torch.tensor([0, 1, 2]))
    assert table.leaves_of(torch.tensor([-1, -7, 2])).tolist() == [-1, -1, 1]


@pytest.fixture
def saved(tmp_path):
    """A folder with a catalog and its table, with the catalog."""
    catalog = SemanticIdCatalog.from_codes(
        ["a", "b", "c"], [[0, 1], [2, 0], [0, 1]], codebook_sizes=[3, 2], on_collision="keep"
    )
    table = PrefixTable(catalog.codes, catalog.layout.codebook_sizes)
    table.fingerprint = catalog.fingerprint
    catalog.save_pretrained(tmp_path)
    table.save_pretrained(tmp_path)
    return tmp_path, catalog


def test_refuses_the_table_of_another_catalog(saved):
    folder, catalog = saved
    other = SemanticIdCatalog.from_codes(["a", "b"], [[0, 1], [2, 0]], codebook_sizes=[3, 2])
    assert PrefixTable.from_pretrained(folder).fingerprint == catalog.fingerprint
    assert PrefixTable.from_pretrained(folder, catalog=catalog).num_items == 3
    with pytest.raises(FingerprintMismatchError, match="`catalog` has"):
        PrefixTable.from_pretrained(folder, catalog=other)
    other.save_pretrained(folder)
    with pytest.raises(FingerprintMismatchError, match="the catalog beside it has"):
        PrefixTable.from_pretrained(folder)
    assert PrefixTable.from_pretrained(folder, catalog=catalog).num_items == 3


def test_refuses_a_file_that_was_cut_short(saved):
    path = saved[0] / "prefix_table.safetensors"
    content = path.read_bytes()
    for length in [0, 3, 8, 20, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(CorruptCatalogError, match="prefix_table.safetensors"):
            PrefixTable.from_pretrained(saved[0])
    path.unlink()
    with pytest.raises(FileNotFoundError, match="prefix_table.safetensors"):
        PrefixTable.from_pretrained(saved[0])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format_version", 3, "of format 3"),
        ("codebook_sizes", [3, 3], "token_ids"),
        ("codebook_sizes", [], "describes no prefix table"),
        ("codebook_sizes", "32", "describes no prefix table"),
        ("num_items", 2, "order"),
        ("num_items", -1, "describes no prefix table"),
        ("num_items", 2.0, "describes no prefix table"),
        ("num_rows", 2, "describes no prefix table"),
        ("num_rows", 2**40, "order"),
        ("num_nodes", [1, 2, 3], "names"),
        ("num_nodes", [1, 2], "describes no prefix table"),
        ("num_nodes", None, "isn't a prefix table"),
        ("max_degrees", [2, 9, 2], "describes no prefix table"),
        ("fingerprint", 7, "describes no prefix table"),
        ("codes_checksum", 7, "describes no prefix table"),
    ],
)
def test_refuses_a_file_that_does_not_hold_what_it_says(saved, key, value, message):
    path = saved[0] / "prefix_table.safetensors"
    tensors = load_file(path)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]["forge_hf"])
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"forge_hf": json.dumps(metadata)})
    PrefixTable.from_pretrained(saved[0])
    metadata["prefix_table"][key] = value
    save_file(tensors, path, metadata={"forge_hf": json.dumps(metadata)})
    with pytest.raises(CorruptCatalogError, match=message):
        PrefixTable.from_pretrained(saved[0])


def test_refuses_other_tensors(saved):
    path = saved[0] / "prefix_table.safetensors"
    save_file({"order": torch.zeros(3, dtype=torch.int32)}, path)
    with pytest.raises(CorruptCatalogError, match="isn't a prefix table"):
        PrefixTable.from_pretrained(saved[0])


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
