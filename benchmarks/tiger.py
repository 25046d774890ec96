# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
What TIGER (https://huggingface.co/papers/2305.05065, section 4) does with generation, on Amazon Beauty (2014, 5-core).

    python benchmarks/tiger.py entropy             # diversity by temperature: its Table 3, and lists as in its Table 4
    python benchmarks/tiger.py invalid             # share of invalid semantic IDs without the constraint: its Fig. 6
    python benchmarks/tiger.py cold-start-train    # RQ-VAE and retriever that never saw 5 % of the test items
    python benchmarks/tiger.py cold-start          # recall of these items against neighbours: its Fig. 5

The first two read retrievers that `benchmarks/beauty.py train` left in `--runs`: `beauty_own_8epochs_seed0` and
`beauty_letter_16epochs_seed1`. Lists are full rankings over 12,101 items without the history's own. `--data` holds
`beauty/sequences.txt`, `beauty/embeddings_minilm.safetensors`, `beauty/items.parquet` and `beauty/letter_sids.json`. A
training that was stopped goes on from its last checkpoint. How `retrieve` ranks unseen items, by probabilities among
them and not over all codes, was chosen on the users whose validation target is a held-out item.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from beauty import PRESET, RETRIEVER_ARGUMENTS, VALIDATION_USERS, best_log, load_data, own_codes
from transformers import AutoTokenizer, Qwen2ForCausalLM, set_seed
from transformers.trainer_utils import get_last_checkpoint

from forge_hf import (
    ItemEmbeddings,
    RetrievalTrainer,
    RetrievalTrainingArguments,
    RQVAEModel,
    SemanticIdCatalog,
    create_retriever,
)
from forge_hf.evaluation import (
    NearestNeighborsBaseline,
    catalog_coverage_at_k,
    entropy_at_k,
    invalid_rate,
    ndcg_at_k,
    plot_curves,
    recall_at_k,
)
from forge_hf.generation import PrefixTable, retrieve, retrieve_unconstrained
from forge_hf.hub import describe_hardware, write_json


RUNS = {
    "own codes, 8 epochs": "beauty_own_8epochs_seed0",
    "LETTER's codes, 16 epochs": "beauty_letter_16epochs_seed1",
}
USERS = 1000  # of the test users, drawn with seed 0, for what isn't measured on all
TABLE_3 = {  # TIGER's Entropy@10, @20 and @50 by temperature
    "1.0": [0.76, 1.14, 1.70],
    "1.5": [1.14, 1.52, 2.06],
    "2.0": [1.38, 1.76, 2.28],
}
HELD_OUT = 0.05  # share of the items that are a test target, which training never sees
COLD_START = "beauty_cold_start"


def load_retriever(args: argparse.Namespace, name: str) -> dict:
    """Model, tokenizer, catalog and table, as arguments of `retrieve`."""
    folder = Path(args.runs, name, "retriever")
    model, tokenizer = Qwen2ForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    catalog = load_catalog(args, name)
    table = PrefixTable.from_catalog(catalog, tokenizer)
    return {"model": model, "tokenizer": tokenizer, "catalog": catalog, "prefix_table": table}


def load_catalog(args: argparse.Namespace, name: str) -> SemanticIdCatalog:
    """The catalog of a run, made as the run made it; its fingerprint, which the model names, tells if it isn't."""
    if name == COLD_START:
        return SemanticIdCatalog.from_pretrained(Path(args.runs, name, "retriever"))
    if "letter" in name:
        codes = json.loads((args.data / "beauty" / "letter_sids.json").read_text())
        return SemanticIdCatalog.from_codes(
            [int(item) for item in codes], list(codes.values()), codebook_sizes=[256] * 4, on_collision="keep"
        )
    _, embeddings = load_data(args.data / "beauty")
    rqvae = RQVAEModel.from_pretrained(Path(args.runs, name, "rqvae"))
    codes = rqvae.encode(embeddings.to_tensor()).codes
    return SemanticIdCatalog.from_codes(
        embeddings.item_ids, codes, codebook_sizes=rqvae.config.codebook_sizes, on_collision="suffix"
    )


def facts_of(args: argparse.Namespace, users: int) -> dict:
    return {
        "command": " ".join(["python", "benchmarks/tiger.py", *sys.argv[1:]]),
        "users": f"{users:,} of 22,363 test users, drawn with seed 0",
        "seed": args.seed,
        "hardware": describe_hardware(),
    }


def entropy(args: argparse.Namespace) -> None:
    splits, _ = load_data(args.data / "beauty")
    test = splits["test"].shuffle(seed=0).select(range(args.users))
    histories, targets = test["history"][:], test["target"][:]
    items = read_items(args)
    categories = {name: items[name].to_dict() for name in ("category", "leaf_category", "top_category")}
    result = facts_of(args, args.users) | {
        "categories": {name: len(set(of_item.values())) for name, of_item in categories.items()},
        "tiger_table_3": {"ks": [10, 20, 50], "by_temperature": TABLE_3},
        "models": {},
    }
    for title, name in RUNS.items():
        retriever = load_retriever(args, name)
        levels = retriever["catalog"].layout.num_levels
        settings = {"no temperature": None} | {f"{t}, all levels": t for t in (1.0, 1.5, 2.0)}
        settings["2.0, first level"] = [2.0] + [None] * (levels - 1)
        rows, lists = {}, {}
        for setting, temperature in settings.items():
            row = {key: [] for key in (*(f"entropy_of_{kind}" for kind in categories), "recall", "ndcg", "coverage")}
            for k in (10, 20, 50):
                ranked = retrieve(
                    # As many beams as items: what is drawn is what is listed.
                    **retriever, histories=histories, top_k=k, num_beams=k, temperature=temperature, seed=args.seed,
                ).item_ids  # fmt: skip
                for kind, of_item in categories.items():
                    row[f"entropy_of_{kind}"].append(entropy_at_k(ranked, of_item, k))
                row["recall"].append(recall_at_k(ranked, targets, k))
                row["ndcg"].append(ndcg_at_k(ranked, targets, k))
                row["coverage"].append(catalog_coverage_at_k(ranked, k, len(retriever["catalog"])))
                if k == 10:
                    lists[setting] = ranked
            rows[setting] = {key: [round(value, 4) for value in values] for key, values in row.items()}
            print(title, setting, rows[setting], flush=True)
        result["models"][title] = {"run": name, "ks": [10, 20, 50], "by_temperature": rows}
        print_examples(lists, test, items)
    write_json(Path(args.results, "tiger_entropy.json"), result)
    ks = [10, 20, 50]
    panels = []
    for title, model in result["models"].items():
        curves = {
            f"T = {t}": (ks, model["by_temperature"][f"{t}, all levels"]["entropy_of_category"])
            for t in (2.0, 1.5, 1.0)
        }
        curves["beam search"] = (ks, model["by_temperature"]["no temperature"]["entropy_of_category"])
        panels.append({"curves": curves, "title": title, "xlabel": "K", "ylabel": "Entropy@K of categories (nats)"})
    published = {f"T = {t}": (ks, TABLE_3[f"{t}"]) for t in (2.0, 1.5, 1.0)}
    panels.append(panels[0] | {"curves": published, "title": "TIGER's Table 3 (published)"})
    plot_curves(panels, Path(args.results, "tiger_entropy.png"))


def read_items(args: argparse.Namespace) -> pd.DataFrame:
    """
    Titles and categories by item. Of the path Beauty > Skin Care > Face > Masks, `category` is "Skin Care, Face",
    by which TIGER's Table 4 names things.
    """
    items = pd.read_parquet(args.data / "beauty" / "items.parquet").set_index("item_id")
    items["category"] = [", ".join(paths[0][1:3]) for paths in items.categories]
    return items.fillna({"leaf_category": "", "top_category": ""})


def print_examples(lists: dict, test, items: pd.DataFrame, num_examples: int = 3) -> None:
    """Lists as in TIGER's Table 4: the commonest categories of ten items, and the first titles."""
    for row in range(num_examples):
        target = test["target"][row]
        print(f"\nTarget: {items.title[target]} ({items.category[target]})")
        for setting in ("no temperature", "1.0, all levels", "2.0, all levels"):
            ranked = lists[setting][row]
            commonest = Counter(items.category[ranked]).most_common(3)
            print(f"  T: {setting}: {', '.join(f'{name} ({count})' for name, count in commonest)}")
            print("".join(f"    {items.title[item]}\n" for item in ranked[:3]), end="")
    print(flush=True)


def invalid(args: argparse.Namespace) -> None:
    splits, _ = load_data(args.data / "beauty")
    test = splits["test"].shuffle(seed=0).select(range(args.users))
    histories, targets = test["history"][:], test["target"][:]
    widths = [1, 5, 10, 20, 30, 40, 50]
    result = facts_of(args, args.users) | {"tiger_fig_6_at_10": "0.1 % to 1.6 %, over three data sets", "models": {}}
    for title, name in RUNS.items():
        retriever = load_retriever(args, name)
        by_width = {
            width: retrieve_unconstrained(**retriever, histories=histories, num_beams=width) for width in widths
        }
        lists = {
            "invalid ones left out": by_width[10],
            "prefix matching": retrieve_unconstrained(
                **retriever, histories=histories, num_beams=10, fallback="prefix"
            ),
            "constrained": retrieve(
                **retriever, histories=histories, num_beams=10, top_k=10, exclude_history=False
            ),
        }  # fmt: skip
        result["models"][title] = {
            "run": name,
            "num_beams": widths,
            "invalid_rate_of_all_beams": [rate_of(by_width[width], width) for width in widths],
            "invalid_rate_of_the_first_k_of_50_beams": [rate_of(by_width[50], width) for width in widths],
            "lists_of_10_beams": {
                fallback: {
                    "mean_length": sum(map(len, found.item_ids)) / len(histories),
                    "recall@10": recall_at_k(found.item_ids, targets, 10),
                    "ndcg@10": ndcg_at_k(found.item_ids, targets, 10),
                }
                for fallback, found in lists.items()
            },
        }
        print(title, json.dumps(result["models"][title], indent=2), flush=True)
    write_json(Path(args.results, "tiger_invalid.json"), result)
    panel = {"xlabel": "K", "ylabel": "Invalid semantic IDs", "percent": True}
    panels = [
        panel
        | {
            "title": heading,
            "curves": {title: (widths, model[key]) for title, model in result["models"].items()},
        }
        for heading, key in (
            ("Beam search with K beams", "invalid_rate_of_all_beams"),
            ("The first K of 50 beams", "invalid_rate_of_the_first_k_of_50_beams"),
        )
    ]
    plot_curves(panels, Path(args.results, "tiger_invalid.png"))


def rate_of(generated, k: int) -> float:
    kept = [
        [text if ok else None for text, ok in zip(texts, valid, strict=True)]
        for texts, valid in zip(generated.semantic_ids, generated.valid, strict=True)
    ]
    return invalid_rate(kept, k)


def held_out_items(splits) -> list[int]:
    targets = np.unique(splits["test"]["target"][:])
    rng = np.random.default_rng(0)
    return sorted(rng.choice(targets, round(HELD_OUT * len(targets)), replace=False).tolist())


def cold_start_train(args: argparse.Namespace) -> None:
    """Trains on everything but the held-out items, which then enter the catalog by encoding alone."""
    run = Path(args.runs, COLD_START)
    run.mkdir(parents=True, exist_ok=True)
    set_seed(args.seed)
    splits, embeddings = load_data(args.data / "beauty")
    unseen = set(held_out_items(splits))
    seen = [item for item in embeddings.item_ids if item not in unseen]
    order = [*seen, *sorted(unseen)]
    vectors = embeddings.to_tensor()[torch.tensor(order) - 1]  # item ids are 1, 2, ...

    _, sizes, rqvae_seconds = own_codes(ItemEmbeddings(vectors[: len(seen)], seen), run / "rqvae", args.seed)
    codes = RQVAEModel.from_pretrained(run / "rqvae").encode(vectors).codes
    # The last level numbers items of equal codes in the order given, so that unseen items take no seen item's number.
    catalog = SemanticIdCatalog.from_codes(order, codes, codebook_sizes=sizes, on_collision="suffix")
    print(catalog, flush=True)

    def without_unseen(row: dict) -> dict:
        return {name: [i for i in row[name] if i not in unseen] for name in ("items", "history") if name in row}

    train = splits["train"].map(without_unseen).filter(lambda row: len(row["items"]) > 0)
    validation = splits["validation"].map(without_unseen)
    validation = validation.filter(lambda row: row["target"] not in unseen and len(row["history"]) > 0)
    model, tokenizer = create_retriever(PRESET, catalog)
    arguments = RetrievalTrainingArguments(
        output_dir=str(run), num_train_epochs=args.epochs, per_device_train_batch_size=32,
        per_device_eval_batch_size=64, learning_rate=2e-3, hidden_dropout=0.1, **RETRIEVER_ARGUMENTS,
        eval_strategy="steps", eval_steps=0.125, save_strategy="steps", save_steps=0.125, logging_steps=0.125,
        use_cpu=not torch.cuda.is_available(), seed=args.seed, disable_tqdm=True, report_to="none",
    )  # fmt: skip
    trainer = RetrievalTrainer(
        model, arguments, catalog=catalog, processing_class=tokenizer, train_dataset=train,
        eval_dataset=validation.shuffle(seed=0).select(range(VALIDATION_USERS)),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(run)))
    trainer.save_model(str(run / "retriever"))
    facts = {
        "held_out_items": len(unseen),
        "training_interactions_removed": sum(map(len, splits["train"]["items"][:])) - sum(map(len, train["items"][:])),
        "epochs": args.epochs,
        "seed": args.seed,
        "validation": {key: value for key, value in best_log(trainer).items() if key != "epoch"},
        "rqvae_seconds": round(rqvae_seconds),
        "train_seconds": round(trainer.train_seconds),
        "hardware": describe_hardware(),
    }
    write_json(run / "facts.json", facts)
    print(json.dumps(facts, indent=2), flush=True)


def cold_start(args: argparse.Namespace) -> None:
    run = Path(args.runs, COLD_START)
    splits, embeddings = load_data(args.data / "beauty")
    unseen = held_out_items(splits)
    test = splits["test"].filter(lambda row: row["target"] in set(unseen))
    histories, targets = test["history"][:], test["target"][:]
    others = splits["test"].shuffle(seed=0).select(range(args.users))
    retriever = load_retriever(args, COLD_START)
    catalog = retriever["catalog"]
    is_unseen = np.isin(catalog.item_ids, unseen)
    known = {tuple(codes[:3]) for codes in catalog.codes[torch.from_numpy(~is_unseen)].tolist()}
    shared = sum(tuple(codes[:3]) in known for codes in catalog.codes[torch.from_numpy(is_unseen)].tolist())

    vectors = embeddings.to_tensor()
    all_neighbors = NearestNeighborsBaseline(embeddings).rank(histories, top_k=20)
    ranked_neighbors = unseen_neighbors(vectors, unseen, histories)
    by_rule = tiger_rule(retriever, histories, is_unseen)

    # The unseen items of a list are the first of this ranking, whatever the length and the share.
    options = {"top_k": 20, "unseen_items": unseen, "unseen_fraction": 1.0}
    ours = retrieve(**retriever, histories=histories, **options).item_ids

    def measure(k: int, share: float) -> dict[str, float]:
        places = int(share * k + 1e-9)
        ranked = {"ours": ours, "tiger's rule": by_rule, "neighbours, same places": ranked_neighbors}
        recall = {name: recall_at_k([items[:places] for items in lists], targets, k) for name, lists in ranked.items()}
        return {"places": places, **recall, "neighbours of all items": recall_at_k(all_neighbors, targets, k)}

    by_k = {k: measure(k, 0.1) for k in range(5, 21)}
    by_share = {share: measure(10, share) for share in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)}
    options = {"unseen_items": unseen, "unseen_fraction": 0.1}
    lists = retrieve(**retriever, histories=histories, **options).item_ids
    unseen_listed = sum(len(set(items) & set(unseen)) for items in lists) / len(lists)
    if recall_at_k(lists, targets, 10) != by_share[0.1]["ours"]:
        raise SystemExit("A list of 10 with a share of 0.1 isn't what the ranking of unseen items says.")
    of_all = {}
    for share in (0.0, 0.1, 0.3):
        options = {"unseen_items": unseen, "unseen_fraction": share}
        ranked = retrieve(**retriever, histories=others["history"][:], **options).item_ids
        of_all[share] = recall_at_k(ranked, others["target"][:], 10)
    result = facts_of(args, args.users) | {
        "users": f"all {len(test):,} test users whose target is one of the held-out items; all_users: {args.users:,} "
        "of all test users, drawn with seed 0",
        "training": json.loads((run / "facts.json").read_text()),
        "held_out_items_whose_codes_a_seen_item_has": shared,
        "places": "the share of K, rounded down: what neither the paper nor its figure says",
        "unseen_items_in_a_list_of_10_at_share_0.1": unseen_listed,
        "recall_by_k_at_share_0.1": by_k,
        "recall@10_by_share": by_share,
        "recall@10_of_all_users_by_share": of_all,
    }
    write_json(Path(args.results, "tiger_cold_start.json"), result)
    print(json.dumps(result, indent=2), flush=True)
    names = ["ours", "tiger's rule", "neighbours, same places", "neighbours of all items"]
    panels = []
    for rows, title, xlabel in ((by_k, "ε = 0.1", "K"), (by_share, "K = 10", "ε, the share of unseen items")):
        curves = {name: (list(rows), [row[name] for row in rows.values()]) for name in names}
        panels.append({"curves": curves, "title": title, "xlabel": xlabel, "ylabel": "Recall of held-out items"})
    plot_curves(panels, Path(args.results, "tiger_cold_start.png"))


def unseen_neighbors(vectors: torch.Tensor, unseen: list[int], histories: list) -> list[list[int]]:
    """All unseen items, the nearest to the history's last item first, without those of the history."""
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    rows = torch.tensor(unseen) - 1
    order = (vectors[torch.tensor([history[-1] for history in histories]) - 1] @ vectors[rows].T).argsort(
        dim=-1, descending=True
    )
    return [
        [unseen[place] for place in places if unseen[place] not in history]
        for places, history in zip(order.tolist(), map(set, histories), strict=True)
    ]


def tiger_rule(retriever: dict, histories: list, is_unseen: np.ndarray) -> list[list[int]]:
    """The paper's own rule: the unseen items that share their first three codes with one of 50 generated IDs."""
    catalog = retriever["catalog"]
    by_codes = {}
    for row in np.flatnonzero(is_unseen).tolist():
        by_codes.setdefault(tuple(catalog.codes[row, :3].tolist()), []).append(catalog.item_ids[row])
    generated = retrieve_unconstrained(**retriever, histories=histories, num_beams=50)
    lists = []
    for texts, history in zip(generated.semantic_ids, map(set, histories), strict=True):
        prefixes = dict.fromkeys(tuple(catalog.layout.from_text(text)[:3].tolist()) for text in texts)
        lists.append([item for codes in prefixes for item in by_codes.get(codes, []) if item not in history])
    return lists


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = {
        "entropy": entropy,
        "invalid": invalid,
        "cold-start-train": cold_start_train,
        "cold-start": cold_start,
    }
    parser.add_argument("task", choices=list(tasks))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/amazon2014"))
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--results", default="results")
    args = parser.parse_args()
    started = time.perf_counter()
    tasks[args.task](args)
    print(f"{time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
