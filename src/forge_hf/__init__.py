# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Generative retrieval with semantic IDs, native to the Hugging Face ecosystem.

Importing this package registers its models with `AutoConfig` and `AutoModel`, its tokenizer with `AutoTokenizer` and
its pipeline with `transformers.pipeline`. Data, evaluation and training are imported when first used.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

from .errors import ForgeError
from .generation import (
    GenerativeRetrievalPipeline,
    PrefixTable,
    RetrievalResult,
    SemanticIdLogitsProcessor,
    constrained_beam_search,
    load_retriever,
    retrieve,
    semantic_id_beam_search,
)
from .hub import push_folder
from .models import (
    DASConfig,
    DASModel,
    FSQConfig,
    FSQModel,
    HierarchicalKMeansConfig,
    HierarchicalKMeansModel,
    LetterConfig,
    LetterModel,
    LSHConfig,
    LSHModel,
    MMQConfig,
    MMQModel,
    OPQConfig,
    OPQModel,
    RandomIdsConfig,
    RandomIdsModel,
    ResidualKMeansConfig,
    ResidualKMeansFSQConfig,
    ResidualKMeansFSQModel,
    ResidualKMeansModel,
    RQVAEConfig,
    RQVAEModel,
    VQVAEConfig,
    VQVAEModel,
)
from .semantic_ids import SemanticIdCatalog, SemanticIdLayout, semantic_id_quality
from .tokenization import (
    HistoryEncoder,
    PromptEncoder,
    SemanticIdTokenizer,
    extend_tokenizer,
    resize_and_init,
    semantic_id_token_ids,
)


if TYPE_CHECKING:
    from .data import ItemEmbeddings, ItemPairs, SyntheticMarket, UserItemPairs, leave_one_out, read_sequences
    from .evaluation import RetrievalEvaluator
    from .training import (
        RetrievalTrainer,
        RetrievalTrainingArguments,
        RQVAETrainer,
        RQVAETrainingArguments,
        add_lora,
        create_item_tokenizer,
        create_retriever,
        item_tokenizer_arguments,
    )

__version__ = version("forge-hf")

_LAZY = {
    "ItemEmbeddings": "data",
    "ItemPairs": "data",
    "SyntheticMarket": "data",
    "UserItemPairs": "data",
    "leave_one_out": "data",
    "read_sequences": "data",
    "RetrievalEvaluator": "evaluation",
    "RQVAETrainer": "training",
    "RQVAETrainingArguments": "training",
    "RetrievalTrainer": "training",
    "RetrievalTrainingArguments": "training",
    "add_lora": "training",
    "create_item_tokenizer": "training",
    "create_retriever": "training",
    "item_tokenizer_arguments": "training",
}

__all__ = [
    "DASConfig",
    "DASModel",
    "FSQConfig",
    "FSQModel",
    "ForgeError",
    "GenerativeRetrievalPipeline",
    "HierarchicalKMeansConfig",
    "HierarchicalKMeansModel",
    "HistoryEncoder",
    "ItemEmbeddings",
    "ItemPairs",
    "LSHConfig",
    "LSHModel",
    "LetterConfig",
    "LetterModel",
    "MMQConfig",
    "MMQModel",
    "OPQConfig",
    "OPQModel",
    "PrefixTable",
    "PromptEncoder",
    "RQVAEConfig",
    "RQVAEModel",
    "RQVAETrainer",
    "RQVAETrainingArguments",
    "RandomIdsConfig",
    "RandomIdsModel",
    "ResidualKMeansConfig",
    "ResidualKMeansFSQConfig",
    "ResidualKMeansFSQModel",
    "ResidualKMeansModel",
    "RetrievalEvaluator",
    "RetrievalResult",
    "RetrievalTrainer",
    "RetrievalTrainingArguments",
    "SemanticIdCatalog",
    "SemanticIdLayout",
    "SemanticIdLogitsProcessor",
    "SemanticIdTokenizer",
    "SyntheticMarket",
    "UserItemPairs",
    "VQVAEConfig",
    "VQVAEModel",
    "add_lora",
    "constrained_beam_search",
    "create_item_tokenizer",
    "create_retriever",
    "extend_tokenizer",
    "item_tokenizer_arguments",
    "leave_one_out",
    "load_retriever",
    "push_folder",
    "read_sequences",
    "resize_and_init",
    "retrieve",
    "semantic_id_beam_search",
    "semantic_id_quality",
    "semantic_id_token_ids",
]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
