# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""How cards write facts: numbers, sentences and tables. Each returns `""` where its facts are missing."""

import json
import re
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jinja2


__all__ = ["card_environment", "metric_name"]


@cache
def card_environment() -> jinja2.Environment:
    """The templates of all cards, with the filters that they use."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=jinja2.ChainableUndefined,  # a fact that is missing is left out, and so is what it would hold
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "arguments_table": _arguments_table,
        "comparison_table": _comparison_table,
        "describe_data": _describe_data,
        "describe_training": _describe_training,
        "describe_versions": _describe_versions,
        "files_table": _files_table,
        "has_unmasked": _has_unmasked,
        "hit_rates": _hit_rates,
        "levels_table": _levels_table,
        "number": _number,
        "percent": _percent,
        "prefixes_table": _prefixes_table,
        "protocol": _protocol,
        "quoted": lambda text: json.dumps(text, ensure_ascii=False),
        "results_table": _results_table,
        "sentence": _sentence,
    }
    return environment


def metric_name(metric: str) -> str:
    """A metric as people write it: `"ndcg@10"` is NDCG@10."""
    name = metric.removeprefix("unmasked_").replace("_", " ")
    name = re.sub(r"^(ndcg|mrr)\b", lambda match: match[0].upper(), name)
    return name[:1].upper() + name[1:] + (" (history kept)" if metric.startswith("unmasked_") else "")


def _number(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def _percent(value: float) -> str:
    return "< 0.001 %" if 0 < value < 1e-5 else f"{100 * value:.3g} %"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(". ") + "."


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) if rows else ""


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _levels_table(semantic_ids: dict[str, Any]) -> str:
    """Use of the levels that were measured: not of one that was added to number items of equal codes."""
    columns = {
        "In use": [_percent(share) for share in semantic_ids.get("utilization") or []],
        "Perplexity": [f"{value:,.1f}" for value in semantic_ids.get("perplexity") or []],
    }
    columns = {name: cells for name, cells in columns.items() if cells}
    sizes = semantic_ids["codebook_sizes"][: max(map(len, columns.values()), default=0)]
    rows = zip_longest(map(str, range(1, len(sizes) + 1)), map(_number, sizes), *columns.values(), fillvalue="")
    return _table(["Level", "Codes", *columns], [list(row) for row in rows])


def _prefixes_table(semantic_ids: dict[str, Any]) -> str:
    """What the first one, two, ... codes know of categories, of neighbours, and of what occurs together."""
    names = {
        "prefix_purity": "Commonest category",
        "prefix_purity_by_chance": "by chance",
        "neighbors_sharing_prefix": "Nearest neighbours share them",
        "pairs_sharing_prefix": "Items that occur together share them",
        "random_pairs_sharing_prefix": "Random pairs share them",
    }
    columns = {name: list(map(_percent, semantic_ids[key])) for key, name in names.items() if semantic_ids.get(key)}
    rows = zip_longest(*columns.values(), fillvalue="")
    return _table(["First codes", *columns], [[str(n), *row] for n, row in enumerate(rows, start=1)])


def _hit_rates(semantic_ids: dict[str, Any]) -> str:
    rates = semantic_ids.get("embedding_hit_rate") or {}
    return ", ".join(f"{value:.4f} at K = {_number(int(k))}" for k, value in rates.items())


def _protocol(entry: dict[str, Any], unit: str) -> str:
    protocol, split, seeds = entry.get("protocol") or "", entry.get("split"), entry.get("num_seeds")
    split = None if split == unit else split  # an item tokenizer is measured on its items: there is nothing to split
    sentences = [_sentence(protocol)] if protocol else []
    count = f"{_number(entry['num_examples'])} {unit}" if entry.get("num_examples") else ""
    if count.split(" ")[0] in protocol:  # said already
        count = ""
    if measured := " of ".join(filter(None, [count, f"the {split} split" if split else ""])):
        sentences.append(f"Measured on {measured}.")
    if seeds:
        few = ": a report, not a claim" if seeds < 3 else ""
        sentences.append(f"One seed{few}." if seeds == 1 else f"Mean ± standard deviation of {seeds} seeds{few}.")
    if _has_unmasked(entry):
        sentences.append(
            "Items of the user's history are left out of the lists (excluded), or may come again (kept; the names of "
            "these metrics begin with `unmasked_`)."
        )
    return " ".join(sentences)


def _has_unmasked(entry: dict[str, Any]) -> bool:
    return any(f"unmasked_{metric}" in entry["values"] for metric in entry["values"])


def _results_table(entry: dict[str, Any]) -> str:
    values = entry["values"]
    if not _has_unmasked(entry):
        return _table(["Metric", "Value"], [[metric_name(metric), _score(entry, metric)] for metric in values])
    both = [metric for metric in values if f"unmasked_{metric}" in values]
    rows = [[metric_name(name), _score(entry, name), _score(entry, f"unmasked_{name}")] for name in both]
    shown = {*both, *(f"unmasked_{metric}" for metric in both)}
    others = [f"- **{metric_name(metric)}:** {_score(entry, metric)}" for metric in values if metric not in shown]
    table = _table(["Metric", "History excluded", "History kept"], rows)
    return "\n".join([table, "", *others]) if others else table


def _score(entry: dict[str, Any], metric: str) -> str:
    spread = (entry.get("std") or {}).get(metric)
    return f"{entry['values'][metric]:.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def _comparison_table(entry: dict[str, Any], title: str) -> str:
    """Other systems that were measured alike, and this one, by recall and NDCG."""
    others = entry.get("baselines") or {}
    metrics = [
        metric
        for metric in entry["values"]
        if metric.startswith(("recall@", "ndcg@")) and all(metric in values for values in others.values())
    ]
    if not others or not metrics:
        return ""
    rows = [[name, *(f"{values[metric]:.4f}" for metric in metrics)] for name, values in others.items()]
    rows.append([f"**{title}**", *(_score(entry, metric) for metric in metrics)])
    return _table(["", *map(metric_name, metrics)], rows)


def _describe_data(data: dict[str, Any]) -> str:
    names = {"num_items": "items", "num_users": "users", "num_interactions": "interactions", "num_rows": "rows"}
    counts = [f"{_number(data[key])} {name}" for key, name in names.items() if data.get(key)]
    if data.get("embedding_dim"):
        counts.append(f"embeddings of width {_number(data['embedding_dim'])}")
    name = data.get("name")
    if name and "/" in name:
        name = f"[{name}](https://huggingface.co/datasets/{name})"
    facts = ": ".join(filter(None, [name, ", ".join(counts)]))
    return f"Data: {facts}." if facts else ""


def _describe_training(training: dict[str, Any]) -> str:
    # The time of one run differs from that of the next; its card doesn't, for the same seed.
    several = isinstance(training.get("seed"), list)
    steps, seconds = training.get("global_step"), training.get("seconds") if several else None
    parameters, trained = training.get("num_parameters"), training.get("num_trainable_parameters")
    parts = []
    if parameters:
        some = f" ({_number(trained)} of them trained)" if trained and trained != parameters else ""
        parts.append(f"{_number(parameters)} parameters{some}")
    if steps:
        best = training.get("best_step")
        kept = f" (of which the weights after step {_number(best)} are kept)" if best and best != steps else ""
        parts.append(f"{_number(steps)} steps{kept}" + (f" in {_duration(seconds)}" if seconds else ""))
    elif seconds:
        parts.append(f"trained in {_duration(seconds)}")
    if training.get("hardware"):
        parts.append(f"on {training['hardware']}")
    each = " (each seed, on average)" if seconds else ""
    return _sentence(", ".join(parts) + each) if parts else ""


def _describe_versions(versions: dict[str, str]) -> str:
    return (
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "." if versions else ""
    )


def _arguments_table(arguments: dict[str, Any]) -> str:
    return _table(["Argument", "Value"], [[f"`{key}`", _argument(value)] for key, value in arguments.items()])


def _argument(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_argument, value))
    return str(value).removesuffix(".0")


def _files_table(described: dict[str, dict[str, Any]]) -> str:
    return _table(
        ["File", "Rows", "Columns"],
        [
            [f"`{name}`", _number(facts["num_rows"]), ", ".join(f"`{column}`" for column in facts["columns"])]
            for name, facts in described.items()
        ],
    )
