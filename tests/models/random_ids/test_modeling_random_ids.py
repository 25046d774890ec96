# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""RandomIdsModel: uniform, of no relation to the embeddings, and always the same."""

import math

import pytest
import torch

from forge_hf import ItemEmbeddings
from forge_hf.models import RandomIdsConfig, RandomIdsModel

from ..fitted_common import FittedItemTokenizerTesterMixin


def rows(count, dim=8, seed=3):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def fit(embeddings, seed=0, codebook_sizes=(16, 10, 16)):
    config = RandomIdsConfig(input_dim=embeddings.shape[1], codebook_sizes=list(codebook_sizes))
    return RandomIdsModel(config).fit(ItemEmbeddings(embeddings), seed=seed)


def chi_square(counts):
    """How many standard deviations the statistic is above what an even distribution gives."""
    expected = counts.sum() / counts.numel()
    degrees = counts.numel() - 1
    return ((((counts - expected) ** 2 / expected).sum() - degrees) / math.sqrt(2 * degrees)).item()


class TestRandomIdsModel(FittedItemTokenizerTesterMixin):
    model_class = RandomIdsModel
    lost_weight = "keys"

    def get_config(self):
        return RandomIdsConfig(input_dim=12, codebook_sizes=[9, 8, 5])

    def test_save_load(self, model, embeddings, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = self.model_class.from_pretrained(tmp_path)
        self.assert_same_state(model, loaded)
        assert torch.equal(model.encode(embeddings).codes, loaded.encode(embeddings).codes)

    def test_code_types_and_shapes(self, model, embeddings):
        codes = model.encode(embeddings).codes
        assert codes.dtype == torch.int64 and codes.shape == (self.num_items, 3)
        assert (codes >= 0).all() and (codes.amax(dim=0) == torch.tensor([8, 7, 4])).all()

    def test_bad_codes(self, model, embeddings):
        with pytest.raises(NotImplementedError, match="can't decode"):
            model.decode(model.encode(embeddings).codes)


@pytest.mark.parametrize("kind", ["normal", "half", "integers", "line"])
def test_codes_are_uniform_and_independent_of_each_other(kind):
    embeddings = rows(40_000)
    if kind == "half":
        embeddings = embeddings.half().float()
    elif kind == "integers":
        embeddings = torch.cartesian_prod(*[torch.arange(-3.0, 4)] * 5)
    elif kind == "line":
        embeddings = torch.linspace(1, 2, 40_000)[:, None].expand(-1, 8).contiguous()
    codes = fit(embeddings).encode(embeddings).codes
    for level, size in enumerate((16, 10, 16)):
        assert abs(chi_square(torch.bincount(codes[:, level], minlength=size).double())) < 4
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(chi_square(torch.bincount(16 * codes[:, a] + codes[:, b], minlength=256).double().view(16, 16)[
            : (16, 10, 16)[a], : (16, 10, 16)[b]
        ])) < 4  # fmt: skip


def test_neighbours_share_codes_by_chance_only():
    embeddings = rows(20_000)
    nearby = embeddings + 1e-6 * rows(20_000, seed=4)
    model = fit(embeddings)
    shared = (model.encode(embeddings).codes == model.encode(nearby).codes).double().mean(dim=0)
    for share, size in zip(shared.tolist(), (16, 10, 16), strict=True):
        assert abs(share - 1 / size) < 4.5 * math.sqrt(1 / size / 20_000)
    flipped = model.encode(embeddings.flip(1)).codes  # a code depends on which dimension has which value
    assert (flipped == model.encode(embeddings).codes).double().mean() < 0.15


def test_collisions_are_those_of_chance():
    embeddings = rows(30_000)
    codes = fit(embeddings, codebook_sizes=[256] * 3).encode(embeddings).codes
    pairs = 30_000**2 / 2 / 256**3
    assert abs(30_000 - len(codes.unique(dim=0)) - pairs) < 5 * math.sqrt(pairs)


def test_equal_embeddings_have_equal_codes():
    embeddings = rows(100)
    embeddings[:, 2] = 0.0
    negative = embeddings.clone()
    negative[:, 2] = -0.0
    model = fit(embeddings)
    assert torch.equal(model.encode(embeddings).codes, model.encode(negative).codes)
    assert torch.equal(model.encode(embeddings).codes, model.encode(embeddings.double()).codes)


def test_known_codes():
    """As they were when this was written: saved catalogs must stay what models give."""
    model = fit(torch.eye(4), codebook_sizes=[256, 256, 256])
    codes = model.encode(torch.eye(4)).codes
    value = (1 << 64) - 1
    expected = []
    for row in torch.eye(4).tolist():
        total = 0
        for number, key in zip(row, model.keys.tolist(), strict=True):
            total += mix(((0x3F800000 if number else 0) + key) & value)
        expected.append([(mix((total + 0x9E3779B97F4A7C15 * (level + 1)) & value) >> 1) % 256 for level in range(3)])
    assert codes.tolist() == expected


def mix(x):
    """The output function of splitmix64, on Python's integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & ((1 << 64) - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & ((1 << 64) - 1)
    return x ^ (x >> 31)
