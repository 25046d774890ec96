# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""ResidualKMeansModel against faiss's ResidualQuantizer, scikit-learn's k-means and plain sums."""

import faiss
import numpy as np
import pytest
import torch

from forge_hf import ItemEmbeddings
from forge_hf.errors import InvalidEmbeddingsError
from forge_hf.models import ResidualKMeansConfig, ResidualKMeansModel

from ..fitted_common import FittedItemTokenizerTesterMixin, SmallBatches


def tiny_config(**kwargs):
    return ResidualKMeansConfig(**{"input_dim": 12, "codebook_sizes": [9, 7, 5], **kwargs})


def rows(count, dim=12, seed=3):
    return 2 + torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.5, 2, dim)


class TestResidualKMeansModel(FittedItemTokenizerTesterMixin):
    model_class = ResidualKMeansModel
    lost_weight = "codebooks"

    def get_config(self):
        return tiny_config()

    def last_level(self, model, embeddings, codes):
        residuals = model.input_normalization(embeddings)
        for level in range(codes.shape[1]):
            if level > 0:
                residuals = residuals - model.get_codebook(level - 1)[codes[:, level - 1]]
            if model.config.normalize_residuals:
                residuals = residuals / residuals.norm(dim=1, keepdim=True)
        return residuals, model.get_codebook(codes.shape[1] - 1)


class TestResidualKMeansModelNormalized(TestResidualKMeansModel):
    def get_config(self):
        return tiny_config(normalize_residuals=True, input_normalization="standardize")


class TestResidualKMeansModelBalanced(TestResidualKMeansModel):
    num_items = 300

    def get_config(self):
        return tiny_config(balanced=True, codebook_sizes=[9, 7])


def test_codes_are_those_of_faiss():
    embeddings = rows(2000)
    model = ResidualKMeansModel(tiny_config(codebook_sizes=[16, 16, 16], input_normalization="none"))
    model.fit(ItemEmbeddings(embeddings))
    quantizer = faiss.ResidualQuantizer(12, 3, 4)
    quantizer.max_beam_size = 1
    quantizer.is_trained = True
    books = np.concatenate([model.get_codebook(level).numpy() for level in range(3)])
    faiss.copy_array_to_vector(books.ravel(), quantizer.codebooks)
    packed = quantizer.compute_codes(embeddings.numpy())
    bits = np.unpackbits(packed, axis=1, bitorder="little")[:, :12].reshape(-1, 3, 4)
    theirs = torch.from_numpy(bits @ (1 << np.arange(4)))
    ours = model.encode(embeddings).codes
    assert (ours == theirs).all(dim=1).float().mean() > 0.999  # theirs are of float32
    torch.testing.assert_close(
        model.decode(ours)[:50], torch.from_numpy(quantizer.decode(packed[:50])), atol=1e-4, rtol=1e-4
    )


def test_inertia_is_that_of_scikit_learn():
    from sklearn.cluster import KMeans

    embeddings = rows(3000)
    model = ResidualKMeansModel(tiny_config(codebook_sizes=[16, 16])).fit(ItemEmbeddings(embeddings))
    codes, residuals = model.encode(embeddings).codes, embeddings.double()
    for level in range(2):
        residuals = embeddings.double() - (model.decode(codes[:, :level]).double() if level else residuals.mean(dim=0))
        theirs = KMeans(16, n_init=3, init="random", random_state=0).fit(residuals.numpy()).inertia_
        ours = (embeddings - model.decode(codes[:, : level + 1])).pow(2).sum().item()
        assert 0.95 * theirs < ours < 1.05 * theirs


@pytest.mark.parametrize("input_normalization", ["none", "center", "standardize"])
def test_codes_and_reconstruction_row_by_row(input_normalization):
    embeddings = rows(200)
    model = ResidualKMeansModel(tiny_config(input_normalization=input_normalization)).fit(ItemEmbeddings(embeddings))
    mean, std = embeddings.double().mean(dim=0), embeddings.double().std(dim=0, correction=0)
    if input_normalization == "none":
        mean, std = torch.zeros(12), torch.ones(12)
    elif input_normalization == "center":
        std = std.pow(2).mean().sqrt()
    codes = model.encode(embeddings).codes
    for row, row_codes in zip(embeddings[:60].double(), codes, strict=False):
        residual, total = (row - mean) / std, 0
        for level, code in enumerate(row_codes.tolist()):
            book = model.get_codebook(level).double()
            assert code == (residual - book).pow(2).sum(dim=1).argmin()
            residual, total = residual - book[code], total + book[code]
            decoded = model.decode(row_codes[None, : level + 1])[0].double()
            torch.testing.assert_close(decoded, total * std + mean, atol=1e-4, rtol=1e-4)


def test_normalized_residuals_row_by_row():
    embeddings = rows(400)
    model = ResidualKMeansModel(tiny_config(normalize_residuals=True)).fit(ItemEmbeddings(embeddings))
    centered = embeddings.double() - embeddings.double().mean(dim=0)
    residuals, codes = centered / centered.pow(2).mean().sqrt(), model.encode(embeddings).codes
    lengths = []
    for level in range(3):
        lengths.append(residuals.norm(dim=1).mean())
        residuals = residuals / residuals.norm(dim=1, keepdim=True)
        book = model.get_codebook(level).double()
        assert torch.equal(codes[:, level], torch.cdist(residuals, book).argmin(dim=1))
        residuals = residuals - book[codes[:, level]]
        torch.testing.assert_close(model.codebooks[level].scale.double(), lengths[-1], atol=1e-4, rtol=1e-4)
    errors = [(embeddings - model.decode(codes[:, :levels])).pow(2).sum() for levels in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] < 0.8 * (embeddings - embeddings.mean(dim=0)).pow(2).sum()


def test_balanced_codes_are_balanced():
    embeddings = rows(305).abs().pow(2)  # skewed
    config = tiny_config(balanced=True)
    model = ResidualKMeansModel(config).fit(ItemEmbeddings(embeddings))
    codes = model.balanced_codes(ItemEmbeddings(embeddings))
    assert torch.equal(codes, model.balanced_codes(SmallBatches(embeddings)))
    for level, size in enumerate(config.codebook_sizes):
        counts = torch.bincount(codes[:, level], minlength=size)
        assert counts.max() - counts.min() <= 1
    # New items get the nearest centroid, as in the plain model, and are much more even than there.
    plain = ResidualKMeansModel(tiny_config()).fit(ItemEmbeddings(embeddings))
    spread = [torch.bincount(m.encode(embeddings).codes[:, 0], minlength=9).double().std() for m in (model, plain)]
    assert spread[0] < spread[1]
    with pytest.raises(ValueError, match="`balanced=True`"):
        plain.balanced_codes(ItemEmbeddings(embeddings))


def test_fit_on_a_sample():
    items = ItemEmbeddings(rows(500))
    model = ResidualKMeansModel(tiny_config()).fit(items, sample_size=50)
    assert not torch.equal(model.get_codebook(0), ResidualKMeansModel(tiny_config()).fit(items).get_codebook(0))
    mean = model.input_normalization.mean
    torch.testing.assert_close(mean, items.to_tensor().mean(dim=0))  # of all items
    with pytest.raises(ValueError, match="`sample_size` must be at least .* 9, but is 8"):
        model.fit(items, sample_size=8)
    with pytest.raises(InvalidEmbeddingsError, match="8 items, but the largest codebook has 9"):
        model.fit(ItemEmbeddings(rows(8)))


def test_equal_items_get_equal_codes():
    embeddings = rows(20).repeat(10, 1)
    model = ResidualKMeansModel(tiny_config(codebook_sizes=[32, 8])).fit(ItemEmbeddings(embeddings))
    codes = model.encode(embeddings).codes
    assert torch.equal(codes, codes[:20].repeat(10, 1)) and len(codes.unique(dim=0)) == 20
    torch.testing.assert_close(model.decode(codes), embeddings, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "wrong", [{"input_dim": 0}, {"codebook_sizes": []}, {"codebook_sizes": [4, 1]}, {"input_normalization": "l2"}]
)
def test_bad_configs(wrong):
    with pytest.raises(Exception, match=next(iter(wrong))):
        tiny_config(**wrong)


def test_a_config_for_more_weights_than_memory():
    with pytest.raises(Exception, match="`input_dim` and `codebook_sizes` ask for"):
        tiny_config(input_dim=2**20, codebook_sizes=[2**20] * 3)
