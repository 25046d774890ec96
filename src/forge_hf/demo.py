# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The whole road on the built-in market: embeddings to semantic IDs to a retriever to recommended titles."""

import os
import time
from pathlib import Path

import torch
from transformers import pipeline, set_seed

from .data import ItemEmbeddings, SyntheticMarket, leave_one_out
from .evaluation import (
    NearestNeighborsBaseline,
    PopularityBaseline,
    RandomBaseline,
    RetrievalEvaluator,
    evaluate_rankings,
)
from .evaluation.plots import plot_categories_by_first_code, plot_codebook_usage
from .hub import write_json
from .models import RQVAEConfig, RQVAEModel
from .semantic_ids import SemanticIdCatalog, codebook_utilization, collision_rate
from .training import (
    RetrievalTrainer,
    RetrievalTrainingArguments,
    RQVAETrainer,
    RQVAETrainingArguments,
    create_retriever,
)


__all__ = ["run_demo"]

COLUMNS = ["recall@5", "ndcg@5", "recall@10", "ndcg@10"]


def run_demo(
    output_dir: str | os.PathLike,
    seed: int = 0,
    num_items: int = 1000,
    num_users: int = 3000,
    num_train_epochs: int = 8,
) -> dict:
    """
    Runs the main job on a generated market: trains an RQ-VAE, builds the catalog, trains a small Qwen2 retriever,
    compares it with baselines and with the best that is possible, and recommends.

    Args:
        output_dir (`str` or `os.PathLike`):
            Folder for the retriever, two pictures and `results.json`.
        seed (`int`, *optional*, defaults to 0):
            Seed of the market and of the training.
        num_items (`int`, *optional*, defaults to 1000):
            Items of the market.
        num_users (`int`, *optional*, defaults to 3000):
            Users of the market.
        num_train_epochs (`int`, *optional*, defaults to 8):
            Epochs of the retriever.

    Returns:
        `dict`: metrics of each ranker on the test items.
    """
    folder, started = Path(output_dir), time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    set_seed(seed)

    _say("1. A market of invented items and users, whose next item follows a known law")
    market = SyntheticMarket(num_items=num_items, num_users=num_users, seed=seed)
    splits = leave_one_out(market.sequences)
    items = ItemEmbeddings(market.embeddings, market.item_ids)
    print(f"{market.num_items} items, {market.num_users} users, {market.embeddings.shape[1]}-d embeddings")

    _say("2. An RQ-VAE turns embeddings into codes")
    config = RQVAEConfig(
        input_dim=items.dim,
        hidden_sizes=[64],
        codebook_dim=32,
        codebook_sizes=[32, 32, 32],
        codebook_update="ema",
        dead_code_threshold=0.25,
    )
    rqvae = RQVAEModel(config)
    RQVAETrainer(rqvae, _rqvae_arguments(folder, seed), train_dataset=items).train()
    codes = rqvae.encode(items.to_tensor()).codes
    used = ", ".join(f"{share:.0%}" for share in codebook_utilization(codes, config.codebook_sizes).tolist())
    print(f"codes in use by level: {used}; collision rate: {collision_rate(codes):.1%}")

    _say("3. A catalog gives every item a semantic ID of its own")
    catalog = SemanticIdCatalog.from_codes(
        items.item_ids, codes, codebook_sizes=config.codebook_sizes, on_collision="suffix"
    )
    titles = dict(zip(market.items["item_id"], market.items["title"], strict=True))
    categories = {
        item: path[1] for item, path in zip(market.items["item_id"], market.items["categories"], strict=True)
    }
    for item, text in list(zip(catalog.item_ids, catalog.layout.to_text(catalog.codes), strict=True))[:3]:
        print(f"{item}  {text:<16} {titles[item]}")
    plot_codebook_usage(catalog, folder / "codebook_usage.png")
    plot_categories_by_first_code(catalog, categories, folder / "categories_by_first_code.png")

    _say("4. A small Qwen2 learns to name a user's next item by its semantic ID")
    model, tokenizer = create_retriever("qwen2-small", catalog, num_hidden_layers=2)
    print(f"{model.num_parameters():,} parameters")
    trainer = RetrievalTrainer(
        model,
        _retrieval_arguments(folder, seed, num_train_epochs),
        catalog=catalog,
        processing_class=tokenizer,
        train_dataset=splits["train"],
    )
    trainer.train()
    trainer.save_model(folder / "retriever")

    _say("5. Test items, each ranked among all items, seen ones excluded")
    test = splits["test"]
    histories = test["history"][:]
    ours = RetrievalEvaluator(test, catalog)(trainer.model, tokenizer)
    rankers = {
        "random": RandomBaseline(catalog.item_ids, seed=seed),
        "popularity": PopularityBaseline(catalog.item_ids, splits["train"]["items"][:]),
        "neighbours of the last item": NearestNeighborsBaseline(items),
    }
    results = {
        name: evaluate_rankings(ranker.rank(histories, top_k=10, exclude_history=True), test, catalog)
        for name, ranker in rankers.items()
    }
    results["forge_hf"] = ours
    results["best possible"] = {
        f"{name}@{k}": best(histories, k)
        for k in (5, 10)
        for name, best in (("recall", market.best_possible_recall), ("ndcg", market.best_possible_ndcg))
    }
    print(f"{'':<28}" + "".join(f"{column:>11}" for column in COLUMNS))
    for name, metrics in results.items():
        print(f"{name:<28}" + "".join(f"{metrics[column]:>11.3f}" for column in COLUMNS))

    _say("6. The saved folder, loaded by transformers.pipeline, recommends")
    recommend = pipeline("generative-retrieval", model=str(folder / "retriever"), device="cpu")
    for history in histories[:2]:
        print("\nafter  " + " > ".join(titles[item] for item in history[-3:]))
        for rank, found in enumerate(recommend(history, top_k=3), start=1):
            title = titles[found["item_id"]]
            print(f"  {rank}. {title:<38} {found['semantic_id']:<16} p = {torch.tensor(found['score']).exp():.3f}")

    results = {name: {key: round(metrics[key], 6) for key in COLUMNS} for name, metrics in results.items()}
    write_json(folder / "results.json", results)
    print(f"\n{time.perf_counter() - started:.0f} s. In {folder}: retriever/, results.json and two pictures.")
    return results


def _rqvae_arguments(folder: Path, seed: int) -> RQVAETrainingArguments:
    return RQVAETrainingArguments(
        output_dir=str(folder / "rqvae"),
        num_train_epochs=200,
        per_device_train_batch_size=250,
        save_strategy="no",
        logging_steps=200,
        seed=seed,
        use_cpu=True,
    )


def _retrieval_arguments(folder: Path, seed: int, num_train_epochs: int) -> RetrievalTrainingArguments:
    return RetrievalTrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=num_train_epochs,
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.1,
        hidden_dropout=0.1,
        logging_steps=94,
        # No validation: nothing is chosen here.
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        seed=seed,
        use_cpu=True,
    )


def _say(text: str) -> None:
    print(f"\n{text}")
