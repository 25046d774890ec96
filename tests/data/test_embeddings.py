# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""ItemEmbeddings: every source gives the same rows, read in batches, and bad input is refused with its rows."""

import gzip
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value, config
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from forge_hf.data import write_item_embeddings
from forge_hf.data.embeddings import ItemEmbeddings
from forge_hf.errors import DuplicateItemError, InvalidEmbeddingsError


NUM_ITEMS, DIM = 37, 5


@pytest.fixture
def table():
    return np.random.default_rng(0).normal(size=(NUM_ITEMS, DIM)).astype(np.float32)


@pytest.fixture
def item_ids():
    return [f"item{i}" for i in range(NUM_ITEMS)]


def as_dataset(table, item_ids, length=DIM):
    features = Features({"item_id": Value("string"), "embedding": List(Value("float32"), length=length)})
    return Dataset.from_dict({"item_id": item_ids, "embedding": table.tolist()}, features=features)


@pytest.fixture(
    params=[
        "array",
        "tensor",
        "safetensors",
        "bf16",
        "npy",
        "npy16",
        "parquet",
        "arrow",
        "folder",
        "lists",
        "shuffled",
    ]
)
def source(request, table, item_ids, tmp_path):
    """(ItemEmbeddings, expected rows) of each kind of source."""
    kind, tensor = request.param, torch.from_numpy(table)
    if kind == "array":
        return ItemEmbeddings(table, item_ids), tensor
    if kind == "tensor":
        return ItemEmbeddings(tensor.double(), item_ids), tensor
    if kind in ("safetensors", "bf16"):
        tensor = tensor.bfloat16() if kind == "bf16" else tensor
        save_file({"vectors": tensor}, tmp_path / "x.safetensors")
        return ItemEmbeddings.from_file(tmp_path / "x.safetensors", item_ids, key="vectors"), tensor.float()
    if kind in ("npy", "npy16"):
        table = table.astype(np.float16) if kind == "npy16" else table
        np.save(tmp_path / "x.npy", table)
        return ItemEmbeddings.from_file(str(tmp_path / "x.npy"), item_ids), torch.from_numpy(table).float()
    dataset = as_dataset(table, item_ids, length=-1 if kind == "lists" else DIM)
    if kind == "parquet":
        dataset.to_parquet(tmp_path / "x.parquet")
        return ItemEmbeddings.from_file(tmp_path / "x.parquet"), tensor
    if kind in ("arrow", "folder"):
        dataset.save_to_disk(tmp_path / "folder")
        path = next((tmp_path / "folder").glob("*.arrow")) if kind == "arrow" else tmp_path / "folder"
        return ItemEmbeddings.from_file(path), tensor
    if kind == "lists":
        return ItemEmbeddings.from_dataset(dataset), tensor
    order = np.random.default_rng(1).permutation(NUM_ITEMS)
    return ItemEmbeddings.from_dataset(dataset.select(order)), tensor[order]


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_sources(source, item_ids):
    items, expected = source
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as torch's on arrays that can't be written to
        assert (len(items), items.num_items, items.dim) == (NUM_ITEMS, NUM_ITEMS, DIM)
        assert sorted(items.item_ids) == sorted(item_ids)
        assert items.to_tensor().dtype == torch.float32
        assert torch.equal(items.to_tensor(), expected)
        batches = list(items.batches(10))
        assert [len(batch) for batch in batches] == [10, 10, 10, 7]
        assert torch.equal(torch.cat(batches), expected)
        for indices in ([3, 4, 5], [5, 3, 4], [36, 0, 17, 17], [2], []):
            batch = items.__getitems__(indices)["embeddings"]
            assert batch.dtype == torch.float32 and torch.equal(batch, expected[indices])
        assert torch.equal(items[7]["embeddings"], expected[7])
        assert items.validate(expected_dim=DIM) is items


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=60))
def test_getitems_is_indexing(indices):
    table = torch.arange(NUM_ITEMS * 2.0).reshape(-1, 2)
    assert torch.equal(ItemEmbeddings(table).__getitems__(indices)["embeddings"], table[indices])


def test_data_loader_reads_whole_batches(table):
    class CountedTable:
        shape, reads = table.shape, []

        def __len__(self):
            return len(table)

        def __getitem__(self, rows):
            self.reads.append(rows)
            return table[rows]

    counted = CountedTable()
    loader = DataLoader(ItemEmbeddings(counted), batch_size=10, collate_fn=ItemEmbeddings.collate)
    assert torch.equal(torch.cat([batch["embeddings"] for batch in loader]), torch.from_numpy(table))
    assert counted.reads == [slice(0, 10), slice(10, 20), slice(20, 30), slice(30, 37)]
    loader = DataLoader(ItemEmbeddings(counted), batch_size=10, collate_fn=ItemEmbeddings.collate, shuffle=True)
    batches = [batch["embeddings"] for batch in loader]
    assert len(counted.reads) == 8  # one read a batch
    assert torch.equal(torch.cat(batches).sort(dim=0).values, torch.from_numpy(table).sort(dim=0).values)


def test_batches_are_copies(table):
    for source in (table, torch.from_numpy(table)):
        items = ItemEmbeddings(source)
        for tensor in (items.to_tensor(), items.__getitems__([0, 1])["embeddings"], items[0]["embeddings"]):
            tensor.zero_()
    assert (table != 0).all()


def test_ids_are_kept_as_given(table):
    assert list(ItemEmbeddings(table).item_ids) == list(range(NUM_ITEMS))
    ids = list(range(100, 100 + NUM_ITEMS))
    assert ItemEmbeddings(table, ids).item_ids is ids
    dataset = Dataset.from_dict({"sku": ids, "v": table.tolist()})
    items = ItemEmbeddings.from_dataset(dataset, id_column="sku", embedding_column="v")
    assert list(items.item_ids) == ids
    assert list(ItemEmbeddings.from_dataset(dataset, embedding_column="v").item_ids) == list(range(NUM_ITEMS))


def test_not_finite_rows_are_named(table):
    table[[4, 30, 31], [0, 1, 2]] = [np.nan, np.inf, -np.inf]
    with pytest.raises(InvalidEmbeddingsError, match="3 of 37 rows: 4, 30, 31"):
        ItemEmbeddings(table).validate()


def test_rows_are_named_across_read_batches(table, monkeypatch):
    monkeypatch.setattr(ItemEmbeddings.batches, "__defaults__", (10,))
    table[3:37:4] = np.nan
    with pytest.raises(InvalidEmbeddingsError, match="9 of 37 rows: 3, 7, 11, 15, 19, …"):
        ItemEmbeddings(table).validate()


def test_shapes_are_checked(table):
    with pytest.raises(InvalidEmbeddingsError, match="empty"):
        ItemEmbeddings(table[:0]).validate()
    with pytest.raises(InvalidEmbeddingsError, match="empty"):
        ItemEmbeddings(table[:, :0]).validate()
    with pytest.raises(InvalidEmbeddingsError, match="width 8, but has width 5"):
        ItemEmbeddings(table).validate(expected_dim=8)
    with pytest.raises(InvalidEmbeddingsError, match=r"\(num_items, dim\)"):
        ItemEmbeddings(table[0])
    with pytest.raises(InvalidEmbeddingsError, match="37 rows, but has 3 ids"):
        ItemEmbeddings(table, ["a", "b", "c"])
    with pytest.raises(IndexError, match="37"):
        ItemEmbeddings(table).__getitems__([0, 37])


def test_ragged_and_missing_vectors_are_named():
    features = Features({"embedding": List(Value("float32"))})
    for third in ([1.0], None):
        rows = [[0.0, 1.0], [2.0, 3.0], third, [4.0, 5.0]]
        items = ItemEmbeddings.from_dataset(Dataset.from_dict({"embedding": rows}, features=features))
        with pytest.raises(InvalidEmbeddingsError, match="row 2 "):
            items.validate()
        with pytest.raises(InvalidEmbeddingsError, match="row 2 "):
            items.__getitems__([3, 2, 0])
    missing_number = Dataset.from_dict({"embedding": [[0.0, 1.0], [2.0, None]]}, features=features)
    with pytest.raises(InvalidEmbeddingsError, match="1 of 2 rows: 1"):
        ItemEmbeddings.from_dataset(missing_number).validate()


def test_duplicate_ids_are_named(table):
    ids = ["a", "b", "a", *map(str, range(NUM_ITEMS - 3))]
    with pytest.raises(DuplicateItemError, match="1 ids occur again, such as 'a'"):
        ItemEmbeddings(table, ids).validate()


def test_files_that_are_not_embeddings(tmp_path, table):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ItemEmbeddings.from_file(tmp_path / "nowhere.npy")
    save_file({"x": torch.ones(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(InvalidEmbeddingsError, match=r"'embeddings' is not in .*\['x'\]"):
        ItemEmbeddings.from_file(tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-4])
    with pytest.raises(InvalidEmbeddingsError, match="damaged"):
        ItemEmbeddings.from_file(tmp_path / "cut.safetensors", key="x")
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidEmbeddingsError, match="plain .npy"):
        ItemEmbeddings.from_file(tmp_path / "pickled.npy")
    np.save(tmp_path / "whole.npy", table)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-4])
    with pytest.raises(InvalidEmbeddingsError, match="plain .npy"):
        ItemEmbeddings.from_file(tmp_path / "cut.npy")
    (tmp_path / "x.txt").write_text("1 2 3")
    with pytest.raises(InvalidEmbeddingsError, match="x.txt"):
        ItemEmbeddings.from_file(tmp_path / "x.txt")
    with pytest.raises(InvalidEmbeddingsError, match="'embedding' is not a column.*'vector'"):
        ItemEmbeddings.from_dataset(Dataset.from_dict({"vector": [[1.0]]}))


@pytest.mark.parametrize("kind", ["archive", "packed archive", "csv", "csv.gz", "folder"])
def test_files_of_forge(tmp_path, monkeypatch, table, kind):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    ids = ["NA", "007", *map(str, range(NUM_ITEMS - 2))]
    items = ItemEmbeddings(table, ids)
    if "archive" in kind:
        path = tmp_path / "reconstruct_data_mask.npz"
        (np.savez if kind == "archive" else np.savez_compressed)(path, ids=np.array(ids), embeds=table)
    elif kind == "folder":
        path = tmp_path / "item_emb"
        write_item_embeddings(ItemEmbeddings(table[20:], ids[20:]), path / "part_02.csv")
        write_item_embeddings(ItemEmbeddings(table[:20], ids[:20]), path / "part_01.csv")
    else:
        write_item_embeddings(items, tmp_path / "part_01.csv")
        path = tmp_path / f"part_01.{kind}"
        if kind == "csv.gz":
            path.write_bytes(gzip.compress((tmp_path / "part_01.csv").read_bytes()))
    for _ in range(2):
        found = ItemEmbeddings.from_file(path)
        assert found.item_ids == ids and torch.equal(found.to_tensor(), torch.from_numpy(table))
    own = ItemEmbeddings.from_file(path, item_ids=range(NUM_ITEMS))
    assert own.item_ids == range(NUM_ITEMS) and torch.equal(own.to_tensor(), found.to_tensor())
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".npy", ".arrow")]
    assert len(kept) == (kind != "archive")  # which is mapped from where it lies


def test_item_embeddings_as_csv_are_turned_into_arrow_once_until_they_change(tmp_path, monkeypatch, table):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "part_01.csv"
    write_item_embeddings(ItemEmbeddings(table), path)
    ItemEmbeddings.from_file(path)
    with monkeypatch.context() as patch:
        patch.setattr("forge_hf.data.al_gr_embeddings.read_texts", None)
        assert len(ItemEmbeddings.from_file(path)) == NUM_ITEMS
    write_item_embeddings(ItemEmbeddings(table[:3]), path)
    assert len(ItemEmbeddings.from_file(path)) == 3


def test_opening_a_file_does_not_read_it(tmp_path):
    save_file({"embeddings": torch.zeros(1000, 64)}, tmp_path / "x.safetensors")
    items = ItemEmbeddings.from_file(tmp_path / "x.safetensors")
    with open(tmp_path / "x.safetensors", "r+b") as file:  # what is written now is seen, so nothing was read
        file.seek(-4, 2)
        file.write(np.float32(7).tobytes())
    assert items[999]["embeddings"][-1] == 7


def test_select(source):
    items, expected = source
    rows = [30, 2, 3, 36, 0]
    some = items.select(rows)
    assert len(some) == 5 and some.dim == DIM and list(some.item_ids) == [items.item_ids[row] for row in rows]
    assert torch.equal(some.to_tensor(), expected[rows])
    assert torch.equal(torch.cat(list(some.batches(2))), expected[rows])
    assert torch.equal(some.__getitems__([4, 1])["embeddings"], expected[[0, 2]])
    assert torch.equal(some.select(np.array([3]))[0]["embeddings"], expected[36])
    assert some.validate() is some and len(items.select([])) == 0
    for wrong in (-1, NUM_ITEMS):
        with pytest.raises(IndexError, match="`rows`"):
            items.select([wrong])
    with pytest.raises(TypeError, match="mask"):
        items.select(np.ones(NUM_ITEMS, dtype=bool))
