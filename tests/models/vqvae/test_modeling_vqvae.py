# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""VQVAEModel: one codebook is an RQ-VAE's, chunks and codebooks are independent, SimVQ, prefixes, configs."""

import itertools

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from forge_hf.hub import read_folder, render_card
from forge_hf.models import RQVAEConfig, RQVAEModel, VQVAEConfig, VQVAEModel

from ..modeling_common import ItemTokenizerTesterMixin


SIZES = {"input_dim": 12, "hidden_sizes": [10, 8], "codebook_dim": 6, "initializer_range": 0.5}
FORMS = ["product", "multi"]


def tiny_model(seed=0, **kwargs):
    torch.manual_seed(seed)
    return VQVAEModel(VQVAEConfig(**SIZES | {"codebook_sizes": [9, 7, 5]} | kwargs))


def rows(count, dim=12, seed=3):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


class TestVQVAEModelFlat(ItemTokenizerTesterMixin):
    model_class = VQVAEModel

    def get_config(self):
        return VQVAEConfig(**SIZES, codebook_sizes=[40], codebook_update="ema", dropout=0.3)


class TestVQVAEModelProduct(ItemTokenizerTesterMixin):
    model_class = VQVAEModel

    def get_config(self):
        return VQVAEConfig(**SIZES, codebook_sizes=[9, 7, 5], codebook_update="simvq")


class TestVQVAEModelMulti(ItemTokenizerTesterMixin):
    model_class = VQVAEModel

    def get_config(self):
        return VQVAEConfig(**SIZES, codebook_sizes=[9, 7, 5], codebook_form="multi", contrastive_loss_weight=1.0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"codebook_update": "ema", "dead_code_threshold": 0.5, "ema_decay": 0.5},
        {"codebook_update": "simvq", "gradient_estimator": "rotation_trick"},
        {"quantization_loss": "cumulative", "training_assignment": "sinkhorn", "reconstruction_loss": "l1"},
    ],
)
def test_one_codebook_is_an_rqvae_of_one_level(form, settings):
    torch.manual_seed(0)
    residual = RQVAEModel(RQVAEConfig(**SIZES, codebook_sizes=[40], **settings)).train()
    flat = VQVAEModel(VQVAEConfig(**SIZES, codebook_sizes=[40], codebook_form=form, **settings)).train()
    flat.load_state_dict(residual.state_dict())
    for step in range(3):
        outputs, gradients = [], []
        for model in (residual, flat):
            torch.manual_seed(step)
            outputs.append(model(rows(60, seed=step)))
            gradients.append(torch.autograd.grad(outputs[-1].loss, list(model.parameters())))
        for name, value in outputs[0].items():
            assert torch.equal(value, outputs[1][name]), name
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    for name, tensor in residual.state_dict().items():
        assert torch.equal(tensor, flat.state_dict()[name]), name
    candidates = [model.encode(rows(60), num_candidates=5) for model in (residual, flat)]
    assert all(torch.equal(a, b) for a, b in zip(*(c.to_tuple() for c in candidates), strict=True))


def by_hand(model, latents):
    """What each codebook is given, and its nearest codes by all distances."""
    form, levels = model.config.codebook_form, model.config.num_levels
    width = model.config.codebook_dim // levels
    parts = [latents[:, i * width : (i + 1) * width] if form == "product" else latents for i in range(levels)]
    distances = [
        (part.double()[:, None] - model.get_codebook(i).double()).pow(2).sum(2) for i, part in enumerate(parts)
    ]
    return parts, torch.stack([d.argmin(1) for d in distances], dim=1)


@pytest.mark.parametrize("form", FORMS)
def test_codebooks_are_independent(form):
    model = tiny_model(codebook_form=form).eval()
    output = model.encode(rows(200))
    parts, expected = by_hand(model, output.latents)
    assert torch.equal(output.codes, expected)
    # The objective, level by level.
    values = model(rows(200))
    vectors = [model.get_codebook(level)[expected[:, level]] for level in range(3)]
    error = sum((part - vector).pow(2).sum(1) for part, vector in zip(parts, vectors, strict=True)).mean()
    torch.testing.assert_close(values.commitment_loss, error)
    torch.testing.assert_close(values.codebook_loss, error)
    quantized = torch.cat(vectors, dim=1) if form == "product" else sum(vectors)
    decoded = model.input_normalization.inverse(model.decoder(quantized))
    torch.testing.assert_close(values.reconstruction, decoded)
    torch.testing.assert_close(model.decode(expected), decoded)
    # Another codebook at one level changes no other level's codes.
    model.set_codebook(1, rows(7, model.get_codebook(1).shape[1]))
    codes = model.encode(rows(200)).codes
    assert torch.equal(codes[:, [0, 2]], expected[:, [0, 2]]) and not torch.equal(codes[:, 1], expected[:, 1])


def test_product_codes_are_the_best_of_all_combinations():
    model = tiny_model()
    output = model.encode(rows(50))
    combinations = torch.tensor(list(itertools.product(range(9), range(7), range(5))))
    points = torch.cat([model.get_codebook(level)[combinations[:, level]] for level in range(3)], dim=1)
    nearest = torch.cdist(output.latents.double(), points.double()).argmin(dim=1)
    assert torch.equal(output.codes, combinations[nearest])


@pytest.mark.parametrize("form", FORMS)
def test_prefixes(form):
    model = tiny_model(codebook_form=form)
    codes = model.encode(rows(20)).codes
    first = model.get_codebook(0)[codes[:, 0]]
    quantized = torch.cat([first, torch.zeros(20, 4)], dim=1) if form == "product" else 3 * first
    expected = model.input_normalization.inverse(model.decoder(quantized))
    torch.testing.assert_close(model.decode(codes[:, :1]), expected)


@pytest.mark.parametrize("form", FORMS)
def test_encode_gives_back_codes_whose_points_are_the_latents(form):
    model = tiny_model(codebook_form=form)
    quantizer, codes = model.quantizer, torch.tensor(list(itertools.product(range(9), range(7), range(5))))
    if form == "product":  # every combination of codes is its own nearest
        assert torch.equal(quantizer.assign(quantizer.combine(quantizer.lookup(codes)).double()), codes)
    else:
        model.set_codebook(1, model.get_codebook(0)[:7])
        model.set_codebook(2, model.get_codebook(0)[:5])
        same = torch.arange(5)[:, None].expand(5, 3)  # the sum is three times the point
        assert torch.equal(quantizer.assign(quantizer.combine(quantizer.lookup(same)).double() / 3), same)


@pytest.mark.parametrize("form", FORMS)
def test_initialization_clusters_what_each_codebook_quantizes(form):
    model, latents, seen = tiny_model(codebook_form=form), rows(100, 6), []
    model.initialize_codebooks(latents, lambda points, size, level: seen.append((points, level)) or points[:size])
    assert model.is_initialized and [level for _, level in seen] == [0, 1, 2]
    for level, (points, _) in enumerate(seen):
        assert torch.equal(points, latents[:, 2 * level : 2 * level + 2] if form == "product" else latents)
        assert torch.equal(model.get_codebook(level), points[: len(model.get_codebook(level))])


def test_saved_without_code_and_card(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    card = render_card(read_folder(tmp_path), "me/model")
    assert "a vector-quantized autoencoder (VQ-VAE)" in card and "import forge_hf" in card
    assert not any(word in card for word in ("RQ-VAE", "rq-vae", "trust_remote_code", "level by level"))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"codebook_sizes": [8] * 4}, "`codebook_dim` must be a multiple of the number of codebooks, 4"),
        ({"codebook_sizes": [8, 8], "quantization_loss": "cumulative"}, "`quantization_loss='cumulative'`"),
        ({"codebook_update": "simvq", "dead_code_threshold": 0.1}, "`dead_code_threshold`"),
        ({"codebook_form": "flat"}, "codebook_form"),
        ({"codebook_sizes": []}, "`codebook_sizes`"),
    ],
)
def test_bad_configs(kwargs, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        VQVAEConfig(**SIZES | kwargs)
    assert VQVAEConfig(**SIZES, codebook_sizes=[8] * 4, codebook_form="multi").num_levels == 4
