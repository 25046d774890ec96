# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""OPQModel against faiss's own product quantizer, and the rotations against each other."""

import sys

import faiss
import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from forge_hf import ItemEmbeddings
from forge_hf.models import OPQConfig, OPQModel
from forge_hf.models.opq.modeling_opq import _spread_evenly

from ..reconstruction_common import ReconstructingItemTokenizerTesterMixin, correlated_rows


class TestOPQModel(ReconstructingItemTokenizerTesterMixin):
    model_class = OPQModel
    lost_weight = "centroids"

    def get_config(self):
        return OPQConfig(input_dim=12, codebook_sizes=[16] * 4)

    def last_level(self, model, embeddings, codes):
        rotated = (embeddings - model.mean) @ model.projection.double().T
        return rotated[:, -model.centroids.shape[2] :], model.centroids[-1]


class TestPQModel(TestOPQModel):
    def get_config(self):
        return OPQConfig(input_dim=12, codebook_sizes=[32] * 6, rotation="none")


class TestWhitenedOPQModel(TestOPQModel):
    def get_config(self):
        return OPQConfig(input_dim=12, codebook_sizes=[32] * 4, pca_dim=8, whiten=True)


def fitted(rows, **kwargs):
    return OPQModel(OPQConfig(input_dim=rows.shape[1], **kwargs)).fit(ItemEmbeddings(rows))


def relative_error(model, rows):
    error = model.decode(model.encode(rows).codes) - rows
    return float(error.pow(2).sum() / (rows - rows.mean(dim=0)).pow(2).sum())


@pytest.mark.parametrize("kwargs", [{"rotation": "none"}, {"rotation": "opq"}, {"pca_dim": 8, "whiten": True}])
def test_codes_and_reconstruction_are_those_of_faiss(kwargs):
    rows = correlated_rows(2000, 24)
    model = fitted(rows, codebook_sizes=[16] * 8, **kwargs)
    config = model.config
    transform = faiss.LinearTransform(config.input_dim, config.width, True)
    faiss.copy_array_to_vector(model.projection.numpy().ravel(), transform.A)
    faiss.copy_array_to_vector(-(model.projection @ model.mean).numpy(), transform.b)
    transform.is_trained = True
    transform.set_is_orthonormal()
    quantizer = faiss.IndexPQ(config.width, 8, 4)
    faiss.copy_array_to_vector(model.centroids.numpy().ravel(), quantizer.pq.centroids)
    quantizer.is_trained = True
    index = faiss.IndexPreTransform(transform, quantizer)

    new = torch.cat([rows, correlated_rows(1000, 24, seed=1)])
    packed = index.sa_encode(new.numpy())
    codes = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(new), 8)  # two codes of 4 bits in a byte
    output = model.encode(new)
    assert np.array_equal(output.codes.numpy(), codes)
    np.testing.assert_allclose(output.latents.numpy(), transform.apply(new.numpy()), atol=1e-3)
    if not config.whiten:  # faiss inverts by the transpose
        np.testing.assert_allclose(model.decode(output.codes).numpy(), index.sa_decode(packed), atol=1e-4)


def test_codes_of_256_are_bytes_of_faiss():
    rows = correlated_rows(3000, 8)
    model = fitted(rows, codebook_sizes=[256] * 4)
    quantizer = faiss.ProductQuantizer(8, 4, 8)
    faiss.copy_array_to_vector(model.centroids.numpy().ravel(), quantizer.centroids)
    output = model.encode(rows)
    assert np.array_equal(output.codes.numpy(), quantizer.compute_codes(output.latents.numpy()))


def test_codebooks_are_those_that_faiss_trains():
    rows = correlated_rows(1000, 12)
    model = fitted(rows, codebook_sizes=[16] * 4, rotation="none")
    quantizer = faiss.ProductQuantizer(12, 4, 4)
    quantizer.cp.seed = 0
    quantizer.cp.max_points_per_centroid = 1000
    quantizer.train((rows - rows.mean(dim=0)).numpy())
    np.testing.assert_allclose(
        model.centroids.numpy().ravel(), faiss.vector_to_array(quantizer.centroids), rtol=1e-3, atol=1e-3
    )


def test_rotations_in_order_of_their_errors():
    rows = correlated_rows(4000, 32)
    errors = [relative_error(fitted(rows, codebook_sizes=[16] * 8, rotation=r), rows) for r in ("none", "pca", "opq")]
    assert errors[2] < errors[1] < 0.7 * errors[0]


def test_the_rotation_keeps_distances():
    rows = correlated_rows(500, 12)
    for rotation in ("none", "pca", "opq"):
        latents = fitted(rows, codebook_sizes=[16] * 3, rotation=rotation).encode(rows).latents
        torch.testing.assert_close(torch.pdist(latents[:50]), torch.pdist(rows[:50]))


def test_whitening_and_reduction():
    rows = correlated_rows(2000, 12)
    model = fitted(rows, codebook_sizes=[16] * 3, pca_dim=6, whiten=True)
    latents = model.encode(rows).latents
    torch.testing.assert_close(latents.T.cov(correction=0), torch.eye(6), atol=1e-3, rtol=0)
    # Undone, it is the best approximation in 6 dimensions.
    centered = (rows - rows.mean(dim=0)).double()
    _, _, axes = torch.linalg.svd(centered, full_matrices=False)
    expected = centered @ axes[:6].T @ axes[:6] + rows.mean(dim=0)
    restored = latents @ model.inverse_projection.T + model.mean
    torch.testing.assert_close(restored, expected.float(), atol=1e-3, rtol=1e-4)


def test_a_constant_dimension_does_not_blow_up_when_whitened():
    rows = correlated_rows(500, 12)
    rows[:, 3] = 4.0
    model = fitted(rows, codebook_sizes=[16] * 4, whiten=True)
    latents = model.encode(rows).latents
    assert latents.abs().max() < 50
    assert model.decode(model.encode(rows).codes)[:, 3].sub(4).abs().max() < 1e-2


def test_a_prefix_decodes_with_the_rest_at_its_mean():
    rows = correlated_rows(500, 12)
    model = fitted(rows, codebook_sizes=[16] * 4)
    codes = model.encode(rows).codes
    latents = torch.cat([model.centroids[level][codes[:, level]] for level in range(4)], dim=1)
    latents[:, 6:] = 0
    torch.testing.assert_close(model.decode(codes[:, :2]), latents @ model.projection + model.mean)
    assert model.encode(rows).latents.mean(dim=0).abs().max() < 1e-4


def test_decoded_items_encode_to_the_same_codes():
    rows = correlated_rows(500, 12)
    model = fitted(rows, codebook_sizes=[16] * 4)
    codes = torch.randint(16, (1000, 4), generator=torch.Generator().manual_seed(0))
    again = model.encode(model.decode(codes)).codes
    # The codes agree wherever no other centroid is the very same point.
    assert (model.decode(again) - model.decode(codes)).abs().max() < 1e-4


def test_64_levels():
    rows = correlated_rows(300, 64)
    model = fitted(rows, codebook_sizes=[4] * 64)
    assert model.encode(rows).codes.shape == (300, 64)


def test_encoding_needs_no_faiss(monkeypatch, tmp_path):
    rows = correlated_rows(300, 12)
    model = fitted(rows, codebook_sizes=[16] * 4)
    model.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "faiss", None)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(rows).codes, model.encode(rows).codes)
    with pytest.raises(ImportError):
        model.fit(ItemEmbeddings(rows))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000), st.booleans())
def test_spread_evenly(num_parts, size, seed, constant):
    generator = torch.Generator().manual_seed(seed)
    variances = torch.randn(num_parts * size, generator=generator, dtype=torch.float64).exp()
    variances = variances.sort(descending=True).values
    if constant:
        variances[-1] = 0
    order = _spread_evenly(variances, num_parts)
    assert sorted(order.tolist()) == list(range(num_parts * size))
    floor = max(float(variances[-1]), float(variances[0]) * 1e-6)
    logs = (variances.clamp(min=floor) / floor).log()
    sums = logs[order].view(num_parts, size).sum(dim=1)
    if size > 1 and num_parts > 1:  # no worse than dealing them out in order
        assert sums.max() <= logs.view(num_parts, size).sum(dim=1).max() + 1e-9


def test_spread_evenly_finds_a_perfect_split():
    # 2^7 * 2^0 = 2^6 * 2^1 = 2^5 * 2^2 = 2^4 * 2^3
    order = _spread_evenly(2.0 ** torch.arange(7, -1, -1, dtype=torch.float64), 4)
    assert sorted(map(sorted, order.view(4, 2).tolist())) == [[0, 7], [1, 6], [2, 5], [3, 4]]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"codebook_sizes": [256] * 7}, "`input_dim`"),
        ({"codebook_sizes": [256] * 7, "pca_dim": 16}, "`pca_dim`"),
        ({"codebook_sizes": [256, 128]}, "power of 2"),
        ({"codebook_sizes": [100] * 4}, "power of 2"),
        ({"codebook_sizes": [4] * 128}, "levels"),
        ({"pca_dim": 1024}, "`pca_dim`"),
        ({"rotation": "random"}, "rotation"),
    ],
)
def test_bad_configs(kwargs, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        OPQConfig(input_dim=768, **kwargs)


@pytest.mark.parametrize("name", ["num_iterations", "rotation_iterations", "sample_size"])
def test_bad_arguments(name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        OPQModel(OPQConfig(input_dim=4, codebook_sizes=[4, 4])).fit(ItemEmbeddings(torch.randn(50, 4)), **{name: 0})
