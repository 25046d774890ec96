# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Dealing with collisions: seconds and memory of each strategy, and of `knn` against a plain loop over pairs.

    python benchmarks/collisions.py --output results/collisions.json
    python benchmarks/collisions.py --items 1e6 --output results/collisions.json

Codes are synthetic, of 3 levels of 8192. Semantic IDs are drawn from a power law, so that a few hold hundreds of items
and `overflow` of all items are over the capacity; neighbouring ranks share a prefix, so that crowded semantic IDs have
crowded neighbours. The last level is a line with its codes at whole numbers; an item lies within half a step of its
code, and its candidates are the codes nearest to it there. Making candidates is timed apart (`candidates_s`, part of
`seconds`): with a model it is what encoding takes. Every cell runs in a process of its own, for its peak memory;
`without_gb` is the peak before collisions are dealt with, which holds the codes.

The loop goes through all pairs of an item that must move and a candidate, sorted by distance, and must give the same
codes. It runs on the smaller sizes (`--loop`).
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from forge_hf.hub import describe_hardware, describe_versions, write_then_rename
from forge_hf.semantic_ids import SemanticIdLayout, collision_rate
from forge_hf.semantic_ids.collisions import append_suffix, move_to_nearest, move_to_random


LAYOUT = SemanticIdLayout([8192] * 3)
SIZE = LAYOUT.codebook_sizes[-1]
STRATEGIES = ("suffix", "random", "knn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", nargs="+", type=float, default=[1e5, 1e6, 1e7])
    parser.add_argument("--loop", type=float, default=1e5, help="the largest number of items that the loop gets")
    parser.add_argument("--num_candidates", type=int, default=200)
    parser.add_argument("--capacity", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()

    cells = []
    processes = multiprocessing.get_context("spawn")
    for count in map(int, args.items):
        for strategy in (*STRATEGIES, *(["loop"] if count <= args.loop else [])):
            with ProcessPoolExecutor(1, mp_context=processes) as pool:
                cell = pool.submit(measure, strategy, count, args.capacity, args.num_candidates).result()
            print(cell, flush=True)
            cells.append(cell)
    if args.output:
        result = {
            "command": " ".join(["python", "benchmarks/collisions.py", *sys.argv[1:]]),
            "hardware": describe_hardware(),
            "versions": describe_versions(),
            "shape": "3x8192",
            "capacity": args.capacity,
            "num_candidates": args.num_candidates,
            "cells": cells,
        }
        lines = [f"    {json.dumps(cell)}" for cell in result.pop("cells")]
        head = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in result.items())
        text = "{\n" + head + ',\n  "cells": [\n' + ",\n".join(lines) + "\n  ]\n}\n"
        write_then_rename(args.output, lambda path: path.write_text(text, encoding="utf-8"))


def measure(strategy: str, count: int, capacity: int, num_candidates: int) -> dict:
    torch.set_num_threads(1)
    codes = synthetic_codes(count)
    _, loads = np.unique((codes[:, 0] * SIZE + codes[:, 1]) * SIZE + codes[:, 2], return_counts=True)
    cell = {
        "items": count,
        "strategy": strategy,
        "overflow": round(float(np.maximum(loads - capacity, 0).sum() / count), 3),
        "max_load": int(loads.max()),
        "without_gb": peak_gb(),
    }
    candidates = LineCandidates(codes, num_candidates)
    started = time.perf_counter()
    if strategy == "suffix":
        resolved = append_suffix(codes, LAYOUT)[0]
    elif strategy == "random":
        resolved = move_to_random(codes, LAYOUT, capacity)
    else:
        resolved = move_to_nearest(codes, LAYOUT, candidates, capacity)
    cell["seconds"] = round(time.perf_counter() - started, 2)
    if strategy in ("knn", "loop"):
        cell |= {"asked": sum(map(len, candidates.asked)), "candidates_s": round(candidates.seconds, 2)}
    if strategy == "loop":
        seconds = by_loop(codes, resolved, candidates, capacity)
        # What making candidates takes isn't the strategy's.
        ratio = seconds / (cell["seconds"] - candidates.seconds)
        cell |= {"seconds": round(seconds, 2), "loop / knn": round(ratio, 1)}
    return cell | {"peak_gb": peak_gb(), "collision_rate": round(collision_rate(resolved), 4)}


def synthetic_codes(count: int) -> torch.Tensor:
    generator = np.random.default_rng(0)
    ranks = (count / 4 * generator.random(count) ** 1.5).astype(np.int64)
    prefixes = ranks // 16 * 48_271 % SIZE**2  # 16 semantic IDs of neighbouring ranks share a prefix
    last = (ranks * 2_654_435_761 >> 7) % SIZE
    return torch.from_numpy(np.stack([prefixes // SIZE, prefixes % SIZE, last], axis=1))


class LineCandidates:
    """The codes nearest to items that lie on a line, within half a step of their own code."""

    def __init__(self, codes: torch.Tensor, num_candidates: int):
        self.codes, self.num_candidates = codes, num_candidates
        self.asked, self.seconds = [], 0.0

    def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        started = time.perf_counter()
        shift = (rows * 2_654_435_761 % 2**20).float()[:, None] / 2**20 - 0.5
        # Nearest first: 0, 1, -1, 2, -2, ... to the right of the code, mirrored to the left of it.
        steps = (
            torch.arange(1, self.num_candidates + 1)
            // 2
            * torch.tensor([-1, 1]).repeat(self.num_candidates)[: self.num_candidates]
        )
        steps = torch.where(shift >= 0, steps, -steps)
        # The line is closed to a ring, so that every code has neighbours on both sides.
        candidates = (self.codes[rows, -1:] + steps) % SIZE
        distances = (steps - shift).square()
        self.asked.append(rows)
        self.seconds += time.perf_counter() - started
        return candidates, distances


def by_loop(codes: torch.Tensor, resolved: torch.Tensor, candidates: LineCandidates, capacity: int) -> float:
    """Seconds of the loop over pairs, once who stays is known; its codes must be `resolved`."""
    moving = torch.cat(candidates.asked).sort().values
    choices, distances = candidates(moving)
    started = time.perf_counter()
    stays = torch.ones(len(codes), dtype=torch.bool)
    stays[moving] = False
    load = Counter(map(tuple, codes[stays].tolist()))
    pairs = sorted(
        (distance, row, code)
        for row, nearest, codes_of_row in zip(moving.tolist(), distances.tolist(), choices.tolist(), strict=True)
        for distance, code in zip(nearest, codes_of_row, strict=True)
    )
    expected, moved, table = codes.clone(), set(), codes.tolist()
    for _, row, code in pairs:
        place = (table[row][0], table[row][1], code)
        if row not in moved and load[place] < capacity:
            load[place] += 1
            moved.add(row)
            expected[row, -1] = code
    seconds = time.perf_counter() - started
    if not torch.equal(expected, resolved):
        raise SystemExit("The loop gives other codes.")
    return seconds


def peak_gb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


if __name__ == "__main__":
    main()
