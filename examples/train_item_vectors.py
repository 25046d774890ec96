# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains collaborative vectors of items, and of users: a SASRec (https://huggingface.co/papers/1808.09781) with a softmax
over all items, made of a small GPT-2 whose tokens are items. It sees training sequences only, those that
`leave_one_out` leaves when each user's last two items are taken off. LETTER and DAS learn from such vectors:

    python examples/train_item_vectors.py --sequences sequences.txt --output_dir runs/vectors
    python examples/train_rqvae.py --preset letter --embeddings items.parquet \
        --collaborative runs/vectors/items.parquet --output_dir runs/letter

`items.parquet` holds the item embeddings, which are tied to the output, and `users.parquet` the states after the
users' training sequences, whose inner products with the items' vectors are the scores of the next item. An item that
occurs in no training sequence gets the mean of the others' vectors, which says nothing about it.
"""

import argparse
import json
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import GPT2Config, GPT2Model, get_cosine_schedule_with_warmup, set_seed

from forge_hf import SyntheticMarket, leave_one_out, read_sequences
from forge_hf.hub import write_json, write_then_rename


PADDING = -100


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", help="what forge_hf.read_sequences reads")
    parser.add_argument("--item_ids", help="JSON list of all items, where some are in no sequence")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--dim", type=int, default=64, help="width of the vectors")
    parser.add_argument("--num_layers", type=int, default=2)
    parser.add_argument("--num_heads", type=int, default=2)
    parser.add_argument("--max_items", type=int, default=50, help="of a sequence, the last so many")
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--num_train_epochs", type=int, default=12)
    parser.add_argument("--batch_size", type=int, default=256, help="sequences of a step")
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--weight_decay", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--tiny", action="store_true", help="invented sequences, in seconds")
    args = parser.parse_args()
    if bool(args.sequences) + args.tiny != 1:
        parser.error("give exactly one of --sequences and --tiny")
    return args


class SasRec(torch.nn.Module):
    """A GPT-2 over items. The scores of the next item are inner products of a state with the item embeddings."""

    def __init__(self, num_items: int, args: argparse.Namespace):
        super().__init__()
        config = GPT2Config(
            vocab_size=num_items, n_positions=args.max_items, n_embd=args.dim, n_layer=args.num_layers,
            n_head=args.num_heads, embd_pdrop=args.dropout, attn_pdrop=args.dropout, resid_pdrop=args.dropout,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        self.gpt2 = GPT2Model(config)

    @property
    def item_vectors(self) -> torch.Tensor:
        return self.gpt2.wte.weight

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        # Padding is on the right, where causal attention never looks.
        return self.gpt2(rows.clamp(min=0), use_cache=False).last_hidden_state


def pad(sequences: list[np.ndarray]) -> torch.Tensor:
    rows = [torch.from_numpy(sequence) for sequence in sequences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING)


def train(model: SasRec, sequences: list[np.ndarray], args: argparse.Namespace) -> None:
    sequences = [sequence for sequence in sequences if len(sequence) > 1]
    lengths = np.array([len(sequence) for sequence in sequences]).clip(max=args.max_items + 1)
    num_batches = -(-len(sequences) // args.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, num_batches, num_batches * args.num_train_epochs)
    generator = np.random.default_rng(args.seed)
    model.train()
    for epoch in range(args.num_train_epochs):
        total, progress = 0.0, tqdm(range(num_batches), f"Epoch {epoch + 1} of {args.num_train_epochs}")
        # Sequences of about equal length in a batch: most are short, and little is padded.
        order = generator.permutation(len(sequences))
        order = order[np.argsort(lengths[order], kind="stable")]
        batches = np.array_split(order, num_batches)
        for number in generator.permutation(num_batches):
            rows = batches[number]
            batch = pad([sequences[row][-args.max_items - 1 :] for row in rows])
            targets = batch[:, 1:]
            scores = model(batch[:, :-1])[targets >= 0] @ model.item_vectors.T
            loss = F.cross_entropy(scores, targets[targets >= 0])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
            progress.update()
            progress.set_postfix(loss=f"{total / progress.n:.3f}")
        progress.close()


@torch.no_grad()
def user_vectors(model: SasRec, sequences: list[np.ndarray], args: argparse.Namespace) -> torch.Tensor:
    """The state after each sequence, of shape `(num_users, dim)`."""
    model.eval()
    states = []
    for start in tqdm(range(0, len(sequences), 1024), "Users", delay=5):
        batch = pad([sequence[-args.max_items :] for sequence in sequences[start : start + 1024]])
        last = (batch >= 0).sum(dim=1) - 1
        states.append(model(batch)[torch.arange(len(batch)), last])
    return torch.cat(states)


@torch.no_grad()
def recall(model: SasRec, states: torch.Tensor, targets: np.ndarray, k: int = 10) -> float:
    targets = torch.from_numpy(targets)[:, None].split(1024)
    hits = [
        ((part @ model.item_vectors.T).topk(k).indices == own).sum()
        for part, own in zip(states.split(1024), targets, strict=True)
    ]
    return float(sum(hits)) / len(states)


def write(path: Path, **columns) -> None:
    write_then_rename(path, lambda temporary: pq.write_table(pa.table(columns), temporary))


def main():
    args = parse_args()
    set_seed(args.seed)
    if args.tiny:
        args.num_train_epochs, args.dim, args.batch_size = 2, 16, 64
        market = SyntheticMarket(num_items=2000, num_users=500)  # that of train_rqvae.py --tiny
        sequences, listed = market.sequences, market.item_ids
    else:
        sequences = read_sequences(args.sequences)
        listed = json.loads(Path(args.item_ids).read_text(encoding="utf-8")) if args.item_ids else []

    # 1. Items by number. All have a row, also those that occur only in what is left out, or nowhere.
    splits = leave_one_out(sequences)
    item_ids = sorted(set(chain(listed, *sequences["items"])))
    numbers = {item: number for number, item in enumerate(item_ids)}
    histories = [np.array([numbers[item] for item in items]) for items in splits["train"]["items"]]
    targets = np.array([numbers[item] for item in splits["validation"]["target"]])

    # 2. Train on the training sequences.
    started = time.perf_counter()
    model = SasRec(len(item_ids), args)
    train(model, histories, args)
    users = user_vectors(model, histories, args)
    scores = {
        "validation_recall@10": recall(model, users, targets),
        "training_seconds": round(time.perf_counter() - started),
    }

    # 3. Vectors of all items and users.
    vectors = model.item_vectors.detach().clone()
    trained = torch.zeros(len(item_ids), dtype=torch.bool)
    trained[np.unique(np.concatenate(histories))] = True
    vectors[~trained] = vectors[trained].mean(dim=0)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "items.parquet", item_id=item_ids, embedding=list(vectors.numpy()))
    write(folder / "users.parquet", item_id=splits["train"]["user_id"][:], embedding=list(users.numpy()))
    facts = {"num_items": len(item_ids), "num_items_not_in_training": int((~trained).sum()), **scores, **vars(args)}
    write_json(folder / "training.json", facts)
    print(f"Validation Recall@10 {scores['validation_recall@10']:.4f} after {scores['training_seconds']} s.")
    print(f"{int((~trained).sum())} of {len(item_ids)} items are in no training sequence. Saved to {folder}")


if __name__ == "__main__":
    main()
