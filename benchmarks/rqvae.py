# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Speed of the RQ-VAE: items encoded and items trained on a second, beside FORGE's formulas in plain PyTorch.

    python benchmarks/rqvae.py                             # one thread, written to results/rqvae_speed.json
    python benchmarks/rqvae.py --threads 2 --output two.json

The model has FORGE's shapes (512 -> 256 -> 256 -> 64, three levels of 8192 codes); codes are residuals of random
items. `forge` is what FORGE's `get_codes` and its training step (https://github.com/selous123/al_sid) compute, as they
do: in float32, the distances of the whole batch to all codes, with the angles that it logs. Its script encodes 128
items at a time; it is measured at that, and at the batch size of ours. `products` are the float32 matrix products of
encoding and nothing else, on blocks of 128 items that stay in the cache, which is their fastest. Ours gives the
float64 nearest codes.

All ways take turns in one process. Figures are medians of the process' CPU time over the threads that it had, so that
other work on the machine counts little. Where torch has instructions for bfloat16, as on AMD's Zen 4 and Intel's
Sapphire Rapids, ours makes its shortlists with them: compare `cpu_bfloat16` of the result.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from forge_hf.hub import describe_hardware, describe_versions, write_json
from forge_hf.models import RQVAEConfig, RQVAEModel


CODEBOOK_SIZES = [8192, 8192, 8192]
FORGE_ENCODE_BATCH, PRODUCTS_BATCH = 128, 128


def make_model(embeddings: torch.Tensor) -> RQVAEModel:
    config = RQVAEConfig(
        input_dim=512,
        hidden_sizes=[256, 256],
        codebook_dim=64,
        codebook_sizes=CODEBOOK_SIZES,
        input_normalization="none",
        quantization_loss="cumulative",
        training_assignment="sinkhorn",
    )
    model = RQVAEModel(config)
    residuals = model.get_latents(embeddings)
    for level, size in enumerate(CODEBOOK_SIZES):
        codebook = 0.7 * residuals[torch.randperm(len(residuals))[:size]]
        model.set_codebook(level, codebook)
        nearest = [torch.cdist(rows, codebook).argmin(dim=1) for rows in residuals.split(1024)]
        residuals = residuals - codebook[torch.cat(nearest)]
    return model


class PlainForge(nn.Module):
    """FORGE's RQ-VAE with the weights of ours."""

    def __init__(self, model: RQVAEModel):
        super().__init__()
        self.encoder, self.decoder = (
            nn.Sequential(*(part for layer in mlp.layers for part in (layer_copy(layer), nn.ReLU())))[:-1]
            for mlp in (model.encoder, model.decoder)
        )
        # Its codebooks have one row more, for padding.
        self.codebooks = nn.ModuleList(
            nn.Embedding(size + 1, 64, padding_idx=size, _weight=F.pad(model.get_codebook(level), (0, 0, 0, 1)))
            for level, size in enumerate(CODEBOOK_SIZES)
        )

    @torch.no_grad()
    def assign(self, residuals: torch.Tensor, codebook: nn.Embedding) -> torch.Tensor:
        codes = codebook.weight[:-1].t()
        squares = residuals.pow(2).sum(dim=1, keepdim=True) + codes.pow(2).sum(dim=0, keepdim=True)
        distances = torch.addmm(squares, residuals, codes, alpha=-2.0)
        if not self.training:
            return distances.argmin(dim=1)
        costs = (distances - distances.mean()) / (distances.std() + 1e-6)
        q = torch.exp(-10 * (costs - costs.min())).t()
        num_codes, num_items = q.shape
        q /= q.sum() + 1e-8
        for _ in range(5):
            q /= q.sum(dim=1, keepdim=True) + 1e-8
            q /= num_codes
            q /= q.sum(dim=0, keepdim=True) + 1e-8
            q /= num_items
        q *= num_items
        return q.t().argmax(dim=1)

    def quantize(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        residuals, total = latents.detach().clone(), torch.zeros_like(latents)
        codes, sums, norms = [], [], [residuals.norm(dim=1).mean()]
        for codebook in self.codebooks:
            codes.append(self.assign(residuals, codebook))
            vectors = codebook(codes[-1])
            angle = torch.acos(F.cosine_similarity(residuals, vectors)).mean()
            residuals = residuals - vectors.detach()
            total = total + vectors
            sums.append(total)
            norms += [angle, torch.acos(F.cosine_similarity(latents, total)).mean(), vectors.norm(dim=1).mean()]
            norms.append(residuals.norm(dim=1).mean())
        terms = [
            0.5 * (latents - total.detach()).pow(2).mean() + 0.5 * (latents.detach() - total).pow(2).mean()
            for total in sums
        ]
        return latents + (sums[-1] - latents).detach(), torch.stack(terms).mean(), torch.stack(codes, dim=1)

    @torch.no_grad()
    def get_codes(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.quantize(self.encoder(embeddings))[2]

    def forward(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        quantized, loss, codes = self.quantize(self.encoder(embeddings))
        return F.mse_loss(self.decoder(quantized), embeddings) + loss, codes


def layer_copy(layer: nn.Linear) -> nn.Linear:
    copy = nn.Linear(layer.in_features, layer.out_features)
    copy.load_state_dict(layer.state_dict())
    return copy


@torch.no_grad()
def only_products(model: RQVAEModel, embeddings: torch.Tensor, scores: torch.Tensor) -> None:
    for rows in embeddings.split(PRODUCTS_BATCH):
        for layer in model.encoder.layers:
            rows = rows @ layer.weight.T
        for level in range(len(CODEBOOK_SIZES)):
            torch.mm(rows, model.get_codebook(level).T, out=scores[: len(rows)])


def measure(ways: dict[str, Callable], rounds: int) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Median seconds of CPU time of each way, without its first time, and what each gave the first time."""
    seconds, results = {name: [] for name in ways}, {}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            result = way()
            seconds[name].append((time.process_time() - start) / torch.get_num_threads())
            results.setdefault(name, result)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}, results


def measure_encoding(model: RQVAEModel, items: int, batch_size: int, rounds: int) -> dict:
    embeddings, forge = torch.randn(items, 512), PlainForge(model).eval()
    batches = embeddings.split(batch_size)
    scores = torch.empty(PRODUCTS_BATCH, max(CODEBOOK_SIZES))
    ways = {
        "ours": lambda: torch.cat([model.encode(batch).codes for batch in batches]),
        "forge": lambda: torch.cat([forge.get_codes(batch) for batch in embeddings.split(FORGE_ENCODE_BATCH)]),
        "forge_large_batch": lambda: torch.cat([forge.get_codes(batch) for batch in batches]),
        "products": lambda: only_products(model, embeddings, scores),
    }
    seconds, results = measure(ways, rounds)
    fastest = min(seconds["forge"], seconds["forge_large_batch"])
    return {
        "items": items,
        "batch_size": {
            "ours": batch_size, "forge": FORGE_ENCODE_BATCH, "forge_large_batch": batch_size,
            "products": PRODUCTS_BATCH,
        },
        "items_per_second": {name: round(items / value) for name, value in seconds.items()},
        "times_faster_than_forge": round(seconds["forge"] / seconds["ours"], 2),
        "times_faster_than_forge_at_its_best_batch": round(fastest / seconds["ours"], 2),
        "share_of_products_speed": round(seconds["products"] / seconds["ours"], 2),
        "share_of_equal_codes": round((results["ours"] == results["forge"]).double().mean().item(), 6),
    }  # fmt: skip


def measure_training(model: RQVAEModel, batch_size: int, rounds: int) -> dict:
    embeddings, forge = torch.randn(batch_size, 512), PlainForge(model).train()
    model.train()
    settings = {"lr": 2e-3, "weight_decay": 1e-4}
    optimizers = {
        "ours": torch.optim.AdamW(model.parameters(), fused=True, **settings),  # transformers' default
        "forge": torch.optim.AdamW(forge.parameters(), **settings),
    }

    def step(name: str) -> torch.Tensor:
        if name == "ours":
            output = model(embeddings)
            loss, codes = output.loss, output.codes
        else:
            loss, codes = forge(embeddings)
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()
        return codes

    seconds, results = measure({"ours": lambda: step("ours"), "forge": lambda: step("forge")}, rounds)
    return {
        "batch_size": batch_size,
        "items_per_second": {name: round(batch_size / value) for name, value in seconds.items()},
        "times_faster_than_forge": round(seconds["forge"] / seconds["ours"], 2),
        "share_of_equal_codes_in_the_first_step": round(
            (results["ours"] == results["forge"]).double().mean().item(), 6
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--items", type=int, default=8192, help="items that are encoded in a round")
    parser.add_argument("--encode_batch_size", type=int, default=8192)
    parser.add_argument("--train_batch_size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "results" / "rqvae_speed.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = make_model(torch.randn(2 * max(CODEBOOK_SIZES), 512))
    result = {
        "command": " ".join(["python", "benchmarks/rqvae.py", *sys.argv[1:]]),
        "threads": args.threads,
        "unit": f"medians of {args.rounds} interleaved rounds, by the CPU time of the process over its threads",
        "hardware": describe_hardware(),
        "cpu_bfloat16": torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(),
        "versions": describe_versions(),
        "encoding": measure_encoding(model, args.items, args.encode_batch_size, args.rounds),
        "training_step": measure_training(model, args.train_batch_size, args.rounds),
    }
    write_json(args.output, result)
    sys.stderr.write(f"{json.dumps(result, indent=2)}\n")


if __name__ == "__main__":
    main()
