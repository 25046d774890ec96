# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import itertools

import peft
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel

from forge_hf.generation import (
    PrefixTable,
    SemanticIdLogitsProcessor,
    constrained_beam_search,
    semantic_id_beam_search,
)


SIZES = [6, 5, 4]
NUM_CODES = sum(SIZES)


def generate(model, table, num_beams, input_ids, attention_mask):
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


def score_every_leaf(model, table, input_ids, attention_mask):
    """Log-probability of every semantic ID by one plain forward pass a row, without a cache."""
    targets = table.leaf_tokens(torch.arange(table.num_leaves))
    rows = []
    with torch.no_grad():
        for tokens, mask in zip(input_ids, attention_mask, strict=True):
            prompt = tokens[mask.bool()].expand(len(targets), -1)
            if model.config.is_encoder_decoder:
                start = torch.full_like(targets[:, :1], model.config.decoder_start_token_id)
                decoder_input_ids = torch.cat([start, targets[:, :-1]], dim=-1)
                logits = model(input_ids=prompt, decoder_input_ids=decoder_input_ids).logits
            else:
                logits = model(input_ids=torch.cat([prompt, targets[:, :-1]], dim=-1)).logits
            log_probs = logits[:, -targets.shape[1] :].float().log_softmax(dim=-1)
            rows.append(log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1).sum(dim=-1))
    return torch.stack(rows)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("num_items", "num_beams"), [(60, 8), (3, 8), (1, 2)])
def test_equals_generate(architecture, seed, num_items, num_beams, make_model, make_prompts, make_table):
    model = make_model(architecture, NUM_CODES, seed)
    prompts = make_prompts(architecture, NUM_CODES, seed=seed)
    table = make_table(num_items, SIZES, seed)
    output = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=num_beams)
    sequences, scores = generate(model, table, num_beams, **prompts)
    assert torch.equal(output.sequences, sequences)
    torch.testing.assert_close(output.scores, scores, atol=1e-4, rtol=0)
    assert torch.equal(output.sequences, table.leaf_tokens(output.leaves))


def test_one_beam_equals_greedy_search(architecture, make_model, make_prompts, make_table):
    model, table = make_model(architecture, NUM_CODES), make_table(60, SIZES)
    prompts = make_prompts(architecture, NUM_CODES)
    prompt_length = 1 if architecture == "t5" else prompts["input_ids"].shape[1]
    output = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=1)
    processor = SemanticIdLogitsProcessor(table, prompt_length)
    greedy = model.generate(**prompts, logits_processor=[processor], max_new_tokens=3, eos_token_id=None)
    assert torch.equal(output.sequences[:, 0], greedy[:, prompt_length:])


@pytest.mark.parametrize(
    "overrides",
    [
        {"attn_implementation": "eager"},
        # a sliding window's cache can't hold beams side by side: they get a row each
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        {"num_key_value_heads": 4, "tie_word_embeddings": True},
    ],
)
def test_equals_generate_for_other_attentions(overrides, make_model, make_prompts, make_table):
    model = make_model("qwen2", NUM_CODES, **overrides)
    prompts = make_prompts("qwen2", NUM_CODES)
    table = make_table(60, SIZES)
    output = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8)
    sequences, scores = generate(model, table, 8, **prompts)
    assert torch.equal(output.sequences, sequences)
    torch.testing.assert_close(output.scores, scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_equals_generate_for_other_models(name, make_prompts, make_table):
    torch.manual_seed(0)
    if name == "gpt2":
        config = GPT2Config(vocab_size=19, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
        model = GPT2LMHeadModel(config).eval()
    else:
        config = BartConfig(
            vocab_size=19, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, init_std=0.3, pad_token_id=0,
            bos_token_id=1, eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=None,
        )  # fmt: skip
        model = BartForConditionalGeneration(config).eval()
    prompts = make_prompts("t5" if name == "bart" else "qwen2", NUM_CODES)
    table = make_table(60, SIZES)
    output = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8)
    sequences, scores = generate(model, table, 8, **prompts)
    assert torch.equal(output.sequences, sequences)
    torch.testing.assert_close(output.scores, scores, atol=1e-4, rtol=0)


def test_equals_generate_in_bfloat16(architecture, make_model, make_prompts, make_table):
    model = make_model(architecture, NUM_CODES).to(torch.bfloat16)
    prompts = make_prompts(architecture, NUM_CODES)
    table = make_table(60, SIZES)
    output = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8)
    _, scores = generate(model, table, 8, **prompts)
    assert output.scores.dtype == torch.float32
    # near-ties may change places, so only the ranked scores are comparable
    torch.testing.assert_close(output.scores, scores, atol=0.15, rtol=0)


@st.composite
def tries(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    return draw(st.lists(row, min_size=1, max_size=20)), sizes


@pytest.mark.parametrize("name", ["t5", "qwen2"])
@settings(max_examples=15, deadline=None)
@example(([(0,)], [1]))
@example(([(3, 0, 2)] * 2, [4, 1, 3]))
@example((list(itertools.product(range(2), repeat=4)), [2, 2, 2, 2]))
@given(tries())
def test_equals_brute_force_when_beams_cover_the_catalog(name, make_model, make_prompts, trie):
    rows, sizes = trie
    table = PrefixTable(torch.tensor(rows), sizes, torch.arange(sum(sizes)) + 4)
    model, prompts = make_model(name, sum(sizes)), make_prompts(name, sum(sizes))
    every_score = score_every_leaf(model, table, **prompts)
    num_beams = table.num_leaves + 2
    output = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=num_beams)
    assert output.leaves[:, -2:].eq(-1).all() and output.scores[:, -2:].isneginf().all()
    assert output.sequences[:, -2:].eq(-1).all()
    scores, leaves = every_score.sort(dim=-1, descending=True)
    assert torch.equal(output.leaves[:, :-2], leaves)
    torch.testing.assert_close(output.scores[:, :-2], scores, atol=1e-4, rtol=0)


def test_a_row_does_not_depend_on_its_batch(architecture, make_model, make_prompts, make_table):
    model, table = make_model(architecture, NUM_CODES), make_table(60, SIZES)
    prompts = make_prompts(architecture, NUM_CODES, lengths=(9, 1, 4, 6))
    together = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8)
    for row in range(4):
        kept = prompts["attention_mask"][row].bool()
        alone = constrained_beam_search(model, prompts["input_ids"][row : row + 1, kept], None, table, num_beams=8)
        assert torch.equal(alone.leaves[0], together.leaves[row])
        torch.testing.assert_close(alone.scores[0], together.scores[row], atol=1e-4, rtol=0)


def test_ties_go_to_the_first_semantic_id(architecture, make_model, make_prompts, make_table):
    model, table = make_model(architecture, NUM_CODES), make_table(60, SIZES)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    prompts = make_prompts(architecture, NUM_CODES)
    output = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=4)
    assert output.leaves.tolist() == [[0, 1, 2, 3]] * 3
    torch.testing.assert_close(output.scores, torch.full((3, 4), -3 * torch.tensor(4.0 + NUM_CODES).log().item()))


# peft 0.21 asks transformers 5.23 for a property by its old name
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_peft_model(architecture, make_model, make_prompts, make_table):
    model = make_model(architecture, NUM_CODES)
    prompts, table = make_prompts(architecture, NUM_CODES), make_table(60, SIZES)
    plain = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8)
    config = peft.LoraConfig(
        task_type="SEQ_2_SEQ_LM" if architecture == "t5" else "CAUSAL_LM", target_modules="all-linear",
        init_lora_weights=False,
    )  # fmt: skip
    tuned = peft.get_peft_model(model, config).eval()
    output = constrained_beam_search(tuned, **prompts, prefix_table=table, num_beams=8)
    assert not torch.equal(output.scores, plain.scores)
    merged = constrained_beam_search(tuned.merge_and_unload(), **prompts, prefix_table=table, num_beams=8)
    assert torch.equal(output.leaves, merged.leaves)
    torch.testing.assert_close(output.scores, merged.scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("num_items", "num_return"), [(60, 5), (60, 8), (3, 8)])
def test_custom_generate_returns_what_generate_does(
    architecture, num_items, num_return, make_model, make_prompts, make_table
):
    model, table = make_model(architecture, NUM_CODES), make_table(num_items, SIZES)
    prompts = make_prompts(architecture, NUM_CODES)
    prompt_length = 1 if architecture == "t5" else prompts["input_ids"].shape[1]
    arguments = {
        "num_beams": 8, "num_return_sequences": num_return, "max_new_tokens": 3, "length_penalty": 0.0,
        "eos_token_id": None, "return_dict_in_generate": True, "output_scores": True, **prompts,
    }  # fmt: skip
    processor = SemanticIdLogitsProcessor(table, prompt_length)
    theirs = model.generate(logits_processor=[processor], **arguments)
    ours = model.generate(custom_generate=semantic_id_beam_search, prefix_table=table, **arguments)
    assert type(ours) is type(theirs) and ours.sequences.shape == theirs.sequences.shape
    exists = theirs.sequences_scores > -1e8
    assert torch.equal(ours.sequences[exists], theirs.sequences[exists])
    torch.testing.assert_close(ours.sequences_scores[exists], theirs.sequences_scores[exists], atol=1e-4, rtol=0)
    # beyond the catalog: the prompt, padding and -inf
    missing = ours.sequences[~exists]
    assert ours.sequences_scores[~exists].isneginf().all() and missing[:, prompt_length:].eq(0).all()
    plain = model.generate(
        custom_generate=semantic_id_beam_search, prefix_table=table, num_beams=8, num_return_sequences=num_return,
        max_new_tokens=3, **prompts,
    )  # fmt: skip
    assert torch.equal(plain, ours.sequences)


def test_refuses_bad_input(make_model, make_prompts, make_table):
    model, table = make_model("qwen2", NUM_CODES), make_table(60, SIZES)
    prompts = make_prompts("qwen2", NUM_CODES)
    with pytest.raises(ValueError, match="`num_beams` must be at least 1, got 0"):
        constrained_beam_search(model, **prompts, prefix_table=table, num_beams=0)
    with pytest.raises(ValueError, match="padded on the left.*2 rows"):
        constrained_beam_search(model, **make_prompts("t5", NUM_CODES), prefix_table=table, num_beams=2)
    with pytest.raises(ValueError, match=r"\(3, 7\) and \(3, 6\)"):
        constrained_beam_search(model, prompts["input_ids"], prompts["attention_mask"][:, 1:], table, num_beams=2)
    with pytest.raises(ValueError, match="`prefix_table` is missing"):
        model.generate(**prompts, custom_generate=semantic_id_beam_search, num_beams=2, max_new_tokens=3)
    with torch.no_grad():
        model.get_output_embeddings().weight[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        constrained_beam_search(model, **prompts, prefix_table=table, num_beams=2)
