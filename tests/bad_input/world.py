# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What the tables of bad inputs are written with: rows, small parts that are whole, and files that may be damaged."""

import json
import os
import runpy
import shutil
import struct
import sys
import traceback
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from transformers import pipeline
from typer.testing import CliRunner

import forge_hf
from forge_hf import (
    ItemEmbeddings,
    ItemPairs,
    PrefixTable,
    ResidualKMeansConfig,
    ResidualKMeansModel,
    RQVAEConfig,
    RQVAEModel,
    SemanticIdCatalog,
    SyntheticMarket,
    create_retriever,
    leave_one_out,
)
from forge_hf.cli import app


NAN, INF = float("nan"), float("inf")
TWO_GIB_HEADER = struct.pack("<Q", 2**31) + b'{"codes": '
PACKAGE = str(Path(forge_hf.__file__).parent)
EXAMPLES = Path(__file__).parents[2] / "examples"


class Row(NamedTuple):
    """A line of a table."""

    entry: str  # a public name, and what of it is called
    bad: str  # what is wrong with the input
    call: Callable[["World"], Any]
    error: type[BaseException]
    names: str  # what the message must have in it


class CommandError(Exception):
    """What a command printed when it refused."""


class Parts:
    """Whole and small, made when first used; nothing of them is changed by a call that is refused."""

    ids = list("abcdefghijkl")

    @cached_property
    def vectors(self) -> torch.Tensor:
        return torch.randn(12, 4, generator=torch.Generator().manual_seed(0))

    @cached_property
    def items(self) -> ItemEmbeddings:
        return ItemEmbeddings(self.vectors, self.ids)

    @cached_property
    def pairs(self) -> ItemPairs:
        return ItemPairs(self.items, [["a", "b"], ["c", "d"]])

    @cached_property
    def codes(self) -> torch.Tensor:
        return torch.stack([torch.arange(12) // 4, torch.arange(12) % 4], dim=1)

    @cached_property
    def catalog(self) -> SemanticIdCatalog:
        return SemanticIdCatalog.from_codes(self.ids, self.codes, codebook_sizes=[4, 4], on_collision="keep")

    @cached_property
    def other_catalog(self) -> SemanticIdCatalog:
        return SemanticIdCatalog.from_codes(self.ids, self.codes.flip(0), codebook_sizes=[4, 4], on_collision="keep")

    @cached_property
    def market(self) -> SyntheticMarket:
        return SyntheticMarket(num_items=40, num_users=2)

    @cached_property
    def sequences(self) -> Dataset:
        return Dataset.from_dict({"user_id": [1, 2, 3], "items": [list("abcd"), list("efgh"), list("ijkl")]})

    @cached_property
    def splits(self):
        return leave_one_out(self.sequences)

    @cached_property
    def rows(self) -> Dataset:
        return Dataset.from_dict({"user": ["clicks: C0C4C1C5"] * 4, "answer": ["C2C6"] * 4})

    @cached_property
    def _qwen2(self):
        return create_retriever(
            "qwen2-small", self.catalog, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2,
        )  # fmt: skip

    @property
    def model(self):
        return self._qwen2[0].eval()

    @property
    def tokenizer(self):
        return self._qwen2[1]

    @cached_property
    def t5(self):
        return create_retriever(
            "t5-tiger", self.catalog, d_model=16, d_ff=16, d_kv=8, num_heads=2, num_layers=1, num_decoder_layers=1
        )[0].eval()

    @cached_property
    def table(self) -> PrefixTable:
        return PrefixTable.from_catalog(self.catalog, self.tokenizer)

    @cached_property
    def recommend(self):
        return pipeline(
            "generative-retrieval", model=self.model, tokenizer=self.tokenizer, catalog=self.catalog, device="cpu"
        )

    @cached_property
    def rqvae(self) -> RQVAEModel:
        return RQVAEModel(RQVAEConfig(input_dim=4, hidden_sizes=[4], codebook_dim=4, codebook_sizes=[4, 4])).eval()

    @cached_property
    def kmeans(self) -> ResidualKMeansModel:
        return ResidualKMeansModel(ResidualKMeansConfig(input_dim=4, codebook_sizes=[4, 4])).fit(self.items)

    @cached_property
    def input_ids(self) -> torch.Tensor:
        return torch.tensor([[3, 4, 8]])

    def vectors_with(self, value: float) -> ItemEmbeddings:
        """The items, with one number that is none."""
        vectors = self.vectors.clone()
        vectors[3, 1] = value
        return ItemEmbeddings(vectors, self.ids)


class World:
    """
    The parts, and the folder of one test.

    A file that a row makes by `file`, `output` or `copy` is expected to be the same after the call, and no other to
    have come.
    """

    def __init__(self, parts: Parts, folder: Path, saved: dict[str, Path]):
        self.parts, self.folder, self.saved = parts, folder, saved
        self.expected: dict[str, bytes] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.parts, name)

    def path(self, name: str) -> Path:
        """Where nothing is, and nothing is to be."""
        return self.folder / name

    def file(self, name: str, content: str | bytes = "") -> Path:
        """A file with some content."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        path.write_bytes(content)
        self.expected[path.relative_to(self.folder).as_posix()] = content
        return path

    def output(self, name: str) -> Path:
        """A file that is there already, and would be replaced."""
        return self.file(name, b"before")

    def copy(self, kind: str, **damaged: str | bytes | Callable[[bytes], bytes]) -> Path:
        """A saved `"catalog"`, `"retriever"` or `"rqvae"`, some files of which (with __ for the dot) are damaged."""
        folder = self.folder / kind
        shutil.copytree(self.saved[kind], folder)
        for name, content in damaged.items():
            path = folder / name.replace("__", ".")
            if callable(content):
                content = content(path.read_bytes())
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        for path in folder.rglob("*"):
            if path.is_file():
                self.expected[path.relative_to(self.folder).as_posix()] = path.read_bytes()
        return folder

    def safetensors(self, name: str, **tensors: torch.Tensor) -> Path:
        from safetensors.torch import save

        return self.file(name, save(tensors))

    def npy(self, name: str, array: np.ndarray) -> Path:
        np.save(self.folder / name, array, allow_pickle=True)
        return self.file(name, (self.folder / name).read_bytes())

    def npz(self, name: str, **arrays: np.ndarray) -> Path:
        np.savez(self.folder / name, **arrays)
        return self.file(name, (self.folder / name).read_bytes())

    def parquet(self, name: str, **columns: list) -> Path:
        Dataset.from_dict(columns).to_parquet(self.folder / name)
        return self.file(name, (self.folder / name).read_bytes())

    def saved_splits(self) -> Path:
        """A saved `DatasetDict`."""
        self.splits.save_to_disk(self.folder / "splits")
        self.expected |= self.files()
        return self.folder / "splits"

    def command(self, *args: Any) -> None:
        """Runs `forge-hf`, whose refusal is one line on stderr and exit code 2."""
        done = CliRunner().invoke(app, [str(arg) for arg in args])
        if done.exit_code == 2 and isinstance(done.exception, SystemExit) and "Traceback" not in done.stderr:
            raise CommandError(done.stderr)
        if done.exception is not None:
            raise done.exception

    def example(self, script: str, *args: Any) -> None:
        """Runs an example in this process."""
        before = sys.argv
        sys.argv = [script, *map(str, args)]
        try:
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        finally:
            sys.argv = before

    def files(self) -> dict[str, bytes]:
        """Every file of the folder and its bytes; locks, which hold nothing, don't count."""
        paths = (Path(root, name) for root, _, names in os.walk(self.folder) for name in names)
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths if path.suffix != ".lock"
        }


def raised_by_this_package(error: BaseException) -> bool:
    """Whether a `raise` of this package's own is where the error comes from: not a library, nor the interpreter."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename.startswith(PACKAGE) and (last.line or "").startswith("raise")


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_entry(**entries: Any) -> Callable[[bytes], bytes]:
    """JSON with other values."""
    return lambda content: json.dumps(json.loads(content) | entries).encode()


def table(*rows: tuple) -> list[Row]:
    return [Row(*row) for row in rows]
