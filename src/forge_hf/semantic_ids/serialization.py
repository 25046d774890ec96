# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The files of a saved catalog: what they hold, and how they are written, read and checked."""

import json
import math
import os
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import CorruptCatalogError
from .layout import SemanticIdLayout


CODES_FILE = "semantic_ids.safetensors"
CONFIG_FILE = "semantic_ids.json"
FORMAT_VERSION = 1
MAX_CONFIG_SIZE = 2**20  # bytes
MAX_HEADER_SIZE = 2**16  # bytes
REMEDY = "Save the catalog again, or download it anew."


def pack_ids(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Item ids as arrays that safetensors can hold, little-endian on every machine."""
    if ids.dtype != object:
        return {"item_ids": ids.astype("<i8")}
    encoded = [item.encode("utf-8") for item in ids]
    offsets = np.zeros(len(ids) + 1, dtype="<i8")
    np.cumsum([len(item) for item in encoded], out=offsets[1:])
    return {"item_id_bytes": np.frombuffer(bytearray(b"".join(encoded)), dtype=np.uint8), "item_id_offsets": offsets}


def unpack_ids(tensors: dict[str, torch.Tensor]) -> list[str] | list[int]:
    """The inverse of `pack_ids`."""
    if "item_ids" in tensors:
        return tensors["item_ids"].tolist()
    text, offsets = tensors["item_id_bytes"].numpy().tobytes(), tensors["item_id_offsets"].tolist()
    if offsets[0] != 0 or offsets[-1] != len(text) or offsets != sorted(offsets):
        raise ValueError("the item ids' offsets don't fit their bytes.")
    return [text[start:stop].decode("utf-8") for start, stop in zip(offsets, offsets[1:], strict=False)]


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


def read_tensors(path: str, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The safetensors file: the tensors that the JSON file asks for, looked at before they load, and no others."""
    count = config["num_items"]
    expected = {"codes": ("I32", [count, len(config["codebook_sizes"])])}
    if "original_fingerprint" in config:
        expected["original_codes"] = expected["codes"]
    if config["item_id_type"] == "int":
        expected["item_ids"] = ("I64", [count])
    else:
        expected |= {"item_id_offsets": ("I64", [count + 1]), "item_id_bytes": ("U8", None)}
    return load_tensors(path, read_header(path), expected)


def load_tensors(
    path: str, header: dict[str, Any], expected: dict[str, tuple[str, list[int] | None]]
) -> dict[str, torch.Tensor]:
    """
    Maps a safetensors file into memory, if it holds the `expected` tensors, by type and shape, and no others.

    `header` is what `read_header` returned. A shape of `None` may be any.
    """
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
        return load_file(path)
    except (SafetensorError, RuntimeError, OSError, MemoryError) as error:
        raise CorruptCatalogError(f"{path} is truncated or isn't safetensors: {error}. {REMEDY}") from error


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
