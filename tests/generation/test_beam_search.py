# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import itertools

import numpy as np
import peft
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel

from forge_hf.generation import (
    PrefixTable,
    SemanticIdLogitsProcessor,
    beam_search,
    constrained_beam_search,
    score_catalog,
    semantic_id_beam_search,
)


SIZES = [6, 5, 4]
NUM_CODES = sum(SIZES)


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
def test_equals_generate(
    architecture, seed, num_items, num_beams, make_model, make_prompts, make_table, generate_constrained
):
    model = make_model(architecture, NUM_CODES, seed)
    prompts = make_prompts(architecture, NUM_CODES, seed=seed)
    table = make_table(num_items, SIZES, seed)
    output = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=num_beams)
    sequences, scores = generate_constrained(model, table, num_beams, **prompts)
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
def test_equals_generate_for_other_attentions(overrides, make_model, make_prompts, make_table, generate_constrained):
    model = make_model("qwen2", NUM_CODES, **overrides)
    prompts = make_prompts("qwen2", NUM_CODES)
    table = make_table(60, SIZES)
    output = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8)
    sequences, scores = generate_constrained(model, table, 8, **prompts)
    assert torch.equal(output.sequences, sequences)
    torch.testing.assert_close(output.scores, scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_equals_generate_for_other_models(name, make_prompts, make_table, generate_constrained):
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
    sequences, scores = generate_constrained(model, table, 8, **prompts)
    assert torch.equal(output.sequences, sequences)
    torch.testing.assert_close(output.scores, scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("is_autocast", [False, True])
def test_equals_generate_in_bfloat16(
    architecture, seed, is_autocast, make_model, make_prompts, make_table, generate_constrained
):
    model = make_model(architecture, NUM_CODES, seed).to(torch.float32 if is_autocast else torch.bfloat16)
    prompts = make_prompts(architecture, NUM_CODES, seed=seed)
    table = make_table(60, SIZES, seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        output = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8)
        sequences, scores = generate_constrained(model, table, 8, **prompts)
    assert output.scores.dtype == torch.float32
    # near-ties may change places, so the ranked scores are compared, and the best item
    torch.testing.assert_close(output.scores, scores, atol=0.15, rtol=0)
    sure = scores[:, 0] - scores[:, 1] > 0.15
    assert sure.any() and torch.equal(output.sequences[sure, 0], sequences[sure, 0])


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


def search_by_hand(model, table, widths, normalization, input_ids, attention_mask):
    """Beam search for one prompt with a width for each level: full forward passes, dictionaries and sorting."""
    leaves = [tuple(tokens) for tokens in table.leaf_tokens(torch.arange(table.num_leaves)).tolist()]
    prompt = input_ids[0, attention_mask[0].bool()]
    beams, first_code = {(): 0.0}, 4
    for depth, width in enumerate(widths):
        size = table.codebook_sizes[depth]
        candidates = {}
        for prefix, score in beams.items():
            if model.config.is_encoder_decoder:
                decoder_input_ids = torch.tensor([[model.config.decoder_start_token_id, *prefix]])
                logits = model(input_ids=prompt.unsqueeze(0), decoder_input_ids=decoder_input_ids).logits
            else:
                logits = model(input_ids=torch.cat([prompt, torch.tensor(prefix, dtype=torch.int64)])[None]).logits
            logits = logits[0, -1].float()
            legal = sorted({leaf[depth] for leaf in leaves if leaf[:depth] == prefix})
            counted = {"vocabulary": slice(None), "level": slice(first_code, first_code + size), "legal": legal}
            normalizer = logits[counted[normalization]].logsumexp(0)
            candidates |= {prefix + (token,): score + float(logits[token] - normalizer) for token in legal}
        beams = dict(sorted(candidates.items(), key=lambda item: (-item[1], item[0]))[:width])
        first_code += size
    return list(beams), torch.tensor(list(beams.values()))


@pytest.mark.parametrize("normalization", ["vocabulary", "level", "legal"])
@pytest.mark.parametrize("widths", [(2, 5, 9), (6, 3, 4), (5, 5, 5)])
@torch.no_grad()
def test_widths_and_normalizations_equal_a_search_by_hand(
    architecture, widths, normalization, make_model, make_prompts, make_table
):
    model, table = make_model(architecture, NUM_CODES), make_table(60, SIZES)
    prompts = make_prompts(architecture, NUM_CODES, lengths=(6,))
    output = constrained_beam_search(
        model, **prompts, prefix_table=table, num_beams=widths, normalization=normalization
    )
    sequences, scores = search_by_hand(model, table, widths, normalization, **prompts)
    assert [tuple(tokens) for tokens in output.sequences[0].tolist()] == sequences
    torch.testing.assert_close(output.scores[0], scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("normalization", ["vocabulary", "level", "legal"])
def test_score_catalog(architecture, normalization, make_model, make_prompts, make_table, monkeypatch):
    model, table = make_model(architecture, NUM_CODES), make_table(60, SIZES)
    prompts = make_prompts(architecture, NUM_CODES)
    scores = score_catalog(model, **prompts, prefix_table=table, normalization=normalization)
    assert scores.shape == (3, table.num_leaves)
    if normalization == "vocabulary":
        torch.testing.assert_close(scores, score_every_leaf(model, table, **prompts), atol=1e-4, rtol=0)
    if normalization == "legal":
        torch.testing.assert_close(scores.exp().sum(dim=-1), torch.ones(3))
    monkeypatch.setattr(beam_search, "CATALOG_ROWS", 1)  # one row at a time
    alone = score_catalog(model, **prompts, prefix_table=table, normalization=normalization)
    torch.testing.assert_close(alone, scores, atol=1e-4, rtol=0)


def test_score_catalog_gives_impossible_semantic_ids_minus_infinity(make_model, make_prompts, make_table):
    model, table = make_model("qwen2", NUM_CODES), make_table(60, SIZES)
    head = torch.nn.Linear(32, model.config.vocab_size)
    with torch.no_grad():
        head.bias[4] = -torch.inf  # the first code of the first level
    model.set_output_embeddings(head)
    scores = score_catalog(model, **make_prompts("qwen2", NUM_CODES), prefix_table=table)
    impossible = table.leaf_codes(torch.arange(table.num_leaves))[:, 0] == 0
    assert impossible.any() and scores[:, impossible].isneginf().all() and scores[:, ~impossible].isfinite().all()
    output = constrained_beam_search(model, **make_prompts("qwen2", NUM_CODES), prefix_table=table, num_beams=60)
    assert torch.equal((output.leaves >= 0).sum(dim=-1), (~impossible).sum().expand(3))


@st.composite
def exclusions(draw):
    rows, sizes = draw(tries())
    leaves = sorted(set(rows))
    pairs = st.tuples(st.integers(0, 2), st.integers(0, len(leaves) - 1))
    return leaves, sizes, draw(st.lists(pairs, max_size=3 * len(leaves))), draw(st.integers(1, 8))


@pytest.mark.parametrize("name", ["t5", "qwen2"])
@settings(max_examples=15, deadline=None)
@example(([(0,)], [1], [(1, 0)], 2))
@example(([(0, 0), (0, 1), (1, 0)], [2, 2], [(0, 0), (0, 1), (2, 2), (1, 0), (1, 0), (1, 1), (1, 2)], 2))
@given(exclusions())
def test_excluded_leaves_equal_a_smaller_catalog(name, make_model, make_prompts, case):
    rows, sizes, pairs, num_beams = case
    tokens = torch.arange(sum(sizes)) + 4
    model, prompts = make_model(name, sum(sizes)), make_prompts(name, sum(sizes))
    output = constrained_beam_search(
        model, **prompts, prefix_table=PrefixTable(torch.tensor(rows), sizes, tokens), num_beams=num_beams,
        excluded_leaves=torch.tensor(pairs, dtype=torch.int64).view(-1, 2),
    )  # fmt: skip
    for user in range(3):
        left = [leaf for leaf in range(len(rows)) if (user, leaf) not in pairs]
        if not left:
            assert output.leaves[user].eq(-1).all() and output.scores[user].isneginf().all()
            continue
        table = PrefixTable(torch.tensor([rows[leaf] for leaf in left]), sizes, tokens)
        alone = {key: value[user : user + 1] for key, value in prompts.items()}
        expected = constrained_beam_search(model, **alone, prefix_table=table, num_beams=num_beams)
        assert torch.equal(output.sequences[user], expected.sequences[0])
        torch.testing.assert_close(output.scores[user], expected.scores[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, (0.7, 2.0, 1.3)])
def test_samples_without_replacement(temperature, make_model, make_table):
    model, table = make_model("t5", NUM_CODES), make_table(12, SIZES)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.3)  # so that no probability is tiny
    prompt = torch.tensor([[5, 7, 9]])
    draws = 4000
    output = constrained_beam_search(
        model, prompt.expand(draws, -1), None, table, 3, temperature=temperature,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip

    # exact probability of each leaf: tempered, and renormalised over the legal codes, level by level
    legal = score_catalog(model, prompt, None, table, normalization="legal")[0]
    full = table.leaf_tokens(torch.arange(table.num_leaves))
    temperatures = temperature if isinstance(temperature, tuple) else [temperature] * 3
    probabilities = torch.zeros(table.num_leaves)
    for leaf, tokens in enumerate(full.tolist()):
        log_probability = 0.0
        for depth, level_temperature in enumerate(temperatures):
            inside = (full[:, :depth] == full[leaf, :depth]).all(dim=-1)
            codes = full[inside, depth].unique()
            joint = [legal[inside & (full[:, depth] == code)].logsumexp(0) for code in codes]
            log_probs = (torch.stack(joint) / level_temperature).log_softmax(0)
            log_probability += float(log_probs[codes == tokens[depth]])
        probabilities[leaf] = log_probability
    probabilities = probabilities.exp()
    assert abs(float(probabilities.sum()) - 1) < 1e-4

    # each row holds three different leaves, in the order of drawing, with the model's own scores
    assert all(len(set(row)) == 3 for row in output.leaves.tolist())
    own = score_catalog(model, prompt, None, table)[0]
    torch.testing.assert_close(output.scores, own[output.leaves], atol=1e-4, rtol=0)
    first, second = output.leaves[:, 0], output.leaves[:, 1]
    pair = probabilities.unsqueeze(1) * probabilities / (1 - probabilities).unsqueeze(1)
    pair.fill_diagonal_(0)
    for found, expected in [
        (torch.bincount(first, minlength=table.num_leaves), probabilities),
        (torch.bincount(first * table.num_leaves + second, minlength=table.num_leaves**2), pair.flatten()),
    ]:
        kept = expected * draws >= 5
        statistic = float(((found - draws * expected)[kept] ** 2 / (draws * expected[kept])).sum())
        degrees = int(kept.sum())
        assert statistic < degrees + 4 * (2 * degrees) ** 0.5


def test_temperature_by_level(architecture, make_model, make_prompts, make_table):
    model, table = make_model(architecture, NUM_CODES), make_table(60, SIZES)
    prompts = make_prompts(architecture, NUM_CODES)

    def search(temperature, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return constrained_beam_search(
            model, **prompts, prefix_table=table, num_beams=5, temperature=temperature, generator=generator
        )

    plain = search(None)
    assert torch.equal(search(0.0).leaves, plain.leaves) and torch.equal(search([None, 0, 0.0]).leaves, plain.leaves)
    greedy = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=1)
    assert torch.equal(search(1e-4).leaves[:, :1], greedy.leaves)
    assert torch.equal(search(2.0).leaves, search(2.0).leaves)
    assert not torch.equal(search(2.0).leaves, search(2.0, seed=1).leaves)
    # what is kept at a level without temperature is the best of what the sampled levels left
    ends = search([2.0, None, None])
    assert (ends.scores.diff(dim=-1) <= 0).all()
    # a catalog smaller than the beams is drawn whole, each leaf once
    few = make_table(3, SIZES)
    drawn = constrained_beam_search(model, **prompts, prefix_table=few, num_beams=5, temperature=1.0)
    assert all(sorted(row) == [-1, -1, 0, 1, 2] for row in drawn.leaves.tolist())


def test_custom_generate_hands_arguments_on(architecture, make_model, make_prompts, make_table):
    model, table = make_model(architecture, NUM_CODES), make_table(60, SIZES)
    prompts = make_prompts(architecture, NUM_CODES)
    arguments = {
        "num_beams": (4, 6, 8), "excluded_leaves": torch.tensor([[0, 3], [2, 5]]), "normalization": "level",
        "temperature": (None, None, 1.5),
    }  # fmt: skip
    expected = constrained_beam_search(
        model, **prompts, prefix_table=table, **arguments, generator=torch.Generator().manual_seed(0)
    )
    output = model.generate(
        **prompts, custom_generate=semantic_id_beam_search, prefix_table=table, num_return_sequences=7,
        max_new_tokens=3, return_dict_in_generate=True, output_scores=True, **arguments,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    torch.testing.assert_close(output.sequences_scores.view(3, 7), expected.scores[:, :7], atol=1e-4, rtol=0)
    assert torch.equal(output.sequences[:, -3:].view(3, 7, 3), expected.sequences[:, :7])


def test_refuses_bad_input(make_model, make_prompts, make_table):
    model, table = make_model("qwen2", NUM_CODES), make_table(60, SIZES)
    prompts = make_prompts("qwen2", NUM_CODES)
    with pytest.raises(ValueError, match="`num_beams` must be at least 1.*got 0"):
        constrained_beam_search(model, **prompts, prefix_table=table, num_beams=0)
    with pytest.raises(ValueError, match="padded on the left.*2 rows"):
        constrained_beam_search(model, **make_prompts("t5", NUM_CODES), prefix_table=table, num_beams=2)
    with pytest.raises(ValueError, match=r"\(3, 7\) and \(3, 6\)"):
        constrained_beam_search(model, prompts["input_ids"], prompts["attention_mask"][:, 1:], table, num_beams=2)
    with pytest.raises(ValueError, match="`prefix_table` is missing"):
        model.generate(**prompts, custom_generate=semantic_id_beam_search, num_beams=2, max_new_tokens=3)
    for arguments, message in [
        ({"num_beams": (3, 2)}, "each of 3 levels, got .3, 2."),
        ({"num_beams": (3, 0, 2)}, "at least 1"),
        ({"normalization": "softmax"}, "`normalization` must be one of .*'softmax'"),
        ({"temperature": -1.0}, "`temperature` must be at least 0, got -1.0"),
        ({"temperature": (1.0, None)}, "each of 3 levels"),
        ({"temperature": float("nan")}, "got nan"),
        ({"excluded_leaves": torch.tensor([1, 2])}, r"`excluded_leaves` must be pairs.*\(2,\)"),
        ({"excluded_leaves": torch.tensor([[0, 1], [3, 0]])}, r"1 pairs outside 3 rows.*\[3, 0\]"),
        ({"excluded_leaves": torch.tensor([[0, -1]])}, r"the first is \[0, -1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            constrained_beam_search(model, **prompts, prefix_table=table, **{"num_beams": 2} | arguments)
    with pytest.raises(ValueError, match="`num_return_sequences` is 3, but `num_beams` is 2"):
        model.generate(
            **prompts, custom_generate=semantic_id_beam_search, prefix_table=table, num_beams=2,
            num_return_sequences=3, max_new_tokens=3,
        )  # fmt: skip
    with torch.no_grad():
        model.get_output_embeddings().weight[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        constrained_beam_search(model, **prompts, prefix_table=table, num_beams=2)


def test_an_infinite_logit_of_any_token_is_refused(make_model, make_prompts, make_table):
    model, table, prompts = make_model("qwen2", NUM_CODES), make_table(60, SIZES), make_prompts("qwen2", NUM_CODES)
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(len(head.weight)))
    head.bias.data[0] = torch.inf  # of the pad token, which is never a candidate
    for normalization in ("vocabulary", "level", "legal"):
        if normalization != "vocabulary":  # these don't look at it
            assert (
                constrained_beam_search(model, **prompts, prefix_table=table, num_beams=4, normalization=normalization)
                .scores.isfinite()
                .all()
            )
            continue
        with pytest.raises(ValueError, match="not finite"):
            constrained_beam_search(model, **prompts, prefix_table=table, num_beams=4)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_virtual_tokens_are_refused(architecture, make_model, make_prompts, make_table):
    model, table = make_model(architecture, NUM_CODES), make_table(60, SIZES)
    task = "SEQ_2_SEQ_LM" if architecture == "t5" else "CAUSAL_LM"
    tuned = peft.get_peft_model(model, peft.PromptTuningConfig(task_type=task, num_virtual_tokens=2)).eval()
    with pytest.raises(ValueError, match="PROMPT_TUNING"):
        constrained_beam_search(tuned, **make_prompts(architecture, NUM_CODES), prefix_table=table, num_beams=4)


def test_numbers_of_numpy_are_numbers(make_model, make_prompts, make_table):
    model, table, prompts = make_model("qwen2", NUM_CODES), make_table(60, SIZES), make_prompts("qwen2", NUM_CODES)
    expected = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=[3, 4, 5])
    for num_beams in (np.array([3, 4, 5]), range(3, 6), (np.int64(3), 4, 5)):
        output = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=num_beams)
        assert torch.equal(output.leaves, expected.leaves)
