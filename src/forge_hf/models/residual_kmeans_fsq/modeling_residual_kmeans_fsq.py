# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Residual k-means whose last level is a grid over the principal components of what is left."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..clustering import POINTS_PER_CENTROID
from ..fitting import FittedItemTokenizerModel, sample_items
from ..fsq.modeling_fsq import FiniteScalarQuantizer
from ..pca import principal_components
from ..residual_kmeans.configuration_residual_kmeans import ResidualKMeansConfig
from ..residual_kmeans.modeling_residual_kmeans import ResidualKMeansModel
from .configuration_residual_kmeans_fsq import ResidualKMeansFSQConfig


if TYPE_CHECKING:
    from ...data import ItemEmbeddings

__all__ = ["ResidualKMeansFSQModel"]


class ResidualKMeansFSQModel(FittedItemTokenizerModel):
    r"""
    Levels of residual k-means, and a last level by finite scalar quantization of what they leave over: the item
    tokenizer of OneMall (https://huggingface.co/papers/2601.21770), whose last level tells apart items that a third
    k-means would put together.

    Nothing is trained by gradients. The final residual is turned to its principal components, as many as `fsq_levels`
    has; each is divided by its deviation, so that `tanh` neither saturates nor does nothing, and rounded to the grid.
    Principal components are uncorrelated, so that their combinations are used about evenly. A code decodes to the mean
    that items have in its cell of each component, rather than to the point of the grid.

    Args:
        config ([`ResidualKMeansFSQConfig`]):
            The layout.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.data import ItemEmbeddings
    >>> from forge_hf.models import ResidualKMeansFSQConfig, ResidualKMeansFSQModel

    >>> items = ItemEmbeddings(torch.randn(200, 16))
    >>> config = ResidualKMeansFSQConfig(input_dim=16, codebook_sizes=[8, 8, 12], fsq_levels=[3, 2, 2])
    >>> model = ResidualKMeansFSQModel(config).fit(items)
    >>> codes = model.encode(items.to_tensor()).codes
    >>> codes.shape
    torch.Size([200, 3])
    >>> model.decode(codes[:, :2]).shape
    torch.Size([200, 16])
    ```
    """

    config: ResidualKMeansFSQConfig
    base_model_prefix = "residual_kmeans_fsq"

    def __init__(self, config: ResidualKMeansFSQConfig):
        super().__init__(config)
        kmeans = ResidualKMeansConfig(input_dim=config.input_dim, codebook_sizes=list(config.codebook_sizes[:-1]))
        self.kmeans = ResidualKMeansModel(kmeans)
        self.quantizer = FiniteScalarQuantizer([config.fsq_levels])
        num_components = len(config.fsq_levels)
        self.register_buffer("residual_mean", torch.zeros(config.input_dim))
        self.register_buffer("axes", torch.zeros(num_components, config.input_dim))
        self.register_buffer("deviations", torch.ones(num_components))
        # The mean, in deviations, of the items in each cell of each component.
        self.register_buffer("cell_means", torch.zeros(num_components, max(config.fsq_levels)))
        self.post_init()

    def _components(self, residuals: torch.Tensor) -> torch.Tensor:
        components = F.linear(residuals - self.residual_mean.to(residuals), self.axes.to(residuals))
        return components / self.deviations.to(residuals)

    def _encode_chunk(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes, residuals = self._kmeans_codes(embeddings)
        latents = self._components(residuals)
        last = self.quantizer.indices_to_codes(self.quantizer.to_indices(latents))
        return torch.cat([codes, last], dim=1), latents

    def _kmeans_codes(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of the levels of k-means and what they leave over, of float64 rows."""
        codes, _ = self.kmeans._encode_chunk(embeddings)
        return codes, self.kmeans._residuals(embeddings, codes)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        embeddings = self.kmeans._decode(codes[:, : self.config.num_levels - 1])
        if codes.shape[1] < self.config.num_levels:
            return embeddings
        indices = self.quantizer.codes_to_indices(codes[:, -1:])
        components = self.cell_means.gather(1, indices.T).T * self.deviations
        residuals = self.residual_mean + components @ self.axes
        return embeddings + residuals * self.kmeans.input_normalization.std

    @torch.no_grad()
    def fit(
        self,
        items: "ItemEmbeddings",
        *,
        seed: int = 0,
        sample_size: int | None = None,
        num_iterations: int = 20,
    ) -> "ResidualKMeansFSQModel":
        """
        Fits the model to items: the input statistics to all of them, the rest to a sample.

        Args:
            items ([`ItemEmbeddings`]):
                The items, which need not fit in memory.
            seed (`int`, *optional*, defaults to 0):
                The same seed gives the same model.
            sample_size (`int`, *optional*):
                Number of items, drawn at random, that k-means and principal components see. Defaults to 256 for each
                code of the largest level of k-means.
            num_iterations (`int`, *optional*, defaults to 20):
                Number of k-means iterations.

        Returns:
            The model itself.

        Raises:
            [`InvalidEmbeddingsError`]: before any work, if the embeddings are empty, of another width, not finite, or
                fewer than a level of k-means has codes.
            [`DuplicateItemError`]: if an item id occurs twice.
            `ValueError`: if `sample_size` is less than a level of k-means has codes.
        """
        self.kmeans.fit(items, seed=seed, sample_size=sample_size, num_iterations=num_iterations)
        sample_size = sample_size or POINTS_PER_CENTROID * max(self.kmeans.config.codebook_sizes)
        sample = sample_items(items, sample_size, seed)
        sample = sample if self.device.type == "mps" else sample.to(self.device)  # MPS has no float64
        residuals = [self._kmeans_codes(chunk.double())[1].float() for chunk in self._chunks(sample)]
        mean, variances, axes = principal_components(residuals)
        num_components = len(self.config.fsq_levels)
        deviations = variances[:num_components].sqrt().float()
        self.residual_mean.copy_(mean)
        self.axes.copy_(axes[:num_components])
        self.deviations.copy_(torch.where(deviations > 0, deviations, torch.ones_like(deviations)))
        components = torch.cat([self._components(chunk) for chunk in residuals])
        indices = self.quantizer.to_indices(components)
        for dimension, size in enumerate(self.config.fsq_levels):
            cells, values = indices[:, dimension], components[:, dimension].double()
            counts = torch.bincount(cells, minlength=size)
            sums = values.new_zeros(size).index_add_(0, cells, values)
            # A cell that no item is in stands for a latent inside it.
            inside = (torch.linspace(-1, 1, size, dtype=sums.dtype, device=sums.device) * (size - 1) / size).atanh()
            self.cell_means[dimension, :size] = torch.where(counts > 0, sums / counts, inside).float()
        self.initialized.fill_(True)
        return self
