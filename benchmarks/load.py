# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
A large catalog under load: how long it takes to load and to answer, what processes share, and whether memory grows.

    python benchmarks/load.py --requests 500 --output results/load.json    # 10 million items: minutes, 8 GB
    python benchmarks/load.py --ids int --requests 10000 --output results/load_requests.json    # a quarter of an hour
    python benchmarks/load.py --items 1e5 --requests 500                   # a minute

Random catalogs of 3 x 8192 codes, with integer ids and with strings, and a Qwen2 of one small layer with its prefix
table, are saved once. Then, for both kinds of ids:

- load: seconds of a fresh process until the catalog is there (every byte of it checked), until it has answered
  `codes_for` and `items_for`, and until `load_retriever` and the first `retrieve` are done; medians of `--repeats`
  processes. `cold` is the first of them, with the files put out of the system's page cache before.
- share: `--processes` processes with the same folder, each of which has answered requests: what they have of the
  mapped files in memory (RSS), what that is when pages are divided among those that have them (PSS), and what isn't
  shared (anonymous).
- requests: `--requests` of them, of ten kinds (top_k, num_beams, exclude, candidates, drawing), by one caller, by
  threads and by processes: requests per second, memory after every tenth of them, and whether the answers are those
  of a single caller.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils.logging import disable_progress_bar

from forge_hf import SemanticIdCatalog, SemanticIdLayout, SemanticIdTokenizer, load_retriever, retrieve
from forge_hf.generation import PrefixTable
from forge_hf.hub import describe_hardware, describe_versions, write_json


SIZES = [8192] * 3
FILES = ("semantic_ids.safetensors", "prefix_table.safetensors")
KINDS = 10  # of requests
DIFFERENT = 200  # requests, which are repeated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=float, default=1e7)
    parser.add_argument("--ids", nargs="+", choices=("int", "str"), default=["int", "str"])
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the retrievers are kept, to be used again")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        cells = []
        for kind in args.ids:
            folder = (args.folder or Path(temporary)) / f"{kind}_{int(args.items)}"
            if not (folder / FILES[1]).exists():
                in_process(make_retriever, folder, kind, int(args.items))
            cells.append(measure(folder, kind, args))
            print(json.dumps(cells[-1], indent=2), flush=True)
    if args.output:
        result = {
            "command": " ".join(["python", "benchmarks/load.py", *without_folder(sys.argv[1:])]),
            "hardware": describe_hardware(),
            "versions": describe_versions(),
            "items": int(args.items),
            "codebook_sizes": SIZES,
            "results": cells,
        }
        write_json(args.output, result)


def without_folder(arguments: list[str]) -> list[str]:
    """Where the files were kept says nothing to a reader."""
    if "--folder" not in arguments:
        return arguments
    place = arguments.index("--folder")
    return arguments[:place] + arguments[place + 2 :]


def make_retriever(folder: Path, kind: str, count: int) -> None:
    generator = np.random.default_rng(0)
    ids = generator.permutation(count).tolist()
    if kind == "str":
        ids = [f"item{number:08d}" for number in ids]
    catalog = SemanticIdCatalog(ids, generator.integers(0, 8192, (count, 3)), SemanticIdLayout(SIZES))
    tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        semantic_id_fingerprint=catalog.fingerprint,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    # The table goes last: it says that the folder is whole.
    for part in (model, tokenizer, catalog, PrefixTable.from_catalog(catalog, tokenizer)):
        part.save_pretrained(folder)


def measure(folder: Path, kind: str, args: argparse.Namespace) -> dict:
    put_out_of_cache(folder)
    runs = [in_process(time_loading, folder) for _ in range(args.repeats + 1)]
    seconds = {name: round(statistics.median(run[name] for run in runs[1:]), 3) for name in runs[0]}
    sizes = {name: (folder / name).stat().st_size / 2**20 for name in FILES}
    cell = {
        "ids": kind,
        "file_mib": {name: round(size, 1) for name, size in sizes.items()},
        "load_s": seconds | {"cold": runs[0]},
        "share": in_processes(hold, args.processes, folder),
    }
    expected = in_process(answer_all, folder, min(DIFFERENT, args.requests))
    cell["requests"] = [
        in_process(serve, folder, args.requests, 1, expected),
        in_process(serve, folder, args.requests, args.threads, expected),
        *in_processes(serve, args.processes, folder, args.requests // args.processes, 1, expected),
    ]
    return cell


def put_out_of_cache(folder: Path) -> None:
    for name in FILES:
        file = os.open(folder / name, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def time_loading(folder: Path) -> dict[str, float]:
    """Seconds, each from the start of loading; imports don't count."""
    seconds, started = {}, time.perf_counter()

    def done(name: str) -> None:
        seconds[name] = round(time.perf_counter() - started, 3)

    catalog = SemanticIdCatalog.from_pretrained(folder)
    done("catalog")
    items = catalog.item_ids_at([0, 7, len(catalog) - 1])
    codes = catalog.codes_for(items)
    done("codes_for")
    found = catalog.items_for(codes)
    done("items_for")
    if not all(item in others for item, others in zip(items, found, strict=True)):
        raise SystemExit(f"Items {items} aren't among those of their own codes, {found}.")
    del catalog
    started = time.perf_counter()
    retriever = load_retriever(folder)
    done("retriever")
    retrieve(*retriever, [items], top_k=10, num_beams=10)
    done("first_retrieve")
    started = time.perf_counter()
    retrieve(*retriever, [items], top_k=10, num_beams=10)
    done("next_retrieve")
    return seconds


def requests(catalog: SemanticIdCatalog, count: int) -> list[tuple[list, dict]]:
    generator = np.random.default_rng(1)
    some = catalog.item_ids_at(generator.integers(0, len(catalog), 500))
    todo = []
    for number in range(count):
        options = [
            {},
            {"top_k": 5, "num_beams": 5},
            {"top_k": 20, "num_beams": [5, 10, 20]},
            {"exclude": some[:200], "num_beams": 10},
            {"exclude": [some[200 + number % 100 :]], "num_beams": 10},
            {"candidates": some, "top_k": 3, "num_beams": 10},
            {"temperature": 1.0, "seed": number, "top_k": 5},
            {"exclude_history": False, "num_beams": 10},
            {"max_history": 3, "num_beams": 10},
            {"timings": True, "num_beams": 10},
        ][number % KINDS]
        todo.append(([catalog.item_ids_at(generator.integers(0, len(catalog), 1 + number % 8))], options))
    return todo


def answer(retriever: tuple, request: tuple[list, dict]) -> tuple:
    result = retrieve(*retriever, request[0], **request[1])
    return result.item_ids, result.scores


def answer_all(folder: Path, count: int) -> list[tuple]:
    """What one caller gets, by the table that it has built itself."""
    model, tokenizer, catalog = load_retriever(folder)
    catalog.folder = None
    return [answer((model, tokenizer, catalog), request) for request in requests(catalog, count)]


def serve(folder: Path, count: int, num_threads: int, expected: list[tuple]) -> dict:
    retriever = load_retriever(folder)
    todo = requests(retriever.catalog, len(expected))
    memory, different = [], 0

    def is_as_alone(number: int) -> bool:
        place = number % len(todo)
        return answer(retriever, todo[place]) == expected[place]

    with ThreadPoolExecutor(num_threads) as pool:
        sum(pool.map(is_as_alone, range(min(count, KINDS * 5))))  # what is made at first use is made
        started = time.perf_counter()
        for tenth in range(10):
            part = range(tenth * count // 10, (tenth + 1) * count // 10)
            different += len(part) - sum(pool.map(is_as_alone, part))
            memory.append(round(memory_of_self()["Rss"] / 2**10, 1))
        seconds = time.perf_counter() - started
    return {
        "threads": num_threads,
        "requests": count,
        "per_s": round(count / seconds, 1),
        "different_answers": different,
        "rss_mib": memory,
    }


def hold(folder: Path, ready, go) -> dict:
    """Memory of a process that has answered, while all of them have."""
    retriever = load_retriever(folder)
    for request in requests(retriever.catalog, KINDS):
        answer(retriever, request)
    ready.wait()
    whole, mapped = memory_of_self(), {"Rss": 0, "Pss": 0, "Anonymous": 0}
    name = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, *values = line.split()
        if not key.endswith(":"):
            name = Path(values[-1]).name if len(values) > 4 else None
        elif name in FILES and key[:-1] in mapped:
            mapped[key[:-1]] += int(values[0])
    go.wait()
    return {
        "files_rss_mib": round(mapped["Rss"] / 2**10, 1),
        "files_pss_mib": round(mapped["Pss"] / 2**10, 1),
        "files_copied_mib": round(mapped["Anonymous"] / 2**10, 1),
        "anonymous_mib": round(whole["Anonymous"] / 2**10, 1),
    }


def memory_of_self() -> dict[str, int]:
    """kB, as `smaps_rollup` has them."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def in_process(function, *arguments):
    """The result of a call in a fresh process."""
    return in_processes(function, 1, *arguments)[0]


def in_processes(function, count: int, *arguments) -> list:
    context = multiprocessing.get_context("spawn")
    if function is hold:
        arguments = (*arguments, context.Barrier(count), context.Barrier(count))
    receivers, processes = [], []
    for _ in range(count):
        receiver, sender = context.Pipe(duplex=False)
        processes.append(context.Process(target=_send, args=(sender, function, arguments)))
        processes[-1].start()
        sender.close()
        receivers.append(receiver)
    results = [receiver.recv() for receiver in receivers]
    for process in processes:
        process.join()
    return results


def _send(sender, function, arguments) -> None:
    torch.set_num_threads(1)
    disable_progress_bar()
    sender.send(function(*arguments))


if __name__ == "__main__":
    main()
