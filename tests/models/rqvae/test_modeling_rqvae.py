# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""RQVAEModel against plain references: both objectives, Sinkhorn, rotation trick, EMA, restarts, batch invariance."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from forge_hf.models.rqvae import RQVAEConfig, RQVAEModel
from forge_hf.models.rqvae.code_assignment import sinkhorn_assignment

from ..modeling_common import ItemTokenizerTesterMixin


def tiny_config(**kwargs):
    defaults = {"input_dim": 12, "hidden_sizes": [10, 8], "codebook_dim": 6, "codebook_sizes": [9, 7, 5]}
    return RQVAEConfig(**{**defaults, "initializer_range": 0.5, **kwargs})


def tiny_model(**kwargs):
    torch.manual_seed(0)
    return RQVAEModel(tiny_config(**kwargs))


def rows(count, dim=12, seed=3):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


class TestRQVAEModel(ItemTokenizerTesterMixin):
    model_class = RQVAEModel

    def get_config(self):
        return tiny_config()


class TestRQVAEModelEMA(ItemTokenizerTesterMixin):
    model_class = RQVAEModel

    def get_config(self):
        return tiny_config(codebook_update="ema", input_normalization="standardize", dropout=0.5)


class TestRQVAEModelContrastive(ItemTokenizerTesterMixin):
    model_class = RQVAEModel

    def get_config(self):
        return tiny_config(contrastive_loss_weight=1.0)


class TestRQVAEModelResidualSimVQ(ItemTokenizerTesterMixin):
    model_class = RQVAEModel

    def get_config(self):
        return tiny_config(codebook_dim=12, residual_encoder=True, codebook_update="simvq")


def test_residual_encoder_starts_as_the_identity():
    model, embeddings = tiny_model(codebook_dim=12, residual_encoder=True, dropout=0.5), rows(50)
    model.set_input_statistics(embeddings.mean(0), embeddings.std(0))
    normalized = model.input_normalization(embeddings)
    assert torch.equal(model.encoder(normalized), normalized)
    gradients = torch.autograd.grad(model(embeddings).loss, list(model.encoder.layers[-1].parameters()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


# -- encode


def reference_codes(model, embeddings):
    """Residual quantization row by row, in numpy's float64."""
    weights = [
        (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
        for layer in model.encoder.layers
    ]
    codes = []
    for row in embeddings.double().numpy():
        for i, (weight, bias) in enumerate(weights):
            row = weight @ (np.maximum(row, 0) if i > 0 else row) + bias
        residual, chosen = row, []
        for level in range(model.config.num_levels):
            codebook = model.get_codebook(level).double().numpy()
            chosen.append(int(np.argmin([((residual - code) ** 2).sum() for code in codebook])))
            residual = residual - codebook[chosen[-1]]
        codes.append(chosen)
    return torch.tensor(codes)


def test_encode_is_residual_quantization():
    model, embeddings = tiny_model(), rows(200)
    assert torch.equal(model.encode(embeddings).codes, reference_codes(model, embeddings))


def test_codes_do_not_depend_on_the_batch_split():
    # Wide enough for matrix kernels that differ by shape; every code has a twin, and rows lie midway between codes.
    torch.manual_seed(0)
    model = RQVAEModel(
        RQVAEConfig(
            input_dim=96, hidden_sizes=[], codebook_dim=96, codebook_sizes=[128, 96, 64], initializer_range=1.0
        )
    )
    with torch.no_grad():
        model.encoder.layers[0].weight.copy_(torch.eye(96))  # so that ties in the input are ties in the latents
    for level in range(3):
        codebook = model.get_codebook(level).clone()
        codebook[1::2] = codebook[::2]
        model.set_codebook(level, codebook[torch.randperm(len(codebook))])
    codebook = model.get_codebook(0)
    pairs = torch.randint(128, (2, 1500))
    embeddings = torch.cat([rows(1500, 96), (codebook[pairs[0]] + codebook[pairs[1]]) / 2])
    expected = model.encode(embeddings).codes
    for batch_size in (1, 7, 64, 1000):
        codes = torch.cat([model.encode(batch).codes for batch in embeddings.split(batch_size)])
        assert torch.equal(codes, expected), batch_size
    order = torch.randperm(len(embeddings))
    assert torch.equal(model.encode(embeddings[order]).codes, expected[order])


def test_encode_goes_through_large_inputs_in_chunks(monkeypatch):
    model, embeddings = tiny_model(), rows(200)
    expected = model.encode(embeddings)
    monkeypatch.setattr("forge_hf.models.rqvae.modeling_item_tokenizer.ENCODE_CHUNK_SIZE", 17)
    monkeypatch.setattr("forge_hf.models.rqvae.modeling_neural_item_tokenizer.ENCODER_CHUNK_NUMEL", 12 * 5)
    monkeypatch.setattr("forge_hf.models.rqvae.code_assignment.BLOCK_BYTES", {"cpu": 100, "other": 100})
    output = model.encode(embeddings)
    assert torch.equal(output.codes, expected.codes)
    torch.testing.assert_close(output.latents, expected.latents)
    torch.testing.assert_close(model.get_latents(embeddings), expected.latents)


def test_encode_accepts_half_precision_rows():
    model, embeddings = tiny_model(), rows(50).half()
    assert torch.equal(model.encode(embeddings).codes, model.encode(embeddings.float()).codes)
    with pytest.raises(ValueError, match="floating point"):
        model.encode(embeddings.int())


def test_decode_of_all_levels_is_the_reconstruction():
    model, embeddings = tiny_model(dropout=0.5).eval(), rows(50)
    model.set_input_statistics(embeddings.mean(0) + 1, embeddings.std(0) * 3)
    output = model(embeddings)
    torch.testing.assert_close(model.decode(output.codes), output.reconstruction)
    prefix = sum(model.get_codebook(level)[output.codes[:, level]] for level in range(2))
    expected = model.decoder(prefix) * model.input_normalization.std + model.input_normalization.mean
    torch.testing.assert_close(model.decode(output.codes[:, :2]), expected)


# -- objectives


def reference_loss(model, embeddings):
    """Both published objectives, level by level, with their gradients."""
    config = model.config
    z = model.encoder(embeddings)
    with torch.no_grad():
        codes = model.encode(embeddings).codes
    entries = [model.quantizer.codebooks[level].weight[codes[:, level]] for level in range(config.num_levels)]
    total = sum(entries).detach()
    error = model.decoder(z + (total - z).detach()) - embeddings
    if config.quantization_loss == "per_level":
        loss, residual = error.pow(2).sum(1).mean(), z
        for entry in entries:
            loss = loss + (residual.detach() - entry).pow(2).sum(1).mean()
            loss = loss + 0.25 * (residual - entry.detach()).pow(2).sum(1).mean()
            residual = residual - entry.detach()
        return loss
    terms, quantized = [], 0
    for entry in entries:
        quantized = quantized + entry
        terms.append(0.5 * (z - quantized.detach()).pow(2).mean() + 0.5 * (z.detach() - quantized).pow(2).mean())
    return error.pow(2).mean() + sum(terms) / len(terms)


@pytest.mark.parametrize("quantization_loss", ["per_level", "cumulative"])
def test_objective_and_gradients(quantization_loss):
    model, embeddings = tiny_model(quantization_loss=quantization_loss), rows(40)
    expected = reference_loss(model, embeddings)
    expected_gradients = torch.autograd.grad(expected, list(model.parameters()))
    output = model.train()(embeddings)
    torch.testing.assert_close(output.loss, expected)
    gradients = torch.autograd.grad(output.loss, list(model.parameters()))
    for (name, _), gradient, reference in zip(model.named_parameters(), gradients, expected_gradients, strict=True):
        assert reference.abs().max() > 0, name
        torch.testing.assert_close(gradient, reference, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("quantization_loss", ["per_level", "cumulative"])
def test_reconstruction_losses(quantization_loss):
    embeddings = rows(40)
    scale = 12 if quantization_loss == "per_level" else 1  # TIGER sums over dimensions, FORGE averages
    for name in ("mse", "l1", "cosine"):
        model = tiny_model(quantization_loss=quantization_loss, reconstruction_loss=name).eval()
        model.set_input_statistics(embeddings.mean(0), embeddings.std(0, correction=0))
        output = model(embeddings)
        mean, std = embeddings.mean(0).numpy(), embeddings.std(0, correction=0).pow(2).mean().sqrt().item()
        x = (embeddings.numpy() - mean) / std
        x_hat = (output.reconstruction.detach().numpy() - mean) / std
        if name == "mse":
            expected = ((x - x_hat) ** 2).mean() * scale
        elif name == "l1":
            expected = np.abs(x - x_hat).mean() * scale
        else:
            cosine = (x * x_hat).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(x_hat, axis=1)
            expected = 1 - cosine.mean()
        assert output.reconstruction_loss.item() == pytest.approx(expected, rel=1e-4), name
        weighted = output.commitment_loss * model.config.commitment_loss_weight
        weighted = weighted + output.codebook_loss * model.config.codebook_loss_weight
        torch.testing.assert_close(output.loss, output.reconstruction_loss + weighted)


def test_return_loss_false():
    output = tiny_model()(rows(5), return_loss=False)
    assert output.loss is None and output.reconstruction.shape == (5, 12)


def test_forward_in_bf16_autocast_is_the_same():
    model, embeddings = tiny_model(), rows(40)
    expected = model(embeddings)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(embeddings.bfloat16().float())
        torch.testing.assert_close(model(embeddings).loss, expected.loss, rtol=0, atol=0)
    assert output.loss.dtype == torch.float32


def test_input_statistics():
    embeddings = rows(100) * torch.arange(1, 13) + 5
    embeddings[:, 3] = 5.0  # a constant dimension
    mean, std = embeddings.mean(0), embeddings.std(0, correction=0)
    none, center, standardize = (tiny_model(input_normalization=kind) for kind in ("none", "center", "standardize"))
    for model in (none, center, standardize):
        model.set_input_statistics(mean, std)
    torch.testing.assert_close(none.input_normalization(embeddings), embeddings)
    normalized = standardize.input_normalization(embeddings)
    expected_std = torch.ones(12).index_fill(0, torch.tensor([3]), 0)
    torch.testing.assert_close(normalized.std(0, correction=0), expected_std, atol=1e-5, rtol=0)
    normalized = center.input_normalization(embeddings)
    torch.testing.assert_close(normalized.mean(0), torch.zeros(12), atol=1e-5, rtol=0)
    assert normalized.pow(2).mean().item() == pytest.approx(1, rel=1e-4)
    # Angles between centered items stay.
    gram, centered = normalized @ normalized.T, embeddings - mean
    torch.testing.assert_close(gram / gram[0, 0], (centered @ centered.T) / centered[0].dot(centered[0]))
    torch.testing.assert_close(center.input_normalization.inverse(normalized), embeddings)
    with pytest.raises(ValueError, match="shape"):
        center.set_input_statistics(mean[1:], std[1:])


# -- gradient estimators and assignment


def test_rotation_trick_changes_the_encoders_gradient_only():
    straight, rotated, embeddings = tiny_model(), tiny_model(gradient_estimator="rotation_trick"), rows(40)
    first, second = straight(embeddings), rotated(embeddings)
    torch.testing.assert_close(first.loss, second.loss)
    first.loss.backward()
    second.loss.backward()
    for (name, a), (_, b) in zip(straight.named_parameters(), rotated.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-5) == (not name.startswith("encoder")), name


def test_sinkhorn_against_a_plain_loop():
    distances = rows(30, 8).pow(2)
    cost = distances.double().numpy()
    cost = (cost - cost.mean()) / cost.std()
    cost = cost - cost.min()
    q = np.exp(-10 * cost)
    for _ in range(5):
        for k in range(8):
            q[:, k] /= q[:, k].sum() * 8
        for i in range(30):
            q[i] /= q[i].sum() * 30
    assert sinkhorn_assignment(distances, 0.1, 5).tolist() == q.argmax(1).tolist()


def test_sinkhorn_balances_and_survives_far_items():
    distances = torch.rand(400, 8, generator=torch.Generator().manual_seed(0)) + torch.arange(8) * 5.0
    assert distances.argmin(1).unique().tolist() == [0]
    counts = torch.bincount(sinkhorn_assignment(distances, 0.1, 50), minlength=8)
    assert counts.min() > 25
    # An item far from every code, whose exp(-cost) underflows, is assigned as if it were near.
    far = distances.clone()
    far[7] += 200
    epsilon = (0.1 * distances.double().std() / far.double().std()).item()
    assert torch.equal(sinkhorn_assignment(far, epsilon, 50), sinkhorn_assignment(distances, 0.1, 50))


def test_sinkhorn_is_for_training_only_and_by_level():
    model, embeddings = tiny_model(training_assignment=["nearest", "nearest", "sinkhorn"]), rows(300)
    nearest = model.encode(embeddings).codes
    trained = model.train()(embeddings).codes
    assert torch.equal(model.encode(embeddings).codes, nearest)
    assert torch.equal(model.eval()(embeddings).codes, nearest)
    assert torch.equal(trained[:, :2], nearest[:, :2]) and not torch.equal(trained[:, 2], nearest[:, 2])


# -- codebook updates


def test_ema_against_the_formula():
    model = tiny_model(codebook_update="ema", ema_decay=0.9).train()
    assert not [name for name, _ in model.named_parameters() if "quantizer" in name]
    counts = [torch.ones(size) for size in model.config.codebook_sizes]
    sums = [model.get_codebook(level).clone() for level in range(3)]
    for step in range(3):
        embeddings = rows(50, seed=step)
        books = [model.get_codebook(level).clone() for level in range(3)]
        output = model(embeddings)
        assert output.codebook_loss is None
        residual = output.latents.detach()
        for level, book in enumerate(books):
            one_hot = torch.nn.functional.one_hot(output.codes[:, level], len(book)).float()
            counts[level] = 0.9 * counts[level] + 0.1 * one_hot.sum(0) * len(book) / 50
            sums[level] = 0.9 * sums[level] + 0.1 * one_hot.T @ residual * len(book) / 50
            total = counts[level].sum()
            smoothed = (counts[level] + 1e-5) / (total + len(book) * 1e-5) * total
            torch.testing.assert_close(model.get_codebook(level), sums[level] / smoothed[:, None])
            residual = residual - book[output.codes[:, level]]


def test_statistics_move_in_training_only():
    model = tiny_model(codebook_update="ema", dead_code_threshold=0.5).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(rows(50))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("codebook_update", ["gradient", "ema"])
def test_dead_codes_restart_at_latents(codebook_update):
    model = tiny_model(codebook_update=codebook_update, dead_code_threshold=0.1, ema_decay=0.5).train()
    for level in range(3):
        codebook = model.get_codebook(level).clone()
        codebook[-2:] = 1e3  # never the nearest
        model.set_codebook(level, codebook)
    # Unused usage is 1/2, 1/4, ...: below the threshold at the fourth step.
    restarted_at = {}
    for step in range(10):
        books = [model.get_codebook(level).clone() for level in range(3)]
        output = model(rows(64, seed=step))
        residual = output.latents.detach()
        for level, book in enumerate(books):
            codes = model.get_codebook(level)[-2:]
            if level not in restarted_at and (codes < 100).any():
                restarted_at[level] = step
                distances = torch.cdist(codes, residual, compute_mode="donot_use_mm_for_euclid_dist")
                assert (distances.min(dim=1).values < 1e-4).all()  # both are residuals of the batch,
                assert distances.argmin(dim=1).unique().numel() == 2  # of different items,
                usage = model.quantizer.codebooks[level].cluster_size
                assert (usage[-2:] == 1).all()  # and get time to be used
            residual = residual - book[output.codes[:, level]]
    assert restarted_at == {0: 3, 1: 3, 2: 3}


def test_restart_of_more_codes_than_rows():
    model = tiny_model(dead_code_threshold=0.9, ema_decay=0.1).train()
    model(rows(2))
    assert all(model.get_codebook(level).isfinite().all() for level in range(3))


def test_dead_code_count_survives_save_and_load(tmp_path):
    model = tiny_model(dead_code_threshold=0.05).train()
    for step in range(3):
        model(rows(64, seed=step))
    model.save_pretrained(tmp_path)
    loaded = RQVAEModel.from_pretrained(tmp_path).train()
    for a, b in zip(model.quantizer.codebooks, loaded.quantizer.codebooks, strict=True):
        assert torch.equal(a.cluster_size, b.cluster_size) and not torch.equal(a.cluster_size, torch.ones(a.size))


def test_set_codebook():
    model = tiny_model(codebook_update="ema")
    assert not model.is_initialized
    with pytest.raises(ValueError, match=r"level 1 .*\(7, 6\)"):
        model.set_codebook(1, torch.zeros(9, 6))
    with pytest.raises(ValueError, match="finite"):
        model.set_codebook(1, torch.full((7, 6), float("nan")))
    for level, size in enumerate([9, 7, 5]):
        model.set_codebook(level, rows(size, 6))
        assert torch.equal(model.get_codebook(level), rows(size, 6))
        assert torch.equal(model.quantizer.codebooks[level].embed_sum, rows(size, 6))
    assert model.is_initialized


# -- remote code


def test_files_work_as_remote_code(tmp_path):
    model, embeddings = tiny_model(contrastive_loss_weight=1.0, codebook_update="simvq"), rows(30)
    model.save_pretrained(tmp_path / "model")
    code = {path.name for path in (tmp_path / "model").glob("*.py")}
    modeling = {"modeling_item_tokenizer.py", "modeling_neural_item_tokenizer.py", "modeling_rqvae.py"}
    assert code == modeling | {
        "code_assignment.py",
        "configuration_rqvae.py",
        "contrastive_loss.py",
        "quantization.py",
    }
    np.save(tmp_path / "rows.npy", embeddings.numpy())
    script = (
        "import sys, numpy, torch; from transformers import AutoModel;"
        f"model = AutoModel.from_pretrained(r'{tmp_path / 'model'}', trust_remote_code=True, dtype='bfloat16');"
        f"rows = torch.from_numpy(numpy.load(r'{tmp_path / 'rows.npy'}'));"
        f"numpy.save(r'{tmp_path / 'codes.npy'}', model.encode(rows).codes.numpy());"
        "sys.exit('forge_hf' in sys.modules or 'transformers_modules' not in type(model).__module__)"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    assert np.array_equal(np.load(tmp_path / "codes.npy"), model.encode(embeddings).codes.numpy())
