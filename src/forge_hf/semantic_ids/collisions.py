# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What becomes of items that got equal codes. Each strategy is one function from codes to codes."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from tqdm.auto import tqdm

from ..checks import check_integer, shorten
from ..errors import CapacityError, InvalidCodesError
from ..hub import Shards
from .layout import SemanticIdLayout, row_numbers


__all__ = [
    "COLLISION_STRATEGIES",
    "CandidateFunction",
    "append_suffix",
    "keep_collisions",
    "move_to_nearest",
    "move_to_random",
    "resolve_collisions",
]

CandidateFunction: TypeAlias = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
COLLISION_STRATEGIES = ("keep", "knn", "random", "suffix")

_CHUNK_ROWS = 2**14  # items whose candidates are asked for at once
_CHUNK_CODES = 2**23  # codes whose room is in memory at once
_DESCRIBED_ROWS = 64


def resolve_collisions(
    codes: torch.Tensor,
    layout: SemanticIdLayout,
    on_collision: str,
    capacity: int = 5,
    seed: int = 0,
    candidates: CandidateFunction | None = None,
    shards: str | os.PathLike | None = None,
) -> tuple[torch.Tensor, SemanticIdLayout]:
    """
    Deals with equal codes by the strategy `on_collision`: `"keep"` ([`keep_collisions`]), `"suffix"`
    ([`append_suffix`]), `"knn"` ([`move_to_nearest`]) or `"random"` ([`move_to_random`]). `capacity` and `seed` are
    for the last two, `candidates` and `shards` for `"knn"`.

    Raises:
        `ValueError`: `on_collision` isn't one of the strategies, or lacks an argument.
    """
    if on_collision not in COLLISION_STRATEGIES:
        raise ValueError(f"`on_collision` must be one of {list(COLLISION_STRATEGIES)}, got {on_collision!r}.")
    if on_collision == "keep":
        return keep_collisions(codes, layout)
    if on_collision == "suffix":
        return append_suffix(codes, layout)
    if on_collision == "random":
        return move_to_random(codes, layout, capacity, seed), layout
    if not callable(candidates):
        raise ValueError(
            "`on_collision='knn'` needs `candidates`, a function of row numbers that gives the nearest codes of the "
            "last level and their distances: with an RQ-VAE, those of `model.encode(embeddings[rows], "
            "num_candidates=200)`, its `candidates` and `candidate_distances`. Without a model, use 'random'."
        )
    return move_to_nearest(codes, layout, candidates, capacity, seed, shards), layout


def keep_collisions(codes: torch.Tensor, layout: SemanticIdLayout) -> tuple[torch.Tensor, SemanticIdLayout]:
    """Leaves the codes as they are: a semantic ID then names every item that has it."""
    return _validate(codes, layout), layout


def append_suffix(codes: torch.Tensor, layout: SemanticIdLayout) -> tuple[torch.Tensor, SemanticIdLayout]:
    """
    Appends one level that numbers the items of equal codes, 0, 1, ... in the order in which they are given.

    TIGER's way (https://huggingface.co/papers/2305.05065, section 3.1). The level is always appended, and is as large
    as the largest group of equal codes, so that every semantic ID has the same length and no two items share one.

    Args:
        codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            Codes of each item.
        layout ([`SemanticIdLayout`]):
            Their layout.

    Returns:
        `tuple[torch.Tensor, SemanticIdLayout]`: codes of shape `(num_items, num_levels + 1)` and their layout.

    Raises:
        [`InvalidCodesError`]: `codes` are empty, or aren't codes of `layout`.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.semantic_ids import SemanticIdLayout
    >>> from forge_hf.semantic_ids.collisions import append_suffix

    >>> codes, layout = append_suffix(torch.tensor([[1, 2], [0, 0], [1, 2]]), SemanticIdLayout([4, 4]))
    >>> codes
    tensor([[1, 2, 0],
            [0, 0, 0],
            [1, 2, 1]])
    >>> layout.codebook_sizes
    (4, 4, 2)
    ```
    """
    codes = _validate(codes, layout)
    numbers = row_numbers(codes, layout.codebook_sizes)
    order = np.argsort(numbers, kind="stable")
    starts, sizes = _runs(numbers[order])
    ranks = np.empty(len(numbers), dtype=np.int64)
    ranks[order] = np.arange(len(numbers)) - np.repeat(starts, sizes)
    codes = torch.cat([codes, torch.from_numpy(ranks)[:, None]], dim=1)
    return codes, SemanticIdLayout((*layout.codebook_sizes, int(sizes.max())))


def move_to_nearest(
    codes: torch.Tensor,
    layout: SemanticIdLayout,
    candidates: CandidateFunction,
    capacity: int = 5,
    seed: int = 0,
    shards: str | os.PathLike | None = None,
) -> torch.Tensor:
    """
    Lets at most `capacity` items have the same codes, and moves the others to near codes of the last level with room.

    FORGE's KNN strategy (https://huggingface.co/papers/2509.20904). Of every semantic ID a random `capacity` of its
    items stay. The result for the others is that of going through all pairs of an item that must move and one of its
    candidates, from the smallest distance to the largest, and moving the item there if it hasn't been moved and the
    code has room; of equal distances the item given first goes first, to its first candidate. So no item sees a nearer
    candidate given to one farther away. Items compete only with those of the same codes in all levels before the last.

    Args:
        codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            Codes of each item.
        layout ([`SemanticIdLayout`]):
            Their layout.
        candidates (`Callable`):
            Given row numbers of `codes`, an int64 tensor of shape `(n,)`, returns two tensors of shape `(n, C)`: codes
            of the last level, different ones in a row, and their distances. It is called in chunks, for items that
            must move alone. A row may hold the item's own code.
        capacity (`int`, *optional*, defaults to 5):
            The most items that may have the same codes.
        seed (`int`, *optional*, defaults to 0):
            Seed of who stays.
        shards (`str` or `os.PathLike`, *optional*):
            Name of files, to which `.part-0000` is added, that keep what is finished until [`Shards.remove`] removes
            it: the same call goes on where a killed one stopped.

    Returns:
        `torch.Tensor` of the shape of `codes`, equal to `codes` but for the last level of items that were moved.

    Raises:
        [`CapacityError`]: Items share the levels before the last with too many others to have room at this capacity
            (found before any candidate is asked for; the message says which capacity would do), or find no room among
            their candidates (the message says how many). FORGE leaves such items out; nothing is lost here.
        [`InvalidCodesError`]: `codes` are empty, or aren't codes of `layout`.
        [`OutputInUseError`], [`StorageError`]: Another job writes to the same `shards`, or the disk is full.
        `ValueError`: What `candidates` returns has the wrong shape, isn't codes of the last level, or has NaN; or
            `shards` were begun with other codes, candidates or settings.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.semantic_ids import SemanticIdLayout
    >>> from forge_hf.semantic_ids.collisions import move_to_nearest

    >>> codes = torch.tensor([[3, 1], [3, 1], [3, 0]])
    >>> nearest = lambda rows: (torch.tensor([[1, 0, 2]] * len(rows)), torch.tensor([[0.0, 0.1, 0.4]] * len(rows)))
    >>> move_to_nearest(codes, SemanticIdLayout([4, 4]), nearest, capacity=1)[:2, 1].sort().values
    tensor([1, 2])
    ```
    """
    codes, last_size = _validate(codes, layout), layout.codebook_sizes[-1]
    crowd = _find_overflow(codes, layout, capacity, seed)
    moved = codes.clone()
    stranded, num_candidates = 0, last_size
    finished = None
    if shards is not None and len(crowd.rows):
        finished = Shards(shards, _describe(codes, layout, candidates, capacity, seed, crowd.rows))
    with (
        nullcontext() if finished is None else finished,
        tqdm(total=len(crowd.rows), desc="Moving items", delay=5) as bar,
    ):
        for number, chunk in enumerate(_chunks(crowd.prefixes, last_size)):
            rows = crowd.rows[chunk]
            if finished is not None and number in finished:
                code = np.frombuffer(finished.read(number), dtype="<i4")
                code, width = code[:-1], int(code[-1])
            else:
                code, width = _move_chunk(crowd, chunk, candidates, capacity, last_size)
                if finished is not None:
                    finished.write(number, np.append(code, width).astype("<i4").tobytes())
            found = code >= 0
            moved[torch.from_numpy(rows[found]), -1] = torch.from_numpy(code[found].astype(np.int64))
            stranded += len(rows) - int(found.sum())
            num_candidates = min(num_candidates, width)
            bar.update(len(rows))
    if stranded:
        if shards is not None:  # there is nothing to go on with
            Shards.remove(shards)
        raise CapacityError(
            f"{stranded:,} of {len(crowd.rows):,} items that must move find no room among their {num_candidates:,} "
            f"candidates, though there is some among all {last_size:,} codes at `capacity={capacity}`. Give more "
            f"candidates (with {last_size:,}, every item finds room), or raise `capacity`."
        )
    return moved


def move_to_random(codes: torch.Tensor, layout: SemanticIdLayout, capacity: int = 5, seed: int = 0) -> torch.Tensor:
    """
    Lets at most `capacity` items have the same codes, and moves the others to random codes of the last level with
    room: FORGE's random strategy. Who stays is chosen as in [`move_to_nearest`].

    A code has as many places as `capacity` says. Each free place among the codes that share all levels before the last
    is as likely as any other.

    Args:
        codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            Codes of each item.
        layout ([`SemanticIdLayout`]):
            Their layout.
        capacity (`int`, *optional*, defaults to 5):
            The most items that may have the same codes.
        seed (`int`, *optional*, defaults to 0):
            Seed of who stays, and of the places.

    Returns:
        `torch.Tensor` of the shape of `codes`, equal to `codes` but for the last level of items that were moved.

    Raises:
        [`CapacityError`]: Items share the levels before the last with too many others to have room at this capacity.
            The message says how many, and which capacity would do.
        [`InvalidCodesError`]: `codes` are empty, or aren't codes of `layout`.
    """
    codes, last_size = _validate(codes, layout), layout.codebook_sizes[-1]
    rows, prefixes, occupied, loads = _find_overflow(codes, layout, capacity, seed)
    moved = codes.clone()
    generator = np.random.default_rng([seed, 1])
    while len(rows):
        # Free places are numbered through all prefixes: before code `c` (counted through all prefixes, too) there are
        # `c * capacity` places, less the items that have them.
        taken = np.concatenate([[0], np.cumsum(loads)])
        bounds = taken[np.searchsorted(occupied, np.arange(prefixes[-1] + 2) * last_size)]
        bounds = np.arange(prefixes[-1] + 2) * last_size * capacity - bounds
        drawn = generator.integers(bounds[prefixes], bounds[prefixes + 1])
        # Of items that drew the same place the first gets it, the others draw again among what is left.
        places, winners = np.unique(drawn, return_index=True)
        before = np.searchsorted((occupied + 1) * capacity - taken[1:], places, side="right")
        code = (places + taken[before]) // capacity
        moved[torch.from_numpy(rows[winners]), -1] = torch.from_numpy(code % last_size)
        lost = np.ones(len(rows), dtype=bool)
        lost[winners] = False
        rows, prefixes = rows[lost], prefixes[lost]
        present, counts = np.unique(code, return_counts=True)
        occupied, inverse = np.unique(np.concatenate([occupied, present]), return_inverse=True)
        loads = np.bincount(inverse, weights=np.concatenate([loads, counts])).astype(np.int64)
    return moved


def _validate(codes: torch.Tensor, layout: SemanticIdLayout) -> torch.Tensor:
    codes = layout.validate(codes)
    if codes.ndim != 2 or len(codes) == 0:
        raise InvalidCodesError(
            f"`codes` must be of shape (num_items, {layout.num_levels}) with at least one item, got "
            f"{tuple(codes.shape)}."
        )
    return codes


class _Overflow(NamedTuple):
    """Items over capacity, and what is taken in their prefixes, which are numbered from 0: nobody else counts."""

    rows: np.ndarray  # in order of prefix, then of row
    prefixes: np.ndarray  # of `rows`, ascending
    occupied: np.ndarray  # prefix * (codes of the last level) + code, ascending
    loads: np.ndarray  # items that stay there


def _move_chunk(
    crowd: _Overflow, chunk: slice, candidates: CandidateFunction, capacity: int, last_size: int
) -> tuple[np.ndarray, int]:
    """The code of the last level that each item of the chunk gets, -1 where it finds no room, and C."""
    prefixes = crowd.prefixes[chunk]
    choices, distances = _ask(candidates, crowd.rows[chunk], last_size)
    first = prefixes[0]
    room = np.full((prefixes[-1] - first + 1) * last_size, capacity, dtype=np.int32)
    present = slice(*np.searchsorted(crowd.occupied, np.array([first, prefixes[-1] + 1]) * last_size))
    room[crowd.occupied[present] - first * last_size] -= crowd.loads[present]
    places = ((prefixes - first) * last_size).astype(np.int32)[:, None] + choices
    place = _nearest_first(places, distances, room)
    return np.where(place >= 0, place % last_size, -1), choices.shape[1]


def _describe(
    codes: torch.Tensor,
    layout: SemanticIdLayout,
    candidates: CandidateFunction,
    capacity: int,
    seed: int,
    rows: np.ndarray,
) -> dict[str, Any]:
    """What the chunks depend on. Candidates are told apart by those of a few items."""
    some, _ = _ask(candidates, rows[:: -(-len(rows) // _DESCRIBED_ROWS)], layout.codebook_sizes[-1])
    digests = {"codes": codes.contiguous().numpy(), "candidates": np.ascontiguousarray(some)}
    return {
        "codebook_sizes": list(layout.codebook_sizes),
        "num_items": len(codes),
        "capacity": capacity,
        "seed": seed,
        "num_candidates": some.shape[1],
        "chunk": [_CHUNK_ROWS, _CHUNK_CODES],
        **{name: hashlib.blake2b(array, digest_size=16).hexdigest() for name, array in digests.items()},
    }


def _find_overflow(codes: torch.Tensor, layout: SemanticIdLayout, capacity: int, seed: int) -> _Overflow:
    check_integer("capacity", capacity)
    check_integer("seed", seed, 0)
    last_size = layout.codebook_sizes[-1]
    numbers = row_numbers(codes, layout.codebook_sizes)
    order = np.random.default_rng([seed, 0]).permutation(len(numbers))
    order = order[np.argsort(numbers[order], kind="stable")]  # by semantic ID, at random within one
    numbers = numbers[order]
    starts, sizes = _runs(numbers)
    prefix_starts, num_ids = _runs(numbers[starts] // last_size)
    totals = np.add.reduceat(sizes, prefix_starts)
    _check_room(totals, last_size, capacity, lambda worst: codes[order[starts[prefix_starts[worst]]], :-1].tolist())

    over = np.maximum(sizes - capacity, 0)
    crowded = np.add.reduceat(over, prefix_starts) > 0
    prefix = np.repeat(np.cumsum(crowded) - 1, num_ids)  # of each semantic ID, where `here`
    here = np.repeat(crowded, num_ids)
    moving = np.arange(len(order)) - np.repeat(starts, sizes) >= capacity
    rows, prefixes = order[moving], np.repeat(prefix, over)
    by_row = np.lexsort([rows, prefixes])
    occupied = prefix[here] * last_size + numbers[starts[here]] % last_size
    return _Overflow(rows[by_row], prefixes[by_row], occupied, np.minimum(sizes, capacity)[here])


def _check_room(totals: np.ndarray, last_size: int, capacity: int, name: Callable[[int], list[int]]) -> None:
    lacking = totals - last_size * capacity
    if (full := lacking > 0).any():
        worst = int(totals.argmax())
        before = f"begin with {name(worst)}" if name(worst) else "are there"
        raise CapacityError(
            f"{lacking[full].sum():,} items find no room: {totals[worst]:,} items {before}, and the {last_size:,} "
            f"codes of the last level hold {last_size * capacity:,} at `capacity={capacity}`"
            f"{f' (and {full.sum() - 1:,} other prefixes are too full)' if full.sum() > 1 else ''}. "
            f"`capacity={-(-totals[worst] // last_size)}` is the smallest that would do."
        )


def _runs(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First place and length of each run of equal values."""
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return starts, np.diff(starts, append=len(ordered))


def _chunks(prefixes: np.ndarray, last_size: int) -> Iterator[slice]:
    """Slices of whole prefixes, as long as the limits allow."""
    start = 0
    while start < len(prefixes):
        limit = prefixes[start] + max(_CHUNK_CODES // last_size, 1)
        stop = min(start + _CHUNK_ROWS, int(np.searchsorted(prefixes, limit)))
        if stop < len(prefixes):
            stop = int(np.searchsorted(prefixes, prefixes[stop]))
        if stop == start:  # one prefix is longer than a chunk
            stop = int(np.searchsorted(prefixes, prefixes[start], side="right"))
        yield slice(start, stop)
        start = stop


def _ask(candidates: CandidateFunction, rows: np.ndarray, last_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidates and distances of `rows`, checked."""
    parts = []
    for start in range(0, len(rows), _CHUNK_ROWS):
        part = torch.from_numpy(rows[start : start + _CHUNK_ROWS])
        given = candidates(part)
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ValueError(f"`candidates` must return a pair of codes and distances, got {shorten(given)}.")
        codes, distances = (torch.as_tensor(table).detach().cpu() for table in given)
        if codes.ndim != 2 or codes.shape != distances.shape or len(codes) != len(part) or codes.shape[1] == 0:
            raise ValueError(
                f"`candidates` must return codes and distances of shape ({len(part)}, C) for {len(part)} rows, got "
                f"{tuple(codes.shape)} and {tuple(distances.shape)}."
            )
        if codes.is_floating_point() or codes.min() < 0 or codes.max() >= last_size:
            raise ValueError(f"`candidates` must return integers from 0 to {last_size - 1}, codes of the last level.")
        if distances.isnan().any():
            raise ValueError("`candidates` must return distances that are numbers, got NaN.")
        if (distances[:, 1:] < distances[:, :-1]).any():  # an item's own code may come first for all that
            distances, order = distances.sort(dim=1, stable=True)
            codes = codes.gather(1, order)
        parts.append((codes.numpy().astype(np.int32), distances.float().numpy()))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _nearest_first(places: np.ndarray, distances: np.ndarray, room: np.ndarray) -> np.ndarray:
    """
    The place of each row, -1 where none of its `places` (of shape `(n, C)`, nearest first) has room: what taking all
    pairs by their distance gives, reached in rounds in which a place is held until somebody nearer asks for it.

    Both sides prefer near to far, so there is exactly one assignment in which no row would be nearer at a place that
    would also be nearer to it than to one of its holders; both procedures end there.
    """
    num_rows, num_candidates = places.shape
    # Where to go on after a place without room from the start: most are, around a crowded code.
    following = np.full((num_rows, num_candidates + 1), num_candidates, dtype=np.int32)
    np.copyto(following[:, :-1], np.arange(num_candidates, dtype=np.int32), where=room[places] > 0)
    np.minimum.accumulate(following[:, ::-1], axis=1, out=following[:, ::-1])
    position = following[:, 0].copy()
    held = np.zeros(num_rows, dtype=bool)
    at = np.zeros(num_rows, dtype=np.int64)
    asked = np.zeros(len(room), dtype=bool)
    asking = np.flatnonzero(position < num_candidates)
    while len(asking):
        at[asking] = places[asking, position[asking]]
        asked[at[asking]] = True
        rivals = np.concatenate([np.flatnonzero(held & asked[at]), asking])
        asked[at[asking]] = False
        rivals = rivals[np.lexsort([rivals, distances[rivals, position[rivals]], at[rivals]])]
        starts, sizes = _runs(at[rivals])
        accepted = np.arange(len(rivals)) - np.repeat(starts, sizes) < room[at[rivals]]
        held[rivals] = accepted
        asking = rivals[~accepted]
        position[asking] = following[asking, position[asking] + 1]
        asking = asking[position[asking] < num_candidates]
    return np.where(held, at, -1)
