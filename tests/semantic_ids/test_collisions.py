# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Tests of how collisions are dealt with, against plain loops over items."""

import contextlib
import json
import math
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from forge_hf.errors import CapacityError, CorruptCatalogError, ForgeError, InvalidCodesError
from forge_hf.hub import Shards
from forge_hf.semantic_ids import SemanticIdCatalog, SemanticIdLayout, collisions
from forge_hf.semantic_ids.collisions import move_to_nearest, move_to_random
from forge_hf.semantic_ids.layout import row_keys, row_numbers


SIZES = [2, 2, 5]
LAYOUT = SemanticIdLayout(SIZES)


@st.composite
def crowds(draw):
    """Codes with many collisions, and a table of distances with many ties from each item to every last-level code."""
    code = st.tuples(*[st.integers(0, size - 1) for size in SIZES])
    rows = draw(st.lists(code, min_size=1, max_size=40))
    table = draw(st.lists(st.lists(st.integers(0, 4), min_size=5, max_size=5), min_size=len(rows), max_size=len(rows)))
    return torch.tensor(rows), torch.tensor(table).float()


def nearest_of(distances, num_candidates):
    """A `candidates` function by brute force, ties to the lower code; it notes the rows that it was asked for."""

    def candidates(rows):
        candidates.asked += rows.tolist()
        nearest, codes = distances[rows].sort(dim=1, stable=True)
        return codes[:, :num_candidates], nearest[:, :num_candidates]

    candidates.asked = []
    return candidates


def assign_by_loop(codes, distances, stays, capacity, num_candidates):
    """All pairs of a moving item and a candidate, from the smallest distance to the largest."""
    load = Counter(tuple(row) for row, stay in zip(codes.tolist(), stays, strict=True) if stay)
    pairs = []
    for row in range(len(codes)):
        if not stays[row]:
            ranked = sorted(range(distances.shape[1]), key=lambda code: (distances[row, code].item(), code))
            pairs += [(distances[row, code].item(), row, code) for code in ranked[:num_candidates]]
    moved = {}
    for _, row, code in sorted(pairs):
        place = (*codes[row, :-1].tolist(), code)
        if row not in moved and load[place] < capacity:
            moved[row] = code
            load[place] += 1
    return moved


@given(crowds(), st.integers(1, 4), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_knn_takes_pairs_by_distance(crowd, capacity, num_candidates, seed):
    codes, distances = crowd
    candidates = nearest_of(distances, num_candidates)
    counts, prefixes = Counter(map(tuple, codes.tolist())), Counter(map(tuple, codes[:, :-1].tolist()))
    if max(prefixes.values()) > SIZES[-1] * capacity:
        needed = math.ceil(max(prefixes.values()) / SIZES[-1])
        lacking = sum(max(count - SIZES[-1] * capacity, 0) for count in prefixes.values())
        with pytest.raises(CapacityError, match=rf"^{lacking} items find .*`capacity={needed}` is the smallest"):
            move_to_nearest(codes, LAYOUT, candidates, capacity, seed)
        assert not candidates.asked
        # What the message says would do does, with all candidates.
        move_to_nearest(codes, LAYOUT, nearest_of(distances, SIZES[-1]), needed, seed)
        return
    # Who is asked about is who must move: as many of each semantic ID as are over capacity, each once.
    try:
        moved = move_to_nearest(codes, LAYOUT, candidates, capacity, seed)
    except CapacityError as error:
        moved = error
    must_move = candidates.asked
    assert len(set(must_move)) == len(must_move)
    over = {code: count - capacity for code, count in counts.items() if count > capacity}
    assert Counter(tuple(codes[row].tolist()) for row in must_move) == over
    stays = [row not in must_move for row in range(len(codes))]
    expected = assign_by_loop(codes, distances, stays, capacity, num_candidates)
    if len(expected) < len(must_move):
        assert isinstance(moved, CapacityError)
        number = len(must_move) - len(expected)
        assert re.match(rf"{number} of {len(must_move)} items .* among their {num_candidates} candidates", str(moved))
        return
    wanted = codes.clone()
    for row, code in expected.items():
        wanted[row, -1] = code
    assert torch.equal(moved, wanted)
    assert max(Counter(map(tuple, moved.tolist())).values()) <= capacity


@given(crowds(), st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_knn_does_not_depend_on_how_items_are_chunked(crowd, capacity, seed):
    codes, distances = crowd
    whole, parts = nearest_of(distances, 5), nearest_of(distances, 5)
    results = []
    for candidates, rows, places in ((whole, 2**14, 2**24), (parts, 3, 5)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collisions, "_CHUNK_ROWS", rows)
            patch.setattr(collisions, "_CHUNK_CODES", places)
            try:
                results.append(move_to_nearest(codes, LAYOUT, candidates, capacity, seed).tolist())
            except CapacityError as error:
                results.append(str(error))
    assert results[0] == results[1] and whole.asked == parts.asked


@given(crowds(), st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_random_fills_free_places(crowd, capacity, seed):
    codes, distances = crowd
    if max(Counter(map(tuple, codes[:, :-1].tolist())).values()) > SIZES[-1] * capacity:
        with pytest.raises(CapacityError, match="is the smallest that would do"):
            move_to_random(codes, LAYOUT, capacity, seed)
        return
    moved = move_to_random(codes, LAYOUT, capacity, seed)
    before, after = Counter(map(tuple, codes.tolist())), Counter(map(tuple, moved.tolist()))
    assert torch.equal(moved[:, :-1], codes[:, :-1]) and max(after.values()) <= capacity
    # Nobody moves without need: of a semantic ID so many stay as may, and they are those whom `knn` lets stay.
    candidates = nearest_of(distances, 5)
    move_to_nearest(codes, LAYOUT, candidates, capacity, seed)
    changed = (moved != codes).any(dim=1).nonzero()[:, 0].tolist()
    assert set(changed) <= set(candidates.asked)
    assert all(after[code] >= min(count, capacity) for code, count in before.items())
    assert torch.equal(moved, move_to_random(codes, LAYOUT, capacity, seed))


def test_random_takes_every_free_place_equally_often():
    # Code 1 is full, code 0 has one free place of two, code 2 both: items must move to places 0, 2, 2.
    codes = torch.tensor([[0, 1]] * 3 + [[0, 0]])
    layout = SemanticIdLayout([1, 3])
    goes = Counter()
    for seed in range(3000):
        moved = move_to_random(codes, layout, capacity=2, seed=seed)
        goes[moved[(moved != codes).any(dim=1), 1].item()] += 1
    assert goes.keys() == {0, 2} and abs(goes[0] - 1000) < 4 * math.sqrt(3000 * 2 / 9)


def test_who_stays_is_chosen_at_random_by_seed():
    codes = torch.zeros(4, 2, dtype=torch.int64)
    layout = SemanticIdLayout([1, 8])
    stays = Counter()
    for seed in range(2000):
        moved = move_to_random(codes, layout, capacity=1, seed=seed)
        stays.update((moved[:, 1] == 0).nonzero()[:, 0].tolist())
    assert all(abs(stays[row] - 500) < 4 * math.sqrt(2000 * 3 / 16) for row in range(4))


def test_a_full_prefix_is_filled_to_the_last_place():
    codes = torch.zeros(30, 2, dtype=torch.int64)
    layout = SemanticIdLayout([3, 10])
    moved = move_to_random(codes, layout, capacity=3, seed=0)
    assert Counter(moved[:, 1].tolist()) == dict.fromkeys(range(10), 3)
    distances = torch.arange(10.0).expand(30, 10)
    moved = move_to_nearest(codes, layout, nearest_of(distances, 10), capacity=3, seed=0)
    assert Counter(moved[:, 1].tolist()) == dict.fromkeys(range(10), 3)
    with pytest.raises(
        CapacityError, match=r"10 items find no room: 30 items begin with \[0\], and the 10 codes .* 20 at"
    ):
        move_to_random(codes, layout, capacity=2)
    with pytest.raises(CapacityError, match="9 of 27 items .* 7 candidates.* among all 10 codes .*with 10, every"):
        move_to_nearest(codes, layout, nearest_of(distances, 7), capacity=3)
    assert issubclass(CapacityError, ForgeError) and issubclass(CapacityError, ValueError)


def test_many_levels_and_one():
    # 256^20 semantic IDs are more than an integer holds.
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(256, (30, 20), generator=generator).repeat(3, 1)
    moved = move_to_random(codes, SemanticIdLayout([256] * 20), capacity=1, seed=1)
    assert len(set(map(tuple, moved.tolist()))) == 90 and torch.equal(moved[:, :-1], codes[:, :-1])
    assert sorted(move_to_random(torch.zeros(5, 1, dtype=torch.int64), SemanticIdLayout([5]), 1)[:, 0].tolist()) == [
        *range(5)
    ]
    with pytest.raises(CapacityError, match="5 items are there, and the 3 codes"):
        move_to_random(torch.zeros(5, 1, dtype=torch.int64), SemanticIdLayout([3]), 1)


@given(st.lists(st.tuples(*[st.integers(0, 2**20 - 1)] * 4), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_row_numbers_are_equal_and_ordered_as_rows(rows):
    for width in (2, 3, 4):  # 2^40, 2^60 and 2^80
        codes = np.array(rows)[:, :width]
        numbers, keys = row_numbers(codes, [2**20] * width), row_keys(codes)
        assert np.array_equal(np.unique(numbers, return_inverse=True)[1], np.unique(keys, return_inverse=True)[1])
        prefixes = np.unique(row_keys(codes[:, :-1]), return_inverse=True)[1]
        assert np.array_equal(np.unique(numbers // 2**20, return_inverse=True)[1], prefixes)
        assert np.array_equal(numbers % 2**20, codes[:, -1])


@pytest.mark.parametrize(
    ("candidates", "match"),
    [
        (lambda rows: (torch.zeros(1, 2), torch.zeros(1, 2)), r"of shape \(2, C\) for 2 rows, got \(1, 2\)"),
        (lambda rows: (torch.zeros(2, 2).long(), torch.zeros(2, 3)), r"got \(2, 2\) and \(2, 3\)"),
        (lambda rows: (torch.zeros(2, 2), torch.zeros(2, 2)), "integers from 0 to 4"),
        (lambda rows: (torch.tensor([[0, 5]] * 2), torch.zeros(2, 2)), "integers from 0 to 4"),
        (lambda rows: (torch.tensor([[0]] * 2), torch.tensor([[math.nan]] * 2)), "got NaN"),
    ],
)
def test_bad_candidates_are_refused(candidates, match):
    with pytest.raises(ValueError, match=match):
        move_to_nearest(torch.zeros(3, 3, dtype=torch.int64), LAYOUT, candidates, capacity=1)


def from_codes(codes, on_collision, **options):
    return SemanticIdCatalog.from_codes(
        range(len(codes)), codes, codebook_sizes=SIZES, on_collision=on_collision, **options
    )


def test_candidates_may_come_in_any_order():
    codes, distances = (
        torch.zeros(40, 3, dtype=torch.int64),
        torch.rand(40, 5, generator=torch.Generator().manual_seed(0)),
    )
    layout = SemanticIdLayout([1, 1, 5])
    nearest = move_to_nearest(codes, layout, nearest_of(distances, 5), capacity=8)
    unordered = lambda rows: (torch.arange(5).expand(len(rows), 5), distances[rows])  # noqa: E731
    assert torch.equal(move_to_nearest(codes, layout, unordered, capacity=8), nearest)


def test_catalogs():
    codes = torch.zeros(12, 3, dtype=torch.int64)
    distances = torch.rand(12, 5, generator=torch.Generator().manual_seed(0))
    knn = from_codes(codes, "knn", candidates=nearest_of(distances, 5), capacity=3)
    assert torch.equal(knn.codes, move_to_nearest(codes, LAYOUT, nearest_of(distances, 5), 3, 0))
    assert torch.equal(knn.original_codes, codes) and knn.on_collision == "knn"
    assert {item for items in knn.items_for(knn.codes.unique(dim=0)) for item in items} == set(range(12))
    other = from_codes(codes, "random", capacity=3, seed=4)
    assert torch.equal(other.codes, move_to_random(codes, LAYOUT, 3, 4)) and torch.equal(other.original_codes, codes)
    assert torch.equal(from_codes(codes, "suffix").original_codes, codes)
    assert torch.equal(from_codes(codes, "keep").original_codes, codes)
    with pytest.raises(ValueError, match=r"model.encode\(embeddings\[rows\], num_candidates=200\)"):
        from_codes(codes, "knn")
    for capacity in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="`capacity` must be"):
            from_codes(codes, "random", capacity=capacity)
    with pytest.raises(CapacityError, match="`capacity=3` is the smallest"):
        from_codes(codes, "random", capacity=2)
    dataset = Dataset.from_dict({"item_id": [1, 2], "codebook_lv1": [0, 0], "codebook_lv2": [1, 1]})
    catalog = SemanticIdCatalog.from_dataset(dataset, codebook_sizes=[1, 2], on_collision="random", capacity=1)
    assert sorted(catalog.codes[:, 1].tolist()) == [0, 1]


def test_original_codes_are_saved_and_checked(tmp_path):
    codes = torch.zeros(4, 3, dtype=torch.int64)
    catalog = from_codes(codes, "random", capacity=1)
    catalog.save_pretrained(tmp_path)
    loaded = SemanticIdCatalog.from_pretrained(tmp_path)
    assert torch.equal(loaded.original_codes, codes) and torch.equal(loaded.codes, catalog.codes)
    assert loaded.fingerprint == catalog.fingerprint == SemanticIdCatalog(range(4), catalog.codes, LAYOUT).fingerprint
    loaded.save_pretrained(tmp_path / "again")
    files = ("semantic_ids.json", "semantic_ids.safetensors")
    assert all((tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)

    config_file, codes_file = (tmp_path / name for name in files)
    config = json.loads(config_file.read_text())
    tensors = {name: tensor.clone() for name, tensor in load_file(codes_file).items()}
    original = tensors["original_codes"]
    for altered, match in (
        (original + 1, "holds other original codes"),
        (original + 7, "row 0 level 1: 7"),
        (original - 1, "row 0 level 1: -1"),
        (original.long(), "'original_codes' as I32 .* got I64"),
        (original[:3].clone(), "'original_codes' as I32 of shape"),
        (None, "'original_codes' as I32 .* got nothing"),
    ):
        kept = {name: tensor for name, tensor in tensors.items() if name != "original_codes"}
        save_file(kept if altered is None else {**kept, "original_codes": altered}, codes_file)
        with pytest.raises(CorruptCatalogError, match=match):
            SemanticIdCatalog.from_pretrained(tmp_path)
    save_file(tensors, codes_file)
    for value, match in ((None, "'original_fingerprint' of type str"), ("0" * 32, "holds other original codes")):
        config_file.write_text(json.dumps({**config, "original_fingerprint": value}))
        with pytest.raises(CorruptCatalogError, match=match):
            SemanticIdCatalog.from_pretrained(tmp_path)
    config_file.write_text(json.dumps({key: v for key, v in config.items() if key != "original_fingerprint"}))
    with pytest.raises(CorruptCatalogError, match="got .'original_codes'. besides"):
        SemanticIdCatalog.from_pretrained(tmp_path)
    config_file.write_text(json.dumps({**config, "on_collision": "keep"}))
    with pytest.raises(CorruptCatalogError, match="original_codes"):
        SemanticIdCatalog.from_pretrained(tmp_path)


def test_nothing_more_is_saved_where_nothing_moved(tmp_path):
    codes = torch.tensor([[0, 0, 0], [1, 1, 1]])
    for on_collision, options in (("random", {}), ("suffix", {}), ("keep", {})):
        from_codes(codes, on_collision, **options).save_pretrained(tmp_path)
        assert "original_codes" not in load_file(tmp_path / "semantic_ids.safetensors")
        assert torch.equal(SemanticIdCatalog.from_pretrained(tmp_path).original_codes, codes)


def test_original_codes_must_fit():
    codes = [[0, 0, 0], [1, 1, 1]]
    for original, on_collision in (([[0, 0, 0]], "knn"), (codes, "suffix")):
        with pytest.raises(InvalidCodesError, match="`original_codes` must have the shape"):
            SemanticIdCatalog([1, 2], codes, LAYOUT, on_collision, original)
    with pytest.raises(InvalidCodesError, match="row 1 level 3: 9"):
        SemanticIdCatalog([1, 2], codes, LAYOUT, "knn", [[0, 0, 0], [0, 0, 9]])


def test_equal_items_are_moved_in_their_order():
    """Items of one embedding differ in nothing but their place."""
    codes, layout = torch.zeros(6, 1, dtype=torch.int64), SemanticIdLayout([6])
    distances = torch.arange(6.0).expand(6, 6)
    moved = move_to_nearest(codes, layout, nearest_of(distances, 6), capacity=1)[:, 0].tolist()
    assert moved.count(0) == 1  # who stays, whoever that is
    assert [code for code in moved if code] == [1, 2, 3, 4, 5]


def test_knn_moves_less_far_than_random():
    """On points of a line, with the codes at whole numbers."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(400, generator=generator) * 4 + 32
    codes = points.round().long().clamp(0, 63)[:, None]
    layout, distances = SemanticIdLayout([64]), (points[:, None] - torch.arange(64)).square()
    near = move_to_nearest(codes, layout, nearest_of(distances, 64), capacity=10)
    far = move_to_random(codes, layout, capacity=10)
    moved = defaultdict(float)
    for name, result in (("knn", near), ("random", far)):
        moved[name] = distances.gather(1, result).mean().item()
    assert moved["knn"] < moved["random"] / 2


@given(crowds(), st.integers(1, 2), st.integers(0, 5), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_knn_goes_on_where_it_was_killed(tmp_path, crowd, capacity, stop, data):
    codes, distances = crowd
    shards, part = tmp_path / "moved", tmp_path / "moved.part-0000"
    Shards.remove(shards)

    def move(candidates, **options):
        try:
            return move_to_nearest(codes, LAYOUT, candidates, capacity, **options).tolist()
        except CapacityError as error:
            return str(error)

    def killed(rows):
        if len(killed.asked) > stop:  # the first call is for the description of the candidates
            raise KeyboardInterrupt
        killed.asked.append(rows)
        return nearest(rows)

    nearest = nearest_of(distances, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collisions, "_CHUNK_ROWS", 2)
        patch.setattr(collisions, "_CHUNK_CODES", 5)
        expected, killed.asked = move(nearest_of(distances, 4)), []
        with contextlib.suppress(KeyboardInterrupt):
            move(killed, shards=shards)
        if part.exists() and data.draw(st.booleans()):  # damage, of a shard or of the last one's end
            content = part.read_bytes()
            head = content.index(b"\n") + 1
            place = data.draw(st.integers(head, len(content)))
            part.write_bytes(content[:place] + data.draw(st.sampled_from([b"", b"x" + content[place + 1 :]])))
        if part.exists() and len(killed.asked) > 1:
            with pytest.raises(ValueError, match="`seed` 0 then, 1 now"):
                move(nearest_of(distances, 4), seed=1, shards=shards)
        assert move(nearest, shards=shards) == expected
        if isinstance(expected, str):  # found no room: the next may try with more
            assert not part.exists()
            return
        again = nearest_of(distances, 4)
        assert move(again, shards=shards) == expected  # all is finished: only a description is asked for
        described = nearest_of(distances, 4)
        move(described)
        assert len(again.asked) <= len(described.asked)


def test_knn_keeps_what_belongs_to_its_candidates_alone(tmp_path):
    codes, layout, shards = torch.zeros(6, 1, dtype=torch.int64), SemanticIdLayout([8]), tmp_path / "moved"
    near, far = torch.arange(8).repeat(6, 1).float(), torch.arange(8).flip(0).repeat(6, 1).float()
    moved = move_to_nearest(codes, layout, nearest_of(near, 8), capacity=1, shards=shards)
    for distances, num_candidates in ((far, 8), (near, 7)):
        with pytest.raises(ValueError, match="`candidates`"):
            move_to_nearest(codes, layout, nearest_of(distances, num_candidates), capacity=1, shards=shards)
    catalog = SemanticIdCatalog.from_codes(
        range(6),
        codes,
        codebook_sizes=[8],
        on_collision="knn",
        capacity=1,
        candidates=nearest_of(near, 8),
        shards=shards,
    )
    assert torch.equal(catalog.codes, moved) and len(list(tmp_path.iterdir())) == 1
