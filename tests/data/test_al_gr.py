# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""AL-GR's files: what is written is read again, exactly, and as other readers see it."""

import csv
import gzip
import json
import math
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset, IterableDataset, load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge_hf import SemanticIdCatalog
from forge_hf.data import (
    MalformedRows,
    behavior_to_lists,
    exact_csv,
    normalize_text_rows,
    read_item_sids,
    read_origin_behavior,
    read_text_rows,
    write_inferred_sids,
    write_item_sids,
    write_origin_behavior,
)
from forge_hf.errors import CorruptFileError, InvalidSequencesError, MalformedRowsError


SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "al_gr_sample"
# Base-62 ids that readers which guess types take for numbers, truth values or nothing.
TRAPS = ["007", "123", "1e5", "NA", "null", "True", "nan", "NULL", "None", "inf", "0x1", "00", "1E400", "false", "1_0"]
ids = st.one_of(st.sampled_from(TRAPS), st.text(st.characters(codec="utf-8", exclude_characters=";\r\n"), min_size=1))
folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


def write(path, text):
    path.write_bytes(text.encode())
    return path


@folder
@given(rows=st.lists(st.tuples(st.lists(ids, min_size=1, max_size=4), st.lists(ids, min_size=1, max_size=2))))
def test_origin_behavior_round_trip(tmp_path, rows):
    columns = {"history": [history for history, _ in rows], "target": [target for _, target in rows]}
    write_origin_behavior(Dataset.from_dict(columns), tmp_path / "b.csv")
    with open(tmp_path / "b.csv", encoding="utf-8", newline="") as file:
        texts = list(csv.DictReader(file))
    assert [row["user_history"].split(";")[::-1] for row in texts] == columns["history"]  # newest first in the file
    assert [row["target_item"].split(";") for row in texts] == columns["target"]
    assert read_origin_behavior(tmp_path / "b.csv").to_dict() == columns
    mapped = read_origin_behavior(tmp_path / "b.csv", cache_file=tmp_path / "b.arrow")
    assert mapped.to_dict() == columns and (mapped.cache_files or not rows)
    batch = {name: [row[name] for row in texts] for name in ("user_history", "target_item")}
    assert behavior_to_lists(batch) == columns


@pytest.mark.parametrize("block_size", [64, 1 << 20])
def test_malformed_rows_are_named_by_line(tmp_path, monkeypatch, block_size):
    monkeypatch.setattr(exact_csv, "BLOCK_SIZE", block_size)
    lines = ["user_history,target_item"]
    expected, wrong = [], []
    for row in range(200):
        kind = row % 17
        if kind == 3:
            wrong.append(len(lines) + 1)
            lines.append("one value only")
        elif kind == 7:
            wrong.append(len(lines) + 1)
            lines.append(f"a;;b,t{row}")
        elif kind == 11:
            wrong.append(len(lines) + 1)
            lines.append(f"a{row},")
        elif kind == 13:
            lines.append("")  # passed over
        elif kind == 14:
            lines.append("user_history,target_item")  # passed over: two files put together
        else:
            lines.append(f"b{row};a{row},t{row};NA")
            expected.append({"history": [f"a{row}", f"b{row}"], "target": [f"t{row}", "NA"]})
    path = write(tmp_path / "b.csv", "\n".join(lines) + "\n")
    malformed = MalformedRows(max_rate=0.5, num_shown=1000)
    with pytest.warns(UserWarning, match=f"{len(wrong)} of {len(wrong) + len(expected)} rows"):
        assert read_origin_behavior(path, malformed=malformed).to_list() == expected
    assert sorted(line for line, _ in malformed.first) == wrong
    with pytest.raises(MalformedRowsError, match="line 5: not 2 values"):
        read_origin_behavior(path)


@pytest.mark.parametrize("block_size", [256, 1 << 20])
@pytest.mark.parametrize("stray", ['a;b,"c', '"a;b,c', 'a,"b\r', '"a;b,c,d'])
@pytest.mark.parametrize("other", [None, 'a,"b', '"x,b'])
def test_a_stray_quote_is_refused_instead_of_swallowing_rows(tmp_path, monkeypatch, block_size, stray, other):
    monkeypatch.setattr(exact_csv, "BLOCK_SIZE", block_size)
    lines = ["user_history,target_item,more", *(f"a{row},b," for row in range(300))]
    lines[40], lines[10] = f"{stray},", "too few"
    if other:
        lines[45] = f"{other},"
    malformed = MalformedRows(max_rate=0.5)
    with pytest.raises(CorruptFileError, match="a quote that isn't closed in its line, 41|can't be read as CSV"):
        read_origin_behavior(write(tmp_path / "b.csv", "\n".join(lines) + "\n"), malformed=malformed)
    lines[40] = 'a,b,"unread'  # in a column that isn't asked for
    with pytest.raises(CorruptFileError, match="line, 41|can't be read as CSV"):
        read_origin_behavior(write(tmp_path / "b.csv", "\n".join(lines) + "\n"), malformed=malformed)


def test_reading_stops_early(tmp_path, monkeypatch):
    monkeypatch.setattr(exact_csv, "BLOCK_SIZE", 1 << 10)
    path = write(tmp_path / "b.csv", "user_history,target_item\n" + "a;;b,c\n" * 10_000)
    malformed = MalformedRows(min_rows=100)
    with pytest.raises(MalformedRowsError):
        read_origin_behavior(path, malformed=malformed)
    assert malformed.num_rows < 1000


@folder
@given(data=st.data())
def test_item_sids_round_trip(tmp_path, data):
    levels = data.draw(st.integers(1, 4))
    codes = st.one_of(st.none(), st.lists(st.integers(0, 8191), min_size=levels, max_size=levels))
    items = data.draw(st.dictionaries(st.one_of(ids, st.just(";")), codes, min_size=1))
    columns = {"item_id": list(items)}
    for level in range(levels):
        columns[f"codebook_lv{level + 1}"] = [None if row is None else row[level] for row in items.values()]
    dataset = Dataset.from_dict(columns)
    write_item_sids(dataset, tmp_path / "sid.csv")
    assert read_item_sids(tmp_path / "sid.csv").to_dict() == columns
    frame = pd.read_csv(tmp_path / "sid.csv", dtype=str, keep_default_na=False, na_values=[])
    assert frame.columns[0] == "base62_string"
    assert [int(code) if code else None for code in frame["codebook_lv1"]] == columns["codebook_lv1"]

    write_inferred_sids(dataset, tmp_path / "inferred.csv")
    known = {item: row for item, row in items.items() if row is not None}
    if known:  # an item without codes has an empty text
        texts = {item: "" if row is None else ",".join(map(str, row)) for item, row in items.items()}
        exact_csv.write_texts(tmp_path / "whole.csv", ["item_id", "SID"], [texts.items()])
        assert read_item_sids(tmp_path / "whole.csv").to_dict() == columns
    with open(tmp_path / "inferred.csv", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file))[1:] == [[item, ",".join(map(str, row))] for item, row in known.items()]
    inferred = read_item_sids(tmp_path / "inferred.csv").to_dict()
    assert inferred.pop("item_id") == list(known)
    assert list(zip(*inferred.values(), strict=True)) == [tuple(row) for row in known.values()]


@pytest.mark.filterwarnings("ignore:Left out")
def test_item_sids_to_a_catalog_and_back(tmp_path):
    text = "base62_string,codebook_lv1,codebook_lv2,codebook_lv3\n"
    text += "".join(f"{item},{row},{row % 3},1\n" for row, item in enumerate(TRAPS))
    text += "none,,,\nfloat,8191.0,0.0,0.0\n"
    dataset = read_item_sids(write(tmp_path / "sid.csv", text))
    catalog = SemanticIdCatalog.from_dataset(dataset, codebook_sizes=[8192] * 3)
    assert catalog.item_ids == [*TRAPS, "float"] and catalog.codes[-1].tolist() == [8191, 0, 0]
    write_item_sids(catalog.to_dataset(), tmp_path / "again.csv", id_column="item_id")
    again = SemanticIdCatalog.from_dataset(read_item_sids(tmp_path / "again.csv"), codebook_sizes=[8192] * 3)
    assert again.fingerprint == catalog.fingerprint
    # The trap: the plain reader guesses types, and loses ids even in a column of texts.
    plain = load_dataset("csv", data_files=str(tmp_path / "sid.csv"), split="train", cache_dir=str(tmp_path / "cache"))
    assert None in plain["base62_string"][:]


def test_item_sids_that_are_malformed(tmp_path):
    text = "item_id,codebook_lv1,codebook_lv2\na,1,2\nb,1,\n,1,2\nc,x,2\nd,-1,2\ne,1.5,2\nf,,\ng,1,2,3\nh, 3 ,4\n"
    malformed = MalformedRows(max_rate=1, num_shown=10)
    with pytest.warns(UserWarning, match="6 of 9 rows"):
        dataset = read_item_sids(write(tmp_path / "sid.csv", text), malformed)
    assert dataset["item_id"][:] == ["a", "f", "h"] and dataset["codebook_lv2"][:] == [2, None, 4]
    assert sorted(line for line, _ in malformed.first) == [3, 4, 5, 6, 7, 9]
    for header in ("item_id,codebook_lv2", "item_id,other", "codebook_lv1", "item_id,item_id,SID"):
        with pytest.raises(CorruptFileError):
            read_item_sids(write(tmp_path / "sid.csv", f"{header}\n1,2\n"))
    for content in (b"", b"\xff\xfe\x00", b"item_id,SID\n\xff\xff,1\n"):
        (tmp_path / "sid.csv").write_bytes(content)
        with pytest.raises(CorruptFileError):
            read_item_sids(tmp_path / "sid.csv")
    with pytest.raises(FileNotFoundError):
        read_item_sids(tmp_path / "none.csv")
    assert len(read_item_sids(write(tmp_path / "sid.csv", "item_id,codebook_lv1\n"))) == 0


def test_text_rows_of_every_form(tmp_path):
    rows = [
        {"system": "say\nwhat", "user": f'C{row}C8200, "so"', "answer": answer} for row, answer in enumerate(TRAPS)
    ]
    with open(tmp_path / "comma.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["system", "user", "answer"])
        writer.writeheader()
        writer.writerows(rows)
    with open(tmp_path / "tab.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "system", "user", "answer"], delimiter="\t")
        writer.writeheader()
        writer.writerows({"id": str(number), **row} for number, row in enumerate(rows))
    with open(tmp_path / "lines.jsonl", "w") as file:
        for row in rows:
            names = {"instruction": row["system"], "input": row["user"], "output": row["answer"]}
            file.write(json.dumps({"id": "x", **names}) + "\n")
    for name in ("comma.csv", "tab.csv", "lines.jsonl"):
        assert read_text_rows(tmp_path / name).to_list() == rows
        assert list(read_text_rows(tmp_path / name, streaming=True)) == rows
    with pytest.raises(CorruptFileError, match="`user` and `answer`"):
        read_text_rows(write(tmp_path / "other.csv", "a,b\n1,2\n"))
    with pytest.raises(FileNotFoundError):
        read_text_rows(tmp_path / "none.jsonl")


@pytest.mark.parametrize("packed", [False, True])
def test_text_rows_with_too_many_values_keep_their_place(tmp_path, packed):
    lines = ["system,user,answer", "s,u,a,b", *(f"s,u{row},a{row}" for row in range(200))]
    lines[50], lines[60], lines[70], lines[80] = "s,u,v,a,b,c,d", "s", "", "s,u,a,"
    text = "\n".join(lines) + "\n"
    path = write(tmp_path / "rows.csv", text)
    if packed:
        path = tmp_path / "rows.csv.gz"
        path.write_bytes(gzip.compress(text.encode()))
    expected = [dict(zip(["system", "user", "answer"], line.split(","), strict=False)) for line in lines[1:]]
    for line in (1, 50, 60, 80):
        expected[line - 1] = {"system": "", "user": "", "answer": ""}
    del expected[69]
    assert read_text_rows(path).to_list() == expected
    assert list(read_text_rows(path, streaming=True)) == expected
    assert list(read_text_rows(path.as_uri(), streaming=True)) == expected
    path.unlink()
    write(tmp_path / "rows.csv", "user,answer\nu,a\n")  # not what was read before
    assert read_text_rows(tmp_path / "rows.csv").to_list() == [{"user": "u", "answer": "a"}]


def test_normalize_text_rows_of_a_stream_that_has_no_features():
    def rows():
        yield {"instruction": "s", "input": "u", "output": "007", "id": 1}

    stream = normalize_text_rows(IterableDataset.from_generator(rows))
    assert list(stream) == [{"system": "s", "user": "u", "answer": "007"}]
    without_system = normalize_text_rows(Dataset.from_dict({"user": ["u"], "answer": ["a"]}))
    assert without_system.to_list() == [{"user": "u", "answer": "a"}]


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs AL-GR's public rows")
def test_the_public_rows():
    rows = read_text_rows(SAMPLE / "train_data.csv")
    assert len(rows) == 10 and rows.to_list() == read_text_rows(SAMPLE / "qwen_finetune_data.jsonl").to_list()


def test_behavior_that_cant_be_written(tmp_path):
    for history, target in (([], ["a"]), (["a"], []), (["a;b"], ["c"]), ([""], ["c"])):
        with pytest.raises(InvalidSequencesError):
            write_origin_behavior(Dataset.from_dict({"history": [history], "target": [target]}), tmp_path / "b.csv")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InvalidSequencesError, match="history"):
        write_origin_behavior(Dataset.from_dict({"target": ["a"]}), tmp_path / "b.csv")
    write_origin_behavior(Dataset.from_dict({"history": [[1, 2]], "target": [3]}), tmp_path / "b.csv")
    assert read_origin_behavior(tmp_path / "b.csv").to_list() == [{"history": ["1", "2"], "target": ["3"]}]
    assert math.isclose(MalformedRows().rate, 0)
