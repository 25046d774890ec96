# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The file of a saved prefix table: one safetensors file, whose metadata say what its tensors are."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from ..errors import CorruptCatalogError
from ..hub import write_then_rename
from ..semantic_ids.serialization import describe_tensors, load_tensors, read_header, read_metadata
from .tree_levels import ChildRanges, code_dtype, number_dtype, packing_dtype


__all__ = ["TABLE_FILE", "TableParts", "read_table", "write_table"]

TABLE_FILE = "prefix_table.safetensors"
_FORMAT_VERSION = 2
_REMEDY = "Build the table anew, from its catalog."
_NAMES = {torch.uint8: "U8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64"}


class TableParts(NamedTuple):
    """What a prefix table consists of; see `build_tree`."""

    codebook_sizes: tuple[int, ...]
    fingerprint: str | None
    codes_checksum: str | None  # of the catalog, which says that rows are the same, too
    num_rows: int  # of the catalog, of which the table may hold some only
    token_ids: torch.Tensor
    order: torch.Tensor
    names: list[torch.Tensor]
    ranges: list[ChildRanges]


def write_table(path: Path, parts: TableParts) -> None:
    """Writes a file that `read_table` maps back."""
    tensors = {"token_ids": parts.token_ids, "order": parts.order}
    tensors |= {f"names.{depth}": names for depth, names in enumerate(parts.names, start=1)}
    tensors |= {f"children.{depth}": ranges.store for depth, ranges in enumerate(parts.ranges)}
    facts = {
        "format_version": _FORMAT_VERSION,
        "codebook_sizes": parts.codebook_sizes,
        "fingerprint": parts.fingerprint,
        "codes_checksum": parts.codes_checksum,
        "num_rows": parts.num_rows,
        "num_items": len(parts.order),
        "num_nodes": [ranges.num_nodes for ranges in parts.ranges],
        "max_degrees": [ranges.max_degree for ranges in parts.ranges],
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = describe_tensors(tensors, prefix_table=facts)
    write_then_rename(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def read_table(path: str) -> TableParts:
    """
    Maps a saved table into memory, and checks that it is whole, every byte by its checksum.

    Raises:
        [`CorruptCatalogError`]: The file is truncated, altered, of an unknown format, or doesn't hold what it says.
    """
    header = read_header(path)
    facts = _read_facts(path, header)
    sizes, num_nodes, max_degrees = facts["codebook_sizes"], facts["num_nodes"], facts["max_degrees"]
    counts = [*num_nodes, facts["num_items"]]
    expected = {
        "token_ids": ("I64", [sum(sizes)]),
        "order": (_NAMES[number_dtype(facts["num_rows"])], [facts["num_items"]]),
    }
    for depth, size in enumerate(sizes, start=1):
        dtype = packing_dtype(sizes, depth, max_degrees[depth - 1]) or code_dtype(size)
        expected[f"names.{depth}"] = (_NAMES[dtype], [num_nodes[depth]])
    for depth in range(len(sizes) + 1):
        length = ChildRanges.length(counts[depth], counts[depth + 1])
        expected[f"children.{depth}"] = (_NAMES[number_dtype(counts[depth + 1])], [length])
    tensors = load_tensors(path, header, expected)
    return TableParts(
        tuple(sizes),
        facts["fingerprint"],
        facts["codes_checksum"],
        facts["num_rows"],
        tensors["token_ids"],
        tensors["order"],
        [tensors[f"names.{depth}"] for depth in range(1, len(sizes) + 1)],
        [
            ChildRanges(tensors[f"children.{depth}"], counts[depth], counts[depth + 1], max_degrees[depth])
            for depth in range(len(sizes) + 1)
        ],
    )


def _read_facts(path: str, header: dict[str, Any]) -> dict[str, Any]:
    try:
        facts = read_metadata(header)["prefix_table"]
        version = facts["format_version"]
        is_whole = version == _FORMAT_VERSION and _is_whole(facts)
    except (TypeError, KeyError) as error:
        metadata = header.get("__metadata__")
        raise CorruptCatalogError(f"{path} isn't a prefix table: its metadata are {metadata!r}. {_REMEDY}") from error
    if version != _FORMAT_VERSION:
        raise CorruptCatalogError(
            f"{path} is of format {version!r}, and this version of forge_hf reads format {_FORMAT_VERSION}. {_REMEDY}"
        )
    if not is_whole:
        raise CorruptCatalogError(f"{path} describes no prefix table: {facts}. {_REMEDY}")
    return facts


def _is_whole(facts: dict[str, Any]) -> bool:
    sizes, num_nodes, max_degrees = (facts[key] for key in ("codebook_sizes", "num_nodes", "max_degrees"))
    counts = [*num_nodes, facts["num_items"], facts["num_rows"]]
    return (
        all(type(number) is int and 0 < number < 2**63 for number in [*sizes, *counts, *max_degrees])
        and len(sizes) > 0
        and len(num_nodes) == len(max_degrees) == len(sizes) + 1
        and num_nodes[0] == 1
        and counts == sorted(counts)
        and all(degree <= number for degree, number in zip(max_degrees, counts[1:], strict=False))
        and isinstance(facts["fingerprint"], str | None)
        and isinstance(facts["codes_checksum"], str | None)
    )
