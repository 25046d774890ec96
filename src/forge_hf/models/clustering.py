# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""K-means, and its balanced form, in which every cluster gets equally many points."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm


if TYPE_CHECKING:
    from ..data import ItemEmbeddings


__all__ = ["POINTS_PER_CENTROID", "balanced_assignment", "balanced_kmeans", "kmeans"]

# What faiss trains a centroid on: more points cost time and move it little.
POINTS_PER_CENTROID = 256
# Scores of at most this many pairs of a point and a centroid at a time. On a CPU they stay in its cache (4 MB).
BLOCK_NUMEL = {"cpu": 2**20, "other": 2**26}
# Scores of at most this many pairs are kept for the next pass (1 GB), and of a sample.
KEPT_NUMEL = 2**28
# The prices of a balanced assignment: so many steps on a sample and then on all points, at temperatures that fall from
# the first to the last fraction of the scores' deviation. With these the total is within 0.5 % of the optimum.
PRICE_STEPS = (32, 8)
TEMPERATURES = (0.5, 0.03)
RELAXATION = 1.5
MAX_ROUNDS = 32


def kmeans(points: torch.Tensor, num_clusters: int, *, seed: int = 0, num_iterations: int = 20) -> torch.Tensor:
    """
    Centroids of a k-means (faiss, Lloyd's algorithm from a random sample of the points), on all of `points`.

    Args:
        points (`torch.Tensor` of shape `(num_points, dim)`):
            At least `num_clusters` of them.
        num_clusters (`int`):
            Number of centroids.
        seed (`int`, *optional*, defaults to 0):
            The same seed gives the same centroids.
        num_iterations (`int`, *optional*, defaults to 20):
            Number of iterations.

    Returns:
        `torch.FloatTensor` of shape `(num_clusters, dim)`, on the device of `points`.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.models.clustering import kmeans

    >>> kmeans(torch.tensor([[0.0], [1.0], [10.0], [11.0]]), 2).sort(dim=0).values
    tensor([[ 0.5000],
            [10.5000]])
    ```
    """
    import faiss

    center = points.mean(dim=0)  # faiss takes squared distances apart, which loses digits far from the origin
    array = (points - center).float().cpu().contiguous().numpy()
    trained = faiss.Kmeans(
        array.shape[1],
        num_clusters,
        niter=num_iterations,
        seed=seed % 2**31,  # an int of C
        min_points_per_centroid=1,
        max_points_per_centroid=len(array),  # all of them: who wants a sample gives one
    )
    trained.train(array)
    return torch.from_numpy(trained.centroids).to(points.device) + center


def balanced_kmeans(
    points: torch.Tensor, num_clusters: int, *, seed: int = 0, num_iterations: int = 20
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    K-means with clusters of equal size, up to one point: OneRec's balanced clustering
    (https://huggingface.co/papers/2502.18965, Algorithm 1), with all points assigned at once in the place of its
    greedy loop over clusters. It starts from an ordinary k-means and ends when the assignment stays as it is.

    Args:
        points (`torch.Tensor` of shape `(num_points, dim)`):
            At least `num_clusters` of them.
        num_clusters (`int`):
            Number of centroids.
        seed (`int`, *optional*, defaults to 0):
            The same seed gives the same centroids.
        num_iterations (`int`, *optional*, defaults to 20):
            Number of iterations, of each of the two.

    Returns:
        Centroids, `torch.FloatTensor` of shape `(num_clusters, dim)`, and the cluster of each point,
        `torch.LongTensor` of shape `(num_points,)`.
    """
    points = points.float()
    centroids = kmeans(points, num_clusters, seed=seed, num_iterations=num_iterations)
    codes = prices = None
    for _ in tqdm(range(num_iterations), "Balancing clusters", delay=5):
        before = codes
        codes, prices = _assign(_Scores(points, centroids), seed, prices)
        if before is not None and torch.equal(before, codes):
            break
        sums = centroids.new_zeros(centroids.shape, dtype=torch.float64).index_add_(0, codes, points.double())
        centroids = (sums / torch.bincount(codes, minlength=num_clusters)[:, None]).float()
    return centroids, codes


def balanced_assignment(
    points: "torch.Tensor | ItemEmbeddings", centroids: torch.Tensor, *, seed: int = 0
) -> torch.Tensor:
    """
    Assigns each point to a centroid such that every centroid gets equally many, up to one, at nearly the least sum of
    squared distances.

    This is a transportation problem. Its dual has a price for each centroid, and with the best prices `v`, each point
    belongs where `|x - c|^2 + v` is least. They are found by Sinkhorn steps, over-relaxed and at falling temperatures,
    first on a sample and then on all points. What is still too much at some centroids moves to others that have room,
    at the least loss.

    Distances take `O(num_points * num_centroids * dim)` time, once where they fit in memory (1 GB, and as much for the
    sample) and for each pass where they don't. There are 8 passes for the prices and about 8 for the moves, of
    `O(num_points * num_centroids)` each. A million points of width 384 and 256 centroids take about 20 seconds of one
    CPU core.

    Args:
        points (`torch.Tensor` of shape `(num_points, dim)` or [`ItemEmbeddings`]):
            The points, or anything that has a length and gives `batches()` of them, which need not fit in memory.
        centroids (`torch.Tensor` of shape `(num_centroids, dim)`):
            The centroids.
        seed (`int`, *optional*, defaults to 0):
            Seed of the sample.

    Returns:
        `torch.LongTensor` of shape `(num_points,)`, on the device of `centroids`.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.models.clustering import balanced_assignment

    >>> points = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [9.0]])
    >>> balanced_assignment(points, torch.tensor([[0.0], [9.0]]))
    tensor([0, 0, 0, 1, 1, 1])
    ```
    """
    return _assign(_Scores(points, centroids), seed)[0]


class _Scores:
    """
    Of all points and centroids: the squared distance, less the square of the point, which is the same for all of them.

    Iterating gives blocks of shape `(block_size, num_centroids)`, kept in memory where all of them fit.
    """

    def __init__(self, points: "torch.Tensor | ItemEmbeddings", centroids: torch.Tensor):
        self.center = centroids.float().mean(dim=0)  # scores lose digits far from the origin
        self.centroids = centroids.float() - self.center
        self.squares = self.centroids.pow(2).sum(dim=1)
        self.points, self.num_points, self.num_centroids = points, len(points), len(centroids)
        block_numel = BLOCK_NUMEL.get(centroids.device.type, BLOCK_NUMEL["other"])
        self.block_size = max(1, block_numel // self.num_centroids)
        self.kept = None
        if self.num_points * self.num_centroids <= KEPT_NUMEL:
            self.kept = list(self._compute())

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from self._compute() if self.kept is None else self.kept

    def _compute(self) -> Iterator[torch.Tensor]:
        points = self.points
        for batch in [points] if isinstance(points, torch.Tensor) else points.batches():
            for block in batch.split(self.block_size):
                block = block.to(self.centroids) - self.center
                yield torch.addmm(self.squares, block, self.centroids.T, alpha=-2)

    def rows(self, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        """Those of increasing numbers `rows`, in blocks."""
        chosen = torch.zeros(self.num_points, dtype=torch.bool, device=self.centroids.device)
        chosen[rows] = True
        start = 0
        for block in self:
            yield block[chosen[start : start + len(block)]]
            start += len(block)


def _assign(scores: _Scores, seed: int, prices: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The balanced assignment and its prices, which may start from those of nearly the same centroids."""
    sample_size = min(
        scores.num_points, POINTS_PER_CENTROID * scores.num_centroids, KEPT_NUMEL // scores.num_centroids
    )
    rows = np.random.default_rng(seed).choice(scores.num_points, sample_size, replace=False)
    sample = [block for block in scores.rows(torch.from_numpy(rows)) if len(block) > 0]
    deviation = float(torch.cat([block.std(dim=1, correction=0) for block in sample]).mean()) or 1.0
    temperatures = deviation * np.geomspace(*TEMPERATURES, num=sum(PRICE_STEPS))
    if prices is None:
        prices = torch.zeros_like(scores.squares)
        for temperature in temperatures[: PRICE_STEPS[0]]:
            prices = _adjusted(prices, sample, temperature)
    for temperature in temperatures[PRICE_STEPS[0] :]:
        prices = _adjusted(prices, scores, temperature)
    codes = torch.cat([(block + prices).argmin(dim=1) for block in scores])
    return _move_excess_(codes, scores, prices), prices


def _adjusted(prices: torch.Tensor, blocks, temperature: float) -> torch.Tensor:
    """Prices, raised where a centroid is wanted by more than its share and lowered where it is wanted by fewer."""
    demand = torch.zeros_like(prices)
    for block in blocks:
        weights = block + prices
        weights = weights.sub_(weights.amin(dim=1, keepdim=True)).mul_(-1 / temperature).exp_()
        demand += (1 / weights.sum(dim=1)) @ weights
    return prices + RELAXATION * temperature * (demand / demand.mean()).clamp(min=1e-9).log()


def _move_excess_(codes: torch.Tensor, scores: _Scores, prices: torch.Tensor) -> torch.Tensor:
    """Moves points from centroids with too many to centroids with too few, those first that lose least by it."""
    counts = torch.bincount(codes, minlength=scores.num_centroids)
    capacities = torch.full_like(counts, scores.num_points // scores.num_centroids)
    largest = counts.sort(descending=True, stable=True).indices
    capacities[largest[: scores.num_points % scores.num_centroids]] += 1
    for _ in range(MAX_ROUNDS):
        counts = torch.bincount(codes, minlength=scores.num_centroids)
        excess, room = (counts - capacities).clamp(min=0), (capacities - counts).clamp(min=0)
        if not excess.any():
            return codes
        rows = (excess[codes] > 0).nonzero()[:, 0]
        losses, targets = _least_losses(rows, codes[rows], scores, prices, room.nonzero()[:, 0])
        order = losses.argsort(stable=True)
        order = order[_rank_in_group(codes[rows[order]]) < excess[codes[rows[order]]]]
        order = order[_rank_in_group(targets[order]) < room[targets[order]]]
        codes[rows[order]] = targets[order]
    # Many points that are nearly equal: it's of no matter which of them goes where.
    rows = (_rank_in_group(codes) >= capacities[codes]).nonzero()[:, 0]
    room = (capacities - torch.bincount(codes, minlength=scores.num_centroids)).clamp(min=0)
    codes[rows] = torch.arange(scores.num_centroids, device=codes.device).repeat_interleave(room)
    return codes


def _least_losses(rows, own, scores: _Scores, prices, open_codes) -> tuple[torch.Tensor, torch.Tensor]:
    """What each of the points at `rows` would lose by going from `own` to one of `open_codes`, and to which."""
    losses, targets, start = [], [], 0
    for block in scores.rows(rows):
        block = block + prices
        least = block[:, open_codes].min(dim=1)
        losses.append(least.values - block.gather(1, own[start : start + len(block), None])[:, 0])
        targets.append(open_codes[least.indices])
        start += len(block)
    return torch.cat(losses), torch.cat(targets)


def _rank_in_group(groups: torch.Tensor) -> torch.Tensor:
    """How many equal entries come before each entry."""
    order = groups.argsort(stable=True)
    counts = torch.bincount(groups)
    starts = (counts.cumsum(0) - counts)[groups[order]]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(groups), device=groups.device) - starts
    return ranks
