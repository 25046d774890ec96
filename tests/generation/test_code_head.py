# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import peft
import pytest
import torch
from torch import nn

from forge_hf.generation import code_head
from forge_hf.generation.code_head import CodeHead, segment_logsumexp


NUM_ROWS, SIZE, VOCAB = 23, 16, 101


@pytest.fixture(autouse=True, params=[60, 1 << 18], ids=["blocks", "one block"])
def blocks(request, monkeypatch):
    """Blocks so small that every sum goes over several, or logits that are one block."""
    monkeypatch.setattr(code_head, "BLOCK_ROWS", 5)
    monkeypatch.setattr(code_head, "BLOCK_LOGITS", request.param)
    monkeypatch.setattr(code_head, "BLOCK_NUMBERS", 64)


def lora(head):
    holder = nn.ModuleDict({"head": head})
    config = peft.LoraConfig(target_modules=["head"], init_lora_weights=False)
    return peft.inject_adapter_in_model(config, holder)["head"].eval()


def hooked(head):
    head.register_forward_hook(lambda module, inputs, output: 2 * output)
    return head


HEADS = {
    "plain": lambda: nn.Linear(SIZE, VOCAB, bias=False),
    "bias": lambda: nn.Linear(SIZE, VOCAB),
    "lora": lambda: lora(nn.Linear(SIZE, VOCAB)),
    "hooked": lambda: hooked(nn.Linear(SIZE, VOCAB)),
    "sequence": lambda: nn.Sequential(nn.Linear(SIZE, SIZE), nn.Linear(SIZE, VOCAB)),
}


@pytest.mark.parametrize("normalization", code_head.NORMALIZATIONS)
@pytest.mark.parametrize("level_tokens", [torch.arange(30, 70), torch.tensor([7, 90, 3, 41, 40])], ids=["run", "any"])
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("share", [1.0, 0.9, 0.05])
@torch.no_grad()
def test_equals_log_softmax(name, share, level_tokens, normalization):
    torch.manual_seed(0)
    head = HEADS[name]()
    hidden = 3 * torch.randn(NUM_ROWS, SIZE)
    rows, places = (torch.rand(NUM_ROWS, len(level_tokens)) < share).nonzero(as_tuple=True)
    tokens = level_tokens[places]
    assert CodeHead(head).is_plain == (name in ("plain", "bias"))
    found = CodeHead(head).log_probs(hidden, rows, tokens, level_tokens, normalization)

    logits = head(hidden).double()
    counted = torch.zeros(NUM_ROWS, VOCAB, dtype=torch.bool)
    if normalization == "vocabulary":
        counted[:] = True
    elif normalization == "level":
        counted[:, level_tokens] = True
    else:
        counted[rows, tokens] = True
    expected = logits.masked_fill(~counted, -torch.inf).log_softmax(dim=-1)[rows, tokens]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share", [0.9, 0.05])
@torch.no_grad()
def test_bfloat16_sums_in_float32(share):
    torch.manual_seed(0)
    head = nn.Linear(SIZE, VOCAB).bfloat16()
    hidden = torch.randn(NUM_ROWS, SIZE).bfloat16()
    rows, tokens = (torch.rand(NUM_ROWS, VOCAB) < share).nonzero(as_tuple=True)
    found = CodeHead(head).log_probs(hidden, rows, tokens, torch.arange(VOCAB), "vocabulary")
    logits = head(hidden).float()
    normalizer = found - logits[rows, tokens]
    # each logit may be off by one step of bfloat16; their sum is far more exact than that
    torch.testing.assert_close(-normalizer, logits.logsumexp(-1)[rows], atol=0.02, rtol=0)
    assert found.dtype == torch.float32


@torch.no_grad()
def test_large_logits_neither_overflow_nor_vanish():
    head = nn.Linear(1, VOCAB, bias=False)
    head.weight.copy_(torch.linspace(-1, 1, VOCAB)[torch.randperm(VOCAB)].unsqueeze(-1))
    hidden = torch.tensor([[1e4], [-1e4], [0.0]])
    rows, tokens = torch.ones(3, VOCAB).nonzero(as_tuple=True)
    found = CodeHead(head).log_probs(hidden, rows, tokens, torch.arange(VOCAB), "vocabulary")
    torch.testing.assert_close(found.view(3, -1), head(hidden).log_softmax(-1), atol=2e-3, rtol=1e-6)


def test_segment_logsumexp():
    values, rows = torch.tensor([1.0, 2.0, -torch.inf, 5.0]), torch.tensor([0, 0, 2, 3])
    expected = torch.tensor([values[:2].logsumexp(0), -torch.inf, -torch.inf, 5.0])
    torch.testing.assert_close(segment_logsumexp(values, rows, 4), expected)
