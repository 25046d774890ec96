# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The contrastive objective over item pairs. Imports only torch and a sibling: the file is the Hub's remote code."""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from .code_assignment import is_distributed


# CLIP's (https://huggingface.co/papers/2103.00020): the temperature starts at 0.07 and never falls below 0.01.
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
MAX_LOGIT_SCALE = math.log(100)


class _GatherRows(torch.autograd.Function):
    """Each process's part of the gradient is the sum of what all processes' losses have for its rows."""

    @staticmethod
    def forward(ctx, rows):
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """
    The rows of all processes in the order of their ranks, through which gradients flow back to each; `rows` itself
    where there is one process. Every process must give as many rows.
    """
    if not is_distributed() or dist.get_world_size() == 1:
        return rows
    return _GatherRows.apply(rows)


def own_places(rows: torch.Tensor, gathered: torch.Tensor) -> torch.Tensor:
    """Where this process's `rows` stand among the rows of [`gather_rows`]."""
    first = dist.get_rank() * len(rows) if len(gathered) > len(rows) else 0
    return torch.arange(first, first + len(rows), device=rows.device)


def info_nce(a, b, candidates_of_a, candidates_of_b, logit_scale: torch.Tensor) -> torch.Tensor:
    """
    InfoNCE in both directions, averaged over them and over this process's pairs: row `i` of `a` is to pick candidate
    `i`, and row `i` of `b` its own, by a softmax over inner products times `exp(logit_scale)`. Candidates are of all
    processes.
    """
    labels = own_places(a, candidates_of_a)
    scale = logit_scale.exp()
    loss_a = F.cross_entropy(scale * a @ candidates_of_a.T, labels)
    loss_b = F.cross_entropy(scale * b @ candidates_of_b.T, labels)
    return (loss_a + loss_b) / 2


class RQVAEContrastiveLoss(nn.Module):
    r"""
    FORGE's contrastive objective (https://huggingface.co/papers/2509.20904) over pairs of items `a`, `b`, with
    embeddings `x` and reconstructions `y`, scaled to length 1. Three InfoNCE terms, each with a temperature that is
    learned:

    - `self`: `y_a` with `y_b`;
    - `original`: `y_a` with `x_b`, and `y_b` with `x_a`;
    - `cross`: `y_a` with `x_a`, and `y_b` with `x_b`.

    The negatives are the other pairs of the batch, those of other processes included. As in FORGE, the embeddings keep
    their own length, which should be about 1. Unlike in FORGE, the scales stop at 100, as CLIP's do.
    """

    terms = ("self", "original", "cross")

    def __init__(self):
        super().__init__()
        for term in self.terms:
            self.register_parameter(f"logit_scale_{term}", nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE)))

    @property
    def logit_scales(self) -> list[torch.Tensor]:
        """The logarithm of one over the temperature, of each of `terms`."""
        return [getattr(self, f"logit_scale_{term}") for term in self.terms]

    def forward(self, embeddings, positives, reconstruction, positive_reconstruction) -> torch.Tensor:
        """The three terms, of shape `(3,)`, from four tensors of shape `(batch_size, input_dim)`."""
        if self.training:
            with torch.no_grad():  # here, so that a scale that an optimizer step took too far still has a gradient
                for scale in self.logit_scales:
                    scale.clamp_(max=MAX_LOGIT_SCALE)
        y_a, y_b = F.normalize(reconstruction, dim=-1), F.normalize(positive_reconstruction, dim=-1)
        all_y_a, all_y_b = gather_rows(torch.cat([y_a, y_b], dim=-1)).chunk(2, dim=-1)
        all_x_a, all_x_b = gather_rows(torch.cat([embeddings, positives], dim=-1)).chunk(2, dim=-1)
        scale_self, scale_original, scale_cross = self.logit_scales
        return torch.stack(
            [
                info_nce(y_a, y_b, all_y_b, all_y_a, scale_self),
                info_nce(y_a, y_b, all_x_b, all_x_a, scale_original),
                info_nce(y_a, y_b, all_x_a, all_x_b, scale_cross),
            ]
        )
