# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of finite scalar quantization."""

import math
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN

from ..configuration_item_tokenizer import ItemTokenizerConfig


__all__ = ["FSQConfig"]


@strict
class FSQConfig(ItemTokenizerConfig):
    r"""
    Configuration of an [`FSQModel`], an autoencoder whose latent dimensions are each rounded to a few values (finite
    scalar quantization, https://huggingface.co/papers/2309.15505). There is no codebook, and so none that collapses.

    Latent dimensions are grouped: each group makes one code of the semantic ID, which counts the combinations of its
    dimensions' values.

    Args:
        input_dim (`int`, *optional*, defaults to 768):
            Width of the item embeddings.
        fsq_levels (`list[list[int]]`, *optional*, defaults to `[[8, 6, 5], [8, 6, 5], [8, 6, 5]]`):
            For each level of the semantic ID, the number of values that each of its latent dimensions may take, at
            least 2. A group has the product of these as its number of codes: `[8, 6, 5]` has 240. The paper recommends
            `[8, 6, 5]` for about 2^8 codes, `[8, 5, 5, 5]` for 2^10, `[7, 5, 5, 5, 5]` for 2^12, `[8, 8, 8, 6, 5]` for
            2^14.
        codebook_sizes (`list[int]`, *optional*):
            Number of codes of each level. It follows from `fsq_levels` and is saved with it; if given, it must agree.
        hidden_sizes (`list[int]`, *optional*, defaults to `[512, 256, 128]`):
            Widths of the encoder's hidden layers; the decoder mirrors them. May be empty.
        hidden_act (`str`, *optional*, defaults to `"relu"`):
            Activation of the hidden layers, a key of `transformers.activations.ACT2FN`.
        dropout (`float`, *optional*, defaults to 0.0):
            Dropout after each hidden activation, in training.
        input_normalization (`str`, *optional*, defaults to `"center"`):
            What is done to an embedding before the encoder, with statistics of the training items: `"center"`,
            `"standardize"` or `"none"`, as in [`RQVAEConfig`].
        reconstruction_loss (`str`, *optional*, defaults to `"mse"`):
            `"mse"`, `"l1"` or `"cosine"`, measured on the normalized input and averaged over dimensions and items.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type or out of range; the message names
        the field.

    Example:

    ```python
    >>> from forge_hf.models import FSQConfig

    >>> config = FSQConfig(input_dim=384, fsq_levels=[[8, 6, 5], [2] * 8])
    >>> config.codebook_sizes, config.latent_dim
    ([240, 256], 11)
    ```
    """

    model_type = "fsq"

    fsq_levels: list[list[int] | tuple[int, ...]] | tuple[list[int] | tuple[int, ...], ...] = ((8, 6, 5),) * 3
    codebook_sizes: list[int] | tuple[int, ...] | None = None
    hidden_sizes: list[int] | tuple[int, ...] = (512, 256, 128)
    hidden_act: str = "relu"
    dropout: float | int = 0.0
    input_normalization: Literal["none", "center", "standardize"] = "center"
    reconstruction_loss: Literal["mse", "l1", "cosine"] = "mse"

    def __post_init__(self, **kwargs):
        if self.codebook_sizes is None:
            self.codebook_sizes = [math.prod(group) for group in self.fsq_levels]
        super().__post_init__(**kwargs)

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions, over all levels."""
        return sum(map(len, self.fsq_levels))

    @property
    def num_weights(self) -> int:
        """How many numbers the model holds."""
        widths = [self.input_dim, *self.hidden_sizes, self.latent_dim]
        return 2 * sum(a * b for a, b in zip(widths, widths[1:], strict=False))

    def validate_architecture(self):
        """Part of `@strict`-powered validation: checks the values of the fields, and fields against each other."""
        check_fsq_levels("fsq_levels", self.fsq_levels)
        sizes = [math.prod(group) for group in self.fsq_levels]
        if list(self.codebook_sizes) != sizes:
            raise ValueError(
                f"`codebook_sizes` must be the products of `fsq_levels`, {sizes}, but is {list(self.codebook_sizes)}. "
                "Leave it out."
            )
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"`hidden_sizes` must be positive, but is {list(self.hidden_sizes)}.")
        super().validate_architecture()
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"`hidden_act` must be one of {sorted(ACT2FN)}, but is {self.hidden_act!r}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), but is {self.dropout}.")


def check_fsq_levels(name: str, groups) -> None:
    """Refuses groups of dimensions that can't be a grid."""
    if not groups or any(not group or min(group) < 2 for group in groups):
        raise ValueError(f"`{name}` must give at least 2 values to each of one or more dimensions, but is {groups}.")
    if any(math.prod(group) > 2**31 for group in groups):
        raise ValueError(f"`{name}` must make at most 2^31 codes a level, but is {groups}.")
    if any(max(group) > 2**20 for group in groups):  # beyond that float32 doesn't tell values apart
        raise ValueError(f"`{name}` must give at most 2^20 values to a dimension, but is {groups}.")
