# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
# fmt: off
# ruff: noqa: E501
"""forge_hf.training: what nobody can train on, refused before the first step."""

import numpy as np
import torch
from datasets import Dataset, IterableDataset

from forge_hf import (
    ItemEmbeddings,
    PromptEncoder,
    RetrievalTrainer,
    RetrievalTrainingArguments,
    RQVAEConfig,
    RQVAEModel,
    RQVAETrainer,
    RQVAETrainingArguments,
    add_lora,
    create_item_tokenizer,
    create_retriever,
    item_tokenizer_arguments,
)
from forge_hf.errors import (
    DuplicateItemError,
    FingerprintMismatchError,
    InvalidEmbeddingsError,
    InvalidSequencesError,
    MalformedRowsError,
    UnknownItemError,
)
from forge_hf.training import (
    LengthGroupedEpochSampler,
    PromptRows,
    PromptStream,
    SequenceWindows,
    add_hidden_dropout,
    convert_forge_weights,
)

from .world import INF, NAN, table


def rqvae_trainer(w, items, *, config=None, pairs=None, eval_dataset=None, **arguments):
    config = {"input_dim": 4, "hidden_sizes": [4], "codebook_dim": 4, "codebook_sizes": [4]} | (config or {})
    arguments = RQVAETrainingArguments(str(w.path("run")), use_cpu=True, report_to=[], **arguments)
    return RQVAETrainer(RQVAEModel(RQVAEConfig(**config)), arguments, items, eval_dataset, pairs=pairs)


def train(w, items, **options):
    return rqvae_trainer(w, items, **options).train()


def retrieval_trainer(w, train_dataset, eval_dataset=None, catalog=None, **arguments):
    if eval_dataset is None:
        arguments |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    arguments = RetrievalTrainingArguments(str(w.path("run")), use_cpu=True, report_to=[], **arguments)
    return RetrievalTrainer(
        w.model, arguments, catalog=catalog or w.catalog, processing_class=w.tokenizer,
        train_dataset=train_dataset, eval_dataset=eval_dataset,
    )


def sequences(*items):
    return Dataset.from_dict({"user_id": list(range(len(items))), "items": list(items)})


def encoder(w):
    return PromptEncoder(w.tokenizer, w.catalog.layout, is_encoder_decoder=False)


def stream(*rows):
    return Dataset.from_list(list(rows)).to_iterable_dataset()


ROW = {"user": "C0C4", "answer": "C1C5"}
ROWS = table(
    # entry point             | bad input              | call                                        | error               | the message names
    ("RQVAETrainingArguments", "no iterations", lambda w: train(w, w.items, kmeans_iterations=0), ValueError, "`kmeans_iterations`"),
    ("RQVAETrainingArguments", "a small sample", lambda w: train(w, w.items, kmeans_sample_size=2), ValueError, "`kmeans_sample_size`"),
    ("RQVAETrainingArguments", "a ratio of NaN", lambda w: train(w, w.items, pairs=w.pairs, config={"contrastive_loss_weight": 1.0}, pair_batch_ratio=NAN), ValueError, "`pair_batch_ratio`"),
    ("RQVAETrainer", "a tensor", lambda w: rqvae_trainer(w, w.vectors), TypeError, "`train_dataset`"),
    ("RQVAETrainer", "a catalog for a model", lambda w: RQVAETrainer(w.kmeans, RQVAETrainingArguments(str(w.path("run")), use_cpu=True), w.items), TypeError, "`model`"),
    ("RQVAETrainer", "a list of pairs", lambda w: rqvae_trainer(w, w.items, pairs=[["a", "b"]]), TypeError, "`pairs`"),
    ("RQVAETrainer.train", "NaN", lambda w: train(w, w.vectors_with(NAN)), InvalidEmbeddingsError, "1 of 12 rows: 3"),
    ("RQVAETrainer.train", "inf", lambda w: train(w, w.vectors_with(INF)), InvalidEmbeddingsError, "1 of 12 rows: 3"),
    ("RQVAETrainer.train", "NaN in what is evaluated", lambda w: train(w, w.items, eval_dataset=w.vectors_with(NAN)), InvalidEmbeddingsError, "1 of 12 rows: 3"),
    ("RQVAETrainer.train", "empty", lambda w: train(w, ItemEmbeddings(torch.ones(0, 4))), InvalidEmbeddingsError, "(0, 4)"),
    ("RQVAETrainer.train", "wrong width", lambda w: train(w, ItemEmbeddings(torch.ones(12, 5))), InvalidEmbeddingsError, "width 4"),
    ("RQVAETrainer.train", "duplicate ids", lambda w: train(w, ItemEmbeddings(w.vectors, ["a"] * 12)), DuplicateItemError, "'a'"),
    ("RQVAETrainer.train", "fewer items than codes", lambda w: train(w, w.items, config={"codebook_sizes": [16]}), InvalidEmbeddingsError, "`train_dataset`"),
    ("RQVAETrainer.train", "no items", lambda w: train(w, None), ValueError, "`train_dataset`"),
    ("RQVAETrainer.train", "pairs without a loss", lambda w: train(w, w.items, pairs=w.pairs), ValueError, "`pairs`"),
    ("RQVAETrainer.train", "too few pairs", lambda w: train(w, w.items, pairs=w.pairs, config={"contrastive_loss_weight": 1.0}, per_device_train_batch_size=8), ValueError, "`pairs`"),

    ("RetrievalTrainingArguments", "a metric of no length", lambda w: retrieval_trainer(w, w.splits["train"], w.splits["validation"], eval_ks=[2], metric_for_best_model="ndcg@x").train(), ValueError, "`metric_for_best_model`"),
    ("RetrievalTrainingArguments", "no list", lambda w: retrieval_trainer(w, w.splits["train"], w.splits["validation"], eval_ks=[]), ValueError, "`ks`"),
    ("RetrievalTrainingArguments", "a dropout of NaN", lambda w: retrieval_trainer(w, w.splits["train"], hidden_dropout=NAN).train(), ValueError, "`p`"),
    ("RetrievalTrainingArguments", "a history of none", lambda w: retrieval_trainer(w, w.splits["train"], max_history=0), ValueError, "`max_items`"),
    ("RetrievalTrainer", "a list", lambda w: retrieval_trainer(w, [["a", "b"]]), TypeError, "`sequences`"),
    ("RetrievalTrainer", "all splits", lambda w: retrieval_trainer(w, w.splits), TypeError, "`sequences`"),
    ("RetrievalTrainer", "unknown items", lambda w: retrieval_trainer(w, sequences(["a", "x"])), UnknownItemError, "'x'"),
    ("RetrievalTrainer", "mismatched fingerprint", lambda w: retrieval_trainer(w, w.splits["train"], catalog=w.other_catalog), FingerprintMismatchError, "fingerprint"),
    ("RetrievalTrainer", "an evaluation of one item", lambda w: retrieval_trainer(w, w.splits["train"], w.sequences, eval_ks=[2]), InvalidSequencesError, "`dataset`"),
    ("RetrievalTrainer", "too many malformed rows", lambda w: retrieval_trainer(w, Dataset.from_list([ROW, {"user": "?", "answer": "?"}])), MalformedRowsError, "row 2"),
    ("RetrievalTrainer", "a stream without an end", lambda w: retrieval_trainer(w, stream(ROW)), ValueError, "`max_steps`"),
    ("SequenceWindows", "no column", lambda w: SequenceWindows(Dataset.from_dict({"x": [1]}), w.catalog, 5, False), InvalidSequencesError, "`sequences`"),
    ("SequenceWindows", "texts", lambda w: SequenceWindows(Dataset.from_dict({"items": ["a b"]}), w.catalog, 5, False), InvalidSequencesError, "`items`"),
    ("SequenceWindows", "empty", lambda w: SequenceWindows(Dataset.from_dict({"items": []}), w.catalog, 5, False), InvalidSequencesError, "`sequences`"),
    ("SequenceWindows", "one item each", lambda w: SequenceWindows(sequences(["a"], ["b"]), w.catalog, 5, False), InvalidSequencesError, "`sequences`"),
    ("SequenceWindows", "a missing id", lambda w: SequenceWindows(sequences(["a", None]), w.catalog, 5, False), UnknownItemError, "NoneType"),
    ("SequenceWindows", "windows of none", lambda w: SequenceWindows(w.splits["train"], w.catalog, 0, False), ValueError, "`max_items`"),
    ("LengthGroupedEpochSampler", "batches of none", lambda w: LengthGroupedEpochSampler(np.ones(3), 0, 0), ValueError, "`batch_size`"),
    ("LengthGroupedEpochSampler", "empty", lambda w: LengthGroupedEpochSampler(np.ones(0), 1, 0), ValueError, "`lengths`"),
    ("PromptRows", "a stream", lambda w: PromptRows(stream(ROW), encoder(w)), TypeError, "`rows`"),
    ("PromptRows", "no column", lambda w: PromptRows(w.sequences, encoder(w)), InvalidSequencesError, "`answer`"),
    ("PromptRows", "all malformed", lambda w: PromptRows(Dataset.from_list([{"user": None, "answer": None}]), encoder(w)), MalformedRowsError, "row 1"),
    ("PromptRows", "empty", lambda w: PromptRows(Dataset.from_dict({"user": [], "answer": []}), encoder(w)), InvalidSequencesError, "`rows`"),
    ("PromptStream", "a dataset", lambda w: PromptStream(w.rows, encoder(w)), TypeError, "`rows`"),
    ("PromptStream", "empty", lambda w: PromptStream(IterableDataset.from_generator(lambda: iter(())), encoder(w)), InvalidSequencesError, "`rows`"),
    ("PromptStream", "no column", lambda w: PromptStream(stream({"text": "C0"}), encoder(w)), InvalidSequencesError, "`answer`"),
    ("PromptStream", "all malformed", lambda w: list(PromptStream(stream({"user": "?", "answer": "?"}), encoder(w)).epoch(0)), MalformedRowsError, "row 1"),
    ("PromptStream", "a negative buffer", lambda w: PromptStream(stream(ROW), encoder(w), buffer_size=-1), ValueError, "`buffer_size`"),
    ("PromptStream", "a process of no number", lambda w: PromptStream(stream(ROW), encoder(w), process_index=2, num_processes=2), ValueError, "`process_index`"),

    ("add_hidden_dropout", "1", lambda w: add_hidden_dropout(w.model, 1.0), ValueError, "`p`"),
    ("add_hidden_dropout", "text", lambda w: add_hidden_dropout(w.model, "0.1"), ValueError, "`p`"),
    ("add_hidden_dropout", "a T5", lambda w: add_hidden_dropout(w.t5, 0.1), ValueError, "`hidden_dropout`"),
    ("add_lora", "mismatched fingerprint", lambda w: add_lora(w.model, w.tokenizer, w.other_catalog), FingerprintMismatchError, "fingerprint"),
    ("add_lora", "a name", lambda w: add_lora("qwen2-small", w.tokenizer, w.catalog), TypeError, "`model`"),
    ("create_retriever", "a folder for a catalog", lambda w: create_retriever("qwen2-small", "runs/catalog"), TypeError, "`catalog`"),
    ("create_retriever", "codebooks for a preset", lambda w: create_retriever("qwen2-small", w.catalog, rqvae=w.rqvae), ValueError, "`rqvae`"),
    ("create_retriever", "users of a checkpoint", lambda w: create_retriever("some/checkpoint", w.catalog, num_user_buckets=5), ValueError, "`num_user_buckets`"),
    ("create_retriever", "negative buckets", lambda w: create_retriever("qwen2-small", w.catalog, num_user_buckets=-1), ValueError, "`num_user_buckets`"),
    ("create_item_tokenizer", "no preset", lambda w: create_item_tokenizer("letter?"), ValueError, "`name`"),
    ("item_tokenizer_arguments", "no preset", lambda w: item_tokenizer_arguments("letter?", w.path("run")), ValueError, "`name`"),
    ("convert_forge_weights", "empty", lambda w: convert_forge_weights({}), ValueError, "`state_dict`"),
    ("convert_forge_weights", "another width", lambda w: convert_forge_weights(forge_weights(encoder=torch.ones(3, 9))), ValueError, "`state_dict`"),
    ("convert_forge_weights", "one dimension", lambda w: convert_forge_weights(forge_weights(encoder=torch.ones(3))), ValueError, "`state_dict`"),
    ("convert_forge_weights", "NaN", lambda w: convert_forge_weights(forge_weights(encoder=torch.full((3, 3), NAN))), ValueError, "`state_dict`"),
)


def forge_weights(encoder):
    """Weights by FORGE's names, all 3 wide, with another matrix in the middle of the encoder."""
    weights = {"rq_model.quantizer.codebooks.0.weight": torch.ones(5, 3)}
    for side in ("encoder", "decoder"):
        for layer in ("fc1", "fc2", "fc3"):
            weights[f"rq_model.{side}.{side}.{layer}.weight"] = torch.ones(3, 3)
            weights[f"rq_model.{side}.{side}.{layer}.bias"] = torch.ones(3)
    weights |= dict.fromkeys(("logit_scale_self", "logit_scale", "logit_scale_cl"), torch.tensor(1.0))
    return weights | {"rq_model.encoder.encoder.fc3.weight": encoder}
