# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""ItemEmbeddings.join: rows by id against a dictionary, memory maps, selections, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forge_hf.data import ItemEmbeddings
from forge_hf.errors import DuplicateItemError, InvalidEmbeddingsError, UnknownItemError


def make_items(ids):
    return ItemEmbeddings(torch.randn(len(ids), 3), ids)


def vectors_of(ids):
    """A table in which the vector of an item tells its id."""
    return ItemEmbeddings(torch.tensor([[float(item), -float(item)] for item in ids]), ids)


@given(st.permutations(range(9)), st.integers(1, 9), st.lists(st.integers(0, 8), max_size=12))
def test_rows_go_by_id(order, count, indices):
    items = make_items(order[:count])
    joined = items.join(collaborative=vectors_of(range(9)), other=vectors_of(order))
    assert joined.item_ids == items.item_ids and list(joined.tables) == ["collaborative", "other"]
    indices = [index % count for index in indices]
    batch = joined.__getitems__(indices)
    assert torch.equal(batch["embeddings"], items.__getitems__(indices)["embeddings"])
    expected = [[order[index], -order[index]] for index in indices]
    for name in ("collaborative", "other"):
        assert batch[name].reshape(-1, 2).tolist() == expected
    part = joined.select(indices)
    assert torch.equal(part.tables["other"].to_tensor(), batch["other"])


@pytest.mark.parametrize(
    ("ids", "other_ids"), [(["1", "0"], [0, 1]), ([1, 0], ["0", "1"]), (range(1, -1, -1), [0, 1])]
)
def test_ids_of_another_type(ids, other_ids):
    joined = make_items(ids).join(collaborative=vectors_of(other_ids))
    assert joined.__getitems__([0, 1])["collaborative"][:, 0].tolist() == [1.0, 0.0]


def test_files_stay_on_disk(tmp_path):
    np.save(tmp_path / "vectors.npy", np.arange(8, dtype=np.float32).reshape(4, 2))
    vectors = ItemEmbeddings.from_file(tmp_path / "vectors.npy", item_ids=["d", "b", "a", "c"])
    joined = make_items(["a", "b", "c", "d"]).join(collaborative=vectors)
    assert joined[3]["collaborative"].tolist() == [0.0, 1.0]
    assert joined.tables["collaborative"].to_tensor()[:, 0].tolist() == [4.0, 2.0, 6.0, 0.0]
    # In the same order the table is the file itself.
    same = make_items(["d", "b", "a", "c"]).join(collaborative=vectors)
    assert same.tables["collaborative"] is vectors
    assert len(list(joined.batches(3))) == 2 and joined.batches(4).__next__().shape == (4, 3)


def test_joining_again_keeps_what_there_is():
    joined = make_items([0, 1]).join(first=vectors_of([1, 0])).join(second=vectors_of([0, 1]))
    assert joined[1].keys() == {"embeddings", "first", "second"}
    assert make_items([0, 1]).tables == {}


def test_a_selection_reads_each_table_once(monkeypatch):
    part = make_items(range(9)).join(collaborative=vectors_of(range(9))).select([5, 2, 7])
    read, reads = ItemEmbeddings._read, []
    monkeypatch.setattr(ItemEmbeddings, "_read", lambda items, rows: reads.append(items.dim) or read(items, rows))
    assert part.__getitems__([0, 2])["collaborative"].tolist() == [[5.0, -5.0], [7.0, -7.0]]
    assert sorted(reads) == [2, 2, 3, 3]  # of each, the selection and what it selects from


def test_refusals():
    items = make_items([1, 2, 3])
    with pytest.raises(UnknownItemError, match=r"`collaborative` lacks 2 of 3 items: 2, 3\."):
        items.join(collaborative=vectors_of([1, 4, 5]))
    with pytest.raises(UnknownItemError, match="has ids such as 1, but the items have ids such as 'a'"):
        make_items(["a", "b"]).join(collaborative=vectors_of([1, 2]))
    with pytest.raises(DuplicateItemError, match="2"):
        items.join(collaborative=vectors_of([1, 2, 2, 3]))
    with pytest.raises(TypeError, match="`collaborative` must be ItemEmbeddings, but is Tensor"):
        items.join(collaborative=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="`embeddings` is the name"):
        items.join(embeddings=vectors_of([1, 2, 3]))
    with pytest.raises(InvalidEmbeddingsError, match="`collaborative` has 0 rows, for 3 items"):
        items.join(collaborative=ItemEmbeddings(torch.zeros(0, 2)))
    table = torch.zeros(3, 2)
    table[0, 1] = float("nan")
    joined = items.join(collaborative=ItemEmbeddings(table, [3, 2, 1]))
    with pytest.raises(InvalidEmbeddingsError, match="`collaborative` has NaN or infinite values for 1 of 3 items: 3"):
        joined.validate()
    assert items.join(collaborative=vectors_of([1, 2, 3])).validate(3).dim == 3
