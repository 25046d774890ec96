# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Scores a generative retriever on what users did next, beside the baselines that it has to beat.

With an untrained model on a small generated market: `python examples/evaluate_gr.py --tiny`.

With a folder or Hub repository that holds a model, its tokenizer and its catalog, and sequences in any form that
`read_sequences` reads. `--embeddings` adds the neighbours of the last item, `--output` writes all numbers as JSON. The
model's folder keeps the numbers, too, for the card that is made of it when it's pushed:

    python examples/evaluate_gr.py --model runs/gr --sequences sequences.txt --embeddings items.parquet

On several processes, which share the users:

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 examples/evaluate_gr.py --tiny
"""

import json
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers import HfArgumentParser, pipeline

from forge_hf import RetrievalEvaluator, SemanticIdCatalog, create_retriever
from forge_hf.data import ItemEmbeddings, SyntheticMarket, leave_one_out, read_sequences
from forge_hf.evaluation import NearestNeighborsBaseline, PopularityBaseline, RandomBaseline, evaluate_rankings
from forge_hf.hub import add_scores, describe_scores, write_json


@dataclass
class ScriptArguments:
    model: str | None = field(default=None, metadata={"help": "Folder or repository: model, tokenizer and catalog."})
    sequences: str | None = field(default=None, metadata={"help": "A file, a folder, or a dataset of the Hub."})
    embeddings: str | None = field(default=None, metadata={"help": "Item embeddings, for the neighbours."})
    item_ids: str | None = field(default=None, metadata={"help": "JSON list of their item ids, where they have none."})
    tiny: bool = field(default=False, metadata={"help": "An untrained model on a generated market."})
    split: str = field(default="test", metadata={"help": "`test` (last items) or `validation` (those before)."})
    output: str | None = field(default=None, metadata={"help": "JSON file for all numbers."})
    num_beams: int = field(default=50, metadata={"help": "Width of the beam search."})
    batch_size: int = field(default=64, metadata={"help": "Users that a process searches at once."})


def write_tiny_files(folder: Path):
    """A market, and an untrained model whose semantic IDs are category, style and a suffix."""
    market = SyntheticMarket(num_items=200, num_users=100)
    columns = ("leaf_category", "style")
    codes = np.stack([np.unique(market.items[column], return_inverse=True)[1] for column in columns], axis=1)
    catalog = SemanticIdCatalog.from_codes(market.item_ids, codes, codebook_sizes=(codes.max(axis=0) + 1).tolist())
    torch.manual_seed(0)
    for part in (*create_retriever("qwen2-small", catalog, num_hidden_layers=1), catalog):
        part.save_pretrained(folder / "gr")
    market.sequences.to_parquet(folder / "sequences.parquet")
    np.save(folder / "items.npy", market.embeddings)
    (folder / "item_ids.json").write_text(json.dumps(market.item_ids))


# 1. Read the command line. With --tiny the first process writes what all of them read.
args = HfArgumentParser(ScriptArguments).parse_args_into_dataclasses()[0]
accelerator = Accelerator()
if args.tiny:
    temporary = tempfile.TemporaryDirectory()
    folder = broadcast_object_list([temporary.name])[0]
    if accelerator.is_main_process:
        write_tiny_files(Path(folder))
    accelerator.wait_for_everyone()
    args.model, args.sequences = f"{folder}/gr", f"{folder}/sequences.parquet"
    args.embeddings, args.item_ids = f"{folder}/items.npy", f"{folder}/item_ids.json"
elif args.model is None or args.sequences is None:
    raise SystemExit("Give `--model` and `--sequences`, or `--tiny` for an untrained model on generated ones.")

# 2. Load the retriever with its catalog, and split the sequences.
retriever = pipeline("generative-retrieval", model=args.model, device=accelerator.device)
catalog = retriever.catalog
splits = leave_one_out(read_sequences(args.sequences))
dataset = splits[args.split]

# 3. Score the retriever; every process takes its share of the users.
options = {"num_beams": args.num_beams, "batch_size": args.batch_size}
evaluator = RetrievalEvaluator(dataset, catalog, **options)
start = time.perf_counter()
ours = evaluator(retriever.model, retriever.tokenizer)
seconds = time.perf_counter() - start

# 4. Score the baselines, all by the same measure.
if accelerator.is_main_process:
    baselines = {
        "random": RandomBaseline(catalog.item_ids),
        "popularity": PopularityBaseline(catalog.item_ids, splits["train"]["items"][:]),
    }
    if args.embeddings:
        item_ids = json.loads(Path(args.item_ids).read_text(encoding="utf-8")) if args.item_ids else None
        items = ItemEmbeddings.from_file(args.embeddings, item_ids=item_ids).validate()
        baselines["neighbours"] = NearestNeighborsBaseline(items)
    scores = {}
    for name, baseline in baselines.items():
        lists = [baseline.rank(dataset["history"][:], top_k=10, exclude_history=exclude) for exclude in (True, False)]
        scores[name] = evaluate_rankings(lists[0], dataset, catalog, unmasked_rankings=lists[1])
    scores["ours"] = ours

    # 5. Print one table, and write all numbers.
    columns = ["recall@5", "ndcg@5", "recall@10", "ndcg@10", "mrr@10", "coverage@10"]
    for title, prefix in (("items of the history left out", ""), ("items of the history left in", "unmasked_")):
        print(f"\n{args.split}, {len(dataset):,} users, {title}")
        print(" " * 12 + "".join(f"{column:>12}" for column in columns))
        for name, values in scores.items():
            print(f"{name:<12}" + "".join(f"{values[prefix + column]:12.4f}" for column in columns))
    print(f"\n{seconds:.1f} s of search, {accelerator.num_processes} processes")
    if Path(args.model).is_dir():
        others = {name: values for name, values in scores.items() if name != "ours"}
        add_scores(args.model, describe_scores(args.split, ours, len(dataset), evaluator.protocol, baselines=others))
    if args.output:
        report = {"settings": asdict(args), "num_users": len(dataset), "seconds": round(seconds, 1), "scores": scores}
        write_json(args.output, report)
accelerator.wait_for_everyone()
accelerator.end_training()
