# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Tiny models and tries that the generation tests share."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration

from forge_hf.generation import PrefixTable, SemanticIdLogitsProcessor


FIRST_CODE = 4  # tokens 0..3: pad, eos, unk, sep


def _make_model(architecture, num_codes, seed=0, **overrides):
    """A random model whose scores are spread out, so that rankings don't hang on rounding."""
    torch.manual_seed(seed)
    vocab_size = FIRST_CODE + num_codes
    shared = {"vocab_size": vocab_size, "pad_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": False}
    if architecture == "t5":
        config = T5Config(
            d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0,
            **shared | overrides,
        )  # fmt: skip
        model = T5ForConditionalGeneration(config)
    else:
        config = Qwen2Config(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            **{"num_key_value_heads": 2} | shared | overrides,
        )  # fmt: skip
        model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(std=0.5)
    return model.eval()


def _make_prompts(architecture, num_codes, lengths=(7, 3, 5), seed=0):
    """Random prompts, padded on the side that the architecture wants."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for row, length in enumerate(lengths):
        place = slice(None, length) if architecture == "t5" else slice(max(lengths) - length, None)
        input_ids[row, place] = torch.randint(FIRST_CODE, FIRST_CODE + num_codes, (length,), generator=generator)
        attention_mask[row, place] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def _make_codes(num_items, codebook_sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (num_items,), generator=generator) for size in codebook_sizes], dim=-1)


def _generate_constrained(model, table, num_beams, input_ids, attention_mask):
    """The same search by `model.generate`: token ids and scores, rows that don't exist as -1 and -inf."""
    is_encoder_decoder = model.config.is_encoder_decoder
    prompt_length = 1 if is_encoder_decoder else input_ids.shape[1]
    output = model.generate(
        input_ids=input_ids, attention_mask=attention_mask, num_beams=num_beams, num_return_sequences=num_beams,
        logits_processor=[SemanticIdLogitsProcessor(table, prompt_length)], max_new_tokens=table.num_levels,
        eos_token_id=None, length_penalty=0.0, return_dict_in_generate=True, output_scores=True, do_sample=False,
    )  # fmt: skip
    scores = output.sequences_scores.view(-1, num_beams)
    sequences = output.sequences[:, prompt_length:].view(len(scores), num_beams, -1)
    dead = scores < -1e8
    return sequences.masked_fill(dead.unsqueeze(-1), -1), scores.masked_fill(dead, -torch.inf)


@pytest.fixture(params=["t5", "qwen2"])
def architecture(request):
    return request.param


@pytest.fixture(scope="session")
def make_model():
    return _make_model


@pytest.fixture(scope="session")
def make_prompts():
    return _make_prompts


@pytest.fixture(scope="session")
def make_table():
    """`make_table(num_items, codebook_sizes, seed)`: the prefix table of random codes, in the models' token ids."""

    def make(num_items, codebook_sizes, seed=0):
        codes = _make_codes(num_items, codebook_sizes, seed)
        return PrefixTable(codes, codebook_sizes, torch.arange(sum(codebook_sizes)) + FIRST_CODE)

    return make


@pytest.fixture(scope="session")
def generate_constrained():
    """`generate_constrained(model, table, num_beams, **prompts)`: token ids and scores by `model.generate`."""
    return _generate_constrained
