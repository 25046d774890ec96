# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Training: item tokenizers and retrievers over `transformers.Trainer`.

In: embeddings, or a catalog and user sequences or rows of text. Out: trained models in folders that `from_pretrained`
reads. Knows nothing of the Hub's cards or the command line.
"""

from .collators import CausalCollator, PromptCollator, Seq2SeqCollator
from .item_tokenizers import (
    ITEM_TOKENIZER_PRESETS,
    convert_forge_weights,
    create_item_tokenizer,
    item_tokenizer_arguments,
)
from .regularization import add_hidden_dropout
from .retrieval_trainer import RetrievalTrainer, RetrievalTrainingArguments
from .retrievers import RETRIEVER_PRESETS, add_lora, create_retriever
from .rqvae_trainer import RQVAETrainer, RQVAETrainingArguments
from .run_guard import TERMINATED_EXIT_CODE
from .sequence_windows import LengthGroupedEpochSampler, SequenceWindows
from .text_rows import PromptRows, PromptStream


__all__ = [
    "ITEM_TOKENIZER_PRESETS",
    "RETRIEVER_PRESETS",
    "TERMINATED_EXIT_CODE",
    "CausalCollator",
    "LengthGroupedEpochSampler",
    "PromptCollator",
    "PromptRows",
    "PromptStream",
    "RQVAETrainer",
    "RQVAETrainingArguments",
    "RetrievalTrainer",
    "RetrievalTrainingArguments",
    "Seq2SeqCollator",
    "SequenceWindows",
    "add_hidden_dropout",
    "add_lora",
    "convert_forge_weights",
    "create_item_tokenizer",
    "create_retriever",
    "item_tokenizer_arguments",
]
