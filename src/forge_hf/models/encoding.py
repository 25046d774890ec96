# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Codes of all items by an item tokenizer: a long job, which processes share and which goes on after a kill."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..checks import check_type
from ..data import ItemEmbeddings
from ..hub import Shards
from ..hub.processes import join_processes, wait_for_processes
from .digest import digest_model
from .rqvae.modeling_item_tokenizer import ItemTokenizerPreTrainedModel


__all__ = ["encode_items"]

_SAMPLED_ROWS = 2**16
_ROWS_AT_ONCE = 2**13


@torch.no_grad()
def encode_items(
    model: ItemTokenizerPreTrainedModel,
    items: ItemEmbeddings,
    shards: str | os.PathLike,
    *,
    sources: Sequence[str | os.PathLike] = (),
    batch_size: int = 8192,
    show_progress: bool = True,
) -> torch.Tensor:
    """
    Encodes items in batches, each of which is kept on disk until [`Shards.remove`] removes them all: the same call
    goes on where a killed one stopped, on any number of processes. Batches are verified by their checksums, and what
    is damaged is encoded again.

    Under `accelerate launch` the processes share the batches, each with its own copy of the model. A model that
    `has_balanced_codes` gives those of the whole table, which the first process computes at once.

    Args:
        model ([`ItemTokenizerPreTrainedModel`]):
            The item tokenizer, on the device of its process.
        items ([`ItemEmbeddings`]):
            The items.
        shards (`str` or `os.PathLike`):
            Name of the files to keep batches in, to which `.part-0000` and so on is added.
        sources (`Sequence[str | os.PathLike]`, *optional*):
            Files or folders that the items were read from. After one has changed, codes of before aren't gone on with.
            Without them, or besides, embeddings are told apart by all rows, or by 65,536 evenly spaced ones of more.
        batch_size (`int`, *optional*, defaults to 8192):
            Number of items that a process encodes at once.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, in the first process.

    Returns:
        `torch.Tensor` of dtype int64 and shape `(num_items, num_levels)`, on the CPU, in every process.

    Raises:
        [`InvalidEmbeddingsError`]: There are no items, or their width isn't the model's.
        [`OutputInUseError`]: Another job writes to the same shards.
        [`StorageError`]: The disk is full, over quota, or fails. Run it again when there is room.
        `ValueError`: The shards were begun with another model, other items or another batch size.

    Example:

    ```python
    >>> import tempfile
    >>> import torch
    >>> from forge_hf import ItemEmbeddings, RQVAEConfig, RQVAEModel
    >>> from forge_hf.hub import Shards
    >>> from forge_hf.models import encode_items

    >>> items = ItemEmbeddings(torch.eye(5))
    >>> model = RQVAEModel(RQVAEConfig(input_dim=5, hidden_sizes=[8], codebook_dim=4, codebook_sizes=[4, 4]))
    >>> shards = tempfile.mkdtemp() + "/codes"
    >>> codes = encode_items(model, items, shards, batch_size=2, show_progress=False)
    >>> codes.shape
    torch.Size([5, 2])
    >>> Shards.remove(shards)  # when what is made of the codes is saved
    ```
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size!r}.")
    check_type("model", model, ItemTokenizerPreTrainedModel)
    check_type("items", items, ItemEmbeddings)
    items.validate(expected_dim=model.config.input_dim)
    settings = {
        "num_items": len(items),
        "batch_size": batch_size,
        "model": digest_model(model),
        "embeddings": _digest_rows(items),
        "source": [_digest_files(Path(path)) for path in sources],
    }
    index, count = join_processes()
    finished = Shards(shards, settings, part=index)
    wait_for_processes()  # before anybody writes to a part that another reads
    starts = range(0, len(items), batch_size)[index::count]
    balanced = None
    if model.has_balanced_codes:
        starts = range(0, len(items), batch_size) if index == 0 else range(0)
        if any(start // batch_size not in finished for start in starts):
            balanced = model.balanced_codes(items)
    with finished:
        for start in tqdm(starts, "Encoding", disable=index > 0 or not show_progress):
            number = start // batch_size
            if number not in finished:
                rows = range(start, min(start + batch_size, len(items)))
                if balanced is None:
                    batch = items.__getitems__(rows)["embeddings"].to(model.device)
                    codes = model.encode(batch).codes
                else:
                    codes = balanced[rows.start : rows.stop]
                finished.write(number, codes.cpu().numpy().astype("<i4").tobytes())
    wait_for_processes()
    return _read_codes(Shards(shards, settings), len(items), model.config.num_levels, batch_size)


def _read_codes(finished: Shards, num_items: int, num_levels: int, batch_size: int) -> torch.Tensor:
    codes = torch.empty(num_items, num_levels, dtype=torch.int64)
    for number, start in enumerate(range(0, num_items, batch_size)):
        batch = np.frombuffer(finished.read(number), dtype="<i4").reshape(-1, num_levels)
        codes[start : start + batch_size] = torch.from_numpy(batch.astype(np.int64))
    return codes


def _digest_rows(items: ItemEmbeddings) -> str:
    rows = np.unique(np.linspace(0, len(items) - 1, min(len(items), _SAMPLED_ROWS)).astype(np.int64))
    digest = hashlib.blake2b(f"{len(items)} {items.dim}".encode(), digest_size=16)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        digest.update(items.__getitems__(rows[start : start + _ROWS_AT_ONCE])["embeddings"].numpy())
    return digest.hexdigest()


def _digest_files(source: Path) -> str:
    """Of names, sizes and times of change: what is in them takes long to read."""
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    states = [(path.relative_to(source).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.blake2b(repr(states).encode(), digest_size=16).hexdigest()
