# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Facts that a card may state, out of JSON that anybody may have written: what is of another type is left out."""

from collections.abc import Callable
from typing import Any


__all__ = ["as_dict", "clean_facts", "is_number"]

Check = Callable[[Any], bool]


def as_dict(value: Any) -> dict[str, Any]:
    """`value`, if it is a dictionary, else an empty one."""
    return value if isinstance(value, dict) else {}


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _dict_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _is_hit_rate(value: Any) -> bool:
    return _dict_of(is_number)(value) and all(key.isascii() and key.isdigit() and len(key) < 19 for key in value)


_CHECKS: dict[str, Check] = (
    dict.fromkeys(("num_items", "num_users", "num_interactions", "num_rows", "embedding_dim", "input_dim"), _is_count)
    | dict.fromkeys(("num_parameters", "num_trainable_parameters", "global_step", "best_step"), _is_count)
    | dict.fromkeys(("num_examples", "num_seeds", "max_load", "resolved_max_load"), _is_count)
    | dict.fromkeys(("collision_rate", "gini", "resolved_collision_rate", "resolved_gini", "seconds"), is_number)
    | dict.fromkeys(("utilization", "perplexity", "prefix_collision_rates"), _list_of(is_number))
    | dict.fromkeys(("prefix_purity", "prefix_purity_by_chance", "neighbors_sharing_prefix"), _list_of(is_number))
    | dict.fromkeys(("pairs_sharing_prefix", "random_pairs_sharing_prefix"), _list_of(is_number))
    | dict.fromkeys(("name", "hardware", "split", "protocol", "on_collision", "fingerprint"), _is_text)
    | dict.fromkeys(("model_type", "rotation", "quantization_loss", "base_model_name_or_path"), _is_text)
    | {
        "codebook_sizes": _list_of(_is_count),
        "embedding_hit_rate": _is_hit_rate,
        "std": _dict_of(is_number),
        "baselines": _dict_of(_dict_of(is_number)),
        "r": _is_count,
    }
)


def clean_facts(facts: Any) -> dict[str, Any]:
    """The entries of a dictionary that are of the type that their name asks for; of other names, all."""
    return {name: value for name, value in as_dict(facts).items() if _CHECKS.get(name, _accept)(value)}


def _accept(value: Any) -> bool:
    return True
