# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
# fmt: off
# ruff: noqa: E501
"""forge_hf.data: files and datasets that aren't what they should be."""

import gzip

import numpy as np
import torch
from datasets import Dataset, IterableDataset

from forge_hf.data import (
    ItemEmbeddings,
    ItemPairs,
    MalformedRows,
    SyntheticMarket,
    UserItemPairs,
    adjacent_pairs,
    behavior_to_lists,
    leave_one_out,
    normalize_text_rows,
    read_contrastive_archive,
    read_item_embeddings,
    read_item_sids,
    read_origin_behavior,
    read_reconstruction_archive,
    read_sequences,
    read_text_rows,
    read_training_sequences,
    write_contrastive_archive,
    write_inferred_sids,
    write_item_embeddings,
    write_item_sids,
    write_origin_behavior,
    write_reconstruction_archive,
)
from forge_hf.errors import (
    CorruptFileError,
    DuplicateItemError,
    InvalidCodesError,
    InvalidEmbeddingsError,
    InvalidSequencesError,
    MalformedRowsError,
    UnknownItemError,
)

from .world import INF, NAN, TWO_GIB_HEADER, table, truncated


def behavior(**columns):
    return Dataset.from_dict({"history": [["a"]], "target": ["b"]} | columns)


def sids(**columns):
    return Dataset.from_dict({"item_id": ["a"], "codebook_lv1": [0]} | columns)


def embeddings_csv(*features):
    return "base62_string,feature\n" + "".join(f"a{row},{feature}\n" for row, feature in enumerate(features))


def lines(*texts):
    return "".join(f"{text}\n" for text in texts)


def joined(count):
    vectors = torch.arange(2.0 * count).view(count, 2)
    return ItemEmbeddings(vectors).join(collaborative=ItemEmbeddings(vectors))


FEATURE = "AACAPwAAAEA="  # 1.0 and 2.0
BAD_UTF8 = b"user_history,target_item\n\xff\xfe,a\n"

ROWS = table(
    # entry point                | bad input                    | call                                | error               | the message names
    ("UserItemPairs", "no collaborative vectors", lambda w: UserItemPairs(w.items, w.items, [[0, 0]]), ValueError, "`users`"),
    ("UserItemPairs", "an unknown item", lambda w: UserItemPairs(joined(2), joined(2), [[0, 7]]), UnknownItemError, "7"),
    ("UserItemPairs", "empty", lambda w: UserItemPairs(joined(2), joined(2), ([], [])), ValueError, "`interactions`"),
    ("UserItemPairs", "one column", lambda w: UserItemPairs(joined(2), joined(2), [[0], [1]]), ValueError, "`interactions`"),
    ("ItemEmbeddings.join", "unknown items", lambda w: joined(3).join(other=joined(2)), UnknownItemError, "`other`"),
    ("ItemEmbeddings.join", "a tensor", lambda w: joined(3).join(other=torch.ones(3, 2)), TypeError, "`other`"),
    ("ItemEmbeddings.concatenate", "nothing", lambda w: ItemEmbeddings.concatenate([]), ValueError, "`tables`"),
    ("ItemEmbeddings.concatenate", "unknown items", lambda w: ItemEmbeddings.concatenate([joined(3), joined(2)]), UnknownItemError, "`tables[1]`"),
    ("ItemEmbeddings", "a list", lambda w: ItemEmbeddings([[1.0, 2.0]]), TypeError, "`embeddings`"),
    ("ItemEmbeddings", "one dimension", lambda w: ItemEmbeddings(torch.ones(3)), InvalidEmbeddingsError, "`embeddings`"),
    ("ItemEmbeddings", "texts", lambda w: ItemEmbeddings(np.array([["a", "b"]])), InvalidEmbeddingsError, "`embeddings`"),
    ("ItemEmbeddings", "complex", lambda w: ItemEmbeddings(torch.ones(2, 2) * 1j), InvalidEmbeddingsError, "complex64"),
    ("ItemEmbeddings", "booleans", lambda w: ItemEmbeddings(torch.ones(2, 2) > 0), InvalidEmbeddingsError, "bool"),
    ("ItemEmbeddings", "fewer ids", lambda w: ItemEmbeddings(torch.ones(3, 2), ["a"]), InvalidEmbeddingsError, "`item_ids`"),
    ("ItemEmbeddings", "one text as ids", lambda w: ItemEmbeddings(torch.ones(3, 2), "abc"), TypeError, "`item_ids`"),
    ("ItemEmbeddings", "one id as ids", lambda w: ItemEmbeddings(torch.ones(3, 2), 3), TypeError, "`item_ids`"),
    ("ItemEmbeddings.validate", "NaN", lambda w: w.vectors_with(NAN).validate(), InvalidEmbeddingsError, "1 of 12 rows: 3"),
    ("ItemEmbeddings.validate", "inf", lambda w: w.vectors_with(INF).validate(), InvalidEmbeddingsError, "1 of 12 rows: 3"),
    ("ItemEmbeddings.validate", "empty", lambda w: ItemEmbeddings(torch.ones(0, 2)).validate(), InvalidEmbeddingsError, "(0, 2)"),
    ("ItemEmbeddings.validate", "no width", lambda w: ItemEmbeddings(torch.ones(2, 0)).validate(), InvalidEmbeddingsError, "(2, 0)"),
    ("ItemEmbeddings.validate", "wrong width", lambda w: w.items.validate(5), InvalidEmbeddingsError, "width 5, but has width 4"),
    ("ItemEmbeddings.validate", "duplicate ids", lambda w: ItemEmbeddings(torch.ones(3, 2), ["a", "b", "a"]).validate(), DuplicateItemError, "'a'"),
    ("ItemEmbeddings.validate", "ids that are lists", lambda w: ItemEmbeddings(torch.ones(2, 2), [["a"], ["b"]]).validate(), TypeError, "`item_ids`"),
    ("ItemEmbeddings.validate", "ids that are floats", lambda w: ItemEmbeddings(torch.ones(2, 2), [1.0, NAN]).validate(), TypeError, "`item_ids`"),
    ("ItemEmbeddings.batches", "batches of none", lambda w: list(w.items.batches(0)), ValueError, "`batch_size`"),
    ("ItemEmbeddings.select", "a mask", lambda w: w.items.select([True, False]), TypeError, "`rows`"),
    ("ItemEmbeddings.select", "a row too large", lambda w: w.items.select([12]), IndexError, "`rows`"),
    ("ItemEmbeddings.from_dataset", "a list", lambda w: ItemEmbeddings.from_dataset([{"embedding": [1.0]}]), TypeError, "`dataset`"),
    ("ItemEmbeddings.from_dataset", "another column", lambda w: ItemEmbeddings.from_dataset(Dataset.from_dict({"x": [[1.0]]})), InvalidEmbeddingsError, "`embedding_column`"),
    ("ItemEmbeddings.from_dataset", "numbers for vectors", lambda w: ItemEmbeddings.from_dataset(Dataset.from_dict({"embedding": [1.0]})), InvalidEmbeddingsError, "vectors"),
    ("ItemEmbeddings.from_dataset", "vectors of texts", lambda w: ItemEmbeddings.from_dataset(Dataset.from_dict({"embedding": [["a"]]})), InvalidEmbeddingsError, "vectors"),
    ("ItemEmbeddings.from_dataset", "ragged", lambda w: ItemEmbeddings.from_dataset(Dataset.from_dict({"embedding": [[1.0], [1.0, 2.0]]})).validate(), InvalidEmbeddingsError, "row 1"),
    ("ItemEmbeddings.from_dataset", "a missing vector", lambda w: ItemEmbeddings.from_dataset(Dataset.from_dict({"embedding": [None, [1.0]]})).to_tensor(), InvalidEmbeddingsError, "row 0"),
    ("ItemEmbeddings.from_file", "no file", lambda w: ItemEmbeddings.from_file(w.path("x.npy")), FileNotFoundError, "`path`"),
    ("ItemEmbeddings.from_file", "another kind", lambda w: ItemEmbeddings.from_file(w.file("x.doc")), InvalidEmbeddingsError, "`path`"),
    ("ItemEmbeddings.from_file", "empty safetensors", lambda w: ItemEmbeddings.from_file(w.file("x.safetensors")), InvalidEmbeddingsError, "x.safetensors"),
    ("ItemEmbeddings.from_file", "truncated safetensors", lambda w: ItemEmbeddings.from_file(w.file("x.safetensors", truncated(w.safetensors("y.safetensors", embeddings=w.vectors).read_bytes()))), InvalidEmbeddingsError, "x.safetensors"),
    ("ItemEmbeddings.from_file", "a 2 GiB header", lambda w: ItemEmbeddings.from_file(w.file("x.safetensors", TWO_GIB_HEADER)), InvalidEmbeddingsError, "x.safetensors"),
    ("ItemEmbeddings.from_file", "another key", lambda w: ItemEmbeddings.from_file(w.safetensors("x.safetensors", other=w.vectors)), InvalidEmbeddingsError, "`key`"),
    ("ItemEmbeddings.from_file", "empty npy", lambda w: ItemEmbeddings.from_file(w.file("x.npy")), InvalidEmbeddingsError, "x.npy"),
    ("ItemEmbeddings.from_file", "pickled npy", lambda w: ItemEmbeddings.from_file(w.npy("x.npy", np.array([[None]]))), InvalidEmbeddingsError, "x.npy"),
    ("ItemEmbeddings.from_file", "npy of texts", lambda w: ItemEmbeddings.from_file(w.npy("x.npy", np.array([["a"]]))), InvalidEmbeddingsError, "`embeddings`"),
    ("ItemEmbeddings.from_file", "the beginning of an archive", lambda w: ItemEmbeddings.from_file(w.file("x.npy", b"PK\3\4")), InvalidEmbeddingsError, "x.npy"),
    ("ItemEmbeddings.from_file", "npz named npy", lambda w: ItemEmbeddings.from_file(w.file("x.npy", w.npz("y.npz", embeds=w.vectors.numpy()).read_bytes())), InvalidEmbeddingsError, ".npz"),
    ("ItemEmbeddings.from_file", "truncated parquet", lambda w: ItemEmbeddings.from_file(w.file("x.parquet", truncated(w.parquet("y.parquet", embedding=[[1.0]]).read_bytes()))), InvalidEmbeddingsError, "x.parquet"),
    ("ItemEmbeddings.from_file", "no arrow", lambda w: ItemEmbeddings.from_file(w.file("x.arrow", b"no arrow at all")), InvalidEmbeddingsError, "x.arrow"),
    ("ItemEmbeddings.from_file", "JSON with wrong types", lambda w: ItemEmbeddings.from_file(w.file("saved/state.json", "[1]").parent), (InvalidEmbeddingsError, FileNotFoundError), "saved"),
    ("ItemEmbeddings.from_file", "CSV without a column", lambda w: ItemEmbeddings.from_file(w.file("x.csv", "a,b\n1,2\n")), CorruptFileError, "feature"),

    ("ItemPairs", "a list of items", lambda w: ItemPairs(["a", "b"], [["a", "b"]]), TypeError, "`items`"),
    ("ItemPairs", "empty", lambda w: ItemPairs(w.items, []), ValueError, "`pairs`"),
    ("ItemPairs", "wrong width", lambda w: ItemPairs(w.items, [["a", "b", "c"]]), ValueError, "`pairs`"),
    ("ItemPairs", "ragged", lambda w: ItemPairs(w.items, [["a", "b"], ["c"]]), ValueError, "`pairs`"),
    ("ItemPairs", "unknown items", lambda w: ItemPairs(w.items, [["a", "x"]]), UnknownItemError, "'x'"),
    ("ItemPairs", "integers for texts", lambda w: ItemPairs(w.items, [[1, 2]]), UnknownItemError, "int64"),
    ("ItemPairs", "mixed types", lambda w: ItemPairs(w.items, [["a", 1]]), TypeError, "`pairs`"),
    ("ItemPairs", "NaN", lambda w: ItemPairs(w.items, [[1.0, NAN]]), TypeError, "`pairs`"),
    ("ItemPairs", "an item with itself alone", lambda w: ItemPairs(w.items, [["a", "a"]]), ValueError, "`pairs`"),
    ("ItemPairs.from_rows", "negative", lambda w: ItemPairs.from_rows(w.items, [[-1, 0]]), IndexError, "`rows`"),
    ("ItemPairs.from_rows", "too large", lambda w: ItemPairs.from_rows(w.items, [[0, 12]]), IndexError, "`rows`"),
    ("ItemPairs.from_rows", "floats", lambda w: ItemPairs.from_rows(w.items, [[0.0, 1.0]]), TypeError, "`rows`"),
    ("ItemPairs.from_rows", "ragged", lambda w: ItemPairs.from_rows(w.items, [[0], [1, 2]]), ValueError, "`pairs`"),
    ("ItemPairs.from_sequences", "cycles of one item", lambda w: ItemPairs.from_sequences(w.items, Dataset.from_dict({"user_id": [1], "items": [["a"] * 9]})), ValueError, "`sequences`"),
    ("ItemPairs.from_sequences", "unknown items", lambda w: ItemPairs.from_sequences(w.items, Dataset.from_dict({"user_id": [1], "items": [["a", "x"]]})), UnknownItemError, "'x'"),
    ("ItemPairs.from_file", "broken npy", lambda w: ItemPairs.from_file(w.items, w.file("x.npy", b"\x93NUMPY\x01")), CorruptFileError, "x.npy"),
    ("ItemPairs.from_file", "npy of floats", lambda w: ItemPairs.from_file(w.items, w.npy("x.npy", np.ones((2, 2)))), CorruptFileError, "x.npy"),
    ("ItemPairs.from_file", "three columns", lambda w: ItemPairs.from_file(w.items, w.file("x.csv", "a,b,c\nd,e,f\n")), ValueError, "two columns"),
    ("ItemPairs.from_file", "missing ids", lambda w: ItemPairs.from_file(w.items, w.parquet("x.parquet", a=["a", None], b=["b", "c"])), ValueError, "1 missing"),
    ("ItemPairs.from_file", "no JSON", lambda w: ItemPairs.from_file(w.items, w.file("x.jsonl", "{'a': 1}\n")), CorruptFileError, "x.jsonl"),
    ("ItemPairs.from_file", "a broken row", lambda w: ItemPairs.from_file(w.items, w.file("x.csv", "l,r\na,b\nc\n")), MalformedRowsError, "line 3"),

    ("MalformedRows", "NaN", lambda w: MalformedRows(max_rate=NAN), ValueError, "`max_rate`"),
    ("MalformedRows", "a rate above 1", lambda w: MalformedRows(max_rate=1.5), ValueError, "`max_rate`"),
    ("MalformedRows", "text", lambda w: MalformedRows(max_rate="1 %"), ValueError, "`max_rate`"),
    ("MalformedRows", "negative", lambda w: MalformedRows(min_rows=-1), ValueError, "`min_rows`"),
    ("MalformedRows", "none shown", lambda w: MalformedRows(num_shown=0), ValueError, "`num_shown`"),

    ("SyntheticMarket", "too few items", lambda w: SyntheticMarket(num_items=10), ValueError, "`num_items`"),
    ("SyntheticMarket", "text", lambda w: SyntheticMarket(num_items="many"), ValueError, "`num_items`"),
    ("SyntheticMarket", "NaN", lambda w: SyntheticMarket(num_users=NAN), ValueError, "`num_users`"),
    ("SyntheticMarket", "no width", lambda w: SyntheticMarket(embedding_dim=0), ValueError, "`embedding_dim`"),
    ("SyntheticMarket", "zero length", lambda w: SyntheticMarket(min_length=0), ValueError, "`min_length`"),
    ("SyntheticMarket", "negative seed", lambda w: SyntheticMarket(seed=-1), ValueError, "`seed`"),
    ("SyntheticMarket.next_item_probabilities", "unknown items", lambda w: w.market.next_item_probabilities([["x"]]), UnknownItemError, "'x'"),
    ("SyntheticMarket.next_item_probabilities", "zero-length history", lambda w: w.market.next_item_probabilities([["B000001"], []]), InvalidSequencesError, "rows 1"),
    ("SyntheticMarket.best_possible_recall", "k of 0", lambda w: w.market.best_possible_recall([["B000001"]], k=0), ValueError, "`k`"),
    ("SyntheticMarket.best_possible_ndcg", "k too large", lambda w: w.market.best_possible_ndcg([["B000001"]], k=41), ValueError, "`k`"),

    ("adjacent_pairs", "a list", lambda w: adjacent_pairs([[1, 2]]), TypeError, "`sequences`"),
    ("adjacent_pairs", "no column", lambda w: adjacent_pairs(Dataset.from_dict({"x": [1]})), InvalidSequencesError, "items"),
    ("adjacent_pairs", "a missing id", lambda w: adjacent_pairs(Dataset.from_dict({"user_id": [1], "items": [[1, None]]})), InvalidSequencesError, "missing"),
    ("leave_one_out", "all splits", lambda w: leave_one_out(w.splits), TypeError, "`sequences`"),
    ("leave_one_out", "empty", lambda w: leave_one_out(Dataset.from_dict({"user_id": [], "items": []})), InvalidSequencesError, "`sequences`"),
    ("leave_one_out", "all too short", lambda w: leave_one_out(Dataset.from_dict({"user_id": [1], "items": [[1, 2]]})), InvalidSequencesError, "`min_length`"),
    ("leave_one_out", "min_length of 2", lambda w: leave_one_out(w.sequences, min_length=2), ValueError, "`min_length`"),
    ("leave_one_out", "numbers for lists", lambda w: leave_one_out(Dataset.from_dict({"user_id": [1], "items": [1.5]})), InvalidSequencesError, "`items`"),
    ("leave_one_out", "a missing sequence", lambda w: leave_one_out(Dataset.from_dict({"user_id": [1, 2], "items": [[1, 2, 3], None]})), InvalidSequencesError, "rows 1"),

    ("behavior_to_lists", "no column", lambda w: behavior_to_lists({"user_history": ["a"]}), InvalidSequencesError, "'target_item'"),
    ("behavior_to_lists", "numbers", lambda w: behavior_to_lists({"user_history": ["a"], "target_item": [7]}), InvalidSequencesError, "`batch`"),
    ("normalize_text_rows", "a list", lambda w: normalize_text_rows([{"user": "C0"}]), TypeError, "`dataset`"),
    ("normalize_text_rows", "no column", lambda w: normalize_text_rows(Dataset.from_dict({"user": ["C0"]})), CorruptFileError, "`answer`"),
    ("normalize_text_rows", "an empty stream", lambda w: normalize_text_rows(IterableDataset.from_generator(lambda: iter(()))), CorruptFileError, "`user`"),

    ("read_contrastive_archive", "no file", lambda w: read_contrastive_archive(w.path("x.npz")), FileNotFoundError, "`path`"),
    ("read_contrastive_archive", "no archive", lambda w: read_contrastive_archive(w.file("x.npz", "text")), CorruptFileError, "x.npz"),
    ("read_contrastive_archive", "lacks arrays", lambda w: read_contrastive_archive(w.npz("x.npz", embeds=np.ones((2, 2)))), CorruptFileError, "itemEncID"),
    ("read_contrastive_archive", "no dictionary", lambda w: read_contrastive_archive(w.npz("x.npz", itemEncID=np.array(["a"]), pairs=np.array([["a", "b"]]), embeds=np.ones((2, 2)))), CorruptFileError, "`itemEncID`"),
    ("read_contrastive_archive", "a row too large", lambda w: read_contrastive_archive(w.npz("x.npz", itemEncID=np.array({"a": 0, "b": 9}, dtype=object), pairs=np.array([["a", "b"]]), embeds=np.ones((2, 2)))), CorruptFileError, "`itemEncID`"),
    ("read_contrastive_archive", "unknown items", lambda w: read_contrastive_archive(w.npz("x.npz", itemEncID=np.array({"a": 0, "b": 1}, dtype=object), pairs=np.array([["a", "x"]]), embeds=np.ones((2, 2)))), UnknownItemError, "'x'"),
    ("read_contrastive_archive", "a pickle of something else", lambda w: read_contrastive_archive(w.npz("x.npz", itemEncID=np.array(print, dtype=object), pairs=np.array([["a", "x"]]), embeds=np.ones((2, 2)))), CorruptFileError, "pickle"),
    ("read_reconstruction_archive", "truncated", lambda w: read_reconstruction_archive(w.file("x.npz", truncated(w.npz("y.npz", ids=np.arange(2), embeds=np.ones((2, 2))).read_bytes()))), CorruptFileError, "x.npz"),
    ("read_reconstruction_archive", "fewer ids", lambda w: read_reconstruction_archive(w.npz("x.npz", ids=np.arange(1), embeds=np.ones((2, 2)))), InvalidEmbeddingsError, "`ids`"),
    ("read_reconstruction_archive", "vectors of integers", lambda w: read_reconstruction_archive(w.npz("x.npz", ids=np.arange(2), embeds=np.ones((2, 2), dtype=int))), InvalidEmbeddingsError, "`embeds`"),
    ("read_reconstruction_archive", "ids that are floats", lambda w: read_reconstruction_archive(w.npz("x.npz", ids=np.ones(2), embeds=np.ones((2, 2)))), CorruptFileError, "`ids`"),
    ("read_item_embeddings", "no file", lambda w: read_item_embeddings(w.path("x.csv"), w.output("x.arrow")), FileNotFoundError, "x.csv"),
    ("read_item_embeddings", "no files", lambda w: read_item_embeddings([], w.output("x.arrow")), ValueError, "`paths`"),
    ("read_item_embeddings", "another output", lambda w: read_item_embeddings(w.file("x.csv", embeddings_csv(FEATURE)), w.output("x.parquet")), ValueError, "`output`"),
    ("read_item_embeddings", "a broken row", lambda w: read_item_embeddings(w.file("x.csv", embeddings_csv(FEATURE, "?")), w.output("x.arrow")), MalformedRowsError, "line 3"),
    ("read_item_embeddings", "wrong width", lambda w: read_item_embeddings(w.file("x.csv", embeddings_csv(FEATURE, FEATURE[:4] + "PwAA" + "AA==")), w.output("x.arrow")), MalformedRowsError, "line 3"),
    ("read_item_embeddings", "NaN", lambda w: read_item_embeddings(w.file("x.csv", embeddings_csv(FEATURE, "AADAfwAAwH8=")), w.output("x.arrow")), MalformedRowsError, "NaN"),
    ("read_item_embeddings", "no item", lambda w: read_item_embeddings(w.file("x.csv", embeddings_csv()), w.output("x.arrow")), InvalidEmbeddingsError, "x.csv"),
    ("read_item_sids", "no codes", lambda w: read_item_sids(w.file("x.csv", "item_id,title\na,b\n")), CorruptFileError, "SID"),
    ("read_item_sids", "levels from 2 on", lambda w: read_item_sids(w.file("x.csv", "item_id,codebook_lv2\na,0\n")), CorruptFileError, "codebook_lv2"),
    ("read_item_sids", "negative codes", lambda w: read_item_sids(w.file("x.csv", "item_id,codebook_lv1\na,-1\n")), MalformedRowsError, "line 2"),
    ("read_item_sids", "codes that are text", lambda w: read_item_sids(w.file("x.csv", "item_id,SID\na,\"1,x\"\n")), MalformedRowsError, "line 2"),
    ("read_item_sids", "a column twice", lambda w: read_item_sids(w.file("x.csv", "item_id,item_id\na,b\n")), CorruptFileError, "twice"),
    ("read_item_sids", "an open quote", lambda w: read_item_sids(w.file("x.csv", 'item_id,codebook_lv1\n"a,0\nb,1\n')), CorruptFileError, "quote"),
    ("read_origin_behavior", "empty", lambda w: read_origin_behavior(w.file("x.csv"), w.output("x.arrow")), CorruptFileError, "x.csv"),
    ("read_origin_behavior", "no UTF-8", lambda w: read_origin_behavior(w.file("x.csv", BAD_UTF8), w.output("x.arrow")), CorruptFileError, "x.csv"),
    ("read_origin_behavior", "a broken row", lambda w: read_origin_behavior(w.file("x.csv", "user_history,target_item\na;;b,c\n")), MalformedRowsError, "line 2"),
    ("read_origin_behavior", "truncated gzip", lambda w: read_origin_behavior(w.file("x.csv.gz", truncated(gzip.compress(b"user_history,target_item\n" + b"a;b,c\n" * 99)))), CorruptFileError, "x.csv.gz"),
    ("read_sequences", "no file", lambda w: read_sequences(w.path("x.txt")), FileNotFoundError, "x.txt"),
    ("read_sequences", "empty", lambda w: read_sequences(w.file("x.txt")), InvalidSequencesError, "x.txt"),
    ("read_sequences", "zero-length history", lambda w: read_sequences(w.file("x.txt", "1 2 3\n4\n")), InvalidSequencesError, "lines 2"),
    ("read_sequences", "no UTF-8", lambda w: read_sequences(w.file("x.txt", b"1 \xff")), InvalidSequencesError, "UTF-8"),
    ("read_sequences", "a user twice", lambda w: read_sequences(w.file("x.txt", "1 2\n1 3\n")), InvalidSequencesError, "users 1"),
    ("read_sequences", "no JSON", lambda w: read_sequences(w.file("x.jsonl", "{\n")), CorruptFileError, "x.jsonl"),
    ("read_sequences", "JSON that is null", lambda w: read_sequences(w.file("x.jsonl", '\nnull\n{"user_id": 1, "items": [1]}\n')), CorruptFileError, "null"),
    ("read_sequences", "JSON with wrong types", lambda w: read_sequences(w.file("x.jsonl", '{"user_id": 1, "items": [[1]]}\n')), InvalidSequencesError, "`items`"),
    ("read_sequences", "all splits", lambda w: read_sequences(w.saved_splits()), CorruptFileError, "DatasetDict"),
    ("read_sequences", "truncated parquet", lambda w: read_sequences(w.file("x.parquet", b"PAR1")), CorruptFileError, "x.parquet"),
    ("read_sequences", "CSV with a broken row", lambda w: read_sequences(w.file("x.csv", "user_id,items\n1,2 3\n4,5,6,7\n")), CorruptFileError, "x.csv"),
    ("read_text_rows", "no file", lambda w: read_text_rows(w.path("x.csv")), FileNotFoundError, "`path`"),
    ("read_text_rows", "no column", lambda w: read_text_rows(w.file("x.csv", "a,b\n1,2\n")), CorruptFileError, "`user`"),
    ("read_text_rows", "no UTF-8", lambda w: read_text_rows(w.file("x.csv", b"user,answer\n\xff,C0\n")), CorruptFileError, "x.csv"),
    ("read_text_rows", "no JSON", lambda w: read_text_rows(w.file("x.jsonl", '{"user": \n')), CorruptFileError, "x.jsonl"),
    ("read_text_rows", "JSON that is null", lambda w: read_text_rows(w.file("x.jsonl", "null")), CorruptFileError, "null"),
    ("read_text_rows", "a stream of no JSON", lambda w: read_text_rows(w.file("x.jsonl", '{"user": \n'), streaming=True), CorruptFileError, "x.jsonl"),
    ("read_training_sequences", "no file", lambda w: read_training_sequences(w.path("x.csv")), FileNotFoundError, "x.csv"),
    ("read_training_sequences", "a broken row", lambda w: read_training_sequences(w.file("x.csv", "user_history,target_item\n,c\n")), MalformedRowsError, "line 2"),

    ("write_contrastive_archive", "items for pairs", lambda w: write_contrastive_archive(w.items, w.output("x.npz")), TypeError, "`pairs`"),
    ("write_contrastive_archive", "duplicate ids", lambda w: write_contrastive_archive(ItemPairs(ItemEmbeddings(torch.ones(3, 2), ["a", "b", "a"]), [["a", "b"]]), w.output("x.npz")), DuplicateItemError, "`pairs`"),
    ("write_reconstruction_archive", "a tensor", lambda w: write_reconstruction_archive(w.vectors, w.output("x.npz")), TypeError, "`items`"),
    ("write_reconstruction_archive", "another name", lambda w: write_reconstruction_archive(w.items, w.output("x.npy")), ValueError, "`path`"),
    ("write_reconstruction_archive", "a NUL in an id", lambda w: write_reconstruction_archive(ItemEmbeddings(torch.ones(1, 2), ["a\0"]), w.output("x.npz")), ValueError, "`item_ids`"),
    ("write_reconstruction_archive", "mixed ids", lambda w: write_reconstruction_archive(ItemEmbeddings(torch.ones(2, 2), ["a", 1]), w.output("x.npz")), ValueError, "`item_ids`"),
    ("write_item_embeddings", "NaN", lambda w: write_item_embeddings(w.vectors_with(NAN), w.output("x.csv")), InvalidEmbeddingsError, "`items`"),
    ("write_item_embeddings", "a line end in an id", lambda w: write_item_embeddings(ItemEmbeddings(torch.ones(1, 2), ["a\nb"]), w.output("x.csv")), ValueError, "`base62_string`"),
    ("write_item_embeddings", "an id that isn't Unicode", lambda w: write_item_embeddings(ItemEmbeddings(torch.ones(1, 2), ["a\ud800"]), w.output("x.csv")), ValueError, "`base62_string`"),
    ("write_item_embeddings", "an empty id", lambda w: write_item_embeddings(ItemEmbeddings(torch.ones(1, 2), [""]), w.output("x.csv")), ValueError, "`base62_string`"),
    ("write_item_sids", "a list", lambda w: write_item_sids([["a", 0]], w.output("x.csv")), TypeError, "`dataset`"),
    ("write_item_sids", "no codes", lambda w: write_item_sids(Dataset.from_dict({"item_id": ["a"]}), w.output("x.csv")), InvalidCodesError, "codebook_lv1"),
    ("write_item_sids", "a missing id", lambda w: write_item_sids(sids(item_id=[None]), w.output("x.csv")), ValueError, "`base62_string`"),
    ("write_item_sids", "a line end in an id", lambda w: write_item_sids(sids(item_id=["a\r"]), w.output("x.csv")), ValueError, "`base62_string`"),
    ("write_inferred_sids", "no ids", lambda w: write_inferred_sids(Dataset.from_dict({"codebook_lv1": [0]}), w.output("x.csv")), InvalidCodesError, "item_id"),
    ("write_inferred_sids", "an empty id", lambda w: write_inferred_sids(sids(item_id=[""]), w.output("x.csv")), ValueError, "`item_id`"),
    ("write_origin_behavior", "zero-length history", lambda w: write_origin_behavior(behavior(history=[[]]), w.output("x.csv")), InvalidSequencesError, "`dataset`"),
    ("write_origin_behavior", "a missing id", lambda w: write_origin_behavior(behavior(history=[["a", None]]), w.output("x.csv")), InvalidSequencesError, "`dataset`"),
    ("write_origin_behavior", "a ';' in an id", lambda w: write_origin_behavior(behavior(target=["a;b"]), w.output("x.csv")), InvalidSequencesError, "a;b"),
    ("write_origin_behavior", "a line end in an id", lambda w: write_origin_behavior(behavior(target=["a\nb"]), w.output("x.csv")), ValueError, "`user_history`"),
    ("write_origin_behavior", "no column", lambda w: write_origin_behavior(Dataset.from_dict({"history": [["a"]]}), w.output("x.csv")), InvalidSequencesError, "target"),
)
