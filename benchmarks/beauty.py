# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Retrieval quality on Amazon Beauty (2014, 5-core): a small Qwen2 retriever on semantic IDs of our own, or on LETTER's.

    python benchmarks/beauty.py train --codes own --seed 0       # MiniLM -> RQ-VAE -> catalog -> Qwen2 -> test metrics
    python benchmarks/beauty.py train --codes letter --seed 0    # the same retriever on LETTER's published codes
    python benchmarks/beauty.py train --codes das --seed 0       # on a DASModel's, after this has fitted it:
    python benchmarks/item_tokenizers.py retrieve --only "DAS 3x256" --seeds 0
    python benchmarks/beauty.py fuse --codes letter --seed 0     # that run's lists and the neighbours', fused by rank
    python benchmarks/beauty.py baselines                        # popularity, random, neighbours of the last item
    python benchmarks/beauty.py table                            # the table of all committed results

Leave-one-out: the last item is the test target, the one before the validation target; full ranking over all items;
histories of up to 20 items. The checkpoint is chosen on the validation NDCG@10 of 2,000 users, and the test items are
read once, at the end. A run that was stopped goes on from its last checkpoint. `--data` holds `beauty/sequences.txt`,
`beauty/embeddings_minilm.safetensors` and `beauty/letter_sids.json`.
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, Qwen2ForCausalLM, set_seed
from transformers.trainer_utils import get_last_checkpoint

from forge_hf import (
    ItemEmbeddings,
    RetrievalEvaluator,
    RetrievalTrainer,
    RetrievalTrainingArguments,
    RQVAEConfig,
    RQVAEModel,
    RQVAETrainer,
    RQVAETrainingArguments,
    SemanticIdCatalog,
    create_retriever,
    leave_one_out,
    read_sequences,
)
from forge_hf.evaluation import (
    NearestNeighborsBaseline,
    PopularityBaseline,
    RandomBaseline,
    evaluate_rankings,
    reciprocal_rank_fusion,
)
from forge_hf.generation import rank_catalog
from forge_hf.hub import describe_hardware, write_json
from forge_hf.models import DASModel
from forge_hf.semantic_ids import codebook_perplexity, codebook_utilization, collision_rate


FUSED = 30  # items of each list that are fused
METRICS = ["recall@5", "ndcg@5", "recall@10", "ndcg@10"]
NUM_ITEMS, NUM_USERS = 12_101, 22_363
PROTOCOL = (
    f"leave-one-out, full ranking over {NUM_ITEMS:,} items, all {NUM_USERS:,} users; training windows of up to 50 "
    "items, histories of up to 20 in retrieval; models scored under bf16 autocast"
)
VALIDATION_USERS = 2000  # chosen at random, on whom the checkpoint is chosen
PRESET = "qwen2-small"
RQVAE = {
    "input_dim": 384,  # all-MiniLM-L6-v2
    "hidden_sizes": [512, 256, 128],
    "codebook_dim": 64,
    "codebook_sizes": [256, 256, 256],
    "codebook_update": "ema",
    "dead_code_threshold": 0.25,
}
RQVAE_ARGUMENTS = {"num_train_epochs": 150, "weight_decay": 1e-4}
RETRIEVER_ARGUMENTS = {
    "lr_scheduler_type": "cosine",
    "warmup_steps": 300,
    "weight_decay": 0.1,
    "adam_beta2": 0.98,
    "bf16": True,
}


def load_data(folder: Path):
    sequences = read_sequences(str(folder / "sequences.txt"))
    embeddings = ItemEmbeddings.from_file(
        folder / "embeddings_minilm.safetensors", item_ids=list(range(1, NUM_ITEMS + 1))
    )
    return leave_one_out(sequences), embeddings


def own_codes(embeddings: ItemEmbeddings, folder: Path, seed: int) -> tuple[np.ndarray, list[int], float]:
    """Codes of all items, codebook sizes and training seconds of an RQ-VAE, which is trained unless it has been."""
    started = time.perf_counter()
    if not (folder / "model.safetensors").exists():
        arguments = RQVAETrainingArguments(
            output_dir=str(folder), **RQVAE_ARGUMENTS, save_strategy="no", logging_steps=0.2,
            seed=seed, use_cpu=True, disable_tqdm=True, report_to="none",
        )  # fmt: skip
        trainer = RQVAETrainer(RQVAEModel(RQVAEConfig(**RQVAE)), arguments, train_dataset=embeddings)
        trainer.train()
        trainer.save_model(str(folder))
        write_json(folder / "seconds.json", time.perf_counter() - started)
    model = RQVAEModel.from_pretrained(folder)
    seconds = json.loads((folder / "seconds.json").read_text())
    return model.encode(embeddings.to_tensor()).codes, list(model.config.codebook_sizes), seconds


def das_codes(embeddings: ItemEmbeddings, folder: Path) -> tuple[np.ndarray, list[int], float]:
    """As `own_codes`, of the `DASModel` that benchmarks/item_tokenizers.py has left in `folder`."""
    if not (folder / "fit.json").exists():
        raise SystemExit(f"{folder} has no fitted DASModel: the commands at the top of this file say how to make it.")
    model = DASModel.from_pretrained(folder)
    seconds = json.loads((folder / "fit.json").read_text())["fit_seconds"]
    return model.encode(embeddings.to_tensor()).codes, list(model.config.codebook_sizes), seconds


def run_name(args: argparse.Namespace) -> str:
    return f"beauty_{args.codes}_{args.epochs:g}epochs_seed{args.seed}"


def train(args: argparse.Namespace) -> None:
    name = run_name(args)
    run = Path(args.runs, name)
    run.mkdir(parents=True, exist_ok=True)
    # A checkpoint is gone on from under the settings that it was begun with, and under no others.
    settings = {key: getattr(args, key) for key in ("learning_rate", "batch_size", "hidden_dropout")}
    begun = run / "settings.json"
    if begun.exists() and json.loads(begun.read_text()) != settings:
        raise SystemExit(f"{run} was begun with {begun.read_text()}, not with {settings}. Give another `--runs`.")
    write_json(begun, settings)
    set_seed(args.seed)
    splits, embeddings = load_data(args.data / "beauty")

    # 1. Semantic IDs.
    facts = {}
    if args.codes != "letter":
        if args.codes == "own":
            codes, sizes, seconds = own_codes(embeddings, run / "rqvae", args.seed)
        else:
            folder = Path(args.runs, "item_tokenizers", "beauty", f"DAS-3x256_seed{args.seed}")
            codes, sizes, seconds = das_codes(embeddings, folder)
        facts = {f"{'rqvae' if args.codes == 'own' else args.codes}_seconds": round(seconds)}
        catalog = SemanticIdCatalog.from_codes(embeddings.item_ids, codes, codebook_sizes=sizes, on_collision="suffix")
    else:
        letter = json.loads((args.data / "beauty" / "letter_sids.json").read_text())
        sizes, item_ids = [256] * 4, [int(item) for item in letter]
        codes = torch.tensor(list(letter.values()))
        catalog = SemanticIdCatalog.from_codes(item_ids, codes, codebook_sizes=sizes, on_collision="keep")
    facts |= {
        "codebook_sizes": list(catalog.layout.codebook_sizes),
        "collision_rate_of_codes": collision_rate(codes),
        "utilization": codebook_utilization(codes, sizes).tolist(),
        "perplexity": codebook_perplexity(codes, sizes).tolist(),
    }
    print(catalog, facts, flush=True)

    # 2. The retriever.
    model, tokenizer = create_retriever(PRESET, catalog)
    arguments = RetrievalTrainingArguments(
        output_dir=str(run),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=args.learning_rate,
        hidden_dropout=args.hidden_dropout,
        **RETRIEVER_ARGUMENTS,
        eval_strategy="steps",
        eval_steps=args.eval_every,
        save_strategy="steps",
        save_steps=args.eval_every,
        logging_steps=args.eval_every,
        use_cpu=not torch.cuda.is_available(),
        seed=args.seed,
        disable_tqdm=True,
        report_to="none",
    )
    validation = splits["validation"].shuffle(seed=0).select(range(VALIDATION_USERS))
    trainer = RetrievalTrainer(
        model, arguments, catalog=catalog, processing_class=tokenizer, train_dataset=splits["train"],
        eval_dataset=validation,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(run)))
    seconds = trainer.train_seconds
    trainer.save_model(str(run / "retriever"))

    # 3. The test items, once.
    started = time.perf_counter()
    evaluator = RetrievalEvaluator(splits["test"], catalog, ks=(5, 10), num_beams=50, max_history=20)
    with trainer.compute_loss_context_manager():
        metrics = evaluator(trainer.model, tokenizer)
    result = {
        "command": " ".join(["python", "benchmarks/beauty.py", *sys.argv[1:]]),
        "protocol": PROTOCOL,
        "seed": args.seed,
        "semantic_ids": facts,
        "num_parameters": model.num_parameters(),
        "arguments": {
            key: getattr(arguments, key)
            for key in (
                "num_train_epochs",
                "per_device_train_batch_size",
                "learning_rate",
                "weight_decay",
                "adam_beta2",
                "warmup_steps",
                "hidden_dropout",
                "bf16",
                "eval_num_beams",
                "max_history",
            )
        },  # fmt: skip
        "validation": {key: value for key, value in best_log(trainer).items() if key != "epoch"},
        "test": metrics,
        "train_seconds": round(seconds),
        "test_seconds": round(time.perf_counter() - started),
        "hardware": describe_hardware(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    write_json(Path(args.results, f"{name}.json"), result)
    print(json.dumps(result, indent=2), flush=True)


def fuse(args: argparse.Namespace) -> None:
    """Fuses the retriever's lists with the neighbours of the last item; validation chooses the fusion's constant."""
    name = run_name(args)
    folder, path = Path(args.runs, name, "retriever"), Path(args.results, f"{name}.json")
    splits, embeddings = load_data(args.data / "beauty")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), Qwen2ForCausalLM.from_pretrained(folder)
    catalog = SemanticIdCatalog.from_pretrained(folder)
    neighbors = NearestNeighborsBaseline(embeddings)

    rankings = {}  # one search a dataset: what is seen is taken out of its list

    def retrieved(dataset, histories, exclude: bool) -> list[list[int]]:
        if id(dataset) not in rankings:
            with torch.autocast("cpu", torch.bfloat16):
                rankings[id(dataset)] = rank_catalog(model, tokenizer, catalog, histories).rows.tolist()
        ids = catalog.item_ids
        ranked = []
        for rows, history in zip(rankings[id(dataset)], histories, strict=True):
            seen = set(history) if exclude else ()
            ranked.append([ids[row] for row in rows if row >= 0 and ids[row] not in seen][:FUSED])
        return ranked

    def lists(dataset, exclude: bool) -> list[list[list[int]]]:
        histories = dataset["history"][:]
        return [retrieved(dataset, histories, exclude), neighbors.rank(histories, FUSED, exclude_history=exclude)]

    validation = splits["validation"].shuffle(seed=0).select(range(VALIDATION_USERS))
    parts = lists(validation, exclude=True)
    ndcg = {
        k: evaluate_rankings(reciprocal_rank_fusion(parts, 10, k), validation, catalog)["ndcg@10"] for k in (0, 10, 60)
    }
    best = max(ndcg, key=ndcg.get)
    masked, unmasked = (reciprocal_rank_fusion(lists(splits["test"], exclude), 10, best) for exclude in (True, False))
    result = json.loads(path.read_text())
    result["fused_with_neighbours"] = {
        "command": " ".join(["python", "benchmarks/beauty.py", *sys.argv[1:]]),
        "k": best,
        "validation_ndcg@10_by_k": ndcg,
        "test": evaluate_rankings(masked, splits["test"], catalog, unmasked_rankings=unmasked),
    }
    write_json(path, result)
    print(json.dumps(result["fused_with_neighbours"], indent=2), flush=True)


def best_log(trainer: RetrievalTrainer) -> dict:
    logs = [log for log in trainer.state.log_history if "eval_ndcg@10" in log]
    return max(logs, key=lambda log: log["eval_ndcg@10"])


def baselines(args: argparse.Namespace) -> None:
    splits, embeddings = load_data(args.data / "beauty")
    test, rankers = splits["test"], {}
    rankers["random"] = RandomBaseline(embeddings.item_ids, seed=0)
    rankers["popularity"] = PopularityBaseline(embeddings.item_ids, splits["train"]["items"][:])
    rankers["neighbours of the last item"] = NearestNeighborsBaseline(embeddings)
    catalog = SemanticIdCatalog.from_codes(
        embeddings.item_ids, [[row] for row in range(len(embeddings))], codebook_sizes=[len(embeddings)],
        on_collision="keep",
    )  # fmt: skip
    scores = {}
    for name, ranker in rankers.items():
        masked, unmasked = (
            evaluate_rankings(ranker.rank(test["history"][:], top_k=10, exclude_history=exclude), test, catalog)
            for exclude in (True, False)
        )
        scores[name] = masked | {f"unmasked_{key}": value for key, value in unmasked.items()}
    result = {"command": "python benchmarks/beauty.py baselines", "protocol": PROTOCOL, "test": scores}
    write_json(Path(args.results, "beauty_baselines.json"), result)
    table(args)


def table(args: argparse.Namespace) -> None:
    rows = {}
    scores = json.loads(Path(args.results, "beauty_baselines.json").read_text())["test"]
    for name, metrics in scores.items():
        rows[name] = [metrics]
    titles = {
        "letter": "Qwen2 on LETTER's codes",
        "own": "Qwen2 on our RQ-VAE's codes",
        "das": "Qwen2 on our DASModel's codes",
    }
    for codes, title in titles.items():
        by_epochs = defaultdict(list)
        for path in sorted(Path(args.results).glob(f"beauty_{codes}_*epochs_seed*.json")):
            run = json.loads(path.read_text())
            by_epochs[run["arguments"]["num_train_epochs"]].append(run)
        for epochs, runs in sorted(by_epochs.items()):
            rows[f"{title}, {epochs:g} epochs, {seeds(runs)}"] = [run["test"] for run in runs]
            if fused := [run["fused_with_neighbours"]["test"] for run in runs if "fused_with_neighbours" in run]:
                rows[f"{title}, {epochs:g} epochs, fused with the neighbours, {seeds(fused)}"] = fused
    print("| Beauty, test | R@5 | N@5 | R@10 | N@10 | unmasked: R@5 | N@5 | R@10 | N@10 |\n" + "| --- " * 9 + "|")
    for name, runs in rows.items():
        cells = []
        for key in [*METRICS, *(f"unmasked_{metric}" for metric in METRICS)]:
            values = [run[key] for run in runs]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}")
        print(f"| {name} | " + " | ".join(cells) + " |")


def seeds(runs: list) -> str:
    return f"{len(runs)} seed{'s' * (len(runs) > 1)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["train", "fuse", "baselines", "table"])
    parser.add_argument("--codes", choices=["own", "das", "letter"], default="own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--hidden_dropout", type=float, default=0.1)
    parser.add_argument("--eval_every", type=float, default=0.25, help="of all steps")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/amazon2014"))
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--results", default="results")
    args = parser.parse_args()
    {"train": train, "fuse": fuse, "baselines": baselines, "table": table}[args.task](args)


if __name__ == "__main__":
    main()
