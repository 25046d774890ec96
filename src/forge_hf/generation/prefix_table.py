# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The prefix tree of a catalog's semantic IDs as flat tensors: which code may follow which prefix."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..checks import check_integers, check_type
from ..errors import FingerprintMismatchError, InvalidCodesError
from ..hub import find_files, read_json
from ..semantic_ids.catalog import SemanticIdCatalog
from ..semantic_ids.serialization import CONFIG_FILE
from ..tokenization.tokenization_semantic_id import semantic_id_token_ids
from .prefix_lookup import PrefixLookup
from .table_file import TABLE_FILE, TableParts, read_table, write_table
from .tree_levels import build_tree, packed_sizes, pick, unpack


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

    10 million items of 3 x 8192 codes take 10 bytes an item, of which 4 are the item's row. Building is one sort of
    all items; a catalog that has changed gets a new table, which nothing that runs has to be restarted for. Items that
    are out for a while are left out with [`~PrefixTable.restrict`].

    Args:
        codes (`torch.LongTensor` of shape `(num_items, num_levels)`):
            Codes of each item, in the catalog's order. Rows may repeat.
        codebook_sizes (`Sequence[int]`):
            Number of codes of each level.
        token_ids (`torch.LongTensor` of shape `(sum(codebook_sizes),)`, *optional*):
            Token id of each code, level after level. Defaults to `0, 1, 2, ...`.

    Raises:
        `InvalidCodesError`: `codes` are empty, of the wrong shape or type, or outside their codebook.
        `ValueError`: `token_ids` has the wrong shape or type, is negative or repeats a token.
        `TypeError`: `codes` is neither a tensor nor an array.

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
    >>> table.restrict(torch.tensor([1, 2])).items(torch.tensor([0, 1]))  # items 1 and 2 alone
    (tensor([2, 1]), tensor([1, 1]))

    ```
    """

    def __init__(self, codes: torch.Tensor, codebook_sizes: Sequence[int], token_ids: torch.Tensor | None = None):
        check_type("codes", codes, torch.Tensor, np.ndarray)
        codes = torch.as_tensor(codes)
        if codes.dtype in (torch.uint16, torch.uint32, torch.uint64):  # of which torch can't tell the least
            codes = codes.to(torch.int64)
        codebook_sizes = _as_sizes(codebook_sizes)
        _validate(codes, codebook_sizes)
        num_codes = sum(codebook_sizes)
        token_ids = torch.arange(num_codes) if token_ids is None else torch.as_tensor(token_ids)
        if token_ids.is_floating_point() or token_ids.dtype == torch.bool:
            raise ValueError(f"`token_ids` must be integers, got {token_ids.dtype}.")
        token_ids = token_ids.to(torch.int64)
        if token_ids.shape != (num_codes,):
            raise ValueError(
                f"`token_ids` must hold one token for each of the {num_codes} codes of `codebook_sizes` "
                f"{codebook_sizes}, but its shape is {tuple(token_ids.shape)}."
            )
        if token_ids.min() < 0 or token_ids.unique().numel() != num_codes:
            raise ValueError("`token_ids` must be non-negative and all different: one atomic token for each code.")
        tree = build_tree(codes.to(torch.int64), codebook_sizes)
        self._set(TableParts(codebook_sizes, None, None, len(codes), token_ids.to(codes.device), *tree))

    def _set(self, parts: TableParts) -> None:
        self._parts = parts
        self.codebook_sizes = parts.codebook_sizes
        self.num_levels = len(parts.codebook_sizes)
        # Of the catalog, where it was built from one: that of its semantic IDs, and that of its rows.
        self.fingerprint: str | None = parts.fingerprint
        self.codes_checksum: str | None = parts.codes_checksum
        self.token_ids = parts.token_ids
        self._order, self._names, self._ranges = parts.order, parts.names, parts.ranges
        self._packed_sizes = packed_sizes(self.codebook_sizes, self._ranges)
        self._level_tokens = self.token_ids.split(self.codebook_sizes)

    @cached_property
    def step_lookup(self) -> PrefixLookup:
        """What a logits processor asks; made when first used."""
        return PrefixLookup(self._parts)

    @cached_property
    def _leaf_of_row(self) -> torch.Tensor:
        # One place more, at the end: a negative row is read there.
        leaves = torch.full((self._parts.num_rows + 1,), -1, dtype=self._order.dtype, device=self.device)
        position = torch.arange(self.num_items, dtype=self._order.dtype, device=self.device)
        leaves[self._order.long()] = self._ranges[-1].node_of(position).to(leaves.dtype)
        return leaves

    @classmethod
    def _of(cls, parts: TableParts) -> "PrefixTable":
        table = object.__new__(cls)
        table._set(parts)
        return table

    @classmethod
    def from_catalog(cls, catalog: SemanticIdCatalog, tokenizer: PreTrainedTokenizerBase) -> "PrefixTable":
        """
        Builds the table of a catalog in a tokenizer's token ids.

        Args:
            catalog (`SemanticIdCatalog`): The items and their codes.
            tokenizer (`PreTrainedTokenizerBase`): A tokenizer in which every code is one token.
        """
        token_ids = semantic_id_token_ids(tokenizer, catalog.layout)
        table = cls(catalog.codes_at(slice(None)), catalog.layout.codebook_sizes, token_ids)
        identity = {"fingerprint": catalog.fingerprint, "codes_checksum": catalog.codes_checksum}
        table._set(table._parts._replace(**identity))
        return table

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """
        Saves the table, with its token ids, as `prefix_table.safetensors`.

        Args:
            save_directory (`str` or `os.PathLike`):
                Folder to write to, made if there is none: that of the catalog, its model and its tokenizer.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_table(folder / TABLE_FILE, self._parts._replace(fingerprint=self.fingerprint))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        catalog: SemanticIdCatalog | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
    ) -> "PrefixTable":
        """
        Maps a saved table into memory, which processes that load the same one share, and checks that it is whole.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                A folder that [`~PrefixTable.save_pretrained`] wrote to, or the id of a repository on the Hub.
            catalog (`SemanticIdCatalog`, *optional*):
                The catalog that the table must be of. Defaults to the one beside it, if there is one.
            revision (`str`, *optional*):
                Branch, tag or commit of the repository.
            token (`str` or `bool`, *optional*):
                Token of the Hub, by default the one that `hf auth login` stored.
            cache_dir (`str` or `os.PathLike`, *optional*):
                Folder to keep downloads in.
            local_files_only (`bool`, *optional*, defaults to `False`):
                Whether to look into the cache only.

        Returns:
            [`PrefixTable`]: on the CPU.

        Raises:
            [`CorruptCatalogError`]: The file is truncated, or of an unknown format.
            [`FingerprintMismatchError`]: The table is of another catalog.
            `FileNotFoundError`: There is no table.
            [`HubError`]: The Hub can't be reached, or refuses.
        """
        (path,) = find_files(
            pretrained_model_name_or_path,
            (TABLE_FILE,),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        parts = read_table(path)
        beside = read_json(Path(path).with_name(CONFIG_FILE))
        if catalog is not None or beside:
            fingerprint = catalog.fingerprint if catalog is not None else beside.get("fingerprint")
            if parts.fingerprint != fingerprint:
                raise FingerprintMismatchError(
                    f"{path} was built from a catalog with the fingerprint {parts.fingerprint!r}, but "
                    f"{'`catalog`' if catalog is not None else 'the catalog beside it'} has {fingerprint!r}. Build it "
                    "anew with `PrefixTable.from_catalog(catalog, tokenizer)`."
                )
        table = cls._of(parts)
        if catalog is not None:
            table.check_catalog(catalog)
        return table

    def check_catalog(self, catalog: SemanticIdCatalog) -> None:
        """
        Checks that the table is of a catalog: the same semantic IDs, and items in the same order.

        Raises:
            [`FingerprintMismatchError`]: It isn't, or wasn't built from a catalog.
        """
        if self.fingerprint != catalog.fingerprint:
            raise FingerprintMismatchError(
                f"`prefix_table` was built from a catalog with the fingerprint {self.fingerprint!r}, but `catalog` "
                f"has {catalog.fingerprint!r}. Build it with `PrefixTable.from_catalog(catalog, tokenizer)`."
            )
        if self.codes_checksum not in (None, catalog.codes_checksum):
            raise FingerprintMismatchError(
                "`prefix_table` was built from a catalog with the same semantic IDs as `catalog`, but with the items "
                "in another order. Build it with `PrefixTable.from_catalog(catalog, tokenizer)`."
            )

    @property
    def num_items(self) -> int:
        """Number of items that the table holds."""
        return len(self._order)

    @property
    def num_leaves(self) -> int:
        """Number of distinct semantic IDs."""
        return self._ranges[-1].num_nodes

    @property
    def device(self) -> torch.device:
        """Device of the table's tensors."""
        return self.token_ids.device

    @property
    def num_bytes(self) -> int:
        """Size of the table: what is saved, and held on its device, without what use derives from it."""
        tensors = [self.token_ids, self._order, *self._names, *(ranges.store for ranges in self._ranges)]
        return sum(tensor.nbytes for tensor in tensors)

    def num_nodes(self, depth: int) -> int:
        """Number of distinct prefixes of `depth` codes."""
        return self._ranges[depth].num_nodes

    def level_tokens(self, depth: int) -> torch.Tensor:
        """Token ids of all codes of the level that follows `depth` codes, legal somewhere or not."""
        return self._level_tokens[depth]

    def to(self, device: torch.device | str) -> "PrefixTable":
        """Returns the table on `device`; itself if it is already there."""
        if torch.device(device) == self.device:
            return self
        parts = self._parts
        return self._of(
            parts._replace(
                fingerprint=self.fingerprint,
                token_ids=parts.token_ids.to(device),
                order=parts.order.to(device),
                names=[names.to(device) for names in parts.names],
                ranges=[ranges.map(lambda store: store.to(device)) for ranges in parts.ranges],
            )
        )

    def restrict(self, rows: torch.Tensor) -> "PrefixTable":
        """
        The table of some items alone, made as a new one is; items keep their rows in the whole catalog.

        Args:
            rows (`torch.LongTensor` of shape `(num,)`):
                Rows of the catalog, in any order.

        Returns:
            [`PrefixTable`]: with this table's fingerprint and token ids, and leaves numbered anew.

        Raises:
            `ValueError`: `rows` are none, or not all in the table.
        """
        rows = torch.as_tensor(rows, device=self.device)
        if (rows.is_floating_point() and len(rows)) or rows.dtype == torch.bool:
            hint = " Of a mask, give `mask.nonzero()[:, 0]`." if rows.dtype == torch.bool else ""
            raise ValueError(f"`rows` must be integers, got {rows.dtype}.{hint}")
        rows = rows.long().unique()
        if len(rows) == 0 or rows[0] < 0 or rows[-1] >= self._parts.num_rows:
            given = f"{len(rows)} from {int(rows[0])} to {int(rows[-1])}" if len(rows) else "none"
            raise ValueError(f"`rows` must be one or more rows of the catalog of {self._parts.num_rows}, got {given}.")
        leaves = self.leaves_of(rows)
        if (leaves < 0).any():
            missing = rows[leaves < 0]
            raise ValueError(f"`rows` hold {len(missing)} that the table doesn't: {missing[:5].tolist()}.")
        # Neighbours in the tree are neighbours in memory.
        leaves, order = leaves.sort(stable=True)
        rows = rows[order]
        order, names, ranges = build_tree(self.leaf_codes(leaves), self.codebook_sizes)
        order = rows[order].to(self._order.dtype)
        return self._of(self._parts._replace(fingerprint=self.fingerprint, order=order, names=names, ranges=ranges))

    def children(self, depth: int, nodes: torch.Tensor) -> Children:
        """
        Legal continuations of nodes of one depth, in lexicographic order.

        Args:
            depth (`int`): Depth of `nodes`, below `num_levels`.
            nodes (`torch.LongTensor` of shape `(...)`): Node numbers; a negative number has no children.

        Returns:
            `Children`: padded to the largest number of children that one of `nodes` has (at least 1).
        """
        first, degree = self._child_range(depth, nodes)
        width = max(int(degree.max()), 1) if degree.numel() else 1
        position = torch.arange(width, device=nodes.device)
        legal = position < degree.unsqueeze(-1)
        child = (first.unsqueeze(-1) + position).mul_(legal)
        return Children(nodes=child, tokens=self.last_tokens(depth + 1, child), legal=legal)

    def child_range(self, depth: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """First child of each of `nodes`, and the number after its last; the same for a negative node."""
        first, degree = self._child_range(depth, nodes)
        return first, first + degree

    def degrees(self, depth: int, nodes: torch.Tensor) -> torch.Tensor:
        """Number of children of nodes of one depth; 0 for a negative node."""
        return self._child_range(depth, nodes)[1]

    def parent(self, depth: int, nodes: torch.Tensor) -> torch.Tensor:
        """Node of depth `depth - 1` that each of `nodes` continues; -1 for a negative node."""
        return torch.where(nodes >= 0, self._ranges[depth - 1].node_of(nodes.clamp(min=0)), -1)

    def last_tokens(self, depth: int, nodes: torch.Tensor) -> torch.Tensor:
        """Token id of the last code of each of `nodes`, which are of one depth from 1 on and not negative."""
        return pick(self._level_tokens[depth - 1], self._last_codes(depth, nodes))

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
        nodes, found = self.step_lookup.find(prefixes)
        nodes = self.step_lookup.to_torch(nodes)
        return nodes if found is None else nodes.where(found, -1)

    def leaf_codes(self, leaves: torch.Tensor) -> torch.Tensor:
        """
        Codes of leaves.

        Args:
            leaves (`torch.LongTensor` of shape `(...)`): Leaf numbers; a negative number gives codes of -1.

        Returns:
            `torch.LongTensor` of shape `(..., num_levels)`.
        """
        nodes, codes = leaves.clamp(min=0).reshape(-1), []
        for depth in range(self.num_levels, 0, -1):
            codes.append(self._last_codes(depth, nodes).long())
            nodes = self._ranges[depth - 1].node_of(nodes)
        codes = torch.stack(codes[::-1], dim=-1).view(*leaves.shape, self.num_levels)
        return torch.where((leaves >= 0).unsqueeze(-1), codes, -1)

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
        first, counts = self._child_range(self.num_levels, leaves)
        # position of each row within the concatenation, shifted to where its leaf's items begin
        shift = first - (counts.cumsum(0) - counts)
        position = torch.arange(int(counts.sum()), device=leaves.device)
        return self._order[position + shift.repeat_interleave(counts)].long(), counts

    def leaves_of(self, rows: torch.Tensor) -> torch.Tensor:
        """
        Leaf of each item; the first call makes a table of 4 bytes an item.

        Args:
            rows (`torch.LongTensor` of shape `(...)`): Rows of the catalog; a negative number is no item.

        Returns:
            `torch.LongTensor` of shape `(...)`: leaf numbers, -1 where the table doesn't hold the item.
        """
        return self._leaf_of_row[rows.clamp(min=-1)].long()

    def _child_range(self, depth: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """First child of each of `nodes`, and how many it has, which is 0 for a negative node."""
        first, last = self._ranges[depth].of(nodes.clamp(min=0))
        first, last = first.long(), last.long()
        return first, (last - first).add_(1).mul_(nodes >= 0)

    def _last_codes(self, depth: int, nodes: torch.Tensor) -> torch.Tensor:
        return unpack(pick(self._names[depth - 1], nodes), self._packed_sizes[depth - 1])


def _as_sizes(codebook_sizes: Sequence[int]) -> tuple[int, ...]:
    try:
        check_integers("codebook_sizes", codebook_sizes)
    except ValueError as error:
        raise InvalidCodesError(str(error)) from error
    return tuple(int(size) for size in codebook_sizes)


def _validate(codes: torch.Tensor, codebook_sizes: tuple[int, ...]) -> None:
    if codes.ndim != 2 or codes.shape[1] != len(codebook_sizes):
        raise InvalidCodesError(
            f"`codes` must have the shape (num_items, {len(codebook_sizes)}), one column for each of `codebook_sizes`"
            f", got {tuple(codes.shape)}."
        )
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise InvalidCodesError(f"`codes` must be integers, got {codes.dtype}.")
    if len(codes) == 0:
        raise InvalidCodesError("`codes` is empty: a prefix table needs at least one item.")
    # Level by level: a mask of all codes would take as much memory as the table.
    ends = [codes[:, level].aminmax() for level in range(len(codebook_sizes))]
    if all(least >= 0 and most < size for (least, most), size in zip(ends, codebook_sizes, strict=True)):
        return
    outside = (codes < 0) | (codes >= torch.tensor(codebook_sizes, device=codes.device))
    row, level = (int(index) for index in outside.nonzero()[0])
    raise InvalidCodesError(
        f"`codes` hold {int(outside.sum())} values outside their codebook; the first is {int(codes[row, level])} "
        f"in row {row}, level {level}, whose codebook has {codebook_sizes[level]} codes."
    )
