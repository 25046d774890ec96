# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""FORGE's hit rate on a file of predictions."""

import json
import math
import os
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..checks import check_integers, check_type
from ..errors import CorruptFileError, InvalidSemanticIdError
from ..semantic_ids import SemanticIdCatalog, SemanticIdLayout
from ..semantic_ids.layout import row_keys
from .prediction import DECODER_ONLY_KEY, ENCODER_DECODER_KEY


__all__ = ["hit_rate_of_predictions"]

_LINES_PER_CHUNK = 1000


def hit_rate_of_predictions(
    path: str | os.PathLike,
    catalog: SemanticIdCatalog,
    ks: Sequence[int] = (20, 100, 500, 1000),
    show_progress: bool = True,
) -> dict[str, float]:
    """
    FORGE's HR@k of a file of predictions, its own or [`predict_to_jsonl`]'s: semantic IDs are replaced by their items,
    in the order of beams, and the share of a row's true items that is among the first `k` is averaged over rows.

    As FORGE counts, a semantic ID that no item has takes up no place, one that is named twice takes up its places
    twice, and a true item that isn't in the catalog counts as missed.

    Args:
        path (`str` or `os.PathLike`):
            JSONL file with `answer`, true item ids joined by `;`, and `_generated_new_text_` or `_generated_text_`,
            the texts of semantic IDs.
        catalog ([`SemanticIdCatalog`]):
            The items.
        ks (`Sequence[int]`, *optional*, defaults to `(20, 100, 500, 1000)`):
            Lengths of the lists.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, if it takes more than five seconds.

    Returns:
        `dict[str, float]`: `"hit_rate@20"` and so on, each between 0 and 1.

    Raises:
        `FileNotFoundError`: There is no such file.
        [`CorruptFileError`]: It has no rows, or a line isn't such an object.

    Example:

    ```python
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from forge_hf import SemanticIdCatalog
    >>> from forge_hf.evaluation import hit_rate_of_predictions

    >>> codes = [[1, 2], [0, 3], [1, 2]]
    >>> items = ["shirt", "shoe", "sock"]
    >>> catalog = SemanticIdCatalog.from_codes(items, codes, codebook_sizes=[4, 4], on_collision="keep")
    >>> path = Path(tempfile.mkdtemp()) / "output.jsonl"
    >>> _ = path.write_text(json.dumps({"answer": "shoe;hat", "_generated_text_": ["C1C6", "C3C4", "C0C7"]}))
    >>> hit_rate_of_predictions(path, catalog, ks=(2, 3))
    {'hit_rate@2': 0.0, 'hit_rate@3': 0.5}
    ```
    """
    check_integers("ks", ks)
    check_type("catalog", catalog, SemanticIdCatalog)
    path, ks = Path(path), list(ks)
    if not path.is_file():
        raise FileNotFoundError(f"`path` {str(path)!r} is not a file.")
    row_of = {str(item): row for row, item in enumerate(catalog.item_ids)}
    places = _ItemPlaces(catalog)
    totals, num_rows = np.zeros(len(ks)), 0
    size = path.stat().st_size
    progress = tqdm(desc="Scoring", total=size, unit="B", unit_scale=True, delay=5, disable=not show_progress)
    with open(path, "rb") as file, progress:
        while chunk := list(islice(file, _LINES_PER_CHUNK)):
            samples = [_read(line, path) for line in chunk if not line.isspace()]
            known = [[row_of[item] for item in truths if item in row_of] for truths, _ in samples]
            sids = iter(catalog.layout.to_text(catalog.codes[list(chain.from_iterable(known))]))
            for (truths, generated), rows in zip(samples, known, strict=True):
                true_sids = list(islice(sids, len(rows)))
                # Most rows have no hit, and are told apart by their texts alone.
                if not set(true_sids).isdisjoint(generated):
                    totals += (places(generated, rows, true_sids)[:, None] < ks).sum(axis=0) / len(truths)
            num_rows += len(samples)
            progress.update(sum(map(len, chunk)))
    if num_rows == 0:
        raise CorruptFileError(f"{path} has no rows.")
    return {f"hit_rate@{k}": total / num_rows for k, total in zip(ks, totals.tolist(), strict=True)}


def _read(line: bytes, path: Path) -> tuple[set[str], list[str]]:
    """True items and predicted semantic IDs of a line."""
    try:
        sample = json.loads(line.decode())
        generated = sample[DECODER_ONLY_KEY] if DECODER_ONLY_KEY in sample else sample[ENCODER_DECODER_KEY]
        if not isinstance(generated, list) or not set(map(type, generated)) <= {str}:
            raise TypeError("predictions must be a list of texts")
        return set(sample["answer"].strip().split(";")), generated
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptFileError(
            f"{path} has a line that isn't a prediction with an `answer`: {line[:60]!r} ({type(error).__name__}: "
            f"{error})."
        ) from error


class _ItemPlaces:
    """Where items first stand in the list that a row's semantic IDs stand for."""

    def __init__(self, catalog: SemanticIdCatalog):
        self._layout = catalog.layout
        keys = self._keys(catalog.codes)
        order = np.argsort(keys, kind="stable")
        self._sorted = keys[order]
        self._rank = np.empty(len(keys), dtype=np.int64)
        self._rank[order] = np.arange(len(keys))

    def _keys(self, codes: torch.Tensor) -> np.ndarray:
        sizes = self._layout.codebook_sizes
        if math.prod(sizes) >= 2**63:
            return row_keys(codes)
        strides = [math.prod(sizes[level + 1 :]) for level in range(len(sizes))]
        return (codes * torch.tensor(strides)).sum(dim=-1).numpy()

    def __call__(self, texts: list[str], rows: list[int], sids: list[str]) -> np.ndarray:
        """Places, from 0, of the items of `rows`, whose semantic IDs are `sids`, without those that aren't listed."""
        firsts = [(texts.index(sid), row) for row, sid in zip(rows, sids, strict=True) if sid in texts]
        valid, codes = _parse(self._layout, texts[: max(firsts)[0] + 1])
        keys = self._keys(codes)
        left, right = np.searchsorted(self._sorted, keys), np.searchsorted(self._sorted, keys, "right")
        begin = np.zeros(len(valid), dtype=np.int64)  # how many items stand before each text's
        begin[valid] = np.cumsum(right - left) - (right - left)
        start = np.zeros(len(valid), dtype=np.int64)
        start[valid] = left
        return np.array([begin[first] + self._rank[row] - start[first] for first, row in firsts])


def _parse(layout: SemanticIdLayout, texts: list[str]) -> tuple[np.ndarray, torch.Tensor]:
    """Which texts are semantic IDs, and the codes of these."""
    try:
        return np.ones(len(texts), dtype=bool), layout.from_text(texts)
    except InvalidSemanticIdError:
        if len(texts) == 1:
            return np.zeros(1, dtype=bool), torch.empty(0, layout.num_levels, dtype=torch.int64)
        middle = len(texts) // 2
        halves = [_parse(layout, part) for part in (texts[:middle], texts[middle:])]
        return np.concatenate([half[0] for half in halves]), torch.cat([half[1] for half in halves])
