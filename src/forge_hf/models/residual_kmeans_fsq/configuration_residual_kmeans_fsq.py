# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of residual k-means with a last level by finite scalar quantization."""

import math

from huggingface_hub.dataclasses import strict

from ..configuration_item_tokenizer import ItemTokenizerConfig
from ..fsq.configuration_fsq import check_fsq_levels


__all__ = ["ResidualKMeansFSQConfig"]


@strict
class ResidualKMeansFSQConfig(ItemTokenizerConfig):
    r"""
    Configuration of a [`ResidualKMeansFSQModel`]. The defaults are OneMall's: two levels of k-means, and a last one of
    4096 codes that are 12 binary values.

    Args:
        input_dim (`int`, *optional*, defaults to 768):
            Width of the item embeddings.
        codebook_sizes (`list[int]`, *optional*, defaults to `[256, 256, 4096]`):
            Number of codes of each level. The last must be the product of `fsq_levels`.
        fsq_levels (`list[int]`, *optional*, defaults to `[2] * 12`):
            Number of values of each dimension of the last level, at least 2 each. `[2] * 8` makes 256 codes.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type or out of range; the message names
        the field.

    Example:

    ```python
    >>> from forge_hf.models import ResidualKMeansFSQConfig

    >>> config = ResidualKMeansFSQConfig(input_dim=384, codebook_sizes=[256, 256, 256], fsq_levels=[2] * 8)
    >>> config.num_levels
    3
    ```
    """

    model_type = "residual_kmeans_fsq"

    codebook_sizes: list[int] | tuple[int, ...] = (256, 256, 4096)
    fsq_levels: list[int] | tuple[int, ...] = (2,) * 12

    @property
    def num_weights(self) -> int:
        """How many numbers the model holds."""
        return (sum(self.codebook_sizes[:-1]) + len(self.fsq_levels) + 3) * self.input_dim

    def validate_architecture(self):
        """Part of `@strict`-powered validation: checks the values of the fields, and fields against each other."""
        super().validate_architecture()
        check_fsq_levels("fsq_levels", [self.fsq_levels])
        if len(self.codebook_sizes) < 2:
            raise ValueError(
                "`codebook_sizes` must have one or more levels of k-means before the last, "
                f"but is {list(self.codebook_sizes)}."
            )
        if self.codebook_sizes[-1] != math.prod(self.fsq_levels):
            raise ValueError(
                f"The last of `codebook_sizes` must be the product of `fsq_levels`, {math.prod(self.fsq_levels)}, "
                f"but is {self.codebook_sizes[-1]}."
            )
        if len(self.fsq_levels) > self.input_dim:
            raise ValueError(
                f"`fsq_levels` must have at most `input_dim`, {self.input_dim}, dimensions, "
                f"but has {len(self.fsq_levels)}."
            )
