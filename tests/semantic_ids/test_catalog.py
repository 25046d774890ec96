# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Tests of `SemanticIdCatalog` and of the collision strategies."""

import json
import time
import tracemalloc
from collections import defaultdict

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from forge_hf.errors import CorruptCatalogError, DuplicateItemError, InvalidCodesError, UnknownItemError
from forge_hf.semantic_ids import SemanticIdCatalog, SemanticIdLayout
from forge_hf.semantic_ids import catalog as catalog_module
from forge_hf.semantic_ids.item_ids import ItemIds
from forge_hf.semantic_ids.row_index import RowIndex, hash_texts


SIZES = [3, 300, 2]
IDS = st.one_of(
    st.lists(st.text(max_size=6), unique=True, min_size=1, max_size=30),
    st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=1, max_size=30),
)


@st.composite
def items(draw):
    ids = draw(IDS)
    # Few values, so that collisions are common.
    code = st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 256, 299]), st.integers(0, 1))
    return ids, [draw(code) for _ in ids]


def make(ids, codes, on_collision="keep"):
    return SemanticIdCatalog.from_codes(ids, codes, codebook_sizes=SIZES, on_collision=on_collision)


@given(items(), st.randoms())
@settings(max_examples=60, deadline=None)
def test_lookups_against_dictionaries(drawn, random):
    ids, codes = drawn
    catalog = make(ids, codes)
    assert catalog.item_ids == ids and catalog.codes.tolist() == [list(row) for row in codes]
    assert catalog.codes.dtype == torch.int64 and len(catalog) == len(ids)

    queries = [random.choice(ids) for _ in range(10)]
    table = dict(zip(ids, codes, strict=True))
    assert catalog.codes_for(queries).tolist() == [list(table[item]) for item in queries]
    assert catalog.indices_for(queries).tolist() == [ids.index(item) for item in queries]

    named = defaultdict(list)
    for item, row in zip(ids, codes, strict=True):
        named[row].append(item)
    every = [(a, b, c) for a in range(3) for b in (0, 1, 2, 255, 256, 257, 299) for c in range(2)]
    found = catalog.items_for(every)
    assert found == [named[row] for row in every]
    assert all(type(item) is type(ids[0]) for items in found for item in items)


@given(items())
@settings(max_examples=60, deadline=None)
def test_suffix_numbers_equal_codes_in_item_order(drawn):
    ids, codes = drawn
    catalog = make(ids, codes, on_collision="suffix")
    seen, expected = defaultdict(int), []
    for row in codes:
        expected.append([*row, seen[row]])
        seen[row] += 1
    assert catalog.codes.tolist() == expected
    assert catalog.layout == SemanticIdLayout([*SIZES, max(seen.values())])
    assert catalog.items_for(catalog.codes) == [[item] for item in ids]


@given(items(), st.randoms())
@settings(max_examples=40, deadline=None)
def test_fingerprint_ignores_order_and_notices_changes(drawn, random):
    ids, codes = drawn
    fingerprint = make(ids, codes).fingerprint
    shuffled = list(zip(ids, codes, strict=True))
    random.shuffle(shuffled)
    assert make(*zip(*shuffled, strict=True)).fingerprint == fingerprint

    changed = [list(row) for row in codes]
    changed[-1][1] = (changed[-1][1] + 1) % 300
    assert make(ids, changed).fingerprint != fingerprint
    other_layout = SemanticIdCatalog.from_codes(ids, codes, codebook_sizes=[3, 301, 2], on_collision="keep")
    assert other_layout.fingerprint != fingerprint
    other_ids = [*ids[:-1], "another item" if isinstance(ids[0], str) else sum(map(abs, ids)) % 2**62 + 1]
    if other_ids[-1] not in ids:
        assert make(other_ids, codes).fingerprint != fingerprint


def test_fingerprint_tells_ids_apart_and_is_stable():
    codes = [[0, 0, 0], [1, 1, 1]]
    assert make([1, 2], codes).fingerprint != make(["1", "2"], codes).fingerprint
    assert make(["a", "bc"], codes).fingerprint != make(["ab", "c"], codes).fingerprint
    # Written into models' configs: a release must not change these.
    assert make([1, 2], codes).fingerprint == "58ecde18c28cffea25977625a0c133fa"
    assert make(["1", "é"], codes).fingerprint == "193ea5f34663e0bd9bcc3d7944f0c34a"


@given(items())
@settings(max_examples=25, deadline=None)
def test_save_and_load(tmp_path_factory, drawn):
    ids, codes = drawn
    folder = tmp_path_factory.mktemp("catalog")
    catalog = make(ids, codes, on_collision="suffix")
    catalog.save_pretrained(folder)
    loaded = SemanticIdCatalog.from_pretrained(folder)
    assert loaded.item_ids == ids and loaded.layout == catalog.layout and loaded.on_collision == "suffix"
    assert torch.equal(loaded.codes, catalog.codes) and loaded.fingerprint == catalog.fingerprint
    assert {path.name for path in folder.iterdir()} == {"semantic_ids.json", "semantic_ids.safetensors"}
    assert load_file(folder / "semantic_ids.safetensors")["codes"].dtype == torch.int32


@given(items())
@settings(max_examples=25, deadline=None)
def test_dataset_round_trip(drawn):
    ids, codes = drawn
    catalog = make(ids, codes)
    dataset = catalog.to_dataset()
    assert dataset.column_names == ["item_id", "codebook_lv1", "codebook_lv2", "codebook_lv3"]
    again = SemanticIdCatalog.from_dataset(dataset, codebook_sizes=SIZES)
    assert again.fingerprint == catalog.fingerprint and again.item_ids == ids


def test_from_dataset_of_plain_python_values():
    dataset = Dataset.from_dict(
        {"codebook_lv2": [5, 5], "item_id": ["x", "y"], "title": ["", ""], "codebook_lv1": [1, 1]}
    )
    catalog = SemanticIdCatalog.from_dataset(dataset, codebook_sizes=[2, 8], on_collision="suffix")
    assert catalog.codes.tolist() == [[1, 5, 0], [1, 5, 1]]


def test_from_dataset_refusals():
    dataset = Dataset.from_dict({"item_id": ["x", "y"], "codebook_lv1": [1, 0], "codebook_lv2": [0, 1]})
    with pytest.raises(InvalidCodesError, match="codebook_lv3"):
        SemanticIdCatalog.from_dataset(dataset, codebook_sizes=[2, 2, 2])
    with pytest.raises(InvalidCodesError, match="1 `codebook_sizes`"):
        SemanticIdCatalog.from_dataset(dataset, codebook_sizes=[2])
    with pytest.raises(InvalidCodesError, match="columns .*item_id.* got"):
        SemanticIdCatalog.from_dataset(dataset.rename_column("item_id", "id"), codebook_sizes=[2, 2])
    for codes in ([1.0], [0.5], ["1"], [None]):
        rows = Dataset.from_dict({"item_id": ["x"], "codebook_lv1": codes})
        with pytest.raises(InvalidCodesError, match="integers in codebook_lv1|1 without codes"):
            SemanticIdCatalog.from_dataset(rows, codebook_sizes=[2])
    rows = Dataset.from_dict({"item_id": ["x", None], "codebook_lv1": [1, 1]})
    with pytest.raises(InvalidCodesError, match="1 rows without an item id"):
        SemanticIdCatalog.from_dataset(rows, codebook_sizes=[2])
    rows = Dataset.from_dict({"item_id": ["x", "y"], "codebook_lv1": [0.5, None]})
    with pytest.raises(InvalidCodesError, match="integers in codebook_lv1"), pytest.warns(UserWarning):
        SemanticIdCatalog.from_dataset(rows, codebook_sizes=[2])


def test_item_sid_files_of_al_gr(tmp_path):
    """The form of AL-GR's item_info files: base62 ids, codes that may be empty, other columns."""
    path = tmp_path / "tiny_item_sid_base.csv"
    path.write_text("base62_string,codebook_lv1,codebook_lv2,price\n1aZ,0,8191,3\nb,,,1\n0c,12,7,2\n1d,12,,2\n")
    dataset = Dataset.from_csv(str(path), cache_dir=str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="Left out 2 of 4 items"):
        catalog = SemanticIdCatalog.from_dataset(dataset, codebook_sizes=[8192, 8192])
    assert catalog.item_ids == ["1aZ", "0c"] and catalog.codes.tolist() == [[0, 8191], [12, 7]]


def test_refused_items():
    codes = [[0, 0, 0]] * 3
    with pytest.raises(DuplicateItemError, match=r"1 occur more than once: 'a'"):
        make(["a", "b", "a"], codes)
    with pytest.raises(DuplicateItemError, match=r"1 occur more than once: 7"):
        make([7, 7, 7], codes)
    for ids in ([1, "1", 2], [True, False, 2], [1.0, 2.0, 3.0], [None, 1, 2], [b"a", b"b", b"c"]):
        with pytest.raises(ValueError, match="all `str` or all `int`"):
            make(ids, codes)
    with pytest.raises(ValueError, match="64 bits"):
        make([2**63, 1, 2], codes)
    with pytest.raises(InvalidCodesError, match="each of the 2 `item_ids`"):
        make([1, 2], codes)
    with pytest.raises(InvalidCodesError, match="at least one item"):
        make([], np.empty((0, 3), dtype=np.int64))
    with pytest.raises(InvalidCodesError, match="row 0 level 1: 3"):
        make([1], [[3, 0, 0]])
    with pytest.raises(ValueError, match=r"one of \['keep', 'knn', 'random', 'suffix'\], got 'sufix'"):
        make([1], [[0, 0, 0]], on_collision="sufix")


def test_unknown_items():
    catalog = make([5, 3, 9], [[0, 0, 0]] * 3)
    for queries in ([3, 4], [-1], [10], [2**62]):
        with pytest.raises(UnknownItemError, match="names 1 items that aren't in the catalog of 3"):
            catalog.codes_for(queries)
    with pytest.raises(UnknownItemError, match=r"7 items .*: 10, 11, 12, 13, 14, \.\.\."):
        catalog.codes_for([5, 10, 11, 12, 13, 14, 15, 16, 10])
    with pytest.raises(UnknownItemError, match="are int, got str such as '5'"):
        catalog.codes_for(["5"])
    with pytest.raises(UnknownItemError) as raised:
        SemanticIdCatalog.from_codes(["a"], [[0]], codebook_sizes=[1]).codes_for(["x" * 10**6])
    assert len(str(raised.value)) < 300
    for queries in ([5, True], [None], [5, "5"], "5"):
        with pytest.raises(UnknownItemError):
            catalog.codes_for(queries)
    assert catalog.codes_for([]).shape == (0, 3)
    assert catalog.codes_for(np.array([9, 9])).shape == (2, 3)
    assert catalog.codes_for(torch.tensor([9])).shape == (1, 3)

    names = make(["a", "a\0", "b"], [[0, 0, 0], [1, 0, 0], [2, 0, 0]])
    assert names.codes_for(["a\0"]).tolist() == [[1, 0, 0]]
    with pytest.raises(UnknownItemError, match="are str, got int such as 1"):
        names.codes_for([1])


def test_items_for_refuses_codes_of_another_layout():
    catalog = make([1], [[0, 0, 0]])
    with pytest.raises(InvalidCodesError, match="row 0 level 1: 5"):
        catalog.items_for([[5, 0, 0]])
    with pytest.raises(InvalidCodesError, match="3 levels"):
        catalog.items_for([[0, 0]])
    with pytest.raises(InvalidCodesError, match=r"shape \(n, 3\)"):
        catalog.items_for([0, 0, 0])


@pytest.mark.parametrize("ids", [[1, 2, 3], ["a", "bb", "é"]])
def test_corrupt_files(tmp_path, ids):
    make(ids, [[0, 1, 0], [1, 0, 1], [2, 299, 0]]).save_pretrained(tmp_path)
    json_file, codes_file = tmp_path / "semantic_ids.json", tmp_path / "semantic_ids.safetensors"
    config, raw = json.loads(json_file.read_text()), codes_file.read_bytes()
    tensors = {name: tensor.clone() for name, tensor in load_file(codes_file).items()}  # no view of what is rewritten

    def refuses(match):
        with pytest.raises(CorruptCatalogError, match=match) as caught:
            SemanticIdCatalog.from_pretrained(tmp_path)
        assert str(tmp_path) in str(caught.value)

    for cut in (0, 4, 20, len(raw) // 2, len(raw) - 1):
        codes_file.write_bytes(raw[:cut])
        refuses("semantic_ids.safetensors is truncated")
    for name, tensor in tensors.items():
        save_file({key: value for key, value in tensors.items() if key != name}, codes_file)
        refuses(f"must hold '{name}' .* got nothing")
        save_file({**tensors, name: tensor.double()}, codes_file)
        refuses(f"must hold '{name}' .* got F64")
        save_file({**tensors, name: tensor[:-1].clone()}, codes_file)
        refuses("semantic_ids.safetensors")
        save_file({**tensors, name: tensor.flip(0)}, codes_file)
        refuses("semantic_ids.safetensors")
    save_file({**tensors, "codes": tensors["codes"] + 1}, codes_file)
    refuses("row 1 level 3: 2")
    save_file({**tensors, "codes": tensors["codes"].clamp(max=1)}, codes_file)
    refuses("has the fingerprint")
    codes_file.write_bytes(raw)

    for key in config:
        json_file.write_text(json.dumps({name: value for name, value in config.items() if name != key}))
        refuses(f"must hold '{key}'")
        json_file.write_text(json.dumps({**config, key: None}))
        refuses(f"must hold '{key}'")
    for key, value, match in [
        ("format_version", 2, "of format 2"),
        ("num_items", True, "'num_items' of type int"),
        ("num_items", 4, "got I32 of shape"),
        ("codebook_sizes", [3, "300", 2], "positive integers"),
        ("codebook_sizes", [3, 10**15, 2], "1,000,000,000,000,005 codes in all"),
        ("num_items", 10**15, "of shape"),
        ("quality", {"padding": "x" * 2**20}, "bytes; a catalog's JSON has a few thousand"),
        ("codebook_sizes", [3, 300], "semantic_ids.safetensors must hold 'codes'"),
        ("codebook_sizes", [3, 400, 2], "has the fingerprint"),
        ("item_id_type", "float", "item_id_type"),
        ("fingerprint", "0" * 32, "has the fingerprint"),
    ]:
        json_file.write_text(json.dumps({**config, key: value}))
        refuses(match)
    for text in ("", "{", "[1]", "\xff"):
        json_file.write_bytes(text.encode("latin-1"))
        refuses("semantic_ids.json")
    json_file.write_text(json.dumps(config))
    assert SemanticIdCatalog.from_pretrained(tmp_path).item_ids == ids


@given(items(), st.randoms())
@settings(max_examples=40, deadline=None)
def test_a_large_catalog_is_searched_in_its_file(tmp_path_factory, drawn, random):
    ids, codes = drawn
    folder = tmp_path_factory.mktemp("catalog")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog_module, "MIN_INDEXED_ITEMS", 1)
        make(ids, codes).save_pretrained(folder)
        # Nothing is hashed or sorted when a saved index is there.
        patch.setattr(RowIndex, "build", None)
        patch.setattr(ItemIds, "order", None)
        loaded = SemanticIdCatalog.from_pretrained(folder)
        queries = [random.choice(ids) for _ in range(10)]
        assert loaded.indices_for(queries).tolist() == [ids.index(item) for item in queries]
        assert loaded.codes_for(queries).tolist() == [list(codes[ids.index(item)]) for item in queries]
        assert loaded.items_for(codes) == [
            [item for item, other in zip(ids, codes, strict=True) if other == row] for row in codes
        ]
        assert loaded.item_ids_at(range(len(ids))) == loaded.item_ids == ids
        unknown = "nothing of the kind" if isinstance(ids[0], str) else 2**62 + 12345
        if unknown not in ids:
            with pytest.raises(UnknownItemError):
                loaded.codes_for([unknown])
        # What was loaded can be saved again, and is the same, byte for byte.
        again = tmp_path_factory.mktemp("again")
        loaded.save_pretrained(again)
    for name in ("semantic_ids.json", "semantic_ids.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("ids", [range(40), [f"item {n}" * (n % 3) + str(n) for n in range(40)]])
def test_no_damage_goes_unnoticed(tmp_path, monkeypatch, ids):
    monkeypatch.setattr(catalog_module, "MIN_INDEXED_ITEMS", 1)
    catalog = make(list(ids), [[n % 3, n, 0] for n in range(40)])
    catalog.save_pretrained(tmp_path)
    path = tmp_path / "semantic_ids.safetensors"
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    noticed = 0
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            loaded = SemanticIdCatalog.from_pretrained(tmp_path)
        except CorruptCatalogError:
            noticed += 1
        else:  # a name of the metadata that nobody reads: all is checked in another way
            assert place < start and loaded.item_ids == catalog.item_ids and torch.equal(loaded.codes, catalog.codes)
            assert loaded.items_for(catalog.codes) == catalog.items_for(catalog.codes)
            del loaded
    assert noticed > 0.9 * len(range(0, len(content), 3))


def test_files_of_two_catalogs_are_told_apart(tmp_path):
    codes = [[0, 1, 0], [1, 0, 1]]
    for name, rows in (("one", codes), ("two", codes[::-1])):
        make([1, 2], rows).save_pretrained(tmp_path / name)
    (tmp_path / "one" / "semantic_ids.json").replace(tmp_path / "two" / "semantic_ids.json")
    with pytest.raises(CorruptCatalogError, match="has the fingerprint"):
        SemanticIdCatalog.from_pretrained(tmp_path / "two")


@pytest.mark.parametrize("damage", ["rows", "starts"])
def test_an_index_that_leads_out_of_the_file_is_refused(tmp_path, monkeypatch, damage):
    # Its checksum is right: somebody has made this file.
    monkeypatch.setattr(catalog_module, "MIN_INDEXED_ITEMS", 1)
    catalog = make([1, 2, 3], [[0, 1, 0], [1, 0, 1], [2, 2, 0]])
    array = getattr(catalog._code_index, damage)
    array[1] = 7
    catalog.save_pretrained(tmp_path)
    with pytest.raises(CorruptCatalogError, match="code_index names rows that there aren't"):
        SemanticIdCatalog.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", [int, str])
def test_files_of_before_checksums_are_read_and_checked(tmp_path, kind):
    ids = [kind(n) for n in (5, 3, 9)]
    catalog = SemanticIdCatalog.from_codes(
        ids, [[0, 1, 0], [0, 1, 0], [2, 2, 0]], codebook_sizes=SIZES, on_collision="random", capacity=1
    )
    catalog.save_pretrained(tmp_path)
    path = tmp_path / "semantic_ids.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    loaded = SemanticIdCatalog.from_pretrained(tmp_path)
    assert loaded.item_ids == ids and torch.equal(loaded.codes, catalog.codes)
    assert torch.equal(loaded.original_codes, catalog.original_codes)
    save_file(tensors | {"original_codes": tensors["original_codes"].flip(0)}, path, metadata={"format": "pt"})
    with pytest.raises(CorruptCatalogError, match="other original codes"):
        SemanticIdCatalog.from_pretrained(tmp_path)


def test_loading_makes_no_copy(tmp_path):
    ids = [f"item {n}" for n in range(200_000)]
    codes = np.random.default_rng(0).integers(0, 256, (200_000, 3))
    SemanticIdCatalog(ids, codes, SemanticIdLayout([256] * 3)).save_pretrained(tmp_path)
    size = (tmp_path / "semantic_ids.safetensors").stat().st_size
    tracemalloc.start()
    try:
        catalog = SemanticIdCatalog.from_pretrained(tmp_path)
        assert catalog.codes_for(["item 7", "item 199999"]).tolist() == codes[[7, 199_999]].tolist()
        assert "item 7" in catalog.items_for(codes[7:8])[0]
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < size / 50 and peak < size / 5


@pytest.mark.parametrize("ids", [["a", "b\ud800"], ["\udfff", "a"]])
def test_ids_that_no_file_could_hold_are_refused(ids):
    with pytest.raises(ValueError, match="UTF-8 can't hold"):
        make(ids, [[0, 0, 0]] * 2)
    with pytest.raises(UnknownItemError, match="UTF-8 can't hold"):
        make(["a", "b"], [[0, 0, 0]] * 2).codes_for(ids)


def test_duplicates_in_a_saved_catalog(tmp_path):
    make([1, 2], [[0, 0, 0]] * 2).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "semantic_ids.safetensors")
    save_file({**tensors, "item_ids": torch.tensor([1, 1])}, tmp_path / "semantic_ids.safetensors")
    with pytest.raises(CorruptCatalogError, match="must be unique"):
        SemanticIdCatalog.from_pretrained(tmp_path)


def test_missing_files(tmp_path):
    for source in (tmp_path, tmp_path / "nowhere", "./nowhere/at/all"):
        with pytest.raises(FileNotFoundError):
            SemanticIdCatalog.from_pretrained(source)
    with pytest.raises(FileNotFoundError, match=r"no semantic_ids.json and no semantic_ids.safetensors"):
        SemanticIdCatalog.from_pretrained(tmp_path)


def test_interrupted_save_leaves_the_old_catalog(tmp_path, monkeypatch):
    old = make([1, 2], [[0, 0, 0]] * 2)
    old.save_pretrained(tmp_path)

    def cut_short(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(catalog_module, "save_file", cut_short)
    with pytest.raises(OSError, match="disk full"):
        make([1, 2], [[1, 1, 1]] * 2).save_pretrained(tmp_path)
    assert SemanticIdCatalog.from_pretrained(tmp_path).fingerprint == old.fingerprint
    assert len(list(tmp_path.iterdir())) == 2


def test_many_levels():
    # 64 levels of 256 codes: more than any integer key could hold.
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(256, (200, 64), generator=generator)
    codes[100:] = codes[:100]
    catalog = SemanticIdCatalog.from_codes(range(200), codes, codebook_sizes=[256] * 64, on_collision="keep")
    assert catalog.items_for(codes[:100]) == [[row, row + 100] for row in range(100)]


def test_texts_are_hashed_by_their_bytes_alone(monkeypatch):
    texts = ["", "a", "a\0", "\0a", "aa", "é", "a" * 1000, "ab", "ba"] * 3
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)])
    hashes = hash_texts(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)
    assert len(set(hashes.tolist())) == 9 and np.array_equal(hashes[:9], hashes[9:18])
    # However many are hashed at once, and by the polynomial written out.
    monkeypatch.setattr("forge_hf.semantic_ids.row_index._CHUNK", 2)
    assert np.array_equal(hashes, hash_texts(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets))
    for text, value in zip(encoded, hashes.tolist(), strict=True):
        number = sum((byte + 1) * pow(0x9E3779B97F4A7C15, n + 1, 2**64) for n, byte in enumerate(text)) % 2**64
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            number = (number ^ (number >> shift)) * factor % 2**64
        assert value == number ^ (number >> 31)


def test_a_million_items_take_seconds():
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 100, (1_000_000, 3))
    start = time.process_time()
    catalog = SemanticIdCatalog.from_codes(range(1_000_000), codes, codebook_sizes=[256] * 3, on_collision="suffix")
    catalog.codes_for(catalog.item_ids)
    catalog.items_for(catalog.codes[:1000])
    assert catalog.fingerprint
    assert time.process_time() - start < 15  # 2 s, where nothing else runs
