# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Speed and memory of `constrained_beam_search` beside `generate`, with our logits processor and with a prefix function.

    python benchmarks/beam_search.py                        # all cases, written to results/beam_search.json
    python benchmarks/beam_search.py --cases t5-batch --output t5-batch.json

Models are random, catalogs are uniform random codes, one thread, the default allocator. The ways of a case take turns
in one process; the median of their processor times is reported. Memory is what the process grows by at most while it
searches for the first time.
"""

import argparse
import ctypes
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration

from forge_hf.generation import PrefixTable, SemanticIdLogitsProcessor, constrained_beam_search
from forge_hf.hub import describe_hardware, write_json


FIRST_CODE = 2
T5 = {"num_layers": 4, "d_model": 128, "num_heads": 6, "d_kv": 64, "d_ff": 1024}
QWEN2 = {
    "num_hidden_layers": 4, "hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 512,
}  # fmt: skip
QWEN2_500M = {  # the layers of Qwen2.5-0.5B, 2 of 24: `generate` takes minutes for more
    "num_hidden_layers": 2, "hidden_size": 896, "num_attention_heads": 14, "num_key_value_heads": 2,
    "intermediate_size": 4864, "tie_word_embeddings": True,
}  # fmt: skip
# model, codebooks, items, users, beams, tokens of a history; rounds, of which the first
# isn't timed if there are more
CASES = {
    "t5-batch": (T5, [8192] * 3, 100_000, 64, 32, 61, 3),
    "t5-batch-256-codes": (T5, [256] * 4, 100_000, 64, 32, 81, 2),
    "t5-one-user": (T5, [8192] * 3, 100_000, 1, 10, 61, 31),
    "qwen2-batch": (QWEN2, [8192] * 3, 100_000, 2, 50, 240, 6),
    "qwen2-one-user": (QWEN2, [8192] * 3, 100_000, 1, 10, 60, 31),
    "qwen2.5-0.5b-layers": (QWEN2_500M, [8192] * 3, 100_000, 1, 100, 600, 1),
}


def make_case(name):
    settings, sizes, num_items, users, beams, length, _ = CASES[name]
    torch.manual_seed(0)
    vocab_size = FIRST_CODE + sum(sizes)
    if "d_model" in settings:
        config = T5Config(vocab_size=vocab_size, decoder_start_token_id=0, **settings)
        model = T5ForConditionalGeneration(config)
    else:
        config = Qwen2Config(vocab_size=vocab_size, eos_token_id=1, pad_token_id=0, **settings)
        model = Qwen2ForCausalLM(config)
    codes = torch.stack([torch.randint(size, (num_items,)) for size in sizes], dim=-1)
    table = PrefixTable(codes, sizes, torch.arange(sum(sizes)) + FIRST_CODE)
    inputs = {
        "input_ids": torch.randint(FIRST_CODE, vocab_size, (users, length)),
        "attention_mask": torch.ones(users, length, dtype=torch.int64),
    }
    return model.eval(), table, inputs, beams


def make_ways(name):
    """The ways to search, by name: each is a function that gives the scores, of shape (users, beams)."""
    model, table, inputs, beams = make_case(name)
    prompt_length = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]

    def ours():
        return constrained_beam_search(model, **inputs, prefix_table=table, num_beams=beams).scores

    def generate(**constraint):
        output = model.generate(
            **inputs, num_beams=beams, num_return_sequences=beams, max_new_tokens=table.num_levels, eos_token_id=None,
            length_penalty=0.0, do_sample=False, return_dict_in_generate=True, output_scores=True, **constraint,
        )  # fmt: skip
        return output.sequences_scores.view(-1, beams)

    def with_processor():
        return generate(logits_processor=[SemanticIdLogitsProcessor(table, prompt_length)])

    ways = {"beam_search": ours, "generate_processor": with_processor}
    if CASES[name][-1] > 1:
        trie = {}
        for tokens in table.leaf_tokens(torch.arange(table.num_leaves)).tolist():
            node = trie
            for token in tokens:
                node = node.setdefault(token, {})

        def allowed(_, input_ids):
            node = trie
            for token in input_ids[prompt_length:].tolist():
                node = node.get(token, {})
            return list(node) or [0]

        ways["generate_prefix_function"] = lambda: generate(prefix_allowed_tokens_fn=allowed)
    return ways


def measure(name, rounds):
    ways = make_ways(name)
    scores, seconds, peaks = {}, {way: [] for way in ways}, {}
    for _ in range(rounds):
        for way, search in ways.items():
            if way not in peaks:
                ctypes.CDLL(None).malloc_trim(0)  # give back what the way before has left
                Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
                size = status("VmRSS")
            start = time.process_time()
            scores[way] = search()
            seconds[way].append(time.process_time() - start)
            peaks.setdefault(way, status("VmHWM") - size)
    medians = {way: statistics.median(values[1:] or values) for way, values in seconds.items()}
    ours, others = scores["beam_search"], [way for way in ways if way != "beam_search"]
    return {
        "milliseconds": {way: round(1000 * value, 1) for way, value in medians.items()},
        "peak_megabytes": {way: round(value / 1024, 1) for way, value in peaks.items()},
        "times_faster_than": {way: round(medians[way] / medians["beam_search"], 2) for way in others},
        "times_less_memory_than": {way: round(peaks[way] / peaks["beam_search"], 1) for way in others},
        "largest_score_difference": max(float((values - ours).abs().max()) for values in scores.values()),
    }


def status(key):
    """A figure of this process, in kB, by the kernel's name for it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "results" / "beam_search.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "command": "python benchmarks/beam_search.py",
        "hardware": describe_hardware(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "cases": {},
    }
    for name in arguments.cases:
        settings, sizes, num_items, users, beams, length, rounds = CASES[name]
        case = {
            "model": settings, "codebook_sizes": sizes, "num_items": num_items, "users": users, "beams": beams,
            "history_tokens": length,
        }  # fmt: skip
        figures = measure(name, rounds)
        result["cases"][name] = case | figures
        sys.stderr.write(f"{name}: {json.dumps(figures)}\n")
    write_json(arguments.output, result)


if __name__ == "__main__":
    main()
