# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_hf.errors import InvalidSequencesError, UnknownItemError
from forge_hf.semantic_ids import SemanticIdCatalog
from forge_hf.training import LengthGroupedEpochSampler, SequenceWindows


CATALOG = SemanticIdCatalog.from_codes(
    [f"i{n}" for n in range(9)], [[n] for n in range(9)], codebook_sizes=[9], on_collision="keep"
)
SEQUENCES = st.lists(st.lists(st.integers(0, 8), min_size=2, max_size=11), min_size=1, max_size=6)


def as_dataset(sequences):
    items = [[f"i{n}" for n in sequence] for sequence in sequences]
    return Dataset.from_dict({"user_id": [f"u{row}" for row in range(len(items))], "items": items})


@settings(max_examples=30, deadline=None)
@given(SEQUENCES, st.integers(1, 5))
def test_every_prefix_is_a_window(sequences, max_items):
    windows = SequenceWindows(as_dataset(sequences), CATALOG, max_items, every_prefix=True)
    expected = [
        (f"u{user}", sequence[max(0, end - max_items) : end + 1])
        for user, sequence in enumerate(sequences)
        for end in range(1, len(sequence))
    ]
    assert [(w["user_id"], w["rows"].tolist()) for w in (windows[i] for i in range(len(windows)))] == expected
    assert windows.lengths.tolist() == [len(rows) for _, rows in expected]


@settings(max_examples=30, deadline=None)
@given(SEQUENCES, st.integers(1, 5))
def test_tiles_hold_every_item_once(sequences, max_items):
    windows = SequenceWindows(as_dataset(sequences), CATALOG, max_items, every_prefix=False)
    tiles = {}
    for i in range(len(windows)):
        window = windows[i]
        assert 1 <= len(window["rows"]) <= max_items
        tiles.setdefault(window["user_id"], []).insert(0, window["rows"].tolist())  # a user's last tile comes first
    assert [sum(tiles[f"u{user}"], []) for user in range(len(sequences))] == sequences
    assert all(len(tile) == max_items for parts in tiles.values() for tile in parts[1:])


def test_a_selected_dataset_keeps_to_its_rows():
    dataset = as_dataset([[0, 1], [2, 3, 4], [5, 6]]).select([1])
    windows = SequenceWindows(dataset, CATALOG, 10, every_prefix=False)
    assert [windows[i]["rows"].tolist() for i in range(len(windows))] == [[2, 3, 4]]


def test_bad_input_is_refused():
    with pytest.raises(InvalidSequencesError, match="`sequences`"):
        SequenceWindows(as_dataset([[0]]).select([]), CATALOG, 3, every_prefix=False)
    with pytest.raises(InvalidSequencesError, match="at least 2 items"):
        SequenceWindows(as_dataset([[0], [1]]), CATALOG, 3, every_prefix=True)
    with pytest.raises(UnknownItemError, match="zz"):
        SequenceWindows(Dataset.from_dict({"items": [["i0", "zz"]]}), CATALOG, 3, every_prefix=False)
    with pytest.raises(ValueError, match="`max_items`"):
        SequenceWindows(as_dataset([[0, 1]]), CATALOG, 0, every_prefix=False)


def test_sampler_depends_on_seed_and_epoch_alone():
    lengths = torch.randint(1, 30, (1000,), generator=torch.Generator().manual_seed(0)).numpy()
    sampler = LengthGroupedEpochSampler(lengths, batch_size=8, seed=1)
    first = list(sampler)
    torch.rand(10)  # the global generator has no say
    assert list(sampler) == first and sorted(first) == list(range(1000))
    sampler.set_epoch(1)
    assert list(sampler) != first and sorted(sampler) == list(range(1000))
    assert list(LengthGroupedEpochSampler(lengths, batch_size=8, seed=2)) != first


def test_sampler_groups_like_lengths():
    lengths = torch.randint(1, 100, (2000,), generator=torch.Generator().manual_seed(0)).numpy()
    batches = lengths[list(LengthGroupedEpochSampler(lengths, batch_size=20, seed=0))].reshape(-1, 20)
    padding = (batches.max(1, keepdims=True) - batches).mean()
    shuffled = torch.from_numpy(lengths)[torch.randperm(2000)].numpy().reshape(-1, 20)
    assert padding < 0.1 * (shuffled.max(1, keepdims=True) - shuffled).mean()
    # Long and short batches are mixed over the epoch.
    assert abs(batches[:50].mean() - batches[50:].mean()) < 5
