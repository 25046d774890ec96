# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Whether data are those that a run began with, without reading all of what is large."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..data.embeddings import ItemEmbeddings


__all__ = ["fingerprint", "fingerprint_items"]

# Rows that are read, and numbers of a table of embeddings: what takes about a second. Of more, a sample.
MAX_ROWS, MAX_NUMBERS, SAMPLE_SIZE = 200_000, 1 << 27, 1000


def fingerprint(*parts: Any) -> str:
    """
    A hash of data: of all that arrays and tensors hold; of what is slower to read (lists, a `datasets.Dataset`), of
    all rows up to 200,000, and else of their number and 1,000 of them, evenly spaced.

    Args:
        parts (`np.ndarray`, `torch.Tensor`, `datasets.Dataset`, sequence or `None`):
            The data.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.numpy()
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).view(np.uint8))
        else:
            size = None if part is None else len(part)
            digest.update(json.dumps(size).encode())
            for row in [] if part is None else _read_rows(part):
                digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def fingerprint_items(items: ItemEmbeddings) -> str:
    """
    A hash of item ids (see [`fingerprint`]), embeddings and the vectors that are joined to them: of all up to 2**27
    numbers of embeddings, and else of 1,000 items, evenly spaced.
    """
    is_small = len(items) * items.dim <= MAX_NUMBERS
    rows, parts = np.arange(len(items)) if is_small else _sample(len(items)), []
    for some in np.array_split(rows, max(1, len(rows) // 10_000)):
        batch = items.__getitems__(some.tolist())
        tables = [part for name in sorted(items.tables) for part in ([name], batch[name])]
        parts.append(fingerprint(batch["embeddings"], *tables))
    return fingerprint(items.item_ids, parts)


def _read_rows(rows: Any) -> Iterator[Any]:
    """All rows, or a sample; many at once of a `datasets.Dataset`, which gives one slowly."""
    if len(rows) > MAX_ROWS:
        yield from (rows[int(row)] for row in _sample(len(rows)))
    elif isinstance(rows, Dataset):
        yield from rows.with_format(None).iter(batch_size=1000)
    else:
        yield from rows


def _sample(size: int) -> np.ndarray:
    return np.unique(np.linspace(0, size - 1, min(size, SAMPLE_SIZE)).astype(np.int64))
