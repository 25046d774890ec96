# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""LETTER configuration."""

import math

from huggingface_hub.dataclasses import strict

from ..rqvae.configuration_rqvae import RQVAEConfig


@strict
class LetterConfig(RQVAEConfig):
    r"""
    Configuration of a [`LetterModel`], an RQ-VAE with LETTER's collaborative and diversity losses
    (https://huggingface.co/papers/2405.07314).

    Args:
        codebook_sizes (`list[int]`, *optional*, defaults to `[256, 256, 256, 256]`):
            Number of codes of each level.
        collaborative_loss_weight (`float`, *optional*):
            Weight of the collaborative loss, LETTER's alpha. 0 leaves it out. LETTER's code uses 0.01 to 0.1 with
            losses that are averaged over dimensions; 0.02 is the default of `quantization_loss="cumulative"`. With
            `"per_level"`, which sums them, the default is `0.02 * input_dim`: the same balance with the
            reconstruction.
        collaborative_dim (`int`, *optional*):
            Width of the collaborative vectors. Defaults to `codebook_dim`. Where it is another, a linear map without
            bias is learned that takes them to `codebook_dim`.
        diversity_loss_weight (`float`, *optional*):
            Weight of the diversity loss, LETTER's beta. 0 leaves it out. Defaults to LETTER's 1e-4 or, with
            `quantization_loss="per_level"`, `1e-4 * codebook_dim * num_levels`: the same balance with the codebook
            loss, which is summed over both where this one is a mean over levels.
        diversity_num_clusters (`int`, *optional*, defaults to 10):
            Number of groups of equal size that the codes of each level are clustered into.
        diversity_update_steps (`int`, *optional*, defaults to 100):
            Number of training steps after which the codes are clustered anew.
        kwargs (*optional*):
            The other fields of [`RQVAEConfig`], with its meanings and defaults.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type or out of range; the message names
        the field.

    Example:

    ```python
    >>> from forge_hf.models import LetterConfig, LetterModel

    >>> config = LetterConfig(input_dim=384, collaborative_dim=64)
    >>> config.collaborative_loss_weight
    7.68
    >>> model = LetterModel(config)
    ```
    """

    model_type = "letter"
    _auto_class = None  # it needs forge_hf: its code isn't saved with it

    codebook_sizes: list[int] | tuple[int, ...] = (256, 256, 256, 256)
    collaborative_loss_weight: float | int | None = None
    collaborative_dim: int | None = None
    diversity_loss_weight: float | int | None = None
    diversity_num_clusters: int = 10
    diversity_update_steps: int = 100

    def __post_init__(self, **kwargs):
        averages = self.quantization_loss == "cumulative"
        if self.collaborative_loss_weight is None:
            self.collaborative_loss_weight = 0.02 * (1 if averages else self.input_dim)
        if self.diversity_loss_weight is None:
            self.diversity_loss_weight = 1e-4 * (1 if averages else self.codebook_dim * self.num_levels)
        if self.collaborative_dim is None:
            self.collaborative_dim = self.codebook_dim
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict`-powered validation: checks the values of the fields, and fields against each other."""
        super().validate_architecture()
        for name in ("collaborative_loss_weight", "diversity_loss_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be finite and not negative, but is {getattr(self, name)}.")
        for name in ("collaborative_dim", "diversity_num_clusters", "diversity_update_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")
        if self.diversity_loss_weight > 0:
            if self.codebook_update == "ema":
                raise ValueError(
                    "`diversity_loss_weight` must be 0 with `codebook_update='ema'`, whose codes follow no loss, but "
                    f"is {self.diversity_loss_weight}. Use 'gradient'."
                )
            if self.diversity_num_clusters > min(self.codebook_sizes):
                raise ValueError(
                    "`diversity_num_clusters` must be at most the smallest of `codebook_sizes`, "
                    f"{min(self.codebook_sizes)}, but is {self.diversity_num_clusters}."
                )


__all__ = ["LetterConfig"]
