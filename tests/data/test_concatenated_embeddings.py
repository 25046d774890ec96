# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""ItemEmbeddings.concatenate: the rows that a dictionary finds, read by slices, and files of several kinds."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from forge_hf.data import ItemEmbeddings
from forge_hf.errors import DuplicateItemError, InvalidEmbeddingsError, UnknownItemError


@st.composite
def tables(draw):
    """Tables of the same items: of other widths, some in another order, some with further items."""
    count = draw(st.integers(1, 12))
    ids = draw(st.lists(st.text(max_size=3), min_size=count, max_size=count, unique=True))
    made = []
    for number in range(draw(st.integers(2, 4))):
        own = list(ids)
        if number > 0:
            own += [item for item in draw(st.lists(st.text(max_size=3), max_size=3, unique=True)) if item not in ids]
            own = draw(st.one_of(st.just(own), st.permutations(own)))
        values = np.arange(len(own) * (number + 1), dtype=np.float32).reshape(len(own), -1) + 1000 * number
        made.append(ItemEmbeddings(values, own))
    return made


@settings(max_examples=60, deadline=None)
@given(tables(), st.data())
def test_rows_are_those_of_a_dictionary(tables, data):
    first = tables[0]
    looked_up = [dict(zip(table.item_ids, table.to_tensor().tolist(), strict=True)) for table in tables]
    expected = torch.tensor([[x for rows in looked_up for x in rows[item]] for item in first.item_ids])
    items = ItemEmbeddings.concatenate(tables)
    assert items.dims == [table.dim for table in tables] and items.dim == sum(items.dims)
    assert items.item_ids == first.item_ids
    assert torch.equal(items.to_tensor(), expected)
    assert torch.equal(torch.cat(list(items.batches(data.draw(st.integers(1, 13))))), expected)
    indices = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=20))
    assert torch.equal(items.__getitems__(indices)["embeddings"], expected[indices])
    some = items.select(indices)
    assert some.dims == items.dims and torch.equal(some.to_tensor(), expected[indices])
    again = ItemEmbeddings.concatenate([items, first])
    assert again.dims == [*items.dims, first.dim]
    assert torch.equal(again.to_tensor(), torch.cat([expected, first.to_tensor()], dim=1))


def test_tables_are_read_by_the_same_slices():
    class Counted:
        def __init__(self, width):
            self.shape, self.reads = (20, width), []

        def __len__(self):
            return 20

        def __getitem__(self, rows):
            self.reads.append(rows)
            return np.zeros((len(range(20)[rows]) if isinstance(rows, slice) else len(rows), self.shape[1]))

    first, second, reversed_ = Counted(2), Counted(3), Counted(1)
    ids = list(range(100, 120))
    items = ItemEmbeddings.concatenate(
        [ItemEmbeddings(first, ids), ItemEmbeddings(second, list(ids)), ItemEmbeddings(reversed_, ids[::-1])]
    )
    assert not (first.reads or second.reads or reversed_.reads)
    for batch in items.batches(8):
        assert batch.shape[1] == 6
    assert first.reads == second.reads == [slice(0, 8), slice(8, 16), slice(16, 20)]
    assert reversed_.reads == [slice(12, 20), slice(4, 12), slice(0, 4)]


@pytest.mark.parametrize("order", [range(1000), range(999, -1, -1)])
def test_memory_maps_stay_memory_maps(tmp_path, order):
    save_file({"embeddings": torch.zeros(1000, 64)}, tmp_path / "x.safetensors")
    np.save(tmp_path / "y.npy", np.zeros((1000, 3), dtype=np.float16))
    text = ItemEmbeddings.from_file(tmp_path / "x.safetensors")
    items = ItemEmbeddings.concatenate([text, ItemEmbeddings.from_file(tmp_path / "y.npy", list(order))])
    for name, number in (("x.safetensors", np.float32(7)), ("y.npy", np.float16(8))):
        with open(tmp_path / name, "r+b") as file:  # what is written now is seen, so nothing was read
            file.seek(-number.nbytes, 2)
            file.write(number.tobytes())
    last = items.to_tensor()[[order[999], 999]]
    assert items[999]["embeddings"][63] == 7 and items[order[999]]["embeddings"][-1] == 8
    assert last[1, 63] == 7 and last[0, -1] == 8


def test_files(tmp_path):
    ids = [30, 10, 20]
    save_file({"vectors": torch.eye(3)}, tmp_path / "x.safetensors")
    Dataset.from_dict({"item_id": [20, 30, 10], "embedding": [[2.0], [3.0], [1.0]]}).to_parquet(tmp_path / "y.parquet")
    paths = [tmp_path / "x.safetensors", tmp_path / "y.parquet"]
    items = ItemEmbeddings.from_files(paths, item_ids=ids, key="vectors")
    # Those of the second file are its own.
    assert items.item_ids == ids and items.dims == [3, 1]
    assert torch.equal(items.to_tensor(), torch.cat([torch.eye(3), torch.tensor([[3.0], [1.0], [2.0]])], dim=1))
    (one,) = (ItemEmbeddings.from_files(paths[1:], item_ids=ids),)
    assert list(one.item_ids) == [20, 30, 10] and one.dims == [1]
    with pytest.raises(UnknownItemError, match=r"`tables\[1\]` lacks 3 of 3 items: 0, 1, 2"):
        ItemEmbeddings.from_files(paths, key="vectors")
    with pytest.raises(ValueError, match="`tables`"):
        ItemEmbeddings.from_files([])


def test_ids_as_texts_and_as_integers():
    numbers = ItemEmbeddings(torch.tensor([[1.0], [2.0]]), [7, 8])
    texts = ItemEmbeddings(torch.tensor([[3.0], [4.0]]), ["8", "7"])
    assert ItemEmbeddings.concatenate([numbers, texts]).to_tensor().tolist() == [[1.0, 4.0], [2.0, 3.0]]
    assert ItemEmbeddings.concatenate([texts, numbers]).item_ids == ["8", "7"]
    with pytest.raises(UnknownItemError, match="ids such as 'a'"):
        ItemEmbeddings.concatenate([ItemEmbeddings(torch.eye(2), ["a", "b"]), numbers])


def test_refusals():
    items = ItemEmbeddings(torch.eye(3), ["a", "b", "c"])
    with pytest.raises(ValueError, match="`tables` must have at least one"):
        ItemEmbeddings.concatenate([])
    with pytest.raises(TypeError, match=r"`tables\[1\]` must be ItemEmbeddings, but is Tensor"):
        ItemEmbeddings.concatenate([items, torch.eye(3)])
    with pytest.raises(UnknownItemError, match=r"`tables\[2\]` lacks 2 of 3 items: 'b', 'c'\."):
        ItemEmbeddings.concatenate([items, items, ItemEmbeddings(torch.eye(2), ["x", "a"])])
    twice = ItemEmbeddings(torch.eye(3), ["a", "b", "a"])
    for wrong in ([items, twice], [twice, items]):
        with pytest.raises(DuplicateItemError, match="'a'"):
            ItemEmbeddings.concatenate(wrong)
    with pytest.raises(InvalidEmbeddingsError, match=r"`tables\[1\]` has 0 rows"):
        ItemEmbeddings.concatenate([items, ItemEmbeddings(torch.empty(0, 2), [])])
    bad = ItemEmbeddings(torch.tensor([[0.0], [float("nan")], [0.0]]), ["c", "b", "a"])
    with pytest.raises(InvalidEmbeddingsError, match="1 of 3 rows: 1"):
        ItemEmbeddings.concatenate([items, bad]).validate()
    assert ItemEmbeddings.concatenate([items, items]).validate(expected_dim=6).dim == 6
    assert ItemEmbeddings.concatenate([items]) is items
