# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Residual k-means configuration."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from ..configuration_item_tokenizer import ItemTokenizerConfig


@strict
class ResidualKMeansConfig(ItemTokenizerConfig):
    r"""
    Configuration of a [`ResidualKMeansModel`].

    Args:
        input_dim (`int`, *optional*, defaults to 768):
            Width of the item embeddings.
        codebook_sizes (`list[int]`, *optional*, defaults to `[256, 256, 256]`):
            Number of codes of each level. Levels may differ.
        input_normalization (`str`, *optional*, defaults to `"center"`):
            What is done to an embedding first, with statistics of the fitted items. `"center"` takes the mean item
            away and divides by one number, which keeps all distances between items; `"standardize"` divides each
            dimension by its own deviation; `"none"` leaves embeddings alone.
        normalize_residuals (`bool`, *optional*, defaults to `False`):
            Whether what goes into each level is scaled to length 1 first, as in GRID
            (https://huggingface.co/papers/2507.22224). Codes then tell directions apart.
        balanced (`bool`, *optional*, defaults to `False`):
            Whether clusters are fitted to equal size, as in OneRec (https://huggingface.co/papers/2502.18965).

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type or out of range; the message names
        the field.

    Example:

    ```python
    >>> from forge_hf.models import ResidualKMeansConfig, ResidualKMeansModel

    >>> config = ResidualKMeansConfig(input_dim=384, codebook_sizes=[256, 256, 64])
    >>> config.num_levels
    3
    >>> model = ResidualKMeansModel(config)
    ```
    """

    model_type = "residual_kmeans"

    input_normalization: Literal["none", "center", "standardize"] = "center"
    normalize_residuals: bool = False
    balanced: bool = False


__all__ = ["ResidualKMeansConfig"]
