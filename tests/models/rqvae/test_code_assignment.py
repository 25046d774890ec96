# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Codes against brute force: exact nearest codes and candidates, and Sinkhorn's against float64 logarithms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from forge_hf.models.rqvae import RQVAEConfig, RQVAEModel, code_assignment
from forge_hf.models.rqvae.code_assignment import (
    balanced_codes,
    nearest_candidates,
    nearest_codes,
    sinkhorn_assignment,
    squared_distances,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute_force(residuals, codebook):
    """In numpy's extended precision, by |w - r|^2 - |r|^2; the first of the least."""
    rows, codes = (values.detach().numpy().astype(np.longdouble) for values in (residuals, codebook))
    return np.array([(codes * (codes - 2 * row)).sum(axis=1).argmin() for row in rows])


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=str)
def product_dtype(request, monkeypatch):
    monkeypatch.setattr(code_assignment, "_product_dtype", lambda device: request.param)


# -- the nearest code


@given(
    num_rows=st.integers(1, 40),
    size=st.integers(2, 700),
    dim=st.integers(1, 20),
    spread=st.integers(1, 30),
    offset=st.integers(-1000, 1000),
    exponent=st.integers(-60, 55),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
def test_nearest_codes_of_whole_numbers(num_rows, size, dim, spread, offset, exponent, dtype, seed):
    # Distances of whole numbers are exact, so ties are too: few values make many of them, and twins among the codes.
    rng = np.random.default_rng(seed)
    codes = rng.integers(-spread, spread + 1, (size, dim)) + offset
    rows = rng.integers(-spread, spread + 1, (num_rows, dim)) + offset
    expected = ((rows[:, None] - codes) ** 2).sum(axis=2).argmin(axis=1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(code_assignment, "_product_dtype", lambda device: dtype)
        monkeypatch.setattr(code_assignment, "NUM_GROUPS", 16)
        found = nearest_codes(torch.from_numpy(rows * 2.0**exponent), torch.from_numpy(codes * 2.0**exponent).float())
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("shift", [1e-3, 1e-6, 1e-9, 1e-12])
def test_nearest_codes_of_near_ties(shift, product_dtype):
    # Rows between two codes, nearer to one of them by a part in 1000 to a part in 10^12.
    codebook = normal(1000, 24)
    pairs = torch.stack([torch.randperm(1000)[:2] for _ in range(300)])
    first, second = codebook[pairs[:, 0]].double(), codebook[pairs[:, 1]].double()
    rows = first + (second - first) * (0.5 - shift)
    # Out of the way of the others.
    codebook[torch.isin(torch.arange(1000), pairs, invert=True)] += 100
    found = nearest_codes(rows, codebook)
    assert found.tolist() == brute_force(rows, codebook).tolist()
    assert (found == pairs[:, 0]).float().mean() > 0.2


@pytest.mark.parametrize(
    "change",
    [
        lambda rows, codebook: (rows, codebook + 300),
        lambda rows, codebook: (rows + 300, codebook + 300),
        lambda rows, codebook: (rows * 1e4, codebook),
        lambda rows, codebook: (rows * 1e-6, codebook),
        lambda rows, codebook: (rows * 1e-42, codebook * 1e-42),
        lambda rows, codebook: (rows * 1e30, codebook * 1e30),
        lambda rows, codebook: (rows * 1e35, codebook * 1e-35),
        lambda rows, codebook: (rows, codebook.index_fill(0, torch.tensor([5]), 1e6)),
        lambda rows, codebook: (rows, codebook * torch.logspace(-8, 8, len(codebook))[:, None]),
        lambda rows, codebook: (rows, codebook[:1].expand_as(codebook)),
        lambda rows, codebook: (rows, torch.zeros_like(codebook)),
        lambda rows, codebook: (codebook.double()[:200], codebook),
        lambda rows, codebook: (rows, codebook[:2]),
    ],
)
def test_nearest_codes_of_odd_codebooks(change, product_dtype):
    rows, codebook = change(normal(200, 16, seed=1).double(), normal(900, 16))
    assert nearest_codes(rows, codebook).tolist() == brute_force(rows, codebook).tolist()


def test_nearest_codes_of_float32_rows(product_dtype):
    rows, codebook = normal(300, 16, seed=1), normal(900, 16)
    assert nearest_codes(rows, codebook).tolist() == brute_force(rows, codebook).tolist()


def test_few_rows_are_compared_with_all_codes_or_in_pairs(product_dtype, monkeypatch):
    # Otherwise encoding would be right, but slow.
    rows, codebook = normal(500, 32, seed=1).double(), normal(2000, 32)
    codes, numbers, _ = code_assignment._shortlists(rows, codebook)
    assert (codes == len(codebook)).float().mean() < 0.5 and len(numbers) < 3 * len(rows)
    assert (codes >= 0).all()


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_codes_do_not_depend_on_the_precision_of_float32_products(precision):
    torch.manual_seed(0)
    model = RQVAEModel(RQVAEConfig(input_dim=64, hidden_sizes=[64], codebook_dim=32, codebook_sizes=[512, 512]))
    embeddings = normal(500, 64)
    expected = model.encode(embeddings)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        output = model.encode(embeddings)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(output.codes, expected.codes) and torch.equal(output.latents, expected.latents)


# -- candidates


@given(size=st.integers(2, 60), dim=st.integers(1, 6), exponent=st.integers(-40, 40), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_candidates_of_whole_numbers(size, dim, exponent, seed):
    rng = np.random.default_rng(seed)
    codes, rows = rng.integers(-3, 4, (size, dim)), rng.integers(-3, 4, (12, dim))
    distances = ((rows[:, None] - codes) ** 2).sum(axis=2)
    order = np.argsort(distances, axis=1, kind="stable")  # the lower code of equally near ones first
    count = int(rng.integers(1, size + 1))
    residuals = torch.from_numpy(rows * 2.0**exponent)
    codebook = torch.from_numpy(codes * 2.0**exponent).float()
    candidates, squares = nearest_candidates(residuals, codebook, nearest_codes(residuals, codebook), count)
    assert candidates.tolist() == order[:, :count].tolist()
    expected = np.take_along_axis(distances, order, axis=1)[:, :count] * 4.0**exponent
    assert squares.tolist() == expected.tolist()


def test_candidates_of_encode(monkeypatch):
    torch.manual_seed(0)
    sizes = [40, 30, 50]
    config = RQVAEConfig(input_dim=12, hidden_sizes=[10], codebook_dim=8, codebook_sizes=sizes, initializer_range=0.5)
    model, embeddings = RQVAEModel(config), normal(300, 12)
    codebook = model.get_codebook(2).clone()
    codebook[7] = codebook[30]
    model.set_codebook(2, codebook)
    output = model.encode(embeddings, num_candidates=50)
    plain = model.encode(embeddings)
    assert plain.candidates is None and plain.candidate_distances is None
    assert torch.equal(output.codes, plain.codes) and torch.equal(output.candidates[:, 0], plain.codes[:, 2])
    latents = model._latents(embeddings).detach().numpy()
    left = latents - sum(model.get_codebook(level).double().numpy()[plain.codes[:, level]] for level in (0, 1))
    distances = ((left[:, None] - codebook.double().numpy()) ** 2).sum(axis=2)
    assert output.candidates.tolist() == np.argsort(distances, axis=1, kind="stable").tolist()
    torch.testing.assert_close(
        output.candidate_distances.double().numpy(), np.sort(distances, axis=1), rtol=1e-6, atol=0
    )

    monkeypatch.setattr("forge_hf.models.rqvae.modeling_item_tokenizer.ENCODE_CHUNK_SIZE", 17)
    monkeypatch.setattr(code_assignment, "BLOCK_BYTES", {"cpu": 100, "other": 100})
    few = model.encode(embeddings.half().float(), num_candidates=6)
    assert torch.equal(few.candidates, model.encode(embeddings.half(), num_candidates=50).candidates[:, :6])
    assert few.candidates.shape == few.candidate_distances.shape == (300, 6)
    for count in (0, 51):
        with pytest.raises(ValueError, match=f"`num_candidates` must be between 1 and 50, .* but is {count}"):
            model.encode(embeddings, num_candidates=count)


# -- Sinkhorn


def sinkhorn_reference(distances, epsilon, num_iterations):
    """Logarithms of the assignment, in float64."""
    costs = distances.double().numpy()
    log_q = torch.from_numpy((costs - costs.mean()) / costs.std() / -epsilon)
    for _ in range(num_iterations):
        log_q = log_q - log_q.logsumexp(dim=0, keepdim=True)
        log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)
    return log_q


def assert_largest(codes, log_q, tolerance):
    """Each item's code has its largest entry, but for what float32 can't tell apart."""
    assert (log_q.amax(dim=1) - log_q.gather(1, codes[:, None])[:, 0]).max() < tolerance
    assert (codes == log_q.argmax(dim=1)).float().mean() > 0.98


def far_items(rows):
    rows[::7] *= 30
    return rows


@pytest.mark.parametrize(
    "rows,codebook,epsilon,num_iterations",
    [
        (normal(400, 16), normal(300, 16, seed=1), 0.1, 5),
        (normal(400, 16), normal(300, 16, seed=1), 0.1, 1),
        (far_items(normal(400, 16)), normal(300, 16, seed=1), 0.1, 5),
        (normal(400, 16), far_items(normal(300, 16, seed=1)), 0.1, 5),
        (normal(400, 16) * 0.1 + 5, normal(300, 16, seed=1), 0.1, 5),
        (normal(400, 16), normal(300, 16, seed=1), 0.01, 5),
        (normal(400, 16), normal(300, 16, seed=1), 0.01, 60),
        (far_items(normal(400, 16)), far_items(normal(300, 16, seed=1)), 0.002, 30),
    ],
)
def test_sinkhorn_against_logarithms(rows, codebook, epsilon, num_iterations, monkeypatch):
    monkeypatch.setattr(code_assignment, "BLOCK_BYTES", {"cpu": 2**16, "other": 2**16})
    distances = squared_distances(rows, codebook)
    before = distances.clone()
    codes = sinkhorn_assignment(distances, epsilon, num_iterations)
    assert torch.equal(distances, before)
    log_q = sinkhorn_reference(distances, epsilon, num_iterations)
    assert_largest(codes, log_q, 1e-4 / epsilon)
    memory = torch.empty_like(distances)
    assert torch.equal(balanced_codes(rows, codebook, epsilon, num_iterations, out=memory), codes)


def test_sinkhorn_beyond_float32_falls_back_to_logarithms():
    # Codes at one end of a line and items at the other: the factors of the codes grow beyond any bound.
    rows, codebook = torch.linspace(0, 1, 60)[:, None], torch.linspace(3, 4, 40)[:, None]
    distances = squared_distances(rows, codebook)
    assert code_assignment._sinkhorn_by_scaling_(distances.clone(), 0.002, 100) is None
    codes = sinkhorn_assignment(distances, 0.002, 100)
    assert_largest(codes, sinkhorn_reference(distances, 0.002, 100), 0.05)
    memory = torch.empty_like(distances)
    assert torch.equal(balanced_codes(rows, codebook, 0.002, 100, out=memory), codes)


def test_squared_distances():
    rows, codebook = normal(30, 6).double(), normal(20, 6, seed=1)
    expected = ((rows[:, None] - codebook) ** 2).sum(dim=2)
    torch.testing.assert_close(squared_distances(rows, codebook), expected)
    memory = torch.empty(30, 20)
    torch.testing.assert_close(squared_distances(rows.float(), codebook, out=memory), expected.float())
    torch.testing.assert_close(memory, expected.float())


class Largest(TorchDispatchMode):
    """The most bytes that any one tensor has."""

    num_bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.num_bytes = max(self.num_bytes, output.nbytes)
        return output


def test_rows_between_many_codes_take_no_more_memory(monkeypatch):
    # Each row has several near codes. Looked at all at once, they would be as many times as large as the rows.
    rows, codebook = normal(3000, 512).double(), normal(8, 512, seed=1).double().repeat(8, 1)
    codebook += 1e-4 * normal(64, 512, seed=2)
    pairs = code_assignment._shortlists(rows, codebook)[1]
    assert len(pairs) >= 8 * len(rows)
    with Largest() as largest:
        codes = nearest_codes(rows, codebook)
    assert largest.num_bytes < 1.1 * rows.nbytes
    assert codes.tolist() == torch.cdist(rows, codebook).argmin(dim=1).tolist()
    monkeypatch.setattr(code_assignment, "CHUNK_NUMEL", 512 * 100)
    with Largest() as largest:
        assert torch.equal(nearest_codes(rows, codebook), codes)
    assert largest.num_bytes < 0.5 * rows.nbytes
