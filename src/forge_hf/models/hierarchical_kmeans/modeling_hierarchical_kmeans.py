# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Hierarchical k-means model: a tree of clusters, and the way down as the code."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from ..clustering import POINTS_PER_CENTROID, kmeans
from ..fitting import FittedItemTokenizerModel, mean_and_std, read_rows
from ..rqvae.code_assignment import nearest_codes
from ..rqvae.configuration_rqvae import MAX_NUM_WEIGHTS
from ..rqvae.modeling_item_tokenizer import ItemTokenizerInputNormalization
from .configuration_hierarchical_kmeans import HierarchicalKMeansConfig


if TYPE_CHECKING:
    from ...data import ItemEmbeddings


class HierarchicalKMeansLevel(nn.Module):
    """The clusters of one level, those of one parent side by side, in the order of the parents."""

    def __init__(self, config: HierarchicalKMeansConfig, level: int):
        super().__init__()
        num_parents, num_nodes = [1, *config.num_nodes][level : level + 2] if config.num_nodes else (0, 0)
        self.register_buffer("centroids", torch.zeros(num_nodes, config.input_dim))
        # The children of node p of the level before are from first_child[p] on, to first_child[p + 1].
        self.register_buffer("first_child", torch.zeros(num_parents + 1, dtype=torch.int64))

    def set(self, children: list[torch.Tensor]) -> None:
        """Takes the centroids of each parent's children."""
        self.centroids = torch.cat(children)
        counts = torch.tensor([len(centroids) for centroids in children], device=self.centroids.device)
        self.first_child = F.pad(counts.cumsum(0), (1, 0))

    def descend(self, points: torch.Tensor, parents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest child of each point's parent: its number among these, and among all clusters of the level."""
        first_child = self.first_child.to(parents)
        codes = torch.zeros_like(parents)
        order = parents.argsort(stable=True)
        nodes, counts = parents[order].unique_consecutive(return_counts=True)
        first, last = first_child[nodes].tolist(), first_child[nodes + 1].tolist()
        for rows, start, stop in zip(order.split(counts.tolist()), first, last, strict=True):
            if stop - start > 1:
                codes[rows] = nearest_codes(points[rows], self.centroids[start:stop])
        return codes, first_child[parents] + codes


class HierarchicalKMeansModel(FittedItemTokenizerModel):
    r"""
    Hierarchical k-means of item embeddings: items are clustered, each cluster is clustered again, and so on, as in DSI
    (https://huggingface.co/papers/2202.06991). The code of a level is the number of the cluster within its parent, so
    that equal codes of deeper levels mean nothing where the codes before differ.

    An item finds its codes by descending the tree, to the nearest child each time, and codes decode to the centroid of
    the cluster where they lead; a prefix leads to one nearer the root. A cluster of no more (different) items than it
    may have children gives each its own, and one of a single item has a single child.

    Args:
        config ([`HierarchicalKMeansConfig`]):
            The configuration.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.data import ItemEmbeddings
    >>> from forge_hf.models import HierarchicalKMeansConfig, HierarchicalKMeansModel

    >>> items = ItemEmbeddings(torch.randn(200, 16))
    >>> model = HierarchicalKMeansModel(HierarchicalKMeansConfig(input_dim=16, codebook_sizes=[4, 4])).fit(items)
    >>> codes = model.encode(items.to_tensor()).codes
    >>> codes.shape
    torch.Size([200, 2])
    >>> model.decode(codes[:, :1]).shape
    torch.Size([200, 16])
    ```
    """

    config: HierarchicalKMeansConfig
    base_model_prefix = "hierarchical_kmeans"

    def __init__(self, config: HierarchicalKMeansConfig):
        super().__init__(config)
        self.input_normalization = ItemTokenizerInputNormalization(config)
        self.levels = nn.ModuleList([HierarchicalKMeansLevel(config, level) for level in range(config.num_levels)])
        self.post_init()

    @torch.no_grad()
    def fit(self, items: "ItemEmbeddings", *, seed: int = 0, num_iterations: int = 20) -> "HierarchicalKMeansModel":
        """
        Fits the tree to items: each cluster is divided by a k-means of at most 256 of its items a child, drawn at
        random, and then all items go down one level. Sets `num_nodes` of the config.

        Args:
            items ([`ItemEmbeddings`]):
                The items, which need not fit in memory.
            seed (`int`, *optional*, defaults to 0):
                The same seed gives the same model.
            num_iterations (`int`, *optional*, defaults to 20):
                Number of k-means iterations.

        Returns:
            The model itself.

        Raises:
            [`InvalidEmbeddingsError`]: before any work, if the embeddings are empty, of another width or not finite.
            [`DuplicateItemError`]: if an item id occurs twice.
            `ValueError`: if the tree has too many clusters to keep.
        """
        self._check_items(items, seed=seed, num_iterations=num_iterations)
        self.input_normalization.set_statistics(*mean_and_std(items))
        rng = np.random.default_rng(seed)
        nodes = torch.zeros(len(items), dtype=torch.int64)
        num_nodes, centroids = [1], torch.zeros(1, self.config.input_dim, device=self.device)
        for depth, (level, size) in enumerate(zip(self.levels, self.config.codebook_sizes, strict=True)):
            counts = nodes.bincount(minlength=len(centroids))
            members = np.split(nodes.argsort(stable=True).numpy(), counts.cumsum(0)[:-1].numpy())
            children, room = [], MAX_NUM_WEIGHTS // self.config.input_dim - sum(num_nodes)
            for parent, rows in enumerate(tqdm(members, f"Dividing clusters of level {depth}", delay=5)):
                if len(rows) <= 1 and depth > 0:  # the centroid of a single item is the item
                    children.append(centroids[parent : parent + 1])
                else:
                    children.append(self._divide(items, rows, size, rng, num_iterations))
                room -= len(children[-1])
                if room < 0:
                    raise ValueError(
                        f"The tree has {num_nodes[1:]} clusters in its first levels and more than "
                        f"{sum(map(len, children)) - 1} in the next, of width {self.config.input_dim}; at most "
                        f"{MAX_NUM_WEIGHTS:,} numbers are supported. Use fewer levels or smaller `codebook_sizes`."
                    )
            num_nodes.append(sum(map(len, children)))
            level.set(children)
            centroids = level.centroids
            start = 0
            for batch in self._normalized_batches(items):
                parents = nodes[start : start + len(batch)].to(batch.device)
                nodes[start : start + len(batch)] = level.descend(batch, parents)[1].cpu()
                start += len(batch)
        self.config.num_nodes = num_nodes[1:]
        self.initialized.fill_(True)
        return self

    def _normalized_batches(self, items: "ItemEmbeddings") -> Iterator[torch.Tensor]:
        for batch in items.batches():
            batch = batch if self.device.type == "mps" else batch.to(self.device)  # MPS has no float64
            yield self.input_normalization(batch.double())

    def _divide(self, items: "ItemEmbeddings", rows: np.ndarray, size: int, rng, num_iterations: int) -> torch.Tensor:
        """Centroids of at most `size` children of the cluster that has the items of increasing numbers `rows`."""
        if len(rows) > POINTS_PER_CENTROID * size:
            rows = np.sort(rng.choice(rows, POINTS_PER_CENTROID * size, replace=False))
        points = torch.cat([batch.to(self.device) for batch in read_rows(items, rows)])
        points = self.input_normalization(points)
        if len(points) <= size or len(points.unique(dim=0)) <= size:
            return points.unique(dim=0)
        centroids = kmeans(points, size, seed=int(rng.integers(2**31)), num_iterations=num_iterations)
        return centroids[nearest_codes(self._to_float64(points), centroids).unique()]  # of equal ones, the first

    def _encode_chunk(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, None]:
        points = self.input_normalization(embeddings)
        nodes, codes = torch.zeros(len(points), dtype=torch.int64, device=points.device), []
        for level in self.levels:
            level_codes, nodes = level.descend(points, nodes)
            codes.append(level_codes)
        return torch.stack(codes, dim=1), None

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        nodes = torch.zeros_like(codes[:, 0])
        for number, (level, level_codes) in enumerate(zip(self.levels, codes.T, strict=False)):
            first, last = level.first_child[nodes], level.first_child[nodes + 1]
            outside = (level_codes >= last - first).nonzero()[:, 0]
            if len(outside) > 0:
                row = outside[0].item()
                raise ValueError(
                    f"`codes` has {len(outside)} rows that lead nowhere; the first is {codes[row].tolist()} in row "
                    f"{row}: in level {number}, its cluster has {(last - first)[row].item()} children."
                )
            nodes = first + level_codes
        return self.input_normalization.inverse(F.embedding(nodes, level.centroids))


__all__ = ["HierarchicalKMeansModel"]
