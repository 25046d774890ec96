# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Fits an item tokenizer that needs no trainer and writes it as a folder that `AutoModel.from_pretrained` reads.

    python examples/fit_item_tokenizer.py --embeddings items.parquet --output_dir runs/kmeans
    python examples/fit_item_tokenizer.py --embeddings items.parquet --model_type residual_kmeans \
        --codebook_sizes 256 256 256 --config '{"balanced": true}' --output_dir runs/balanced
    python examples/fit_item_tokenizer.py --tiny --output_dir runs/kmeans

Then `build_catalog.py --rqvae runs/kmeans` makes the catalog. Embeddings are memory-mapped, and read by slices.
"""

import argparse
import json
from dataclasses import fields
from pathlib import Path

from datasets import load_dataset
from transformers import AutoConfig, AutoModel

from forge_hf import ItemEmbeddings, SyntheticMarket


MODEL_TYPES = ["residual_kmeans", "residual_kmeans_fsq", "hierarchical_kmeans", "opq", "lsh", "random_ids"]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", nargs="+", help="file, saved dataset, or dataset of the Hub; or several files")
    parser.add_argument("--key", default="embeddings", help="name of the tensor in a .safetensors file")
    parser.add_argument("--item_ids", help="JSON list of the embeddings' item ids, where their file has none")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--model_type", default="residual_kmeans", choices=MODEL_TYPES)
    parser.add_argument("--codebook_sizes", type=int, nargs="+", help="codes of each level; default: the model's")
    parser.add_argument("--config", type=json.loads, default={}, help="further fields of the config, as JSON")
    parser.add_argument("--device", default="cpu", help="where to fit: cpu, cuda, ...")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--push_to_hub", metavar="REPO_ID", help="repository to push the model to")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--tiny", action="store_true", help="16 codes a level on 500 invented items")
    args = parser.parse_args()
    if bool(args.embeddings) + args.tiny != 1:
        parser.error("give exactly one of --embeddings and --tiny")
    if args.codebook_sizes:
        args.config["codebook_sizes"] = args.codebook_sizes
    return args


def main():
    args = parse_args()

    # 1. Open the item embeddings. Files are memory-mapped: nothing is read yet.
    if args.tiny:
        market = SyntheticMarket(num_items=500, num_users=1)
        items = ItemEmbeddings(market.embeddings, item_ids=market.item_ids)
        if args.model_type != "residual_kmeans_fsq":
            args.config.setdefault("codebook_sizes", [16, 16, 16])
    elif len(args.embeddings) > 1 or Path(args.embeddings[0]).exists():
        item_ids = json.loads(Path(args.item_ids).read_text(encoding="utf-8")) if args.item_ids else None
        items = ItemEmbeddings.from_files(args.embeddings, item_ids=item_ids, key=args.key)
    else:
        items = ItemEmbeddings.from_dataset(load_dataset(args.embeddings[0], split="train"))

    # 2. Fit: all items are read a few times, by slices, and k-means sees a sample of them.
    config = AutoConfig.for_model(args.model_type, input_dim=items.dim, **args.config)
    if unknown := sorted(set(args.config) - {field.name for field in fields(config)}):
        raise SystemExit(f"--config has {unknown}, which {type(config).__name__} doesn't know.")
    model = AutoModel.from_config(config).to(args.device).fit(items, seed=args.seed)

    # 3. Save, and push. It loads as any model, and turns items into codes.
    model.save_pretrained(args.output_dir)
    if args.push_to_hub:
        model.push_to_hub(args.push_to_hub, private=args.private or None)
    model = AutoModel.from_pretrained(args.output_dir)
    first = range(min(5, len(items)))
    codes = model.encode(items.__getitems__(first)["embeddings"]).codes.tolist()
    for row in first:
        print(items.item_ids[row], codes[row])
    print(f"saved to {args.output_dir}")


if __name__ == "__main__":
    main()
