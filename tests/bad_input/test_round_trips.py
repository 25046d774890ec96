# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Ids of any script and length, and histories of one item: strange, but no bad input. They come back as they went."""

import json

import pytest
import torch
from datasets import Dataset
from transformers import pipeline

from forge_hf import ItemEmbeddings, ItemPairs, RetrievalEvaluator, SemanticIdCatalog, create_retriever, retrieve
from forge_hf.data import (
    leave_one_out,
    read_contrastive_archive,
    read_item_embeddings,
    read_item_sids,
    read_origin_behavior,
    read_reconstruction_archive,
    read_sequences,
    write_contrastive_archive,
    write_inferred_sids,
    write_item_embeddings,
    write_item_sids,
    write_origin_behavior,
    write_reconstruction_archive,
)
from forge_hf.evaluation import hit_rate_of_predictions, predict_to_jsonl
from forge_hf.training import SequenceWindows


# Scripts, pictures of several code points, marks of direction, separators, CSV's signs, and what looks like something
# else; nothing with a line end or a ';', which AL-GR's files can't hold.
STRANGE = [
    *("é", "e\u0301", "日本語", "العربية", "👩\u200d👩\u200d👧", "\u202ertl", "\u2028", "\u00a0", " ", "a b", "a,b"),
    *('"', "''", "\t", "\ufeff", "NA", "null", "007", "1e5", "-1", "True", "C0C4", "</s>", "../x", "%s", "{}"),
    *("\U0010ffff", "x" * 100_000),
]  # fmt: skip


@pytest.fixture(scope="module")
def catalog():
    codes = torch.stack([torch.arange(len(STRANGE)) // 8, torch.arange(len(STRANGE)) % 8], dim=1)
    return SemanticIdCatalog.from_codes(STRANGE, codes, codebook_sizes=[8, 8], on_collision="keep")


@pytest.fixture(scope="module")
def items():
    return ItemEmbeddings(torch.randn(len(STRANGE), 4, generator=torch.Generator().manual_seed(0)), STRANGE)


@pytest.fixture(scope="module")
def retriever(catalog):
    return create_retriever(
        "qwen2-small", catalog, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip


def test_catalog(catalog, tmp_path):
    catalog.save_pretrained(tmp_path)
    loaded = SemanticIdCatalog.from_pretrained(tmp_path)
    assert loaded.item_ids == STRANGE and loaded.fingerprint == catalog.fingerprint
    assert [item for [item] in loaded.items_for(loaded.codes_for(STRANGE))] == STRANGE


@pytest.mark.parametrize("write", [write_item_sids, write_inferred_sids])
def test_item_sids(write, catalog, tmp_path):
    write(catalog.to_dataset(), tmp_path / "x.csv")
    read = SemanticIdCatalog.from_dataset(read_item_sids(tmp_path / "x.csv"), codebook_sizes=[8, 8])
    assert read.item_ids == STRANGE and read.fingerprint == catalog.fingerprint


def test_item_embeddings(items, tmp_path):
    write_item_embeddings(items, tmp_path / "x.csv")
    read = read_item_embeddings(tmp_path / "x.csv", tmp_path / "x.arrow")
    assert read.item_ids == STRANGE and torch.equal(read.to_tensor(), items.to_tensor())


def test_archives(items, tmp_path):
    few = items.select(range(len(STRANGE) - 1))  # numpy gives every id of an array the room of the longest
    write_reconstruction_archive(few, tmp_path / "r.npz")
    assert read_reconstruction_archive(tmp_path / "r.npz").item_ids == STRANGE[:-1]
    pairs = ItemPairs(few, list(zip(STRANGE[:-2], STRANGE[1:-1], strict=True)))
    write_contrastive_archive(pairs, tmp_path / "c.npz")
    read = read_contrastive_archive(tmp_path / "c.npz")
    assert read.items.item_ids == STRANGE[:-1] and read.rows.tolist() == pairs.rows.tolist()


def test_behavior_and_sequences(tmp_path):
    dataset = Dataset.from_dict({"history": [STRANGE, STRANGE[::-1]], "target": [["é"], STRANGE]})
    write_origin_behavior(dataset, tmp_path / "b.csv")
    assert read_origin_behavior(tmp_path / "b.csv").to_dict() == dataset.to_dict()
    Dataset.from_dict({"user_id": STRANGE[:2], "items": [STRANGE, STRANGE]}).save_to_disk(tmp_path / "saved")
    sequences = read_sequences(tmp_path / "saved")
    assert sequences["items"][:] == [STRANGE, STRANGE] and sequences["user_id"][:] == STRANGE[:2]


def test_recommendations_and_predictions(catalog, retriever, tmp_path):
    model, tokenizer = retriever
    recommend = pipeline("generative-retrieval", model=model, tokenizer=tokenizer, catalog=catalog, device="cpu")
    found = recommend(STRANGE, top_k=len(STRANGE), exclude_history=False)
    assert sorted(row["item_id"] for row in found) == sorted(STRANGE)
    rows = Dataset.from_dict({"history": [STRANGE[:3]], "answer": ["é;日本語"]})
    predict_to_jsonl(model, tokenizer, catalog, rows, tmp_path / "p.jsonl", num_beams=64, show_progress=False)
    assert json.loads((tmp_path / "p.jsonl").read_text(encoding="utf-8"))["history"] == STRANGE[:3]
    assert hit_rate_of_predictions(tmp_path / "p.jsonl", catalog, ks=(64,), show_progress=False) == {"hit_rate@64": 1}


def test_histories_of_one_item(catalog, retriever):
    model, tokenizer = retriever
    sequences = Dataset.from_dict({"user_id": [1, 2], "items": [["é"] * 60, ["007"] * 3]})
    splits = leave_one_out(sequences)
    assert len(SequenceWindows(splits["train"], catalog, 20, every_prefix=True)) == 57
    found = retrieve(model, tokenizer, catalog, [["é"] * 60], top_k=len(STRANGE) - 1).item_ids[0]
    assert sorted(found) == sorted(set(STRANGE) - {"é"})
    scores = RetrievalEvaluator(splits["test"], catalog, ks=(5,), exclude_history=False, show_progress=False)
    assert 0 <= scores(model, tokenizer)["recall@5"] <= 1
