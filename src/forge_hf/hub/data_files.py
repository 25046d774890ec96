# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What the data files of a dataset hold, and how `load_dataset` is told to read them."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet


__all__ = ["SPLITS", "data_configs", "describe_data_files", "named_split", "size_category"]

_MAX_HEADER = 1 << 20  # characters; pyarrow reads no longer row either
SPLITS = {"train": {"train", "training"}, "validation": {"validation", "valid", "val", "dev"}, "test": {"test"}}


def describe_data_files(folder: str | os.PathLike, files: Iterable[str]) -> dict[str, dict[str, Any]]:
    """
    Counts the rows and names the columns of data files, in memory that doesn't grow with them.

    Args:
        folder (`str` or `os.PathLike`):
            The folder that holds them.
        files (`Iterable[str]`):
            Relative paths. Only `.csv`, `.tsv`, `.jsonl` and `.parquet` files are described.

    Returns:
        `dict`: for each file `num_rows`, `columns` and, of one whose columns tabs separate, `sep`.

    Raises:
        `ValueError`: A file can't be read as what its name says.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from forge_hf.hub.data_files import describe_data_files

    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "items.csv").write_text("item_id,title\\n1,Shirt\\n2,Shoe\\n")
    >>> describe_data_files(folder, ["items.csv", "LICENSE"])
    {'items.csv': {'num_rows': 2, 'columns': ['item_id', 'title']}}
    ```
    """
    described = {}
    for name in files:
        suffix = PurePosixPath(name).suffix
        if suffix in _READERS:
            try:
                described[name] = _READERS[suffix](Path(folder, name))
            except (ValueError, RecursionError, OSError) as error:  # Arrow's, JSON's and Parquet's
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise ValueError(
                    f"`files` names {name}, which can't be read as {suffix}: {error}. Repair it, or take it out."
                ) from error
    return described


def _describe_csv(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline(_MAX_HEADER)
    if not header.strip():
        return {"num_rows": 0, "columns": []}
    sep = "\t" if header.count("\t") > header.count(",") else ","
    parse = pa.csv.ParseOptions(delimiter=sep, newlines_in_values=True)
    with pa.csv.open_csv(path, parse_options=parse) as reader:
        columns = reader.schema.names
    # Types are left alone: those that the first block suggests need not hold for the rest.
    convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.binary()), include_columns=columns[:1])
    with pa.csv.open_csv(path, parse_options=parse, convert_options=convert) as reader:
        description = {"num_rows": sum(batch.num_rows for batch in reader), "columns": columns}
    return description | ({"sep": sep} if sep == "\t" else {})


def _describe_jsonl(path: Path) -> dict[str, Any]:
    num_rows, columns = 0, {}
    with path.open(encoding="utf-8") as file:
        for line in filter(str.strip, file):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"row {num_rows} is no object")
            num_rows, columns = num_rows + 1, columns | dict.fromkeys(row)
    return {"num_rows": num_rows, "columns": list(columns)}


def _describe_parquet(path: Path) -> dict[str, Any]:
    with pa.parquet.ParquetFile(path) as file:
        return {"num_rows": file.metadata.num_rows, "columns": file.schema_arrow.names}


_FORMATS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".parquet": "parquet"}
_READERS = {".csv": _describe_csv, ".tsv": _describe_csv, ".jsonl": _describe_jsonl, ".parquet": _describe_parquet}


def data_configs(described: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """
    The `configs` of a dataset card: files of the same columns belong together, and their names say the split.

    `load_dataset` takes the format of the first configuration for that of all: files of other formats are left out.

    Args:
        described (`dict`):
            What [`describe_data_files`] returned.

    Returns:
        `list[dict]`: the configurations, with `config_name` and `data_files`. The first is named
        `"default"`, the others for their folders or files.
    """
    groups: dict[tuple, list[str]] = {}
    for name, facts in described.items():
        if facts["num_rows"]:
            kind = (PurePosixPath(name).suffix, facts.get("sep"), *sorted(facts["columns"]))
            groups.setdefault(kind, []).append(name)
    # What has a training split comes first: it is what somebody who names no configuration most likely wants.
    ordered = sorted(groups.items(), key=lambda group: "train" not in map(named_split, group[1]))
    tabs = any("sep" in facts for facts in described.values())
    configs: list[dict[str, Any]] = []
    for (suffix, sep, *_), names in ordered:
        if _FORMATS[suffix] != _FORMATS[ordered[0][0][0]]:
            continue
        splits: dict[str, list[str]] = {}
        for name in names:
            splits.setdefault(named_split(name) or "train", []).append(_without_shard(name))
        data_files = [
            {"split": split, "path": paths[0] if len(paths) == 1 else paths}
            for split, paths in ((split, list(dict.fromkeys(splits[split]))) for split in SPLITS if split in splits)
        ]
        config = {"config_name": _config_name(names[0], taken=configs), "data_files": data_files}
        # Said of all or of none: the suffix .tsv of the first would count for all.
        configs.append(config | ({"sep": sep or ","} if tabs and _FORMATS[suffix] == "csv" else {}))
    return configs


def named_split(name: str) -> str | None:
    """The split that the name of a file or of its folder gives; the file's own counts more."""
    for word in reversed(re.findall("[a-z]+", name.lower())):
        for split, words in SPLITS.items():
            if word in words:
                return split
    return None


def _config_name(name: str, taken: list[dict[str, Any]]) -> str:
    if not taken:
        return "default"
    path, used = PurePosixPath(name), {config["config_name"] for config in taken}
    short = path.parts[0] if len(path.parts) > 1 else path.stem
    return re.sub(r"[^\w-]+", "-", short if short not in used else name)


def _without_shard(name: str) -> str:
    return re.sub(r"-\d{5}-of-\d{5}", "-*", name)


def size_category(num_rows: int) -> str:
    """The Hub's name for a number of rows, such as `"1K<n<10K"`."""
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    for power, name in enumerate(names, start=3):
        if num_rows < 10**power:
            return f"n<{name}" if power == 3 else f"{names[power - 4]}<n<{name}"
    return f"n>{names[-1]}"
