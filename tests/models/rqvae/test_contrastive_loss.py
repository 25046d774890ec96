# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The contrastive objective against its formula in loops, and two processes (gloo) against one on the whole batch."""

import json
import math
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from huggingface_hub.errors import StrictDataclassError
from torch.nn.parallel import DistributedDataParallel

from forge_hf.models.rqvae import RQVAEConfig, RQVAEModel
from forge_hf.models.rqvae.code_assignment import sinkhorn_assignment


def tiny_model(**kwargs):
    torch.manual_seed(0)
    config = {
        "input_dim": 12,
        "hidden_sizes": [10, 8],
        "codebook_dim": 6,
        "codebook_sizes": [9, 7, 5],
        "initializer_range": 0.5,
        "quantization_loss": "cumulative",
        "contrastive_loss_weight": 1.0,
    }
    return RQVAEModel(RQVAEConfig(**config | kwargs))


def pair_batch(count, seed=3):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 12, generator=generator)
    return rows, rows + 0.3 * torch.randn(count, 12, generator=generator)


def plain_info_nce(queries, keys, scale):
    """-log softmax of each query's own key, in python's floats."""
    loss = 0.0
    for i, query in enumerate(queries):
        logits = [scale * float(np.dot(query, key)) for key in keys]
        loss -= logits[i] - math.log(sum(math.exp(logit) for logit in logits))
    return loss / len(queries)


@pytest.mark.parametrize("input_normalization", ["none", "standardize"])
def test_terms_equal_their_formulas(input_normalization):
    model = tiny_model(input_normalization=input_normalization).eval()
    model.set_input_statistics(torch.linspace(-1, 1, 12), torch.linspace(0.5, 2, 12))
    scales = {"self": 1.3, "original": 0.4, "cross": -0.2}  # that they differ shows which goes with which
    with torch.no_grad():
        for term, scale in scales.items():
            getattr(model.contrastive_loss, f"logit_scale_{term}").fill_(scale)
        a, b = pair_batch(7)
        output = model(a, b)
        y_a, y_b = (model(side).reconstruction.double().numpy() for side in (a, b))
    y_a, y_b = (y / np.linalg.norm(y, axis=1, keepdims=True) for y in (y_a, y_b))
    x_a, x_b = a.double().numpy(), b.double().numpy()
    pairings = {
        "self": ((y_a, y_b), (y_b, y_a)),
        "original": ((y_a, x_b), (y_b, x_a)),
        "cross": ((y_a, x_a), (y_b, x_b)),
    }
    expected = [
        sum(plain_info_nce(queries, keys, math.exp(scales[term])) for queries, keys in pairings[term]) / 2
        for term in ("self", "original", "cross")
    ]
    assert output.contrastive_terms.tolist() == pytest.approx(expected, rel=1e-5)
    assert output.contrastive_loss.item() == pytest.approx(sum(expected) / 3, rel=1e-5)


@pytest.mark.parametrize("quantization_loss", ["cumulative", "per_level"])
def test_loss_of_pairs_is_contrastive_and_commitment_of_both_sides(quantization_loss):
    model = tiny_model(
        quantization_loss=quantization_loss, contrastive_loss_weight=0.7, commitment_loss_weight=0.3,
        codebook_loss_weight=0.2,
    ).train()  # fmt: skip
    a, b = pair_batch(20)
    output, (alone, other) = model(a, b), (model(a), model(b))
    for name in ("reconstruction_loss", "commitment_loss", "codebook_loss"):
        assert output[name].item() == pytest.approx((alone[name].item() + other[name].item()) / 2, rel=1e-5), name
    expected = 0.7 * output.contrastive_loss + 0.3 * output.commitment_loss + 0.2 * output.codebook_loss
    torch.testing.assert_close(output.loss, expected)
    for name in ("reconstruction", "latents", "codes"):
        torch.testing.assert_close(output[name], alone[name])
    assert alone.contrastive_loss is None and alone.contrastive_terms is None


def test_each_side_is_balanced_by_itself():
    model = tiny_model(training_assignment="sinkhorn").train()
    a, b = pair_batch(40)
    codes = []
    assign = model.quantizer.assign
    model.quantizer.assign = lambda *args, **kwargs: codes.append(assign(*args, **kwargs)) or codes[-1]
    model(a, b), model(a), model(b)
    assert torch.equal(torch.cat(codes[:2]), torch.cat(codes[2:])) and len(codes) == 4


def test_gradients_reach_all_weights_and_temperatures():
    model = tiny_model().train()
    model(*pair_batch(20)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    model.zero_grad()
    model(pair_batch(20)[0]).loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {f"contrastive_loss.logit_scale_{term}" for term in ("self", "original", "cross")}


def test_training_brings_pairs_together():
    model = tiny_model().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(80):
        output = model(*pair_batch(60))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.contrastive_loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_scales_stop_at_100_and_can_return():
    model = tiny_model().train()
    scale = model.contrastive_loss.logit_scale_self
    with torch.no_grad():
        scale.fill_(6.0)
    model(*pair_batch(5)).contrastive_loss.backward()
    assert scale.item() == pytest.approx(math.log(100)) and scale.grad != 0
    with torch.no_grad():
        scale.fill_(6.0)
    model.eval()(*pair_batch(5))
    assert scale.item() == 6.0


def test_bad_positives():
    a, b = pair_batch(5)
    with pytest.raises(ValueError, match="contrastive_loss_weight"):
        tiny_model(contrastive_loss_weight=0)(a, b)
    for wrong in (b[:4], b[:, 1:], b.long()):
        with pytest.raises(ValueError, match=r"`positives` must be floating point of the shape .*\(5, 12\)"):
            tiny_model()(a, wrong)
    with pytest.raises(StrictDataclassError, match="contrastive_loss_weight"):
        RQVAEConfig(contrastive_loss_weight=-0.5)


def test_old_checkpoints_load(tmp_path):
    old = tiny_model(contrastive_loss_weight=0)
    assert not any("contrastive" in name for name in old.state_dict())
    old.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["contrastive_loss_weight"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded, info = RQVAEModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert loaded.state_dict().keys() == old.state_dict().keys()
    # Or go on with the contrastive loss, from CLIP's temperatures.
    tuned = RQVAEModel.from_pretrained(tmp_path, contrastive_loss_weight=1.0)
    assert [scale.item() for scale in tuned.contrastive_loss.logit_scales] == pytest.approx([math.log(1 / 0.07)] * 3)
    assert all(torch.equal(tensor, tuned.state_dict()[name]) for name, tensor in old.state_dict().items())


# -- two processes


def some_distances():
    return torch.randn(60, 32, generator=torch.Generator().manual_seed(5)).exp()


def one_step(rank=0, world_size=1):
    """Losses, codes and gradients of a step on this process's share of a batch of pairs."""
    model = tiny_model(training_assignment="sinkhorn").train()
    wrapped = model if world_size == 1 else DistributedDataParallel(model, find_unused_parameters=True)
    output = wrapped(*(side.chunk(world_size)[rank] for side in pair_batch(40)))
    output.loss.backward()
    distances = some_distances().chunk(world_size)[rank]
    result = {f"gradient.{name}": parameter.grad for name, parameter in model.named_parameters()}
    result |= {name: output[name].detach() for name in ("loss", "contrastive_terms", "codes")}
    return result | {"sinkhorn": sinkhorn_assignment(distances, 0.1, 5)}


def step_as_process(rank, folder, port):
    """One of the two processes of the test below, which runs this file."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(one_step(rank, 2), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    # From a fresh process: forking this one would copy its threads' locks.
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True, timeout=600)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, expected in one_step().items():
        if name in ("codes", "sinkhorn"):
            assert torch.equal(torch.cat([first[name], second[name]]), expected), name
        elif name.startswith("gradient"):
            torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-6, msg=name)
            assert torch.equal(first[name], second[name])
        else:
            torch.testing.assert_close((first[name] + second[name]) / 2, expected, msg=name)
    # The balance is that of the whole batch: each half by itself would get other codes.
    assert not torch.equal(sinkhorn_assignment(some_distances()[:30], 0.1, 5), first["sinkhorn"])


if __name__ == "__main__":
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        free_port = server.getsockname()[1]
    mp.start_processes(step_as_process, args=(sys.argv[1], free_port), nprocs=2, start_method="fork")
