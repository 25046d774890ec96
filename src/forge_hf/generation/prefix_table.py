# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The prefix tree of a catalog's semantic IDs as flat tensors: which code may follow which prefix."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from ..errors import InvalidCodesError
from ..semantic_ids.catalog import SemanticIdCatalog
from ..tokenization.tokenization_semantic_id import semantic_id_token_ids


__all__ = ["Children", "PrefixTable"]


class Children(NamedTuple):
    """
    The legal continuations of some nodes, padded to the node with the most.

    Attributes:
        nodes (`torch.LongTensor` of shape `(..., width)`): Number of each child within its level; 0 where not `legal`.
        tokens (`torch.LongTensor` of shape `(..., width)`): Token id of each child; arbitrary where not `legal`.
        legal (`torch.BoolTensor` of shape `(..., width)`): Which entries are children.
    """

    nodes: torch.Tensor
    tokens: torch.Tensor
    legal: torch.Tensor


class PrefixTable:
    """
    All semantic IDs of a catalog as a breadth-first prefix tree.

    A node of depth `l` is a prefix of `l` codes. The nodes of one depth are numbered by lexicographic rank, so the
    children of a node are neighbours, a range of two numbers names them all, and a node needs no pointer to its child:
    a child's number is its position. The root is node 0 of depth 0; the nodes of depth `num_levels` are the leaves,
    one for each distinct semantic ID. A leaf may name several items, held in the catalog's order.

    Memory is about 24 bytes a node; building is a sort a level, without a Python loop over items.

    Args:
        codes (`torch.LongTensor` of shape `(num_items, num_levels)`):
            Codes of each item, in the catalog's order. Rows may repeat.
        codebook_sizes (`Sequence[int]`):
            Number of codes of each level.
        token_ids (`torch.LongTensor` of shape `(sum(codebook_sizes),)`, *optional*):
            Token id of each code, level after level. Defaults to `0, 1, 2, ...`.

    Raises:
        `InvalidCodesError`: `codes` are empty, of the wrong shape or type, or outside their codebook.
        `ValueError`: `token_ids` has the wrong shape, is negative or repeats a token.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.generation import PrefixTable

    >>> table = PrefixTable(torch.tensor([[0, 1], [2, 0], [0, 1], [0, 0]]), codebook_sizes=[3, 2])
    >>> table.num_leaves
    3
    >>> table.lookup(torch.tensor([[0], [1], [2]]))  # first codes that begin a semantic ID: 0 and 2
    tensor([ 0, -1,  1])
    >>> table.items(torch.tensor([1]))  # items 0 and 2 share the semantic ID (0, 1)
    (tensor([0, 2]), tensor([2]))

    ```
    """

    def __init__(self, codes: torch.Tensor, codebook_sizes: Sequence[int], token_ids: torch.Tensor | None = None):
        codes = torch.as_tensor(codes)
        self.fingerprint: str | None = None  # of the catalog, where it was built from one
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.num_levels = len(self.codebook_sizes)
        _validate(codes, self.codebook_sizes)
        codes = codes.to(torch.int64)
        num_codes = sum(self.codebook_sizes)
        token_ids = torch.arange(num_codes) if token_ids is None else torch.as_tensor(token_ids).to(torch.int64)
        if token_ids.shape != (num_codes,):
            raise ValueError(
                f"`token_ids` must hold one token for each of the {num_codes} codes of `codebook_sizes` "
                f"{self.codebook_sizes}, but its shape is {tuple(token_ids.shape)}."
            )
        if token_ids.min() < 0 or token_ids.unique().numel() != num_codes:
            raise ValueError("`token_ids` must be non-negative and all different: one atomic token for each code.")
        token_ids = token_ids.to(codes.device)

        # node[i] is the number of item i's prefix; sorting node * K + code refines the order by one level.
        node = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
        num_nodes, offset = 1, 0
        self._keys, self._child_start, self._child_tokens = [], [], []
        for level, size in enumerate(self.codebook_sizes):
            keys, node = torch.unique(node * size + codes[:, level], return_inverse=True)
            parents = torch.arange(num_nodes + 1, device=codes.device)
            self._keys.append(keys)
            self._child_start.append(torch.searchsorted(keys, parents * size))
            self._child_tokens.append(token_ids[offset + keys % size])
            num_nodes, offset = len(keys), offset + size

        self.token_ids = token_ids
        self._leaf_items = torch.argsort(node, stable=True)
        counts = torch.bincount(node, minlength=num_nodes)
        self._leaf_start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        # token id -> index of the code, -1 where the token is no code
        self._code_of_token = torch.full((int(token_ids.max()) + 1,), -1, dtype=torch.int64, device=codes.device)
        self._code_of_token[token_ids] = torch.arange(num_codes, device=codes.device)

    @classmethod
    def from_catalog(cls, catalog: SemanticIdCatalog, tokenizer: PreTrainedTokenizerBase) -> "PrefixTable":
        """
        Builds the table of a catalog in a tokenizer's token ids.

        Args:
            catalog (`SemanticIdCatalog`): The items and their codes.
            tokenizer (`PreTrainedTokenizerBase`): A tokenizer in which every code is one token.
        """
        token_ids = semantic_id_token_ids(tokenizer, catalog.layout)
        table = cls(catalog.codes, catalog.layout.codebook_sizes, token_ids)
        table.fingerprint = catalog.fingerprint
        return table

    @property
    def num_items(self) -> int:
        """Number of items that the table was built from."""
        return len(self._leaf_items)

    @property
    def num_leaves(self) -> int:
        """Number of distinct semantic IDs."""
        return len(self._keys[-1])

    @property
    def device(self) -> torch.device:
        """Device of the table's tensors."""
        return self.token_ids.device

    def num_nodes(self, depth: int) -> int:
        """Number of distinct prefixes of `depth` codes."""
        return 1 if depth == 0 else len(self._keys[depth - 1])

    def to(self, device: torch.device | str) -> "PrefixTable":
        """Returns the table on `device`; itself if it is already there."""
        if torch.device(device) == self.device:
            return self
        table = object.__new__(PrefixTable)
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                value = value.to(device)
            elif isinstance(value, list):
                value = [tensor.to(device) for tensor in value]
            setattr(table, name, value)
        return table

    def children(self, depth: int, nodes: torch.Tensor) -> Children:
        """
        Legal continuations of nodes of one depth, in lexicographic order.

        Args:
            depth (`int`): Depth of `nodes`, below `num_levels`.
            nodes (`torch.LongTensor` of shape `(...)`): Node numbers; a negative number has no children.

        Returns:
            `Children`: padded to the largest number of children that one of `nodes` has (at least 1).
        """
        alive = nodes >= 0
        nodes = nodes.clamp(min=0)
        start = self._child_start[depth][nodes]
        degree = (self._child_start[depth][nodes + 1] - start) * alive
        width = max(int(degree.max()), 1) if degree.numel() else 1
        position = torch.arange(width, device=nodes.device)
        legal = position < degree.unsqueeze(-1)
        child = (start.unsqueeze(-1) + position) * legal
        return Children(nodes=child, tokens=self._child_tokens[depth][child], legal=legal)

    def lookup(self, prefixes: torch.Tensor) -> torch.Tensor:
        """
        Node of each token prefix.

        Args:
            prefixes (`torch.LongTensor` of shape `(batch_size, depth)`): Token ids of the codes so far.

        Returns:
            `torch.LongTensor` of shape `(batch_size,)`: number of the prefix among those of its depth, or -1 if no
            semantic ID begins with it.
        """
        if prefixes.shape[-1] > self.num_levels:
            raise ValueError(f"`prefixes` hold {prefixes.shape[-1]} tokens, but a semantic ID has {self.num_levels}.")
        prefixes = prefixes.long()
        known = prefixes.clamp(min=0, max=len(self._code_of_token) - 1)
        codes = torch.where(known == prefixes, self._code_of_token[known], -1)
        node = torch.zeros(prefixes.shape[0], dtype=torch.int64, device=prefixes.device)
        offset = 0
        for level in range(prefixes.shape[-1]):
            size, keys = self.codebook_sizes[level], self._keys[level]
            code = codes[:, level] - offset
            key = torch.where((node >= 0) & (code >= 0) & (code < size), node * size + code, -1)
            found = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
            node = torch.where(keys[found] == key, found, -1)
            offset += size
        return node

    def leaf_codes(self, leaves: torch.Tensor) -> torch.Tensor:
        """
        Codes of leaves.

        Args:
            leaves (`torch.LongTensor` of shape `(...)`): Leaf numbers; a negative number gives codes of -1.

        Returns:
            `torch.LongTensor` of shape `(..., num_levels)`.
        """
        node, codes = leaves.clamp(min=0), []
        for size, keys in zip(reversed(self.codebook_sizes), reversed(self._keys), strict=True):
            key = keys[node]
            codes.append(key % size)
            node = key // size
        return torch.where((leaves >= 0).unsqueeze(-1), torch.stack(codes[::-1], dim=-1), -1)

    def leaf_tokens(self, leaves: torch.Tensor) -> torch.Tensor:
        """Token ids of leaves: as `leaf_codes`, of shape `(..., num_levels)`, -1 for a negative leaf."""
        codes = self.leaf_codes(leaves)
        offsets = torch.tensor([0, *self.codebook_sizes[:-1]], device=codes.device).cumsum(0)
        return torch.where(codes >= 0, self.token_ids[codes.clamp(min=0) + offsets], -1)

    def items(self, leaves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Items that leaves name.

        Args:
            leaves (`torch.LongTensor` of shape `(num,)`): Leaf numbers; a negative number names no item.

        Returns:
            `tuple`: catalog rows of the items, leaf after leaf and in the catalog's order within a leaf, and how many
            rows each leaf has, of shape `(num,)`.
        """
        alive = leaves >= 0
        leaves = leaves.clamp(min=0)
        start = self._leaf_start[leaves]
        counts = (self._leaf_start[leaves + 1] - start) * alive
        # position of each row within the concatenation, shifted to where its leaf's items begin
        shift = start - (counts.cumsum(0) - counts)
        position = torch.arange(int(counts.sum()), device=leaves.device)
        return self._leaf_items[position + shift.repeat_interleave(counts)], counts


def _validate(codes: torch.Tensor, codebook_sizes: tuple[int, ...]) -> None:
    if not codebook_sizes or min(codebook_sizes) < 1:
        raise InvalidCodesError(f"`codebook_sizes` must be one or more positive numbers, got {codebook_sizes}.")
    if codes.ndim != 2 or codes.shape[1] != len(codebook_sizes):
        raise InvalidCodesError(
            f"`codes` must have the shape (num_items, {len(codebook_sizes)}), one column for each of `codebook_sizes`"
            f", got {tuple(codes.shape)}."
        )
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise InvalidCodesError(f"`codes` must be integers, got {codes.dtype}.")
    if len(codes) == 0:
        raise InvalidCodesError("`codes` is empty: a prefix table needs at least one item.")
    outside = (codes < 0) | (codes >= torch.tensor(codebook_sizes, device=codes.device))
    if outside.any():
        row, level = (int(index) for index in outside.nonzero()[0])
        raise InvalidCodesError(
            f"`codes` hold {int(outside.sum())} values outside their codebook; the first is {int(codes[row, level])} "
            f"in row {row}, level {level}, whose codebook has {codebook_sizes[level]} codes."
        )
