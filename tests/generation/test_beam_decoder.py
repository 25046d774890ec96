# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""How beams are held: which models share their prompt, what that costs, and that the model stays as it is."""

import threading

import peft
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from forge_hf.generation import beam_decoder, beam_search, code_head, constrained_beam_search, shared_prompt
from forge_hf.generation.beam_decoder import BeamDecoder


SIZES = [6, 5, 4]
NUM_CODES = sum(SIZES)
SMALL = {
    "vocab_size": 19, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
SMALL_T5 = {
    "vocab_size": 19, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


@pytest.fixture
def decoders(monkeypatch):
    """Collects the decoders that searches make."""
    made = []

    class Recorded(BeamDecoder):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(beam_search, "BeamDecoder", Recorded)
    return made


def unshared(search, monkeypatch):
    """The result of a search whose beams are held a cache row each."""
    with monkeypatch.context() as patch:
        patch.setattr(BeamDecoder, "_can_share", lambda self: False)
        return search()


@pytest.mark.parametrize("reads_all", [True, False], ids=["all tokens of the row", "own ancestors"])
def test_shared_equals_repeated(architecture, reads_all, make_model, make_prompts, make_table, monkeypatch, decoders):
    model, table = make_model(architecture, NUM_CODES), make_table(60, SIZES)
    if not reads_all:
        monkeypatch.setattr(shared_prompt.SharedPrompt, "_seen", lambda self, parents, ancestors: None)
    prompts = make_prompts(architecture, NUM_CODES)

    def search():
        return constrained_beam_search(model, **prompts, prefix_table=table, num_beams=[3, 11, 8])

    shared, repeated = search(), unshared(search, monkeypatch)
    assert [decoder.shared is not None for decoder in decoders] == [True, False]
    assert torch.equal(shared.leaves, repeated.leaves)
    torch.testing.assert_close(shared.scores, repeated.scores, atol=1e-4, rtol=0)
    # a few beams at once
    monkeypatch.setattr(beam_decoder, "PART_BEAMS", 4)
    in_parts = search()
    assert torch.equal(shared.leaves, in_parts.leaves)
    torch.testing.assert_close(shared.scores, in_parts.scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("model_class", "config", "is_shared"),
    [
        (MT5ForConditionalGeneration, MT5Config(**SMALL_T5), True),
        (UMT5ForConditionalGeneration, UMT5Config(**SMALL_T5), True),  # a position bias in every layer
        (CohereForCausalLM, CohereConfig(**SMALL), True),  # scales its logits
        (Gemma2ForCausalLM, Gemma2Config(head_dim=8, **SMALL), False),  # sliding windows
        (
            Gemma2ForCausalLM,  # caps its logits, and its attention's
            Gemma2Config(head_dim=8, layer_types=["full_attention"] * 2, attn_implementation="eager", **SMALL),
            False,
        ),
        (
            DeepseekV3ForCausalLM,  # caches latents, not keys and values
            DeepseekV3Config(
                kv_lora_rank=8,
                q_lora_rank=8,
                qk_rope_head_dim=4,
                qk_nope_head_dim=4,
                v_head_dim=8,
                n_group=1,
                topk_group=1,
                first_k_dense_replace=2,
                **SMALL | {"num_key_value_heads": 4},
            ),
            False,
        ),
        (BloomForCausalLM, BloomConfig(vocab_size=19, hidden_size=32, n_layer=2, n_head=4), False),  # ALiBi
    ],
)
def test_other_models_equal_generate(
    model_class, config, is_shared, make_prompts, make_table, generate_constrained, decoders
):
    torch.manual_seed(0)
    model, table = model_class(config).eval(), make_table(60, SIZES)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(5)  # spread scores
    prompts = make_prompts("t5" if config.is_encoder_decoder else "qwen2", NUM_CODES)
    output = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8)
    sequences, scores = generate_constrained(model, table, 8, **prompts)
    assert (decoders[0].shared is not None) == is_shared
    assert torch.equal(output.sequences, sequences)
    torch.testing.assert_close(output.scores, scores, atol=3e-4, rtol=0)


def test_fused_attention_may_lay_out_its_result_as_it_likes(
    architecture, make_model, make_prompts, make_table, monkeypatch
):
    model, table = make_model(architecture, NUM_CODES), make_table(60, SIZES)
    prompts = make_prompts(architecture, NUM_CODES)
    expected = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8)
    attend = torch.nn.functional.scaled_dot_product_attention

    def as_on_cuda(*inputs, **options):
        return attend(*inputs, **options).transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", as_on_cuda)
    output = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8)
    assert torch.equal(output.leaves, expected.leaves)
    torch.testing.assert_close(output.scores, expected.scores, atol=1e-5, rtol=0)


def test_a_model_without_attention_registry_falls_back(make_model, make_prompts, make_table, monkeypatch, decoders):
    model, table, prompts = make_model("qwen2", NUM_CODES), make_table(60, SIZES), make_prompts("qwen2", NUM_CODES)

    def search():
        return constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8)

    expected = unshared(search, monkeypatch)
    # the model says it attends through the registry, but its layers never get there
    monkeypatch.setattr(shared_prompt.SharedPrompt, "is_complete", False)
    output = search()
    assert decoders[1].shared is None
    assert torch.equal(output.leaves, expected.leaves) and torch.equal(output.scores, expected.scores)


def test_a_model_with_a_replaced_forward_is_run_as_it_is(architecture, make_model, make_prompts, make_table, decoders):
    model, table = make_model(architecture, NUM_CODES), make_table(60, SIZES)
    prompts = make_prompts(architecture, NUM_CODES)
    expected = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8)
    for module, is_viewed in [(model.get_output_embeddings(), True), (model.get_decoder(), False)]:
        calls, forward = [], module.forward
        # a closure over the module
        module.forward = lambda *inputs, calls=calls, forward=forward, **named: (
            calls.append(1) or forward(*inputs, **named)
        )
        output = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8)
        assert (decoders[-1].view is not None) == is_viewed and len(calls) >= 3
        assert torch.equal(output.leaves, expected.leaves)
        torch.testing.assert_close(output.scores, expected.scores, atol=1e-4, rtol=0)


@pytest.fixture
def bf16_accelerator():
    """An accelerator of this test alone: there is one state a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="bf16", cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_model_prepared_for_mixed_precision_shares_its_prompt(
    architecture, make_model, make_prompts, make_table, decoders, bf16_accelerator
):
    model, table = make_model(architecture, NUM_CODES), make_table(60, SIZES)
    prompts = make_prompts(architecture, NUM_CODES)
    exact = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=60)
    model = bf16_accelerator.prepare_model(model, evaluation_mode=True)
    assert "forward" in vars(model)  # what `Trainer` leaves behind, too
    in_bf16 = constrained_beam_search(model, **prompts, prefix_table=table, num_beams=60)
    unwrapped = bf16_accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    output = constrained_beam_search(unwrapped, **prompts, prefix_table=table, num_beams=60)
    assert all(decoder.shared is not None for decoder in decoders)
    assert torch.equal(output.leaves, exact.leaves) and torch.equal(output.scores, exact.scores)
    # every item has a beam: the same ones in another order, whose scores are off by the rounding of bf16
    by_leaf = [found.scores.gather(1, found.leaves.argsort(dim=1)) for found in (exact, in_bf16)]
    is_found = by_leaf[0].isfinite()
    assert torch.equal(by_leaf[1].isfinite(), is_found)
    assert 0 < (by_leaf[0] - by_leaf[1])[is_found].abs().max() < 0.5


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.shape = torch.Size([0])

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= tensor.nbytes:
                self.shape = max(self.shape, tensor.shape, key=torch.Size.numel)
        return result


def test_no_tensor_of_beams_times_prompt_states_or_vocabulary(
    architecture, make_model, make_prompts, make_table, monkeypatch, decoders
):
    monkeypatch.setattr(code_head, "BLOCK_LOGITS", 1 << 12)
    monkeypatch.setattr(code_head, "BLOCK_NUMBERS", 1 << 12)
    users, beams, length, sizes = 2, 32, 150, [64, 2400, 600]
    model, table = make_model(architecture, sum(sizes)), make_table(500, sizes)
    prompts = make_prompts(architecture, sum(sizes), lengths=(length, length - 20))
    with LargestTensor() as largest:
        constrained_beam_search(model, **prompts, prefix_table=table, num_beams=beams)
    heads, dim = (4, 8) if architecture == "t5" else (2, 8)
    assert largest.shape.numel() < users * beams * heads * length * dim  # keys of the prompt, a copy for each beam
    assert largest.shape.numel() < users * beams * model.config.vocab_size
    # what is kept from step to step: a row of keys a user
    shared, cache = decoders[0].shared, decoders[0].cache
    assert all(len(keys) == len(values) == users for keys, values in shared.layers)
    if architecture == "t5":
        assert all(layer.keys.shape == (users, heads, length, dim) for layer in cache.cross_attention_cache.layers)
    own = [keys.shape for step in shared.steps for keys, _ in step.values()]
    assert own == [(users, heads, beams, dim)] * 4  # 2 layers, 2 steps


def test_wide_beams_do_not_see_each_other(architecture, make_model, make_prompts, make_table, monkeypatch):
    monkeypatch.setattr(beam_decoder, "PART_BEAMS", 100)
    sizes = [40, 40, 2]
    model, table = make_model(architecture, sum(sizes)), make_table(3200, sizes)
    prompts = make_prompts(architecture, sum(sizes), lengths=(5,))
    with LargestTensor() as largest:
        constrained_beam_search(model, **prompts, prefix_table=table, num_beams=1000)
    assert largest.shape.numel() < 1000 * 120  # nothing of beams times beams


def test_leaves_the_model_as_it_was(architecture, make_model, make_prompts, make_table):
    model, table = make_model(architecture, NUM_CODES), make_table(60, SIZES)
    prompts = make_prompts(architecture, NUM_CODES)
    before = [(module, dict(vars(module)), type(module)) for module in model.modules()]
    config = model.config.to_dict()
    constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8)
    assert [(module, dict(vars(module)), type(module)) for module in model.modules()] == before
    assert model.config.to_dict() == config and model.config._attn_implementation == "sdpa"


def test_threads_may_share_a_model(architecture, make_model, make_prompts, make_table, generate_constrained):
    model, table = make_model(architecture, NUM_CODES), make_table(60, SIZES)
    prompts = make_prompts(architecture, NUM_CODES)

    def search():
        return constrained_beam_search(model, **prompts, prefix_table=table, num_beams=8).scores

    def generate():
        return generate_constrained(model, table, 8, **prompts)[1]

    jobs = [search, generate, search]
    expected, results = [job() for job in jobs], [[] for _ in jobs]
    threads = [
        threading.Thread(target=lambda job=job, found=found: found.extend(job() for _ in range(5)))
        for job, found in zip(jobs, results, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found, scores in zip(results, expected, strict=True):
        assert len(found) == 5 and all(torch.equal(again, scores) for again in found)


# peft 0.21 asks transformers 5.23 for a property by its old name
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize(
    ("options", "tie"),
    [
        ({"target_modules": "all-linear"}, True),
        ({"target_modules": ["q", "v", "q_proj", "v_proj", "lm_head"]}, False),
        ({"target_modules": ["q", "q_proj"], "modules_to_save": ["lm_head"]}, False),
        ({"target_modules": ["q", "q_proj"], "trainable_token_indices": [4, 5, 9]}, True),
        ({"target_modules": ["q", "q_proj"], "trainable_token_indices": [4, 5, 9]}, False),
    ],
    ids=["linear", "head", "saved-head", "tied-tokens", "tokens"],
)
def test_adapters(architecture, options, tie, make_model, make_prompts, make_table, generate_constrained, decoders):
    model, table = make_model(architecture, NUM_CODES, tie_word_embeddings=tie), make_table(60, SIZES)
    prompts = make_prompts(architecture, NUM_CODES)
    kind = "SEQ_2_SEQ_LM" if architecture == "t5" else "CAUSAL_LM"
    tuned = peft.get_peft_model(model, peft.LoraConfig(task_type=kind, init_lora_weights=False, **options)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "modules_to_save" in name or "token_adapter" in name:
                weight.normal_(std=0.5)
    output = constrained_beam_search(tuned, **prompts, prefix_table=table, num_beams=8)
    assert decoders[0].shared is not None
    sequences, scores = generate_constrained(tuned, table, 8, **prompts)
    assert torch.equal(output.sequences, sequences)
    torch.testing.assert_close(output.scores, scores, atol=3e-4, rtol=0)
