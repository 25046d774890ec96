# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Product quantization with a trained rotation. faiss fits it; encoding and decoding are plain torch."""

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from ..clustering import POINTS_PER_CENTROID
from ..fitting import FittedItemTokenizerModel, check_magnitude, mean_and_std, sample_items
from ..pca import principal_components
from ..rqvae.code_assignment import nearest_candidates, nearest_codes
from .configuration_opq import OPQConfig


if TYPE_CHECKING:
    from ...data import ItemEmbeddings

__all__ = ["OPQModel"]


class OPQModel(FittedItemTokenizerModel):
    r"""
    Product quantization: the centered embedding is rotated (and reduced, if asked), cut into sub-vectors, and each is
    replaced by the nearest centroid of its own codebook.

    Codes are order-free: none depends on another. A prefix of them decodes with the missing sub-vectors at their mean,
    and any other subset could as well.

    Args:
        config ([`OPQConfig`]):
            The layout and the rotation.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.data import ItemEmbeddings
    >>> from forge_hf.models import OPQConfig, OPQModel

    >>> items = ItemEmbeddings(torch.randn(100, 16))
    >>> model = OPQModel(OPQConfig(input_dim=16, codebook_sizes=[8] * 4)).fit(items)
    >>> codes = model.encode(items.to_tensor()).codes
    >>> codes.shape
    torch.Size([100, 4])
    >>> model.decode(codes).shape
    torch.Size([100, 16])
    ```
    """

    config: OPQConfig
    base_model_prefix = "opq"
    has_candidates = True

    def __init__(self, config: OPQConfig):
        super().__init__(config)
        self.register_buffer("mean", torch.zeros(config.input_dim))
        self.register_buffer("projection", torch.zeros(config.width, config.input_dim))
        self.register_buffer("inverse_projection", torch.zeros(config.input_dim, config.width))
        self.register_buffer("centroids", torch.zeros(config.num_levels, config.codebook_sizes[0], config.sub_dim))
        self.post_init()

    def _project(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Centered, reduced, rotated: what is cut into sub-vectors. In the dtype of `embeddings`."""
        return F.linear(embeddings - self.mean.to(embeddings), self.projection.to(embeddings))

    def _encode_chunk(self, embeddings: torch.Tensor, num_candidates: int | None = None) -> tuple[torch.Tensor, ...]:
        latents = self._project(embeddings)
        parts = latents.split(self.config.sub_dim, dim=1)
        codes = [nearest_codes(part, codebook) for part, codebook in zip(parts, self.centroids, strict=True)]
        if num_candidates is None:
            return torch.stack(codes, dim=1), latents
        last = self.centroids[-1].to(latents)
        return torch.stack(codes, dim=1), latents, *nearest_candidates(parts[-1], last, codes[-1], num_candidates)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        levels = torch.arange(codes.shape[1], device=codes.device)
        latents = self.centroids[levels, codes].flatten(1)
        latents = F.pad(latents, (0, self.config.width - latents.shape[1]))  # the mean of a sub-vector is 0
        return F.linear(latents, self.inverse_projection, self.mean)

    @torch.no_grad()
    def fit(
        self,
        items: "ItemEmbeddings",
        *,
        seed: int = 0,
        sample_size: int | None = None,
        num_iterations: int = 25,
        rotation_iterations: int = 10,
    ) -> "OPQModel":
        """
        Fits the model: mean and principal components on all items, in one pass; rotation and codebooks on a sample,
        which is all that is held in memory.

        RPG fits on the items that occur in training only: `model.fit(items.select(rows))`.

        Args:
            items ([`ItemEmbeddings`]):
                The items.
            seed (`int`, *optional*, defaults to 0):
                Seed of the sample and of k-means.
            sample_size (`int`, *optional*):
                Number of items to train on. Defaults to 256 for each code of a level.
            num_iterations (`int`, *optional*, defaults to 25):
                Number of k-means iterations of the codebooks.
            rotation_iterations (`int`, *optional*, defaults to 10):
                Number of turns of the rotation with `rotation="opq"`; the costly part.

        Returns:
            [`OPQModel`]: itself.

        Raises:
            `TypeError`: if `items` is not [`ItemEmbeddings`].
            [`InvalidEmbeddingsError`]: if the items are fewer than a level has codes, of another width, or not finite.
            `ValueError`: if a number is too small.
        """
        config, size = self.config, self.config.codebook_sizes[0]
        sample_size = POINTS_PER_CENTROID * size if sample_size is None else sample_size
        if sample_size < size:
            raise ValueError(f"`sample_size` must be at least the codes of a level, {size}, but is {sample_size}.")
        numbers = {"seed": seed, "num_iterations": num_iterations, "rotation_iterations": rotation_iterations}
        self._check_items(items, min_items=size, **numbers)

        import faiss

        progress = tqdm(total=3, desc="Fitting OPQ", delay=5)
        mean, projection, inverse = self._principal_projection(items)
        self.mean.copy_(mean)
        progress.update()
        sample = sample_items(items, sample_size, seed)
        sample = F.linear(sample - mean.float(), projection.float()).numpy()
        if config.rotation == "opq":
            rotation = _train_rotation(sample, config, seed, rotation_iterations).double()
            sample = sample @ rotation.float().T.numpy()
            projection, inverse = rotation @ projection, inverse @ rotation.T
        self.projection.copy_(projection)
        self.inverse_projection.copy_(inverse)
        progress.update()
        quantizer = _product_quantizer(config, len(sample), seed)
        quantizer.cp.niter = num_iterations
        quantizer.train(sample)
        centroids = faiss.vector_to_array(quantizer.centroids).reshape(self.centroids.shape)
        self.centroids.copy_(torch.from_numpy(centroids))
        self.initialized.fill_(True)
        progress.update()
        progress.close()
        return self

    def _principal_projection(self, items: "ItemEmbeddings") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The mean, the matrix that embeddings are multiplied by before any trained rotation, and its inverse."""
        config = self.config
        if config.pca_dim is None and not config.whiten and config.rotation == "none":
            mean, _ = mean_and_std(items)
            identity = torch.eye(config.input_dim, dtype=torch.float64)
            return mean.double(), identity, identity
        mean, variances, axes = principal_components(items.batches())
        check_magnitude(mean, variances)
        variances, axes = variances[: config.width], axes[: config.width]
        # Directions that items hardly have are left as small as they are.
        floor = variances[0] * 1e-10
        scale = variances.clamp(min=floor).sqrt() if config.whiten and floor > 0 else torch.ones_like(variances)
        projection, inverse = axes / scale[:, None], axes.T * scale
        if config.rotation != "none":
            order = _spread_evenly(torch.ones_like(variances) if config.whiten else variances, config.num_levels)
            projection, inverse = projection[order], inverse[:, order]
        return mean, projection, inverse


def _spread_evenly(variances: torch.Tensor, num_parts: int) -> torch.Tensor:
    """
    An order of the dimensions, given in decreasing order, such that equal consecutive parts have about equal products
    of variances: each dimension goes to the part whose product is smallest so far and that still has room.
    """
    size = len(variances) // num_parts
    # Relative to a floor, so that every logarithm is positive and a part with more dimensions has the larger product.
    floor = max(variances[-1].item(), variances[0].item() * 1e-6, 1e-300)
    logs = (variances.clamp(min=floor) / floor).log().tolist()
    parts, products = [[] for _ in range(num_parts)], [0.0] * num_parts
    for dimension, log in enumerate(logs):
        part = min((i for i in range(num_parts) if len(parts[i]) < size), key=lambda i: (products[i], len(parts[i])))
        parts[part].append(dimension)
        products[part] += log
    return torch.tensor([dimension for part in parts for dimension in part])


def _product_quantizer(config: OPQConfig, num_rows: int, seed: int):
    import faiss

    quantizer = faiss.ProductQuantizer(config.width, config.num_levels, config.codebook_sizes[0].bit_length() - 1)
    quantizer.cp.seed = seed % 2**31  # an int of C
    quantizer.cp.min_points_per_centroid = 1
    quantizer.cp.max_points_per_centroid = num_rows  # all of the sample
    return quantizer


def _train_rotation(sample: np.ndarray, config: OPQConfig, seed: int, iterations: int) -> torch.Tensor:
    """An orthonormal matrix of shape `(width, width)`, trained from the identity."""
    import faiss

    matrix = faiss.OPQMatrix(config.width, config.num_levels)
    quantizer = _product_quantizer(config, len(sample), seed)
    matrix.pq = quantizer
    matrix.niter = iterations
    matrix.max_train_points = len(sample)
    faiss.copy_array_to_vector(np.eye(config.width, dtype=np.float32).ravel(), matrix.A)
    matrix.train(sample)
    rotation = torch.from_numpy(faiss.vector_to_array(matrix.A).reshape(config.width, config.width))
    # The nearest orthonormal matrix: products of float32 drift, and the inverse is taken to be the transpose.
    u, _, v = torch.linalg.svd(rotation.double())
    return u @ v
