# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Renders the cards of the published recipes from `results/*.json` and the settings of `benchmarks/beauty.py`.

    python model_cards/render.py            # writes model_cards/*.md
    python model_cards/render.py --check    # writes nothing, and fails if one of them is stale
"""

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

from forge_hf.hub import FolderFacts, render_card, write_then_rename
from forge_hf.models import RQVAEConfig
from forge_hf.training import RQVAETrainingArguments
from forge_hf.training.retrievers import RETRIEVER_PRESETS


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import beauty  # noqa: E402


ORG = "forge"
DATA = "Amazon Beauty (2014, 5-core)"
ENCODER = "all-MiniLM-L6-v2"
SOURCE = (
    f"Items are numbered from 1 to {beauty.NUM_ITEMS:,} as in the files of S3-Rec, which come from Amazon Reviews "
    "2014 (McAuley et al., SIGIR 2015; He and McAuley, WWW 2016)"
)
LETTER = (
    "The semantic IDs are those that the authors of [LETTER](https://huggingface.co/papers/2405.07314) published for "
    "these items, none of forge_hf's own"
)
DAS = (
    "The semantic IDs are those of a DASModel ([DAS](https://huggingface.co/papers/2508.10584)) that aligns sentence "
    f"embeddings ({ENCODER}) of the items' texts with what users did in the training sequences"
)
OWN = (
    f"The semantic IDs are those of [{ORG}/rqvae-beauty](https://huggingface.co/{ORG}/rqvae-beauty), an RQ-VAE on "
    f"sentence embeddings ({ENCODER}) of the items' texts"
)


def read_runs(codes: str, epochs: int) -> list[dict[str, Any]]:
    """The results of one recipe, one a seed."""
    paths = sorted(ROOT.glob(f"results/beauty_{codes}_{epochs}epochs_seed*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def same(runs: list[dict[str, Any]], key: str) -> Any:
    """What all runs of a recipe must have in common."""
    if any(run[key] != runs[0][key] for run in runs):
        raise ValueError(f"The runs of one recipe differ in `{key}`. Give each its own card.")
    return runs[0][key]


def semantic_ids(run: dict[str, Any], on_collision: str | None) -> dict[str, Any]:
    facts = run["semantic_ids"]
    rate = facts.get("collision_rate_of_codes", facts.get("collision_rate_before_suffix"))
    return {
        "num_items": beauty.NUM_ITEMS,
        "codebook_sizes": facts["codebook_sizes"],
        "on_collision": on_collision,
        "collision_rate": rate,
        "utilization": facts["utilization"],
        "perplexity": facts["perplexity"],
    }


def retriever(codes: str, epochs: int, on_collision: str, notes: list[str]) -> FolderFacts:
    """The facts of a retriever: results over all seeds, weights and codes of the first."""
    runs = read_runs(codes, epochs)
    arguments = dict(same(runs, "arguments"))
    num_beams, _ = arguments.pop("eval_num_beams"), arguments.pop("max_history")
    tests = [run["test"] for run in runs]
    baselines = json.loads((ROOT / "results/beauty_baselines.json").read_text(encoding="utf-8"))["test"]
    metrics = {
        "split": "test",
        "protocol": f"{same(runs, 'protocol')}; {num_beams} beams. The checkpoint was chosen by NDCG@10 on "
        f"{beauty.VALIDATION_USERS:,} validation users",
        "num_examples": beauty.NUM_USERS,
        "num_seeds": len(runs),
        "values": {key: statistics.mean(test[key] for test in tests) for key in tests[0]},
        "baselines": baselines,
    }
    seeds = [run["seed"] for run in runs]
    if len(runs) > 1:
        metrics["std"] = {key: statistics.stdev(test[key] for test in tests) for key in tests[0]}
        notes = [*notes, f"The weights are those of seed {seeds[0]}"]
    first = ("num_train_epochs", "per_device_train_batch_size", "learning_rate")
    training = {
        "num_parameters": runs[0]["num_parameters"],
        **{key: arguments.pop(key) for key in first},
        **beauty.RETRIEVER_ARGUMENTS,
        **arguments,
        "seed": seeds if len(runs) > 1 else seeds[0],
        "seconds": statistics.mean(run["train_seconds"] for run in runs),
        "hardware": same(runs, "hardware"),
    }
    run = {
        "notes": [*notes, SOURCE],
        "data": {"name": DATA, "num_items": beauty.NUM_ITEMS, "num_users": beauty.NUM_USERS},
        "training": training,
        "metrics": [metrics],
        "semantic_ids": semantic_ids(runs[0], on_collision),
        "versions": same(runs, "versions"),
    }
    return FolderFacts("retriever", config=RETRIEVER_PRESETS[beauty.PRESET], run=run)


def rqvae(epochs: int) -> FolderFacts:
    """The facts of the RQ-VAE whose codes the retriever of these epochs reads."""
    first = read_runs("own", epochs)[0]
    arguments = RQVAETrainingArguments("unused", use_cpu=True, report_to="none", **beauty.RQVAE_ARGUMENTS).to_dict()
    shown = ("num_train_epochs", "per_device_train_batch_size", "learning_rate", "lr_scheduler_type", "warmup_steps")
    training = {
        **{key: arguments[key] for key in (*shown, "weight_decay")},
        "seed": first["seed"],
        "seconds": first["semantic_ids"]["rqvae_seconds"],
        "hardware": first["hardware"],
    }
    run = {
        "notes": [SOURCE],
        "data": {
            "name": f"{DATA}, texts embedded by {ENCODER}",
            "num_items": beauty.NUM_ITEMS,
            "embedding_dim": beauty.RQVAE["input_dim"],
        },
        "training": training,
        "semantic_ids": semantic_ids(first, None) | {"codebook_sizes": beauty.RQVAE["codebook_sizes"]},
        "versions": first["versions"],
    }
    return FolderFacts("item_tokenizer", config=json.loads(RQVAEConfig(**beauty.RQVAE).to_json_string()), run=run)


def render() -> dict[Path, str]:
    """The card of each recipe, by the file that it belongs in."""
    recipes = {
        "qwen2-small-beauty": retriever("own", 8, "suffix", [OWN]),
        "qwen2-small-beauty-das": retriever("das", 16, "suffix", [DAS]),
        "qwen2-small-beauty-letter": retriever("letter", 16, "keep", [LETTER]),
        "rqvae-beauty": rqvae(8),
    }
    folder = ROOT / "model_cards"
    return {folder / f"{name}.md": render_card(facts, f"{ORG}/{name}") for name, facts in recipes.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a card is stale")
    args = parser.parse_args()
    cards = render()
    stale = [path for path, text in cards.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if args.check and stale:
        sys.exit(f"Stale: {', '.join(path.name for path in stale)}. Run `make cards`.")
    for path in stale:
        write_then_rename(path, partial(Path.write_text, data=cards[path], encoding="utf-8"))


if __name__ == "__main__":
    main()
