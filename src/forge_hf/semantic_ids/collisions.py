# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What becomes of items that got equal codes. Each strategy is one function from codes to codes."""

import numpy as np
import torch

from .layout import SemanticIdLayout, row_keys


__all__ = ["COLLISION_STRATEGIES", "append_suffix", "keep_collisions"]


def keep_collisions(codes: torch.Tensor, layout: SemanticIdLayout) -> tuple[torch.Tensor, SemanticIdLayout]:
    """Leaves the codes as they are: a semantic ID then names every item that has it."""
    return codes, layout


def append_suffix(codes: torch.Tensor, layout: SemanticIdLayout) -> tuple[torch.Tensor, SemanticIdLayout]:
    """
    Appends one level that numbers the items of equal codes, 0, 1, ... in the order in which they are given.

    TIGER's way (https://huggingface.co/papers/2305.05065, section 3.1). The level is always appended, and is as large
    as the largest group of equal codes, so that every semantic ID has the same length and no two items share one.

    Args:
        codes (`torch.Tensor` of shape `(num_items, num_levels)`):
            Codes of each item.
        layout ([`SemanticIdLayout`]):
            Their layout.

    Returns:
        `tuple[torch.Tensor, SemanticIdLayout]`: codes of shape `(num_items, num_levels + 1)` and their layout.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.semantic_ids import SemanticIdLayout
    >>> from forge_hf.semantic_ids.collisions import append_suffix

    >>> codes, layout = append_suffix(torch.tensor([[1, 2], [0, 0], [1, 2]]), SemanticIdLayout([4, 4]))
    >>> codes
    tensor([[1, 2, 0],
            [0, 0, 0],
            [1, 2, 1]])
    >>> layout.codebook_sizes
    (4, 4, 2)
    ```
    """
    keys = row_keys(codes)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.diff(starts, append=len(keys))
    ranks = np.empty(len(keys), dtype=np.int64)
    ranks[order] = np.arange(len(keys)) - np.repeat(starts, sizes)
    codes = torch.cat([codes, torch.from_numpy(ranks)[:, None]], dim=1)
    return codes, SemanticIdLayout((*layout.codebook_sizes, int(sizes.max())))


COLLISION_STRATEGIES = {"suffix": append_suffix, "keep": keep_collisions}
