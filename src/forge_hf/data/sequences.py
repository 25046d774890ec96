# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Interaction sequences: reading them, and splitting them into training, validation and test by leaving one out."""

import os
import re
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from ..checks import check_dataset, check_integer
from ..errors import InvalidSequencesError
from .damaged import refuse_damaged, refuse_null_lines, validate_mapped


__all__ = ["adjacent_pairs", "items_by_user", "leave_one_out", "read_sequences"]

_BUILDERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".arrow": "arrow"}
# The integers that are written back exactly as they were read ("007" isn't one of them: it stays text).
_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"


def read_sequences(path: str | os.PathLike) -> Dataset:
    """
    Reads interaction sequences: one user a row, items in time order.

    Args:
        path (`str` or `os.PathLike`):
            - a `.txt` file of S3-Rec's form, one `user item item ...` a line;
            - a `.parquet`, `.json`, `.jsonl`, `.csv`, `.tsv` or `.arrow` file, a folder written by
              [`~datasets.Dataset.save_to_disk`], or a dataset of the Hub (its `train` split), with columns `user_id`
              and `items`. In `items` stands a list of item ids, or a text of item ids parted by white space.

    Returns:
        [`~datasets.Dataset`] with columns `user_id` and `items` (a list). Ids that a file holds as integers or strings
        stay that; where they stand in a text, they are integers if all of them are, else strings.

    Raises:
        [`InvalidSequencesError`]: if there is no sequence, a line has no items (named by its number), ids are missing
            or neither integers nor strings, or a user occurs more than once.
        [`CorruptFileError`]: if it can't be read as what its name says.
        `FileNotFoundError`: if there is no such file.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from forge_hf.data import read_sequences

    >>> path = Path(tempfile.mkdtemp()) / "sequences.txt"
    >>> _ = path.write_text("1 10 11 12\\n2 11 13\\n")
    >>> read_sequences(path)[0]
    {'user_id': 1, 'items': [10, 11, 12]}
    ```
    """
    path = Path(path)
    if path.suffix == ".txt":
        users, items = _read_text(path)
    else:
        users, items = _columns(_load(path), str(path))
    _check(users, items, str(path))
    return _dataset(user_id=_widen(users), items=_list_array(items.offsets, _widen(items.values)))


def leave_one_out(sequences: Dataset, min_length: int = 3) -> DatasetDict:
    """
    Splits sequences as SASRec, S3-Rec and TIGER do: a user's last item is the test target, the one before it the
    validation target, and the rest is for training. Every history holds all items before its target, so the test
    history includes the validation target.

    Args:
        sequences ([`~datasets.Dataset`]):
            Columns `user_id` and `items`, as [`read_sequences`] returns.
        min_length (`int`, *optional*, defaults to 3):
            Shorter sequences are left out of all three splits; one warning says how many. At least 3, the fewest that
            leave something to train on.

    Returns:
        [`~datasets.DatasetDict`] of `train` (`user_id`, `items`), `validation` and `test` (`user_id`, `history`,
        `target`), rows aligned over the three.

    Raises:
        [`InvalidSequencesError`]: if there is no sequence, all are shorter than `min_length`, or an id is missing.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from forge_hf.data import leave_one_out

    >>> splits = leave_one_out(Dataset.from_dict({"user_id": [7], "items": [[1, 2, 3, 4]]}))
    >>> splits["train"][0]
    {'user_id': 7, 'items': [1, 2]}
    >>> splits["test"][0]
    {'user_id': 7, 'history': [1, 2, 3], 'target': 4}
    ```
    """
    check_integer("min_length", min_length, 3)  # an item each to train, validate, test
    users, items = _columns(sequences, "`sequences`")
    if len(users) == 0:
        raise InvalidSequencesError("`sequences` has no rows. Pass at least one user's sequence.")
    long_enough = np.diff(items.offsets) >= min_length
    skipped = len(users) - int(long_enough.sum())
    if skipped == len(users):
        raise InvalidSequencesError(
            f"All {skipped} sequences have fewer than `min_length`={min_length} items, so nothing can be split."
        )
    if skipped:
        warnings.warn(
            f"Skipped {skipped} of {len(users)} sequences: fewer than `min_length`={min_length} items.", stacklevel=2
        )
        users, items = users.filter(pa.array(long_enough)), items.filter(pa.array(long_enough))

    train, validation_target = _cut(items, 2)
    test_history, test_target = _cut(items, 1)
    return DatasetDict(
        {
            "train": _dataset(user_id=users, items=train),
            "validation": _dataset(user_id=users, history=train, target=validation_target),
            "test": _dataset(user_id=users, history=test_history, target=test_target),
        }
    )


def adjacent_pairs(sequences: Dataset) -> np.ndarray:
    """
    Items that follow each other in a sequence.

    Args:
        sequences ([`~datasets.Dataset`]):
            Column `items`, such as the split `train` of [`leave_one_out`].

    Returns:
        `np.ndarray` of shape `(num_pairs, 2)`: item ids, in the order of the sequences, again where they occur again.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from forge_hf.data import adjacent_pairs

    >>> adjacent_pairs(Dataset.from_dict({"user_id": [1, 2], "items": [[5, 6, 7], [8, 9]]})).tolist()
    [[5, 6], [6, 7], [8, 9]]
    ```
    """
    _, items = _columns(sequences, "`sequences`")
    offsets = np.asarray(items.offsets, dtype=np.int64)
    values = items.values.slice(offsets[0], offsets[-1] - offsets[0]).to_numpy(zero_copy_only=False)
    first = np.ones(max(len(values), 1), dtype=bool)
    first[offsets[1:][np.diff(offsets) > 0] - offsets[0] - 1] = False  # the last of a sequence has no follower
    starts = np.flatnonzero(first[: len(values)])
    return np.stack([values[starts], values[starts + 1]], axis=1)


def items_by_user(sequences: Dataset) -> tuple[pa.Array, pa.Array]:
    """The user and the item of each place in the columns `user_id` and `items`."""
    users, items = _columns(sequences, "`sequences`")
    offsets = np.asarray(items.offsets, dtype=np.int64)
    rows = np.repeat(np.arange(len(users)), np.diff(offsets))
    return users.take(pa.array(rows)), items.values.slice(offsets[0], offsets[-1] - offsets[0])


def _cut(items: pa.ListArray, last: int) -> tuple[pa.ListArray, pa.Array]:
    """Every list without its last `last` items, and the first of the items cut off."""
    offsets = np.asarray(items.offsets, dtype=np.int64)
    lengths = np.diff(offsets)
    values = items.values
    position = np.arange(offsets[0], offsets[-1]) - np.repeat(offsets[:-1], lengths)
    kept = position < np.repeat(lengths - last, lengths)
    heads = values.slice(offsets[0], offsets[-1] - offsets[0]).filter(pa.array(kept))
    head_offsets = np.concatenate([[0], np.cumsum(lengths - last)])
    return _list_array(head_offsets, heads), values.take(pa.array(offsets[1:] - last))


def _read_text(path: Path) -> tuple[pa.Array, pa.LargeListArray]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no sequence file {path}.")
    try:
        lines = path.read_text(encoding="utf-8").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise InvalidSequencesError(f"{path} is not UTF-8 text: {error}.") from error
    if lines == [""]:
        raise InvalidSequencesError(f"{path} is empty. Expected one `user item item ...` a line.")
    fields = _split(pa.array(lines, type=pa.large_string()))
    offsets = np.asarray(fields.offsets, dtype=np.int64)
    lengths = np.diff(offsets)
    if (lengths < 2).any():
        numbers = np.flatnonzero(lengths < 2) + 1
        raise InvalidSequencesError(
            f"{path}: {len(numbers)} lines are not of the form `user item item ...`, lines {_first(numbers)}."
        )
    is_item = np.ones(len(fields.values), dtype=bool)
    is_item[offsets[:-1]] = False
    items = fields.values.filter(pa.array(is_item))
    users = fields.values.take(pa.array(offsets[:-1]))
    return _parse(users), _list_array(np.concatenate([[0], np.cumsum(lengths - 1)]), _parse(items))


def _load(path: Path) -> Dataset:
    if path.is_dir():
        with refuse_damaged(path):
            dataset = load_from_disk(str(path))
            validate_mapped(dataset)
            return dataset
    if path.suffix in _BUILDERS:
        if not path.is_file():
            raise FileNotFoundError(f"There is no sequence file {path}.")
        if path.suffix in (".json", ".jsonl"):
            refuse_null_lines(path)
        options = {"sep": "\t"} if path.suffix == ".tsv" else {}
        with refuse_damaged(path):
            return load_dataset(_BUILDERS[path.suffix], data_files=str(path), split="train", **options)
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", path.as_posix()):
        kinds = ", ".join([".txt", *_BUILDERS])
        raise FileNotFoundError(f"{path} is no sequence file ({kinds}), no saved dataset and no dataset name.")
    return load_dataset(path.as_posix(), split="train")


def _columns(dataset: Dataset, name: str) -> tuple[pa.Array, pa.LargeListArray]:
    """The columns `user_id` and `items` as Arrow arrays; a text column of items is split at white space."""
    check_dataset(name.strip("`"), dataset)
    missing = {"user_id", "items"}.difference(dataset.column_names)
    if missing:
        raise InvalidSequencesError(
            f"{name} lacks the columns {sorted(missing)}; it has {dataset.column_names}. Rename them with "
            "`dataset.rename_columns`."
        )
    table = dataset.select_columns(["user_id", "items"]).with_format("arrow")[:]
    users, items = (table[column].combine_chunks() for column in ("user_id", "items"))
    if items.null_count:
        rows = np.flatnonzero(np.asarray(items.is_null()))
        raise InvalidSequencesError(f"{name}: `items` is missing in {len(rows)} rows, rows {_first(rows)}.")
    if pa.types.is_string(items.type) or pa.types.is_large_string(items.type):
        items = _split(items)
        items = _list_array(items.offsets, _parse(items.values))
    if not (pa.types.is_list(items.type) or pa.types.is_large_list(items.type)):
        raise InvalidSequencesError(f"{name}: `items` must be lists of item ids, got the type {items.type}.")
    items = items.cast(pa.large_list(items.type.value_type))
    if items.flatten().null_count:
        raise InvalidSequencesError(f"{name}: `items` holds {items.flatten().null_count} ids that are missing.")
    return users, _list_array(np.asarray(items.offsets) - items.offsets[0].as_py(), items.flatten())


def _check(users: pa.Array, items: pa.LargeListArray, name: str):
    if len(users) == 0:
        raise InvalidSequencesError(f"{name} has no sequences.")
    lengths = np.diff(items.offsets)
    if (lengths == 0).any():
        rows = np.flatnonzero(lengths == 0)
        raise InvalidSequencesError(f"{name}: {len(rows)} sequences have no items, rows {_first(rows)}.")
    for ids, what in ((users, "user_id"), (items.values, "items")):
        kinds = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
        if ids.null_count or not any(kind(ids.type) for kind in kinds):
            raise InvalidSequencesError(
                f"{name}: ids in `{what}` must be integers or strings, none missing; got the type {ids.type} and "
                f"{ids.null_count} missing ones."
            )
    counts = pc.value_counts(users)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(repeated):
        raise InvalidSequencesError(
            f"{name}: {len(repeated)} users have more than one sequence, users {_first(repeated.to_pylist())}. Join a "
            "user's interactions into one sequence in time order."
        )


def _split(texts: pa.Array) -> pa.Array:
    # utf8_split_whitespace gives an empty first and last field where a text starts or ends with white space.
    return pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts))


def _parse(words: pa.Array) -> pa.Array:
    """Words of a text, which has no types, as integers if every one is an integer written in the usual way."""
    is_integer = pc.all(pc.match_substring_regex(words, _INTEGER)).as_py()
    return words.cast(pa.int64()) if is_integer else words


def _widen(ids: pa.Array) -> pa.Array:
    return ids.cast(pa.int64() if pa.types.is_integer(ids.type) else pa.string())


def _list_array(offsets, values: pa.Array) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(pa.array(offsets, type=pa.int64()), values)


def _dataset(**columns: pa.Array) -> Dataset:
    return Dataset(pa.table(columns))


def _first(values, count: int = 5) -> str:
    values = list(values)
    more = ", ..." if len(values) > count else ""
    return ", ".join(str(value) for value in values[:count]) + more
