# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Do metrics of semantic IDs foretell retrieval? Two of them do, FORGE says (https://huggingface.co/papers/2509.20904).

    python benchmarks/sid_ablation.py run                  # every configuration that isn't in `--results` yet
    python benchmarks/sid_ablation.py run --only "3x256"   # some of them
    python benchmarks/sid_ablation.py table                # the table, the rank correlations and the picture

On Amazon Beauty (2014, 5-core): RQ-VAEs of several numbers of levels and codes, with and without the contrastive loss
(pairs: neighbours in training sequences), several ways with collisions, and random codes. Each catalog gets its
metrics and the same small retriever, trained for a few epochs and scored on validation users; the test items stay
unread. What counts is the order of the configurations, not the height of their scores: benchmarks/beauty.py has that.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from beauty import RETRIEVER_ARGUMENTS, RQVAE, load_data
from scipy.stats import spearmanr
from transformers import set_seed

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
)
from forge_hf.data import ItemPairs
from forge_hf.hub import describe_hardware, write_json, write_then_rename
from forge_hf.semantic_ids import semantic_id_quality


# Codebook sizes; and what differs from an RQ-VAE with a suffix.
CONFIGURATIONS = {
    "2x256": ([256] * 2, {}),
    "2x256, kept": ([256] * 2, {"on_collision": "keep"}),
    "2x256, knn 5": ([256] * 2, {"on_collision": "knn", "capacity": 5}),
    "2x256, random 5": ([256] * 2, {"on_collision": "random", "capacity": 5}),
    "2x1024": ([1024] * 2, {}),
    "3x64": ([64] * 3, {}),
    "3x256": ([256] * 3, {}),
    "3x256, kept": ([256] * 3, {"on_collision": "keep"}),
    "3x256, knn 1": ([256] * 3, {"on_collision": "knn", "capacity": 1}),
    "3x256, contrastive": ([256] * 3, {"contrastive": True}),
    "3x256, random codes": ([256] * 3, {"random_codes": True}),
    "4x256": ([256] * 4, {}),
}
RQVAE_ARGUMENTS = {"num_train_epochs": 60, "weight_decay": 1e-4}
RETRIEVER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2}
EPOCHS, BATCH_SIZE, NUM_BEAMS, VALIDATION_USERS = 4, 32, 20, 10_000
PROTOCOL = (
    f"validation targets of {VALIDATION_USERS:,} users, full ranking over 12,101 items without the history's own, "
    f"{NUM_BEAMS} beams, weights after {EPOCHS} epochs"
)


def train_rqvae(sizes: list[int], contrastive: bool, embeddings: ItemEmbeddings, pairs: ItemPairs, args) -> RQVAEModel:
    """An item tokenizer, which is trained unless it has been."""
    name = "x".join(map(str, sizes)) + ("_contrastive" if contrastive else "") + f"_seed{args.seed}"
    folder = args.runs / name
    if not (folder / "model.safetensors").exists():
        set_seed(args.seed)
        # FORGE weighs a contrastive loss of 1 against means over the dimensions; ours are sums over them.
        weight = float(RQVAE["input_dim"]) if contrastive else 0.0
        config = RQVAEConfig(**RQVAE | {"codebook_sizes": sizes, "contrastive_loss_weight": weight})
        arguments = RQVAETrainingArguments(
            output_dir=str(folder), **RQVAE_ARGUMENTS, save_strategy="no", logging_steps=0.2, seed=args.seed,
            use_cpu=True, disable_tqdm=True, report_to="none", pair_batch_ratio=1.0 if contrastive else None,
        )  # fmt: skip
        trainer = RQVAETrainer(
            RQVAEModel(config), arguments, train_dataset=embeddings, pairs=pairs if contrastive else None
        )
        trainer.train()
        trainer.save_model(str(folder))
    return RQVAEModel.from_pretrained(folder)


def make_catalog(name: str, embeddings: ItemEmbeddings, pairs: ItemPairs, args):
    """The catalog of a configuration, and the vectors that its items' codes stand for (`None` for random codes)."""
    sizes, options = CONFIGURATIONS[name]
    options = {"on_collision": "suffix"} | options
    if options.pop("random_codes", False):
        generator = torch.Generator().manual_seed(args.seed)
        codes = torch.stack([torch.randint(size, (len(embeddings),), generator=generator) for size in sizes], dim=1)
        return SemanticIdCatalog.from_codes(embeddings.item_ids, codes, codebook_sizes=sizes, **options), None
    model = train_rqvae(sizes, options.pop("contrastive", False), embeddings, pairs, args)
    vectors = embeddings.to_tensor()
    codes = model.encode(vectors).codes
    if options["on_collision"] == "knn":

        def candidates(rows):
            found = model.encode(vectors[rows], num_candidates=sizes[-1])
            return found.candidates, found.candidate_distances

        options["candidates"] = candidates
    if options["on_collision"] in ("knn", "random"):
        options["seed"] = args.seed
    catalog = SemanticIdCatalog.from_codes(embeddings.item_ids, codes, codebook_sizes=sizes, **options)
    with torch.no_grad():
        return catalog, model.decode(codes)


def measure_metrics(catalog, decoded, embeddings: ItemEmbeddings, pairs: np.ndarray, categories: list) -> dict:
    """Every metric of the semantic IDs, and the hit rate of the vectors that they stand for."""
    measure = partial(semantic_id_quality, catalog, pairs=pairs)
    quality = measure(embeddings=embeddings.to_tensor(), categories=categories).to_dict()
    if decoded is not None:
        quality["decoded"] = measure(embeddings=decoded).to_dict()["embedding_hit_rate"]
    return quality


def train_small_retriever(catalog: SemanticIdCatalog, splits, folder: Path, seed: int):
    """A trainer that has trained the small retriever on a catalog, and its tokenizer."""
    set_seed(seed)
    model, tokenizer = create_retriever("qwen2-small", catalog, **RETRIEVER)
    arguments = RetrievalTrainingArguments(
        output_dir=str(folder), num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=64, learning_rate=2e-3, hidden_dropout=0.1, **RETRIEVER_ARGUMENTS,
        eval_strategy="no", save_strategy="no", load_best_model_at_end=False, logging_steps=0.25,
        use_cpu=not torch.cuda.is_available(), seed=seed, disable_tqdm=True, report_to="none",
    )  # fmt: skip
    trainer = RetrievalTrainer(
        model, arguments, catalog=catalog, processing_class=tokenizer, train_dataset=splits["train"]
    )
    trainer.train()
    return trainer, tokenizer


def score_retriever(catalog: SemanticIdCatalog, splits, args) -> dict:
    trainer, tokenizer = train_small_retriever(catalog, splits, args.runs / "retriever", args.seed)
    validation = splits["validation"].shuffle(seed=0).select(range(VALIDATION_USERS))
    evaluator = RetrievalEvaluator(validation, catalog, ks=(5, 10), num_beams=NUM_BEAMS, max_history=20)
    with trainer.compute_loss_context_manager():
        return evaluator(trainer.model, tokenizer)


def run(args: argparse.Namespace) -> None:
    splits, embeddings = load_data(args.data / "beauty")
    pairs = ItemPairs.from_sequences(embeddings, splits["train"])
    table = pd.read_parquet(args.data / "beauty" / "items.parquet").set_index("item_id")
    categories = table.loc[embeddings.item_ids, "leaf_category"].tolist()
    # What the metrics are held against: an item and what its buyers bought next, in training.
    ids = np.asarray(embeddings.item_ids)[np.asarray(pairs.rows)]
    for name in args.only or CONFIGURATIONS:
        path = args.runs / f"{name.replace(', ', '_').replace(' ', '-')}_seed{args.seed}.json"
        if path.exists():
            continue
        catalog, decoded = make_catalog(name, embeddings, pairs, args)
        result = {
            "configuration": name,
            "seed": args.seed,
            "codebook_sizes": list(catalog.layout.codebook_sizes),
            "metrics": measure_metrics(catalog, decoded, embeddings, ids, categories),
            "retriever": score_retriever(catalog, splits, args),
        }
        write_json(path, result)
        print(name, json.dumps(result["retriever"]), flush=True)


# What is correlated with the retriever: a name, and how to read it from the metrics of a configuration.
PREDICTORS = {
    "Gini": lambda m: m["resolved_gini"],
    "Gini, collisions unhandled": lambda m: m["gini"],
    "embedding hit rate@20 of decoded codes": lambda m: m.get("decoded", {}).get("20"),
    "collision rate, unhandled": lambda m: m["collision_rate"],
    "max load, unhandled": lambda m: m["max_load"],
    "bits of codes in use": lambda m: float(np.log2(m["perplexity"]).sum()),
    "category purity of the first code": lambda m: above_chance(m["prefix_purity"], m["prefix_purity_by_chance"]),
    "neighbours sharing the first code": lambda m: m["neighbors_sharing_prefix"][0],
    "pairs sharing the first code": lambda m: m["pairs_sharing_prefix"][0],
}


def above_chance(share: list[float], chance: list[float]) -> float:
    return (share[0] - chance[0]) / (1 - chance[0])


def table(args: argparse.Namespace) -> None:
    """Joins the runs into one file, with rank correlations and a picture."""
    runs = [json.loads(path.read_text()) for path in sorted(args.runs.glob("*_seed*.json"))]
    order = list(CONFIGURATIONS)
    runs.sort(key=lambda run: (order.index(run["configuration"]), run["seed"]))
    predictors = {name: [read(run["metrics"]) for run in runs] for name, read in PREDICTORS.items()}
    recall = [run["retriever"]["recall@10"] for run in runs]
    correlations = {name: correlation(values, recall) for name, values in predictors.items()}
    result = {
        "command": "python benchmarks/sid_ablation.py run && python benchmarks/sid_ablation.py table",
        "protocol": PROTOCOL,
        "retriever": {"preset": "qwen2-small", **RETRIEVER, "epochs": EPOCHS, "batch_size": BATCH_SIZE},
        "rqvae": {**RQVAE, **RQVAE_ARGUMENTS, "codebook_sizes": "as the configuration says"},
        "hardware": describe_hardware(),
        "spearman_with_recall@10": correlations,
        "runs": runs,
    }
    write_json(args.results / "sid_ablation.json", result)
    plot(runs, predictors, recall, correlations, args.results / "sid_ablation.png")
    print("| Codes | " + " | ".join(PREDICTORS) + " | Recall@10 |\n" + "| --- " * (len(PREDICTORS) + 2) + "|")
    for row, run in enumerate(runs):
        cells = ["-" if values[row] is None else f"{values[row]:.4g}" for values in predictors.values()]
        print(f"| {run['configuration']} | " + " | ".join(cells) + f" | {recall[row]:.4f} |")
    cells = [f"{c['rho']:+.2f} (p {c['p']:.2f}, n {c['n']})" for c in correlations.values()]
    print("| Spearman with Recall@10 | " + " | ".join(cells) + " | |")


def correlation(values: list[float | None], recall: list[float]) -> dict[str, float]:
    known = [(value, score) for value, score in zip(values, recall, strict=True) if value is not None]
    rho, p = spearmanr(*zip(*known, strict=True))
    return {"rho": round(float(rho), 3), "p": round(float(p), 4), "n": len(known)}


def plot(runs: list[dict], predictors: dict, recall: list[float], correlations: dict, path: Path) -> None:
    """One panel a metric: each point a configuration."""
    from matplotlib.figure import Figure

    # Of the Okabe-Ito palette, told apart under every common colour blindness; shapes differ, too.
    kinds = {
        "suffix": ("#0072B2", "o"),
        "kept": ("#D55E00", "s"),
        "moved (knn, random)": ("#009E73", "^"),
        "contrastive": ("#CC79A7", "D"),
        "random codes": ("#595959", "X"),
    }

    def kind_of(name: str) -> str:
        moved = "moved (knn, random)"
        words = {"kept": "kept", "knn": moved, "random codes": "random codes", "random": moved} | {
            "contrastive": "contrastive"
        }
        return next((kind for word, kind in words.items() if word in name), "suffix")

    figure = Figure(figsize=(12, 10.5), layout="constrained")
    axes = figure.subplots(3, 3, sharey=True)
    for axis, (name, values) in zip(axes.flat, predictors.items(), strict=True):
        for kind, (color, marker) in kinds.items():
            points = [
                (value, score)
                for run, value, score in zip(runs, values, recall, strict=True)
                if kind_of(run["configuration"]) == kind and value is not None
            ]
            if points:
                axis.scatter(*zip(*points, strict=True), c=color, marker=marker, s=46, label=kind, edgecolors="white")
        axis.set_xlabel(name)
        axis.set_title(f"Spearman {correlations[name]['rho']:+.2f}, n = {correlations[name]['n']}", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#E5E5E5", linewidth=0.6)
        axis.set_axisbelow(True)
    for axis in axes[:, 0]:
        axis.set_ylabel("Recall@10 of the retriever")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    write_then_rename(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "table"])
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/amazon2014"))
    parser.add_argument("--runs", type=Path, default=Path("runs/sid_ablation"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    {"run": run, "table": table}[args.task](args)


if __name__ == "__main__":
    main()
