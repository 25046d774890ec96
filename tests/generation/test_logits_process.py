# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from transformers import PrefixConstrainedLogitsProcessor

from forge_hf.generation import PrefixTable, SemanticIdLogitsProcessor, prefix_lookup


SIZES = [6, 5, 4]
NUM_CODES = sum(SIZES)
VOCAB_SIZE = 4 + NUM_CODES


def trie_function(table, prompt_length):
    """`prefix_allowed_tokens_fn` over a plain set of prefixes."""
    sequences = [tuple(row) for row in table.leaf_tokens(torch.arange(table.num_leaves)).tolist()]

    def allowed(batch_id, tokens):
        prefix = tuple(tokens[prompt_length:].tolist())
        return sorted({row[len(prefix)] for row in sequences if row[: len(prefix)] == prefix})

    return allowed


@pytest.fixture(params=["limits of all", "limits", "padded", "uneven"])
def way(request, monkeypatch):
    """Each way to find the legal scores, whatever the catalog would suggest."""
    if request.param == "limits":
        monkeypatch.setattr(prefix_lookup, "_FEW_SCORES", 0)
    elif request.param != "limits of all":
        monkeypatch.setattr(prefix_lookup, "_MAX_LIMITS", 0)
    if request.param == "uneven":
        monkeypatch.setattr(prefix_lookup, "_MAX_PADDING", -1)
        monkeypatch.setattr(prefix_lookup, "_MAX_WASTE", 0)
    return request.param


@pytest.fixture(params=["numpy", "bits", "torch"])
def backend(request, monkeypatch):
    """The tables of the CPU, for few and for many prefixes, and those of any other device."""
    monkeypatch.setattr(prefix_lookup, "_has_arrays", lambda device: request.param != "torch")
    if request.param == "bits":
        monkeypatch.setattr(prefix_lookup, "_MAX_SPAN", 0)
        monkeypatch.setattr(prefix_lookup, "_MANY_KEYS", 0)


@pytest.mark.usefixtures("backend", "way")
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("prompt_length", [0, 6])
def test_masks_equal_transformers_prefix_processor(prompt_length, inplace, make_table):
    table = make_table(30, SIZES)
    ours = SemanticIdLogitsProcessor(table, prompt_length=prompt_length, inplace=inplace)
    theirs = PrefixConstrainedLogitsProcessor(trie_function(table, prompt_length), num_beams=1)
    sequences = table.leaf_tokens(torch.arange(table.num_leaves))
    prompts = torch.randint(0, VOCAB_SIZE, (len(sequences), prompt_length))
    for depth in range(len(SIZES)):
        input_ids = torch.cat([prompts, sequences[:, :depth]], dim=-1)
        scores = torch.randn(len(input_ids), VOCAB_SIZE)
        before = scores.clone()
        expected = theirs(input_ids, scores)
        result = ours(input_ids, scores)
        torch.testing.assert_close(result, expected, rtol=0, atol=0)
        assert result is scores if inplace else torch.equal(scores, before)
        # a dead row among them, scores of another type and ones that aren't in one piece
        input_ids[:1, prompt_length:] = VOCAB_SIZE + 5
        expected[: 1 if depth else 0] = -torch.inf
        wide = torch.zeros(len(scores), VOCAB_SIZE + 3)
        wide[:, :VOCAB_SIZE] = before
        torch.testing.assert_close(ours(input_ids, wide[:, :VOCAB_SIZE]), expected, rtol=0, atol=0)
        assert not wide[:, VOCAB_SIZE:].any()
        half = before.to(torch.bfloat16)
        torch.testing.assert_close(ours(input_ids, half), expected.to(torch.bfloat16), rtol=0, atol=0)


@pytest.mark.usefixtures("backend", "way")
def test_scores_of_a_skewed_catalog():
    # one first code with 300 second codes, 40 with one: padding to 300 would be a waste
    codes = torch.tensor([(0, code) for code in range(300)] + [(code, code) for code in range(1, 41)])
    table = PrefixTable(codes, [50, 400])
    input_ids = torch.arange(0, 41).unsqueeze(-1)
    scores = torch.randn(41, 450)
    expected = torch.full_like(scores, -torch.inf)
    for first, second in codes.tolist():
        expected[first, 50 + second] = scores[first, 50 + second]
    torch.testing.assert_close(SemanticIdLogitsProcessor(table, 0)(input_ids, scores), expected, rtol=0, atol=0)


@pytest.mark.usefixtures("way")
def test_gradients_reach_legal_scores_alone(make_table):
    table = make_table(30, SIZES)
    sequences = table.leaf_tokens(torch.arange(table.num_leaves))
    for depth in range(len(SIZES)):
        scores = torch.randn(len(sequences), VOCAB_SIZE, requires_grad=True)
        result = SemanticIdLogitsProcessor(table, prompt_length=0)(sequences[:, :depth], scores)
        legal = result.isfinite()
        result[legal].sum().backward()
        assert torch.equal(scores.grad, legal.float())


def test_logits_that_are_returned_are_left_alone(architecture, make_model, make_prompts, make_table):
    model = make_model(architecture, NUM_CODES)
    prompts = make_prompts(architecture, NUM_CODES)
    prompt_length = 1 if architecture == "t5" else prompts["input_ids"].shape[1]
    processor = SemanticIdLogitsProcessor(make_table(9, SIZES), prompt_length=prompt_length)
    output = model.generate(
        **prompts, logits_processor=[processor], do_sample=True, max_new_tokens=len(SIZES), eos_token_id=None,
        output_logits=True, output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    assert all(logits.isfinite().all() for logits in output.logits)
    assert all(scores.isneginf().any() for scores in output.scores)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("options", "inplace"), [({}, False), ({"renormalize_logits": True}, False), ({"output_logits": True}, True)]
)
def test_generates_as_transformers_prefix_processor(
    architecture, seed, options, inplace, make_model, make_prompts, make_table
):
    model = make_model(architecture, NUM_CODES, seed)
    prompts = make_prompts(architecture, NUM_CODES, seed=seed)
    prompt_length = 1 if architecture == "t5" else prompts["input_ids"].shape[1]
    # with 4 items, 6 beams can't all be filled
    for num_items in (40, 4):
        table = make_table(num_items, SIZES, seed)
        arguments = {
            "num_beams": 6, "num_return_sequences": 6, "max_new_tokens": len(SIZES), "eos_token_id": None,
            "length_penalty": 0.0, "return_dict_in_generate": True, "output_scores": True, **prompts, **options,
        }  # fmt: skip
        processor = SemanticIdLogitsProcessor(table, prompt_length=prompt_length, inplace=inplace)
        ours = model.generate(logits_processor=[processor], **arguments)
        theirs = model.generate(prefix_allowed_tokens_fn=trie_function(table, prompt_length), **arguments)
        assert torch.equal(ours.sequences, theirs.sequences)
        torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores)
        for mine, other in zip(ours.logits or (), theirs.logits or (), strict=True):
            torch.testing.assert_close(mine, other)
        for mine, other in zip(ours.scores, theirs.scores, strict=True):
            torch.testing.assert_close(mine, other)
        # rows beyond the catalog are told apart by their scores; all others are different semantic IDs
        alive = (ours.sequences_scores > -1e8).view(3, 6)
        leaves = table.lookup(ours.sequences[:, prompt_length:]).view(3, 6)
        for row in range(3):
            found = leaves[row][alive[row]].tolist()
            assert len(set(found)) == len(found) == min(6, table.num_leaves) and min(found) >= 0
        assert not ours.sequences_scores.isnan().any()


@pytest.mark.parametrize("do_sample", [False, True])
def test_greedy_search_and_sampling_stay_in_the_catalog(architecture, do_sample, make_model, make_prompts, make_table):
    model = make_model(architecture, NUM_CODES)
    prompts = make_prompts(architecture, NUM_CODES)
    prompt_length = 1 if architecture == "t5" else prompts["input_ids"].shape[1]
    table = make_table(9, SIZES)
    processor = SemanticIdLogitsProcessor(table, prompt_length=prompt_length)
    sequences = model.generate(
        **prompts, logits_processor=[processor], do_sample=do_sample, max_new_tokens=len(SIZES), eos_token_id=None
    )
    assert (table.lookup(sequences[:, prompt_length:]) >= 0).all()


def test_end_token_follows_a_complete_semantic_id_only(architecture, make_model, make_prompts, make_table):
    model = make_model(architecture, NUM_CODES)
    prompts = make_prompts(architecture, NUM_CODES)
    prompt_length = 1 if architecture == "t5" else prompts["input_ids"].shape[1]
    table = make_table(9, SIZES)
    processor = SemanticIdLogitsProcessor(table, prompt_length=prompt_length, eos_token_id=1)
    sequences = model.generate(
        **prompts, logits_processor=[processor], num_beams=4, num_return_sequences=4, max_new_tokens=10
    )
    assert (table.lookup(sequences[:, prompt_length:-1]) >= 0).all()
    assert sequences.shape[1] == prompt_length + len(SIZES) + 1 and (sequences[:, -1] == 1).all()


def test_many_prefixes_are_found_by_their_bits():
    sizes = [256, 16, 256, 256]
    codes = torch.stack([torch.randint(size, (6000,)) for size in sizes], dim=-1)
    codes[:6, :3] = torch.tensor([[0, 0, 0], [0, 0, 63], [0, 0, 64], [0, 0, 127], [255, 15, 254], [255, 15, 255]])
    table = PrefixTable(codes, sizes)
    prefixes = codes[:, :3] + torch.tensor([0, 256, 272])
    others = prefixes + torch.tensor([0, 0, 1])  # mostly no prefixes, and some no codes of this level
    prefixes = torch.cat([prefixes, others, torch.tensor([[-100, 256, 272], [0, 0, 0], [255, 271, 9999]])])
    numbers = {prefix: number for number, prefix in enumerate(sorted(set(map(tuple, prefixes[:6000].tolist()))))}
    nodes, found = table.step_lookup.find(prefixes)
    assert ("bits", 3) in table.step_lookup._cache
    expected = [numbers.get(prefix) for prefix in map(tuple, prefixes.tolist())]
    assert found.tolist() == [number is not None for number in expected]
    assert nodes[found.numpy()].tolist() == [number for number in expected if number is not None]
    assert ((nodes >= 0) & (nodes < len(numbers))).all()  # of those that aren't there, any


def test_illegal_rows_stay_dead():
    table = PrefixTable(torch.tensor([[0, 1, 0], [2, 0, 1]]), [3, 2, 2])
    processor = SemanticIdLogitsProcessor(table, prompt_length=1, eos_token_id=9)
    # an illegal prefix beside a legal one, at every depth; the third goes wrong first and right afterwards
    for illegal, legal in [
        ([1], [2]),
        ([0, 3], [0, 4]),
        ([1, 4], [2, 3]),
        ([2, 3, 5], [2, 3, 6]),
        ([9, 4, 5], [0, 4, 5]),
    ]:
        scores = processor(torch.tensor([[8, *illegal], [8, *legal]]), torch.zeros(2, 10))
        assert scores.isneginf().all(dim=-1).tolist() == [True, False]


def test_refuses_a_batch_without_any_legal_continuation():
    table = PrefixTable(torch.tensor([[0, 1], [2, 0]]), [3, 2])
    processor = SemanticIdLogitsProcessor(table, prompt_length=1)
    with pytest.raises(ValueError, match="No row has a legal continuation after 2 tokens.*max_new_tokens=2"):
        processor(torch.tensor([[8, 0, 4]]), torch.zeros(1, 9))  # complete, and no end token
    with pytest.raises(ValueError, match="No row has a legal continuation after 1 tokens.*prompt_length"):
        processor(torch.tensor([[8, 7]]), torch.zeros(1, 9))
    with pytest.raises(ValueError, match="`prompt_length` is 3"):
        SemanticIdLogitsProcessor(table, prompt_length=3)(torch.tensor([[8, 0]]), torch.zeros(1, 9))
    with pytest.raises(ValueError, match="`prompt_length` must be at least 0"):
        SemanticIdLogitsProcessor(table, prompt_length=-1)
