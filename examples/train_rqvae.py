# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains an RQ-VAE on item embeddings and writes it as a folder that `AutoModel.from_pretrained` reads.

On invented items, in under a minute on a CPU. Killed anywhere, the same command goes on and ends as if nothing had
happened:

    python examples/train_rqvae.py --tiny --output_dir runs/rqvae

On a .safetensors, .npy, .parquet or .arrow file, FORGE's .npz, AL-GR's .csv, a saved dataset, or a dataset of the Hub
(columns `item_id` and `embedding`), here on two CPU processes, with `--batch_size` items each:

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 examples/train_rqvae.py \
        --embeddings items.parquet --output_dir runs/rqvae

As FORGE trains its own, with pairs of items that users had together (its archive, which has their embeddings too; a
file of two columns of item ids; or what stands side by side in training sequences):

    python examples/train_rqvae.py --preset forge --embeddings reconstruct_data_mask.npz \
        --pairs contrastive_data_mask.npz --output_dir runs/rqvae
    python examples/train_rqvae.py --preset forge --embeddings part_01.csv --sequences origin_behavior/s1_tiny.csv \
        --output_dir runs/rqvae

As LETTER, with collaborative vectors of the items, such as examples/train_item_vectors.py makes:

    python examples/train_rqvae.py --preset letter --embeddings items.parquet \
        --collaborative runs/vectors/items.parquet --output_dir runs/letter

An MMQ of several modalities, a file each, whose rows are matched by item id:

    python examples/train_rqvae.py --preset mmq --embeddings text.parquet collaborative.parquet --output_dir runs/mmq

As DAS, with such vectors of items and users, and what the users did:

    python examples/train_rqvae.py --preset das --embeddings items.parquet --collaborative runs/vectors/items.parquet \
        --user_vectors runs/vectors/users.parquet --sequences sequences.txt --output_dir runs/das

The presets rqkmeans_plus, vqvae and fsq need embeddings alone. Any field of a config can be set:

    python examples/train_rqvae.py --preset vqvae --codebook_sizes 256 256 256 256 \
        --config '{"codebook_form": "product"}' --embeddings items.parquet --output_dir runs/vqvae

What is fitted without a trainer, k-means and its like, is in fit_item_tokenizer.py.
"""

import argparse
import json
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModel, set_seed

from forge_hf import (
    ItemEmbeddings,
    ItemPairs,
    RQVAETrainer,
    SyntheticMarket,
    create_item_tokenizer,
    item_tokenizer_arguments,
    leave_one_out,
)
from forge_hf.data import UserItemPairs, read_training_sequences
from forge_hf.training import ITEM_TOKENIZER_PRESETS


# What `--preset ours` changes in TIGER's: no code falls out of use.
OURS = {"codebook_dim": 64, "codebook_update": "ema", "dead_code_threshold": 0.25}
CONFIG_ARGUMENTS = [
    "codebook_sizes", "codebook_dim", "hidden_sizes", "quantization_loss", "codebook_update", "dead_code_threshold",
    "num_shared_experts", "num_specific_experts",
]  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", nargs="+", help="file, saved dataset, or dataset of the Hub; or several files")
    parser.add_argument("--key", default="embeddings", help="name of the tensor in a .safetensors file")
    parser.add_argument("--item_ids", help="JSON list of the embeddings' item ids, where their file has none")
    parser.add_argument("--output_dir", required=True)
    pairs = parser.add_mutually_exclusive_group()
    pairs.add_argument(
        "--pairs", help="pairs of items for the contrastive loss: FORGE's .npz, or a file of two columns of item ids"
    )
    pairs.add_argument(
        "--sequences",
        help="or sequences of users, or AL-GR's origin_behavior, whose neighbouring training items are the pairs",
    )
    parser.add_argument(
        "--pair_batch_ratio", type=float, help="batches of pairs for each of items; default: all pairs"
    )
    parser.add_argument("--collaborative", help="file of the items' collaborative vectors and ids, for LETTER and DAS")
    parser.add_argument("--user_vectors", help="file of the users' collaborative vectors and ids, for DAS")
    parser.add_argument(
        "--preset", default="ours", choices=["ours", *ITEM_TOKENIZER_PRESETS], help="of what isn't set"
    )
    parser.add_argument("--config", type=json.loads, default={}, help="further fields of the config, as JSON")
    parser.add_argument("--codebook_sizes", type=int, nargs="+", help="codes of each level")
    parser.add_argument("--codebook_dim", type=int)
    parser.add_argument("--hidden_sizes", type=int, nargs="*")
    parser.add_argument("--quantization_loss", choices=["per_level", "cumulative"])
    parser.add_argument("--codebook_update", choices=["ema", "gradient"])
    parser.add_argument("--dead_code_threshold", type=float)
    parser.add_argument("--num_shared_experts", type=int, help="codes of all modalities, of the preset mmq")
    parser.add_argument("--num_specific_experts", type=int, help="codes of each modality, of the preset mmq")
    parser.add_argument("--num_train_epochs", type=float)
    parser.add_argument("--batch_size", type=int, help="items of a step, on each process")
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--push_to_hub", metavar="REPO_ID", help="repository to push the trained model to")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--tiny", action="store_true", help="a small model on 2,000 invented items")
    args = parser.parse_args()
    if bool(args.embeddings) + args.tiny != 1:
        parser.error("give exactly one of --embeddings and --tiny")
    if bool(args.collaborative) != (args.preset in ("letter", "das")):
        parser.error("--collaborative goes with --preset letter or das")
    if bool(args.user_vectors) != (args.preset == "das") or (args.preset == "das" and not args.sequences):
        parser.error("--user_vectors goes with --preset das, which needs --sequences too")
    if args.preset in ("mmq", "fsq") and (args.pairs or args.sequences):
        parser.error(f"--preset {args.preset} knows no pairs")
    if args.preset == "mmq" and (args.tiny or args.quantization_loss):
        parser.error("--preset mmq needs --embeddings, and knows no --quantization_loss")
    if args.preset != "mmq" and given(args, "num_shared_experts", "num_specific_experts"):
        parser.error("--num_shared_experts and --num_specific_experts are of --preset mmq")
    if args.tiny:
        args.codebook_sizes, args.codebook_dim, args.hidden_sizes = [32, 32, 32], 16, [64]
        args.num_train_epochs, args.batch_size = 20, 128
    return args


def given(args: argparse.Namespace, *names: str) -> dict:
    """The arguments that are set."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def dataset_name(embeddings: list[str]) -> str:
    """What the card calls the data: a dataset of the Hub by its id, files without their folder."""
    return " + ".join(Path(path).stem if Path(path).exists() else path for path in embeddings)


def main():
    args = parse_args()
    set_seed(args.seed)

    # 1. Open the item embeddings. Files are memory-mapped: nothing is read yet.
    if args.tiny:
        market = SyntheticMarket(num_items=2000, num_users=500 if args.preset == "forge" else 1)
        items = ItemEmbeddings(market.embeddings, item_ids=market.item_ids)
    elif len(args.embeddings) > 1 or Path(args.embeddings[0]).exists():
        item_ids = json.loads(Path(args.item_ids).read_text(encoding="utf-8")) if args.item_ids else None
        items = ItemEmbeddings.from_files(args.embeddings, item_ids=item_ids, key=args.key)
    else:
        items = ItemEmbeddings.from_dataset(load_dataset(args.embeddings[0], split="train"))
    joined = items
    if args.collaborative:
        joined = items.join(collaborative=ItemEmbeddings.from_file(args.collaborative))

    pairs = None
    if args.preset == "das":  # whose pairs have the vectors, and the items none
        users = ItemEmbeddings.from_file(args.user_vectors)
        users = users.join(collaborative=users)
        pairs = UserItemPairs.from_sequences(users, joined, read_training_sequences(args.sequences))
    elif args.pairs:
        pairs = ItemPairs.from_file(items, args.pairs)
    elif args.sequences:
        pairs = ItemPairs.from_sequences(items, read_training_sequences(args.sequences))
    elif args.tiny and args.preset == "forge":
        pairs = ItemPairs.from_sequences(items, leave_one_out(market.sequences)["train"])

    # 2. The model.
    preset = "tiger" if args.preset == "ours" else args.preset
    changes = given(args, *CONFIG_ARGUMENTS)
    changes |= {f"{name}_dim": table.dim for name, table in joined.tables.items()}
    if args.preset == "mmq":
        changes["modality_dims"] = items.dims
    elif args.preset == "das":
        changes["user_input_dim"] = users.dim
    elif args.preset == "letter":
        items = joined
    elif pairs is not None or preset == "forge":
        # FORGE's weight of 1 goes with losses that are averaged over dimensions; TIGER's are summed.
        loss = args.quantization_loss or ("cumulative" if preset == "forge" else "per_level")
        weight = 1.0 if loss == "cumulative" else float(items.dim)
        changes["contrastive_loss_weight"] = 0.0 if pairs is None else weight
    ours = OURS if args.preset == "ours" else {}
    model = create_item_tokenizer(preset, **ours | changes | args.config | {"input_dim": items.dim})

    # 3. Train. The trainer first checks the embeddings, measures them and initializes the codebooks by k-means.
    settings = given(args, "num_train_epochs", "learning_rate", "pair_batch_ratio")
    if args.batch_size is not None:
        settings |= {"per_device_train_batch_size": args.batch_size, "per_device_eval_batch_size": args.batch_size}
    training_args = item_tokenizer_arguments(
        preset,
        args.output_dir,
        **settings,
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
    trainer = RQVAETrainer(model, training_args, train_dataset=items, eval_dataset=items, pairs=pairs)
    trainer.train(resume_from_checkpoint=trainer.find_checkpoint())

    # 4. Evaluate on all items, and save (and push, with `--push_to_hub`).
    metrics = trainer.evaluate()
    trainer.save_model(args.output_dir)
    trainer.accelerator.end_training()
    if not trainer.is_world_process_zero():
        return
    print(f"Collision rate {metrics['eval_collision_rate']:.4f}; saved to {args.output_dir}")

    # 5. It loads as any model, and turns items into codes.
    model = AutoModel.from_pretrained(args.output_dir)
    first = range(min(5, len(items)))
    codes = model.encode(items.__getitems__(first)["embeddings"]).codes.tolist()
    for row in first:
        print(items.item_ids[row], codes[row])


if __name__ == "__main__":
    main()
