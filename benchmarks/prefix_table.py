# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
The prefix table and the logits processor: bytes an item, seconds to build, and what one step of constraining costs.

    python benchmarks/prefix_table.py --static PATH --output results/prefix_table.json
    python benchmarks/prefix_table.py --shapes 3x8192 --build 1e8    # one large table and no steps: about 8 GB

Steps are measured for every catalog size, number of rows and level, on random catalogs and legal prefixes, over the
same float32 scores of (rows, vocabulary):

- `add`: `scores + mask` with the mask at hand, which no constraint can have: the yardstick;
- `ours`, `in place`: the logits processor, which looks prefixes up anew; without and with `inplace=True`;
- `children`: what our beam search does instead: legal children only, of nodes that it carries along;
- `static`, `static*`: a step of STATIC (https://github.com/youtube/static-constraint-decoding, of which `--static` is
  a copy), over states that it carries along. Up to its second level it masks all scores, as a processor does. From the
  third on it gives the scores of legal children, as `children` does; `static*` puts them back among all others, as a
  processor must.

Milliseconds of one thread's CPU time, medians; all of a cell are measured in turn. With glibc's default allocator a
large tensor that is made anew costs more than all else; `MALLOC_MMAP_MAX_=0 MALLOC_TOP_PAD_=1000000000` turns that
off.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from forge_hf.generation import PrefixTable, SemanticIdLogitsProcessor
from forge_hf.hub import describe_hardware, describe_versions, write_then_rename


SHAPES = {"3x8192": (8192,) * 3, "4x256": (256,) * 4}
FIRST_TOKEN = 2  # tokens before the codes, such as those for padding and for the end
METHODS = ("add", "ours", "in place", "children", "static", "static*")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--static", type=Path, help="copy of youtube/static-constraint-decoding")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--items", nargs="+", type=float, default=[1e4, 1e5, 1e6])
    parser.add_argument("--rows", nargs="+", type=int, default=[20, 160, 2048])
    parser.add_argument("--build", nargs="*", type=float, default=[1e6, 1e7], help="sizes of tables that are built")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if "--build" in sys.argv and "--items" not in sys.argv:
        args.items = []
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)

    tables = [measure_table(shape, int(count)) for shape in args.shapes for count in args.build]
    steps = []
    for shape in args.shapes:
        for count in map(int, args.items):
            print(f"\n{shape}, {count:,} items; ms\nrows  level  " + "".join(f"{name:>10}" for name in METHODS))
            with torch.inference_mode():
                steps += measure_steps(shape, count, args)
    if args.output:
        result = {
            "command": " ".join(["python", "benchmarks/prefix_table.py", *sys.argv[1:]]).replace(
                str(args.static), "PATH"
            ),
            "malloc": {key: value for key, value in os.environ.items() if key.startswith("MALLOC_")},
            "hardware": describe_hardware(),
            "versions": describe_versions(),
            "unit": f"milliseconds of CPU time of one thread, medians of {args.repeats}",
            "tables": tables,
            "steps": steps,
        }
        write_then_rename(args.output, lambda path: path.write_text(as_lines(result), encoding="utf-8"))


def random_codes(sizes: tuple[int, ...], count: int) -> torch.Tensor:
    codes = torch.empty(count, len(sizes), dtype=torch.int64)
    for level, size in enumerate(sizes):
        codes[:, level].random_(size)
    return codes


def make_table(codes: torch.Tensor, sizes: tuple[int, ...]) -> PrefixTable:
    return PrefixTable(codes, sizes, torch.arange(sum(sizes)) + FIRST_TOKEN)


def measure_table(shape: str, count: int) -> dict:
    """Builds, saves, loads and restricts one table."""
    sizes = SHAPES[shape]
    codes = random_codes(sizes, count)
    seconds, table = cpu_seconds(lambda: make_table(codes, sizes))
    rows = torch.randperm(count)[: count // 10]
    cell = {
        "shape": shape,
        "items": count,
        "build_s": round(seconds, 3),
        "bytes_per_item": round(table.num_bytes / count, 2),
        "bytes_per_item_without_rows": round((table.num_bytes - table.num_items * 4) / count, 2),
    }
    with tempfile.TemporaryDirectory() as folder:
        cell["save_s"] = round(cpu_seconds(lambda: table.save_pretrained(folder))[0], 3)
        started = time.perf_counter()
        table = PrefixTable.from_pretrained(folder)
        cell["load_s"] = round(time.perf_counter() - started, 4)
        cell["leaves_of_first_s"] = round(cpu_seconds(lambda: table.leaves_of(rows[:1]))[0], 3)
        cell["restrict_to_a_tenth_s"] = round(cpu_seconds(lambda: table.restrict(rows))[0], 3)
    cell["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print(cell, flush=True)
    return cell


def cpu_seconds(call: Callable) -> tuple[float, object]:
    started = time.thread_time()
    result = call()
    return time.thread_time() - started, result


def measure_steps(shape: str, count: int, args: argparse.Namespace) -> list[dict]:
    sizes = SHAPES[shape]
    codes = random_codes(sizes, count)
    offsets = torch.tensor([FIRST_TOKEN + sum(sizes[:level]) for level in range(len(sizes))])
    vocab_size = FIRST_TOKEN + sum(sizes)
    table = make_table(codes, sizes)
    static = Static(args.static, codes + offsets, vocab_size) if args.static else None
    processors = {
        "ours": SemanticIdLogitsProcessor(table, prompt_length=1),
        "in place": SemanticIdLogitsProcessor(table, prompt_length=1, inplace=True),
    }
    cells = []
    for rows in args.rows:
        scores = torch.randn(rows, vocab_size).log_softmax(-1)
        mask = torch.zeros(rows, vocab_size)
        chosen = (codes + offsets)[torch.randint(count, (rows,))]
        for depth in range(len(sizes)):
            input_ids = torch.cat([torch.zeros(rows, 1, dtype=torch.int64), chosen[:, :depth]], dim=-1)
            nodes = table.lookup(chosen[:, :depth])
            calls = {"add": lambda scores=scores, mask=mask: scores + mask}
            for name, processor in processors.items():
                calls[name] = lambda scores=scores, ids=input_ids, processor=processor: processor(ids, scores)
            calls["children"] = lambda scores=scores, nodes=nodes, depth=depth: score_children(
                table, depth, nodes, scores
            )
            if static:
                step = static.step(depth, chosen, scores)
                calls |= {"static": step[0], "static*": step[1]}
                expected = processors["ours"](input_ids, scores)
                if not torch.equal(step[1](), expected):
                    raise SystemExit(f"{shape}, {count:,} items, level {depth + 1}: STATIC's scores are others.")
            # `in place` comes last in its turn and gets its scores back: what it leaves behind is cheaper to read.
            times = measure(calls, scores, args.repeats)
            cell = {"shape": shape, "items": count, "rows": rows, "level": depth + 1, **times}
            cells.append(cell)
            print(
                f"{rows:4d}  {depth + 1:5d}  " + "".join(f"{times.get(name, 0):10.4f}" for name in METHODS), flush=True
            )
    return cells


def score_children(table: PrefixTable, depth: int, nodes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    children = table.children(depth, nodes)
    return scores.gather(-1, children.tokens).masked_fill_(~children.legal, -torch.inf)


def measure(calls: dict[str, Callable], scores: torch.Tensor, repeats: int) -> dict[str, float]:
    """Median milliseconds of each call."""
    original = scores.clone()
    started = time.thread_time()
    calls["add"]()
    count = max(1, min(200, int(0.004 / (time.thread_time() - started))))
    times = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            started = time.thread_time()
            for _ in range(count):
                call()
            times[name].append((time.thread_time() - started) / count * 1e3)
            if name == "in place":
                scores.copy_(original)
    return {name: round(statistics.median(values[1:]), 4) for name, values in times.items()}


class Static:
    """STATIC's index of the same tokens, and its steps as its own decoding loop takes them."""

    def __init__(self, path: Path, tokens: torch.Tensor, vocab_size: int):
        sys.path.insert(0, str(path))
        from static_decoding.csr_utils import build_static_index
        from static_decoding.decoding_pt import generate_and_apply_logprobs_mask

        self.apply = generate_and_apply_logprobs_mask
        tokens = tokens.numpy()
        sorted_tokens = tokens[np.lexsort(tokens.T[::-1])]
        csr, starts, self.branches, *dense = build_static_index(sorted_tokens, vocab_size)
        self.csr, self.starts = torch.from_numpy(csr), torch.from_numpy(starts)
        self.start_mask, self.dense_mask, self.dense_states = map(torch.from_numpy, dense)
        self.vocab_size, self.device = vocab_size, torch.device("cpu")

    def step(self, depth: int, chosen: torch.Tensor, scores: torch.Tensor) -> tuple[Callable, Callable]:
        """The step after `depth` tokens, and the same with scores of the whole vocabulary as its result."""
        if depth == 0:
            call = lambda: torch.where(self.start_mask, scores, torch.tensor(-float("inf")))  # noqa: E731
            return call, call
        states = chosen[:, 0] + 1
        if depth == 1:

            def call():
                masks = self.dense_mask[(states - 1).long()]
                return torch.where(masks, scores, torch.tensor(-float("inf")))

            return call, call
        states = self.dense_states[chosen[:, 0], chosen[:, 1]]
        for token in chosen[:, 2:depth].T:
            following = [
                self.csr[first:last][self.csr[first:last, 0] == code, 1].item()
                for first, last, code in zip(
                    self.starts[states.long()], self.starts[states.long() + 1], token, strict=True
                )
            ]
            states = torch.tensor(following, dtype=states.dtype)

        def sparse():
            return self.apply(
                scores, states, self.csr, self.starts, self.branches[depth], self.vocab_size, self.device
            )

        def dense():
            values, tokens, _ = sparse()
            # Places past a row's children hold other rows' tokens: they go to a column that is cut off.
            tokens = tokens.long().masked_fill_(values.isneginf(), self.vocab_size)
            full = torch.full((len(scores), self.vocab_size + 1), -torch.inf)
            return full.scatter_(-1, tokens, values)[:, :-1]

        return sparse, dense


def as_lines(result: dict) -> str:
    """JSON with one line a cell."""
    parts = []
    for key, value in result.items():
        if isinstance(value, list):
            value = "[\n" + ",\n".join(f"    {json.dumps(cell)}" for cell in value) + "\n  ]"
        else:
            value = json.dumps(value)
        parts.append(f"  {json.dumps(key)}: {value}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    main()
