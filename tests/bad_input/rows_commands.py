# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
# fmt: off
# ruff: noqa: E501
"""forge_hf.hub, the commands and the examples: folders that aren't fit to be shared, and arguments that can't be."""

from forge_hf import push_folder
from forge_hf.errors import CorruptFileError, FingerprintMismatchError, InvalidEmbeddingsError
from forge_hf.hub import (
    FolderFacts,
    add_scores,
    describe_data_files,
    find_files,
    read_folder,
    read_json,
    render_card,
    write_card,
)

from .world import TWO_GIB_HEADER, CommandError, table, truncated, with_entry


ROWS = table(
    # entry point        | bad input             | call                                          | error            | the message names
    ("push_folder", "no folder", lambda w: push_folder(w.path("x"), "me/x"), FileNotFoundError, "`folder`"),
    ("push_folder", "nothing to push", lambda w: push_folder(w.folder, "me/x"), ValueError, "config.json"),
    ("push_folder", "a type of no kind", lambda w: push_folder(w.copy("catalog"), "me/x", repo_type="space"), ValueError, "`repo_type`"),
    ("push_folder", "mismatched fingerprint", lambda w: push_folder(w.copy("retriever", config__json=with_entry(semantic_id_fingerprint="0" * 32)), "me/x"), FingerprintMismatchError, "0" * 32),
    ("push_folder", "no JSON", lambda w: push_folder(w.copy("retriever", config__json="{"), "me/x"), CorruptFileError, "config.json"),
    ("push_folder", "a broken data file", lambda w: push_folder(w.file("data/train.jsonl", "{").parent, "me/x", repo_type="dataset"), ValueError, "train.jsonl"),
    ("push_folder", "a token in the metadata", lambda w: push_folder(w.copy("catalog"), "me/x", card_metadata={"license": "hf_" + "a" * 20}), ValueError, "`metadata`"),
    ("read_folder", "no weights", lambda w: read_folder(w.file("x/config.json", "{\"model_type\": \"qwen2\"}").parent), FileNotFoundError, ".safetensors"),
    ("read_folder", "a pickle", lambda w: read_folder(w.file("x/model.pkl").parent), ValueError, "pickle"),
    ("read_json", "deep JSON", lambda w: read_json(w.file("x.json", "[" * 10**5)), CorruptFileError, "x.json"),
    ("read_json", "no UTF-8", lambda w: read_json(w.file("x.json", b"\xff")), CorruptFileError, "x.json"),
    ("find_files", "no file", lambda w: find_files(w.folder, ["x.json"]), FileNotFoundError, "x.json"),
    ("find_files", "a token with a space", lambda w: find_files("me/x", ["x.json"], token="a b"), ValueError, "`token`"),
    ("render_card", "a repository of no name", lambda w: render_card(FolderFacts("catalog"), "a/b/c"), ValueError, "a/b/c"),
    ("write_card", "no folder", lambda w: write_card(w.path("x"), "me/x"), FileNotFoundError, "`folder`"),
    ("add_scores", "no split", lambda w: add_scores(w.folder, {"values": {}}), ValueError, "`scores`"),
    ("add_scores", "JSON with wrong types", lambda w: add_scores(w.file("run.json", '{"metrics": 5}').parent, {"split": "test"}), CorruptFileError, "run.json"),
    ("describe_data_files", "a broken row", lambda w: describe_data_files(w.file("x.csv", "a,b\n1,2\n3\n").parent, ["x.csv"]), ValueError, "x.csv"),
    ("describe_data_files", "truncated parquet", lambda w: describe_data_files(w.file("x.parquet", b"PAR1").parent, ["x.parquet"]), ValueError, "x.parquet"),

    ("forge-hf demo", "a negative seed", lambda w: w.command("demo", "--seed", -1, "--output-dir", w.path("x")), CommandError, "--seed"),
    ("forge-hf push", "no folder", lambda w: w.command("push", w.path("x"), "me/x"), CommandError, "`folder`"),
    ("forge-hf recommend", "no folder", lambda w: w.command("recommend", w.path("x/y/z"), "a"), CommandError, "x/y/z"),
    ("forge-hf recommend", "no history", lambda w: w.command("recommend", w.copy("retriever")), CommandError, "history"),
    ("forge-hf recommend", "unknown items", lambda w: w.command("recommend", w.copy("retriever"), "x"), CommandError, "'x'"),
    ("forge-hf recommend", "top_k of 0", lambda w: w.command("recommend", w.copy("retriever"), "a", "--top-k", 0), CommandError, "`top_k`"),
    ("forge-hf recommend", "top_k that is text", lambda w: w.command("recommend", w.copy("retriever"), "a", "--top-k", "x"), CommandError, "--top-k"),
    ("forge-hf recommend", "truncated safetensors", lambda w: w.command("recommend", w.copy("retriever", model__safetensors=truncated), "a"), CommandError, "retriever"),
    ("forge-hf recommend", "a 2 GiB header", lambda w: w.command("recommend", w.copy("retriever", semantic_ids__safetensors=TWO_GIB_HEADER), "a"), CommandError, "2,147,483,648 bytes"),
    ("forge-hf recommend", "JSON with wrong types", lambda w: w.command("recommend", w.copy("retriever", config__json=with_entry(num_hidden_layers="x")), "a"), CommandError, "num_hidden_layers"),
    ("forge-hf report", "no catalog", lambda w: w.command("report", w.path("x/y/z"), "--output-dir", w.path("out")), CommandError, "x/y/z"),
    ("forge-hf report", "broken embeddings", lambda w: w.command("report", w.copy("catalog"), "--embeddings", w.file("x.npy"), "--output-dir", w.path("out")), CommandError, "x.npy"),
    ("forge-hf report", "fewer embeddings", lambda w: w.command("report", w.copy("catalog"), "--embeddings", w.safetensors("x.safetensors", embeddings=w.vectors[:3]), "--output-dir", w.path("out")), CommandError, "`item_ids`"),
    ("forge-hf report", "unknown pairs", lambda w: w.command("report", w.copy("catalog"), "--pairs", w.file("x.csv", "l,r\nx,y\n"), "--output-dir", w.path("out")), CommandError, "1 pairs"),
    ("forge-hf report", "pairs and sequences", lambda w: w.command("report", w.copy("catalog"), "--pairs", w.file("x.csv"), "--sequences", w.file("y.txt"), "--output-dir", w.path("out")), CommandError, "`pairs`"),
    ("forge-hf report", "a broken sequence", lambda w: w.command("report", w.copy("catalog"), "--sequences", w.file("x.txt", "1\n"), "--output-dir", w.path("out")), CommandError, "lines 1"),
    ("forge-hf report", "categories that are no JSON", lambda w: w.command("report", w.copy("catalog"), "--categories", w.file("x.json", "{"), "--output-dir", w.path("out")), CommandError, "x.json"),
    ("forge-hf report", "no category", lambda w: w.command("report", w.copy("catalog"), "--categories", w.file("x.json", "{}"), "--output-dir", w.path("out")), CommandError, "`categories`"),
    ("forge-hf report", "an item twice", lambda w: w.command("report", w.copy("catalog"), "--categories", w.file("x.csv", "item_id,category\na,x\na,y\n"), "--output-dir", w.path("out")), CommandError, "`categories`"),
    ("forge-hf report", "no queries", lambda w: w.command("report", w.copy("catalog"), "--num-queries", 0, "--output-dir", w.path("out")), CommandError, "`num_queries`"),

    ("examples/build_catalog.py", "neither codes nor a model", lambda w: w.example("build_catalog.py", "--output_dir", w.path("x")), SystemExit, ""),
    ("examples/build_catalog.py", "no file of codes", lambda w: w.example("build_catalog.py", "--codes", w.path("x.csv"), "--codebook_sizes", 4, "--output_dir", w.path("x")), FileNotFoundError, "x.csv"),
    ("examples/build_catalog.py", "an item twice", lambda w: w.example("build_catalog.py", "--codes", w.file("x.json", '{"a": [0], "a": [1]}'), "--codebook_sizes", 4, "--output_dir", w.path("x")), ValueError, "'a'"),
    ("examples/build_catalog.py", "codes that are a list", lambda w: w.example("build_catalog.py", "--codes", w.file("x.json", "[[0]]"), "--codebook_sizes", 4, "--output_dir", w.path("x")), SystemExit, ""),
    ("examples/build_catalog.py", "truncated JSON", lambda w: w.example("build_catalog.py", "--codes", w.file("x.json", '{"a": [0'), "--codebook_sizes", 4, "--output_dir", w.path("x")), SystemExit, ""),
    ("examples/build_catalog.py", "too large codes", lambda w: w.example("build_catalog.py", "--codes", w.file("x.json", '{"a": [9]}'), "--codebook_sizes", 4, "--output_dir", w.path("x")), ValueError, "`codes`"),
    ("examples/push_to_hub.py", "no folder", lambda w: w.example("push_to_hub.py", w.path("x"), "me/x"), FileNotFoundError, "`folder`"),
    ("examples/train_rqvae.py", "broken embeddings", lambda w: w.example("train_rqvae.py", "--embeddings", w.file("x.npy"), "--output_dir", w.path("run")), InvalidEmbeddingsError, "x.npy"),
)
