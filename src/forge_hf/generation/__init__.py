# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
From a history's tokens to items of the catalog.

Takes a stock encoder-decoder or decoder-only model, a tokenizer and a catalog; gives ranked items with the
log-probabilities of their semantic IDs. Knows nothing of training, targets or metrics.
"""

from .beam_search import BeamSearchOutput, constrained_beam_search, semantic_id_beam_search
from .logits_process import SemanticIdLogitsProcessor
from .prefix_table import Children, PrefixTable


__all__ = [
    "BeamSearchOutput",
    "Children",
    "PrefixTable",
    "SemanticIdLogitsProcessor",
    "constrained_beam_search",
    "semantic_id_beam_search",
]
