# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""DAS configuration."""

import math

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from ..rqvae.configuration_rqvae import RQVAEConfig


ALIGNMENTS = ("u2i", "i2i", "u2u", "co_i2i", "co_u2u")


@strict
class DASConfig(RQVAEConfig):
    r"""
    Configuration of a [`DASModel`], an RQ-VAE of items and one of users that are aligned with collaborative vectors
    (Dual-Aligned Semantic IDs, https://huggingface.co/papers/2508.10584). The weights of its losses aren't published.
    By default each of the five alignments has the weight 0.2 beside losses that are averaged over dimensions
    (`quantization_loss="cumulative"`), so that all of them count as FORGE's contrastive loss does, and
    `0.2 * input_dim` beside those that are summed (`"per_level"`). 0 leaves one out.

    Args:
        user_input_dim (`int`, *optional*):
            Width of the user embeddings. Defaults to `input_dim`.
        user_hidden_sizes (`list[int]`, *optional*):
            Widths of the hidden layers of the users' encoder. Defaults to `hidden_sizes`.
        user_codebook_sizes (`list[int]`, *optional*):
            Number of codes of each level of users. Defaults to `codebook_sizes`.
        collaborative_dim (`int`, *optional*):
            Width of the collaborative vectors of items and users. Defaults to `codebook_dim`. Where it is another, a
            linear map without bias is learned that takes both to `codebook_dim`.
        temperature (`float`, *optional*, defaults to 0.1):
            Temperature of the alignments, whose scores are cosines.
        user_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the loss of the users' RQ-VAE.
        u2i_loss_weight (`float`, *optional*):
            Weight of the alignment of quantized users with the collaborative vectors of their items, and of quantized
            items with those of their users.
        i2i_loss_weight (`float`, *optional*):
            Weight of the alignment of quantized items with their own collaborative vectors.
        u2u_loss_weight (`float`, *optional*):
            Weight of the alignment of quantized users with their own collaborative vectors.
        co_i2i_loss_weight (`float`, *optional*):
            Weight of the alignment of quantized items with the collaborative vectors of other items of the same user.
        co_u2u_loss_weight (`float`, *optional*):
            Weight of the alignment of quantized users with the collaborative vectors of other users of the same item.
        kwargs (*optional*):
            The other fields of [`RQVAEConfig`], with its meanings and defaults. They hold for items and users.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type or out of range; the message names
        the field.

    Example:

    ```python
    >>> from forge_hf.models import DASConfig, DASModel

    >>> config = DASConfig(input_dim=384, user_input_dim=128, collaborative_dim=64, user_codebook_sizes=[64, 64])
    >>> config.user_config.input_dim, config.user_config.codebook_sizes
    (128, [64, 64])
    >>> model = DASModel(config)
    ```
    """

    model_type = "das"
    _auto_class = None  # it needs forge_hf: its code isn't saved with it

    user_input_dim: int | None = None
    user_hidden_sizes: list[int] | tuple[int, ...] | None = None
    user_codebook_sizes: list[int] | tuple[int, ...] | None = None
    collaborative_dim: int | None = None
    temperature: float | int = 0.1
    user_loss_weight: float | int = 1.0
    u2i_loss_weight: float | int | None = None
    i2i_loss_weight: float | int | None = None
    u2u_loss_weight: float | int | None = None
    co_i2i_loss_weight: float | int | None = None
    co_u2u_loss_weight: float | int | None = None

    def __post_init__(self, **kwargs):
        for name in ("input_dim", "hidden_sizes", "codebook_sizes"):
            if getattr(self, f"user_{name}") is None:
                setattr(self, f"user_{name}", getattr(self, name))
        for name in ALIGNMENTS:
            if getattr(self, f"{name}_loss_weight") is None:
                scale = 1 if self.quantization_loss == "cumulative" else self.input_dim
                setattr(self, f"{name}_loss_weight", 0.2 * scale)
        if self.collaborative_dim is None:
            self.collaborative_dim = self.codebook_dim
        super().__post_init__(**kwargs)

    @property
    def user_config(self) -> RQVAEConfig:
        """Configuration of the users' RQ-VAE."""
        names = ("input_dim", "hidden_sizes", "codebook_sizes")
        fields = {name: getattr(self, name) for name in RQVAEConfig.__annotations__ if name not in names}
        return RQVAEConfig(**fields, **{name: getattr(self, f"user_{name}") for name in names})

    def validate_architecture(self):
        """Part of `@strict`-powered validation: checks the values of the fields, and fields against each other."""
        super().validate_architecture()
        if self.contrastive_loss_weight != 0:
            raise ValueError(
                "`contrastive_loss_weight` must be 0, since the pairs are of users and items, but is "
                f"{self.contrastive_loss_weight}. Use `co_i2i_loss_weight`."
            )
        if self.collaborative_dim < 1:
            raise ValueError(f"`collaborative_dim` must be at least 1, but is {self.collaborative_dim}.")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"`temperature` must be positive and finite, but is {self.temperature}.")
        for name in ("user", *ALIGNMENTS):
            if not 0 <= (weight := getattr(self, f"{name}_loss_weight")) < math.inf:
                raise ValueError(f"`{name}_loss_weight` must be finite and not negative, but is {weight}.")
        try:
            self.user_config  # noqa: B018
        except StrictDataclassError as error:
            raise ValueError(f"The users' RQ-VAE (`user_input_dim`, `user_codebook_sizes`, ...): {error}") from error


__all__ = ["DASConfig"]
