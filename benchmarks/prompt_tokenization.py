# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Rows of text to tokens: `PromptEncoder` beside FORGE's way, row by row; and the memory of a stream.

    python benchmarks/prompt_tokenization.py --output results/prompt_tokenization.json

Rows are generated in AL-GR's form: histories of 100 items, 3x8192. The tokenizers are of T5's and Qwen2.5's kind,
trained on a sentence, with 24,576 codes added. FORGE calls the tokenizer on every text of a row, and joins lists; here
that is written out. One thread; both ways take turns, medians of processor time; they must give the same ids.

For memory a CSV file is streamed into padded batches, as a training reads it, in a process of its own.
"""

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from transformers import Qwen2Tokenizer, T5Tokenizer

from forge_hf.hub import describe_hardware, describe_versions, write_json
from forge_hf.semantic_ids import SemanticIdLayout
from forge_hf.tokenization import PromptEncoder, extend_tokenizer
from forge_hf.training import PromptCollator, PromptStream


LAYOUT = SemanticIdLayout([8192] * 3)
SYSTEM = "你是一个推荐系统，根据用户的历史行为，预测用户的下一步行为。每个行为用三个词表示。"
BEFORE, AFTER = "当前用户的历史行为如下：", "，请预测用户后续行为的语义编码"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--items", type=int, nargs="+", default=[10, 100], help="items of a history")
    parser.add_argument("--batch_size", type=int, default=1000, help="rows that are tokenized at once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=320, help="size of the file that is streamed; 0 for none")
    parser.add_argument("--stream", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.stream:
        print(json.dumps(measure_stream(args.stream)))
        return
    tokenization = [measure(name, items, args) for name in ("t5", "qwen2.5") for items in args.items]
    result = {
        "command": " ".join(["python", "benchmarks/prompt_tokenization.py", *sys.argv[1:]]),
        "hardware": describe_hardware(),
        "versions": describe_versions(),
        "unit": f"microseconds of processor time a row, medians of {args.repeats}",
        "tokenization": tokenization,
    }
    if args.megabytes:
        result["stream"] = stream_file(args.megabytes)
    if args.output:
        write_json(args.output, result)


def make_rows(count: int, items: int, seed: int = 0) -> dict[str, list[str]]:
    codes = np.random.default_rng(seed).integers(0, 8192, (count * (items + 1), 3))
    texts = LAYOUT.to_text(codes)
    users = ["".join(texts[row * items : (row + 1) * items]) for row in range(count)]
    return {
        "system": [SYSTEM] * count,
        "user": [f"{BEFORE}{user}{AFTER}" for user in users],
        "answer": texts[count * items :],
    }


def make_tokenizer(name: str) -> T5Tokenizer | Qwen2Tokenizer:
    corpus = [BEFORE, AFTER, SYSTEM, "system user assistant"] * 3
    if name == "t5":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        special = {"special_tokens": ["<pad>", "</s>", "<unk>"], "unk_token": "<unk>"}
        backend.train_from_iterator(corpus, trainers.UnigramTrainer(vocab_size=200, show_progress=False, **special))
        vocab = [tuple(piece) for piece in json.loads(backend.to_str())["model"]["vocab"]]
        return extend_tokenizer(T5Tokenizer(vocab=vocab), LAYOUT)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(corpus, trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    vocab = {**backend.get_vocab(), "<|endoftext|>": backend.get_vocab_size()}
    merges = [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, chat_template=TEMPLATE)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"})
    return extend_tokenizer(tokenizer, LAYOUT)


def row_by_row(tokenizer, name: str, row: dict[str, str]) -> tuple[list[int], list[int]]:
    """A row as FORGE tokenizes it: one call of the tokenizer for every text."""
    eos = tokenizer.eos_token_id
    if name == "t5":
        source = tokenizer(row["user"].strip(), max_length=1024, truncation=True, return_attention_mask=False)
        target = tokenizer(
            row["answer"].strip(),
            max_length=32,
            truncation=True,
            return_attention_mask=False,
            add_special_tokens=False,
        )
        return source["input_ids"], (target["input_ids"] + [eos])[:32]
    start, end, newline = (tokenizer(text).input_ids for text in ("<|im_start|>", "<|im_end|>", "\n"))
    system, user, assistant = (tokenizer(role).input_ids + newline for role in ("system", "user", "assistant"))
    prompt = start + system + tokenizer(row["system"]).input_ids + end + newline
    prompt += start + user + tokenizer(row["user"]).input_ids[:1024] + end + newline + start + assistant
    answer = tokenizer(row["answer"]).input_ids[:32]
    ignored = [-100] * (len(end) + len(newline))
    return prompt + answer + end + newline + [eos], [-100] * len(prompt) + answer + ignored + [eos]


def measure(name: str, items: int, args: argparse.Namespace) -> dict:
    tokenizer, rows = make_tokenizer(name), make_rows(args.rows, items)
    encoder = PromptEncoder(tokenizer, LAYOUT, is_encoder_decoder=name == "t5")

    def ours() -> list:
        examples = []
        for start in range(0, args.rows, args.batch_size):
            batch = {column: texts[start : start + args.batch_size] for column, texts in rows.items()}
            examples += encoder.encode_examples(batch)
        return examples

    def theirs() -> list:
        columns = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        return [row_by_row(tokenizer, name, row) for row in columns]

    times: dict[str, list[float]] = {"ours": [], "row by row": []}
    for _ in range(args.repeats + 1):
        started = time.thread_time()
        examples = ours()
        times["ours"].append((time.thread_time() - started) / args.rows * 1e6)
        started = time.thread_time()
        expected = theirs()
        times["row by row"].append((time.thread_time() - started) / args.rows * 1e6)
    for example, other in zip(examples, expected, strict=True):
        if (example[0].tolist(), example[1].tolist()) != (list(other[0]), list(other[1])):
            raise SystemExit(f"{name}: the ids differ.")
    medians = {way: round(statistics.median(values[1:]), 1) for way, values in times.items()}
    faster = round(medians["row by row"] / medians["ours"], 1)
    cell = {"tokenizer": name, "items": items, "rows": args.rows, **medians, "times_faster": faster}
    print(cell, flush=True)
    return cell


def stream_file(megabytes: int) -> dict:
    """Writes a file, and has another process stream it."""
    with tempfile.TemporaryDirectory() as folder:
        path, block = Path(folder, "rows.csv"), make_rows(2000, 100)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(block)
            while file.tell() < megabytes * 1e6:
                writer.writerows(zip(*block.values(), strict=True))
        command = [sys.executable, __file__, "--stream", str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    cell = json.loads(done.stdout.splitlines()[-1])
    print(cell, flush=True)
    return cell


def measure_stream(path: Path) -> dict:
    """One epoch of a file, in batches; memory of the process before, and its peak after each tenth of the file."""
    tokenizer = make_tokenizer("qwen2.5")
    encoder = PromptEncoder(tokenizer, LAYOUT, is_encoder_decoder=False)
    encoder.encode_examples(make_rows(1000, 100))
    rows = load_dataset("csv", data_files=str(path), split="train", streaming=True)
    before = peak_megabytes()
    examples, collate = PromptStream(rows, encoder), PromptCollator(tokenizer.pad_token_id)
    count, peaks, seconds = 0, [], time.perf_counter()
    with path.open("rb") as file:
        total = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")) - 1
    for batch in DataLoader(examples, batch_size=80, collate_fn=collate):
        count += len(batch["input_ids"])
        if count >= total * (len(peaks) + 1) / 10:
            peaks.append(peak_megabytes())
        if count >= total:
            break
    return {
        "file_megabytes": round(path.stat().st_size / 1e6),
        "rows": total,
        "shuffle_buffer": examples.buffer_size,
        "rows_per_second": round(total / (time.perf_counter() - seconds)),
        "peak_megabytes_before": before,
        "peak_megabytes_after_each_tenth": peaks,
    }


def peak_megabytes() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
