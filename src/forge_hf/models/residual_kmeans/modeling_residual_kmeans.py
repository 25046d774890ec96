# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Residual k-means model (RQ-KMeans), also with balanced clusters."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from ..clustering import POINTS_PER_CENTROID, balanced_assignment, balanced_kmeans, kmeans
from ..fitting import FittedItemTokenizerModel, mean_and_std, sample_items
from ..rqvae.code_assignment import nearest_candidates, nearest_codes
from ..rqvae.modeling_item_tokenizer import ItemTokenizerInputNormalization
from .configuration_residual_kmeans import ResidualKMeansConfig


if TYPE_CHECKING:
    from ...data import ItemEmbeddings


class ResidualKMeansCodebook(nn.Module):
    """The centroids of one level, and the typical length of what goes into it."""

    def __init__(self, config: ResidualKMeansConfig, level: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(config.codebook_sizes[level], config.input_dim))
        self.register_buffer("scale", torch.ones(()))


class ResidualKMeansModel(FittedItemTokenizerModel):
    r"""
    Residual k-means of item embeddings (RQ-KMeans): each level is a k-means of what the levels before left over. It is
    the item tokenizer of OneRec's technical report (https://huggingface.co/papers/2506.13695) and GRID
    (https://huggingface.co/papers/2507.22224) and, with `balanced=True`, of OneRec
    (https://huggingface.co/papers/2502.18965).

    An item gets the nearest centroid of each level, and decodes to the sum of its centroids. With
    `normalize_residuals=True` each centroid counts with the mean length of what went into its level.

    With `balanced=True` centroids are fitted to clusters of equal size. `encode` still takes the nearest one, so that
    items can come one at a time, and its codes are nearly balanced; [`~ResidualKMeansModel.balanced_codes`] gives
    those of a whole table, equally many of each code.

    Args:
        config ([`ResidualKMeansConfig`]):
            The configuration.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.data import ItemEmbeddings
    >>> from forge_hf.models import ResidualKMeansConfig, ResidualKMeansModel

    >>> items = ItemEmbeddings(torch.randn(200, 16))
    >>> model = ResidualKMeansModel(ResidualKMeansConfig(input_dim=16, codebook_sizes=[8, 8])).fit(items)
    >>> codes = model.encode(items.to_tensor()).codes
    >>> codes.shape
    torch.Size([200, 2])
    >>> model.decode(codes[:, :1]).shape
    torch.Size([200, 16])
    ```
    """

    config: ResidualKMeansConfig
    base_model_prefix = "residual_kmeans"
    has_candidates = True

    def __init__(self, config: ResidualKMeansConfig):
        super().__init__(config)
        self.input_normalization = ItemTokenizerInputNormalization(config)
        self.codebooks = nn.ModuleList([ResidualKMeansCodebook(config, level) for level in range(config.num_levels)])
        self.post_init()

    @property
    def has_balanced_codes(self) -> bool:
        """Whether [`~ResidualKMeansModel.balanced_codes`] gives the codes of a table."""
        return self.config.balanced

    def get_codebook(self, level: int) -> torch.Tensor:
        """The centroids of a level, of shape `(codebook_sizes[level], input_dim)`."""
        if not 0 <= level < self.config.num_levels:
            raise ValueError(f"`level` must be from 0 to {self.config.num_levels - 1}, but is {level}.")
        return self.codebooks[level].weight

    @torch.no_grad()
    def fit(
        self,
        items: "ItemEmbeddings",
        *,
        seed: int = 0,
        sample_size: int | None = None,
        num_iterations: int = 20,
    ) -> "ResidualKMeansModel":
        """
        Fits the model to items: the input statistics to all of them, the centroids to a sample.

        Args:
            items ([`ItemEmbeddings`]):
                The items, which need not fit in memory.
            seed (`int`, *optional*, defaults to 0):
                The same seed gives the same model.
            sample_size (`int`, *optional*):
                Number of items, drawn at random, that the k-means sees. Defaults to 256 for each code of the largest
                level.
            num_iterations (`int`, *optional*, defaults to 20):
                Number of k-means iterations.

        Returns:
            The model itself.

        Raises:
            [`InvalidEmbeddingsError`]: before any work, if the embeddings are empty, of another width, not finite, or
                fewer than a codebook has codes.
            [`DuplicateItemError`]: if an item id occurs twice.
            `ValueError`: if `sample_size` is less than a codebook has codes.
        """
        sizes = self.config.codebook_sizes
        numbers = {"seed": seed, "sample_size": sample_size, "num_iterations": num_iterations}
        self._check_items(items, min_items=max(sizes), **numbers)
        if sample_size is not None and sample_size < max(sizes):
            raise ValueError(
                f"`sample_size` must be at least the largest of `codebook_sizes`, {max(sizes)}, but is {sample_size}."
            )
        self.input_normalization.set_statistics(*mean_and_std(items))
        sample = sample_items(items, sample_size or POINTS_PER_CENTROID * max(sizes), seed).to(self.device)
        # As items are encoded, and as the latents of an RQ-VAE that starts as the identity.
        residuals = torch.empty_like(sample, dtype=torch.float32)
        for chunk, normalized in zip(self._chunks(sample), self._chunks(residuals), strict=True):
            normalized.copy_(self.input_normalization(self._to_float64(chunk)))
        del sample, chunk
        for level, size in enumerate(tqdm(sizes, "Fitting codebooks", delay=5)):
            codebook = self.codebooks[level]
            codebook.scale.fill_(1)
            if self.config.normalize_residuals:
                codebook.scale.copy_(residuals.norm(dim=1).mean())
                F.normalize(residuals, out=residuals)
            options = {"seed": seed + level, "num_iterations": num_iterations}
            if self.config.balanced:
                centroids, codes = balanced_kmeans(residuals, size, **options)
            else:
                centroids = kmeans(residuals, size, **options)
                codes = nearest_codes(residuals, centroids)
            codebook.weight.copy_(centroids)
            for chunk, own in zip(self._chunks(residuals), self._chunks(codes), strict=True):
                chunk.sub_(centroids[own])
        self.initialized.fill_(True)
        return self

    @torch.no_grad()
    def balanced_codes(self, items: "ItemEmbeddings", *, seed: int = 0) -> torch.Tensor:
        """
        Codes of a whole table such that each level uses each of its codes equally often, up to one, as in OneRec's
        Algorithm 1. The codes of an item depend on the other items.

        Args:
            items ([`ItemEmbeddings`]):
                The items, which need not fit in memory.
            seed (`int`, *optional*, defaults to 0):
                The same seed gives the same codes.

        Returns:
            `torch.LongTensor` of shape `(num_items, num_levels)`, for [`SemanticIdCatalog.from_codes`].

        Raises:
            `ValueError`: if the model was not made with `balanced=True`, or has not been fitted.
        """
        self._check_ready()
        if not self.config.balanced:
            raise ValueError("`balanced_codes` needs a model with `balanced=True` in its config. Use `encode`.")
        self._check_items(items, seed=seed)
        codes = torch.zeros(len(items), 0, dtype=torch.int64, device=self.device)
        for codebook in self.codebooks:
            level_codes = balanced_assignment(_Residuals(self, items, codes), codebook.weight, seed=seed)
            codes = torch.cat([codes, level_codes[:, None]], dim=1)
        return codes.cpu()

    def _residuals(self, embeddings: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """What goes into the level after those of `codes`."""
        residuals = self.input_normalization(embeddings)
        for level in range(codes.shape[1] + 1):
            if level > 0:
                residuals = residuals - self.codebooks[level - 1].weight.to(residuals)[codes[:, level - 1]]
            if self.config.normalize_residuals:
                residuals = F.normalize(residuals)
        return residuals

    def _encode_chunk(self, embeddings: torch.Tensor, num_candidates: int | None = None) -> tuple:
        residuals, codes, weight = self.input_normalization(embeddings), [], None
        for codebook in self.codebooks:
            if codes:
                residuals = residuals - weight[codes[-1]]
            if self.config.normalize_residuals:
                residuals = F.normalize(residuals)
            weight = codebook.weight.to(residuals)
            codes.append(nearest_codes(residuals, weight))
        if num_candidates is None:
            return torch.stack(codes, dim=1), None
        return torch.stack(codes, dim=1), None, *nearest_candidates(residuals, weight, codes[-1], num_candidates)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        total, scale = 0, 1
        for level in range(codes.shape[1]):
            scale = scale * self.codebooks[level].scale
            total = total + scale * F.embedding(codes[:, level], self.codebooks[level].weight)
        return self.input_normalization.inverse(total)


class _Residuals:
    """What goes into a level, of all items, computed anew on every pass."""

    def __init__(self, model: ResidualKMeansModel, items: "ItemEmbeddings", codes: torch.Tensor):
        self.model, self.items, self.codes = model, items, codes

    def __len__(self) -> int:
        return len(self.items)

    def batches(self) -> Iterator[torch.Tensor]:
        start = 0
        for batch in self.items.batches():
            batch = batch.to(self.codes.device)
            yield self.model._residuals(batch, self.codes[start : start + len(batch)])
            start += len(batch)


__all__ = ["ResidualKMeansModel"]
