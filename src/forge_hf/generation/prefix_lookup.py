# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""From token prefixes to the tokens that may follow, at the cost of a few array operations."""

import math
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from .table_file import TableParts
from .tree_levels import Array, packed_sizes, pick, search, unpack


__all__ = ["PrefixLookup"]

_MAX_SPAN = 2**16  # prefixes, of which a table is made where they are no more
_MAX_BITS = 2**26  # prefixes, of which each has a bit where they are no more
_BITS_A_NAME = 256  # at most
_MANY_KEYS = 512  # which are counted faster than searched
_MAX_LIMITS = 2**22  # entries of 4 bytes
_FEW_SCORES = 2**16  # of which all are read, where some would do
_MIN_DENSITY = 16  # at least one entry in so many is legal
_MAX_PADDING = 2**14  # entries that are gathered without a look at how many are needed
_MAX_WASTE = 4  # times as many entries as are needed, at most, are gathered


class PrefixLookup:
    """
    What a prefix table needs beside its own tensors to find a prefix, and the tokens after it, all at once.

    On the CPU it works on NumPy's views of the tensors: for a few rows an operation costs a third of torch's.

    Args:
        parts ([`TableParts`]): The table's tensors.
    """

    def __init__(self, parts: TableParts):
        self._device = parts.order.device
        self._is_cpu = _has_arrays(self._device)
        self._np: Any = np if self._is_cpu else torch
        self._sizes, self._num_levels = parts.codebook_sizes, len(parts.codebook_sizes)
        self._tokens = [self._native(tokens) for tokens in parts.token_ids.split(parts.codebook_sizes)]
        self._names = [self._native(names) for names in parts.names]
        self._ranges = [ranges.map(self._native) for ranges in parts.ranges]
        self._packed_sizes = packed_sizes(self._sizes, self._ranges)
        # the deepest depth, up to each, whose nodes are named by their packed prefixes
        self._packed_until = list(
            accumulate((depth if size else 0 for depth, size in enumerate([0, *self._packed_sizes])), max)
        )
        self.num_tokens = int(parts.token_ids.max()) + 1
        self._least, self._most = self._scalar(-1), self._scalar(self.num_tokens)
        self._zero = self._native(torch.zeros(1, dtype=torch.int64, device=self._device))
        self._cache: dict[tuple, Any] = {}  # what is made when first used

    def find(self, input_ids: torch.Tensor, prompt_length: int = 0) -> tuple[Array, torch.Tensor | None]:
        """
        Node of the prefix that begins at `prompt_length` in each row, and no further than a semantic ID goes.

        Returns:
            `tuple`: nodes, and which of them there are, or `None` for all. The node of a prefix that isn't there is
            any.
        """
        prefixes = self._native(input_ids.long())[:, prompt_length : prompt_length + self._num_levels]
        depth = prefixes.shape[-1]
        # The tables below have two places more than there are tokens: -1 and the last stand for what is no token.
        tokens = self._np.minimum(self._np.maximum(prefixes, self._least), self._most)
        packed = self._packed_until[depth]
        if packed == 1:
            nodes = self._first_nodes.take(tokens[:, 0])
            found = nodes >= 0
            nodes = nodes * found
        elif packed:
            shares, offsets = self._key_shares(packed)
            keys = shares.take(tokens[:, :packed] + offsets)
            nodes, found = self._find_packed(packed, keys.sum(-1, dtype=shares.dtype))
        else:
            nodes = self._native(torch.zeros(len(prefixes), dtype=torch.int64, device=self._device))
            found = nodes == 0
        for level in range(packed, depth):
            nodes, exists = self._step(level, nodes, pick(self._code_of_token(level), tokens[:, level]))
            found = found & exists
        # Most often all are found, which NumPy counts in a tenth of the time that `all` takes.
        missing = len(found) - np.count_nonzero(found) if self._is_cpu else not found.all()
        return nodes, self.to_torch(found) if missing else None

    def tokens_after(self, depth: int, nodes: Array) -> torch.Tensor | None:
        """
        Legal tokens after each of `nodes`, of shape `(num, width)`: where one has fewer, its last is repeated.

        `None` where that would be a waste, because few nodes have most children.
        """
        first, last = self._ranges[depth].of(nodes[:, None])
        # As wide as any node needs it, if that is little: to look which of these need it takes longer.
        width = self._ranges[depth].max_degree
        if len(nodes) * width > _MAX_PADDING:
            extra = last - first
            width = int(extra.max()) + 1
            if len(nodes) * width > max(_MAX_PADDING, _MAX_WASTE * (int(extra.sum()) + len(nodes))):
                return None
        if width > 1:
            first = self._np.minimum(first + self._positions[:width], last)
        return self.to_torch(pick(self._tokens[depth], self._last_codes(depth + 1, first)))

    def limits(self, depth: int, shape: tuple[int, int]) -> tuple[int, torch.Tensor] | None:
        """
        The legal tokens of every node of one depth as a matrix, where that is no waste.

        Args:
            depth (`int`): Depth of the nodes.
            shape (`tuple[int, int]`): Number of rows and of tokens of the scores.

        Returns:
            `tuple` or `None`: A token id, and of it and those that follow it an upper limit of the score, one row a
            node: inf where the token is legal, -inf where it isn't, and all -inf in one row more, the last. All tokens
            of the vocabulary, if the scores are so few that one operation on all is cheaper than several on some.
            `None` where few continuations are legal, or the matrix would have more than 16 MB.
        """
        if ("limits", depth) not in self._cache:
            self._cache["limits", depth] = self._make_limits(depth)
        limits, (num_rows, vocab_size) = self._cache["limits", depth], shape
        if limits is None or num_rows * vocab_size > _FEW_SCORES or len(limits[1]) * vocab_size > _MAX_LIMITS:
            return limits
        if ("limits of all", depth, vocab_size) not in self._cache:
            start, matrix = limits
            matrix = torch.nn.functional.pad(matrix, (start, vocab_size - start - matrix.shape[-1]), value=-torch.inf)
            self._cache["limits of all", depth, vocab_size] = 0, matrix
        return self._cache["limits of all", depth, vocab_size]

    def _make_limits(self, depth: int) -> tuple[int, torch.Tensor] | None:
        num_nodes, num_children = self._ranges[depth].num_nodes, self._ranges[depth].num_children
        start, stop = int(self._tokens[depth].min()), int(self._tokens[depth].max()) + 1
        if (num_nodes + 1) * (stop - start) > min(_MAX_LIMITS, _MIN_DENSITY * num_children):
            return None
        children = self._native(torch.arange(num_children, device=self._device))
        tokens = pick(self._tokens[depth], self._last_codes(depth + 1, children))
        matrix = torch.full((num_nodes + 1, stop - start), -torch.inf, device=self._device)
        self._native(matrix)[self._ranges[depth].node_of(children), tokens - start] = torch.inf
        return start, matrix

    def to_torch(self, array: Array) -> torch.Tensor:
        """What `find` returned as a tensor."""
        return torch.from_numpy(array) if self._is_cpu else array

    def _native(self, tensor: torch.Tensor) -> Array:
        return tensor.numpy() if self._is_cpu else tensor

    def _scalar(self, value: int) -> Array:
        return self._native(torch.tensor(value, device=self._device))

    def _last_codes(self, depth: int, nodes: Array) -> Array:
        return unpack(pick(self._names[depth - 1], nodes), self._packed_sizes[depth - 1])

    def _code_of_token(self, level: int) -> Array:
        """Code of each token in one level, -1 where it is none."""
        if ("codes", level) not in self._cache:
            codes = self._native(torch.full((self.num_tokens + 2,), -1, device=self._device))
            codes[self._tokens[level]] = self._native(torch.arange(self._sizes[level], device=self._device))
            self._cache["codes", level] = codes
        return self._cache["codes", level]

    def _key_shares(self, depth: int) -> tuple[Array, Array]:
        """
        What each token adds to the packed prefix of `depth` codes, level after level, and where each level begins.

        No token of another level, and none at all, makes up for what a wrong one takes away: the sum is negative.
        """
        if ("shares", depth) not in self._cache:
            shares, span = [], 1
            for level in reversed(range(depth)):
                shares.append(self.to_torch(self._code_of_token(level)) * span)
                span *= self._sizes[level]
            dtype = torch.int64 if span <= _MAX_SPAN else self.to_torch(self._names[depth - 1]).dtype
            shares = torch.cat([share.where(share >= 0, -span).to(dtype) for share in shares[::-1]])
            offsets = torch.arange(depth, device=self._device) * (self.num_tokens + 2)
            self._cache["shares", depth] = self._native(shares), self._native(offsets)
        return self._cache["shares", depth]

    @cached_property
    def _positions(self) -> Array:
        """Numbers of a node's children, of the node with the most."""
        most = max(ranges.max_degree for ranges in self._ranges)
        return self._native(torch.arange(most, device=self._device))

    @cached_property
    def _first_nodes(self) -> Array:
        """Node of depth 1 of each token, -1 where it begins nothing."""
        nodes, found = self._find_packed(1, self._key_shares(1)[0])
        return self._np.where(found, nodes, self._least)

    def _find_packed(self, depth: int, keys: Array) -> tuple[Array, Array]:
        """Nodes of packed prefixes, and which of them there are."""
        names, span = self._names[depth - 1], math.prod(self._sizes[:depth])
        if span > _MAX_SPAN:
            if self._is_cpu and len(keys) >= _MANY_KEYS and span <= min(_MAX_BITS, _BITS_A_NAME * len(names)):
                return self._find_by_bits(depth, span, keys)
            if ("last", depth) not in self._cache:
                self._cache["last", depth] = self._scalar(len(names) - 1)
            nodes = self._np.minimum(search(names, keys), self._cache["last", depth])
            return nodes, names.take(nodes) == keys
        if ("nodes", depth) not in self._cache:
            nodes = torch.full((span + 1,), -1, device=self._device)
            nodes[self.to_torch(names).long()] = torch.arange(len(names), device=self._device)
            self._cache["nodes", depth] = self._native(nodes)
        nodes = self._cache["nodes", depth].take(self._np.maximum(keys, self._least))
        found = nodes >= 0
        return nodes * found, found

    def _find_by_bits(self, depth: int, span: int, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each prefix has a bit that tells whether it is there. Those that are set before it number its node."""
        if ("bits", depth) not in self._cache:
            bits = np.zeros(-(-span // 64) * 64, dtype=bool)
            bits[self._names[depth - 1]] = True
            words = np.packbits(bits, bitorder="little").view("<u8")
            before = np.bitwise_count(words).cumsum(dtype=np.int32)
            before[1:], before[0] = before[:-1].copy(), 0
            self._cache["bits", depth] = words, before, np.left_shift(np.uint64(1), np.arange(64, dtype=np.uint64))
        words, before, bit_of = self._cache["bits", depth]
        places = np.maximum(keys, 0)
        indices, bits = places >> 6, bit_of.take(places & 63)
        words = words.take(indices)
        found = ((words & bits) != 0) & (keys >= 0)
        nodes = before.take(indices) + np.bitwise_count(words & (bits - np.uint64(1)))
        return nodes * found, found

    def _step(self, depth: int, nodes: Array, codes: Array) -> tuple[Array, Array]:
        """The child of each of `nodes` that continues it with one of `codes`, by halving, and whether there is one."""
        low, high = (end + self._zero for end in self._ranges[depth].of(nodes))  # int64
        for _ in range((self._ranges[depth].max_degree - 1).bit_length()):
            middle = (low + high) // 2
            below = self._last_codes(depth + 1, middle) < codes
            low = self._np.where(below, self._np.minimum(middle + 1, high), low)
            high = self._np.where(below, high, middle)
        return low, self._last_codes(depth + 1, low) == codes


def _has_arrays(device: torch.device) -> bool:
    return device.type == "cpu"
