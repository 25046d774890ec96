# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Several rankings made one."""

from collections.abc import Hashable, Sequence

from ..checks import check_integer, check_number
from .metrics import check_rankings


__all__ = ["reciprocal_rank_fusion"]


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[Sequence[Hashable]]], top_k: int = 10, k: float = 60.0
) -> list[list[Hashable]]:
    """
    Fuses the ranked lists of several retrievers by the ranks alone, so that their scores needn't be comparable.

    An item scores the sum of `1 / (k + rank)` over the lists that hold it, ranks counted from 1 (reciprocal rank
    fusion; Cormack, Clarke and Büttcher, SIGIR 2009, whose `k` is 60). The smaller `k`, the more the heads of the
    lists count; with 0, lists are nearly interleaved. Equal scores go to the item of the earlier retriever.

    Args:
        rankings (`list[list[list]]`):
            For each retriever, ranked item ids for each history, best first, all over the same histories.
        top_k (`int`, *optional*, defaults to 10):
            Length of the fused lists; they are shorter where the lists together hold fewer items.
        k (`float`, *optional*, defaults to 60.0):
            Constant added to ranks.

    Returns:
        `list[list]` of item ids, one list for each history, best first.

    Raises:
        `ValueError`: `rankings` is empty or over different numbers of histories, `top_k` is below 1 or `k` below 0.

    Example:

    ```python
    >>> from forge_hf.evaluation import reciprocal_rank_fusion

    >>> reciprocal_rank_fusion([[["a", "b", "c"]], [["b", "d"]]], top_k=3)
    [['b', 'a', 'd']]
    ```
    """
    check_integer("top_k", top_k)
    check_number("k", k, 0)
    for lists in rankings:
        check_rankings("rankings", lists)
    sizes = {len(lists) for lists in rankings}
    if len(sizes) != 1:
        raise ValueError(f"`rankings` must all be over the same histories, got {sorted(sizes)} histories.")
    fused = []
    for lists in zip(*rankings, strict=True):
        scores: dict[Hashable, float] = {}
        for ranked in lists:
            # A repeated item counts where it first stands.
            for rank, item in enumerate(dict.fromkeys(ranked), start=1):
                scores[item] = scores.get(item, 0.0) + 1 / (k + rank)
        fused.append(sorted(scores, key=scores.get, reverse=True)[:top_k])  # sorting is stable
    return fused
