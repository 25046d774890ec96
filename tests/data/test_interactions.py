# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""UserItemPairs: rows, the other item and user against a loop, refusals."""

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from forge_hf.data import ItemEmbeddings, UserItemPairs
from forge_hf.errors import UnknownItemError


def make_table(count, dim, prefix):
    ids = [f"{prefix}{row}" for row in range(count)]
    rows = torch.arange(float(count))[:, None]
    return ItemEmbeddings(rows.expand(count, dim), ids).join(
        collaborative=ItemEmbeddings((rows.flip(0) + 0.5).expand(count, 2), ids[::-1])
    )


USERS, ITEMS = make_table(6, 3, "u"), make_table(5, 4, "i")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=25))
def test_batches_against_a_loop(interactions):
    pairs = UserItemPairs(USERS, ITEMS, [[f"u{user}", f"i{item}"] for user, item in interactions])
    unique = list(dict.fromkeys(interactions))
    assert [tuple(row) for row in pairs.rows.tolist()] == unique
    batch = pairs.__getitems__(range(len(pairs)))
    for place, (user, item) in enumerate(unique):
        assert batch["embeddings"][place].tolist() == [item] * 4
        assert batch["user_embeddings"][place].tolist() == [user] * 3
        after = unique[place + 1 :] + unique[:place]
        other_items = [i for u, i in after if u == user] or [-1]
        other_users = [u for u, i in after if i == item] or [-1]
        assert batch["item_rows"][place].tolist() == [item, other_items[0]]
        assert batch["user_rows"][place].tolist() == [user, other_users[0]]
        assert batch["item_collaborative"][place, 0].tolist() == [item + 0.5] * 2
        if other_items[0] >= 0:
            assert batch["item_collaborative"][place, 1].tolist() == [other_items[0] + 0.5] * 2
        if other_users[0] >= 0:
            assert batch["user_collaborative"][place, 1].tolist() == [other_users[0] + 0.5] * 2
    assert torch.equal(pairs[0]["item_rows"], batch["item_rows"][0])


def test_from_sequences():
    sequences = Dataset.from_dict({"user_id": ["u3", "u1"], "items": [["i4", "i0", "i4"], ["i2"]]})
    assert UserItemPairs.from_sequences(USERS, ITEMS, sequences).rows.tolist() == [[3, 4], [3, 0], [1, 2]]


def test_refusals():
    plain = ItemEmbeddings(torch.zeros(5, 4), ITEMS.item_ids)
    with pytest.raises(ValueError, match=r"`items` must have collaborative vectors: `items\.join"):
        UserItemPairs(USERS, plain, [["u0", "i0"]])
    with pytest.raises(TypeError, match="`users` must be ItemEmbeddings, but is Tensor"):
        UserItemPairs(torch.zeros(3, 3), ITEMS, [["u0", "i0"]])
    with pytest.raises(ValueError, match=r"of one width, but have \[2, 1\]"):
        narrow = plain.join(collaborative=ItemEmbeddings(torch.zeros(5, 1), ITEMS.item_ids))
        UserItemPairs(USERS, narrow, [["u0", "i0"]])
    with pytest.raises(UnknownItemError, match="1 users of the pairs are not in `users`: 'u9'"):
        UserItemPairs(USERS, ITEMS, [["u9", "i0"]])
    with pytest.raises(UnknownItemError, match="1 items of the pairs are not in `items`: 'i9'"):
        UserItemPairs(USERS, ITEMS, [["u0", "i9"]])
    for wrong in ([], [["u0"]], (["u0"], [])):
        with pytest.raises(ValueError, match="`interactions`"):
            UserItemPairs(USERS, ITEMS, wrong)
