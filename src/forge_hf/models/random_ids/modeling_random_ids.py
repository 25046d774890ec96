# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Random IDs: codes that say nothing of the items, by a hash of their embeddings."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..fitting import FittedItemTokenizerModel
from .configuration_random_ids import RandomIdsConfig


if TYPE_CHECKING:
    from ...data import ItemEmbeddings


# Odd 64-bit constants of the splitmix64 generator (Steele et al., Fast splittable pseudorandom number generators).
GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class RandomIdsModel(FittedItemTokenizerModel):
    r"""
    Random codes, the baseline of TIGER (https://huggingface.co/papers/2305.05065) that any semantic ID must beat.

    A model sees embeddings only, so that an item's code is a seeded hash of the bits of its float32 embedding: the
    same in any batch, uniform, and of no relation to those of its neighbours. Two items of equal embeddings have equal
    codes, others by chance: about `num_items**2 / (2 * prod(codebook_sizes))` pairs. The least change of an embedding
    gives other codes.

    There is nothing to decode: [`~RandomIdsModel.decode`] refuses.

    Args:
        config ([`RandomIdsConfig`]):
            The configuration.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.data import ItemEmbeddings
    >>> from forge_hf.models import RandomIdsConfig, RandomIdsModel

    >>> items = ItemEmbeddings(torch.randn(200, 16))
    >>> model = RandomIdsModel(RandomIdsConfig(input_dim=16, codebook_sizes=[8, 8])).fit(items)
    >>> model.encode(items.to_tensor()).codes.shape
    torch.Size([200, 2])
    ```
    """

    config: RandomIdsConfig
    base_model_prefix = "random_ids"

    def __init__(self, config: RandomIdsConfig):
        super().__init__(config)
        self.register_buffer("keys", torch.zeros(config.input_dim, dtype=torch.int64))
        self.post_init()

    @torch.no_grad()
    def fit(self, items: "ItemEmbeddings", *, seed: int = 0) -> "RandomIdsModel":
        """
        Draws the keys of the hash. The items are only checked.

        Args:
            items ([`ItemEmbeddings`]):
                The items, which need not fit in memory.
            seed (`int`, *optional*, defaults to 0):
                The same seed gives the same codes.

        Returns:
            The model itself.

        Raises:
            [`InvalidEmbeddingsError`]: if the embeddings are empty, of another width or not finite.
            [`DuplicateItemError`]: if an item id occurs twice.
        """
        self._check_items(items, seed=seed)
        keys = np.random.default_rng(seed).integers(-(2**63), 2**63, self.config.input_dim, dtype=np.int64)
        self.keys.copy_(torch.from_numpy(keys))
        self.initialized.fill_(True)
        return self

    def _encode_chunk(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, None]:
        values = embeddings.float() + 0.0  # as they came; -0 is 0
        bits = values.view(torch.int32).long()
        # 64-bit integers wrap around, in any order of summation to the same.
        hashes = _mix(bits + self.keys.to(bits)).sum(dim=1)
        codes = []
        for level, size in enumerate(self.config.codebook_sizes):
            mixed = _mix(hashes + _signed(GOLDEN * (level + 1)))
            codes.append((mixed >> 1 & (2**63 - 1)) % size)
        return torch.stack(codes, dim=1), None

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """
        Always refused: random codes say nothing of the embeddings.

        Raises:
            `NotImplementedError`
        """
        raise NotImplementedError(
            "RandomIdsModel can't decode: its codes are a hash of the embeddings and say nothing of them."
        )


def _signed(value: int) -> int:
    """The int64 of the lowest 64 bits."""
    value %= 2**64
    return value - 2**64 if value >= 2**63 else value


def _mix(values: torch.Tensor) -> torch.Tensor:
    """The last steps of splitmix64, a bijection of 64-bit integers after which each bit depends on all."""
    values = (values ^ (values >> 30 & (2**34 - 1))) * _signed(MIX_1)
    values = (values ^ (values >> 27 & (2**37 - 1))) * _signed(MIX_2)
    return values ^ (values >> 31 & (2**33 - 1))


__all__ = ["RandomIdsModel"]
