# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Finite scalar quantization of item embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..rqvae.modeling_item_tokenizer import ItemTokenizerInputNormalization
from ..rqvae.modeling_neural_item_tokenizer import ItemTokenizerMLP, NeuralItemTokenizerModel, reconstruction_loss
from .configuration_fsq import FSQConfig, check_fsq_levels


__all__ = ["FSQModel", "FSQOutput", "FiniteScalarQuantizer"]


@dataclass
class FSQOutput(ModelOutput):
    r"""
    Output of [`FSQModel`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `return_loss=True`):
            The reconstruction loss: there is nothing else to learn.
        reconstruction_loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `return_loss=True`):
            Error of the reconstruction, on normalized inputs.
        reconstruction (`torch.FloatTensor` of shape `(batch_size, input_dim)`):
            The embeddings, decoded from their codes.
        latents (`torch.FloatTensor` of shape `(batch_size, latent_dim)`):
            The encoder's output.
        codes (`torch.LongTensor` of shape `(batch_size, num_levels)`):
            The codes that were used. In evaluation mode these are the codes of [`~FSQModel.encode`].
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    latents: torch.FloatTensor | None = None
    codes: torch.LongTensor | None = None


class FiniteScalarQuantizer(nn.Module):
    r"""
    Rounds `tanh` of each latent dimension to the nearest of `n` evenly spaced values from -1 to 1, and counts the
    combinations of each group of dimensions as one code, whose first dimension varies fastest. It has no weights.

    This is the quantizer of the paper (https://huggingface.co/papers/2309.15505), which for even `n` shifts latents so
    that 0 falls on a value rather than between two; an encoder's bias makes up for that, and without it 2 values work
    like any other number.

    Args:
        groups (`Sequence[Sequence[int]]`):
            For each code, the number of values of each of its dimensions.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.models import FiniteScalarQuantizer

    >>> quantizer = FiniteScalarQuantizer([[3, 2]])
    >>> points, codes = quantizer(torch.tensor([[0.1, -2.0], [5.0, 0.5]]))
    >>> points
    tensor([[ 0., -1.],
            [ 1.,  1.]])
    >>> codes
    tensor([[1],
            [5]])
    ```
    """

    def __init__(self, groups: Sequence[Sequence[int]]):
        super().__init__()
        check_fsq_levels("groups", groups)
        self.groups = [list(group) for group in groups]

    def _steps(self, like: torch.Tensor) -> torch.Tensor:
        """One less than the number of values of each dimension."""
        return torch.tensor([n - 1 for group in self.groups for n in group], device=like.device)

    @torch.no_grad()
    def to_indices(self, latents: torch.Tensor) -> torch.Tensor:
        """Which of its values each dimension takes, int64 of the shape of `latents`, `(batch_size, latent_dim)`."""
        steps = self._steps(latents)
        # Rounded to float32 so that a latent midway between two values is so on every machine, and goes up.
        return ((latents.tanh() + 1) / 2 * steps).float().add(0.5).floor().long()

    def to_points(self, indices: torch.Tensor) -> torch.Tensor:
        """The values in [-1, 1] that indices (of the first dimensions, or all) stand for, float32 of their shape."""
        steps = self._steps(indices)[: indices.shape[1]]
        return (2 * indices - steps) / steps

    def indices_to_codes(self, indices: torch.Tensor) -> torch.Tensor:
        """Codes of shape `(batch_size, num_groups)` from indices of shape `(batch_size, latent_dim)`."""
        codes, parts = [], indices.split([len(group) for group in self.groups], dim=1)
        for group, part in zip(self.groups, parts, strict=True):
            code = torch.zeros_like(part[:, 0])
            for dimension in reversed(range(len(group))):
                code = code * group[dimension] + part[:, dimension]
            codes.append(code)
        return torch.stack(codes, dim=1)

    def codes_to_indices(self, codes: torch.Tensor) -> torch.Tensor:
        """The inverse, also of the first groups alone: `(batch_size, dimensions of the groups)`."""
        indices = []
        for group, code in zip(self.groups, codes.unbind(dim=1), strict=False):
            for n in group:
                indices.append(code % n)
                code = code // n
        return torch.stack(indices, dim=1)

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Points, with the gradient of `tanh(latents)` (the rounding is passed straight through), and codes."""
        indices = self.to_indices(latents)
        bounded = latents.tanh()
        points = self.to_points(indices).to(latents)
        return points + (bounded - bounded.detach()), self.indices_to_codes(indices)


class FSQModel(NeuralItemTokenizerModel):
    r"""
    Finite scalar quantization (https://huggingface.co/papers/2309.15505): an MLP encoder to a few dimensions, each
    rounded to a few values, and a mirrored MLP decoder, trained by reconstruction alone. Groups of dimensions make the
    codes of the semantic ID.

    A prefix of the codes decodes with the dimensions of the missing groups at 0, the middle of their range.

    Args:
        config ([`FSQConfig`]):
            The architecture.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.models import FSQConfig, FSQModel

    >>> model = FSQModel(FSQConfig(input_dim=16, hidden_sizes=[8], fsq_levels=[[5, 3], [2, 2, 2]]))
    >>> codes = model.encode(torch.randn(5, 16)).codes
    >>> codes.shape
    torch.Size([5, 2])
    >>> model.decode(codes).shape
    torch.Size([5, 16])
    ```
    """

    config: FSQConfig
    base_model_prefix = "fsq"

    def __init__(self, config: FSQConfig):
        super().__init__(config)
        sizes = [config.input_dim, *config.hidden_sizes, config.latent_dim]
        self.input_normalization = ItemTokenizerInputNormalization(config)
        self.encoder = ItemTokenizerMLP(config, sizes)
        self.quantizer = FiniteScalarQuantizer(config.fsq_levels)
        self.decoder = ItemTokenizerMLP(config, sizes[::-1])
        self.register_buffer("initialized", torch.tensor(False))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if module is self:
            init.zeros_(module.initialized)

    @property
    def is_initialized(self) -> bool:
        """Whether the input statistics have been set: there is nothing else to initialize from data."""
        return bool(self.initialized)

    @torch.no_grad()
    def set_input_statistics(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """As [`~NeuralItemTokenizerModel.set_input_statistics`]. The model is initialized with that."""
        super().set_input_statistics(mean, std)
        self.initialized.fill_(True)

    def _encode_chunk(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latents = self._latents(embeddings)
        return self.quantizer.indices_to_codes(self.quantizer.to_indices(latents)), latents

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        points = self.quantizer.to_points(self.quantizer.codes_to_indices(codes))
        points = F.pad(points, (0, self.config.latent_dim - points.shape[1]))
        return self.input_normalization.inverse(self.decoder(points, deterministic=True))

    @can_return_tuple
    def forward(self, embeddings: torch.Tensor, return_loss: bool = True) -> FSQOutput:
        """
        Reconstructs embeddings from their codes. The gradient passes the rounding as if it weren't there.

        Args:
            embeddings (`torch.Tensor` of shape `(batch_size, input_dim)`):
                Item embeddings.
            return_loss (`bool`, *optional*, defaults to `True`):
                Whether to compute the loss.
            return_dict (`bool`, *optional*):
                Whether to return an [`FSQOutput`] instead of a tuple.

        Returns:
            [`FSQOutput`]

        Raises:
            `ValueError`: if `embeddings` is empty or of the wrong width.
        """
        self._check_embeddings(embeddings)
        with torch.autocast(embeddings.device.type, enabled=False):
            normalized = self.input_normalization(embeddings.float())
            if self.training:
                latents = self.encoder(normalized)
                points, codes = self.quantizer(latents)
            else:  # as `encode` does
                latents = self._latents(self._to_float64(embeddings))
                points, codes = self.quantizer(latents)
                points, latents = points.float().to(embeddings.device), latents.float().to(embeddings.device)
            decoded = self.decoder(points)
            output = FSQOutput(
                reconstruction=self.input_normalization.inverse(decoded),
                latents=latents,
                codes=codes.to(embeddings.device),
            )
            if return_loss:
                output.reconstruction_loss = reconstruction_loss(
                    decoded, normalized, self.config.reconstruction_loss, "mean"
                )
                output.loss = output.reconstruction_loss
        return output
