# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of (optimized) product quantization."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from ..configuration_item_tokenizer import ItemTokenizerConfig


__all__ = ["OPQConfig"]


@strict
class OPQConfig(ItemTokenizerConfig):
    r"""
    Configuration of an [`OPQModel`], which cuts an embedding into as many sub-vectors as there are levels and
    quantizes each by a codebook of its own: the long, order-free semantic IDs of RPG
    (https://huggingface.co/papers/2506.05781).

    RPG's recipe for 768-dimensional Sentence-T5 embeddings is `OPQConfig(input_dim=768, pca_dim=128, whiten=True)`
    with 4 to 64 levels of 256 codes, fitted on the items that occur in training.

    Args:
        input_dim (`int`, *optional*, defaults to 768):
            Width of the item embeddings.
        codebook_sizes (`list[int]`, *optional*, defaults to `[256] * 32`):
            Number of codes of each sub-vector: one power of 2 for all. The number of levels must divide the width of
            what is quantized, which is `pca_dim` or, without it, `input_dim`.
        pca_dim (`int`, *optional*):
            Width that embeddings are reduced to first, by their principal components. `None` keeps them whole.
        whiten (`bool`, *optional*, defaults to `False`):
            Whether embeddings are turned to their principal components, each divided by its deviation, so that all
            count the same.
        rotation (`str`, *optional*, defaults to `"opq"`):
            How dimensions are dealt out to the sub-vectors, whose codes know nothing of each other:

            - `"none"`: in order, as in product quantization
              (https://doi.org/10.1109/TPAMI.2010.57).
            - `"pca"`: principal components, spread so that the variances of all sub-vectors have about the same
              product; the parametric form of OPQ (https://doi.org/10.1109/TPAMI.2013.240), the best rotation if
              items were Gaussian. It costs one pass over the items.
            - `"opq"`: a rotation trained with the codebooks (the same paper's non-parametric form) by faiss, which
              starts from `"pca"`.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type or out of range; the message names
        the field.

    Example:

    ```python
    >>> from forge_hf.models import OPQConfig

    >>> OPQConfig(input_dim=384, codebook_sizes=[256] * 16).sub_dim
    24
    ```
    """

    model_type = "opq"

    codebook_sizes: list[int] | tuple[int, ...] = (256,) * 32
    pca_dim: int | None = None
    whiten: bool = False
    rotation: Literal["none", "pca", "opq"] = "opq"

    @property
    def width(self) -> int:
        """Width of what is quantized."""
        return self.input_dim if self.pca_dim is None else self.pca_dim

    @property
    def sub_dim(self) -> int:
        """Width of a sub-vector."""
        return self.width // self.num_levels

    @property
    def num_weights(self) -> int:
        """How many numbers the model holds."""
        return self.width * (2 * self.input_dim + self.codebook_sizes[0])

    def validate_architecture(self):
        """Part of `@strict`-powered validation: checks the values of the fields, and fields against each other."""
        super().validate_architecture()
        size = self.codebook_sizes[0]
        if any(other != size for other in self.codebook_sizes) or size & (size - 1) != 0:
            raise ValueError(
                f"`codebook_sizes` must be one power of 2 for all levels, but is {list(self.codebook_sizes)}."
            )
        if self.pca_dim is not None and not 1 <= self.pca_dim <= self.input_dim:
            raise ValueError(f"`pca_dim` must be in [1, {self.input_dim}] (`input_dim`), but is {self.pca_dim}.")
        if self.width % self.num_levels != 0:
            name = "input_dim" if self.pca_dim is None else "pca_dim"
            raise ValueError(
                f"`codebook_sizes` has {self.num_levels} levels, which don't divide `{name}`, {self.width}, into "
                "sub-vectors. Use another number of levels, or set `pca_dim` to a multiple of it."
            )
