# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""VQ-VAE configuration."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from ..rqvae.configuration_rqvae import RQVAEConfig


@strict
class VQVAEConfig(RQVAEConfig):
    r"""
    Configuration of a [`VQVAEModel`], an autoencoder whose latents are quantized by one codebook
    (https://huggingface.co/papers/1711.00937), or by several that are independent of each other: codes have no order.

    Args:
        codebook_sizes (`list[int]`, *optional*, defaults to `[8192]`):
            Number of codes of each codebook. One is the flat VQ-VAE.
        codebook_form (`str`, *optional*, defaults to `"product"`):
            What several codebooks quantize. `"product"` cuts the latent into as many chunks of equal width, one for
            each codebook. `"multi"` gives all of them the whole latent; the decoder gets the sum of their codes.
        quantization_loss (`str`, *optional*, defaults to `"per_level"`):
            `"per_level"` sums losses over codebooks and dimensions, as in [`RQVAEConfig`]. `"cumulative"` averages
            them over dimensions, and is for one codebook.
        kwargs (*optional*):
            The other fields of [`RQVAEConfig`], with its meanings and defaults: `input_dim`, `hidden_sizes`,
            `codebook_dim`, `codebook_update` (`"gradient"`, `"ema"` or `"simvq"`), `dead_code_threshold`,
            `gradient_estimator`, `training_assignment`, and so on.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type or out of range; the message names
        the field.

    Example:

    ```python
    >>> from forge_hf.models import VQVAEConfig, VQVAEModel

    >>> config = VQVAEConfig(input_dim=384, codebook_dim=32, codebook_sizes=[256] * 4)  # 4 chunks of 8 dimensions
    >>> model = VQVAEModel(config)
    >>> model.get_codebook(0).shape
    torch.Size([256, 8])
    ```
    """

    model_type = "vqvae"
    _auto_class = None  # it needs forge_hf: its code isn't saved with it

    codebook_sizes: list[int] | tuple[int, ...] = (8192,)
    codebook_form: Literal["product", "multi"] = "product"

    def validate_architecture(self):
        """Part of `@strict`-powered validation: checks the values of the fields, and fields against each other."""
        super().validate_architecture()
        if self.codebook_form == "product" and self.codebook_dim % self.num_levels != 0:
            raise ValueError(
                f"`codebook_dim` must be a multiple of the number of codebooks, {self.num_levels}, so that the latent "
                f"can be cut into chunks, but is {self.codebook_dim}."
            )
        if self.quantization_loss == "cumulative" and self.num_levels > 1:
            raise ValueError(
                "`quantization_loss='cumulative'` is for levels that add up, or one codebook, but `codebook_sizes` is "
                f"{list(self.codebook_sizes)}. Use 'per_level'."
            )


__all__ = ["VQVAEConfig"]
