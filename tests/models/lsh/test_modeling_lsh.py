# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""LSHModel: the statistics of angles, bits row by row, and the linear estimate against a regression."""

import math

import pytest
import torch

from forge_hf import ItemEmbeddings
from forge_hf.models import LSHConfig, LSHModel

from ..fitted_common import FittedItemTokenizerTesterMixin


def rows(count, dim=12, seed=3):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


class TestLSHModel(FittedItemTokenizerTesterMixin):
    model_class = LSHModel
    lost_weight = "planes"

    def get_config(self):
        return LSHConfig(input_dim=12, codebook_sizes=[16, 8, 32])


def sides(codes, num_planes):
    """Of all planes, by decimal digits."""
    return torch.tensor(
        [
            [int(bit) for code, count in zip(row, num_planes, strict=True) for bit in f"{code:0{count}b}"[::-1]]
            for row in codes.tolist()
        ]
    )


@pytest.mark.parametrize("input_normalization", ["none", "center", "standardize"])
def test_a_side_is_shared_with_the_probability_of_the_angle(input_normalization):
    embeddings = 3 + rows(40) * torch.linspace(0.5, 2, 12)
    config = LSHConfig(input_dim=12, codebook_sizes=[2**16] * 64, input_normalization=input_normalization)
    model = LSHModel(config).fit(ItemEmbeddings(embeddings))
    x = embeddings.double()
    if input_normalization != "none":
        x = x - x.mean(dim=0)
    if input_normalization == "standardize":
        x = x / x.std(dim=0, correction=0)
    bits = sides(model.encode(embeddings).codes, config.num_planes)
    for i in range(0, 40, 2):
        angle = torch.acos(torch.cosine_similarity(x[i], x[i + 1], dim=0)).item()
        expected, shared = 1 - angle / math.pi, (bits[i] == bits[i + 1]).double().mean().item()
        assert abs(shared - expected) < 4.5 * math.sqrt(max(expected * (1 - expected), 1e-3) / 1024)


def test_codes_row_by_row_and_centered_bits_are_even():
    embeddings = 5 + rows(500)
    model = LSHModel(LSHConfig(input_dim=12, codebook_sizes=[16, 8])).fit(ItemEmbeddings(embeddings))
    codes, center = model.encode(embeddings).codes, embeddings.double().mean(dim=0)
    for row, row_codes in zip(embeddings[:50].double() - center, codes, strict=False):
        above = [float(row @ plane) > 0 for plane in model.planes.double()]
        assert row_codes.tolist() == [
            sum(2**i * bit for i, bit in enumerate(above[:4])),
            sum(2**i * bit for i, bit in enumerate(above[4:])),
        ]
    assert (sides(codes, [4, 3]).double().mean(dim=0) - 0.5).abs().max() < 0.1
    raw = LSHModel(LSHConfig(input_dim=12, codebook_sizes=[16, 8], input_normalization="none"))
    raw.fit(ItemEmbeddings(embeddings))
    assert len(raw.encode(embeddings).codes.unique(dim=0)) < len(codes.unique(dim=0)) / 2


def test_decode_is_the_linear_regression_on_sides():
    embeddings = rows(40_000)
    config = LSHConfig(input_dim=12, codebook_sizes=[16, 8, 32])
    model = LSHModel(config).fit(ItemEmbeddings(embeddings))
    codes = model.encode(embeddings).codes
    errors = []
    for levels in (1, 2, 3):
        signs = 2.0 * sides(codes[:, :levels], config.num_planes[:levels]) - 1
        weights = torch.linalg.lstsq(signs, embeddings).solution
        decoded = model.decode(codes[:, :levels])
        torch.testing.assert_close(decoded, signs @ weights, atol=0.1, rtol=0)
        errors.append((embeddings - decoded).pow(2).mean() / (embeddings - signs @ weights).pow(2).mean())
        assert errors[-1] == pytest.approx(1, abs=0.005)


def test_more_planes_than_dimensions_decode():
    embeddings = rows(500, dim=3)
    model = LSHModel(LSHConfig(input_dim=3, codebook_sizes=[2**10] * 6)).fit(ItemEmbeddings(embeddings))
    codes = model.encode(embeddings).codes
    errors = [(embeddings - model.decode(codes[:, :n])).pow(2).mean() for n in (1, 3, 6)]
    # Sides say nothing of the length, whose part of the error is 1 - E[|x|]^2 / E[|x|^2].
    assert errors[0] > errors[1] > errors[2] and errors[2] == pytest.approx(1 - 8 / math.pi / 3, rel=0.05)


def test_items_on_a_plane_are_below_it():
    model = LSHModel(LSHConfig(input_dim=12, codebook_sizes=[16, 8], input_normalization="none"))
    model.fit(ItemEmbeddings(rows(50)))
    assert model.encode(torch.zeros(3, 12)).codes.tolist() == [[0, 0]] * 3


def test_bad_configs():
    with pytest.raises(Exception, match="powers of 2"):
        LSHConfig(codebook_sizes=[256, 100])
    with pytest.raises(Exception, match="at most 2\\*\\*31"):
        LSHConfig(codebook_sizes=[2**40])


def test_equal_items_decode_to_themselves():
    embeddings = torch.full((5, 12), 0.3)
    model = LSHModel(LSHConfig(input_dim=12, codebook_sizes=[16, 8])).fit(ItemEmbeddings(embeddings))
    torch.testing.assert_close(model.decode(model.encode(embeddings).codes), embeddings)
