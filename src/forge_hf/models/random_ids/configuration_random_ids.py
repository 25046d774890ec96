# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Random IDs configuration."""

from huggingface_hub.dataclasses import strict

from ..configuration_item_tokenizer import ItemTokenizerConfig


@strict
class RandomIdsConfig(ItemTokenizerConfig):
    r"""
    Configuration of a [`RandomIdsModel`].

    Args:
        input_dim (`int`, *optional*, defaults to 768):
            Width of the item embeddings.
        codebook_sizes (`list[int]`, *optional*, defaults to `[256, 256, 256]`):
            Number of codes of each level, at most 2^31.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type or out of range; the message names
        the field.

    Example:

    ```python
    >>> from forge_hf.models import RandomIdsConfig, RandomIdsModel

    >>> config = RandomIdsConfig(input_dim=384, codebook_sizes=[256, 256, 64])
    >>> config.num_levels
    3
    >>> model = RandomIdsModel(config)
    ```
    """

    model_type = "random_ids"

    @property
    def num_weights(self) -> int:
        """How many numbers the model holds."""
        return self.input_dim

    def validate_architecture(self):
        """Part of `@strict`-powered validation: checks the values of the fields, and fields against each other."""
        super().validate_architecture()
        if max(self.codebook_sizes) > 2**31:
            raise ValueError(f"`codebook_sizes` must be at most 2**31, but is {list(self.codebook_sizes)}.")


__all__ = ["RandomIdsConfig"]
