# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""ResidualKMeansFSQModel: its last level against principal components by numpy, and against a third k-means."""

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from forge_hf import ItemEmbeddings
from forge_hf.models import (
    ResidualKMeansConfig,
    ResidualKMeansFSQConfig,
    ResidualKMeansFSQModel,
    ResidualKMeansModel,
)
from forge_hf.semantic_ids.quality import codebook_utilization, collision_rate

from ..reconstruction_common import ReconstructingItemTokenizerTesterMixin, correlated_rows


class TestResidualKMeansFSQModel(ReconstructingItemTokenizerTesterMixin):
    model_class = ResidualKMeansFSQModel
    lost_weight = "kmeans.codebooks"

    def get_config(self):
        return ResidualKMeansFSQConfig(input_dim=12, codebook_sizes=[16, 16, 24], fsq_levels=[4, 3, 2])


def fitted(rows, sizes, levels, **kwargs):
    config = ResidualKMeansFSQConfig(input_dim=rows.shape[1], codebook_sizes=sizes, fsq_levels=levels)
    return ResidualKMeansFSQModel(config).fit(ItemEmbeddings(rows), **kwargs)


def test_the_first_levels_are_residual_kmeans():
    rows = correlated_rows(800, 12)
    model = fitted(rows, [16, 8, 4], [2, 2], seed=3)
    config = ResidualKMeansConfig(input_dim=12, codebook_sizes=[16, 8])
    kmeans = ResidualKMeansModel(config).fit(ItemEmbeddings(rows), seed=3)
    codes = model.encode(rows).codes
    assert torch.equal(codes[:, :2], kmeans.encode(rows).codes)
    torch.testing.assert_close(model.decode(codes[:, :2]), kmeans.decode(codes[:, :2]))


def test_the_last_level_is_a_grid_over_principal_components():
    rows = correlated_rows(800, 12)
    model = fitted(rows, [16, 8, 30], [5, 3, 2])
    output = model.encode(rows)
    rest = (rows - model.decode(output.codes[:, :2])).double().numpy()
    rest = rest - rest.mean(axis=0)
    _, _, axes = np.linalg.svd(rest, full_matrices=False)
    components = rest @ axes[:3].T
    components /= components.std(axis=0)
    latents = output.latents.double().numpy()
    signs = np.sign((components * latents).sum(axis=0))
    np.testing.assert_allclose(latents, components * signs, atol=1e-3)
    # 5, 3 and 2 cells of tanh from -1 to 1, those at the ends half as wide
    bounds = [np.array([-0.75, -0.25, 0.25, 0.75]), np.array([-0.5, 0.5]), np.array([0.0])]
    cells = [np.searchsorted(bound, np.tanh(latents[:, i])) for i, bound in enumerate(bounds)]
    assert np.array_equal(output.codes[:, 2].numpy(), cells[0] + 5 * (cells[1] + 3 * cells[2]))
    # Each cell decodes to the mean of its items, in each component.
    restored = (model.decode(output.codes) - model.decode(output.codes[:, :2])).double().numpy()
    for i, cell in enumerate(cells):
        for value in range(len(bounds[i]) + 1):
            inside = cell == value
            mean = (rest[inside] @ axes[i]).mean()
            np.testing.assert_allclose((restored[inside] - restored.mean(axis=0)) @ axes[i], mean, atol=2e-2)


def test_cell_means_lie_in_their_cells():
    rows = correlated_rows(800, 12)
    model = fitted(rows, [8, 256], [4, 4, 4, 4])
    codes = torch.arange(256)[:, None]
    indices = model.quantizer.codes_to_indices(codes)
    components = model.cell_means.gather(1, indices.T).T
    assert torch.equal(model.quantizer.to_indices(components.double()), indices)


def test_a_cell_without_items_decodes_to_a_latent_inside_it():
    rows = torch.cat([torch.zeros(50, 3), torch.ones(50, 3)])  # two points only: the inner cells stay empty
    model = fitted(rows, [2, 4], [4])
    assert torch.equal(model.quantizer.to_indices(model.cell_means.double().T)[:, 0], torch.arange(4))


def test_fewer_collisions_than_a_third_kmeans():
    rows = correlated_rows(3000, 16)
    model = fitted(rows, [32, 32, 32], [2] * 5)
    config = ResidualKMeansConfig(input_dim=16, codebook_sizes=[32, 32, 32])
    kmeans = ResidualKMeansModel(config).fit(ItemEmbeddings(rows))
    codes = model.encode(rows).codes
    assert collision_rate(codes) < collision_rate(kmeans.encode(rows).codes)
    assert codebook_utilization(codes, [32, 32, 32])[2] == 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"codebook_sizes": [256, 256, 256]}, "product of `fsq_levels`, 4096"),
        ({"codebook_sizes": [4096]}, "before the last"),
        ({"codebook_sizes": [8, 4], "fsq_levels": [4, 1]}, "`fsq_levels`"),
        ({"input_dim": 8}, "`input_dim`"),
    ],
)
def test_bad_configs(kwargs, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        ResidualKMeansFSQConfig(**kwargs)
