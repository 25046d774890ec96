# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Whether data are those that a run began with, without reading all of them."""

import hashlib
import json
from typing import Any

import numpy as np
import torch

from ..data.embeddings import ItemEmbeddings


__all__ = ["fingerprint", "fingerprint_items"]

SAMPLE_SIZE = 1000


def fingerprint(*parts: Any) -> str:
    """
    A hash of data: of all that arrays and tensors hold, and of the number of rows and 1,000 of them, evenly spaced,
    of what is longer or slower to read (lists, a `datasets.Dataset`).

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
            rows = [] if part is None else [part[row] for row in _sample(len(part))]
            size = None if part is None else len(part)
            digest.update(json.dumps([size, rows], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def fingerprint_items(items: ItemEmbeddings) -> str:
    """A hash of item ids, embeddings and the vectors that are joined to them, as of 1,000 items."""
    batch = items.__getitems__(_sample(len(items)))
    tables = [part for name in sorted(items.tables) for part in ([name], batch[name])]
    return fingerprint(items.item_ids, batch["embeddings"], *tables)


def _sample(size: int) -> list[int]:
    return np.unique(np.linspace(0, size - 1, min(size, SAMPLE_SIZE)).astype(np.int64)).tolist()
