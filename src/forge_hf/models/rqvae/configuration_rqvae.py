# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""RQ-VAE configuration. Imports only transformers and huggingface_hub: the same file is the Hub's remote code."""

import math
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN


# A config may come from anywhere, and a model is as large as its config says before any weight is read.
MAX_NUM_WEIGHTS = 2**28
MAX_NUM_LEVELS = 64


@strict
class RQVAEConfig(PreTrainedConfig):
    r"""
    Configuration of an [`RQVAEModel`], which turns an item embedding into a few codes by residual quantization.
    The defaults are TIGER's (https://huggingface.co/papers/2305.05065) for 768-dimensional sentence embeddings. A
    third of the codes may fall out of use with them: `codebook_update="ema"` and `dead_code_threshold=0.25` keep all
    in use.

    Args:
        input_dim (`int`, *optional*, defaults to 768):
            Width of the item embeddings.
        hidden_sizes (`list[int]`, *optional*, defaults to `[512, 256, 128]`):
            Widths of the encoder's hidden layers; the decoder mirrors them. May be empty.
        codebook_dim (`int`, *optional*, defaults to 32):
            Width of the latent vectors and of the codebook entries.
        codebook_sizes (`list[int]`, *optional*, defaults to `[256, 256, 256]`):
            Number of codes of each level. Levels may differ.
        residual_encoder (`bool`, *optional*, defaults to `False`):
            Whether the encoder adds its input to its output and starts as the identity, as in RQ-KMeans+ (MiniOneRec,
            https://huggingface.co/papers/2510.24431). It needs `codebook_dim` equal to `input_dim`. With codebooks
            that start from a k-means, the codes before the first step are those of a [`ResidualKMeansModel`] that is
            fitted with the same seed.
        hidden_act (`str`, *optional*, defaults to `"relu"`):
            Activation of the hidden layers, a key of `transformers.activations.ACT2FN`.
        dropout (`float`, *optional*, defaults to 0.0):
            Dropout after each hidden activation, in training.
        input_normalization (`str`, *optional*, defaults to `"center"`):
            What is done to an embedding before the encoder, with statistics that [`RQVAETrainer`] measures on the
            training items and that are saved with the weights. Text embeddings lie in a narrow cone: `"center"` takes
            the mean item away and divides by one number (the root mean square of what is left), which keeps all angles
            between items; `"standardize"` divides each dimension by its own deviation; `"none"` leaves them alone.
        quantization_loss (`str`, *optional*, defaults to `"per_level"`):
            `"per_level"` is TIGER's objective: on the residual of each level, summed over levels and dimensions.
            `"cumulative"` is FORGE's (https://huggingface.co/papers/2509.20904): on the cumulative sum of the codes of
            the first levels against the whole latent, averaged over levels and dimensions.
            The reconstruction loss is reduced over dimensions in the same way (sum for TIGER, mean for FORGE), so that
            the two terms keep the published balance. Both are means over the batch.
        codebook_loss_weight (`float`, *optional*):
            Weight of the term that pulls codes to latents. Defaults to the paper's: 1.0 (`"per_level"`), 0.5
            (`"cumulative"`). Unused when `codebook_update="ema"`.
        commitment_loss_weight (`float`, *optional*):
            Weight of the term that pulls latents to codes. Defaults to the paper's: 0.25 (`"per_level"`), 0.5
            (`"cumulative"`).
        reconstruction_loss (`str`, *optional*, defaults to `"mse"`):
            `"mse"` (squared error), `"l1"` (absolute error) or `"cosine"` (1 - cosine similarity), measured on the
            normalized input.
        contrastive_loss_weight (`float`, *optional*, defaults to 0.0):
            Weight of the contrastive loss over item pairs, [`RQVAEContrastiveLoss`], 1.0 in FORGE. Above 0, the model
            has three temperatures to learn, and takes `positives` in training.
        gradient_estimator (`str`, *optional*, defaults to `"straight_through"`):
            How the reconstruction's gradient passes the quantizer: copied (`"straight_through"`), or rotated and
            rescaled from the quantized vector to the latent (`"rotation_trick"`,
            https://huggingface.co/papers/2410.06424).
        codebook_update (`str`, *optional*, defaults to `"gradient"`):
            `"gradient"`, `"ema"` for exponential moving averages of the assigned residuals, or `"simvq"` for fixed
            codes times a linear map that is learned, which moves all of them together
            (https://huggingface.co/papers/2411.02038).
        ema_decay (`float`, *optional*, defaults to 0.99):
            Decay of the moving averages (of code usage in either mode, of the codes themselves with `"ema"`).
        ema_epsilon (`float`, *optional*, defaults to 1e-05):
            Additive smoothing of the usage counts that `"ema"` divides by.
        training_assignment (`str` or `list[str]`, *optional*, defaults to `"nearest"`):
            How codes are chosen in training: `"nearest"`, or `"sinkhorn"` for a balanced assignment within the batch.
            A list gives one for each level (LC-Rec balances only the last). Encoding always takes the nearest code.
        sinkhorn_epsilon (`float`, *optional*, defaults to 0.1):
            Temperature of the Sinkhorn assignment, `Q = exp(-cost / sinkhorn_epsilon)` on standardized costs.
        sinkhorn_iterations (`int`, *optional*, defaults to 5):
            Number of Sinkhorn iterations.
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
    >>> from forge_hf.models import RQVAEConfig, RQVAEModel

    >>> config = RQVAEConfig(input_dim=384, codebook_sizes=[256, 256, 64])
    >>> config.num_levels
    3
    >>> model = RQVAEModel(config)
    ```
    """

    model_type = "rqvae"

    input_dim: int = 768
    hidden_sizes: list[int] | tuple[int, ...] = (512, 256, 128)
    codebook_dim: int = 32
    codebook_sizes: list[int] | tuple[int, ...] = (256, 256, 256)
    residual_encoder: bool = False
    hidden_act: str = "relu"
    dropout: float | int = 0.0
    input_normalization: Literal["none", "center", "standardize"] = "center"
    quantization_loss: Literal["per_level", "cumulative"] = "per_level"
    codebook_loss_weight: float | int | None = None
    commitment_loss_weight: float | int | None = None
    reconstruction_loss: Literal["mse", "l1", "cosine"] = "mse"
    contrastive_loss_weight: float | int = 0.0
    gradient_estimator: Literal["straight_through", "rotation_trick"] = "straight_through"
    codebook_update: Literal["gradient", "ema", "simvq"] = "gradient"
    ema_decay: float = 0.99
    ema_epsilon: float = 1e-5
    training_assignment: str | list[str] | tuple[str, ...] = "nearest"
    sinkhorn_epsilon: float | int = 0.1
    sinkhorn_iterations: int = 5
    dead_code_threshold: float | int = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        cumulative = self.quantization_loss == "cumulative"
        if self.codebook_loss_weight is None:
            self.codebook_loss_weight = 0.5 if cumulative else 1.0
        if self.commitment_loss_weight is None:
            self.commitment_loss_weight = 0.5 if cumulative else 0.25
        super().__post_init__(**kwargs)

    @property
    def num_levels(self) -> int:
        """Number of codes of an item."""
        return len(self.codebook_sizes)

    @property
    def level_assignments(self) -> list[str]:
        """The training assignment of each level, `"nearest"` or `"sinkhorn"`."""
        if isinstance(self.training_assignment, str):
            return [self.training_assignment] * self.num_levels
        return list(self.training_assignment)

    def validate_architecture(self):
        """Part of `@strict`-powered validation: checks the values of the fields, and fields against each other."""
        for name in ("input_dim", "codebook_dim", "sinkhorn_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"`hidden_sizes` must be positive, but is {list(self.hidden_sizes)}.")
        if not self.codebook_sizes or any(size < 2 for size in self.codebook_sizes):
            raise ValueError(
                "`codebook_sizes` must give at least 2 codes to each of one or more levels, "
                f"but is {list(self.codebook_sizes)}."
            )
        widths = [self.input_dim, *self.hidden_sizes, self.codebook_dim]
        num_weights = 2 * sum(a * b for a, b in zip(widths, widths[1:], strict=False))
        num_weights += sum(self.codebook_sizes) * self.codebook_dim
        if num_weights > MAX_NUM_WEIGHTS or len(self.codebook_sizes) > MAX_NUM_LEVELS:
            raise ValueError(
                "`input_dim`, `hidden_sizes`, `codebook_dim` and `codebook_sizes` ask for "
                f"{num_weights:,} weights in {len(self.codebook_sizes):,} levels; at most {MAX_NUM_WEIGHTS:,} in "
                f"{MAX_NUM_LEVELS} are supported."
            )
        if self.residual_encoder and self.codebook_dim != self.input_dim:
            raise ValueError(
                f"`residual_encoder` needs `codebook_dim` to be `input_dim`, {self.input_dim}, "
                f"but it is {self.codebook_dim}."
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"`hidden_act` must be one of {sorted(ACT2FN)}, but is {self.hidden_act!r}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), but is {self.dropout}.")
        if not 0 < self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be between 0 and 1, but is {self.ema_decay}.")
        for name in ("ema_epsilon", "sinkhorn_epsilon", "initializer_range"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be positive and finite, but is {getattr(self, name)}.")
        for name in ("codebook_loss_weight", "commitment_loss_weight", "contrastive_loss_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be finite and not negative, but is {getattr(self, name)}.")
        if not 0 <= self.dead_code_threshold < 1:
            raise ValueError(
                "`dead_code_threshold` is a fraction of an even share and must be in [0, 1), "
                f"but is {self.dead_code_threshold}."
            )
        if self.dead_code_threshold > 0 and self.codebook_update == "simvq":
            raise ValueError(
                "`dead_code_threshold` must be 0 with `codebook_update='simvq'`, whose codes move together, "
                f"but is {self.dead_code_threshold}."
            )
        assignments = self.level_assignments
        if len(assignments) != self.num_levels or not set(assignments) <= {"nearest", "sinkhorn"}:
            raise ValueError(
                f"`training_assignment` must be 'nearest', 'sinkhorn' or a list of these of length {self.num_levels} "
                f"(one for each level of `codebook_sizes`), but is {self.training_assignment!r}."
            )


__all__ = ["RQVAEConfig"]
