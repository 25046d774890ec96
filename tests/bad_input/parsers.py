# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
# ruff: noqa: E501
"""Every reader of what somebody else may have written, each with files that it reads."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from hypothesis import strategies as st
from safetensors.torch import save

from forge_hf import ItemEmbeddings, ItemPairs, PrefixTable, PromptEncoder, SemanticIdCatalog, SemanticIdLayout
from forge_hf.data import (
    MalformedRows,
    read_contrastive_archive,
    read_item_embeddings,
    read_item_sids,
    read_origin_behavior,
    read_reconstruction_archive,
    read_sequences,
    read_text_rows,
    write_contrastive_archive,
    write_inferred_sids,
    write_item_embeddings,
    write_item_sids,
    write_reconstruction_archive,
)
from forge_hf.data.object_array import read_object_array
from forge_hf.evaluation import hit_rate_of_predictions
from forge_hf.hub import add_scores, describe_data_files, is_generated, read_folder, render_card
from forge_hf.report import read_categories

from .mutations import mutated_bytes, mutated_json
from .world import Parts


LAYOUT = SemanticIdLayout([4, 4])


class Parser(NamedTuple):
    name: str
    inputs: st.SearchStrategy  # of bytes, or of text
    read: Callable[[Any], Any]
    cost: int = 1  # an example takes so many times longer than others


def make_parsers(parts: Parts, saved: dict[str, Path], folder: Path) -> list[Parser]:
    """
    Args:
        parts ([`Parts`]): Whole parts.
        saved (`dict[str, Path]`): Folders that they were saved to.
        folder (`Path`): Where files are written.
    """

    def write(name: str, content: bytes) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    def written(name: str, writer: Callable[[Path], Any]) -> bytes:
        writer(folder / name)
        return (folder / name).read_bytes()

    def lenient() -> MalformedRows:
        return MalformedRows(max_rate=1)

    def saved_copy(kind: str, name: str | None = None) -> Path:
        copy = folder / f"{kind}_{name}"
        if not copy.exists():
            shutil.copytree(saved[kind], copy)
        return copy

    def read_catalog(name: str) -> Callable[[bytes], None]:
        copy = saved_copy("catalog", name)

        def read(content: bytes) -> None:
            (copy / name).write_bytes(content)
            catalog = SemanticIdCatalog.from_pretrained(copy)
            assert catalog.items_for(catalog.codes_for(catalog.item_ids[:2]))
            read_folder(copy)
            render_card(read_folder(copy), "me/catalog")

        return read

    def read_retriever(kind: str, name: str) -> Callable[[bytes], None]:
        copy = saved_copy(kind, name)

        def read(content: bytes) -> None:
            (copy / name).write_bytes(content)
            render_card(read_folder(copy), "me/retriever")
            add_scores(copy, {"split": "test", "values": {}})

        return read

    def read_table(content: bytes) -> None:
        copy = saved_copy("retriever", "table")
        (copy / "prefix_table.safetensors").write_bytes(content)
        table = PrefixTable.from_pretrained(copy)
        assert table.num_items == 12 and table.num_levels == 2

    def read_sids(content: bytes) -> None:
        dataset = read_item_sids(write("sids.csv", content), lenient())
        if len(dataset) and len(dataset.column_names) == 3:
            SemanticIdCatalog.from_dataset(dataset, codebook_sizes=[4, 4])

    def read_embeddings(name: str) -> Callable[[bytes], None]:
        return lambda content: ItemEmbeddings.from_file(write(name, content)).validate()

    encoder = PromptEncoder(parts.tokenizer, LAYOUT, is_encoder_decoder=False)

    def encode_rows(rows: list[tuple]) -> None:
        columns = {"user": [user for user, _ in rows], "answer": [answer for _, answer in rows]}
        examples = encoder.encode_examples(columns, lenient())
        assert len(examples) == len(rows)

    def read_table_of_text(content: bytes) -> None:
        encode_rows(
            [(row["user"], row["answer"]) for row in read_text_rows(write("rows.csv", content), streaming=True)]
        )

    items, pairs = parts.items, parts.pairs
    catalog = parts.catalog.to_dataset()
    config = json.loads((saved["catalog"] / "semantic_ids.json").read_text())
    table = (saved["retriever"] / "prefix_table.safetensors").read_bytes()
    header_size = int.from_bytes(table[:8], "little")
    header = json.loads(table[8 : 8 + header_size])
    facts = json.loads(header["__metadata__"]["forge_hf"])

    def with_facts(document: bytes) -> bytes:
        new = header | {"__metadata__": {"forge_hf": document.decode()}}
        return with_header(json.dumps(new).encode())

    def with_header(document: bytes) -> bytes:
        return len(document).to_bytes(8, "little") + document + table[8 + header_size :]

    def catalog_with_header(document: bytes) -> bytes:
        return len(document).to_bytes(8, "little") + document + codes[8 + codes_size :]

    codes = (saved["catalog"] / "semantic_ids.safetensors").read_bytes()
    codes_size = int.from_bytes(codes[:8], "little")
    codes_header = json.loads(codes[8 : 8 + codes_size])
    npy, npy_of_ids, objects = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(npy_of_ids, np.array([["a", "b"], ["c", "d"]]))
    np.save(npy, parts.vectors.numpy())
    np.save(objects, np.array({"a": 0, "b": 1, "é": 2}, dtype=object), allow_pickle=True)
    pickled = objects.getvalue()[10 + int.from_bytes(objects.getvalue()[8:10], "little") :]
    parquet, stream = io.BytesIO(), io.BytesIO()
    arrow = pa.table({"item_id": parts.ids, "embedding": parts.vectors.tolist()})
    pa.parquet.write_table(arrow, parquet)
    with pa.ipc.new_stream(stream, arrow.schema) as writer:
        writer.write_table(arrow)
    sids = [
        written("whole.csv", lambda path: write_item_sids(catalog, path)),
        written("whole.csv", lambda path: write_inferred_sids(catalog, path)),
    ]
    behavior = b'user_history,target_item\n3c;2b;007,NA;x\n"a,b",c\n'
    rows = b'system,user,answer\nPredict.,"clicks: C0C4,C1C5",C2C6\n,C3C7,C0C4\n'
    prediction = {"answer": "a;b", "_generated_new_text_": ["C0C4", "C1C5", "x"]}
    run = {
        "data": {"name": "beauty", "num_items": 12, "num_users": 3, "embedding_dim": 4},
        "training": {"num_parameters": 9, "num_trainable_parameters": 5, "global_step": 3, "best_step": 2, "seconds": 61.5,
                     "hardware": "a machine", "seed": [0, 1], "learning_rate": 0.1},
        "metrics": [{"split": "test", "protocol": "full ranking", "num_examples": 3, "num_seeds": 2,
                     "values": {"recall@5": 0.5, "unmasked_recall@5": 0.4, "x": 1}, "std": {"recall@5": 0.1},
                     "baselines": {"random": {"recall@5": 0.1}}}],
        "versions": {"torch": "2.13"}, "notes": ["one"], "base_model": "Qwen/Qwen2.5-0.5B",
        "semantic_ids": {"codebook_sizes": [4, 4], "collision_rate": 0.5, "utilization": [1.0, 0.5]},
    }  # fmt: skip
    quality = config["quality"] | {
        "embedding_hit_rate": {"20": 0.5}, "prefix_purity": [0.5, 0.9], "prefix_purity_by_chance": [0.1, 0.2],
        "neighbors_sharing_prefix": [0.5, 0.1], "pairs_sharing_prefix": [0.5, 0.1], "num_neighbors": 10,
    }  # fmt: skip
    configs = {name: json.loads((saved[name] / "config.json").read_text()) for name in ("rqvae", "retriever")}
    adapter = json.loads((saved["adapter"] / "adapter_config.json").read_text()) | {"r": 8, "task_type": "CAUSAL_LM"}
    card = render_card(read_folder(saved["catalog"]), "me/catalog").encode()
    texts = st.one_of(st.text(max_size=30), st.text("C0123456789 ;,٣", max_size=30), st.none(), st.integers())
    return [
        Parser(
            "layout text",
            st.one_of(st.text("C0123456789٣ ", max_size=14), st.text(), st.lists(texts)),
            LAYOUT.from_text,
        ),
        Parser("rows of text", st.lists(st.tuples(texts, texts), max_size=4), encode_rows),
        Parser("AL-GR text rows", mutated_bytes([rows, rows.replace(b",", b"\t")]), read_table_of_text, 4),
        Parser(
            "AL-GR origin_behavior",
            mutated_bytes([behavior]),
            lambda b: read_origin_behavior(write("b.csv", b), None, lenient()),
        ),
        Parser("AL-GR Item-SID", mutated_bytes(sids), read_sids),
        Parser(
            "AL-GR Item-EMB",
            mutated_bytes([written("whole.csv", lambda path: write_item_embeddings(items, path))]),
            lambda b: read_item_embeddings(write("e.csv", b), folder / "e.arrow", lenient()),
        ),
        Parser(
            "reconstruction archive",
            mutated_bytes([written("w.npz", lambda path: write_reconstruction_archive(items, path))]),
            lambda b: read_reconstruction_archive(write("r.npz", b)).to_tensor(),
        ),
        Parser(
            "contrastive archive",
            mutated_bytes([written("w.npz", lambda path: write_contrastive_archive(pairs, path))]),
            lambda b: read_contrastive_archive(write("c.npz", b)).__getitems__([0]),
        ),
        Parser("pickled dictionary", mutated_bytes([pickled]), read_object_array),
        Parser("catalog: safetensors", mutated_bytes([codes]), read_catalog("semantic_ids.safetensors")),
        Parser(
            "catalog: header",
            mutated_json([codes_header]).map(catalog_with_header),
            read_catalog("semantic_ids.safetensors"),
        ),
        Parser(
            "catalog: JSON", mutated_json([config, config | {"quality": quality}]), read_catalog("semantic_ids.json")
        ),
        Parser(
            "catalog: bytes of JSON", mutated_bytes([json.dumps(config).encode()]), read_catalog("semantic_ids.json")
        ),
        Parser("prefix table: safetensors", mutated_bytes([table]), read_table),
        Parser("prefix table: header", mutated_json([header]).map(with_header), read_table),
        Parser("prefix table: metadata", mutated_json([facts]).map(with_facts), read_table),
        Parser(
            "predictions: bytes",
            mutated_bytes([json.dumps(prediction).encode() + b"\n"] * 2),
            lambda b: hit_rate_of_predictions(write("p.jsonl", b), parts.catalog, show_progress=False),
        ),
        Parser(
            "predictions: JSON",
            mutated_json([prediction]),
            lambda b: hit_rate_of_predictions(write("p.jsonl", b), parts.catalog, show_progress=False),
        ),
        Parser(
            "sequences: text",
            mutated_bytes([b"1 10 11 12\n2 11 13\n", "u é 日本\n".encode()]),
            lambda b: read_sequences(write("s.txt", b)),
        ),
        Parser(
            "sequences: JSON lines",
            mutated_json([{"user_id": 1, "items": [1, 2, 3]}, {"user_id": "u", "items": "a b"}]),
            lambda b: read_sequences(write("s.jsonl", b)),
            20,
        ),
        Parser("embeddings: npy", mutated_bytes([npy.getvalue()]), read_embeddings("x.npy")),
        Parser(
            "pairs: npy",
            mutated_bytes([npy_of_ids.getvalue()]),
            lambda b: ItemPairs.from_file(items, write("p.npy", b)),
        ),
        Parser(
            "embeddings: safetensors",
            mutated_bytes([save({"embeddings": parts.vectors})]),
            read_embeddings("x.safetensors"),
        ),
        Parser("embeddings: arrow", mutated_bytes([stream.getvalue()]), read_embeddings("x.arrow")),
        Parser("embeddings: parquet", mutated_bytes([parquet.getvalue()]), read_embeddings("x.parquet"), 20),
        Parser("run.json", mutated_json([run]), read_retriever("retriever", "run.json"), 2),
        Parser(
            "run.json: bytes", mutated_bytes([json.dumps(run).encode()]), read_retriever("retriever", "run.json"), 2
        ),
        Parser(
            "config.json of a retriever",
            mutated_json([configs["retriever"]]),
            read_retriever("retriever", "config.json"),
            2,
        ),
        Parser(
            "config.json of an item tokenizer",
            mutated_json([configs["rqvae"]]),
            read_retriever("rqvae", "config.json"),
            2,
        ),
        Parser("adapter_config.json", mutated_json([adapter]), read_retriever("adapter", "adapter_config.json"), 2),
        Parser("cards", mutated_bytes([card]), lambda b: is_generated(b.decode("utf-8", "surrogateescape"))),
        Parser(
            "data files: CSV",
            mutated_bytes([rows, behavior]),
            lambda b: describe_data_files(write("d.csv", b).parent, ["d.csv"]),
        ),
        Parser(
            "data files: Parquet",
            mutated_bytes([parquet.getvalue()]),
            lambda b: describe_data_files(write("d.parquet", b).parent, ["d.parquet"]),
        ),
        Parser(
            "data files: JSON lines",
            mutated_json([prediction]),
            lambda b: describe_data_files(write("d.jsonl", b).parent, ["d.jsonl"]),
        ),
        Parser(
            "categories",
            mutated_json([dict.fromkeys(parts.ids, "x")]),
            lambda b: read_categories(write("k.json", b), "category", parts.catalog),
        ),
    ]
