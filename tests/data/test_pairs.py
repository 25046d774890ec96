# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""ItemPairs: ids to rows against a dictionary, sequences against a loop, files, refusals."""

import gzip
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset, config
from hypothesis import given
from hypothesis import strategies as st

from forge_hf.data import ItemEmbeddings, ItemPairs, adjacent_pairs, leave_one_out
from forge_hf.data.pairs import read_pairs, read_training_sequences
from forge_hf.errors import UnknownItemError


TABLE = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
TEXT_IDS = ["b", "aa", "7", "c", "é", "d"]
NUMBERS = [30, 10, -4, 2**40, 7, 0]


@pytest.mark.parametrize("ids", [TEXT_IDS, NUMBERS, range(6), range(10, 22, 2), np.array(NUMBERS), np.array(TEXT_IDS)])
def test_ids_become_rows(ids):
    items = ItemEmbeddings(TABLE, ids)
    expected = [[0, 5], [3, 1], [1, 3], [4, 2]]
    pairs = [[ids[left], ids[right]] for left, right in expected]
    given = [pairs, np.array(pairs), np.array(pairs, dtype=object)]
    for form in given if isinstance(pairs[0][0], str) else [*given, torch.tensor(pairs)]:
        found = ItemPairs(items, form)
        assert found.rows.tolist() == expected and found.rows.dtype == np.int32 and len(found) == 4


def test_a_batch_is_both_sides_in_order():
    pairs = ItemPairs.from_rows(ItemEmbeddings(TABLE), [[0, 5], [3, 1], [5, 0]])
    batch = pairs.__getitems__([2, 0, 2, 1])
    assert torch.equal(batch["embeddings"], TABLE[[5, 0, 5, 3]]) and torch.equal(
        batch["positives"], TABLE[[0, 5, 0, 1]]
    )
    assert torch.equal(pairs[1]["positives"], TABLE[1])


def test_unknown_items_are_named_before_any_work():
    items = ItemEmbeddings(TABLE, TEXT_IDS)
    with pytest.raises(UnknownItemError, match=r"^7 items of the pairs are not in `items`: 'x0', .*'x4', …\.$"):
        ItemPairs(items, [["b", f"x{i}"] for i in range(7)])
    with pytest.raises(UnknownItemError, match="such as 'b', but those of the pairs are int64, such as 1"):
        ItemPairs(items, [[1, 2]])
    with pytest.raises(UnknownItemError, match=r"1 items .*: 6\."):
        ItemPairs(ItemEmbeddings(TABLE), [[0, 6]])
    with pytest.raises(IndexError, match=r"must be in \[0, 6\), but span -1 to 2"):
        ItemPairs.from_rows(items, [[-1, 2]])


@pytest.mark.parametrize("pairs", [[], [1, 2], [[1, 2, 3]], np.zeros((0, 2), dtype=int)])
def test_wrong_shapes(pairs):
    with pytest.raises(ValueError, match=r"shape \(num_pairs, 2\)"):
        ItemPairs(ItemEmbeddings(TABLE), pairs)


def test_wrong_types():
    with pytest.raises(TypeError, match="strings or integers, none missing"):
        ItemPairs(ItemEmbeddings(TABLE), [[0.5, 1.0]])
    with pytest.raises(TypeError, match="all strings or all integers"):
        ItemPairs(ItemEmbeddings(TABLE, ["a", 1, 2, 3, 4, 5]), [[1, 2]])
    with pytest.raises(TypeError, match="`rows` must be integers"):
        ItemPairs.from_rows(ItemEmbeddings(TABLE), [[0.0, 1.0]])


def test_pairs_of_an_item_with_itself():
    with pytest.warns(UserWarning, match="Left out 2 of 3 pairs") as caught:
        pairs = ItemPairs(ItemEmbeddings(TABLE), [[1, 1], [2, 3], [0, 0]])
    assert pairs.rows.tolist() == [[2, 3]] and len(caught) == 1
    with pytest.raises(ValueError, match="no pair of two different items"):
        ItemPairs(ItemEmbeddings(TABLE), [[1, 1]])


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), min_size=1, max_size=8))
def test_pairs_of_sequences(sequences):
    expected = {tuple(sorted(pair)) for items in sequences for pair in zip(items, items[1:], strict=False)}
    expected = {pair for pair in expected if pair[0] != pair[1]}
    dataset = Dataset.from_dict(
        {"user_id": range(len(sequences)), "items": [[TEXT_IDS[i] for i in s] for s in sequences]}
    )
    items = ItemEmbeddings(TABLE, TEXT_IDS)
    if not expected:
        with pytest.raises(ValueError, match="no two different items side by side"):
            ItemPairs.from_sequences(items, dataset)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an item bought twice in a row is nothing to warn of
        pairs = ItemPairs.from_sequences(items, dataset)
    assert len(pairs) == len(expected) and {tuple(sorted(row)) for row in pairs.rows.tolist()} == expected


def test_pairs_of_the_training_part():
    sequences = Dataset.from_dict({"user_id": [1], "items": [[0, 1, 2, 3, 4]]})
    pairs = ItemPairs.from_sequences(ItemEmbeddings(TABLE), leave_one_out(sequences)["train"])
    assert pairs.rows.tolist() == [[0, 1], [1, 2]]
    with pytest.raises(UnknownItemError, match=": 9"):
        ItemPairs.from_sequences(ItemEmbeddings(TABLE), Dataset.from_dict({"user_id": [1], "items": [[0, 9]]}))


def test_files(tmp_path):
    items, ids = ItemEmbeddings(TABLE, TEXT_IDS), [["aa", "d"], ["c", "b"]]
    table = Dataset.from_dict({"left": ["aa", "c"], "right": ["d", "b"], "count": [1, 2]})
    table.remove_columns("count").to_parquet(tmp_path / "pairs.parquet")
    table.remove_columns("count").to_csv(tmp_path / "pairs.csv")
    table.remove_columns("count").save_to_disk(tmp_path / "pairs")
    np.save(tmp_path / "pairs.npy", np.array(ids))
    for name in ("pairs.parquet", "pairs.csv", "pairs", "pairs.npy"):
        assert ItemPairs.from_file(items, tmp_path / name).rows.tolist() == [[1, 5], [3, 0]]
    table.to_parquet(tmp_path / "three.parquet")
    with pytest.raises(ValueError, match=r"two columns of item ids, but has \['left', 'right', 'count'\]"):
        ItemPairs.from_file(items, tmp_path / "three.parquet")
    with pytest.raises(FileNotFoundError):
        ItemPairs.from_file(items, tmp_path / "none.parquet")
    np.save(tmp_path / "objects.npy", np.array(ids, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        ItemPairs.from_file(items, tmp_path / "objects.npy")


@pytest.mark.parametrize("form", ["csv", "tsv", "csv.gz", "parquet", "npy", "jsonl"])
def test_ids_that_look_like_something_else_stay_texts(tmp_path, form):
    ids = ["NA", "007", "1e5", "null", "nan", "7"]
    left, right = ids[:3], ids[3:]
    path = tmp_path / f"pairs.{form}"
    if form in ("csv", "tsv", "csv.gz"):
        separator = "\t" if form == "tsv" else ","
        lines = [separator.join(pair) for pair in [("a", "b"), *zip(left, right, strict=True)]]
        text = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(text) if form == "csv.gz" else text)
    elif form == "parquet":
        Dataset.from_dict({"a": left, "b": right}).to_parquet(path)
    elif form == "jsonl":
        Dataset.from_dict({"a": left, "b": right}).to_json(path)
    else:
        np.save(path, np.array([left, right]).T)
    assert ItemPairs.from_file(ItemEmbeddings(TABLE, ids), path).rows.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_texts_and_integers_that_are_written_alike(tmp_path):
    np.save(tmp_path / "numbers.npy", np.array([[1, 2], [3, 4]]))
    (tmp_path / "texts.csv").write_text("a,b\n1,2\n3,4\n")
    for name in ("numbers.npy", "texts.csv"):
        for ids in (range(6), [*map(str, range(6))]):
            pairs = ItemPairs.from_file(ItemEmbeddings(TABLE, ids), tmp_path / name)
            assert pairs.rows.tolist() == [[1, 2], [3, 4]]
    (tmp_path / "texts.csv").write_text("a,b\n1,2\n007,4\n")  # 007 is not how 7 is written
    with pytest.raises(UnknownItemError, match="string"):
        ItemPairs.from_file(ItemEmbeddings(TABLE), tmp_path / "texts.csv")


def test_missing_ids_and_malformed_rows_of_files(tmp_path):
    items = ItemEmbeddings(TABLE, TEXT_IDS)
    Dataset.from_dict({"a": ["b", None], "b": ["c", "d"]}).to_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(ValueError, match="1 missing"):
        ItemPairs.from_file(items, tmp_path / "pairs.parquet")
    (tmp_path / "pairs.csv").write_text("a,b\n" + "aa,d\n" * 200 + "aa,d,c\n")
    with pytest.warns(UserWarning, match="1 of 201 rows .* line 202: not 2 values"):
        assert len(ItemPairs.from_file(items, tmp_path / "pairs.csv")) == 200


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_of_forge_has_its_own_items(tmp_path, monkeypatch, save):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = {item: row for row, item in enumerate(TEXT_IDS)}
    path = tmp_path / "contrastive_data_mask.npz"
    save(path, itemEncID=np.array(rows, dtype=object), pairs=[["7", "b"], ["d", "7"]], embeds=TABLE.numpy())
    pairs = ItemPairs.from_file(ItemEmbeddings(torch.eye(2, 4), ["others", "these"]), path)
    assert pairs.items.item_ids == TEXT_IDS and pairs.rows.tolist() == [[2, 0], [5, 2]]
    assert torch.equal(pairs[0]["positives"], TABLE[0])
    assert [ids.to_pylist() for ids in read_pairs(path, TEXT_IDS)] == [["7", "d"], ["b", "7"]]


def test_training_sequences(tmp_path):
    path = tmp_path / "s1_tiny.csv"
    path.write_text("user_history,target_item\n3c;2b;007,NA;x\n007,3c\n")
    assert adjacent_pairs(read_training_sequences(path)).tolist() == [["007", "2b"], ["2b", "3c"]]
    (tmp_path / "sequences.csv").write_text("user_id,items\n1,5 6 7 8 9\n")
    for name in ("sequences.csv", "sequences.txt"):
        (tmp_path / "sequences.txt").write_text("1 5 6 7 8 9\n")
        assert adjacent_pairs(read_training_sequences(tmp_path / name)).tolist() == [[5, 6], [6, 7]]
