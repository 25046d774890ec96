# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Principal components of vectors that come in batches."""

from collections.abc import Iterable

import torch


__all__ = ["principal_components"]


def principal_components(batches: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Mean, variances and axes of rows, in one pass that holds one batch and a covariance matrix.

    Args:
        batches (`Iterable[torch.Tensor]`):
            Tensors of shape `(batch_size, dim)`; at least one.

    Returns:
        `tuple(torch.Tensor)` of float64: the mean of shape `(dim,)`, the variances along the axes in decreasing order
        (of shape `(dim,)`, none negative), and the axes, orthonormal rows of shape `(dim, dim)`, each pointing to
        where its largest entry is positive.
    """
    first = total = products = None
    count = 0
    for batch in batches:
        if first is None:
            first = batch.double().mean(dim=0)  # near the mean, so that the sums of squares don't cancel
            total, products = torch.zeros_like(first), first.new_zeros(len(first), len(first))
        centered = batch.double() - first
        total += centered.sum(dim=0)
        products.addmm_(centered.T, centered)
        count += len(batch)
    shift = total / count
    variances, axes = torch.linalg.eigh(products / count - torch.outer(shift, shift))
    axes = axes.T.flip(0)
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return first + shift, variances.flip(0).clamp(min=0), axes * largest.sign()
