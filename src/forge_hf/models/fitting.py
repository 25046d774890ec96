# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Item tokenizers that are fitted in one call, without gradients, and what their `fit` needs of an embedding table."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import initialization as init

from ..checks import check_integer
from ..errors import InvalidEmbeddingsError
from .rqvae.modeling_item_tokenizer import ItemTokenizerInputNormalization, ItemTokenizerPreTrainedModel


if TYPE_CHECKING:
    from ..data import ItemEmbeddings

# Rows of a larger mean square would have squares, and sums of them, beyond float32.
_MAX_MEAN_SQUARE = 1e34

__all__ = ["FittedItemTokenizerModel", "check_magnitude", "mean_and_std", "read_rows", "sample_items", "sample_rows"]


class FittedItemTokenizerModel(ItemTokenizerPreTrainedModel):
    """
    Base of the item tokenizers with a `fit(items, *, seed=0, ...)` that returns the model itself.

    All weights are buffers, zero until `fit` sets them, and `initialized` says whether it has.
    """

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("initialized", torch.tensor(False))

    @property
    def is_initialized(self) -> bool:
        """Whether the model has been fitted."""
        return bool(self.initialized)

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, ItemTokenizerInputNormalization):
            init.zeros_(module.mean)
            init.ones_(module.std)
        else:
            for buffer in module.buffers(recurse=False):
                init.zeros_(buffer)

    def _check_ready(self) -> None:
        if not self.is_initialized:
            raise ValueError(
                f"This {type(self).__name__} has not been fitted. Call `fit(items)` with ItemEmbeddings first, or "
                "load a fitted one with `from_pretrained`."
            )

    def _check_items(self, items: "ItemEmbeddings", min_items: int = 1, **numbers: int | None) -> None:
        """Refuses what can't be fitted on, before any work."""
        from ..data import ItemEmbeddings

        if not isinstance(items, ItemEmbeddings):
            raise TypeError(
                f"`items` must be ItemEmbeddings, but is {type(items).__name__}. "
                "Use ItemEmbeddings.from_dataset or ItemEmbeddings.from_file."
            )
        for name, value in numbers.items():
            if value is not None:
                check_integer(name, value, 0 if name == "seed" else 1)
        if 0 < len(items) < min_items:
            raise InvalidEmbeddingsError(
                f"`items` has {len(items)} items, but the largest codebook has {min_items} codes and needs at least "
                "as many. Use smaller `codebook_sizes`."
            )
        items.validate(expected_dim=self.config.input_dim)


def mean_and_std(items: "ItemEmbeddings") -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean and standard deviation of each dimension over all items, float32 of shape `(dim,)`, in one pass. Raises
    [`InvalidEmbeddingsError`] where they are too large to be squared.
    """
    from ..data.embeddings import READ_BATCH_SIZE

    first = next(items.batches()).double().mean(dim=0)  # near the mean, so that the sums of squares don't cancel
    total, squares = torch.zeros_like(first), torch.zeros_like(first)
    for batch in tqdm(items.batches(), "Measuring items", -(-len(items) // READ_BATCH_SIZE), delay=5):
        centered = batch.double() - first
        total += centered.sum(dim=0)
        squares += centered.pow(2).sum(dim=0)
    shift = total / len(items)
    variance = (squares / len(items) - shift.pow(2)).clamp(min=0)
    check_magnitude(first + shift, variance)
    return (first + shift).float(), variance.sqrt().float()


def check_magnitude(mean: torch.Tensor, variances: torch.Tensor) -> None:
    """Refuses items, by their mean and variances, whose squares k-means in float32 can't hold."""
    mean_square = float(mean.pow(2).sum() + variances.sum())
    if not mean_square <= _MAX_MEAN_SQUARE:
        raise InvalidEmbeddingsError(
            f"`items` have embeddings of a root mean square length of {mean_square**0.5:.3g}, whose squares are too "
            f"large for float32. Scale them, to at most {_MAX_MEAN_SQUARE**0.5:.0e}."
        )


def read_rows(items: "ItemEmbeddings", rows: np.ndarray) -> Iterator[torch.Tensor]:
    """The embeddings of increasing row numbers, in batches."""
    from ..data.embeddings import READ_BATCH_SIZE

    for part in np.array_split(rows, -(-len(rows) // READ_BATCH_SIZE)):
        yield items.__getitems__(part)["embeddings"]


def sample_rows(num_items: int, sample_size: int, seed: int = 0) -> np.ndarray:
    """At most `sample_size` row numbers drawn at random without replacement, in increasing order."""
    if sample_size >= num_items:
        return np.arange(num_items)
    return np.sort(np.random.default_rng(seed).choice(num_items, sample_size, replace=False))


def sample_items(items: "ItemEmbeddings", sample_size: int, seed: int = 0) -> torch.Tensor:
    """The embeddings of [`sample_rows`]."""
    if sample_size >= len(items):
        return items.to_tensor()
    return torch.cat(list(read_rows(items, sample_rows(len(items), sample_size, seed))))
