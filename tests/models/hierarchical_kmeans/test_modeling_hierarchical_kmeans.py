# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""HierarchicalKMeansModel against a descent by brute force and scikit-learn's k-means of each cluster."""

import pytest
import torch

from forge_hf import ItemEmbeddings
from forge_hf.models import HierarchicalKMeansConfig, HierarchicalKMeansModel, clustering
from forge_hf.models.hierarchical_kmeans import modeling_hierarchical_kmeans

from ..fitted_common import FittedItemTokenizerTesterMixin


def tiny_config(**kwargs):
    return HierarchicalKMeansConfig(**{"input_dim": 8, "codebook_sizes": [5, 4, 6], **kwargs})


def rows(count, dim=8, seed=3):
    generator = torch.Generator().manual_seed(seed)
    centers = 3 * torch.randn(12, dim, generator=generator)
    return centers[torch.randint(12, (count,), generator=generator)] + torch.randn(count, dim, generator=generator)


def fit(embeddings, seed=0, **kwargs):
    return HierarchicalKMeansModel(tiny_config(**kwargs)).fit(ItemEmbeddings(embeddings), seed=seed)


def all_paths(model):
    """The codes of every cluster of the last level."""
    paths = torch.zeros(1, 0, dtype=torch.int64)
    for level in model.levels:
        counts = level.first_child.diff()
        numbers = torch.cat([torch.arange(count) for count in counts.tolist()])
        paths = torch.cat([paths.repeat_interleave(counts, dim=0), numbers[:, None]], dim=1)
    return paths


class TestHierarchicalKMeansModel(FittedItemTokenizerTesterMixin):
    model_class = HierarchicalKMeansModel
    lost_weight = "levels.1.centroids"

    def get_config(self):
        return tiny_config()


def test_descending_is_brute_force():
    model, new = fit(rows(500), input_normalization="none"), rows(100, seed=4)
    codes = model.encode(new).codes
    paths = all_paths(model)
    assert len(paths) == model.config.num_nodes[-1]
    for row, row_codes in zip(new.double(), codes, strict=True):
        prefix = torch.zeros(0, dtype=torch.int64)
        for level in range(3):
            # All continuations of the prefix that the tree has, and the centroid of each, by `decode` alone.
            alive = paths[(paths[:, :level] == prefix).all(dim=1), : level + 1].unique(dim=0)
            best = (model.decode(alive).double() - row).pow(2).sum(dim=1).argmin()
            prefix = alive[best]
        assert torch.equal(prefix, row_codes)


def test_inertia_of_each_cluster_is_that_of_scikit_learn():
    from sklearn.cluster import KMeans

    embeddings = rows(1500)
    model = fit(embeddings, codebook_sizes=[4, 8])
    codes = model.encode(embeddings).codes
    errors = (embeddings - model.decode(codes)).pow(2).sum(dim=1)
    ours, theirs = 0, 0
    for parent in range(4):
        inside = codes[:, 0] == parent
        k_means = KMeans(8, n_init=2, init="random", random_state=0).fit(embeddings[inside].numpy())
        assert errors[inside].sum() < 1.12 * k_means.inertia_
        ours, theirs = ours + errors[inside].sum(), theirs + k_means.inertia_
    assert 0.95 * theirs < ours < 1.05 * theirs


def test_prefixes_decode_to_the_centroid_of_their_items():
    embeddings = rows(400)
    model = fit(embeddings)
    codes = model.encode(embeddings).codes
    errors = []
    for levels in (1, 2, 3):
        decoded = model.decode(codes[:, :levels])
        errors.append((embeddings - decoded).pow(2).sum())
        for prefix in codes[:, :levels].unique(dim=0):
            inside = (codes[:, :levels] == prefix).all(dim=1)
            # The k-means ends before its last centroids have settled.
            torch.testing.assert_close(decoded[inside][0], embeddings[inside].mean(dim=0), atol=0.8, rtol=0)
    assert errors[0] > errors[1] > errors[2]


def test_small_clusters_have_fewer_children():
    embeddings = torch.cat([rows(30), rows(30)[:3].repeat(10, 1)])  # some are equal
    model = fit(embeddings, codebook_sizes=[4, 8, 16, 16])
    codes = model.encode(embeddings).codes
    assert model.config.num_nodes[-1] == model.config.num_nodes[-2] == 30  # every different item its own
    assert len(codes.unique(dim=0)) == 30 and (codes[:, -1] == 0).all()
    torch.testing.assert_close(model.decode(codes), embeddings, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"the first is \[0, 0, 0, 15\] in row 0: in level 3, .* 1 children"):
        model.decode(torch.tensor([[0, 0, 0, 15]]))


def test_fewer_items_than_branches():
    embeddings = rows(3)
    model = fit(embeddings)
    assert model.config.num_nodes == [3, 3, 3]
    assert model.encode(embeddings).codes[:, 0].sort().values.tolist() == [0, 1, 2]
    assert torch.equal(model.encode(rows(50)).codes[:, 1:], torch.zeros(50, 2, dtype=torch.int64))


def test_large_clusters_are_divided_by_a_sample(monkeypatch):
    embeddings, whole = rows(600), fit(rows(600))
    monkeypatch.setattr(modeling_hierarchical_kmeans, "POINTS_PER_CENTROID", 10)
    assert clustering.POINTS_PER_CENTROID == 256
    model = fit(embeddings)
    codes = model.encode(embeddings).codes
    assert len(codes[:, 0].unique()) == 5
    errors = [(embeddings - m.decode(m.encode(embeddings).codes)).pow(2).sum() for m in (whole, model)]
    assert errors[0] < errors[1] < 1.5 * errors[0]


def test_a_tree_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(modeling_hierarchical_kmeans, "MAX_NUM_WEIGHTS", 8 * 100)
    made, divide = [], HierarchicalKMeansModel._divide

    def counted(*args):
        made.append(len(divide(*args)))
        return divide(*args)

    monkeypatch.setattr(HierarchicalKMeansModel, "_divide", counted)
    with pytest.raises(ValueError, match="Use fewer levels"):
        fit(rows(500))
    assert sum(made) <= 100 + max(made)  # and no more of them are made


@pytest.mark.parametrize("num_nodes", [[5, 20], [5, 21, 30], [6, 20, 30], [5, 4, 6], [0, 0, 0]])
def test_bad_configs(num_nodes):
    with pytest.raises(Exception, match="`num_nodes` must give"):
        tiny_config(num_nodes=num_nodes)
