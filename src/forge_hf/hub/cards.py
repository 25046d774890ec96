# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Cards, rendered from the facts of a folder. What isn't known is left out; what is private to a machine, too."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id

from .card_text import card_environment, metric_name
from .data_files import SPLITS, data_configs, named_split, size_category
from .facts import as_dict, clean_facts, is_number
from .folder import RUN_FILE, FolderFacts, hub_id


__all__ = ["is_generated", "render_card"]

_LOADABLE = {".arrow", ".csv", ".json", ".jsonl", ".parquet", ".tsv", ".txt"}  # by `load_dataset`
_TAGS = ["semantic-ids", "generative-retrieval", "recommendation"]


class _Kind(NamedTuple):
    """Front matter of a kind of card; the template of the kind's name writes the body."""

    library_name: str | None
    tags: list[str]
    pipeline_tag: str | None = None
    task: str | None = None  # of its results


_KINDS = {
    "item_tokenizer": _Kind(
        "forge_hf", ["semantic-ids", "recommendation"], "feature-extraction", "feature-extraction"
    ),
    "retriever": _Kind("transformers", _TAGS, "text-generation", "recommendation"),
    "adapter": _Kind("peft", [*_TAGS, "lora"], "text-generation", "recommendation"),
    "catalog": _Kind("forge_hf", _TAGS),
    "dataset": _Kind(None, _TAGS),
}
# Facts of the training that the card states in words; the rest goes into the table of arguments.
_TOLD = {"num_parameters", "num_trainable_parameters", "seconds", "global_step", "best_step", "hardware"}
_PRIVATE_KEY = re.compile(r"token$|_dir$|path|run_name|hub_|user_?name|host", re.IGNORECASE)
_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{8,}")
_URL = re.compile(r"\b(?:https?|hf)://\S*")
_PATH = re.compile(r"(?<![\w.])(?:\.{1,2}|~\w*)?/[\w.~-]|\b[A-Za-z]:[\\/]|\\\\|\bfile:")
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_MARKER = (
    "<!-- forge_hf wrote this card, and writes it anew with the next push as long as nobody has changed it. Once it "
    "is edited, it is left alone. sha256: {} -->"
)
# What transformers and peft add to the blank form.
_WRITTEN_BY_LIBRARIES = re.compile(
    r"\s*|### Framework versions|- PEFT \S+|This is the model card of a 🤗 transformers model that has been pushed on "
    r"the Hub\. This model card has been automatically generated\."
)


def render_card(facts: FolderFacts, repo_id: str, metadata: dict[str, Any] | None = None) -> str:
    """
    Writes the card of a folder: front matter, body, and a last line by which [`is_generated`] knows it.

    Args:
        facts ([`FolderFacts`]):
            What the folder holds. Facts that are missing are left out. Beside what the trainers write, `run` may have
            `notes`, a list of sentences to open with, and an entry of its `metrics` may have `baselines`, the values
            of other systems by name. Paths and tokens of the Hub are never written, whatever holds them.
        repo_id (`str`):
            Id of the repository.
        metadata (`dict`, *optional*):
            Front matter that goes over what the facts give. `tags` are added to it, everything else replaces it, and
            `None` takes it out.

    Returns:
        `str`: the text of `README.md`.

    Raises:
        `ValueError`: `repo_id` isn't the id of a repository, or `metadata` holds a token of the Hub.

    Example:

    ```python
    >>> from forge_hf.hub import FolderFacts, render_card

    >>> facts = FolderFacts("item_tokenizer", config={"model_type": "rqvae", "input_dim": 8, "codebook_sizes": [4, 4]})
    >>> card = render_card(facts, "me/rqvae", metadata={"license": "mit"})
    >>> card.splitlines()[:3]
    ['---', 'library_name: forge_hf', 'license: mit']
    ```
    """
    validate_repo_id(repo_id)
    metadata = metadata or {}
    if _TOKEN.search(json.dumps(metadata, default=str)):
        raise ValueError("`metadata` holds a token of the Hub. Take it out: a card is public.")
    context = _context(facts, repo_id)
    front = _dataset_metadata(context) if facts.kind == "dataset" else _model_metadata(facts.kind, context)
    tags = [*(front.get("tags") or []), *(metadata.get("tags") or [])]
    front |= metadata | {"tags": list(dict.fromkeys(tags))}
    card_data = DatasetCardData(**front) if facts.kind == "dataset" else ModelCardData(**front)
    body = card_environment().get_template(f"{facts.kind}.md.jinja").render(context)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    text = f"---\n{card_data.to_yaml()}\n---\n\n{body}\n"
    return f"{text}\n{_marker(text)}\n"


def is_generated(text: str) -> bool:
    """
    Whether nobody has written anything into a card: it is one of [`render_card`], unchanged but for line endings, or
    the blank form that transformers, peft or huggingface_hub put there.

    Args:
        text (`str`):
            The text of `README.md`.

    Returns:
        `bool`
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    above, _, last = text.rpartition("\n")
    return last == _marker(above) or _is_placeholder(text)


def _marker(text: str) -> str:
    return _MARKER.format(hashlib.sha256(text.rstrip("\n").encode("utf-8", "surrogatepass")).hexdigest())


def _is_placeholder(text: str) -> bool:
    front = _FRONT_MATTER.match(text)
    lines = set(text[front.end() :].split("\n") if front else text.split("\n"))
    for title, card, data in (
        ("# Model Card for Model ID", ModelCard, ModelCardData),
        ("# Dataset Card for Dataset Name", DatasetCard, DatasetCardData),
    ):
        if title in lines:
            blank = set(card.from_template(data()).text.splitlines())
            rest = [line for line in lines - blank if not _WRITTEN_BY_LIBRARIES.fullmatch(line)]
            return not rest and _front_matter_keys(front) <= {"base_model", "library_name", "pipeline_tag", "tags"}
    return False


def _front_matter_keys(front: re.Match | None) -> set[str]:
    try:
        return set(yaml.safe_load(front.group(1)) or {}) if front else set()
    except (yaml.YAMLError, TypeError):
        return {"unreadable"}


def _context(facts: FolderFacts, repo_id: str) -> dict[str, Any]:
    """The names that templates know: the facts, without what is private, and what follows from them."""
    config, adapter, catalog, run = map(_public, (facts.config, facts.adapter_config, facts.semantic_ids, facts.run))
    config, adapter, catalog = map(clean_facts, (config, adapter, catalog))
    data, training, semantic_ids, versions = (
        clean_facts(run.get(name)) for name in ("data", "training", "semantic_ids", "versions")
    )
    if config.get("codebook_sizes"):
        semantic_ids = {"codebook_sizes": config["codebook_sizes"]} | semantic_ids
    name = data.get("name")
    if name is None or (re.search(r"[\\/]", name) and not hub_id(name)):
        data.pop("name", None)  # a path
    task_type = str(adapter.get("task_type"))
    return {
        "repo_id": repo_id,
        "name": repo_id.split("/")[-1],
        "unit": "items" if facts.kind == "item_tokenizer" else "histories",
        "config": config,
        "adapter": adapter,
        "base_model": hub_id(adapter.get("base_model_name_or_path") or run.get("base_model")),
        "encoder_decoder": bool(config.get("is_encoder_decoder")) or task_type.startswith("SEQ_2_SEQ"),
        "semantic_ids": catalog | semantic_ids,
        "data": data,
        "training": training,
        "arguments": {key: value for key, value in training.items() if key not in _TOLD and _is_plain(value)},
        "metrics": [entry for entry in map(_with_numbers, _as_list(run.get("metrics"))) if entry["values"]],
        "versions": versions,
        "notes": [note for note in _as_list(run.get("notes")) if isinstance(note, str)],
    } | (_dataset_context(facts) if facts.kind == "dataset" else {})


def _dataset_context(facts: FolderFacts) -> dict[str, Any]:
    described = as_dict(facts.run.get("files"))
    configs = data_configs(described)
    columns = {column for file in described.values() for column in file["columns"]}
    loadable = [name for name in facts.files if Path(name).suffix in _LOADABLE and name != RUN_FILE]
    named = [split for split in SPLITS if split in map(named_split, loadable)]
    return {
        "described": described,
        "num_rows": sum(file["num_rows"] for file in described.values()),
        "configs": configs,
        "split": configs[0]["data_files"][0]["split"] if configs else (named or ["train"])[0],
        "loadable": bool(configs or loadable),
        "conversations": {"user", "answer"} <= columns,  # as in AL-GR
        "holds_codes": any(re.match("codes?$|codebook|semantic_id", column) for column in columns),
    }


def _public(value: Any) -> Any:
    """A copy without tokens and paths of a machine."""
    if isinstance(value, dict):
        kept = {key: _public(item) for key, item in value.items() if not _is_private_key(key)}
        return {key: item for key, item in kept.items() if item is not None}
    if isinstance(value, list | tuple):
        return [item for item in map(_public, value) if item is not None]
    if isinstance(value, str) and (_TOKEN.search(value) or _PATH.search(_URL.sub("", value))):
        return None
    return value


def _is_private_key(key: str) -> bool:
    return bool(_PRIVATE_KEY.search(key)) and key != "base_model_name_or_path"


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else []


def _with_numbers(entry: Any) -> dict[str, Any]:
    """An entry of `metrics`, with those of its values that are finite numbers."""
    entry = clean_facts(entry)
    values = as_dict(entry.get("values")).items()
    return entry | {"values": {name: value for name, value in values if is_number(value)}}


def _is_plain(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(item, bool | int | float | str) for item in values)


def _model_metadata(kind: str, context: dict[str, Any]) -> dict[str, Any]:
    library_name, tags, pipeline_tag, task = _KINDS[kind]
    config = context["config"]
    if context["encoder_decoder"]:
        pipeline_tag = "text2text-generation"
    metadata: dict[str, Any] = {"library_name": library_name, "pipeline_tag": pipeline_tag, "tags": list(tags)}
    if config.get("model_type"):
        metadata["tags"] += [*(["rq-vae"] if config["model_type"] == "rqvae" else []), config["model_type"]]
    if context["base_model"]:
        relation = "adapter" if kind == "adapter" else "finetune"
        metadata |= {"base_model": context["base_model"], "base_model_relation": relation}
    if dataset := hub_id(context["data"].get("name")):
        metadata["datasets"] = [dataset]
    if task and (results := _eval_results(context, task)):
        metadata |= {"model_name": context["name"], "eval_results": results}
    return metadata


def _eval_results(context: dict[str, Any], task: str) -> list[EvalResult]:
    name = context["data"].get("name")
    if not name:  # the Hub wants results to name their data
        return []
    return [
        EvalResult(
            task_type=task,
            task_name=task.replace("-", " ").capitalize(),
            dataset_type=hub_id(name) or re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"),
            dataset_name=name,
            dataset_split=entry.get("split") if entry.get("split") != context["unit"] else None,
            metric_type=metric,
            metric_name=metric_name(metric),
            metric_value=round(value, 4),
        )
        for entry in context["metrics"]
        for metric, value in entry["values"].items()
    ]


def _dataset_metadata(context: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "pretty_name": re.sub("[-_]+", " ", context["name"]),
        "tags": list(_KINDS["dataset"].tags),
    }
    if context["conversations"]:
        metadata["task_categories"] = ["text-generation"]
    if context["configs"]:
        metadata["size_categories"] = [size_category(context["num_rows"])]
        metadata["configs"] = context["configs"]
    return metadata
