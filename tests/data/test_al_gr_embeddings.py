# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.

import base64
import gzip
import struct

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge_hf.data import ItemEmbeddings, MalformedRows, exact_csv, read_item_embeddings, write_item_embeddings
from forge_hf.errors import CorruptFileError, InvalidEmbeddingsError, MalformedRowsError


ids = st.one_of(
    st.sampled_from(["007", "NA", "1e5"]), st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1)
)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(data=st.data(), item_ids=st.lists(ids, min_size=1, max_size=8, unique=True), dim=st.integers(1, 5))
def test_round_trip(tmp_path, data, item_ids, dim):
    vector = st.lists(floats, min_size=dim, max_size=dim)
    rows = data.draw(st.lists(vector, min_size=len(item_ids), max_size=len(item_ids)))
    vectors = torch.tensor(rows)
    write_item_embeddings(ItemEmbeddings(vectors, item_ids), tmp_path / "e.csv")
    # As infer_SID.py decodes it.
    frame = pd.read_csv(tmp_path / "e.csv", dtype=str, keep_default_na=False, na_values=[])
    for row, feature in zip(rows, frame["feature"], strict=True):
        assert list(struct.unpack(f"<{dim}f", base64.b64decode(feature))) == row
    items = read_item_embeddings(tmp_path / "e.csv", tmp_path / "e.arrow")
    again = ItemEmbeddings.from_file(tmp_path / "e.arrow")
    for read in (items, again):
        assert read.item_ids == item_ids and torch.equal(read.to_tensor(), vectors)


def feature(*numbers):
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


@pytest.mark.parametrize("block_size", [256, 1 << 20])
def test_several_files_and_malformed_rows(tmp_path, monkeypatch, block_size):
    monkeypatch.setattr(exact_csv, "BLOCK_SIZE", block_size)
    good = [f"i{row},{feature(row, row + 0.5)}" for row in range(40)]
    bad = ["a,", ",AAAAAAAAAAA=", "b,AAAA", f"c,{feature(1)}", f"d,{feature(1, np.nan)}", f"e,{feature(np.inf, 0)}"]
    bad += ["f,ääää", f"g,{feature(1, 2)[:-2]}", "h", f"i,{feature(1, 2)},1", "j,!!!!AAAAAAAAAAA="]
    lines = ["base62_string,feature", *good[:20], *bad, "base62_string,feature", *good[20:30]]
    (tmp_path / "1.csv").write_text("\n".join(lines))
    others = [line.split(",") for line in good[30:]]
    with gzip.open(tmp_path / "2.csv.gz", "wt") as file:
        file.write("\n".join(["feature,other,item_id", *(f"{vector},x,{item}" for item, vector in others)]))
    malformed = MalformedRows(max_rate=0.5, num_shown=100)
    with pytest.warns(UserWarning, match="11 of 51 rows"):
        items = read_item_embeddings([tmp_path / "1.csv", tmp_path / "2.csv.gz"], tmp_path / "e.arrow", malformed)
    assert items.item_ids == [f"i{row}" for row in range(40)]
    assert items.to_tensor().tolist() == [[row, row + 0.5] for row in range(40)]
    assert sorted(line for line, _ in malformed.first) == list(range(22, 33))
    batch = items.__getitems__([39, 0, 7, 7])["embeddings"]
    assert batch[:, 0].tolist() == [39, 0, 7, 7]
    assert Dataset.from_file(str(tmp_path / "e.arrow"))[3] == {"item_id": "i3", "embedding": [3, 3.5]}
    with pytest.raises(MalformedRowsError):
        read_item_embeddings(tmp_path / "1.csv", tmp_path / "f.arrow")
    assert not (tmp_path / "f.arrow").exists() and not list(tmp_path.glob(".*"))


def test_wrong_arguments(tmp_path):
    (tmp_path / "e.csv").write_text("base62_string,feature\n")
    with pytest.raises(InvalidEmbeddingsError, match="no embedding"):
        read_item_embeddings(tmp_path / "e.csv", tmp_path / "e.arrow")
    (tmp_path / "other.csv").write_text("base62_string,vector\n")
    with pytest.raises(CorruptFileError, match="feature"):
        read_item_embeddings(tmp_path / "other.csv", tmp_path / "e.arrow")
    with pytest.raises(FileNotFoundError):
        read_item_embeddings([tmp_path / "e.csv", tmp_path / "none.csv"], tmp_path / "e.arrow")
    (tmp_path / "e.csv.gz").write_bytes(b"base62_string,feature\n")
    with pytest.raises(CorruptFileError):
        read_item_embeddings(tmp_path / "e.csv.gz", tmp_path / "e.arrow")
    for paths, output in ((tmp_path / "e.csv", "e.npy"), ([], "e.arrow")):
        with pytest.raises(ValueError):
            read_item_embeddings(paths, tmp_path / output)
