# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Recommendations per second and latency against users at once: `retrieve`, and `generate` with a prefix function.

    python benchmarks/serving.py                   # T5 and Qwen2, random weights, 100,000 items: about 3 minutes
    python benchmarks/serving.py --items 10000 --users 1 8 --seconds 2

Both give each user the ten items that 20 beams find among semantic IDs of 4 x 256 codes, from histories of 5 to 20
items. Tables, the trie of the prefix function and the tokens of items are made once, before. A request is a batch of
users; requests are made one after another. `generate` is what the field uses: `prefix_allowed_tokens_fn` over a trie
of dicts, as in LETTER's and GENRE's code.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration

from forge_hf import SemanticIdCatalog, SemanticIdTokenizer, retrieve
from forge_hf.evaluation import plot_curves
from forge_hf.generation import PrefixTable
from forge_hf.hub import describe_hardware, write_json
from forge_hf.tokenization import HistoryEncoder


CODEBOOK_SIZES = [256] * 4
NUM_BEAMS, TOP_K = 20, 10


def make_model(kind: str, tokenizer, catalog):
    torch.manual_seed(0)
    shared = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "semantic_id_fingerprint": catalog.fingerprint,
        "tie_word_embeddings": False,
    }
    if kind == "T5":
        config = T5Config(
            d_model=128, d_kv=64, num_heads=6, d_ff=1024, num_layers=4, num_decoder_layers=4,
            decoder_start_token_id=tokenizer.pad_token_id, **shared,
        )  # fmt: skip
        model = T5ForConditionalGeneration(config)
    else:
        config = Qwen2Config(
            hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
            **shared,
        )  # fmt: skip
        model = Qwen2ForCausalLM(config)
    return model.eval()


class PrefixFunction:
    """The tokens that may follow, from a trie of dicts."""

    def __init__(self, items: torch.Tensor, end: int):
        self.trie, self.end, self.levels, self.start = {}, end, items.shape[1], None
        for tokens in items.tolist():
            node = self.trie
            for token in tokens:
                node = node.setdefault(token, {})

    def __call__(self, batch_id: int, tokens: torch.Tensor) -> list[int]:
        node = self.trie
        for token in tokens[self.start :].tolist():
            node = node.get(token, {})
        return list(node) or [self.end]


class WithGenerate:
    """The same service by stock `generate`. Items of the history are taken out of the list afterwards."""

    def __init__(self, model, tokenizer, catalog):
        self.model = model
        self.encode = HistoryEncoder(catalog, tokenizer, model.config.is_encoder_decoder)
        self.allowed = PrefixFunction(self.encode.item_tokens, tokenizer.eos_token_id)
        self.items = dict(zip(map(tuple, self.encode.item_tokens.tolist()), catalog.item_ids, strict=True))
        self.side = "right" if model.config.is_encoder_decoder else "left"

    @torch.no_grad()
    def __call__(self, histories: list) -> list[list[int]]:
        prompts = self.encode(histories)
        pad = torch.nn.utils.rnn.pad_sequence
        input_ids = pad(prompts, True, self.model.config.pad_token_id, self.side)
        mask = pad([torch.ones_like(prompt) for prompt in prompts], True, 0, self.side)
        self.allowed.start = 1 if self.model.config.is_encoder_decoder else input_ids.shape[1]
        levels = self.allowed.levels
        sequences = self.model.generate(
            input_ids=input_ids, attention_mask=mask, num_beams=NUM_BEAMS, num_return_sequences=NUM_BEAMS,
            max_new_tokens=levels, eos_token_id=None, do_sample=False, prefix_allowed_tokens_fn=self.allowed,
        )  # fmt: skip
        found = [self.items[tuple(tokens)] for tokens in sequences[:, -levels:].tolist()]
        lists = [found[start : start + NUM_BEAMS] for start in range(0, len(found), NUM_BEAMS)]
        return [
            [item for item in ranked if item not in set(history)][:TOP_K]
            for ranked, history in zip(lists, histories, strict=True)
        ]


def measure(serve: Callable, requests: list, seconds: float) -> dict[str, float]:
    """Serves requests for some time, at least 3 of them after one that doesn't count."""
    serve(requests[0])
    times = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 200):
        started = time.perf_counter()
        serve(requests[len(times) % len(requests)])
        times.append(time.perf_counter() - started)
    return {
        "requests": len(times),
        "p50_ms": round(1000 * statistics.median(times), 1),
        "p95_ms": round(1000 * float(np.quantile(times, 0.95)), 1),
        "recommendations_per_second": round(len(times) * len(requests[0]) * TOP_K / sum(times), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement, if that makes 3 requests")
    parser.add_argument("--results", default="results")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    # Distinct semantic IDs: 4 codes of 256 are the 4 bytes of a number.
    numbers = rng.choice(2**32, args.items, replace=False).astype("<u4")
    codes = numbers.view(np.uint8).reshape(-1, 4).astype(np.int64)
    catalog = SemanticIdCatalog.from_codes(
        list(range(args.items)), codes, codebook_sizes=CODEBOOK_SIZES, on_collision="keep"
    )
    tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    result = {
        "command": " ".join(["python", "benchmarks/serving.py", *sys.argv[1:]]),
        "setting": f"{args.items:,} items, 4 x 256 codes, {NUM_BEAMS} beams, {TOP_K} items a user, histories of 5 to "
        "20 items, T5 4 + 4 layers of 128, Qwen2 4 layers of 256, random weights, float32",
        "hardware": describe_hardware(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "models": {kind: measure_model(kind, tokenizer, catalog, args, rng) for kind in ("T5", "Qwen2")},
    }
    write_json(Path(args.results, "serving.json"), result)
    panels = []
    for key, title in (("recommendations_per_second", "Items recommended a second"), ("p95_ms", "p95 latency, ms")):
        curves = {
            f"{kind}, {name}": ([row["users"] for row in rows], [row[name][key] for row in rows])
            for kind, rows in result["models"].items()
            for name in ("retrieve", "generate")
        }
        panels.append({"curves": curves, "title": title, "xlabel": "Users at once", "log": "xy"})
    plot_curves(panels, Path(args.results, "serving.png"))


def measure_model(kind: str, tokenizer, catalog, args: argparse.Namespace, rng: np.random.Generator) -> list[dict]:
    model = make_model(kind, tokenizer, catalog)
    table, generate = PrefixTable.from_catalog(catalog, tokenizer), WithGenerate(model, tokenizer, catalog)

    def ours(histories: list, **options):
        return retrieve(
            model, tokenizer, catalog, histories, top_k=TOP_K, num_beams=NUM_BEAMS, prefix_table=table, **options
        )

    rows = []
    for users in args.users:
        requests = [
            [rng.integers(0, args.items, rng.integers(5, 21)).tolist() for _ in range(users)] for _ in range(8)
        ]
        stages = [ours(request, timings=True).timings for request in requests]
        row = {
            "users": users,
            "retrieve": measure(ours, requests, args.seconds),
            "generate": measure(generate, requests, args.seconds),
            "median_ms_of_stages": {
                stage: round(statistics.median(timings[stage] for timings in stages), 2) for stage in stages[0]
            },
            "same_lists": agreement(ours(requests[0]).item_ids, generate(requests[0])),
        }
        row["speedup_p50"] = round(row["generate"]["p50_ms"] / row["retrieve"]["p50_ms"], 1)
        print(kind, json.dumps(row), flush=True)
        rows.append(row)
    return rows


def agreement(lists: list, others: list) -> float:
    """Share of items that both lists of a user hold."""
    shared = [len(set(items) & set(other)) / len(items) for items, other in zip(lists, others, strict=True)]
    return round(statistics.mean(shared), 4)


if __name__ == "__main__":
    main()
