# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What a saved folder holds: which kind of thing it is, the facts of its JSON files, and the files to share."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import CorruptFileError, FingerprintMismatchError
from .facts import as_dict
from .writing import finish_interrupted


__all__ = [
    "ADAPTER_CONFIG_FILE",
    "CARD_FILE",
    "RUN_FILE",
    "FolderFacts",
    "hub_id",
    "read_folder",
    "read_json",
]

CARD_FILE = "README.md"
RUN_FILE = "run.json"
RESUME_FILE = "resume.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"
DATA_SUFFIXES = {".arrow", ".csv", ".json", ".jsonl", ".npy", ".npz", ".parquet", ".safetensors", ".tsv", ".txt"}
# States of a training that went on from here: they hold pickles, and nobody who loads the model reads them.
_TRAINER_FILES = {
    RESUME_FILE,
    "training_args.bin",
    "trainer_state.json",
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "scaler.pt",
}
_CATALOG_FACTS = ("codebook_sizes", "num_items", "on_collision", "fingerprint")
_PICKLE_SUFFIXES = {".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}


@dataclass
class FolderFacts:
    """
    What a saved folder holds.

    Args:
        kind (`str`):
            `"item_tokenizer"`, `"retriever"`, `"adapter"` (of a retriever), `"catalog"` or `"dataset"`.
        config (`dict`, *optional*):
            The model's `config.json`.
        adapter_config (`dict`, *optional*):
            PEFT's `adapter_config.json`.
        semantic_ids (`dict`, *optional*):
            The catalog's `semantic_ids.json`.
        run (`dict`, *optional*):
            `run.json`, what is known of the run that made it: data, training, metrics, versions. Where there is a
            catalog, its `semantic_ids` are the catalog's.
        files (`list[str]`, *optional*):
            The files to share, as relative paths with forward slashes, without the card.
    """

    kind: Literal["item_tokenizer", "retriever", "adapter", "catalog", "dataset"]
    config: dict[str, Any] = field(default_factory=dict)
    adapter_config: dict[str, Any] = field(default_factory=dict)
    semantic_ids: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)


def read_folder(folder: str | os.PathLike, repo_type: str = "model") -> FolderFacts:
    """
    Reads what a folder holds, and checks that it is fit to be shared.

    Args:
        folder (`str` or `os.PathLike`):
            A folder that `save_pretrained`, `save_model` or a user filled.
        repo_type (`str`, *optional*, defaults to `"model"`):
            `"model"` or `"dataset"`. Of a model's folder the files count, of a dataset's also those of folders in it.

    Returns:
        [`FolderFacts`]

    Raises:
        `FileNotFoundError`: There is no such folder, or it lacks what belongs to its kind (weights, a catalog, data).
        [`FingerprintMismatchError`]: The model was trained on another catalog than lies beside it.
        `ValueError`: It holds a link out of the folder, a pickle, or nothing that this package knows.
    """
    folder = Path(folder)
    if repo_type not in ("model", "dataset"):
        raise ValueError(f"`repo_type` must be 'model' or 'dataset', got {repo_type!r}.")
    if not folder.is_dir():
        raise FileNotFoundError(f"`folder` must be a folder, and there is none at {folder}.")
    finish_interrupted(folder)
    files = _files(folder, recursive=repo_type == "dataset")
    if repo_type == "dataset":
        if not any(Path(name).suffix in DATA_SUFFIXES for name in files):
            raise FileNotFoundError(f"{folder} has no data file ({', '.join(sorted(DATA_SUFFIXES))}).")
        return FolderFacts("dataset", run=read_json(folder / RUN_FILE), files=files)

    config, adapter_config = read_json(folder / "config.json"), read_json(folder / ADAPTER_CONFIG_FILE)
    semantic_ids, run = read_json(folder / "semantic_ids.json"), read_json(folder / RUN_FILE)
    if semantic_ids:
        catalog = {name: semantic_ids.get(name) for name in _CATALOG_FACTS}
        run = run | {"semantic_ids": catalog | as_dict(semantic_ids.get("quality"))}
    facts = FolderFacts("catalog", config, adapter_config, semantic_ids, run, files)
    tables = {"semantic_ids.safetensors", "prefix_table.safetensors"}
    weights = [name for name in files if name.endswith(".safetensors") and name not in tables]
    if (config or adapter_config) and not weights:
        raise FileNotFoundError(f"{folder} has the config of a model but no weights (.safetensors). Save it again.")
    refuse_two_models(folder)
    if adapter_config:
        facts.kind = "adapter"
        base = str(adapter_config.get("base_model_name_or_path"))
        if os.path.exists(base) or not re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", base):
            raise ValueError(
                f"{folder} is an adapter of {base}, a folder of this machine: nobody else could load it. Push that "
                "model and set `base_model_name_or_path` in adapter_config.json to its repository, or merge the "
                "adapter (`merge_and_unload`) and push the whole model."
            )
    elif "codebook_sizes" in config:
        facts.kind = "item_tokenizer"
    elif config:
        facts.kind = "retriever"
    elif not semantic_ids:
        raise ValueError(
            f"{folder} holds nothing that this package saves: no config.json, adapter_config.json or "
            "semantic_ids.json. For a dataset, set `repo_type='dataset'`."
        )
    if facts.kind in ("retriever", "adapter"):
        _check_catalog(folder, facts)
        if "tokenizer_config.json" not in files:
            raise FileNotFoundError(f"{folder} has a retriever but no tokenizer. Save it there, too.")
    return facts


def hub_id(name: Any) -> str | None:
    """`name`, if it is the id of a repository with its namespace and no folder of this machine."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*/[\w.-]*\w", name):
        return None
    return None if name.split("/")[1].startswith("checkpoint-") or os.path.exists(name) else name


def refuse_two_models(folder: str | os.PathLike) -> None:
    """Refuses a folder that holds a whole model and an adapter: which of them is meant, nobody can tell."""
    if Path(folder, "config.json").is_file() and Path(folder, "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} holds a whole model (config.json) and an adapter (adapter_config.json), of which one was saved "
            "over the other. Take one of the two out, or save into an empty folder."
        )


def trained_fingerprint(config: dict[str, Any], adapter_config: dict[str, Any]) -> str | None:
    """Fingerprint of the catalog that a retriever, or an adapter of one, was trained on."""
    if adapter_config:
        config = as_dict(adapter_config.get("auto_mapping"))
    return config.get("semantic_id_fingerprint")


def _check_catalog(folder: Path, facts: FolderFacts) -> None:
    trained, present = trained_fingerprint(facts.config, facts.adapter_config), facts.semantic_ids.get("fingerprint")
    if not facts.semantic_ids or "semantic_ids.safetensors" not in facts.files:
        raise FileNotFoundError(
            f"{folder} has a retriever (trained on the catalog {trained}) but no catalog of semantic IDs. Add it with "
            f"`catalog.save_pretrained({str(folder)!r})`."
        )
    if trained != present:
        raise FingerprintMismatchError(
            f"The retriever in {folder} was trained on the catalog {trained}, but the catalog beside it is {present}. "
            "Save the one that it was trained on."
        )


def _files(folder: Path, recursive: bool) -> list[str]:
    files, root = [], folder.resolve()
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith((".", "checkpoint-")) for part in Path(name).parts):
            continue
        if not path.resolve().is_relative_to(root):
            raise ValueError(f"{path} is a link out of the folder, to {path.resolve()}. Put a copy in its place.")
        if not path.is_file() or name == CARD_FILE or name in _TRAINER_FILES or name.startswith("rng_state"):
            continue
        if path.suffix.lower() in _PICKLE_SUFFIXES:
            raise ValueError(
                f"{path} may be a pickle, which can run code where it is loaded, and isn't shared. Save weights as "
                "safetensors, and take it out of the folder."
            )
        files.append(name)
    return files


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """A JSON object of a saved folder; empty where there is no such file."""
    path = Path(path)
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also JSONDecodeError and UnicodeDecodeError
        raise CorruptFileError(f"{path} isn't JSON: {error}. Save it again.") from error
    if not isinstance(content, dict):
        raise CorruptFileError(f"{path} must hold a JSON object, got {type(content).__name__}. Save it again.")
    return content
