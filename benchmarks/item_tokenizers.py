# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
All item tokenizers side by side, on Amazon Beauty and Sports (2014, 5-core).

    python examples/train_item_vectors.py --sequences ../shared/data/amazon2014/beauty/sequences.txt \
        --num_train_epochs 10 --learning_rate 4e-3 --dropout 0.4 --output_dir runs/item_vectors/beauty
    python benchmarks/item_tokenizers.py fit --dataset beauty         # fits each, measures its codes
    python benchmarks/item_tokenizers.py retrieve --dataset beauty    # the main ones: a small retriever, three seeds
    python benchmarks/item_tokenizers.py table                        # the table and the picture of all that has run

`--only` picks some by name; what has run isn't run again. Every tokenizer gets the same MiniLM embeddings of all items
(some learn from training sequences besides, never from a validation or test item: from pairs of neighbours, or from
the collaborative vectors of the first command, whose time isn't counted), one CPU thread, and settings that weren't
tuned on the scores below. The pairs of the hit rates are the neighbours in training sequences, too, so those of
tokenizers that learn from these aren't on unseen pairs. Every retriever is the same small Qwen2, trained alike on the
training sequences for a few epochs and scored once on the test items: what counts is the order, not the height.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
import torch
from beauty import RQVAE, write_json
from sid_ablation import BATCH_SIZE, EPOCHS, RETRIEVER, train_small_retriever
from transformers import AutoModel, set_seed

from forge_hf import (
    ItemEmbeddings,
    RetrievalEvaluator,
    RQVAETrainer,
    RQVAETrainingArguments,
    SemanticIdCatalog,
    create_item_tokenizer,
    leave_one_out,
    read_sequences,
)
from forge_hf.data import ItemPairs, UserItemPairs
from forge_hf.hub import describe_hardware
from forge_hf.models import (
    DASConfig,
    DASModel,
    FSQConfig,
    FSQModel,
    HierarchicalKMeansConfig,
    HierarchicalKMeansModel,
    LetterConfig,
    LetterModel,
    LSHConfig,
    LSHModel,
    MMQModel,
    OPQConfig,
    OPQModel,
    RandomIdsConfig,
    RandomIdsModel,
    ResidualKMeansConfig,
    ResidualKMeansFSQConfig,
    ResidualKMeansFSQModel,
    ResidualKMeansModel,
    RQVAEConfig,
    RQVAEModel,
    VQVAEConfig,
    VQVAEModel,
)
from forge_hf.semantic_ids import semantic_id_quality
from forge_hf.semantic_ids.neighbors import nearest_neighbors


DATASETS = {"beauty": "Beauty", "sports": "Sports and Outdoors"}
SEEDS, NUM_BEAMS, NUM_NEIGHBORS = (0, 1, 2), 20, 10
DIM = RQVAE["input_dim"]
TRAINING = {"num_train_epochs": 60, "weight_decay": 1e-4}
PROTOCOL = (
    f"leave-one-out, full ranking over all items, all users, test targets read once; {NUM_BEAMS} beams, histories of "
    f"up to 20 items; weights after {EPOCHS} epochs; a suffix tells apart items of equal codes; tokenizer and "
    "retriever have the same seed"
)


@dataclass(frozen=True)
class Tokenizer:
    """
    How one is made. `make` takes the number of items; `training` are arguments of a network's trainer, and `data` says
    what it learns from: "items", "pairs" besides, or "letter", "das" and "mmq" with collaborative vectors.
    """

    make: Callable[[int], Any]
    training: dict | None = None
    data: str = "items"
    is_main: bool = False


def fitted(model: type, config: type, main: bool = False, **options) -> Tokenizer:
    return Tokenizer(lambda num_items: model(config(input_dim=DIM, **options)), is_main=main)


def trained(model: type, config: type, main: bool = False, data: str = "items", training=(), **options) -> Tokenizer:
    def make(num_items: int):
        return model(config(**RQVAE | options))

    return Tokenizer(make, training=TRAINING | dict(training), data=data, is_main=main)


def tree(num_items: int) -> HierarchicalKMeansModel:
    """A tree of three levels with about a leaf for an item: a larger one has nothing left to divide."""
    width = round(num_items ** (1 / 3)) + 1
    return HierarchicalKMeansModel(HierarchicalKMeansConfig(input_dim=DIM, codebook_sizes=[width] * 3))


def fsq(levels: int) -> Tokenizer:
    options = {name: RQVAE[name] for name in ("input_dim", "hidden_sizes")}
    return Tokenizer(
        lambda num_items: FSQModel(FSQConfig(fsq_levels=[[8, 6, 5]] * levels, **options)), training=TRAINING
    )


def mmq(num_items: int) -> MMQModel:
    """Two shared experts, and one each for text and for collaborative vectors."""
    return create_item_tokenizer("mmq", modality_dims=[DIM, 64], num_specific_experts=1)


def residual(main: bool = False, **options) -> Tokenizer:
    return fitted(ResidualKMeansModel, ResidualKMeansConfig, main, **options)


THREE, FOUR = [256] * 3, [256] * 4
# FORGE weighs a contrastive loss of 1 against means over the dimensions; ours are sums over them.
CONTRASTIVE = {"contrastive_loss_weight": float(DIM), "data": "pairs", "training": {"pair_batch_ratio": 1.0}}
# An encoder that starts as the identity, at the learning rate of MiniOneRec.
IDENTITY = {"residual_encoder": True, "codebook_dim": DIM, "training": {"learning_rate": 1e-4}}
# Weights of the losses are the defaults. Most batches of DAS are of users and items that they had: an epoch is more
# than ten times as long.
LETTER = {"codebook_update": "gradient", "collaborative_dim": 64}
DAS = {"collaborative_dim": 64, "user_input_dim": 64, "training": {"num_train_epochs": 6}}
VQ = partial(trained, VQVAEModel, VQVAEConfig)
TOKENIZERS = {
    "Random IDs 3x256": fitted(RandomIdsModel, RandomIdsConfig, True, codebook_sizes=THREE),
    "Random IDs 4x256": fitted(RandomIdsModel, RandomIdsConfig, codebook_sizes=FOUR),
    "LSH 3x256": fitted(LSHModel, LSHConfig, True, codebook_sizes=THREE),
    "LSH 4x256": fitted(LSHModel, LSHConfig, codebook_sizes=FOUR),
    "Hierarchical k-means, 3 levels": Tokenizer(tree),
    "Hierarchical k-means 3x256": fitted(HierarchicalKMeansModel, HierarchicalKMeansConfig, codebook_sizes=THREE),
    "Residual k-means 3x256": residual(True, codebook_sizes=THREE),
    "Residual k-means 4x256": residual(codebook_sizes=FOUR),
    "Residual k-means 3x256, normalized": residual(codebook_sizes=THREE, normalize_residuals=True),
    "Residual k-means 3x256, balanced": residual(codebook_sizes=THREE, balanced=True),
    "Residual k-means 4x256, balanced": residual(codebook_sizes=FOUR, balanced=True),
    "Residual k-means + FSQ 2x256, 4096": fitted(ResidualKMeansFSQModel, ResidualKMeansFSQConfig),
    "FSQ 3x240": fsq(3),
    "FSQ 4x240": fsq(4),
    "OPQ 4x256": fitted(OPQModel, OPQConfig, codebook_sizes=FOUR),
    "OPQ 16x256": fitted(OPQModel, OPQConfig, codebook_sizes=[256] * 16),
    "OPQ 32x256": fitted(OPQModel, OPQConfig, codebook_sizes=[256] * 32),
    "VQ-VAE 8192": VQ(codebook_sizes=[8192]),
    "VQ-VAE, product 4x256": VQ(codebook_sizes=FOUR),
    "VQ-VAE, product 4x256, SimVQ": VQ(codebook_sizes=FOUR, codebook_update="simvq", dead_code_threshold=0.0),
    "VQ-VAE, multi 3x256": VQ(codebook_sizes=THREE, codebook_form="multi"),
    "RQ-VAE 3x256": trained(RQVAEModel, RQVAEConfig, main=True, codebook_sizes=THREE),
    "RQ-VAE 4x256": trained(RQVAEModel, RQVAEConfig, codebook_sizes=FOUR),
    "RQ-VAE 3x256, SimVQ": trained(
        RQVAEModel, RQVAEConfig, codebook_sizes=THREE, codebook_update="simvq", dead_code_threshold=0.0
    ),
    "RQ-KMeans+ 3x256": trained(RQVAEModel, RQVAEConfig, codebook_sizes=THREE, **IDENTITY),
    "RQ-VAE 3x256, contrastive": trained(RQVAEModel, RQVAEConfig, main=True, codebook_sizes=THREE, **CONTRASTIVE),
    "LETTER 3x256": trained(LetterModel, LetterConfig, main=True, data="letter", codebook_sizes=THREE, **LETTER),
    "LETTER 4x256": trained(LetterModel, LetterConfig, data="letter", codebook_sizes=FOUR, **LETTER),
    "DAS 3x256": trained(DASModel, DASConfig, data="das", codebook_sizes=THREE, **DAS),
    "MMQ 4x256": Tokenizer(mmq, training=TRAINING, data="mmq"),
    "RQ-VAE 4x256, contrastive": trained(RQVAEModel, RQVAEConfig, codebook_sizes=FOUR, **CONTRASTIVE),
}


@dataclass
class Data:
    """What tokenizers learn from."""

    splits: Any
    embeddings: ItemEmbeddings
    pairs: ItemPairs
    vectors: Path

    @classmethod
    def load(cls, args: argparse.Namespace) -> "Data":
        folder = args.data / args.dataset
        item_ids = pd.read_parquet(folder / "items.parquet", columns=["item_id"])["item_id"].sort_values().tolist()
        embeddings = ItemEmbeddings.from_file(folder / "embeddings_minilm.safetensors", item_ids=item_ids)
        splits = leave_one_out(read_sequences(str(folder / "sequences.txt")))
        pairs = ItemPairs.from_sequences(embeddings, splits["train"])
        return cls(splits, embeddings, pairs, args.vectors / args.dataset)

    def items_for(self, tokenizer: Tokenizer) -> ItemEmbeddings:
        """What a tokenizer encodes."""
        if tokenizer.data != "mmq":
            return self.embeddings
        return ItemEmbeddings.concatenate([self.embeddings, self.collaborative("items")])

    def collaborative(self, name: str) -> ItemEmbeddings:
        return ItemEmbeddings.from_file(self.vectors / f"{name}.parquet")

    def for_trainer(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """The data of a trainer, as its arguments."""
        items = self.items_for(tokenizer)
        if tokenizer.data not in ("letter", "das"):
            return {"train_dataset": items, "pairs": self.pairs if tokenizer.data == "pairs" else None}
        joined = items.join(collaborative=self.collaborative("items"))
        if tokenizer.data == "letter":
            return {"train_dataset": joined}
        # Only the pairs have the vectors. Users are known by nothing but what they did.
        users = self.collaborative("users")
        users = users.join(collaborative=users)
        return {"train_dataset": items, "pairs": UserItemPairs.from_sequences(users, joined, self.splits["train"])}


def fit(name: str, folder: Path, data: Data, seed: int):
    """A tokenizer, which is fitted unless it has been, and the CPU seconds that it took."""
    tokenizer, record = TOKENIZERS[name], folder / "fit.json"
    if not record.exists():
        given = data.for_trainer(tokenizer)
        set_seed(seed)
        started = time.process_time()
        model = tokenizer.make(len(data.embeddings))
        if tokenizer.training is None:
            model.fit(data.embeddings, seed=seed)
        else:
            arguments = RQVAETrainingArguments(
                output_dir=str(folder / "trainer"), **tokenizer.training, save_strategy="no", seed=seed, use_cpu=True,
                logging_strategy="no", disable_tqdm=True, report_to="none",
            )  # fmt: skip
            RQVAETrainer(model, arguments, **given).train()
        seconds = time.process_time() - started
        model.eval().save_pretrained(folder)
        write_json(record, {"fit_seconds": seconds})
    return AutoModel.from_pretrained(folder), json.loads(record.read_text())["fit_seconds"]


def codes_of(model, items: ItemEmbeddings) -> torch.Tensor:
    """The codes of all items; those of a balanced tokenizer are shared out evenly."""
    if model.has_balanced_codes:
        return model.balanced_codes(items)
    return model.encode(items.to_tensor().float()).codes


def measure(model, items: ItemEmbeddings, data: Data) -> dict[str, Any]:
    """What can be said of a tokenizer's codes without a retriever."""
    vectors, seconds = data.embeddings.to_tensor().float(), []
    for _ in range(3):
        started = time.process_time()
        codes = codes_of(model, items)
        seconds.append(time.process_time() - started)
    sizes = list(model.config.codebook_sizes)
    catalog = SemanticIdCatalog.from_codes(items.item_ids, codes, codebook_sizes=sizes, on_collision="suffix")
    ids = np.asarray(items.item_ids)[np.asarray(data.pairs.rows)]
    quality = semantic_id_quality(catalog, embeddings=vectors, pairs=ids).to_dict()
    result = {"codebook_sizes": sizes, "items_per_second": len(vectors) / min(seconds), "quality": quality}
    if isinstance(model, RandomIdsModel):
        return result
    with torch.no_grad():
        decoded = model.decode(codes)[:, : vectors.shape[1]]  # the text, where there is more
    spread = (vectors - vectors.mean(dim=0)).square().sum()
    result["unexplained_variance"] = float((vectors - decoded).square().sum() / spread)
    near = semantic_id_quality(catalog, embeddings=decoded, pairs=ids)
    result["decoded_embedding_hit_rate"] = near.embedding_hit_rate
    rows = np.arange(len(vectors))
    near, found = (nearest_neighbors(ItemEmbeddings(table), rows, NUM_NEIGHBORS) for table in (vectors, decoded))
    result["neighbor_overlap"] = float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(near, found, strict=True)]))
    result["neighbor_overlap"] /= NUM_NEIGHBORS
    return result


def run_name(name: str) -> str:
    return name.replace(", ", "_").replace(" + ", "_").replace(" ", "-")


def run_fits(args: argparse.Namespace) -> None:
    data = Data.load(args)
    for name in args.only or TOKENIZERS:
        folder = args.runs / args.dataset / f"{run_name(name)}_seed0"
        if (folder / "measured.json").exists():
            continue
        model, seconds = fit(name, folder, data, seed=0)
        items = data.items_for(TOKENIZERS[name])
        result = {"tokenizer": name, "fit_seconds": seconds, **measure(model, items, data)}
        write_json(folder / "measured.json", result)
        print(args.dataset, name, f"{seconds:.1f} s", f"{result['quality']['collision_rate']:.4f}", flush=True)


def run_retrievers(args: argparse.Namespace) -> None:
    data = Data.load(args)
    for seed in args.seeds:
        for name in args.only or [name for name, tokenizer in TOKENIZERS.items() if tokenizer.is_main]:
            folder = args.runs / args.dataset / f"{run_name(name)}_seed{seed}"
            if (folder / "retriever.json").exists():
                continue
            model, _ = fit(name, folder, data, seed)
            items = data.items_for(TOKENIZERS[name])
            codes, sizes = codes_of(model, items), list(model.config.codebook_sizes)
            catalog = SemanticIdCatalog.from_codes(items.item_ids, codes, codebook_sizes=sizes, on_collision="suffix")
            trainer, tokenizer = train_small_retriever(catalog, data.splits, folder / "retriever", seed)
            seconds = trainer.train_seconds
            evaluator = RetrievalEvaluator(
                data.splits["test"], catalog, ks=(5, 10), num_beams=NUM_BEAMS, max_history=20
            )
            retriever = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # in float32
            scores = evaluator(retriever, tokenizer)
            write_json(
                folder / "retriever.json",
                {"tokenizer": name, "seed": seed, "train_seconds": round(seconds), "test": scores},
            )
            print(args.dataset, name, seed, f"recall@10 {scores['recall@10']:.4f}", flush=True)


# What the table shows of a tokenizer: a heading, and how to read it.
COLUMNS = {
    "fit, s": lambda r: f"{r['fit_seconds']:.1f}",
    "items/s": lambda r: f"{r['items_per_second']:,.0f}",
    "variance lost": lambda r: percent(r.get("unexplained_variance")),
    "collisions": lambda r: percent(r["quality"]["collision_rate"]),
    "Gini": lambda r: f"{r['quality']['gini']:.3f}",
    "perplexity": lambda r: f"{min(r['quality']['perplexity']):.0f}-{max(r['quality']['perplexity']):.0f}",
    "hit rate@20": lambda r: percent((r.get("decoded_embedding_hit_rate") or {}).get("20")),
    "neighbours kept": lambda r: percent(r.get("neighbor_overlap")),
    "Recall@10": lambda r: with_deviation(r.get("retriever", {}).get("recall@10")),
    "NDCG@10": lambda r: with_deviation(r.get("retriever", {}).get("ndcg@10")),
}


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def with_deviation(scores: list[float] | None) -> str:
    if not scores:
        return ""
    mean = f"{np.mean(scores):.4f}"
    return f"{mean} ± {np.std(scores, ddof=1):.4f}" if len(scores) == len(SEEDS) else f"{mean} ({len(scores)} seed)"


def read_config(folder: Path) -> dict[str, Any]:
    """What makes a tokenizer, of its config."""
    others = {"architectures", "auto_map", "codebook_sizes", "dtype", "transformers_version", "use_cache"}
    config = json.loads((folder / "config.json").read_text())
    return {name: value for name, value in config.items() if name not in others}


def read_runs(runs: Path, dataset: str) -> list[dict[str, Any]]:
    """What has run of a dataset, a tokenizer after the other, each with the scores of its retrievers by seed."""
    found = []
    for name in TOKENIZERS:
        path = runs / dataset / f"{run_name(name)}_seed0" / "measured.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text()) | {
            "config": read_config(path.parent),
            "training": TOKENIZERS[name].training,
        }
        paths = [runs / dataset / f"{run_name(name)}_seed{seed}" / "retriever.json" for seed in SEEDS]
        retrievers = [json.loads(path.read_text()) for path in paths if path.exists()]
        if retrievers:
            scores = {key: [retriever["test"][key] for retriever in retrievers] for key in retrievers[0]["test"]}
            result["retriever"] = scores | {"seed": [retriever["seed"] for retriever in retrievers]}
        found.append(result)
    return found


def table(args: argparse.Namespace) -> None:
    """Joins what has run into one file, prints it and draws it."""
    runs = {dataset: read_runs(args.runs, dataset) for dataset in DATASETS}
    result = {
        "command": "for each dataset: python benchmarks/item_tokenizers.py fit --dataset D, the same with retrieve; "
        "then python benchmarks/item_tokenizers.py table",
        "protocol": PROTOCOL,
        "retriever": {"preset": "qwen2-small", **RETRIEVER, "epochs": EPOCHS, "batch_size": BATCH_SIZE},
        "seconds": "of CPU time, one thread, on a machine that was doing something else besides; without those of the "
        "collaborative vectors",
        "hardware": describe_hardware(),
        "datasets": runs,
    }
    write_json(args.results / "item_tokenizers.json", result)
    drawn = {dataset: found for dataset, found in runs.items() if any("retriever" in run for run in found)}
    plot(drawn, args.results / "item_tokenizers.png")
    for dataset, found in runs.items():
        print(f"\n| {DATASETS[dataset]} | " + " | ".join(COLUMNS) + " |\n" + "| --- " * (len(COLUMNS) + 1) + "|")
        for run in found:
            print(f"| {run['tokenizer']} | " + " | ".join(read(run) for read in COLUMNS.values()) + " |")


# Of the Okabe-Ito palette, told apart under every common colour blindness; shapes differ, too.
FAMILIES = {
    "Random IDs, LSH": ("#595959", "X", ("Random", "LSH")),
    "k-means": ("#009E73", "^", ("Residual k-means", "Hierarchical")),
    "OPQ": ("#E69F00", "P", ("OPQ",)),
    "FSQ": ("#56B4E9", "v", ("FSQ",)),
    "VQ-VAE": ("#CC79A7", "s", ("VQ-VAE",)),
    "RQ-VAE": ("#0072B2", "o", ("RQ-VAE", "RQ-KMeans+")),
    "trained on what users did, too": ("#D55E00", "D", ("LETTER", "DAS", "MMQ")),
}


def family_of(name: str) -> str:
    if "contrastive" in name:
        return "trained on what users did, too"
    return next(family for family, (*_, starts) in FAMILIES.items() if name.startswith(starts))


def plot(runs: dict[str, list[dict]], path: Path) -> None:
    """Quality against the time to fit: of the codes by themselves (top), and of retrievers (bottom)."""
    from matplotlib.figure import Figure

    numbers = {name: number for number, name in enumerate(TOKENIZERS, start=1)}
    figure = Figure(figsize=(15, 10), layout="constrained")
    grid = figure.add_gridspec(2, len(runs) + 1, width_ratios=[1] * len(runs) + [0.42])
    for column, (dataset, found) in enumerate(runs.items()):
        top = figure.add_subplot(grid[0, column])
        bottom = figure.add_subplot(grid[1, column], sharex=top)
        for run in found:
            name, seconds = run["tokenizer"], max(run["fit_seconds"], 0.1)
            color, marker, _ = FAMILIES[family_of(name)]
            style = {
                "color": color,
                "marker": marker,
                "markersize": 8,
                "markeredgecolor": "white",
                "linestyle": "none",
            }
            label = {"textcoords": "offset points", "xytext": (6, 3), "fontsize": 8, "color": "#404040"}
            if "neighbor_overlap" in run:
                top.plot(seconds, run["neighbor_overlap"], **style)
                top.annotate(str(numbers[name]), (seconds, run["neighbor_overlap"]), **label)
            if "retriever" in run:
                recall = run["retriever"]["recall@10"]
                spread = np.std(recall, ddof=1) if len(recall) > 1 else 0
                bottom.errorbar(seconds, np.mean(recall), spread, capsize=3, **style)
                bottom.annotate(str(numbers[name]), (seconds, np.mean(recall)), **label)
        top.set_title(DATASETS[dataset])
        top.set_ylabel(f"share of the {NUM_NEIGHBORS} nearest items that decoded codes keep")
        bottom.set_ylabel("Recall@10 of the small retriever, ± s.d. of seeds")
        bottom.set_xlabel("CPU seconds to fit, one thread")
        for axis in (top, bottom):
            axis.set_xscale("log")
            axis.set_ylim(bottom=0)
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(color="#E5E5E5", linewidth=0.6)
            axis.set_axisbelow(True)
    key = figure.add_subplot(grid[:, -1])
    key.set_axis_off()
    key.set(xlim=(0, 1), ylim=(len(numbers) + 1.5 * len(FAMILIES), 0))
    line = 0.0
    for family, (color, marker, _) in FAMILIES.items():
        key.plot(0.03, line, color=color, marker=marker, markersize=8, markeredgecolor="white", clip_on=False)
        key.text(0.08, line, family, color=color, fontweight="bold", fontsize=9, va="center")
        for name in (name for name in TOKENIZERS if family_of(name) == family):
            line += 1
            key.text(0.06, line, str(numbers[name]), fontsize=8, va="center", ha="right", color="#404040")
            key.text(0.08, line, name, fontsize=8, va="center", color="#404040")
        line += 1.5
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["fit", "retrieve", "table"])
    parser.add_argument("--dataset", choices=DATASETS, default="beauty")
    parser.add_argument("--only", nargs="+", choices=TOKENIZERS, metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/amazon2014"))
    parser.add_argument("--vectors", type=Path, default=Path("runs/item_vectors"), help="collaborative vectors")
    parser.add_argument("--runs", type=Path, default=Path("runs/item_tokenizers"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)  # it may have threads of its own
    {"fit": run_fits, "retrieve": run_retrievers, "table": table}[args.task](args)


if __name__ == "__main__":
    main()
