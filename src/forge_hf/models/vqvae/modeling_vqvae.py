# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""VQ-VAE model: the RQ-VAE's autoencoder, objective and codebooks, with codebooks that don't depend on each other."""

import torch
import torch.nn.functional as F

from ..rqvae.modeling_rqvae import RQVAEModel
from ..rqvae.quantization import RQVAEResidualQuantizer
from .configuration_vqvae import VQVAEConfig


class VQVAEProductQuantizer(RQVAEResidualQuantizer):
    """Codebooks that each quantize their own chunk of the latent. Chunks of missing codes are 0."""

    def level_dims(self, config: VQVAEConfig) -> list[int]:
        self.codebook_dim = config.codebook_dim
        return [config.codebook_dim // config.num_levels] * config.num_levels

    def level_input(self, left: torch.Tensor, level: int) -> torch.Tensor:
        return left.chunk(len(self.codebooks), dim=1)[level].contiguous()

    def left_over(self, left: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return left

    def inputs(self, latents: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return latents.unflatten(1, (len(self.codebooks), -1))

    def combine(self, vectors: torch.Tensor) -> torch.Tensor:
        vectors = vectors.flatten(1)
        return F.pad(vectors, (0, self.codebook_dim - vectors.shape[1]))


class VQVAEMultiQuantizer(RQVAEResidualQuantizer):
    """Codebooks that all quantize the whole latent. Of the first codes alone, the sum is scaled up to that of all."""

    def left_over(self, left: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return left

    def inputs(self, latents: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return latents[:, None].expand_as(vectors)

    def combine(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.sum(dim=1) * (len(self.codebooks) / vectors.shape[1])


class VQVAEModel(RQVAEModel):
    r"""
    Vector-quantized autoencoder of item embeddings (https://huggingface.co/papers/1711.00937): an MLP encoder, one
    codebook or several independent ones, and a mirrored MLP decoder. One codebook gives an item one code; several give
    codes without an order.

    Everything else is as in [`RQVAEModel`], which with one level is the same model: the objective, the codebooks by
    gradients, moving averages or SimVQ, the restart of dead codes, pairs of items. [`RQVAETrainer`] trains it, and its
    k-means clusters for each codebook its chunk (`codebook_form="product"`) or the whole latents (`"multi"`, from
    another seed for each).

    A prefix of the codes decodes with the missing chunks at 0 (`"product"`), or with the mean of the codes there are
    (`"multi"`).

    Args:
        config ([`VQVAEConfig`]):
            The architecture and the objective.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.models import VQVAEConfig, VQVAEModel

    >>> model = VQVAEModel(VQVAEConfig(input_dim=16, hidden_sizes=[8], codebook_dim=4, codebook_sizes=[8, 8]))
    >>> codes = model.encode(torch.randn(5, 16)).codes
    >>> codes.shape
    torch.Size([5, 2])
    >>> model.decode(codes).shape
    torch.Size([5, 16])
    ```
    """

    config: VQVAEConfig
    base_model_prefix = "vqvae"
    _auto_class = None  # it needs forge_hf: its code isn't saved with it

    @staticmethod
    def _make_quantizer(config: VQVAEConfig) -> RQVAEResidualQuantizer:
        product = config.codebook_form == "product"
        return (VQVAEProductQuantizer if product else VQVAEMultiQuantizer)(config)


__all__ = ["VQVAEModel"]
