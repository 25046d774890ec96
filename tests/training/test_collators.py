# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch

from forge_hf.tokenization import HistoryEncoder, SemanticIdTokenizer
from forge_hf.training import CausalCollator, Seq2SeqCollator


WINDOWS = [
    {"rows": torch.tensor([0, 9, 39]), "user_id": "ann"},
    {"rows": torch.tensor([5, 6]), "user_id": "bob"},
]


@pytest.mark.parametrize("num_user_buckets", [0, 10])
def test_causal_batch(ring_catalog, num_user_buckets):
    tokenizer = SemanticIdTokenizer(layout=ring_catalog.layout, num_user_buckets=num_user_buckets)
    encoder = HistoryEncoder(ring_catalog, tokenizer, is_encoder_decoder=False)
    batch = CausalCollator(encoder)(WINDOWS)
    texts = ["C0C5C1C6C4C12", "C0C10C0C11"]  # codes of rows 0, 9, 39 and 5, 6 in FORGE's text form
    for row, (text, window) in enumerate(zip(texts, WINDOWS, strict=True)):
        codes = tokenizer(text)["input_ids"]
        start = tokenizer.user_token_id(window["user_id"]) if num_user_buckets else tokenizer.sep_token_id
        padding = batch["input_ids"].shape[1] - len(codes) - 1
        assert batch["input_ids"][row].tolist() == [start, *codes, *[tokenizer.pad_token_id] * padding]
        assert batch["labels"][row].tolist() == [-100, *codes, *[-100] * padding]
    assert "attention_mask" not in batch


def test_seq2seq_batch(ring_catalog):
    tokenizer = SemanticIdTokenizer(layout=ring_catalog.layout, num_user_buckets=10)
    encoder = HistoryEncoder(ring_catalog, tokenizer, is_encoder_decoder=True)
    batch = Seq2SeqCollator(encoder, decoder_start_token_id=0)(WINDOWS)
    for row, (source, target) in enumerate([("C0C5C1C6", "C4C12"), ("C0C10", "C0C11")]):
        ids = [tokenizer.user_token_id(WINDOWS[row]["user_id"]), *tokenizer(source)["input_ids"]]
        ids.append(tokenizer.eos_token_id)
        padding = batch["input_ids"].shape[1] - len(ids)
        assert batch["input_ids"][row].tolist() == ids + [tokenizer.pad_token_id] * padding
        assert batch["attention_mask"][row].tolist() == [1] * len(ids) + [0] * padding
        labels = tokenizer(target)["input_ids"]
        assert batch["labels"][row].tolist() == labels
        assert batch["decoder_input_ids"][row].tolist() == [0, labels[0]]
