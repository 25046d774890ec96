# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Constrained generation: from histories to items of the catalog.

In: a stock encoder-decoder or decoder-only model, its tokenizer, a catalog and histories of item ids. Out: ranked
items with the log-probabilities of their semantic IDs. Knows nothing of training, targets or metrics.
"""

from .beam_search import BeamSearchOutput, constrained_beam_search, score_catalog, semantic_id_beam_search
from .loading import Retriever, load_retriever
from .logits_process import SemanticIdLogitsProcessor
from .pipeline import GenerativeRetrievalPipeline
from .prefix_table import Children, PrefixTable
from .retrieval import CatalogRanking, RetrievalResult, rank_catalog, retrieve
from .unconstrained import UnconstrainedResult, retrieve_unconstrained


__all__ = [
    "BeamSearchOutput",
    "CatalogRanking",
    "Children",
    "GenerativeRetrievalPipeline",
    "PrefixTable",
    "RetrievalResult",
    "Retriever",
    "SemanticIdLogitsProcessor",
    "UnconstrainedResult",
    "constrained_beam_search",
    "load_retriever",
    "rank_catalog",
    "retrieve",
    "retrieve_unconstrained",
    "score_catalog",
    "semantic_id_beam_search",
]
