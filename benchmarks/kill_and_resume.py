# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Kills the training scripts at random moments, runs the same command again, and compares the end with that of a run
that nobody disturbed.

    python benchmarks/kill_and_resume.py      # all cases, written to results/kill_and_resume.json as they end
    python benchmarks/kill_and_resume.py --cases t5 --kills 3 --output t5.json

Each run is a process (or two) forked from this one, which has done nothing but import, and runs
`examples/train_rqvae.py` or `examples/train_gr.py` as its main program. It gets SIGKILL, or SIGTERM one time in four,
after a random share of the time that the undisturbed run took, so that a kill may come before the first step, in the
midst of a checkpoint's write, or after the last step. Of two processes, both get SIGKILL, or one of them SIGTERM. A
case that the output has already isn't run again.
"""

import argparse
import csv
import ctypes
import json
import math
import os
import random
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import faiss  # noqa: F401  (imported here, not in each process)
import peft  # noqa: F401
import torch
from safetensors.torch import load_file, save_file

from forge_hf import RetrievalTrainer, RQVAETrainer, SemanticIdCatalog, SyntheticMarket  # noqa: F401
from forge_hf.hub import describe_hardware, describe_versions, write_json
from forge_hf.training import TERMINATED_EXIT_CODE
from forge_hf.training.checkpoints import last_checkpoint


ROOT = Path(__file__).parents[1]
RQVAE = "train_rqvae.py --embeddings items.safetensors --item_ids item_ids.json --codebook_sizes 16 16 --batch_size 20"
PAIRS = "--preset forge --hidden_sizes 64 32 --sequences sequences.txt --num_train_epochs 3"
GR = "train_gr.py --catalog catalog --max_steps 30 --evals 5 --eval_users 20 --num_beams 10"
MAP, STREAM = "--sequences sequences.txt", "--rows rows.csv --streaming --no-bf16"
CASES = {
    "rqvae": (f"{RQVAE} --preset tiger --num_train_epochs 7", 1),
    "rqvae-ema": (f"{RQVAE} --num_train_epochs 7", 1),
    "rqvae-pairs": (f"{RQVAE} {PAIRS}", 1),
    "t5": (f"{GR} --model t5-tiger {MAP} --batch_size 48", 1),
    "t5-stream": (f"{GR} --model t5-tiger {STREAM} --batch_size 16", 1),
    "qwen2": (f"{GR} --model qwen2-small --batch_size 16 {MAP}", 1),
    "qwen2-stream": (f"{GR} --model qwen2-small --batch_size 16 {STREAM}", 1),
    "qwen2-lora": (f"{GR} --model qwen2-small --batch_size 16 --lora_rank 4 {MAP}", 1),
    "qwen2-lora-stream": (f"{GR} --model qwen2-small --batch_size 16 --lora_rank 4 {STREAM}", 1),
    "rqvae-ema-2": (f"{RQVAE} --num_train_epochs 7", 2),
    "rqvae-pairs-2": (f"{RQVAE} {PAIRS}", 2),
    "t5-2": (f"{GR} --model t5-tiger {MAP} --batch_size 48", 2),
    "qwen2-stream-2": (f"{GR} --model qwen2-small --batch_size 16 {STREAM}", 2),
    "qwen2-lora-2": (f"{GR} --model qwen2-small --batch_size 16 --lora_rank 4 {MAP}", 2),
}


def shown(name: str) -> str:
    return f"python examples/{CASES[name][0]}"


def make_data(folder: Path) -> None:
    """A small market, as the files that users bring."""
    market = SyntheticMarket(num_items=300, num_users=200, seed=1)
    number = {item: row + 1 for row, item in enumerate(market.item_ids)}
    sequences = [[number[item] for item in items] for items in market.sequences["items"]]
    save_file({"embeddings": torch.from_numpy(market.embeddings)}, folder / "items.safetensors")
    (folder / "item_ids.json").write_text(json.dumps(list(number.values())))
    lines = [" ".join(map(str, [user + 1, *items])) for user, items in enumerate(sequences)]
    (folder / "sequences.txt").write_text("\n".join(lines) + "\n")
    codes = [[row // 20, row % 20] for row in range(300)]
    catalog = SemanticIdCatalog.from_codes(list(number.values()), codes, codebook_sizes=[15, 20], on_collision="keep")
    catalog.save_pretrained(folder / "catalog")
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["system", "user", "answer"])
        for items in sequences:
            texts = catalog.layout.to_text(catalog.codes_for(items))
            writer.writerow(["", "".join(texts[:-1]), texts[-1]])


def fork(work: Path, command: str, output_dir: str, rank: int = 0, num_processes: int = 1, port: int = 0) -> int:
    """Starts a script in a process of its own, and gives its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # die with the parent
        log = os.open(work / f"{output_dir}.{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(work)
        torch.set_num_threads(1)
        if num_processes > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in names.items()})
            os.environ.update(MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="true")
        script, *arguments = command.split()
        sys.argv = [script, *arguments, "--output_dir", output_dir]
        runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
        code = 0
    except SystemExit as exit_:
        code = exit_.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def run(work: Path, command: str, num_processes: int, output_dir: str, seconds: float = 1e9, sends: int = 0) -> list:
    """Runs a script until it ends, sends it a signal after some seconds, and gives the exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [fork(work, command, output_dir, rank, num_processes, port) for rank in range(num_processes)]
    codes: dict[int, int] = {}
    end = time.monotonic() + seconds
    while len(codes) < num_processes:
        time.sleep(0.005)
        for process in set(processes) - codes.keys():
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                codes[process] = os.waitstatus_to_exitcode(status)
        left = [process for process in processes if process not in codes]
        if set(codes.values()) - {0, TERMINATED_EXIT_CODE}:
            end, sends = 0, signal.SIGKILL  # as a launcher does when one of its processes dies
        if time.monotonic() > end:
            for process in left[:1] if sends == signal.SIGTERM else left:
                os.kill(process, sends)
            end = float("inf")
    return [codes[process] for process in processes]


def read_outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list, dict]:
    """Weights of the last step and of what was saved, the log without times, and the best checkpoint's record."""
    last = last_checkpoint(folder)
    state = json.loads((last / "trainer_state.json").read_text())
    names = {"model.safetensors", "adapter_model.safetensors"}
    weights = {
        f"{path.parent.name == last.name} {name}": weight
        for path in (*last.iterdir(), *folder.iterdir())
        if path.name in names
        for name, weight in load_file(path).items()
    }
    log = [
        {name: value for name, value in entry.items() if not name.endswith(("_runtime", "_per_second"))}
        for entry in state["log_history"]
    ]
    return weights, log, {k: v for k, v in state.items() if k.startswith("best_g")}


def describe_place(folder: Path, last_step: int) -> str:
    """Where a kill came, by what it left."""
    aside = folder / ".incomplete"
    if aside.exists() and any(aside.iterdir()):
        return "in a checkpoint's write"
    if (checkpoint := last_checkpoint(folder)) is None:
        return "before the first checkpoint"
    return "after the last step" if checkpoint.name == f"checkpoint-{last_step}" else "between two checkpoints"


def largest_difference(actual, expected) -> float:
    """Of weights, or of numbers of a log; infinite if they are of different things."""
    if isinstance(expected, torch.Tensor):
        return (actual.double() - expected.double()).abs().max().item() if actual.shape == expected.shape else math.inf
    if isinstance(expected, dict) and isinstance(actual, dict) and actual.keys() == expected.keys():
        return max((largest_difference(actual[name], expected[name]) for name in expected), default=0.0)
    if isinstance(expected, list) and isinstance(actual, list) and len(actual) == len(expected):
        return max(map(largest_difference, actual, expected), default=0.0)
    if isinstance(expected, float) and isinstance(actual, float):
        return abs(actual - expected)
    return 0.0 if actual == expected else math.inf


def measure(name: str, num_kills: int, work: Path, generator: random.Random) -> dict:
    """Kills a case so many times, up to three times a run, and compares the ends."""
    command, num_processes = CASES[name]
    start = time.monotonic()
    if any(run(work, command, num_processes, name)):
        raise RuntimeError((work / f"{name}.0.log").read_text()[-4000:])
    duration = time.monotonic() - start
    expected = read_outcome(work / name)
    last_step = expected[1][-1]["step"]
    places, codes, differences, kills, ended = Counter(), Counter(), [], 0, 0
    while kills < num_kills:
        output_dir = f"{name}-killed-{ended}"
        for attempt in range(4):
            seconds, sends = generator.uniform(0, duration), generator.choice([9, 9, 9, 15])
            limits = (seconds, sends) if attempt < 3 and kills < num_kills else ()
            exits = run(work, command, num_processes, output_dir, *limits)
            if not any(exits):
                break
            # One of two may be done already.
            if not limits or not set(exits) <= {0, -9, -15, TERMINATED_EXIT_CODE}:
                raise RuntimeError(f"{exits} " + (work / f"{output_dir}.0.log").read_text()[-4000:])
            kills += 1
            places[describe_place(work / output_dir, last_step)] += 1
            codes.update([str(max(exits, key=abs))])
        actual = read_outcome(work / output_dir)
        differences.append([largest_difference(a, b) for a, b in zip(actual, expected, strict=True)])
        shutil.rmtree(work / output_dir)
        ended += 1
    weights, log, best = (max(column) for column in zip(*differences, strict=True))
    return {
        "case": name,
        "command": shown(name),
        "num_processes": num_processes,
        "num_steps": last_step,
        "seconds": round(time.monotonic() - start),
        "kills": kills,
        "runs_compared": ended,
        "places": dict(places),
        "exit_codes": dict(codes),
        "largest_difference": {"weights": weights, "log": log, "best_checkpoint": best},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--kills", type=int, default=15, help="of each case")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "kill_and_resume.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {
        "command": f"python benchmarks/kill_and_resume.py --kills {args.kills} --seed {args.seed}",
        "hardware": describe_hardware(),
        "versions": describe_versions(),
    }
    results = {}
    if args.output.exists():
        report = json.loads(args.output.read_text())
        if {name: report[name] for name in settings} == settings:
            results = {
                result["case"]: result for result in report["results"] if result["command"] == shown(result["case"])
            }
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if (process := os.fork()) == 0:  # this process itself starts no threads
            make_data(work)
            os._exit(0)
        os.waitpid(process, 0)
        print(f"{'case':18} {'processes':>9} {'kills':>5} {'in a write':>10}  largest difference (weights, log, best)")
        for name in args.cases:
            if name not in results:
                results[name] = measure(name, args.kills, work, random.Random(f"{args.seed} {name}"))
                ordered = [results[case] for case in CASES if case in results]
                report = settings | {"kills": sum(result["kills"] for result in ordered), "results": ordered}
                write_json(args.output, report)
            result = results[name]
            row = result["num_processes"], result["kills"], result["places"].get("in a checkpoint's write", 0)
            found = ", ".join(f"{value:.2g}" for value in result["largest_difference"].values())
            print(f"{name:18} {row[0]:9} {row[1]:5} {row[2]:10}  {found}", flush=True)


if __name__ == "__main__":
    main()
