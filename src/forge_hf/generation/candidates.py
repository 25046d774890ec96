# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Choosing among the continuations of beams: the best in a defined order, without what is excluded, or by chance."""

import torch

from .code_head import segment_logsumexp
from .prefix_table import PrefixTable


__all__ = ["ExcludedPrefixes", "GumbelSampler", "top_k_in_order"]


def top_k_in_order(scores: torch.Tensor, k: int) -> torch.Tensor:
    """
    Positions of the `k` largest scores of each row, in ascending order of position; of equal scores the first.

    Unlike `torch.topk`, which of equal scores it takes is defined, on every device.
    """
    threshold = scores.topk(k, dim=-1).values[:, -1:]
    above, equal = scores > threshold, scores == threshold
    room = k - above.sum(dim=-1, keepdim=True)
    keep = above | (equal & (equal.cumsum(dim=-1) <= room))
    return keep.nonzero()[:, 1].view(-1, k)


class ExcludedPrefixes:
    """Which prefixes each row of a batch can't have: those all of whose leaves are excluded."""

    def __init__(self, table: PrefixTable, batch_size: int, pairs: torch.Tensor):
        pairs = torch.as_tensor(pairs).to(table.device)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.is_floating_point() or pairs.dtype == torch.bool:
            raise ValueError(
                "`excluded_leaves` must be pairs of a row and a leaf, integers of the shape (num_pairs, 2), got "
                f"{pairs.dtype} of the shape {tuple(pairs.shape)}."
            )
        limit = torch.tensor([batch_size, table.num_leaves], device=pairs.device)
        outside = ((pairs < 0) | (pairs >= limit)).any(dim=-1)
        if outside.any():
            raise ValueError(
                f"`excluded_leaves` hold {int(outside.sum())} pairs outside {batch_size} rows and {table.num_leaves} "
                f"leaves; the first is {pairs[outside][0].tolist()}."
            )
        # A pair is one number. From the leaves up: a prefix is excluded if all its children are.
        self.num_nodes = [table.num_nodes(depth) for depth in range(table.num_levels + 1)]
        excluded = (pairs[:, 0].long() * table.num_leaves + pairs[:, 1]).unique()
        self.excluded = [excluded]
        for depth in range(table.num_levels, 0, -1):
            row, node = excluded // self.num_nodes[depth], excluded % self.num_nodes[depth]
            parents = row * self.num_nodes[depth - 1] + table.parent(depth, node)
            parents, counts = parents.unique_consecutive(return_counts=True)
            excluded = parents[counts == table.degrees(depth - 1, parents % self.num_nodes[depth - 1])]
            self.excluded.insert(0, excluded)

    def allow(self, depth: int, rows: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
        """Which of the nodes of one depth are allowed in their rows."""
        excluded = self.excluded[depth]
        if len(excluded) == 0:
            return torch.ones_like(rows, dtype=torch.bool)
        pairs = rows * self.num_nodes[depth] + nodes
        found = torch.searchsorted(excluded, pairs).clamp(max=len(excluded) - 1)
        return excluded[found] != pairs


class GumbelSampler:
    """
    Stochastic beam search: top-k of log-probabilities to which Gumbel noise has been added, level after level.

    The noise of a node is the largest of its leaves, so that of the children is drawn under the condition that their
    largest is their parent's. What is kept at the end is a sample without replacement, in the order of drawing.
    """

    def __init__(self, log_probs: torch.Tensor, generator: torch.Generator | None):
        self.log_probs = log_probs
        self.perturbed = None
        self.generator = generator

    def perturb(self, parents: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
        """Perturbed log-probabilities of candidates, given the number of each one's beam and what it weighs there."""
        num_beams = len(self.log_probs)
        log_probs = log_weights - segment_logsumexp(log_weights, parents, num_beams)[parents]
        log_probs = self.log_probs[parents] + log_probs
        device = log_probs.device if self.generator is None else self.generator.device
        noise = torch.empty(len(log_probs), device=device).exponential_(generator=self.generator).log_().neg_()
        perturbed = log_probs + noise.to(log_probs.device)
        if self.perturbed is not None:
            lowest = torch.finfo(perturbed.dtype).min
            largest = perturbed.new_full((num_beams,), lowest).scatter_reduce_(0, parents, perturbed, "amax")
            bound, below = self.perturbed[parents], perturbed - largest[parents]
            # -log(exp(-bound) - exp(-largest) + exp(-perturbed)), in a way that neither overflows nor cancels
            gap = bound - perturbed + torch.log(-torch.expm1(below))
            perturbed = bound - gap.clamp(min=0) - torch.log1p(torch.exp(-gap.abs()))
        self.candidates = log_probs, perturbed
        return perturbed

    def keep(self, chosen: torch.Tensor) -> None:
        """Makes chosen candidates, given by number, the beams of the next level."""
        self.log_probs, self.perturbed = (values[chosen] for values in self.candidates)
