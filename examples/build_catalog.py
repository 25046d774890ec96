# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Builds the catalog of semantic IDs: item embeddings through an item tokenizer, or codes that are there already.

    python examples/build_catalog.py --rqvae runs/rqvae --embeddings items.parquet --output_dir runs/catalog
    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 examples/build_catalog.py --rqvae ...
    python examples/build_catalog.py --rqvae runs/rqvae --embeddings part_01.csv --on_collision knn --capacity 5 ...
    python examples/build_catalog.py --codes codes.json --codebook_sizes 256 256 256 --output_dir runs/catalog
    python examples/build_catalog.py --codes item_info/tiny_item_sid_final.csv --codebook_sizes 8192 8192 8192 \
        --on_collision keep --output_dir runs/al_gr_catalog
    python examples/build_catalog.py --tiny --output_dir runs/catalog

After a kill, the same command goes on where it stopped.
"""

import argparse
import json
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import AutoModel

from forge_hf import (
    ItemEmbeddings,
    RQVAEConfig,
    RQVAEModel,
    SemanticIdCatalog,
    SyntheticMarket,
    semantic_id_quality,
)
from forge_hf.data import read_item_sids
from forge_hf.hub import Shards, finish_interrupted, lock_folder
from forge_hf.models import encode_items
from forge_hf.report import format_quality


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rqvae", help="folder or Hub repository of an RQ-VAE or another item tokenizer")
    parser.add_argument(
        "--embeddings",
        nargs="+",
        help=".safetensors, .npy, .parquet, .arrow, FORGE's .npz, AL-GR's .csv, or a folder; one for each modality",
    )
    parser.add_argument("--item_ids", help="JSON list of the embeddings' item ids, where their file has none")
    parser.add_argument("--codes", help='ready codes: JSON of {"item id": [code, ...]}, or a CSV as of AL-GR')
    parser.add_argument("--codebook_sizes", type=int, nargs="+", help="number of codes of each level, with --codes")
    parser.add_argument("--on_collision", default="suffix", choices=["suffix", "keep", "knn", "random"])
    parser.add_argument("--capacity", type=int, default=5, help="items of one semantic ID at most, for knn and random")
    parser.add_argument("--num_candidates", type=int, default=200, help="nearest codes that knn tries for an item")
    parser.add_argument("--seed", type=int, default=0, help="seed of which items knn and random move")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--tiny", action="store_true", help="an untrained RQ-VAE on 500 invented items")
    args = parser.parse_args()
    if bool(args.codes) + bool(args.rqvae) + args.tiny != 1:
        parser.error("give exactly one of --rqvae (with --embeddings), --codes (with --codebook_sizes) and --tiny")
    if bool(args.codes) != bool(args.codebook_sizes) or bool(args.rqvae) != bool(args.embeddings):
        parser.error("--rqvae goes with --embeddings, and --codes with --codebook_sizes")
    if args.codes and args.on_collision == "knn":
        parser.error("--on_collision knn needs the item tokenizer (--rqvae), which knows what is near")
    return args


def main():
    args = parse_args()
    accelerator = Accelerator()
    with lock_folder(args.output_dir) if accelerator.is_main_process else nullcontext():  # one run at a time
        build(args, Path(args.output_dir), accelerator)
    accelerator.end_training()


def read_codes(path: str) -> tuple[list[str], list[list[int]]]:
    """Items and codes of a JSON object. An item that comes twice is an error, which `json` alone wouldn't see."""
    try:
        pairs = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=list)
    except ValueError as error:
        raise SystemExit(f"--codes {path} isn't JSON: {error}") from error
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise SystemExit(f'--codes {path} must be JSON of {{"item id": [code, ...]}}.')
    return [item_id for item_id, _ in pairs], [codes for _, codes in pairs]


def build(args: argparse.Namespace, output_dir: Path, accelerator: Accelerator):
    # 1. Codes of every item: read them, or encode the embeddings. What a killed run has encoded is kept.
    codes = candidates = None
    codebook_sizes = args.codebook_sizes
    if args.codes and not args.codes.endswith(".csv"):
        item_ids, codes = read_codes(args.codes)
        if all(item_id.isdecimal() and str(int(item_id)) == item_id for item_id in item_ids):
            item_ids = [int(item_id) for item_id in item_ids]  # JSON's keys are text; sequences keep integers
    elif not args.codes:
        if args.tiny:
            market = SyntheticMarket(num_items=500, num_users=1)
            items = ItemEmbeddings(market.embeddings, item_ids=market.item_ids)
            rqvae = untrained_rqvae(items)
        else:
            item_ids = json.loads(Path(args.item_ids).read_text(encoding="utf-8")) if args.item_ids else None
            items = ItemEmbeddings.from_files(args.embeddings, item_ids=item_ids)
            finish_interrupted(args.rqvae)  # where a kill came while it was saved
            rqvae = AutoModel.from_pretrained(args.rqvae)
            if args.on_collision == "knn" and (rqvae.has_balanced_codes or not rqvae.has_candidates):
                raise SystemExit(
                    "--on_collision knn needs an item tokenizer whose last level has a codebook and whose codes are "
                    f"the nearest, but {args.rqvae} is {type(rqvae).__name__}, "
                    f"{'balanced' if rqvae.has_balanced_codes else 'without one'}. Use suffix or random."
                )
        item_ids, codebook_sizes = items.item_ids, rqvae.config.codebook_sizes
        rqvae = rqvae.to(accelerator.device).eval()
        codes = encode_items(rqvae, items, output_dir / ".codes", sources=args.embeddings or ())

        @torch.no_grad()
        def candidates(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            batch = items.__getitems__(rows)["embeddings"].to(accelerator.device)
            encoded = rqvae.encode(batch, num_candidates=min(args.num_candidates, codebook_sizes[-1]))
            return encoded.candidates, encoded.candidate_distances

    # 2. The catalog, written by one process.
    if accelerator.is_main_process:
        options = {
            "codebook_sizes": codebook_sizes, "on_collision": args.on_collision, "capacity": args.capacity,
            "seed": args.seed, "candidates": candidates, "shards": output_dir / ".moved",
        }  # fmt: skip
        if codes is None:
            catalog = SemanticIdCatalog.from_dataset(read_item_sids(args.codes), **options)
        else:
            catalog = SemanticIdCatalog.from_codes(item_ids, codes, **options)
        catalog.save_pretrained(output_dir)
        for shards in (".codes", ".moved"):
            Shards.remove(output_dir / shards)
        print(format_quality(semantic_id_quality(catalog), catalog))
        print(f"for example, item {catalog.item_ids[0]!r} is {catalog.layout.to_text(catalog.codes[0])}")
        print(f"saved to {args.output_dir}")
    accelerator.wait_for_everyone()


def untrained_rqvae(items: ItemEmbeddings) -> RQVAEModel:
    """An RQ-VAE with random layers, whose codes are the latents, and then residuals, of the first items."""
    torch.manual_seed(0)
    config = RQVAEConfig(input_dim=items.dim, hidden_sizes=[64], codebook_dim=16, codebook_sizes=[16, 16, 16])
    rqvae = RQVAEModel(config)
    residuals = rqvae.encode(items.to_tensor()).latents.detach()
    for level, size in enumerate(config.codebook_sizes):
        codebook = residuals[level * size : (level + 1) * size]
        rqvae.set_codebook(level, codebook)
        residuals = residuals - codebook[torch.cdist(residuals, codebook).argmin(dim=1)]
    return rqvae


if __name__ == "__main__":
    main()
