# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""A prefix tree by sorting: for each depth, the names of its nodes and which children are whose, in few bytes."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch


__all__ = [
    "Array",
    "ChildRanges",
    "build_tree",
    "code_dtype",
    "number_dtype",
    "packed_sizes",
    "pick",
    "search",
    "unpack",
]

Array: TypeAlias = torch.Tensor | np.ndarray

_INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)
_FEW_NODES = 2**20  # so many, at most, may take 4 bytes each, so that no search is needed
_SCAN_DEGREE = 8  # among so few children a code is found in 3 steps: no reason for 8 bytes a node


class ChildRanges:
    """
    Which children belong to which node, where both are numbered in the same order and every node has at least one.

    Either `starts` holds the first child of every node, and the number of children at the end; or, where that is much
    shorter, `extra` holds the node of every child that isn't its node's first. The first child of a node is then the
    node's own number plus that of the extra children of the nodes before it, which takes a search.

    Args:
        store (`torch.Tensor` or `np.ndarray`):
            `starts`, or `extra`. What is looked up in it must be of the same kind.
        num_nodes (`int`):
            Number of nodes.
        num_children (`int`):
            Number of children.
        max_degree (`int`):
            The most children that one node has.
    """

    def __init__(self, store: Array, num_nodes: int, num_children: int, max_degree: int):
        self.store = store
        self.num_nodes = num_nodes
        self.num_children = num_children
        self.max_degree = max_degree
        self._is_extra = self.length(num_nodes, num_children) == num_children - num_nodes

    @staticmethod
    def length(num_nodes: int, num_children: int) -> int:
        """Length of the tensor, of either kind."""
        num_extra = num_children - num_nodes
        return num_extra if num_extra <= num_nodes // (64 if num_nodes <= _FEW_NODES else 1) else num_nodes + 1

    @classmethod
    def from_flags(cls, is_first: torch.Tensor) -> "ChildRanges":
        """Children in order, told whether each is the first of its node."""
        starts = is_first.nonzero().flatten()
        num_nodes, num_children = len(starts), len(is_first)
        max_degree = int(torch.diff(starts, append=starts.new_tensor([num_children])).max())
        if cls.length(num_nodes, num_children) == num_children - num_nodes:
            starts = (~is_first).nonzero().flatten()
            starts -= torch.arange(1, len(starts) + 1, device=starts.device)
        else:
            starts = torch.cat([starts, starts.new_tensor([num_children])])
        return cls(starts.to(number_dtype(num_children)), num_nodes, num_children, max_degree)

    def of(self, nodes: Array) -> tuple[Array, Array]:
        """First and last child of each of `nodes`, which are node numbers of any shape."""
        if not self._is_extra:
            return pick(self.store, nodes), pick(self.store, nodes + 1) - 1
        if self.num_children == self.num_nodes:
            return nodes, nodes
        return search(self.store, nodes) + nodes, search(self.store, nodes, right=True) + nodes

    def node_of(self, children: Array) -> Array:
        """Node of each of `children`."""
        if self._is_extra:
            return children - search(self._extra_children, children, right=True)
        return search(self.store, children, right=True) - 1

    def map(self, function: Callable[[Array], Array]) -> "ChildRanges":
        """The same with another store, such as one on another device."""
        return ChildRanges(function(self.store), self.num_nodes, self.num_children, self.max_degree)

    @cached_property
    def _extra_children(self) -> Array:
        numbers = torch.arange(1, len(self.store) + 1, device=getattr(self.store, "device", None))
        if isinstance(self.store, np.ndarray):
            return self.store + numbers.numpy().astype(self.store.dtype)
        return self.store + numbers.to(self.store.dtype)


def build_tree(
    codes: torch.Tensor, codebook_sizes: Sequence[int]
) -> tuple[torch.Tensor, list[torch.Tensor], list[ChildRanges]]:
    """
    Sorts items by their codes and finds the nodes of every depth.

    As many levels as fit into 63 bits are packed into one integer and sorted at once: all of them, mostly. Where there
    are more, the number of the node so far takes the place of the levels that are done.

    Args:
        codes (`torch.LongTensor` of shape `(num_items, num_levels)`):
            Valid codes.
        codebook_sizes (`Sequence[int]`):
            Number of codes of each level.

    Returns:
        `tuple`: rows of `codes` in lexicographic order; for each depth from 1 on the nodes' packed prefixes or, where
        `packing_dtype` says so, their last codes; and for each depth from 0 on the nodes' children, which are the
        items at the last depth.
    """
    num_levels = len(codebook_sizes)
    order, node, num_nodes, depth = None, None, 1, 0
    names: list = [None] * num_levels
    ranges: list = [None] * (num_levels + 1)
    while depth < num_levels:
        stop, span = depth, num_nodes
        key = torch.zeros(len(codes), dtype=torch.int64, device=codes.device) if node is None else node
        while stop < num_levels and span * codebook_sizes[stop] < 2**63:
            column = codes[:, stop] if order is None else codes[:, stop][order]
            key.mul_(codebook_sizes[stop]).add_(column)
            span *= codebook_sizes[stop]
            stop += 1
        key, permutation = key.sort(stable=True)
        order = permutation if order is None else order[permutation]
        del permutation

        is_first = _is_first(key)
        if stop == num_levels:
            ranges[stop] = ChildRanges.from_flags(is_first)
        else:
            node = is_first.cumsum(0).sub_(1)
        key = key[is_first]
        num_nodes = len(key)
        for level in reversed(range(depth, stop)):
            size = codebook_sizes[level]
            parent = key >> (size.bit_length() - 1) if size & (size - 1) == 0 else key // size
            is_first = _is_first(parent)
            ranges[level] = ChildRanges.from_flags(is_first)
            # Only the first group of levels is ever kept packed: later ones begin with a node's number.
            packed = packing_dtype(codebook_sizes, level + 1, ranges[level].max_degree)
            names[level] = key.to(packed) if packed else (key - parent * size).to(code_dtype(size))
            key = parent[is_first]
        depth = stop
    return order.to(number_dtype(len(codes))), names, ranges


def packing_dtype(codebook_sizes: Sequence[int], depth: int, max_degree: int) -> torch.dtype | None:
    """
    Type of the packed prefixes of one depth, by which a prefix is found at once; `None` if only codes are kept.

    Leaves need none, since no search goes on from them. Nor do nodes that are few among their parent's children.
    """
    if depth == len(codebook_sizes):
        return None
    span = depth  # so many times larger is what `PrefixTable.lookup` adds up where no token is a code
    for size in codebook_sizes[:depth]:
        span *= size
    if span <= 2**31:
        return torch.int32
    return torch.int64 if span < 2**63 and max_degree > _SCAN_DEGREE else None


def packed_sizes(codebook_sizes: Sequence[int], ranges: Sequence[ChildRanges]) -> list[int]:
    """For each depth from 1 on, the codebook size by which packed prefixes give their last code; 0 for mere codes."""
    return [
        size if packing_dtype(codebook_sizes, level + 1, ranges[level].max_degree) else 0
        for level, size in enumerate(codebook_sizes)
    ]


def unpack(names: Array, size: int) -> Array:
    """Last codes of nodes with these names, where `size` is what `packed_sizes` gives."""
    if not size:
        return names
    return names & (size - 1) if size & (size - 1) == 0 else names % size


def pick(store: Array, index: Array) -> Array:
    """`store[index]`, of one dimension, by whichever function is fast for so many."""
    if isinstance(store, np.ndarray):
        return store.take(index)
    if index.numel() < 4096:
        return store.take(index.long())
    return store.index_select(0, index.reshape(-1).long()).view(index.shape)


def search(store: Array, values: Array, right: bool = False) -> Array:
    """How many entries of a sorted `store` are below each of `values`, or with `right` not above."""
    if isinstance(store, np.ndarray):
        return store.searchsorted(values.astype(store.dtype, copy=False), "right" if right else "left")
    return torch.searchsorted(store, values.to(store.dtype), right=right)


def code_dtype(size: int) -> torch.dtype:
    """The smallest type that holds the codes of a codebook."""
    return next(dtype for dtype in _INTEGERS if size - 1 <= torch.iinfo(dtype).max)


def number_dtype(count: int) -> torch.dtype:
    """Type of the numbers from 0 to `count`."""
    return torch.int32 if count < 2**31 else torch.int64


def _is_first(sorted_keys: torch.Tensor) -> torch.Tensor:
    flags = torch.ones(len(sorted_keys), dtype=torch.bool, device=sorted_keys.device)
    torch.ne(sorted_keys[1:], sorted_keys[:-1], out=flags[1:])
    return flags
