# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""LSH configuration."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from ..configuration_item_tokenizer import ItemTokenizerConfig


@strict
class LSHConfig(ItemTokenizerConfig):
    r"""
    Configuration of an [`LSHModel`].

    Args:
        input_dim (`int`, *optional*, defaults to 768):
            Width of the item embeddings.
        codebook_sizes (`list[int]`, *optional*, defaults to `[256, 256, 256]`):
            Number of codes of each level, powers of 2: a level of `2**h` codes has `h` hyperplanes.
        input_normalization (`str`, *optional*, defaults to `"center"`):
            What is done to an embedding first, with statistics of the fitted items. Text embeddings lie in a narrow
            cone, where most hyperplanes through the origin have all items on one side: `"center"` takes the mean item
            away; `"standardize"` also divides each dimension by its own deviation; `"none"` leaves embeddings alone.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type or out of range; the message names
        the field.

    Example:

    ```python
    >>> from forge_hf.models import LSHConfig, LSHModel

    >>> config = LSHConfig(input_dim=384, codebook_sizes=[256, 256, 64])
    >>> config.num_planes
    [8, 8, 6]
    >>> model = LSHModel(config)
    ```
    """

    model_type = "lsh"

    input_normalization: Literal["none", "center", "standardize"] = "center"

    @property
    def num_planes(self) -> list[int]:
        """Number of hyperplanes of each level."""
        return [int(size).bit_length() - 1 for size in self.codebook_sizes]

    @property
    def num_weights(self) -> int:
        """How many numbers the model holds."""
        return sum(self.num_planes) * self.input_dim

    def validate_architecture(self):
        """Part of `@strict`-powered validation: checks the values of the fields, and fields against each other."""
        super().validate_architecture()
        if any(size.bit_count() != 1 for size in self.codebook_sizes):
            raise ValueError(f"`codebook_sizes` must be powers of 2, but is {list(self.codebook_sizes)}.")
        if max(self.codebook_sizes) > 2**31:
            raise ValueError(f"`codebook_sizes` must be at most 2**31, but is {list(self.codebook_sizes)}.")


__all__ = ["LSHConfig"]
