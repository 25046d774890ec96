# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""K-means against scikit-learn, and balanced clusters against OneRec's plain loop and against the optimum."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_hf.models import clustering
from forge_hf.models.clustering import balanced_assignment, balanced_kmeans, kmeans


def mixture(count, dim=8, num_centers=6, seed=0):
    """Clusters of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    centers = 3 * torch.randn(num_centers, dim, generator=generator)
    which = (num_centers * torch.rand(count, generator=generator).pow(2)).long()
    return centers[which] + torch.randn(count, dim, generator=generator)


def costs(points, centroids):
    return (points[:, None].double() - centroids[None].double()).pow(2).sum(dim=2)


def inertia(points, centroids, codes):
    return costs(points, centroids).gather(1, codes[:, None]).sum().item()


def onerec_assignment(points, centroids):
    """One pass of OneRec's Algorithm 1: each cluster in turn takes the nearest of the points that are left."""
    distances, left = costs(points, centroids).numpy(), list(range(len(points)))
    size, codes = -(-len(points) // len(centroids)), np.zeros(len(points), dtype=int)
    for k in range(len(centroids)):
        left.sort(key=lambda i: distances[i, k])
        codes[left[:size]] = k
        left = left[size:]
    return torch.from_numpy(codes)


def test_kmeans_against_scikit_learn():
    from sklearn.cluster import KMeans

    points = mixture(2000, num_centers=40)
    ours = costs(points, kmeans(points, 16, seed=1)).min(dim=1).values.sum().item()
    theirs = min(KMeans(16, n_init=1, init="random", max_iter=20, random_state=s).fit(points).inertia_ for s in (1, 2))
    assert ours < 1.05 * theirs


def test_kmeans_is_of_its_seed():
    points = mixture(500)
    assert torch.equal(kmeans(points, 7, seed=3), kmeans(points, 7, seed=3))
    assert not torch.equal(kmeans(points, 7, seed=3), kmeans(points, 7, seed=4))
    torch.testing.assert_close(kmeans(points[:7], 7).sort(dim=0).values, points[:7].sort(dim=0).values)  # one each


@settings(deadline=None, max_examples=25)
@given(
    num_points=st.integers(1, 200),
    num_centroids=st.integers(1, 40),
    distinct=st.integers(1, 200),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    seed=st.integers(0, 9),
)
def test_sizes_within_one_whatever_the_points(num_points, num_centroids, distinct, scale, seed):
    points = scale * mixture(num_points, seed=seed)[torch.arange(num_points) % distinct]
    codes = balanced_assignment(points, scale * mixture(num_centroids, seed=seed + 10))
    counts = torch.bincount(codes, minlength=num_centroids)
    assert len(codes) == num_points and len(counts) == num_centroids
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("num_points", [24, 60, 300])
@pytest.mark.parametrize("seed", range(4))
def test_assignment_is_near_the_optimum(num_points, seed):
    from scipy.optimize import linear_sum_assignment

    points, centroids = mixture(num_points, seed=seed), mixture(6, seed=seed + 10)
    matrix = costs(points, centroids)
    rows, slots = linear_sum_assignment(matrix.repeat_interleave(num_points // 6, dim=1).numpy())
    optimum = matrix[rows, slots // (num_points // 6)].sum().item()
    ours = inertia(points, centroids, balanced_assignment(points, centroids))
    assert optimum * (1 - 1e-9) <= ours <= 1.01 * optimum
    assert inertia(points, centroids, onerec_assignment(points, centroids)) >= ours


@pytest.mark.parametrize(("num_points", "num_clusters"), [(500, 7), (1000, 32)])
def test_balanced_kmeans_is_no_worse_than_the_greedy_loop(num_points, num_clusters):
    points = mixture(num_points)
    centroids, codes = balanced_kmeans(points, num_clusters)
    counts = torch.bincount(codes, minlength=num_clusters)
    assert counts.max() - counts.min() <= 1
    greedy = kmeans(points, num_clusters)
    for _ in range(20):
        greedy_codes = onerec_assignment(points, greedy)
        greedy = torch.stack([points[greedy_codes == k].mean(dim=0) for k in range(num_clusters)])
    assert inertia(points, centroids, codes) < inertia(points, greedy, greedy_codes)
    for k in range(num_clusters):
        torch.testing.assert_close(centroids[k], points[codes == k].mean(dim=0), atol=0.3, rtol=0)


class Batches:
    """As `ItemEmbeddings`, of any batch size."""

    def __init__(self, points, batch_size):
        self.points, self.batch_size = points, batch_size

    def __len__(self):
        return len(self.points)

    def batches(self):
        yield from self.points.split(self.batch_size)


@pytest.mark.parametrize("kept", [True, False])
def test_points_in_batches_are_the_points(monkeypatch, kept):
    points, centroids = mixture(1000), mixture(16, seed=5)
    monkeypatch.setattr(clustering, "POINTS_PER_CENTROID", 20)  # a sample of 320
    whole = balanced_assignment(points, centroids)
    monkeypatch.setattr(clustering, "KEPT_NUMEL", 16_000 if kept else 15_999)
    for batch_size in (13, 1000):
        parts = balanced_assignment(Batches(points, batch_size), centroids)
        assert torch.bincount(parts, minlength=16).sort().values.tolist() == [62] * 8 + [63] * 8
        assert (parts == whole).float().mean() > 0.99


def test_equal_points_need_no_more_than_the_rounds_they_get(monkeypatch):
    monkeypatch.setattr(clustering, "MAX_ROUNDS", 2)
    codes = balanced_assignment(torch.zeros(103, 4), torch.zeros(20, 4))
    assert sorted(torch.bincount(codes, minlength=20).tolist()) == [5] * 17 + [6] * 3


def test_many_centroids_share_a_small_sample(monkeypatch):
    points, centroids = mixture(3000), mixture(100, seed=5)
    whole = inertia(points, centroids, balanced_assignment(points, centroids))
    monkeypatch.setattr(clustering, "KEPT_NUMEL", 30_000)  # a sample of 300 points, where all of them would be taken
    largest = []
    monkeypatch.setattr(clustering._Scores, "rows", lambda self, rows: largest.append(len(rows)) or _rows(self, rows))
    codes = balanced_assignment(points, centroids)
    assert largest[0] == 300 and torch.bincount(codes).tolist() == [30] * 100
    assert inertia(points, centroids, codes) < 1.02 * whole


_rows = clustering._Scores.rows


def test_seeds_beyond_those_of_faiss():
    points = mixture(100)
    assert kmeans(points, 5, seed=2**40 + 3).equal(kmeans(points, 5, seed=2**40 + 3))
