# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Semantic IDs: what an item is called.

In: item ids and the codes that an item tokenizer gave them. Out: a catalog that finds the codes of an item and the
items of codes, with a fingerprint. Knows nothing of tokens, models or users.
"""

from .catalog import SemanticIdCatalog
from .layout import SemanticIdLayout
from .quality import codebook_perplexity, codebook_utilization, collision_rate, gini, prefix_collision_rates


__all__ = [
    "SemanticIdCatalog",
    "SemanticIdLayout",
    "codebook_perplexity",
    "codebook_utilization",
    "collision_rate",
    "gini",
    "prefix_collision_rates",
]
