# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of MMQ."""

import math
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN

from ..configuration_item_tokenizer import ItemTokenizerConfig
from ..rqvae.configuration_rqvae import MAX_NUM_LEVELS


__all__ = ["MMQConfig"]


@strict
class MMQConfig(ItemTokenizerConfig):
    r"""
    Configuration of an [`MMQModel`], a multimodal mixture of quantizations
    (https://huggingface.co/papers/2508.15281): experts that see all modalities of an item and experts that see one,
    each with a codebook of its own. An item's embedding is its modalities side by side, as
    [`ItemEmbeddings.concatenate`] puts them.

    The levels of the semantic ID are the shared experts first, then the specific experts of the first modality, of the
    second, and so on. They have no order beside that: each is chosen by itself.

    The numbers of experts and the first three weights of the loss are the paper's.

    Args:
        modality_dims (`list[int]`, *optional*, defaults to `[384, 64]`):
            Width of each of two or more modalities, in the order that they stand in an embedding.
        input_dim (`int`, *optional*):
            Width of the item embeddings. It is the sum of `modality_dims` and is saved with it; if given, it must
            agree.
        num_shared_experts (`int`, *optional*, defaults to 2):
            Number of experts that see all modalities. May be 0.
        num_specific_experts (`int`, *optional*, defaults to 2):
            Number of experts of each modality, which see that one. May be 0.
        codebook_sizes (`list[int]`, *optional*):
            Number of codes of each expert, `num_shared_experts + len(modality_dims) * num_specific_experts` numbers in
            the order of the levels. Defaults to 256 each.
        codebook_dim (`int`, *optional*, defaults to 64):
            Width of the experts' outputs and of the codebook entries.
        hidden_sizes (`list[int]`, *optional*, defaults to `[256]`):
            Widths of the hidden layers of each expert; the decoders mirror them. May be empty.
        hidden_act (`str`, *optional*, defaults to `"relu"`):
            Activation of the hidden layers, a key of `transformers.activations.ACT2FN`.
        dropout (`float`, *optional*, defaults to 0.0):
            Dropout after each hidden activation, in training.
        input_normalization (`str`, *optional*, defaults to `"center"`):
            What is done to each modality, with its own statistics of the training items: `"center"`,
            `"standardize"` or `"none"`, as in [`RQVAEConfig`]. Unless it is `"none"`, no modality counts for more
            because its numbers are larger.
        reconstruction_loss_weight (`float`, *optional*, defaults to 12.0):
            Weight of the error of all modalities, decoded from all experts.
        modality_reconstruction_loss_weight (`float`, *optional*, defaults to 10.0):
            Weight of the error of each modality, decoded from its specific experts.
        orthogonality_loss_weight (`float`, *optional*, defaults to 0.005):
            Weight of the term that turns the experts' outputs of an item away from each other.
        codebook_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the term that pulls codes to latents. Unused when `codebook_update="ema"`.
        commitment_loss_weight (`float`, *optional*, defaults to 3.0):
            Weight of the term that pulls latents to codes. The default is a quarter of the reconstruction's, as in
            VQ-VAE. With much less, latents stay between codes, and the experts alike.
        codebook_update (`str`, *optional*, defaults to `"gradient"`):
            `"gradient"`, or `"ema"` for exponential moving averages of the assigned latents.
        ema_decay (`float`, *optional*, defaults to 0.99):
            Decay of the moving averages (of code usage in either mode, of the codes themselves with `"ema"`).
        ema_epsilon (`float`, *optional*, defaults to 1e-05):
            Additive smoothing of the usage counts that `"ema"` divides by.
        dead_code_threshold (`float`, *optional*, defaults to 0.0):
            A code whose running usage falls below this fraction of an even share is restarted at a latent of the
            current batch. 0 restarts none.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the codes before they are initialized from data.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type or out of range; the message names
        the field.

    Example:

    ```python
    >>> from forge_hf.models import MMQConfig

    >>> config = MMQConfig(modality_dims=[384, 64], num_shared_experts=2, num_specific_experts=1)
    >>> config.input_dim, config.codebook_sizes
    (448, [256, 256, 256, 256])
    >>> config.level_modalities
    [None, None, 0, 1]
    ```
    """

    model_type = "mmq"

    modality_dims: list[int] | tuple[int, ...] = (384, 64)
    input_dim: int | None = None
    num_shared_experts: int = 2
    num_specific_experts: int = 2
    codebook_sizes: list[int] | tuple[int, ...] | None = None
    codebook_dim: int = 64
    hidden_sizes: list[int] | tuple[int, ...] = (256,)
    hidden_act: str = "relu"
    dropout: float | int = 0.0
    input_normalization: Literal["none", "center", "standardize"] = "center"
    reconstruction_loss_weight: float | int = 12.0
    modality_reconstruction_loss_weight: float | int = 10.0
    orthogonality_loss_weight: float | int = 0.005
    codebook_loss_weight: float | int = 1.0
    commitment_loss_weight: float | int = 3.0
    codebook_update: Literal["gradient", "ema"] = "gradient"
    ema_decay: float = 0.99
    ema_epsilon: float = 1e-5
    dead_code_threshold: float | int = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if self.input_dim is None:
            self.input_dim = sum(self.modality_dims)
        if self.codebook_sizes is None:
            self.codebook_sizes = [256] * min(self.num_experts, MAX_NUM_LEVELS + 1)
        super().__post_init__(**kwargs)

    @property
    def num_experts(self) -> int:
        """Number of experts, and so of levels."""
        return self.num_shared_experts + len(self.modality_dims) * self.num_specific_experts

    @property
    def level_modalities(self) -> list[int | None]:
        """The modality that the expert of each level sees, `None` for all of them."""
        modalities = [i for i in range(len(self.modality_dims)) for _ in range(self.num_specific_experts)]
        return [None] * self.num_shared_experts + modalities

    @property
    def level_assignments(self) -> list[str]:
        """How codes are chosen in training, for [`RQVAECodebook`]: always the nearest."""
        return ["nearest"] * self.num_levels

    @property
    def num_weights(self) -> int:
        """How many numbers the model holds, up to those of the gates."""

        def mlp(dim: int) -> int:
            widths = [dim, *self.hidden_sizes, self.codebook_dim]
            return sum(a * b for a, b in zip(widths, widths[1:], strict=False))

        shared = (self.num_shared_experts + 1) * mlp(self.input_dim)
        specific = (self.num_specific_experts + 1) * sum(map(mlp, self.modality_dims))
        return shared + specific + sum(self.codebook_sizes) * self.codebook_dim

    def validate_architecture(self):
        """Part of `@strict`-powered validation: checks the values of the fields, and fields against each other."""
        if len(self.modality_dims) < 2 or any(dim < 1 for dim in self.modality_dims):
            raise ValueError(
                f"`modality_dims` must give the width of two or more modalities, but is {list(self.modality_dims)}."
            )
        if self.input_dim != sum(self.modality_dims):
            raise ValueError(
                f"`input_dim` must be the sum of `modality_dims`, {sum(self.modality_dims)}, but is "
                f"{self.input_dim}. Leave it out."
            )
        for name in ("num_shared_experts", "num_specific_experts"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, but is {getattr(self, name)}.")
        if self.num_experts == 0:
            raise ValueError("`num_shared_experts` and `num_specific_experts` must not both be 0.")
        if len(self.codebook_sizes) != self.num_experts:
            raise ValueError(
                f"`codebook_sizes` must have a size for each of the {self.num_experts} experts "
                f"({self.num_shared_experts} shared and {self.num_specific_experts} for each of "
                f"{len(self.modality_dims)} modalities), but is {list(self.codebook_sizes)}."
            )
        if self.codebook_dim < 1:
            raise ValueError(f"`codebook_dim` must be at least 1, but is {self.codebook_dim}.")
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"`hidden_sizes` must be positive, but is {list(self.hidden_sizes)}.")
        super().validate_architecture()
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"`hidden_act` must be one of {sorted(ACT2FN)}, but is {self.hidden_act!r}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), but is {self.dropout}.")
        if not 0 < self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be between 0 and 1, but is {self.ema_decay}.")
        for name in ("ema_epsilon", "initializer_range"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be positive and finite, but is {getattr(self, name)}.")
        terms = ("reconstruction", "modality_reconstruction", "orthogonality", "codebook", "commitment")
        for name in (f"{term}_loss_weight" for term in terms):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be finite and not negative, but is {getattr(self, name)}.")
        if not 0 <= self.dead_code_threshold < 1:
            raise ValueError(
                "`dead_code_threshold` is a fraction of an even share and must be in [0, 1), "
                f"but is {self.dead_code_threshold}."
            )
