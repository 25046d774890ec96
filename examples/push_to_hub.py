# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Uploads what the other scripts saved to the Hub, and loads it back by name.

    python examples/push_to_hub.py runs/rqvae me/beauty-rqvae --private
    python examples/push_to_hub.py runs/catalog me/beauty-semantic-ids
    python examples/push_to_hub.py runs/gr me/beauty-retriever --license apache-2.0 --tag v1

With `--tiny` it makes a small retriever to push:

    python examples/push_to_hub.py --tiny runs/tiny me/tiny-retriever --private

Log in first (`hf auth login`), or give `--token`. To push while training, `train_rqvae.py` and `train_gr.py` have
`--push_to_hub`.
"""

import argparse

from huggingface_hub import HfApi
from transformers import AutoModel, pipeline

from forge_hf import SemanticIdCatalog, SyntheticMarket, create_retriever, push_folder
from forge_hf.hub import read_folder, write_folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="what was saved: item tokenizer, catalog, retriever or adapter")
    parser.add_argument("repo_id", help="repository, made if there is none")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="branch to commit to")
    parser.add_argument("--tag", help="tag to put on the commit, so that `revision=` finds this version again")
    parser.add_argument("--license", help="license, for the card")
    parser.add_argument("--token", help="token, by default the one of `hf auth login`")
    parser.add_argument("--tiny", action="store_true", help="first fill the folder with a small retriever")
    return parser.parse_args()


def main():
    args = parse_args()

    # 1. A folder that `save_pretrained` or `save_model` filled.
    if args.tiny:
        market = SyntheticMarket(num_items=200, num_users=1)
        codes = [[row // 20, row % 20] for row in range(market.num_items)]
        catalog = SemanticIdCatalog.from_codes(market.item_ids, codes, codebook_sizes=[10, 20], on_collision="keep")
        model, tokenizer = create_retriever("qwen2-small", catalog, hidden_size=32, num_hidden_layers=1)
        with write_folder(args.folder) as folder:
            for part in (model, tokenizer, catalog):
                part.save_pretrained(folder)

    # 2. One commit: weights, tokenizer, catalog, and a card of the facts that the folder states.
    metadata = {"license": args.license} if args.license else None
    commit = push_folder(
        args.folder,
        args.repo_id,
        private=args.private or None,
        revision=args.revision,
        token=args.token,
        card_metadata=metadata,
    )
    print(f"Pushed to {commit.commit_url}")
    if args.tag:
        # A tag that exists stays where it is, and this is an error.
        HfApi(token=args.token).create_tag(args.repo_id, tag=args.tag, revision=commit.oid)

    # 3. It comes back by name, from anywhere.
    kind, source = read_folder(args.folder).kind, {"revision": commit.oid, "token": args.token}
    if kind == "item_tokenizer":
        model = AutoModel.from_pretrained(args.repo_id, **source)
        print(f"{type(model).__name__}: {model.config.input_dim}-d embeddings to {model.config.num_levels} codes")
    elif kind == "catalog":
        print(SemanticIdCatalog.from_pretrained(args.repo_id, **source))
    else:
        recommend = pipeline("generative-retrieval", model=args.repo_id, **source)
        for found in recommend(recommend.catalog.item_ids[:3], top_k=3):
            print(found["item_id"], found["semantic_id"], round(found["score"], 3))


if __name__ == "__main__":
    main()
