# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains an RQ-VAE on item embeddings and writes it as a folder that `AutoModel.from_pretrained` reads.

On invented items, in under a minute on a CPU; `--resume` goes on from the last checkpoint of `--output_dir`:

    python examples/train_rqvae.py --tiny --output_dir runs/rqvae

On a .safetensors, .npy, .parquet or .arrow file, a saved dataset, or a dataset of the Hub (columns `item_id` and
`embedding`), here on two CPU processes, with `--batch_size` items each:

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 examples/train_rqvae.py \
        --embeddings items.parquet --output_dir runs/rqvae
"""

import argparse
from pathlib import Path

from datasets import load_dataset
from transformers import set_seed

from forge_hf import ItemEmbeddings, RQVAEConfig, RQVAEModel, RQVAETrainer, RQVAETrainingArguments, SyntheticMarket


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", help="file, saved dataset, or dataset of the Hub")
    parser.add_argument("--key", default="embeddings", help="name of the tensor in a .safetensors file")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--codebook_sizes", type=int, nargs="+", default=[256, 256, 256], help="codes of each level")
    parser.add_argument("--codebook_dim", type=int, default=64)
    parser.add_argument("--hidden_sizes", type=int, nargs="*", default=[512, 256, 128])
    parser.add_argument("--quantization_loss", default="per_level", choices=["per_level", "cumulative"])
    parser.add_argument("--codebook_update", default="ema", choices=["ema", "gradient"])
    parser.add_argument("--dead_code_threshold", type=float, default=0.25)
    parser.add_argument("--num_train_epochs", type=float, default=150)
    parser.add_argument("--batch_size", type=int, default=1024, help="items of a step, on each process")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--push_to_hub", metavar="REPO_ID", help="repository to push the trained model to")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--tiny", action="store_true", help="a small model on 2,000 invented items")
    args = parser.parse_args()
    if bool(args.embeddings) + args.tiny != 1:
        parser.error("give exactly one of --embeddings and --tiny")
    if args.tiny:
        args.codebook_sizes, args.codebook_dim, args.hidden_sizes = [32, 32, 32], 16, [64]
        args.num_train_epochs, args.batch_size = 20, 128
    return args


def dataset_name(embeddings: str) -> str:
    """What the card calls the data: a dataset of the Hub by its id, a file without its folder."""
    return Path(embeddings).stem if Path(embeddings).exists() else embeddings


def main():
    args = parse_args()
    set_seed(args.seed)

    # 1. Open the item embeddings. Files are memory-mapped: nothing is read yet.
    if args.tiny:
        market = SyntheticMarket(num_items=2000, num_users=1)
        items = ItemEmbeddings(market.embeddings, item_ids=market.item_ids)
    elif Path(args.embeddings).exists():
        items = ItemEmbeddings.from_file(args.embeddings, key=args.key)
    else:
        items = ItemEmbeddings.from_dataset(load_dataset(args.embeddings, split="train"))

    # 2. The model.
    config = RQVAEConfig(
        input_dim=items.dim,
        hidden_sizes=args.hidden_sizes,
        codebook_dim=args.codebook_dim,
        codebook_sizes=args.codebook_sizes,
        quantization_loss=args.quantization_loss,
        codebook_update=args.codebook_update,
        dead_code_threshold=args.dead_code_threshold,
    )
    model = RQVAEModel(config)

    # 3. Train. The trainer first checks the embeddings, measures them and initializes the codebooks by k-means.
    training_args = RQVAETrainingArguments(
        output_dir=args.output_dir,
        num_train_epochs=args.num_train_epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        weight_decay=1e-4,
        seed=args.seed,
        eval_strategy="steps",
        eval_steps=0.1,  # of all steps
        save_strategy="steps",
        save_steps=0.1,
        save_total_limit=1,
        logging_steps=0.1,
        dataset_name="invented items" if args.tiny else dataset_name(args.embeddings),
        push_to_hub=args.push_to_hub is not None,
        hub_model_id=args.push_to_hub,
        hub_strategy="end",
        hub_private_repo=args.private or None,
        report_to="none",
    )
    trainer = RQVAETrainer(model, training_args, train_dataset=items, eval_dataset=items)
    trainer.train(resume_from_checkpoint=args.resume)

    # 4. Evaluate on all items, and save (and push, with `--push_to_hub`).
    metrics = trainer.evaluate()
    trainer.save_model(args.output_dir)
    if not trainer.is_world_process_zero():
        return
    print(f"Collision rate {metrics['eval_collision_rate']:.4f}; saved to {args.output_dir}")

    # 5. It loads as any model, and turns items into codes.
    model = RQVAEModel.from_pretrained(args.output_dir)
    first = range(min(5, len(items)))
    codes = model.encode(items.__getitems__(first)["embeddings"]).codes.tolist()
    for row in first:
        print(items.item_ids[row], codes[row])


if __name__ == "__main__":
    main()
