# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Hierarchical k-means configuration."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from ..configuration_item_tokenizer import ItemTokenizerConfig


@strict
class HierarchicalKMeansConfig(ItemTokenizerConfig):
    r"""
    Configuration of a [`HierarchicalKMeansModel`].

    Args:
        input_dim (`int`, *optional*, defaults to 768):
            Width of the item embeddings.
        codebook_sizes (`list[int]`, *optional*, defaults to `[256, 256, 256]`):
            Into how many clusters a cluster of each level is divided at most. There is nothing left to divide once
            their product is above the number of items: `[16, 16, 16]` suits some thousands of items. A tree holds at
            most `2**28 / input_dim` clusters in all its levels, 350,000 of width 768.
        input_normalization (`str`, *optional*, defaults to `"center"`):
            What is done to an embedding first, with statistics of the fitted items. `"center"` takes the mean item
            away and divides by one number, which keeps all distances between items; `"standardize"` divides each
            dimension by its own deviation; `"none"` leaves embeddings alone.
        num_nodes (`list[int]`, *optional*):
            Number of clusters of each level. Set by [`~HierarchicalKMeansModel.fit`].

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type or out of range; the message names
        the field.

    Example:

    ```python
    >>> from forge_hf.models import HierarchicalKMeansConfig, HierarchicalKMeansModel

    >>> config = HierarchicalKMeansConfig(input_dim=384, codebook_sizes=[16, 16, 16])
    >>> config.num_levels
    3
    >>> model = HierarchicalKMeansModel(config)
    ```
    """

    model_type = "hierarchical_kmeans"

    input_normalization: Literal["none", "center", "standardize"] = "center"
    num_nodes: list[int] | tuple[int, ...] | None = None

    @property
    def num_weights(self) -> int:
        """How many numbers the model holds."""
        return sum(self.num_nodes or ()) * (self.input_dim + 1)

    def validate_architecture(self):
        """Part of `@strict`-powered validation: checks the values of the fields, and fields against each other."""
        super().validate_architecture()
        if self.num_nodes is None:
            return
        parents = [1, *self.num_nodes]
        levels = list(zip(parents, self.num_nodes, self.codebook_sizes, strict=False))
        if len(self.num_nodes) != self.num_levels or any(not p <= n <= p * size for p, n, size in levels):
            raise ValueError(
                f"`num_nodes` must give each of {self.num_levels} levels at least as many clusters as the level "
                f"before and at most `codebook_sizes` times as many, but is {list(self.num_nodes)}."
            )


__all__ = ["HierarchicalKMeansConfig"]
