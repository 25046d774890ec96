# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The facts of a run that its card states: the machine, the versions, and where they are kept."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..errors import CorruptFileError
from .folder import RUN_FILE, read_json
from .writing import lock_folder, write_json


__all__ = ["add_scores", "describe_hardware", "describe_scores", "describe_versions", "write_run"]


def describe_hardware() -> str:
    """
    The machine in words: the GPU, or the number of threads and the processor.

    Example:

    ```python
    >>> from forge_hf.hub import describe_hardware

    >>> describe_hardware()  # doctest: +SKIP
    '2 thread(s) of AMD EPYC'
    ```
    """
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = f"{torch.get_num_threads()} thread(s) of "
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return threads + next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return threads + (platform.processor() or platform.machine())


def describe_versions() -> dict[str, str]:
    """Versions of the packages that a result hangs on."""
    return {name: version(name) for name in ("forge-hf", "torch", "transformers")}


def write_run(folder: str | os.PathLike, run: dict[str, Any]) -> None:
    """
    Writes the facts of a run as `run.json`.

    Args:
        folder (`str` or `os.PathLike`):
            Folder that the run saved something into.
        run (`dict`):
            The facts.
    """
    write_json(Path(folder, RUN_FILE), {"format_version": 1, **run})


def describe_scores(split: str, values: dict[str, float], num_examples: int, protocol: str, **more) -> dict[str, Any]:
    """
    Metrics, as `run.json` holds them.

    Args:
        split (`str`):
            Which examples were scored, such as `"test"`.
        values (`dict[str, float]`):
            The metrics by name.
        num_examples (`int`):
            Number of examples.
        protocol (`str`):
            How they were scored, in words.
        more (*optional*):
            `baselines`, metrics of other systems by their names.

    Returns:
        `dict`
    """
    return {
        "split": split,
        "protocol": protocol,
        "num_examples": num_examples,
        "num_seeds": 1,
        "values": values,
        **more,
    }


def add_scores(folder: str | os.PathLike, scores: dict[str, Any]) -> None:
    """
    Adds metrics to the `run.json` of a saved model, for its card. They replace those of the same split.

    Args:
        folder (`str` or `os.PathLike`):
            The folder of the model.
        scores (`dict`):
            What [`describe_scores`] returns.

    Raises:
        [`CorruptFileError`]: There is a `run.json` that isn't one.
        `ValueError`: `scores` are something else.

    Example:

    ```python
    >>> import tempfile
    >>> from forge_hf.hub import add_scores, describe_scores, read_json

    >>> folder = tempfile.mkdtemp()
    >>> add_scores(folder, describe_scores("test", {"recall@10": 0.5}, num_examples=2, protocol="full ranking"))
    >>> read_json(f"{folder}/run.json")["metrics"][0]["values"]
    {'recall@10': 0.5}
    ```
    """
    if not isinstance(scores, dict) or "split" not in scores:
        raise ValueError(f"`scores` must be what `describe_scores` returns, got {scores!r}.")
    with lock_folder(folder, timeout=60):  # of scores that are added at once, none is lost
        run = read_json(Path(folder, RUN_FILE))
        entries = run.get("metrics", [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise CorruptFileError(f"{Path(folder, RUN_FILE)} must hold a list of objects in `metrics`. Mend it.")
        others = [entry for entry in entries if entry.get("split") != scores["split"]]
        write_run(folder, run | {"metrics": [*others, scores]})
