# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Tests of `SemanticIdLayout`."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_hf.errors import InvalidCodesError, InvalidSemanticIdError
from forge_hf.semantic_ids import SemanticIdLayout
from forge_hf.semantic_ids.layout import row_keys


SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=5)


@st.composite
def layouts_and_codes(draw, max_rows=6):
    sizes = draw(SIZES)
    row = st.tuples(*[st.integers(0, size - 1) for size in sizes])
    return SemanticIdLayout(sizes), draw(st.lists(row, min_size=1, max_size=max_rows))


def test_forge_text_form():
    layout = SemanticIdLayout(codebook_sizes=[8192, 8192, 8192])
    assert layout.to_text(torch.tensor([12, 8, 16])) == "C12C8200C16400"
    assert layout.to_text([[12, 8, 16], [0, 0, 0]]) == ["C12C8200C16400", "C0C8192C16384"]
    assert layout.from_text("C12C8200C16400").tolist() == [12, 8, 16]
    assert (layout.num_levels, layout.num_codes, layout.offsets) == (3, 24576, (0, 8192, 16384))


def test_uneven_levels():
    layout = SemanticIdLayout([4, 2, 3])
    assert layout.offsets == (0, 4, 6)
    assert layout.tokens() == ["C0", "C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8"]
    assert layout.to_index([[3, 1, 2]]).tolist() == [[3, 5, 8]]


@given(layouts_and_codes())
@settings(max_examples=60, deadline=None)
def test_text_and_index_round_trip(drawn):
    layout, rows = drawn
    codes = torch.tensor(rows)
    assert torch.equal(layout.from_text(layout.to_text(codes)), codes)
    assert torch.equal(layout.from_index(layout.to_index(codes)), codes)
    # Against the definition, written out.
    starts = [sum(layout.codebook_sizes[:level]) for level in range(layout.num_levels)]
    assert layout.to_text(codes) == [
        "".join(f"C{start + code}" for start, code in zip(starts, row, strict=True)) for row in rows
    ]
    tokens = layout.tokens()
    assert layout.to_text(codes) == ["".join(tokens[i] for i in row) for row in layout.to_index(codes).tolist()]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.text("C0123 -\n٣", max_size=8))
@settings(max_examples=200, deadline=None)
def test_from_text_reads_exactly_what_to_text_writes(sizes, text):
    layout = SemanticIdLayout(sizes)
    every = layout.to_text(torch.cartesian_prod(*[torch.arange(size) for size in sizes]).reshape(-1, len(sizes)))
    if text in every:
        assert layout.to_text(layout.from_text(text)) == text
    else:
        with pytest.raises(InvalidSemanticIdError):
            layout.from_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "C1",  # too few levels
        "C1C5C9C9",  # too many
        "C1C1C9",  # the index of another level
        "C1C5C12",  # past the last level
        "C-1C5C9",
        "C01C5C9",
        "C1C5C9 ",
        "C1C5C9\n",
        " C1C5C9",
        "C1 C5 C9",
        "c1c5c9",
        "C1C5C9</s>",
        "C١C5C9",  # an Arabic digit
        "C²C5C9",
        "C1C5C" + "9" * 5000,
        None,
        155,
    ],
)
def test_from_text_refuses(text):
    layout = SemanticIdLayout([4, 4, 4])
    with pytest.raises(InvalidSemanticIdError, match="not a semantic ID"):
        layout.from_text([text])


def test_from_text_names_the_offender_and_the_ranges():
    with pytest.raises(InvalidSemanticIdError, match=r"'C1C9' is not .* 2 codes: C0 to C3, C4 to C7"):
        SemanticIdLayout([4, 4]).from_text(["C0C4", "C1C9"])


@pytest.mark.parametrize(
    ("codes", "match"),
    [
        ([[0.0, 1.0]], "must be integers, got dtype float64"),
        (torch.zeros(2, 2), "must be integers, got dtype torch.float32"),
        (torch.zeros(2, 2, dtype=torch.bool), "must be integers"),
        ([["0", "1"]], "must be integers"),
        ([[0, 1], [0]], "rectangular"),
        ([[0, 1, 2]], r"must have 2 levels .* got shape \(1, 3\)"),
        (3, "must have 2 levels"),
        ([[0, 0], [4, 0], [0, -1]], r"row 1 level 1: 4 \(codebook of 4\), row 2 level 2: -1 \(codebook of 5\)"),
        ([[2**70, 0]], "must be integers"),
    ],
)
def test_invalid_codes(codes, match):
    layout = SemanticIdLayout([4, 5])
    for method in (layout.validate, layout.to_index, layout.to_text):
        with pytest.raises(InvalidCodesError, match=match):
            method(codes)


def test_from_index_refuses_another_levels_index():
    with pytest.raises(InvalidCodesError):
        SemanticIdLayout([4, 4]).from_index([0, 3])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.int64])
def test_any_integer_dtype_becomes_int64(dtype):
    layout = SemanticIdLayout([256, 256])
    index = layout.to_index(torch.tensor([[255, 255]], dtype=dtype))
    assert index.dtype == torch.int64 and index.tolist() == [[255, 511]]
    assert layout.to_index(np.array([[255, 255]], dtype=np.uint8)).tolist() == [[255, 511]]


def test_empty_and_batched_shapes():
    layout = SemanticIdLayout([4, 4])
    assert layout.to_index(torch.empty(0, 2, dtype=torch.int64)).shape == (0, 2)
    assert layout.to_text(torch.empty(0, 2, dtype=torch.int64)) == []
    assert layout.from_text([]).shape == (0, 2)
    assert layout.to_index(torch.zeros(2, 3, 2, dtype=torch.int64)).shape == (2, 3, 2)


@pytest.mark.parametrize("sizes", [[], [0], [-1, 4], [4.0], ["4"], [True], "44", 4, None, [2**31]])
def test_codebook_sizes_are_checked(sizes):
    with pytest.raises(ValueError, match="codebook_sizes"):
        SemanticIdLayout(sizes)


def test_equality_and_dict():
    layout = SemanticIdLayout([4, 5])
    assert layout == SemanticIdLayout((4, 5)) == SemanticIdLayout(np.array([4, 5])) != SemanticIdLayout([5, 4])
    assert hash(layout) == hash(SemanticIdLayout((4, 5)))
    assert SemanticIdLayout.from_dict(json.loads(json.dumps(layout.to_dict()))) == layout


@given(st.lists(st.tuples(*[st.integers(0, 70_000)] * 3), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_row_keys_order_and_equality(rows):
    keys = row_keys(np.array(rows))
    assert [rows[i] for i in np.argsort(keys, kind="stable")] == sorted(rows)
    assert [[a == b for b in keys] for a in keys] == [[a == b for b in rows] for a in rows]
