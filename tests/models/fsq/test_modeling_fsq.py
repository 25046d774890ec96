# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""FSQModel: the grid and its codes one to one, the paper's formula, gradients through the rounding, a training."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from forge_hf import ItemEmbeddings, SemanticIdCatalog
from forge_hf.models import FiniteScalarQuantizer, FSQConfig, FSQModel
from forge_hf.models.fitting import mean_and_std

from ..modeling_common import ItemTokenizerTesterMixin
from ..reconstruction_common import correlated_rows


GROUPS = st.lists(st.lists(st.integers(2, 8), min_size=1, max_size=3), min_size=1, max_size=3)


class TestFSQModel(ItemTokenizerTesterMixin):
    model_class = FSQModel

    def get_config(self):
        return FSQConfig(input_dim=12, hidden_sizes=[10, 8], fsq_levels=[[8, 6, 5], [2, 2, 2], [7]], dropout=0.3)


def tiny_model(**kwargs):
    torch.manual_seed(0)
    config = {"input_dim": 12, "hidden_sizes": [16], "fsq_levels": [[8, 6, 5], [4, 2]]}
    return FSQModel(FSQConfig(**{**config, **kwargs}))


# -- the quantizer


@settings(max_examples=60, deadline=None)
@given(GROUPS)
def test_codes_and_grid_points_are_one_to_one(groups):
    quantizer = FiniteScalarQuantizer(groups)
    start = 0
    for level, group in enumerate(groups):
        codes = torch.zeros(math.prod(group), len(groups), dtype=torch.long)
        codes[:, level] = torch.arange(math.prod(group))  # every code of the level
        indices = quantizer.codes_to_indices(codes)
        assert torch.equal(quantizer.indices_to_codes(indices), codes)
        points = quantizer.to_points(indices)[:, start : start + len(group)]
        values = [torch.linspace(-1, 1, n).tolist() for n in group]
        expected = [point[::-1] for point in itertools.product(*values[::-1])]  # the first varies fastest
        torch.testing.assert_close(points, torch.tensor(expected))
        # Back from the points, or as near to them as `tanh` can come.
        latents = quantizer.to_points(indices).double().clamp(-1 + 1e-9, 1 - 1e-9).atanh()
        again, codes_again = quantizer(latents)
        assert torch.equal(codes_again, codes)
        torch.testing.assert_close(again.float(), quantizer.to_points(indices))
        start += len(group)


@settings(max_examples=30, deadline=None)
@given(GROUPS, st.integers(0, 99))
def test_points_are_the_nearest_of_the_grid(groups, seed):
    quantizer = FiniteScalarQuantizer(groups)
    sizes = [n for group in groups for n in group]
    latents = 1.5 * torch.randn(50, len(sizes), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points, codes = quantizer(latents)
    for dimension, n in enumerate(sizes):
        values = torch.linspace(-1, 1, n, dtype=torch.float64)
        nearest = (latents[:, dimension, None].tanh() - values).abs().argmin(dim=1)
        torch.testing.assert_close(points[:, dimension], values[nearest], rtol=0, atol=1e-6)
    for level, group in enumerate(groups):
        assert (codes[:, level] < math.prod(group)).all() and (codes >= 0).all()


@pytest.mark.parametrize("group", [[8, 6, 5], [8, 5, 5, 5], [7, 5, 5, 5, 5], [3, 4]])
def test_it_is_the_quantizer_of_the_paper(group):
    # Section 3 and appendix A: f(z) = floor(L / 2) tanh(z), rounded; with a half offset and a shift where L is even.
    levels = torch.tensor(group, dtype=torch.float64)
    latents = 1.5 * torch.randn(500, len(group), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    half = (levels - 1) / 2
    offset = torch.where(levels % 2 == 0, 0.5, 0.0).double()
    shift = (offset / half).tan()
    rounded = ((latents + shift).tanh() * half - offset).round()
    basis = torch.tensor([math.prod(group[:i]) for i in range(len(group))])
    expected = ((rounded + levels // 2).long() * basis).sum(dim=1)
    points, codes = FiniteScalarQuantizer([group])(latents + shift)
    assert torch.equal(codes[:, 0], expected)
    torch.testing.assert_close(points, (rounded + offset) / half, rtol=0, atol=1e-6)


def test_halfway_and_extreme_latents():
    quantizer = FiniteScalarQuantizer([[2], [4]])
    latents = torch.tensor([[0.0, 0.0], [1e-9, -1e-17], [-1e9, 1e9], [float("inf"), float("-inf")]])
    assert quantizer(latents.double())[1].tolist() == [[1, 2], [1, 2], [0, 3], [1, 0]]


# -- the model


def test_gradient_passes_straight_through():
    model, rows = tiny_model().train(), correlated_rows(40, 12) / 10
    for parameter in model.parameters():
        parameter.requires_grad_()
    latents = model.encoder(rows)
    points = model.quantizer.to_points(model.quantizer.to_indices(latents)).requires_grad_()
    loss = F.mse_loss(model.decoder(points), rows)
    (to_points,) = torch.autograd.grad(loss, points)
    expected = torch.autograd.grad(latents, list(model.encoder.parameters()), to_points * (1 - latents.tanh() ** 2))
    output = model(rows)
    torch.testing.assert_close(output.loss, loss)
    output.loss.backward()
    for parameter, gradient in zip(model.encoder.parameters(), expected, strict=True):
        assert gradient.abs().max() > 0
        torch.testing.assert_close(parameter.grad, gradient)
    assert all(parameter.grad.abs().max() > 0 for parameter in model.decoder.parameters())


def test_a_training():
    items = ItemEmbeddings(correlated_rows(2000, 12))
    model = tiny_model(hidden_sizes=[64], fsq_levels=[[8, 6, 5], [8, 6, 5]])
    assert not model.is_initialized
    model.set_input_statistics(*mean_and_std(items))
    assert model.is_initialized
    rows, generator = items.to_tensor(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(300):
        loss = model(rows[torch.randint(len(rows), (256,), generator=generator)]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    codes = model.encode(rows).codes
    error = (model.decode(codes) - rows).pow(2).sum() / (rows - rows.mean(dim=0)).pow(2).sum()
    assert error < 0.1
    assert min(len(column.unique()) for column in codes.unbind(dim=1)) > 120  # of 240: no collapse
    torch.testing.assert_close(model(rows).reconstruction_loss, error)  # of "center" the two are the same
    catalog = SemanticIdCatalog.from_codes(
        items.item_ids, codes, codebook_sizes=model.config.codebook_sizes, on_collision="suffix"
    )
    assert catalog.items_for(catalog.codes_for([7])) == [[7]]


@pytest.mark.parametrize("name", ["mse", "l1", "cosine"])
def test_reconstruction_losses(name):
    rows = correlated_rows(100, 12)
    model = tiny_model(reconstruction_loss=name, input_normalization="standardize").eval()
    model.set_input_statistics(rows.mean(dim=0), rows.std(dim=0, correction=0))
    output = model(rows)
    x, y = ((t - rows.mean(dim=0)) / rows.std(dim=0, correction=0) for t in (rows, output.reconstruction))
    expected = {
        "mse": (x - y).pow(2).mean(),
        "l1": (x - y).abs().mean(),
        "cosine": 1 - ((x * y).sum(1) / x.norm(dim=1) / y.norm(dim=1)).mean(),
    }
    torch.testing.assert_close(output.loss, expected[name])
    assert model(rows, return_loss=False).loss is None


def test_decode_is_the_reconstruction_and_a_prefix_leaves_the_rest_at_zero():
    rows = correlated_rows(50, 12)
    model = tiny_model(dropout=0.5).eval()
    model.set_input_statistics(rows.mean(dim=0), rows.std(dim=0))
    output = model(rows)
    torch.testing.assert_close(model.decode(output.codes), output.reconstruction)
    points, _ = model.quantizer(output.latents)
    points = torch.cat([points[:, :3], torch.zeros(50, 2)], dim=1)
    expected = model.input_normalization.inverse(model.decoder(points))
    torch.testing.assert_close(model.decode(output.codes[:, :1]), expected)


def test_codes_do_not_depend_on_the_batch_split():
    model, rows = tiny_model(), correlated_rows(500, 12)
    expected = model.encode(rows).codes
    for batch_size in (1, 7, 256):
        assert torch.equal(torch.cat([model.encode(part).codes for part in rows.split(batch_size)]), expected)


def test_config(tmp_path):
    config = FSQConfig(input_dim=8, fsq_levels=((8, 6, 5), [2] * 12))
    assert config.codebook_sizes == [240, 4096] and config.num_levels == 2 and config.latent_dim == 15
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, FSQConfig) and loaded.to_diff_dict() == config.to_diff_dict()
    assert loaded.fsq_levels == [[8, 6, 5], [2] * 12] and loaded.codebook_sizes == [240, 4096]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"fsq_levels": []}, "`fsq_levels`"),
        ({"fsq_levels": [[]]}, "`fsq_levels`"),
        ({"fsq_levels": [[8, 1]]}, "`fsq_levels`"),
        ({"fsq_levels": [[2] * 40]}, "2\\^31"),
        ({"fsq_levels": [[2**21]]}, "2\\^20"),
        ({"fsq_levels": [8, 5, 5]}, "fsq_levels"),
        ({"fsq_levels": [[8, 5]], "codebook_sizes": [256]}, "`codebook_sizes`"),
        ({"fsq_levels": [[2]] * 65}, "levels"),
        ({"hidden_sizes": [0]}, "`hidden_sizes`"),
        ({"hidden_sizes": [2**20, 2**20]}, "weights"),
        ({"hidden_act": "none"}, "`hidden_act`"),
        ({"dropout": 1.0}, "`dropout`"),
        ({"reconstruction_loss": "mae"}, "reconstruction_loss"),
    ],
)
def test_bad_configs(kwargs, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        FSQConfig(**kwargs)
