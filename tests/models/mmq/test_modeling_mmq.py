# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""MMQModel: every gate and term of the loss written out, codes against all cosines, factors that experts find."""

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from forge_hf import ItemEmbeddings, SemanticIdCatalog
from forge_hf.hub import read_folder, render_card
from forge_hf.models import MMQConfig, MMQModel
from forge_hf.models.clustering import kmeans
from forge_hf.models.fitting import mean_and_std

from ..modeling_common import ItemTokenizerTesterMixin


SIZES = {"modality_dims": [7, 5], "codebook_dim": 4, "hidden_sizes": [10], "codebook_sizes": [9, 8, 7, 6, 5, 4]}


def rows(count, seed=0):
    """Two modalities of very different size, far from the origin."""
    table = torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))
    return torch.cat([table[:, :7] * 0.01 + 3, table[:, 7:] * 50 - 20], dim=1)


def tiny_model(**kwargs):
    torch.manual_seed(0)
    model = MMQModel(MMQConfig(**SIZES | kwargs))
    table = rows(300)
    model.set_input_statistics(table.mean(dim=0), table.std(dim=0, correction=0))
    model.initialize_codebooks(model.get_latents(table), lambda points, size, level: points[:size] * 2)
    return model.eval()


class TestMMQModel(ItemTokenizerTesterMixin):
    model_class = MMQModel

    def get_config(self):
        return MMQConfig(**SIZES, dropout=0.3)

    def test_code_types_and_shapes(self, model, embeddings):
        codes = model.encode(embeddings).codes
        assert codes.dtype == torch.int64 and codes.shape == (self.num_items, 6)
        assert (codes >= 0).all() and (codes < torch.tensor([9, 8, 7, 6, 5, 4])).all()
        assert model.decode(codes).shape == embeddings.shape
        for levels in range(1, 6):
            with pytest.raises(ValueError, match="all 6 levels, since MMQModel can't decode a prefix"):
                model.decode(codes[:, :levels])


# -- formulas, one item and one expert at a time


def mlp(module, vector):
    for number, layer in enumerate(module.layers):
        vector = layer.weight @ (F.relu(vector) if number > 0 else vector) + layer.bias
    return vector


@torch.no_grad()
def by_hand(model, embedding, shared=2, specific=2, dims=(7, 5)):
    """What the model makes of one embedding: latents, codes, reconstruction of all, of each modality, terms."""
    config = model.config
    normalized, start = torch.empty_like(embedding), 0
    table = rows(300)
    for dim in dims:  # "center": the mean item away, over one number
        part = slice(start, start + dim)
        mean, variance = table[:, part].mean(dim=0), table[:, part].var(dim=0, correction=0)
        normalized[part] = (embedding[part] - mean) / variance.mean().sqrt()
        start += dim
    inputs = [normalized] * shared
    for modality in normalized.split(list(dims)):
        inputs += [modality] * specific
    latents, codes, vectors = [], [], []
    for level, given in enumerate(inputs):
        latent = mlp(model.encoder.experts[level], given)
        latents.append(latent / latent.norm())
        weight = model.quantizer.codebooks[level].weight
        cosines = [torch.dot(latent, code) / latent.norm() / code.norm() for code in weight]
        codes.append(max(range(len(cosines)), key=lambda k: cosines[k]))
        vectors.append(weight[codes[-1]] / weight[codes[-1]].norm())
    mixed, parts = sum(vectors[:shared]), []
    for modality in range(len(dims)):
        first = shared + modality * specific
        own = vectors[first : first + specific]
        gate = mlp(model.decoder.gates[modality], torch.cat(own))
        gate = [float(value.exp()) / sum(float(other.exp()) for other in gate) for value in gate]
        mixture = sum(weight * vector for weight, vector in zip(gate, own, strict=True))
        mixed = mixed + mixture
        parts.append(mlp(model.decoder.modalities[modality], mixture))
    decoded = mlp(model.decoder.fused, mixed)

    def error(parts):
        targets = normalized.split(list(dims))
        return sum(((a - b) ** 2).sum() / len(b) for a, b in zip(parts, targets, strict=True)) / len(dims)

    quantization = sum(((a - b) ** 2).sum() for a, b in zip(latents, vectors, strict=True))
    terms = {
        "reconstruction_loss": error(decoded.split(list(dims))),
        "modality_reconstruction_loss": error(parts),
        "orthogonality_loss": sum(
            (torch.dot(a, b) - float(i == j)) ** 2 for i, a in enumerate(latents) for j, b in enumerate(latents)
        ),
        "commitment_loss": quantization,
        "codebook_loss": quantization,
    }
    weights = [getattr(config, f"{name}_weight") for name in terms]
    terms["loss"] = sum(weight * term for weight, term in zip(weights, terms.values(), strict=True))
    return torch.cat(latents), codes, decoded, terms


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("weights", [{}, {"orthogonality_loss_weight": 0.7, "commitment_loss_weight": 1.3}])
def test_it_is_the_formulas(training, weights):
    model, table = tiny_model(**weights), rows(20, seed=3)
    expected = [by_hand(model, row) for row in table]
    output = model.train(training)(table)
    torch.testing.assert_close(output.latents, torch.stack([latents for latents, *_ in expected]))
    assert output.codes.tolist() == [codes for _, codes, *_ in expected]
    decoded = torch.stack([decoded for _, _, decoded, _ in expected])
    torch.testing.assert_close(output.reconstruction, model.input_normalization.inverse(decoded), rtol=1e-4, atol=1e-4)
    for name in expected[0][-1]:
        mean = torch.stack([terms[name] for *_, terms in expected]).mean()
        torch.testing.assert_close(output[name], mean, rtol=1e-4, atol=1e-5, msg=name)


def test_gates_do_not_see_more_than_the_codes():
    model, table = tiny_model(), rows(50, seed=1)
    output = model(table)
    torch.testing.assert_close(model.decode(output.codes), output.reconstruction)


@pytest.mark.parametrize(("shared", "specific"), [(2, 0), (0, 2), (1, 1)])
def test_fewer_experts(shared, specific):
    model = tiny_model(num_shared_experts=shared, num_specific_experts=specific, codebook_sizes=None)
    output, table = model.train()(rows(30)), rows(30)
    assert output.codes.shape == (30, shared + 2 * specific)
    assert (output.modality_reconstruction_loss is None) == (specific == 0)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert len(model.decoder.gates) == (2 if specific > 1 else 0)
    torch.testing.assert_close(model.decode(model.encode(table).codes), model.eval()(table).reconstruction)


def test_codes_have_the_largest_cosine_and_experts_see_their_modality():
    model, table = tiny_model(codebook_sizes=[200] * 6), rows(2000, seed=5)
    codes = model.encode(table).codes
    latents = model._latents(table.double()).split(4, dim=1)
    for level, codebook in enumerate(model.quantizer.codebooks):
        cosines = F.cosine_similarity(latents[level][:, None], codebook.weight.double()[None], dim=2)
        assert torch.equal(codes[:, level], cosines.argmax(dim=1))
        torch.testing.assert_close(model.get_codebook(level).norm(dim=1), torch.ones(200))
    candidates = model.encode(table, num_candidates=5).candidates  # of the last level, whose cosines these are
    torch.testing.assert_close(cosines.gather(1, candidates), cosines.topk(5, dim=1).values, rtol=0, atol=1e-6)
    assert model.config.level_modalities == [None, None, 0, 0, 1, 1]
    other = model.encode(torch.cat([table[:, :7], table.roll(1, dims=0)[:, 7:]], dim=1)).codes
    changed = (other != codes).any(dim=0).tolist()
    assert changed == [True, True, False, False, True, True]


def test_the_length_of_a_code_does_not_matter():
    model, table = tiny_model(), rows(100)
    codes = model.encode(table).codes
    for codebook in model.quantizer.codebooks:
        codebook.weight.data *= torch.rand(codebook.size, 1) + 0.1
    assert torch.equal(model.encode(table).codes, codes)


def test_codes_do_not_depend_on_the_batch_split():
    model, table = tiny_model(), rows(100)
    expected = model.encode(table).codes
    for batch_size in (3, 64):
        assert torch.equal(torch.cat([model.encode(part).codes for part in table.split(batch_size)]), expected)


def test_each_modality_has_its_own_statistics():
    for kind in ("none", "center", "standardize"):
        model = tiny_model(input_normalization=kind)
        normalized = model.input_normalization(rows(300))
        torch.testing.assert_close(model.input_normalization.inverse(normalized), rows(300), rtol=1e-4, atol=1e-4)
        if kind == "none":
            assert torch.equal(normalized, rows(300))
            continue
        for part in normalized.split([7, 5], dim=1):
            torch.testing.assert_close(part.pow(2).mean(), torch.tensor(1.0), rtol=1e-3, atol=0)
        deviations = normalized.std(dim=0)
        assert (deviations.max() - deviations.min() < 1e-4) == (kind == "standardize")


# -- gradients


def test_gradient_passes_straight_through():
    model, table = tiny_model(commitment_loss_weight=0, orthogonality_loss_weight=0).train(), rows(40)
    normalized = model.input_normalization(table)
    latents = model.encoder(normalized)
    vectors = model.quantizer.lookup(model.encode(table).codes).detach().requires_grad_()
    decoded, parts = model.decoder(vectors)
    error = sum(F.mse_loss(a, b) for a, b in zip(decoded.split([7, 5], 1), normalized.split([7, 5], 1), strict=True))
    modality_error = sum(F.mse_loss(a, b) for a, b in zip(parts, normalized.split([7, 5], 1), strict=True))
    (to_vectors,) = torch.autograd.grad(12 * error / 2 + 10 * modality_error / 2, vectors)
    parameters = list(model.encoder.parameters())
    expected = torch.autograd.grad(latents, parameters, to_vectors.flatten(1))
    model(table).loss.backward()
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
    # Codes are moved by the codebook loss alone, and every weight is moved.
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_soft_codes_are_the_codes_with_the_gradient_of_a_softmax():
    model, table = tiny_model(dropout=0.5).train(), rows(30)
    output = model.soft_encode(table, temperature=0.3)
    assert torch.equal(output.codes, model.encode(table).codes)
    tables = [torch.randn(size, 3, generator=torch.Generator().manual_seed(size)) for size in SIZES["codebook_sizes"]]
    looked_up = [soft @ vectors for soft, vectors in zip(output.soft_codes, tables, strict=True)]
    for level, (soft, vectors) in enumerate(zip(looked_up, tables, strict=True)):
        assert torch.equal(soft, vectors[output.codes[:, level]])  # exactly the codes' own
    sum(part.pow(2).sum() for part in looked_up).backward()
    assert all(codebook.weight.grad.abs().max() > 0 for codebook in model.quantizer.codebooks)
    gradients = {name: parameter.grad.clone() for name, parameter in model.encoder.named_parameters()}
    model.zero_grad()
    model.eval()
    loss = 0
    latents = model.encoder(model.input_normalization(table)).split(4, dim=1)
    for level, vectors in enumerate(tables):
        weights = (latents[level] @ model.quantizer.codebooks[level].vectors.T / 0.3).softmax(dim=1)
        loss = loss + (2 * vectors[output.codes[:, level]] * (weights @ vectors)).sum()
    loss.backward()
    for name, parameter in model.encoder.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="`temperature`"):
            model.soft_encode(table, temperature=wrong)


# -- codebooks


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_dead_codes_restart_at_latents(update):
    model = tiny_model(codebook_update=update, dead_code_threshold=0.5, ema_decay=0.5)
    dead = -model.get_codebook(0)[:1] * 5
    for codebook in model.quantizer.codebooks:
        codebook.set(torch.cat([codebook.vectors[:1], dead.expand(codebook.size - 1, -1)]).detach())
    model.train()
    for step in range(8):
        latents = model(rows(60, seed=step)).latents.detach()
    for level, codebook in enumerate(model.quantizer.codebooks):
        assert len(model.eval().encode(rows(60, seed=7)).codes[:, level].unique()) > 1
        if update == "gradient":  # no optimizer moved them since
            distances = torch.cdist(codebook.weight[1:], latents[:, 4 * level : 4 * level + 4])
            assert codebook.cluster_size.min() >= 0.25 and distances.isfinite().all()


def test_an_ema_code_is_the_mean_direction_and_keeps_it_when_out_of_use():
    model = tiny_model(codebook_update="ema", ema_decay=0.5, codebook_sizes=[2] * 6)
    codebook = model.quantizer.codebooks[0]
    used, unused = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, -1.0, 1.0, 0])
    codebook.set(torch.stack([used, unused]))
    latents = F.normalize(torch.tensor([[1.0, 0.3, 0, 0.2], [1, -0.1, 0.5, 0]]), dim=1)
    for _ in range(400):  # 2^-400 is below float32's range
        codebook.update(latents, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(codebook.vectors[0], F.normalize(latents.mean(dim=0), dim=0))
    torch.testing.assert_close(codebook.vectors[1], F.normalize(unused, dim=0))
    codebook.update(latents[:1], torch.ones(1, dtype=torch.long))  # in use again
    torch.testing.assert_close(codebook.vectors[1], latents[0])


def test_initialization_clusters_the_latents_of_each_expert():
    model, seen = MMQModel(MMQConfig(**SIZES)), []
    assert not model.is_initialized
    latents = model.get_latents(rows(100))
    model.initialize_codebooks(latents, lambda points, size, level: seen.append((points, level)) or 3 * points[:size])
    assert model.is_initialized and [level for _, level in seen] == list(range(6))
    for level, (points, _) in enumerate(seen):
        assert torch.equal(points, latents[:, 4 * level : 4 * level + 4])
        torch.testing.assert_close(model.get_codebook(level), points[: SIZES["codebook_sizes"][level]])


# -- what it is for


def planted(count, seed=0):
    """One factor that both modalities show, and one that each has for itself; every factor takes 8 values."""
    generator = torch.Generator().manual_seed(seed)
    shared, first, second = torch.randint(8, (3, count), generator=generator)
    places = torch.Generator().manual_seed(99)
    tables = [torch.randn(8, 24, generator=places) for _ in range(4)]
    table = torch.cat([tables[0][shared] + tables[1][first], tables[2][shared] + tables[3][second]], dim=1)
    return table + 0.1 * torch.randn(count, 48, generator=generator)


def train(items, **kwargs):
    torch.manual_seed(0)
    config = {"modality_dims": [24, 24], "codebook_dim": 8, "hidden_sizes": [48], "codebook_update": "ema"}
    model = MMQModel(MMQConfig(**config | {"ema_decay": 0.9, "dead_code_threshold": 0.25} | kwargs))
    table, generator = items.to_tensor(), torch.Generator().manual_seed(0)
    model.set_input_statistics(*mean_and_std(items))
    model.initialize_codebooks(model.get_latents(table), lambda points, size, level: kmeans(points, size, seed=level))
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    model.train()
    for _ in range(250):
        loss = model(table[torch.randint(len(table), (128,), generator=generator)]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model.eval(), losses


def test_shared_and_private_factors():
    items = ItemEmbeddings(planted(2000))
    sizes = {"num_shared_experts": 1, "num_specific_experts": 1, "codebook_sizes": [8, 8, 8]}
    model, losses = train(items, **sizes)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    alone, _ = train(items, num_shared_experts=1, num_specific_experts=0, codebook_sizes=[8])
    fresh = planted(1000, seed=5)
    with torch.no_grad():
        error, without_specific = model(fresh).reconstruction_loss, alone(fresh).reconstruction_loss
    assert error < 0.75 * without_specific
    codes = model.encode(items.to_tensor()).codes
    assert [len(column.unique()) for column in codes.unbind(dim=1)] == [8, 8, 8]
    catalog = SemanticIdCatalog.from_codes(
        items.item_ids, codes, codebook_sizes=model.config.codebook_sizes, on_collision="suffix"
    )
    assert catalog.items_for(catalog.codes_for([7])) == [[7]]


# -- config, files


def test_saved_without_code_and_card(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    card = render_card(read_folder(tmp_path), "me/model")
    assert "a multimodal mixture of quantizations (MMQ)" in card and "import forge_hf" in card
    assert "of 6 codes" in card and "trust_remote_code" not in card


def test_config(tmp_path):
    config = MMQConfig(modality_dims=(8, 4, 2), num_shared_experts=1, num_specific_experts=2)
    assert config.input_dim == 14 and config.codebook_sizes == [256] * 7 and config.num_levels == 7
    assert config.level_modalities == [None, 0, 0, 1, 1, 2, 2]
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, MMQConfig) and loaded.to_diff_dict() == config.to_diff_dict()
    assert loaded.input_dim == 14 and loaded.codebook_sizes == [256] * 7


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"modality_dims": [12]}, "`modality_dims` must give the width of two or more"),
        ({"modality_dims": [12, 0]}, "`modality_dims`"),
        ({"modality_dims": "text"}, "modality_dims"),
        ({"input_dim": 13}, "`input_dim` must be the sum of `modality_dims`, 12, but is 13"),
        ({"num_shared_experts": -1}, "`num_shared_experts`"),
        ({"num_shared_experts": 0, "num_specific_experts": 0, "codebook_sizes": None}, "must not both be 0"),
        ({"num_specific_experts": 1}, "each of the 4 experts"),
        ({"num_specific_experts": 2**40, "codebook_sizes": None}, "experts|levels"),
        ({"codebook_sizes": [1] * 6}, "`codebook_sizes`"),
        ({"codebook_dim": 0}, "`codebook_dim`"),
        ({"hidden_sizes": [0]}, "`hidden_sizes`"),
        ({"hidden_sizes": [2**20, 2**20]}, "weights"),
        ({"hidden_act": "none"}, "`hidden_act`"),
        ({"dropout": 1.0}, "`dropout`"),
        ({"codebook_update": "simvq"}, "codebook_update"),
        ({"ema_decay": 1.0}, "`ema_decay`"),
        ({"orthogonality_loss_weight": -0.1}, "`orthogonality_loss_weight`"),
        ({"dead_code_threshold": 1.0}, "`dead_code_threshold`"),
        ({"initializer_range": 0.0}, "`initializer_range`"),
    ],
)
def test_bad_configs(kwargs, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        MMQConfig(**SIZES | kwargs)
