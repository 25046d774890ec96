# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The rotation trick against rotations built from scratch, and SimVQ's codebooks."""

import torch

from forge_hf.models import RQVAEConfig, RQVAEModel
from forge_hf.models.rqvae.quantization import rotate_to


def rows(count, dim=12, seed=3):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_rotation_trick():
    z, q = rows(20, 6).requires_grad_(), rows(20, 6, seed=4)
    gradient = rows(20, 6, seed=5)
    out = rotate_to(z, q)
    assert torch.equal(out, q)
    out.backward(gradient)
    for i in range(len(z)):
        # The rotation in the plane of z and q by the angle between them, built from scratch.
        a, b = z[i].detach().double(), q[i].double()
        u = a / a.norm()
        v = b - b.dot(u) * u
        v = v / v.norm()
        cos = b.dot(u) / b.norm()
        sin = b.dot(v) / b.norm()
        plane = torch.outer(u, u) + torch.outer(v, v)
        turn = cos * plane + sin * (torch.outer(v, u) - torch.outer(u, v))
        rotation = torch.eye(6, dtype=torch.float64) - plane + turn
        torch.testing.assert_close(rotation @ a * b.norm() / a.norm(), b)
        expected = b.norm() / a.norm() * rotation.T @ gradient[i].double()
        torch.testing.assert_close(z.grad[i].double(), expected, atol=1e-4, rtol=1e-4)


def test_rotation_trick_of_degenerate_vectors():
    z = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.0, 0.0]], requires_grad=True)
    q = torch.tensor([[1.0, 0.0], [-2.0, -4.0], [0.0, 0.0]])
    out = rotate_to(z, q)
    assert torch.equal(out, q)
    out.sum().backward()
    assert z.grad.isfinite().all()


def test_simvq_moves_all_codes_by_a_linear_map():
    torch.manual_seed(0)
    config = {"input_dim": 12, "hidden_sizes": [10, 8], "codebook_dim": 6, "initializer_range": 0.5}
    model = RQVAEModel(RQVAEConfig(**config, codebook_sizes=[50], codebook_update="simvq")).train()
    codebook = model.quantizer.codebooks[0]
    fixed, before = codebook.weight.clone(), model.get_codebook(0).clone()
    assert torch.equal(before, fixed)  # the map starts as the identity
    trained = dict(model.named_parameters())
    assert "quantizer.codebooks.0.transform" in trained and "quantizer.codebooks.0.weight" not in trained
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(5):
        loss = model(rows(4, seed=step)).loss  # 4 rows use at most 4 of 50 codes,
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(codebook.weight, fixed)
    moved = model.get_codebook(0)
    assert (moved != before).any(dim=1).all()  # and all 50 have moved,
    torch.testing.assert_close(moved, fixed @ codebook.transform.detach().T)  # together
    centroids = rows(50, 6)
    model.set_codebook(0, centroids)
    assert torch.equal(model.get_codebook(0), centroids)
