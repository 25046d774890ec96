# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Predicts semantic IDs for every row of a test set, writes them in FORGE's form, and prints FORGE's hit rates.

With an untrained model on a generated market, in seconds on a CPU: `python examples/predict_gr.py --tiny`.

On AL-GR's test rows (`system`, `user`, and in `answer` the items that came next), with a folder or Hub repository that
holds a model, its tokenizer and its catalog, and with beams that widen level by level:

    python examples/predict_gr.py --model runs/gr --rows test_data/s1_tiny_test.csv --output runs/gr/output.jsonl \
        --num_beams 300 600 1200

On several processes, which share the rows. After a kill, the same command goes on where it stopped;
a file that is complete is only scored:

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 examples/predict_gr.py --tiny
"""

import argparse
import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from datasets import Dataset

from forge_hf import SemanticIdCatalog, create_retriever, load_retriever
from forge_hf.data import MalformedRows, SyntheticMarket, leave_one_out, read_text_rows
from forge_hf.evaluation import hit_rate_of_predictions, predict_to_jsonl
from forge_hf.hub import Shards
from forge_hf.tokenization import PromptEncoder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or repository of a model, its tokenizer and its catalog")
    parser.add_argument("--rows", help="file of test rows, or a dataset of the Hub together with --data_file")
    parser.add_argument("--data_file", help="file in a dataset of the Hub, such as test_data/s1_tiny_test.csv")
    parser.add_argument("--output", help="JSONL file to write")
    parser.add_argument("--num_beams", type=int, nargs="+", default=[100], help="one width, or one for each level")
    parser.add_argument("--batch_size", type=int, default=16, help="rows that a process searches at once")
    parser.add_argument("--max_source_length", type=int, default=1024, help="tokens of a prompt")
    parser.add_argument("--ks", type=int, nargs="+", default=[20, 100, 500, 1000])
    parser.add_argument("--max_malformed_rate", type=float, default=0.01, help="share of bad rows that stops the run")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="an untrained model on a generated market")
    args = parser.parse_args()
    if not args.tiny and not (args.model and args.rows and args.output):
        parser.error("give --model, --rows and --output, or --tiny")
    return args


def tiny_retriever_and_rows():
    """An untrained model, and test rows of the form of AL-GR's."""
    market = SyntheticMarket(num_items=200, num_users=100)
    codes = [[row // 20, row % 20] for row in range(market.num_items)]
    catalog = SemanticIdCatalog.from_codes(market.item_ids, codes, codebook_sizes=[10, 20], on_collision="keep")
    set_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    model, tokenizer = create_retriever("qwen2-small", catalog, **sizes)
    test = leave_one_out(market.sequences)["test"]
    users = ["".join(catalog.layout.to_text(catalog.codes_for(history))) for history in test["history"]]
    return (model, tokenizer, catalog), Dataset.from_dict({"user": users, "answer": test["target"][:]})


def main():
    args = parse_args()

    # 1. The processes that share the rows, the retriever, and the rows.
    accelerator = Accelerator()
    if args.tiny:
        (model, tokenizer, catalog), rows = tiny_retriever_and_rows()
        args.output = args.output or broadcast_object_list([f"{tempfile.mkdtemp()}/output.jsonl"])[0]
    else:
        dtype = torch.bfloat16 if args.bf16 else torch.float32
        model, tokenizer, catalog = load_retriever(args.model, dtype=dtype)
        rows = read_text_rows(f"hf://datasets/{args.rows}/{args.data_file}" if args.data_file else args.rows)
    model.to(accelerator.device).eval()

    # 2. Predict; every process takes its share.
    is_encoder_decoder = model.config.is_encoder_decoder
    encoder = PromptEncoder(tokenizer, catalog.layout, is_encoder_decoder, max_source_length=args.max_source_length)
    is_finished = Path(args.output).exists()
    accelerator.wait_for_everyone()  # all see the same
    num_beams = args.num_beams if len(args.num_beams) > 1 else args.num_beams[0]
    if is_finished:
        with open(args.output, "rb") as file:
            num_lines = sum(1 for _ in file)
        if num_lines != len(rows):
            raise SystemExit(
                f"{args.output} has {num_lines:,} lines, which aren't those of {len(rows):,} rows. Remove it."
            )
        if accelerator.is_main_process:
            Shards.remove(args.output)  # of a run that was killed at its very end
        accelerator.print(f"{args.output} is complete: it's only scored. Remove it to predict anew.")
    else:
        predict_to_jsonl(
            model, tokenizer, catalog, rows, args.output,
            num_beams=num_beams, batch_size=args.batch_size, encoder=encoder,
            malformed=MalformedRows(max_rate=args.max_malformed_rate, source="the test rows"),
        )  # fmt: skip

    # 3. FORGE's hit rates.
    if accelerator.is_main_process:
        print(f"{len(rows):,} rows, {accelerator.num_processes} processes: {Path(args.output)}")
        for name, value in hit_rate_of_predictions(args.output, catalog, args.ks).items():
            print(f"{name} {value:.4f}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
