# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Codebooks that move by gradients, by moving averages or by a linear map, and the quantizer that is made of them.

Imports only torch and its siblings: the same file is the Hub's remote code.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from .code_assignment import balanced_codes, is_distributed, nearest_candidates, nearest_codes


def rotate_to(latents: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """
    The rotation trick (https://huggingface.co/papers/2410.06424, eq. 4): equals `quantized`, with the gradient of
    `(|q| / |z|) R z` for the rotation `R` from `z = latents` to `q = quantized`, both `R` and the scale held fixed.
    """
    quantized = quantized.detach()
    z = latents.detach()
    z_norm, q_norm = z.norm(dim=-1, keepdim=True), quantized.norm(dim=-1, keepdim=True)
    z_hat, q_hat = F.normalize(z, dim=-1), F.normalize(quantized, dim=-1)
    scale = torch.where(z_norm > 0, q_norm / z_norm.clamp(min=1e-12), torch.ones_like(z_norm))
    middle = F.normalize(z_hat + q_hat, dim=-1)

    def dot(a, b):
        return (a * b).sum(-1, keepdim=True)

    rotated = scale * (latents - 2 * dot(latents, middle) * middle + 2 * dot(latents, z_hat) * q_hat)
    return rotated + (quantized - rotated).detach()  # exactly `quantized`, whatever the rounding of the rotation


class RQVAECodebook(nn.Module):
    """
    The codes of one level, with their running usage and, with `codebook_update="ema"`, their running sums. With
    `"simvq"` the codes are fixed, and `transform` is a linear map, which is learned and moves all of them together.
    """

    def __init__(self, config, level: int, dim: int):
        super().__init__()
        self.size = config.codebook_sizes[level]
        self.assignment = config.level_assignments[level]
        self.config = config
        weight = torch.zeros(self.size, dim)
        if config.codebook_update == "gradient":
            self.weight = nn.Parameter(weight)
        else:
            # A buffer, because a reload makes every parameter trainable.
            self.register_buffer("weight", weight)
        if config.codebook_update == "ema":
            self.register_buffer("embed_sum", torch.zeros_like(weight))
        elif config.codebook_update == "simvq":
            self.transform = nn.Parameter(torch.eye(dim))
        self.register_buffer("cluster_size", torch.ones(self.size))
        self.register_buffer("initialized", torch.tensor(False))

    @property
    def vectors(self) -> torch.Tensor:
        """The codes as they count, of shape `(size, dim)`."""
        if self.config.codebook_update != "simvq":
            return self.weight
        # In float64 and rounded, the same wherever the product is taken. MPS has none.
        dtype = torch.float32 if self.weight.device.type == "mps" else torch.float64
        return (self.weight.to(dtype) @ self.transform.to(dtype).T).float()

    @torch.no_grad()
    def init_weights(self) -> None:
        init.normal_(self.weight, std=self.config.initializer_range)
        init.ones_(self.cluster_size)
        init.zeros_(self.initialized)
        if self.config.codebook_update == "ema":
            init.copy_(self.embed_sum, self.weight * self.cluster_size[:, None])
        elif self.config.codebook_update == "simvq":
            init.copy_(self.transform, torch.eye(len(self.transform), device=self.transform.device))

    @torch.no_grad()
    def set(self, centroids: torch.Tensor) -> None:
        self.weight.copy_(centroids)
        self.cluster_size.fill_(1)
        if self.config.codebook_update == "ema":
            self.embed_sum.copy_(centroids)
        elif self.config.codebook_update == "simvq":
            self.transform.copy_(torch.eye(len(self.transform)))
        self.initialized.fill_(True)

    @torch.no_grad()
    def update(self, residuals: torch.Tensor, codes: torch.Tensor) -> None:
        """One step of the running usage, the EMA codes and the dead codes' restart; the same on every process."""
        ema, threshold = self.config.codebook_update == "ema", self.config.dead_code_threshold
        if not ema and threshold == 0:
            return
        # The last column counts, the others sum: one collective.
        batch = F.pad(residuals.detach(), (0, 1), value=1.0)
        totals = batch.new_zeros(self.size, batch.shape[1]).index_add_(0, codes, batch)
        if is_distributed():
            torch.distributed.all_reduce(totals)
        totals *= self.size / totals[:, -1].sum()  # the usage of an evenly used code is 1, whatever the batch size
        step = 1 - self.config.ema_decay
        self.cluster_size.lerp_(totals[:, -1], step)
        if ema:
            self.embed_sum.lerp_(totals[:, :-1], step)
            total, epsilon = self.cluster_size.sum(), self.config.ema_epsilon
            smoothed = (self.cluster_size + epsilon) / (total + self.size * epsilon) * total
            self.weight.copy_(self.embed_sum / smoothed[:, None])
        if threshold > 0:
            self._restart_dead_codes(residuals.detach(), self.cluster_size < threshold)

    def _restart_dead_codes(self, residuals: torch.Tensor, dead: torch.Tensor) -> None:
        dead = dead.nonzero()[:, 0]
        if len(dead) == 0:  # equal on every process, since the usage is
            return
        # Which codes restart (last column) and where. The first process decides, so that all stay equal.
        restarts = residuals.new_zeros(self.size, residuals.shape[1] + 1)
        chosen = residuals[torch.randperm(len(residuals), device=residuals.device)[: len(dead)]]
        restarts[dead[: len(chosen)]] = F.pad(chosen, (0, 1), value=1.0)
        if is_distributed():
            torch.distributed.broadcast(restarts, src=0)
        restarted = restarts[:, -1] > 0
        self.weight[restarted] = restarts[restarted, :-1]
        self.cluster_size[restarted] = 1
        if self.config.codebook_update == "ema":
            self.embed_sum[restarted] = restarts[restarted, :-1]


class RQVAEResidualQuantizer(nn.Module):
    """
    Codebooks that each quantize what the ones before left over.

    A subclass may have codebooks that quantize something else, by `level_input`, `left_over`, `inputs` and `combine`,
    or other codebooks.
    """

    codebook_class = RQVAECodebook

    def __init__(self, config):
        super().__init__()
        dims = self.level_dims(config)
        self.codebooks = nn.ModuleList([self.codebook_class(config, level, dim) for level, dim in enumerate(dims)])

    def level_dims(self, config) -> list[int]:
        """Width of the codes of each level."""
        return [config.codebook_dim] * config.num_levels

    def level_input(self, left: torch.Tensor, level: int) -> torch.Tensor:
        """What a level quantizes of what is left."""
        return left

    def left_over(self, left: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """What is left after a level that chose `vectors`."""
        return left - vectors

    def inputs(self, latents: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """What each level quantized, of shape `(batch_size, levels, dim)`, if it chose `vectors` of that shape."""
        return latents[:, None] - (vectors.cumsum(dim=1) - vectors)

    def combine(self, vectors: torch.Tensor) -> torch.Tensor:
        """The quantized latents, of shape `(batch_size, codebook_dim)`, by the vectors of all levels or the first."""
        return vectors.sum(dim=1)

    @torch.no_grad()
    def assign(self, latents: torch.Tensor, training: bool = False) -> torch.Tensor:
        """Codes of shape `(batch_size, levels)`: the nearest, exactly so where `latents` are float64."""
        left, codes, memory = latents, [], None
        for level, codebook in enumerate(self.codebooks):
            weight, rows = codebook.vectors.to(latents.device), self.level_input(left, level)
            if training and codebook.assignment == "sinkhorn":
                # One memory for the distances of all levels: fresh memory costs as much as what is done in it.
                shape = (len(latents), codebook.size)
                memory = latents.new_empty(shape) if memory is None or memory.shape != shape else memory
                epsilon, iterations = codebook.config.sinkhorn_epsilon, codebook.config.sinkhorn_iterations
                codes.append(balanced_codes(rows, weight, epsilon, iterations, out=memory))
            else:
                codes.append(nearest_codes(rows, weight))
            left = self.left_over(left, weight[codes[-1]])
        return torch.stack(codes, dim=1)

    @torch.no_grad()
    def candidates(
        self, latents: torch.Tensor, codes: torch.Tensor, num_candidates: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest codes of the last level and their squared distances, given the codes of the levels before."""
        left, weights = latents, [codebook.vectors.to(latents.device) for codebook in self.codebooks]
        for level, weight in enumerate(weights[:-1]):
            left = self.left_over(left, weight[codes[:, level]])
        rows = self.level_input(left, len(weights) - 1)
        return nearest_candidates(rows, weights[-1], codes[:, -1], num_candidates)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """The vectors of each level, of shape `(batch_size, codes.shape[1], dim)`."""
        vectors = [F.embedding(codes[:, level], self.codebooks[level].vectors) for level in range(codes.shape[1])]
        return torch.stack(vectors, dim=1)


__all__ = ["RQVAECodebook", "RQVAEResidualQuantizer", "rotate_to"]
