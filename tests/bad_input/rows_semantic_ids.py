# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
# fmt: off
# ruff: noqa: E501
"""forge_hf.semantic_ids: codes, item ids and saved catalogs that aren't any."""

import numpy as np
import torch
from datasets import Dataset

from forge_hf import ItemEmbeddings, SemanticIdCatalog, SemanticIdLayout, semantic_id_quality
from forge_hf.errors import (
    CapacityError,
    CorruptCatalogError,
    DuplicateItemError,
    InvalidCodesError,
    InvalidEmbeddingsError,
    InvalidSemanticIdError,
    UnknownItemError,
)
from forge_hf.semantic_ids import (
    append_suffix,
    codebook_perplexity,
    codebook_utilization,
    collision_rate,
    embedding_hit_rate,
    gini,
    keep_collisions,
    max_load,
    move_to_nearest,
    move_to_random,
    nearest_neighbors,
    pairs_by_shared_prefix,
    prefix_collision_rates,
    prefix_purity,
    random_pairs_by_shared_prefix,
)

from .world import INF, NAN, TWO_GIB_HEADER, table, truncated, with_entry


LAYOUT = SemanticIdLayout([4, 4])
CODES = torch.tensor([[0, 1], [2, 3]])
TOO_LARGE = torch.tensor([[0, 4]])
NEIGHBORS = np.array([[1, 2]])


def from_codes(ids, codes, **options):
    return SemanticIdCatalog.from_codes(ids, codes, **{"codebook_sizes": [4, 4]} | options)


def codes_dataset(**columns):
    return Dataset.from_dict({"item_id": ["a"], "codebook_lv1": [0], "codebook_lv2": [1]} | columns)


def load(w, **damaged):
    return SemanticIdCatalog.from_pretrained(w.copy("catalog", **damaged))


ROWS = table(
    # entry point       | bad input             | call                                        | error              | the message names
    ("SemanticIdLayout", "empty", lambda w: SemanticIdLayout([]), ValueError, "`codebook_sizes`"),
    ("SemanticIdLayout", "a number", lambda w: SemanticIdLayout(256), ValueError, "`codebook_sizes`"),
    ("SemanticIdLayout", "negative", lambda w: SemanticIdLayout([4, -4]), ValueError, "`codebook_sizes`"),
    ("SemanticIdLayout", "floats", lambda w: SemanticIdLayout([4.0]), ValueError, "`codebook_sizes`"),
    ("SemanticIdLayout", "more than memory", lambda w: SemanticIdLayout([2**40]), ValueError, "`codebook_sizes`"),
    ("SemanticIdLayout.tokens", "more than a vocabulary", lambda w: SemanticIdLayout([2**21]).tokens(), ValueError, "`codebook_sizes`"),
    ("SemanticIdLayout.validate", "negative", lambda w: LAYOUT.validate([[0, -1]]), InvalidCodesError, "row 0 level 2: -1"),
    ("SemanticIdLayout.validate", "too large", lambda w: LAYOUT.validate([[4, 0]]), InvalidCodesError, "row 0 level 1: 4"),
    ("SemanticIdLayout.validate", "too large for 64 bits", lambda w: LAYOUT.validate([[2**70, 0]]), InvalidCodesError, "`codes`"),
    ("SemanticIdLayout.validate", "NaN", lambda w: LAYOUT.validate([[NAN, 0.0]]), InvalidCodesError, "`codes`"),
    ("SemanticIdLayout.validate", "inf", lambda w: LAYOUT.validate(torch.tensor([[INF, 0.0]])), InvalidCodesError, "`codes`"),
    ("SemanticIdLayout.validate", "wrong width", lambda w: LAYOUT.validate([[0, 1, 2]]), InvalidCodesError, "`codes`"),
    ("SemanticIdLayout.validate", "ragged", lambda w: LAYOUT.validate([[0, 1], [0]]), InvalidCodesError, "`codes`"),
    ("SemanticIdLayout.validate", "texts", lambda w: LAYOUT.validate([["0", "1"]]), InvalidCodesError, "`codes`"),
    ("SemanticIdLayout.validate", "a number", lambda w: LAYOUT.validate(3), InvalidCodesError, "`codes`"),
    ("SemanticIdLayout.to_text", "three dimensions", lambda w: LAYOUT.to_text([[[0, 1]]]), InvalidCodesError, "`codes`"),
    ("SemanticIdLayout.from_index", "another level", lambda w: LAYOUT.from_index([[4, 0]]), InvalidCodesError, "`codes`"),
    ("SemanticIdLayout.from_text", "empty", lambda w: LAYOUT.from_text(""), InvalidSemanticIdError, "''"),
    ("SemanticIdLayout.from_text", "too few codes", lambda w: LAYOUT.from_text("C0"), InvalidSemanticIdError, "'C0'"),
    ("SemanticIdLayout.from_text", "a leading zero", lambda w: LAYOUT.from_text("C00C4"), InvalidSemanticIdError, "'C00C4'"),
    ("SemanticIdLayout.from_text", "digits of another script", lambda w: LAYOUT.from_text("C٣C4"), InvalidSemanticIdError, "C0 to C3"),
    ("SemanticIdLayout.from_text", "too large", lambda w: LAYOUT.from_text(["C0C9999999999"]), InvalidSemanticIdError, "C9999999999"),
    ("SemanticIdLayout.from_text", "a number", lambda w: LAYOUT.from_text(7), InvalidSemanticIdError, "7 is not"),
    ("SemanticIdLayout.from_text", "a missing text", lambda w: LAYOUT.from_text([None]), InvalidSemanticIdError, "None"),
    ("SemanticIdLayout.from_dict", "no sizes", lambda w: SemanticIdLayout.from_dict({}), ValueError, "`codebook_sizes`"),
    ("SemanticIdLayout.from_dict", "a list", lambda w: SemanticIdLayout.from_dict([4, 4]), ValueError, "`layout`"),

    ("SemanticIdCatalog", "no layout", lambda w: SemanticIdCatalog(["a"], [[0, 1]], [4, 4]), TypeError, "`layout`"),
    ("SemanticIdCatalog", "a strategy of no type", lambda w: SemanticIdCatalog(["a"], [[0, 1]], LAYOUT, on_collision=None), TypeError, "`on_collision`"),
    ("SemanticIdCatalog", "a suffix of one level", lambda w: SemanticIdCatalog(["a"], [[0]], SemanticIdLayout([4]), "suffix"), InvalidCodesError, "`on_collision='suffix'`"),
    ("SemanticIdCatalog", "empty", lambda w: SemanticIdCatalog([], [], LAYOUT), InvalidCodesError, "`codes`"),
    ("SemanticIdCatalog", "original codes of another shape", lambda w: SemanticIdCatalog(["a"], [[0, 1]], LAYOUT, "knn", [[0, 1], [0, 1]]), InvalidCodesError, "`original_codes`"),
    ("SemanticIdCatalog.from_codes", "duplicate ids", lambda w: from_codes(["a", "a"], CODES), DuplicateItemError, "'a'"),
    ("SemanticIdCatalog.from_codes", "duplicate ids that are integers", lambda w: from_codes([7, 7], CODES), DuplicateItemError, "7"),
    ("SemanticIdCatalog.from_codes", "fewer ids", lambda w: from_codes(["a"], CODES), InvalidCodesError, "`item_ids`"),
    ("SemanticIdCatalog.from_codes", "mixed ids", lambda w: from_codes(["a", 1], CODES), ValueError, "`item_ids`"),
    ("SemanticIdCatalog.from_codes", "ids that are floats", lambda w: from_codes([1.0, NAN], CODES), ValueError, "`item_ids`"),
    ("SemanticIdCatalog.from_codes", "missing ids", lambda w: from_codes(["a", None], CODES), ValueError, "`item_ids`"),
    ("SemanticIdCatalog.from_codes", "ids of more than 64 bits", lambda w: from_codes([1, 2**70], CODES), ValueError, "`item_ids`"),
    ("SemanticIdCatalog.from_codes", "ids that aren't Unicode", lambda w: from_codes(["a", "b\ud800"], CODES), ValueError, "'b\\ud800'"),
    ("SemanticIdCatalog.from_codes", "one id", lambda w: from_codes("ab", CODES), ValueError, "`item_ids`"),
    ("SemanticIdCatalog.from_codes", "no ids", lambda w: from_codes(None, CODES), ValueError, "`item_ids`"),
    ("SemanticIdCatalog.from_codes", "negative codes", lambda w: from_codes(["a"], [[0, -1]]), InvalidCodesError, "-1"),
    ("SemanticIdCatalog.from_codes", "too large codes", lambda w: from_codes(["a"], TOO_LARGE), InvalidCodesError, "4 (codebook of 4)"),
    ("SemanticIdCatalog.from_codes", "NaN", lambda w: from_codes(["a"], [[0, NAN]]), InvalidCodesError, "`codes`"),
    ("SemanticIdCatalog.from_codes", "a strategy of no kind", lambda w: from_codes(["a"], [[0, 1]], on_collision="drop"), ValueError, "`on_collision`"),
    ("SemanticIdCatalog.from_codes", "no candidates", lambda w: from_codes(["a"], [[0, 1]], on_collision="knn"), ValueError, "`candidates`"),
    ("SemanticIdCatalog.from_codes", "no capacity", lambda w: from_codes(["a"], [[0, 1]], on_collision="random", capacity=0), ValueError, "`capacity`"),
    ("SemanticIdCatalog.from_codes", "a negative seed", lambda w: from_codes(["a"], [[0, 1]], on_collision="random", seed=-1), ValueError, "`seed`"),
    ("SemanticIdCatalog.from_codes", "no room", lambda w: SemanticIdCatalog.from_codes(list("abcde"), [[0]] * 5, codebook_sizes=[4], on_collision="random", capacity=1), CapacityError, "`capacity=2`"),
    ("SemanticIdCatalog.codes_for", "unknown items", lambda w: w.catalog.codes_for(["a", "x"]), UnknownItemError, "'x'"),
    ("SemanticIdCatalog.codes_for", "integers for texts", lambda w: w.catalog.codes_for([1]), UnknownItemError, "str"),
    ("SemanticIdCatalog.codes_for", "one id", lambda w: w.catalog.codes_for("a"), UnknownItemError, "`item_ids`"),
    ("SemanticIdCatalog.codes_for", "a number", lambda w: w.catalog.codes_for(7), UnknownItemError, "`item_ids`"),
    ("SemanticIdCatalog.codes_for", "lists", lambda w: w.catalog.codes_for([["a"]]), UnknownItemError, "`item_ids`"),
    ("SemanticIdCatalog.items_for", "too large", lambda w: w.catalog.items_for(TOO_LARGE), InvalidCodesError, "`codes`"),
    ("SemanticIdCatalog.items_for", "one row", lambda w: w.catalog.items_for([0, 1]), InvalidCodesError, "`codes`"),
    ("SemanticIdCatalog.from_dataset", "a list", lambda w: SemanticIdCatalog.from_dataset([{"item_id": "a"}], codebook_sizes=[4]), TypeError, "`dataset`"),
    ("SemanticIdCatalog.from_dataset", "other levels", lambda w: SemanticIdCatalog.from_dataset(codes_dataset(), codebook_sizes=[4]), InvalidCodesError, "codebook_lv2"),
    ("SemanticIdCatalog.from_dataset", "one size", lambda w: SemanticIdCatalog.from_dataset(codes_dataset(), codebook_sizes=4), ValueError, "`codebook_sizes`"),
    ("SemanticIdCatalog.from_dataset", "no codes", lambda w: SemanticIdCatalog.from_dataset(codes_dataset(codebook_lv1=[None]), codebook_sizes=[4, 4]), InvalidCodesError, "1 without codes"),
    ("SemanticIdCatalog.from_dataset", "a missing id", lambda w: SemanticIdCatalog.from_dataset(codes_dataset(item_id=[None]), codebook_sizes=[4, 4]), InvalidCodesError, "1 rows without an item id"),
    ("SemanticIdCatalog.from_dataset", "codes that are texts", lambda w: SemanticIdCatalog.from_dataset(codes_dataset(codebook_lv1=["0"]), codebook_sizes=[4, 4]), InvalidCodesError, "codebook_lv1"),
    ("SemanticIdCatalog.from_dataset", "inf", lambda w: SemanticIdCatalog.from_dataset(codes_dataset(codebook_lv1=[INF]), codebook_sizes=[4, 4]), InvalidCodesError, "codebook_lv1"),
    ("SemanticIdCatalog.from_pretrained", "no folder", lambda w: SemanticIdCatalog.from_pretrained(str(w.path("x/y/z"))), FileNotFoundError, "x/y/z"),
    ("SemanticIdCatalog.from_pretrained", "an empty folder", lambda w: SemanticIdCatalog.from_pretrained(w.folder), FileNotFoundError, "semantic_ids.json"),
    ("SemanticIdCatalog.from_pretrained", "truncated safetensors", lambda w: load(w, semantic_ids__safetensors=truncated), CorruptCatalogError, "semantic_ids.safetensors"),
    ("SemanticIdCatalog.from_pretrained", "empty safetensors", lambda w: load(w, semantic_ids__safetensors=b""), CorruptCatalogError, "semantic_ids.safetensors"),
    ("SemanticIdCatalog.from_pretrained", "a 2 GiB header", lambda w: load(w, semantic_ids__safetensors=TWO_GIB_HEADER), CorruptCatalogError, "2,147,483,648 bytes"),
    ("SemanticIdCatalog.from_pretrained", "a flipped code", lambda w: load(w, semantic_ids__safetensors=lambda data: data[:-1] + bytes([data[-1] ^ 1])), CorruptCatalogError, "semantic_ids.safetensors"),
    ("SemanticIdCatalog.from_pretrained", "no JSON", lambda w: load(w, semantic_ids__json=truncated), CorruptCatalogError, "semantic_ids.json"),
    ("SemanticIdCatalog.from_pretrained", "JSON of a list", lambda w: load(w, semantic_ids__json="[]"), CorruptCatalogError, "semantic_ids.json"),
    ("SemanticIdCatalog.from_pretrained", "a huge JSON", lambda w: load(w, semantic_ids__json=b" " * 2**21), CorruptCatalogError, "2,097,152 bytes"),
    ("SemanticIdCatalog.from_pretrained", "deep JSON", lambda w: load(w, semantic_ids__json="[" * 10**5), CorruptCatalogError, "semantic_ids.json"),
    ("SemanticIdCatalog.from_pretrained", "another format", lambda w: load(w, semantic_ids__json=with_entry(format_version=9)), CorruptCatalogError, "format 9"),
    ("SemanticIdCatalog.from_pretrained", "JSON with wrong types", lambda w: load(w, semantic_ids__json=with_entry(num_items="12")), CorruptCatalogError, "'num_items'"),
    ("SemanticIdCatalog.from_pretrained", "other sizes", lambda w: load(w, semantic_ids__json=with_entry(codebook_sizes=[4, -4])), CorruptCatalogError, "`codebook_sizes`"),
    ("SemanticIdCatalog.from_pretrained", "mismatched fingerprint", lambda w: load(w, semantic_ids__json=with_entry(fingerprint="0" * 32)), CorruptCatalogError, "0" * 32),
    ("SemanticIdCatalog.push_to_hub", "a token with a line end", lambda w: w.catalog.push_to_hub("me/x", token="hf_\n"), ValueError, "`token`"),

    ("keep_collisions", "too large", lambda w: keep_collisions(TOO_LARGE, LAYOUT), InvalidCodesError, "`codes`"),
    ("append_suffix", "empty", lambda w: append_suffix(torch.empty(0, 2, dtype=torch.int64), LAYOUT), InvalidCodesError, "`codes`"),
    ("append_suffix", "negative", lambda w: append_suffix(-CODES, LAYOUT), InvalidCodesError, "`codes`"),
    ("append_suffix", "floats", lambda w: append_suffix(CODES.float(), LAYOUT), InvalidCodesError, "`codes`"),
    ("move_to_random", "too large", lambda w: move_to_random(TOO_LARGE, LAYOUT), InvalidCodesError, "`codes`"),
    ("move_to_random", "a capacity that is text", lambda w: move_to_random(CODES, LAYOUT, capacity="5"), ValueError, "`capacity`"),
    ("move_to_nearest", "wrong width", lambda w: move_to_nearest(CODES[:, :1], LAYOUT, None), InvalidCodesError, "`codes`"),
    ("move_to_nearest", "candidates of no kind", lambda w: move_to_nearest(torch.zeros(3, 2, dtype=torch.int64), LAYOUT, lambda rows: None, capacity=1), ValueError, "`candidates`"),
    ("move_to_nearest", "candidates too large", lambda w: move_to_nearest(torch.zeros(3, 2, dtype=torch.int64), LAYOUT, lambda rows: (torch.full((len(rows), 1), 9), torch.ones(len(rows), 1)), capacity=1), ValueError, "`candidates`"),
    ("move_to_nearest", "NaN", lambda w: move_to_nearest(torch.zeros(3, 2, dtype=torch.int64), LAYOUT, lambda rows: (torch.ones(len(rows), 1, dtype=torch.int64), torch.full((len(rows), 1), NAN)), capacity=1), ValueError, "NaN"),

    ("codebook_utilization", "too large", lambda w: codebook_utilization(TOO_LARGE, [4, 4]), InvalidCodesError, "`codes`"),
    ("codebook_perplexity", "empty", lambda w: codebook_perplexity(torch.empty(0, 2, dtype=torch.int64), [4, 4]), InvalidCodesError, "`codes`"),
    ("collision_rate", "empty", lambda w: collision_rate(torch.empty(0, 2, dtype=torch.int64)), InvalidCodesError, "`codes`"),
    ("collision_rate", "floats", lambda w: collision_rate(torch.ones(2, 2)), InvalidCodesError, "`codes`"),
    ("prefix_collision_rates", "one dimension", lambda w: prefix_collision_rates(torch.tensor([1, 2])), InvalidCodesError, "`codes`"),
    ("gini", "negative", lambda w: gini(-CODES), InvalidCodesError, "`codes`"),
    ("max_load", "NaN", lambda w: max_load(torch.tensor([[NAN]])), InvalidCodesError, "`codes`"),
    ("prefix_purity", "fewer categories", lambda w: prefix_purity(CODES, ["a"]), ValueError, "`categories`"),
    ("prefix_purity", "no category", lambda w: prefix_purity(CODES, [None, None]), ValueError, "`categories`"),
    ("prefix_purity", "one text", lambda w: prefix_purity(CODES, "ab"), ValueError, "`categories`"),
    ("prefix_purity", "a negative seed", lambda w: prefix_purity(CODES, ["a", "b"], seed=-1), ValueError, "`seed`"),
    ("pairs_by_shared_prefix", "a row too large", lambda w: pairs_by_shared_prefix(CODES, np.array([[0, 2]])), ValueError, "`pairs`"),
    ("pairs_by_shared_prefix", "floats", lambda w: pairs_by_shared_prefix(CODES, np.array([[0.0, 1.0]])), ValueError, "`pairs`"),
    ("pairs_by_shared_prefix", "empty", lambda w: pairs_by_shared_prefix(CODES, np.empty((0, 2), int)), ValueError, "`pairs`"),
    ("random_pairs_by_shared_prefix", "one item", lambda w: random_pairs_by_shared_prefix(CODES[:1]), ValueError, "`codes`"),
    ("embedding_hit_rate", "no pairs", lambda w: embedding_hit_rate(np.empty((0, 2), int), np.array([0]), NEIGHBORS, [1]), ValueError, "`pairs`"),
    ("embedding_hit_rate", "negative rows", lambda w: embedding_hit_rate(np.array([[-1, 0]]), np.array([0]), NEIGHBORS, [1]), ValueError, "`pairs`"),
    ("embedding_hit_rate", "k of 0", lambda w: embedding_hit_rate(np.array([[0, 1]]), np.array([0]), NEIGHBORS, [0]), ValueError, "`ks`"),
    ("embedding_hit_rate", "no k", lambda w: embedding_hit_rate(np.array([[0, 1]]), np.array([0]), NEIGHBORS, []), ValueError, "`ks`"),
    ("embedding_hit_rate", "k too large", lambda w: embedding_hit_rate(np.array([[0, 1]]), np.array([0]), NEIGHBORS, [3]), ValueError, "`ks`"),
    ("nearest_neighbors", "NaN", lambda w: nearest_neighbors(w.vectors_with(NAN), np.array([0]), 2), InvalidEmbeddingsError, "1 of 12 rows: 3"),
    ("nearest_neighbors", "too many", lambda w: nearest_neighbors(w.items, np.array([0]), 12), ValueError, "`num_neighbors`"),
    ("nearest_neighbors", "a row too large", lambda w: nearest_neighbors(w.items, np.array([12]), 2), IndexError, "`indices`"),

    ("semantic_id_quality", "a folder", lambda w: semantic_id_quality("runs/catalog"), TypeError, "`catalog`"),
    ("semantic_id_quality", "NaN", lambda w: semantic_id_quality(w.catalog, w.vectors_with(NAN)), InvalidEmbeddingsError, "1 of 12 rows: 3"),
    ("semantic_id_quality", "fewer embeddings", lambda w: semantic_id_quality(w.catalog, w.vectors[:3]), InvalidEmbeddingsError, "`embeddings`"),
    ("semantic_id_quality", "embeddings of other items", lambda w: semantic_id_quality(w.catalog, ItemEmbeddings(w.vectors)), UnknownItemError, "`embeddings`"),
    ("semantic_id_quality", "unknown items", lambda w: semantic_id_quality(w.catalog, pairs=[["a", "x"]]), UnknownItemError, "'x'"),
    ("semantic_id_quality", "ragged pairs", lambda w: semantic_id_quality(w.catalog, pairs=[["a", "b"], ["c"]]), ValueError, "`pairs`"),
    ("semantic_id_quality", "pairs of one item", lambda w: semantic_id_quality(w.catalog, pairs=[["a", "a"]]), ValueError, "`pairs`"),
    ("semantic_id_quality", "fewer categories", lambda w: semantic_id_quality(w.catalog, categories=["x"]), ValueError, "`categories`"),
    ("semantic_id_quality", "items without a category", lambda w: semantic_id_quality(w.catalog, categories={"a": "x"}), UnknownItemError, "`categories`"),
    ("semantic_id_quality", "no k", lambda w: semantic_id_quality(w.catalog, ks=[]), ValueError, "`ks`"),
    ("semantic_id_quality", "one k", lambda w: semantic_id_quality(w.catalog, ks=5), ValueError, "`ks`"),
    ("semantic_id_quality", "no queries", lambda w: semantic_id_quality(w.catalog, num_queries=0), ValueError, "`num_queries`"),
)
