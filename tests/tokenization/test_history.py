# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Tests of `HistoryEncoder`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from forge_hf.errors import InvalidSequencesError, UnknownItemError
from forge_hf.semantic_ids import SemanticIdCatalog
from forge_hf.tokenization import HistoryEncoder, SemanticIdTokenizer, extend_tokenizer


def make_catalog(ids):
    generator = torch.Generator().manual_seed(0)
    codes = torch.stack([torch.randint(size, (len(ids),), generator=generator) for size in (5, 7)], dim=1)
    return SemanticIdCatalog.from_codes(ids, codes, codebook_sizes=[5, 7], on_collision="suffix")


CATALOGS = {"int": make_catalog([10 * i for i in range(20)]), "str": make_catalog([f"item {i}" for i in range(20)])}


def text_tokenizer(**special_tokens):
    vocab = {"?": 0, **{token: i + 1 for i, token in enumerate(special_tokens.values())}}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocab, unk_token="?")), **special_tokens)


@pytest.mark.parametrize("is_encoder_decoder", [True, False])
@pytest.mark.parametrize("num_user_buckets", [0, 3])
@pytest.mark.parametrize("kind", ["int", "str"])
@given(
    rows=st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=9), min_size=1, max_size=6),
    max_items=st.integers(1, 10),
    with_users=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_against_text(kind, num_user_buckets, is_encoder_decoder, rows, max_items, with_users):
    """The form, written out as text and read by the tokenizer."""
    catalog = CATALOGS[kind]
    tokenizer = SemanticIdTokenizer(layout=catalog.layout, num_user_buckets=num_user_buckets)
    encode = HistoryEncoder(catalog, tokenizer, is_encoder_decoder, max_items=max_items)
    users = [f"user {i}" for i in range(len(rows))] if with_users else None
    got = encode([[catalog.item_ids[i] for i in row] for row in rows], user_ids=users)
    assert len(got) == len(rows)
    for i, row in enumerate(rows):
        text = "".join(catalog.layout.to_text(catalog.codes[row[-max_items:]]))
        start = ""
        if with_users and num_user_buckets:
            start = tokenizer.convert_ids_to_tokens(tokenizer.user_token_id(users[i]))
        elif not is_encoder_decoder:
            start = "<sep>"
        assert tokenizer.decode(got[i]) == start + text + ("</s>" if is_encoder_decoder else "")
        assert got[i].dtype == torch.int64 and got[i].ndim == 1


def test_item_tokens():
    catalog = CATALOGS["str"]
    tokenizer = SemanticIdTokenizer(layout=catalog.layout, num_user_buckets=2)
    encode = HistoryEncoder(catalog, tokenizer, is_encoder_decoder=True)
    texts = catalog.layout.to_text(catalog.codes)
    assert encode.item_tokens.tolist() == tokenizer(texts).input_ids


@pytest.mark.parametrize(
    ("special_tokens", "start"),
    [
        ({"bos_token": "<s>", "eos_token": "</s>", "sep_token": "|"}, "|"),
        ({"eos_token": "</s>", "bos_token": "<s>"}, "<s>"),
        ({"eos_token": "</s>"}, "</s>"),
    ],
)
def test_start_of_a_text_model(special_tokens, start):
    catalog = CATALOGS["int"]
    tokenizer = extend_tokenizer(text_tokenizer(**special_tokens), catalog.layout)
    [tokens] = HistoryEncoder(catalog, tokenizer, is_encoder_decoder=False)([[30]], user_ids=["someone"])
    assert tokenizer.convert_ids_to_tokens(tokens.tolist()) == [
        start,
        *[f"C{index}" for index in catalog.layout.to_index(catalog.codes[3]).tolist()],
    ]


@pytest.mark.parametrize("is_encoder_decoder", [True, False])
def test_a_tokenizer_without_a_mark(is_encoder_decoder):
    tokenizer = extend_tokenizer(text_tokenizer(), CATALOGS["int"].layout)
    with pytest.raises(ValueError, match="eos_token"):
        HistoryEncoder(CATALOGS["int"], tokenizer, is_encoder_decoder=is_encoder_decoder)


def test_refusals():
    catalog = CATALOGS["int"]
    encode = HistoryEncoder(catalog, SemanticIdTokenizer(layout=catalog.layout), is_encoder_decoder=False)
    with pytest.raises(InvalidSequencesError, match="single id 10"):
        encode([10, 11])
    with pytest.raises(InvalidSequencesError, match="2 are empty: rows 1, 3"):
        encode([[10], [], [20], []])
    with pytest.raises(UnknownItemError, match="11"):
        encode([[10], [20, 11]])
    with pytest.raises(UnknownItemError, match="are int, got str such as '10'"):
        encode([["10"]])
    with pytest.raises(UnknownItemError):
        encode([[None]])
    with pytest.raises(InvalidSequencesError, match="each of the 2 `histories`"):
        encode([[10], [20]], user_ids=["a"])
    assert encode([]) == []
    for max_items in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="max_items"):
            HistoryEncoder(catalog, encode.tokenizer, is_encoder_decoder=False, max_items=max_items)
    with pytest.raises(ValueError, match="lacks"):
        HistoryEncoder(catalog, SemanticIdTokenizer(codebook_sizes=[4]), is_encoder_decoder=False)
