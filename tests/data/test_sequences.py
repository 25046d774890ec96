# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Reading sequences in every form, refusing what isn't one, and the leave-one-out split against plain Python."""

import warnings

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_hf.data import adjacent_pairs, leave_one_out, read_sequences
from forge_hf.errors import InvalidSequencesError


ROWS = {"user_id": [1, 2, 3], "items": [[10, 11, 12], [11], [13, 10, 11, 12]]}


@pytest.fixture
def text_file(tmp_path):
    def write(text: str):
        path = tmp_path / "sequences.txt"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_text_file_with_integer_ids(text_file):
    dataset = read_sequences(text_file("1 10 11 12\n2 11\n3 13 10 11 12\n"))
    assert dataset.to_dict() == ROWS


def test_text_file_tolerates_tabs_carriage_returns_and_no_final_newline(text_file):
    assert read_sequences(text_file("1\t10 11  12 \r\n2 11\r\n3 13 10 11 12")).to_dict() == ROWS


@pytest.mark.parametrize("odd_item", ["B00X", "007", "-", "+5", "1.0", "12345678901234567890123"])
def test_ids_stay_text_unless_every_one_is_an_integer(text_file, odd_item):
    dataset = read_sequences(text_file(f"1 10 {odd_item}\n2 11\n"))
    assert dataset["user_id"][:] == [1, 2]
    assert dataset["items"][:] == [["10", odd_item], ["11"]]


@pytest.mark.parametrize("kind", ["parquet", "json", "csv", "tsv", "folder"])
def test_other_files_read_the_same(tmp_path, kind):
    dataset = Dataset.from_dict(ROWS)
    path = tmp_path / f"sequences.{kind}"
    if kind == "parquet":
        dataset.to_parquet(path)
    elif kind == "json":
        dataset.to_json(path)
    elif kind == "folder":
        dataset.save_to_disk(path)
    else:
        comma = "," if kind == "csv" else "\t"
        path.write_text(f"user_id{comma}items\n1{comma}10 11 12\n2{comma}11\n3{comma}13 10 11 12\n")
    assert read_sequences(path).to_dict() == ROWS


def test_string_ids_of_a_table_stay_strings(tmp_path):
    Dataset.from_dict({"user_id": ["a"], "items": [["x", "y"]]}).to_parquet(tmp_path / "s.parquet")
    assert read_sequences(tmp_path / "s.parquet").to_dict() == {"user_id": ["a"], "items": [["x", "y"]]}


@pytest.mark.parametrize("text", ["", "\n\n", "  \n"])
def test_empty_file_is_refused(text_file, text):
    with pytest.raises(InvalidSequencesError, match="empty"):
        read_sequences(text_file(text))


def test_malformed_lines_are_named_by_number(text_file):
    with pytest.raises(InvalidSequencesError, match=r"2 lines .* lines 2, 4"):
        read_sequences(text_file("1 10 11\n2\n3 10\n\n5 11\n"))


def test_bytes_that_are_not_text_are_refused(tmp_path):
    (tmp_path / "s.txt").write_bytes(b"1 10 \xff\xfe\n")
    with pytest.raises(InvalidSequencesError, match="UTF-8"):
        read_sequences(tmp_path / "s.txt")


def test_a_user_with_two_sequences_is_refused(text_file):
    with pytest.raises(InvalidSequencesError, match=r"1 users have more than one sequence, users 7"):
        read_sequences(text_file("7 1 2\n8 1 2\n7 3 4\n"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1], "items": [[1]]}, "user_id"),
        ({"user_id": [1], "items": [[]]}, "no items"),
        ({"user_id": [1, 2], "items": [[1], None]}, "rows 1"),
        ({"user_id": [1], "items": [[1, None]]}, "missing"),
        ({"user_id": [1], "items": [[1.5]]}, "double"),
        ({"user_id": [1], "items": [3]}, "lists of item ids"),
    ],
)
def test_bad_tables_are_refused(tmp_path, columns, message):
    Dataset.from_dict(columns).to_parquet(tmp_path / "s.parquet")
    with pytest.raises(InvalidSequencesError, match=message):
        read_sequences(tmp_path / "s.parquet")


@pytest.mark.parametrize("name", ["nothing.txt", "nothing.parquet", "nothing", "a/b/nothing"])
def test_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_sequences(tmp_path / name)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=9), min_size=1, max_size=12), st.integers(3, 5))
def test_split_equals_plain_python(sequences, min_length):
    dataset = Dataset.from_dict({"user_id": list(range(len(sequences))), "items": sequences})
    kept = [(user, items) for user, items in enumerate(sequences) if len(items) >= min_length]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not kept:
            with pytest.raises(InvalidSequencesError, match="fewer than"):
                leave_one_out(dataset, min_length)
            return
        splits = leave_one_out(dataset, min_length)
    users = [user for user, _ in kept]
    assert splits["train"].to_dict() == {"user_id": users, "items": [items[:-2] for _, items in kept]}
    for name, last in (("validation", 2), ("test", 1)):
        assert splits[name].to_dict() == {
            "user_id": users,
            "history": [items[:-last] for _, items in kept],
            "target": [items[-last] for _, items in kept],
        }


def test_split_follows_the_row_order_of_a_selected_dataset():
    sequences = [["a", "b", "c"], ["d", "e", "f"], ["g", "h", "i", "j"]]
    dataset = Dataset.from_dict({"user_id": [0, 1, 2], "items": sequences})
    test = leave_one_out(dataset.select([2, 0]))["test"]
    assert test.to_dict() == {"user_id": [2, 0], "history": [["g", "h", "i"], ["a", "b"]], "target": ["j", "c"]}


def test_skipped_sequences_are_counted_in_one_warning():
    dataset = Dataset.from_dict({"user_id": [0, 1, 2], "items": [[1], [1, 2], [1, 2, 3]]})
    with pytest.warns(UserWarning, match="Skipped 2 of 3 sequences") as caught:
        leave_one_out(dataset)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        leave_one_out(dataset.select([2]))


def test_bad_arguments_of_the_split():
    dataset = Dataset.from_dict({"user_id": [0], "items": [[1, 2, 3]]})
    with pytest.raises(ValueError, match="min_length"):
        leave_one_out(dataset, min_length=2)
    with pytest.raises(InvalidSequencesError, match="no rows"):
        leave_one_out(dataset.select([]))
    with pytest.raises(InvalidSequencesError, match="user_id"):
        leave_one_out(dataset.remove_columns("user_id"))


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=2, max_size=8), st.booleans())
@settings(max_examples=50, deadline=None)
def test_adjacent_pairs(rows, as_text):
    rows = [[f"i{item}" for item in row] for row in rows] if as_text else rows
    dataset = Dataset.from_dict({"user_id": list(range(len(rows))), "items": rows})
    expected = [[a, b] for row in rows for a, b in zip(row, row[1:], strict=False)]
    assert adjacent_pairs(dataset).tolist() == expected
    assert adjacent_pairs(dataset.select(range(1, len(rows)))).tolist() == expected[len(rows[0]) - 1 :]
