# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""LSH model: random hyperplanes, and on which side of each an item lies."""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..fitting import FittedItemTokenizerModel, mean_and_std
from ..rqvae.modeling_item_tokenizer import ItemTokenizerInputNormalization
from .configuration_lsh import LSHConfig


if TYPE_CHECKING:
    from ...data import ItemEmbeddings


class LSHModel(FittedItemTokenizerModel):
    r"""
    Locality-sensitive hashing of item embeddings by random hyperplanes, a baseline of TIGER
    (https://huggingface.co/papers/2305.05065): the code of a level of `h` planes is `sum_i 2^i [w_i . x > 0]`. Two
    items lie on the same side of a plane with probability `1 - angle / pi`. Levels are independent: none refines the
    one before.

    Codes decode to the best linear estimate from the sides for isotropic normal embeddings. With unit normals as the
    rows of `W`, and sides `s` of -1 and 1, it is `sqrt(2 / pi) W' C^-1 s`, where `C = 2 / pi arcsin(W W')` is how the
    sides correlate. Prefixes decode by the planes of their levels. With few planes it's a coarse estimate, and with
    `input_normalization="none"` one around the origin, which may be worse than the mean item.

    Args:
        config ([`LSHConfig`]):
            The configuration.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.data import ItemEmbeddings
    >>> from forge_hf.models import LSHConfig, LSHModel

    >>> items = ItemEmbeddings(torch.randn(200, 16))
    >>> model = LSHModel(LSHConfig(input_dim=16, codebook_sizes=[8, 8])).fit(items)
    >>> codes = model.encode(items.to_tensor()).codes
    >>> codes.shape
    torch.Size([200, 2])
    >>> model.decode(codes[:, :1]).shape
    torch.Size([200, 16])
    ```
    """

    config: LSHConfig
    base_model_prefix = "lsh"

    def __init__(self, config: LSHConfig):
        super().__init__(config)
        self.input_normalization = ItemTokenizerInputNormalization(config)
        # Unit normals, those of the first level first.
        self.register_buffer("planes", torch.zeros(sum(config.num_planes), config.input_dim))
        self.register_buffer("scale", torch.zeros(()))
        self.post_init()

    @torch.no_grad()
    def fit(self, items: "ItemEmbeddings", *, seed: int = 0) -> "LSHModel":
        """
        Draws the hyperplanes, and measures the input statistics on all items.

        Args:
            items ([`ItemEmbeddings`]):
                The items, which need not fit in memory.
            seed (`int`, *optional*, defaults to 0):
                The same seed gives the same planes.

        Returns:
            The model itself.

        Raises:
            [`InvalidEmbeddingsError`]: before any work, if the embeddings are empty, of another width or not finite.
            [`DuplicateItemError`]: if an item id occurs twice.
        """
        self._check_items(items, seed=seed)
        mean, std = mean_and_std(items)
        self.input_normalization.set_statistics(mean, std)
        planes = torch.randn(self.planes.shape, generator=torch.Generator().manual_seed(seed))
        self.planes.copy_(F.normalize(planes))
        # Normalized embeddings have unit variance, or none at all; others a second moment about the origin.
        raw = self.config.input_normalization == "none"
        self.scale.copy_((mean.pow(2) + std.pow(2)).mean().sqrt() if raw else (std > 0).any())
        self.initialized.fill_(True)
        return self

    def _encode_chunk(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, None]:
        points = self.input_normalization(embeddings)
        # A point on a plane, up to rounding, is on its lower side, so that codes don't depend on the batch.
        rounding = (self.config.input_dim + 3) * torch.finfo(points.dtype).eps
        sides = points @ self.planes.to(points).T > rounding * points.norm(dim=1, keepdim=True)
        codes = []
        for level in sides.split(self.config.num_planes, dim=1):
            codes.append((level * 2 ** torch.arange(level.shape[1], device=level.device)).sum(dim=1))
        return torch.stack(codes, dim=1), None

    @torch.no_grad()
    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        num_planes = self.config.num_planes[: codes.shape[1]]
        bits = [
            codes[:, level, None] >> torch.arange(count, device=codes.device) & 1
            for level, count in enumerate(num_planes)
        ]
        sides = 2.0 * torch.cat(bits, dim=1) - 1
        planes = self.planes[: sum(num_planes)].cpu().double()
        correlations = 2 / math.pi * (planes @ planes.T).clamp(-1, 1).fill_diagonal_(1).asin()
        estimate = math.sqrt(2 / math.pi) * torch.linalg.pinv(correlations, hermitian=True) @ planes
        return self.input_normalization.inverse(self.scale * (sides @ estimate.to(sides)))


__all__ = ["LSHModel"]
