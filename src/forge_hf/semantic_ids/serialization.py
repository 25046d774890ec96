# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The files of a saved catalog: what they hold, and how they are written, read and checked."""

import hashlib
import json
import math
import os
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import CorruptCatalogError
from .item_ids import ItemIds
from .layout import SemanticIdLayout
from .row_index import RowIndex


CODES_FILE = "semantic_ids.safetensors"
CONFIG_FILE = "semantic_ids.json"
FORMAT_VERSION = 1
MAX_CONFIG_SIZE = 2**20  # bytes
MAX_HEADER_SIZE = 2**16  # bytes
# From so many items on, what finds them is saved too. For fewer it is made in a few hundredths of a second.
MIN_INDEXED_ITEMS = 2**17
INDEXES = ("item_id_index", "code_index")
REMEDY = "Save the catalog again, or download it anew."


def pack_ids(ids: ItemIds) -> dict[str, np.ndarray]:
    """Item ids as arrays that safetensors can hold, little-endian on every machine."""
    if ids.kind is int:
        return {"item_ids": ids.values.astype("<i8", copy=False)}
    return {"item_id_bytes": ids.values, "item_id_offsets": ids.offsets.astype("<i8", copy=False)}


def unpack_ids(tensors: dict[str, torch.Tensor]) -> ItemIds:
    """The inverse of `pack_ids`. The bytes of strings aren't read."""
    if "item_ids" in tensors:
        return ItemIds(tensors["item_ids"].numpy())
    text, offsets = tensors["item_id_bytes"].numpy(), tensors["item_id_offsets"].numpy()
    if offsets[0] != 0 or offsets[-1] != len(text) or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("the item ids' offsets don't fit their bytes.")
    return ItemIds(text, offsets)


def pack_index(name: str, index: RowIndex) -> dict[str, np.ndarray]:
    """One of `INDEXES` as arrays that safetensors can hold."""
    return {f"{name}_starts": index.starts, f"{name}_rows": index.rows}


def unpack_index(name: str, tensors: dict[str, torch.Tensor]) -> RowIndex | None:
    """The inverse of `pack_index`; `None` where the file has none."""
    if f"{name}_rows" not in tensors:
        return None
    index = RowIndex(tensors[f"{name}_starts"].numpy(), tensors[f"{name}_rows"].numpy())
    if not index.is_sound():
        raise ValueError(f"its {name} names rows that there aren't.")
    return index


def read_config(path: str) -> dict[str, Any]:
    """The JSON file, every entry checked for its type."""
    size = os.path.getsize(path)
    if size > MAX_CONFIG_SIZE:
        raise CorruptCatalogError(f"{path} has {size:,} bytes; a catalog's JSON has a few thousand. {REMEDY}")
    expected = {"format_version": int, "codebook_sizes": list, "num_items": int, "item_id_type": str}
    expected |= {"on_collision": str, "fingerprint": str, "quality": dict}
    optional = {"original_fingerprint": str}
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except (ValueError, RecursionError) as error:  # also JSONDecodeError and UnicodeDecodeError
        raise CorruptCatalogError(f"{path} isn't JSON: {error}. {REMEDY}") from error
    if not isinstance(config, dict):
        raise CorruptCatalogError(f"{path} must hold a JSON object, got {type(config).__name__}. {REMEDY}")
    if config.get("format_version") not in (None, FORMAT_VERSION):
        raise CorruptCatalogError(
            f"{path} is of format {config['format_version']!r}, and this version of forge_hf reads format "
            f"{FORMAT_VERSION}. Install the version that wrote it, or a newer one."
        )
    expected |= {key: kind for key, kind in optional.items() if key in config}
    for key, kind in expected.items():
        if type(config.get(key)) is not kind:
            raise CorruptCatalogError(
                f"{path} must hold {key!r} of type {kind.__name__}, got {config.get(key)!r}. {REMEDY}"
            )
    if config["item_id_type"] not in ("int", "str"):
        raise CorruptCatalogError(
            f"{path}: 'item_id_type' must be 'int' or 'str', got {config['item_id_type']!r}. {REMEDY}"
        )
    try:
        SemanticIdLayout.from_dict(config)
    except ValueError as error:
        raise CorruptCatalogError(f"{path}: {error} {REMEDY}") from error
    config["quality"] = {name: value for name, value in config["quality"].items() if _is_measured(value)}
    return config


def _is_measured(value: Any) -> bool:
    """Whether `value` is what a metric may be: a number, or a list or dictionary of numbers."""
    values = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return all(type(number) in (int, float) and math.isfinite(number) for number in values)


def read_tensors(path: str, config: dict[str, Any]) -> tuple[dict[str, torch.Tensor], bool]:
    """
    The safetensors file: the tensors that the JSON file asks for, looked at before they load, and no others. And
    whether it is certain that they are those of the JSON's fingerprints, which older files don't tell.
    """
    count = config["num_items"]
    expected = {"codes": ("I32", [count, len(config["codebook_sizes"])])}
    if "original_fingerprint" in config:
        expected["original_codes"] = expected["codes"]
    if config["item_id_type"] == "int":
        expected["item_ids"] = ("I64", [count])
    else:
        expected |= {"item_id_offsets": ("I64", [count + 1]), "item_id_bytes": ("U8", None)}
    header = read_header(path)
    for name in INDEXES:
        if f"{name}_rows" in header:
            dtype = "I32" if count < 2**31 else "I64"
            expected[f"{name}_starts"] = (dtype, [RowIndex.num_buckets(count) + 1])
            expected[f"{name}_rows"] = (dtype, [count])
    tensors, identity = load_tensors(path, header, expected), read_metadata(header).get("identity")
    if identity is not None and identity != identify(config):
        raise CorruptCatalogError(
            f"{path} has the fingerprint {identity!r}, but the JSON beside it says {identify(config)!r}: one of the "
            f"two was altered or belongs to another catalog. {REMEDY}"
        )
    return tensors, identity is not None


def identify(config: dict[str, Any]) -> str:
    """The fingerprints of a catalog and its layout in one text, by which its two files know each other."""
    sizes = hashlib.sha256(json.dumps(config["codebook_sizes"]).encode()).hexdigest()[:32]
    return " ".join([config["fingerprint"], sizes, config.get("original_fingerprint", "")]).strip()


def checksum(tensor: torch.Tensor | np.ndarray) -> str:
    """SHA-256 of a tensor's bytes."""
    array = tensor.numpy() if isinstance(tensor, torch.Tensor) else tensor
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def describe_tensors(tensors: dict[str, torch.Tensor], **facts: Any) -> dict[str, str]:
    """Metadata of a safetensors file, by which `load_tensors` knows its tensors again, with more `facts`."""
    checksums = {name: checksum(tensor) for name, tensor in tensors.items()}
    # One entry alone: safetensors writes several in any order, and the same tensors are to be the same file.
    return {"forge_hf": json.dumps(facts | {"sha256": checksums}, sort_keys=True)}


def read_metadata(header: dict[str, Any]) -> dict[str, Any]:
    """The facts of `describe_tensors`; empty where there are none."""
    try:
        facts = json.loads(header["__metadata__"]["forge_hf"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) and isinstance(facts.get("sha256"), dict) else {}


def load_tensors(
    path: str, header: dict[str, Any], expected: dict[str, tuple[str, list[int] | None]]
) -> dict[str, torch.Tensor]:
    """
    Maps a safetensors file into memory, if it holds the `expected` tensors, by type and shape, and no others, and
    these have the checksums that it names.

    `header` is what `read_header` returned. A shape of `None` may be any.
    """
    checksums = read_metadata(header).get("sha256", {})
    header = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if extra := header.keys() - expected.keys():
        raise CorruptCatalogError(
            f"{path} must hold {sorted(expected)} alone, got {sorted(extra)[:5]} besides. {REMEDY}"
        )
    for name, (dtype, shape) in expected.items():
        entry = header.get(name)
        if not isinstance(entry, dict) or entry.get("dtype") != dtype or shape not in (None, entry.get("shape")):
            got = f"{entry.get('dtype')} of shape {entry.get('shape')}" if isinstance(entry, dict) else "nothing"
            raise CorruptCatalogError(
                f"{path} must hold {name!r} as {dtype}{f' of shape {shape}' if shape else ''}, got {got}. {REMEDY}"
            )
    try:
        tensors = load_file(path)
    except (SafetensorError, RuntimeError, OSError, MemoryError) as error:
        raise CorruptCatalogError(f"{path} is truncated or isn't safetensors: {error}. {REMEDY}") from error
    if checksums:
        for name, tensor in tensors.items():
            if checksum(tensor) != checksums.get(name):
                raise CorruptCatalogError(f"{path} was altered or is damaged: {name!r} has another checksum. {REMEDY}")
    return tensors


def read_header(path: str) -> dict[str, Any]:
    """What a safetensors file says that it holds, read without mapping it."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= MAX_HEADER_SIZE else b""
    if length > MAX_HEADER_SIZE or len(text) < length:
        raise CorruptCatalogError(
            f"{path} is truncated or isn't safetensors: it speaks of a header of {length:,} bytes. {REMEDY}"
        )
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptCatalogError(f"{path} is truncated or isn't safetensors: {error}. {REMEDY}") from error
    if not isinstance(header, dict):
        raise CorruptCatalogError(f"{path} isn't safetensors: its header is {type(header).__name__}. {REMEDY}")
    return header
