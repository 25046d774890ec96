# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Tokens: how a model reads and writes semantic IDs.

In: a layout or a catalog, and users' histories, as item ids or as rows of text. Out: token ids, either of a vocabulary
that holds nothing but codes or of a text tokenizer that got them added. Knows nothing of how a model is trained or
asked.
"""

from transformers import AutoTokenizer, PreTrainedConfig

from .extend import extend_tokenizer, resize_and_init
from .history import HistoryEncoder
from .prompts import PromptEncoder
from .tokenization_semantic_id import SemanticIdTokenizer, semantic_id_token_ids


__all__ = [
    "HistoryEncoder",
    "PromptEncoder",
    "SemanticIdTokenizer",
    "extend_tokenizer",
    "resize_and_init",
    "semantic_id_token_ids",
]


class _SemanticIdTokenizerConfig(PreTrainedConfig):
    # AutoTokenizer learns a class by name only together with a config; no model has this one.
    model_type = "semantic_id_tokenizer"


AutoTokenizer.register(_SemanticIdTokenizerConfig, tokenizer_class=SemanticIdTokenizer, exist_ok=True)
