# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Prefix tables that lie beside a catalog: used where they fit, never where they don't."""

import logging

import pytest
import torch

from forge_hf import GenerativeRetrievalPipeline, SemanticIdCatalog, SemanticIdTokenizer, load_retriever, retrieve
from forge_hf.errors import FingerprintMismatchError
from forge_hf.generation import PrefixTable, pipeline
from forge_hf.generation.catalog_tables import table_of


SIZES = [6, 5, 4]


def make_catalog(rows=range(60)):
    """60 items, of which some share a semantic ID, in the order of `rows`."""
    generator = torch.Generator().manual_seed(3)
    codes = torch.stack([torch.randint(size, (60,), generator=generator) for size in SIZES], dim=-1)
    rows = list(rows)
    return SemanticIdCatalog.from_codes(
        [f"i{n}" for n in rows], codes[rows], codebook_sizes=SIZES, on_collision="keep"
    )


@pytest.fixture
def folder(make_model, tmp_path):
    """A retriever without a table."""
    catalog = make_catalog()
    tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    model = make_model("qwen2", sum(SIZES), semantic_id_fingerprint=catalog.fingerprint)
    for part in (model, tokenizer, catalog):
        part.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def count_builds(monkeypatch):
    built, original = [], PrefixTable.from_catalog
    monkeypatch.setattr(PrefixTable, "from_catalog", lambda *args: built.append(1) or original(*args))
    return built


def lists(retriever):
    return retrieve(*retriever, [["i3", "i7"], ["i59"]], top_k=12).item_ids


def test_a_saved_table_is_found(folder, count_builds):
    expected = lists(load_retriever(folder))
    assert len(count_builds) == 1
    built = load_retriever(folder)
    PrefixTable.from_catalog(built.catalog, built.tokenizer).save_pretrained(folder)
    count_builds.clear()
    retriever = load_retriever(folder)
    assert lists(retriever) == lists(retriever) == expected
    recommend = GenerativeRetrievalPipeline(*retriever[:2], catalog=retriever.catalog)
    assert recommend.prefix_table is table_of(retriever.catalog, retriever.tokenizer, "cpu")
    assert [[entry["item_id"] for entry in row] for row in recommend([["i3", "i7"], ["i59"]], top_k=12)] == expected
    assert count_builds == []


def other_order(catalog, tokenizer):
    return PrefixTable.from_catalog(make_catalog(reversed(range(60))), tokenizer)


def other_codes(catalog, tokenizer):
    other = SemanticIdCatalog(catalog.item_ids, catalog.codes.flip(0), catalog.layout)
    return PrefixTable.from_catalog(other, tokenizer)


def other_tokens(catalog, tokenizer):
    return PrefixTable.from_catalog(catalog, SemanticIdTokenizer(layout=catalog.layout, num_user_buckets=5))


def some_items(catalog, tokenizer):
    return PrefixTable.from_catalog(catalog, tokenizer).restrict(torch.arange(40))


def of_no_catalog(catalog, tokenizer):
    table = PrefixTable(catalog.codes, catalog.layout.codebook_sizes, torch.arange(sum(SIZES)) + 4)
    table.fingerprint = catalog.fingerprint
    return table


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (other_order, "items in another order"),
        (other_codes, "a catalog with the fingerprint"),
        (other_tokens, "token ids of another tokenizer"),
        (some_items, "isn't the whole table"),
        (of_no_catalog, "isn't the whole table"),
        (None, "was altered or is damaged"),
    ],
)
def test_another_table_is_not_used(folder, count_builds, caplog, make, reason):
    retriever = load_retriever(folder)
    expected = lists(retriever)
    table = (make or PrefixTable.from_catalog)(retriever.catalog, retriever.tokenizer)
    table.save_pretrained(folder)
    if make is None:
        path = folder / "prefix_table.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    count_builds.clear()
    with caplog.at_level(logging.WARNING):
        assert lists(load_retriever(folder)) == expected
    assert len(count_builds) == 1
    assert reason in caplog.text and "save_pretrained" in caplog.text


def test_a_table_of_items_in_another_order_is_refused(folder):
    retriever = load_retriever(folder)
    table = other_order(retriever.catalog, retriever.tokenizer)
    assert table.fingerprint == retriever.catalog.fingerprint
    with pytest.raises(FingerprintMismatchError, match="items in another order"):
        retrieve(*retriever, [["i3"]], prefix_table=table)
    with pytest.raises(FingerprintMismatchError, match="items in another order"):
        table.save_pretrained(folder)
        PrefixTable.from_pretrained(folder, catalog=retriever.catalog)


@pytest.mark.parametrize("is_large", [False, True])
def test_a_pipeline_saves_the_table_of_a_large_catalog(folder, tmp_path_factory, monkeypatch, is_large):
    if is_large:
        monkeypatch.setattr(pipeline, "MIN_INDEXED_ITEMS", 60)
    retriever = load_retriever(folder)
    recommend = GenerativeRetrievalPipeline(*retriever[:2], catalog=retriever.catalog)
    saved = tmp_path_factory.mktemp("saved")
    recommend.save_pretrained(saved)
    assert (saved / "prefix_table.safetensors").exists() == is_large
    assert lists(load_retriever(saved)) == lists(retriever)
