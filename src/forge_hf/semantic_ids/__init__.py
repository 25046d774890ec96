# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Semantic IDs: what an item is called.

In: item ids and the codes that an item tokenizer gave them. Out: a catalog that finds the codes of an item and the
items of codes, with a fingerprint; and how good the codes are. Knows nothing of tokens, models or users.
"""

from .catalog import SemanticIdCatalog
from .collisions import append_suffix, keep_collisions, move_to_nearest, move_to_random
from .layout import SemanticIdLayout
from .neighbors import embedding_hit_rate, nearest_neighbors
from .quality import (
    codebook_perplexity,
    codebook_utilization,
    collision_rate,
    gini,
    max_load,
    pairs_by_shared_prefix,
    prefix_collision_rates,
    prefix_purity,
    random_pairs_by_shared_prefix,
)
from .quality_report import SemanticIdQuality, semantic_id_quality


__all__ = [
    "SemanticIdCatalog",
    "SemanticIdLayout",
    "SemanticIdQuality",
    "append_suffix",
    "codebook_perplexity",
    "codebook_utilization",
    "collision_rate",
    "embedding_hit_rate",
    "gini",
    "keep_collisions",
    "max_load",
    "move_to_nearest",
    "move_to_random",
    "nearest_neighbors",
    "pairs_by_shared_prefix",
    "prefix_collision_rates",
    "prefix_purity",
    "random_pairs_by_shared_prefix",
    "semantic_id_quality",
]
