# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What the configs of most item tokenizers share: the width of the embeddings, the codes of each level, limits."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .rqvae.configuration_rqvae import MAX_NUM_LEVELS, MAX_NUM_WEIGHTS


__all__ = ["ItemTokenizerConfig"]


@strict
class ItemTokenizerConfig(PreTrainedConfig):
    """
    Base of the configs of item tokenizers but for the RQ-VAE and its like. A subclass sets `model_type`, and says by
    `num_weights` how many numbers its model holds.

    Args:
        input_dim (`int`, *optional*, defaults to 768):
            Width of the item embeddings.
        codebook_sizes (`list[int]`, *optional*, defaults to `[256, 256, 256]`):
            Number of codes of each level.
    """

    input_dim: int = 768
    codebook_sizes: list[int] | tuple[int, ...] = (256, 256, 256)

    @property
    def num_levels(self) -> int:
        """Number of codes of an item."""
        return len(self.codebook_sizes)

    @property
    def num_weights(self) -> int:
        """How many numbers the model holds."""
        return sum(self.codebook_sizes) * self.input_dim

    def validate_architecture(self):
        """Part of `@strict`-powered validation: checks the values of the fields, and fields against each other."""
        if self.input_dim < 1:
            raise ValueError(f"`input_dim` must be at least 1, but is {self.input_dim}.")
        if not self.codebook_sizes or any(size < 2 for size in self.codebook_sizes):
            raise ValueError(
                "`codebook_sizes` must give at least 2 codes to each of one or more levels, "
                f"but is {list(self.codebook_sizes)}."
            )
        if self.num_weights > MAX_NUM_WEIGHTS or self.num_levels > MAX_NUM_LEVELS:
            raise ValueError(
                f"`input_dim` and `codebook_sizes` ask for {self.num_weights:,} weights in {self.num_levels:,} "
                f"levels; at most {MAX_NUM_WEIGHTS:,} in {MAX_NUM_LEVELS} are supported."
            )
