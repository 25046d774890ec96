# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Notices codebooks that collapse, from the codes that training gives anyway."""

import warnings
from collections.abc import Callable, Sequence

import torch


__all__ = ["CodebookUsage"]

# A codebook of which every code is as likely uses 98% of them on this many items for each code.
ITEMS_PER_CODE = 4


class CodebookUsage:
    """
    Which codes the batches of a training use; warns, once, when a level uses too few of them.

    Args:
        codebook_sizes (`Sequence[int]`):
            Codes of each level.
        min_utilization (`float`):
            Share of a level's codes below which to warn.
        num_items (`int`):
            Number of training items: a level can't use more codes than there are items.
    """

    def __init__(self, codebook_sizes: Sequence[int], min_utilization: float, num_items: int):
        self._sizes = list(codebook_sizes)
        self._min_utilization = min_utilization
        self._num_items = num_items
        self._offsets = torch.tensor([0, *self._sizes[:-1]]).cumsum(0)
        self._counts = torch.zeros(sum(self._sizes) + 1)  # of each code, and of the items
        self._has_warned = False

    def add(self, codes: torch.Tensor) -> None:
        """Notes the codes of a batch, of shape `(batch_size, num_levels)`."""
        if self._has_warned or self._min_utilization == 0:
            return
        if self._counts.device != codes.device:
            self._counts, self._offsets = self._counts.to(codes.device), self._offsets.to(codes.device)
        self._counts[(codes + self._offsets).flatten()] = 1.0
        self._counts[-1] += len(codes)

    def check(self, reduce: Callable[[torch.Tensor], torch.Tensor], should_warn: bool = True) -> None:
        """
        Warns if a level has used too few codes since the last check. Waits for more where there were too few items.

        Args:
            reduce (`Callable`):
                Sums a tensor over all processes, each of which must come here.
            should_warn (`bool`, *optional*, defaults to `True`):
                Whether this process is the one that speaks.
        """
        if self._has_warned or self._min_utilization == 0:
            return
        *used, num_items = reduce(self._counts).split([*self._sizes, 1])
        if num_items < ITEMS_PER_CODE * max(self._sizes):
            return
        self._counts.zero_()
        for level, (counts, size) in enumerate(zip(used, self._sizes, strict=True)):
            number, most = int(counts.count_nonzero()), min(size, self._num_items)
            if number >= self._min_utilization * most:
                continue
            self._has_warned = True
            if should_warn:
                warnings.warn(
                    f"Level {level} used {number} of its {size} codes over the last {int(num_items)} items, less than "
                    f"`min_codebook_utilization` ({self._min_utilization:g} of them): its codebook has collapsed, and "
                    "many items will share a semantic ID. Try `codebook_update='ema'` with "
                    "`dead_code_threshold=0.25`, `kmeans_init=True`, a lower `learning_rate` or smaller "
                    "`codebook_sizes`. `min_codebook_utilization=0` turns this warning off.",
                    stacklevel=2,
                )
            return
