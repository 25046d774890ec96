# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Rows of text to tokens: the fast path against the tokenizer on whole texts, and against FORGE's layout."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer, T5Tokenizer

from forge_hf.data import MalformedRows
from forge_hf.errors import InvalidSequencesError, MalformedRowsError
from forge_hf.semantic_ids import SemanticIdCatalog, SemanticIdLayout
from forge_hf.tokenization import (
    HistoryEncoder,
    PromptEncoder,
    SemanticIdTokenizer,
    extend_tokenizer,
)
from forge_hf.tokenization.code_text import as_texts, find_codes


LAYOUT = SemanticIdLayout([12, 12, 12])
SAMPLE = Path(__file__).parents[2].parent / "shared/data/al_gr_sample/train_data.csv"
CORPUS = [
    "当前用户的历史行为如下：，请预测用户在电商推荐场景后续行为的语义编码",
    "You are a recommender. user assistant system",
] * 3
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = "你是一个推荐系统，根据用户的历史行为，预测用户的下一步行为。"


def chat_tokenizer(layout=LAYOUT):
    """A byte-level BPE as Qwen2.5-Instruct's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    vocab = {**backend.get_vocab(), "<|endoftext|>": backend.get_vocab_size()}
    merges = [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, chat_template=TEMPLATE)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"})
    return extend_tokenizer(tokenizer, layout)


def t5_tokenizer(layout=LAYOUT):
    """A unigram as T5's, that marks the start of words."""
    trainer = trainers.UnigramTrainer(
        vocab_size=100, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.train_from_iterator(CORPUS, trainer)
    vocab = [tuple(piece) for piece in json.loads(backend.to_str())["model"]["vocab"]]
    return extend_tokenizer(T5Tokenizer(vocab=vocab, extra_ids=2), layout)


def first_metaspace_tokenizer(layout=LAYOUT):
    """Marks the start of a text, but not of what stands between two codes."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(special_tokens=["<unk>", "</s>"], show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    return extend_tokenizer(tokenizer, layout)


TOKENIZERS = {
    "qwen": (chat_tokenizer, False),
    "t5": (t5_tokenizer, True),
    "metaspace": (first_metaspace_tokenizer, True),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def made(request):
    make, is_encoder_decoder = TOKENIZERS[request.param]
    tokenizer = make()
    encoder = PromptEncoder(tokenizer, LAYOUT, is_encoder_decoder)
    assert encoder.is_fast
    return tokenizer, encoder


def whole_prompt(tokenizer, is_encoder_decoder, user, system=None):
    """The tokenizer, and nothing else, on the whole text."""
    if is_encoder_decoder:
        ids = tokenizer(user.strip(), add_special_tokens=True).input_ids
        return ids if ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


ITEMS = st.tuples(*[st.integers(0, 11)] * 3).map(LAYOUT.to_text)
WORDS = st.text(alphabet=st.sampled_from("aC 历史：\n\t,.9é\u3000🙂-▁"), max_size=6)


@st.composite
def texts_with_items(draw):
    parts = [draw(WORDS)]
    for _ in range(draw(st.integers(1, 5))):
        parts += [draw(ITEMS), draw(st.sampled_from(["", "", " ", ", ", "，x", "\n"]))]
    text = "".join([*parts, draw(WORDS)])
    # What follows a code must not prolong its number.
    return text if (find_codes(as_texts([text])).counts % 3 == 0).all() else "".join(parts[:2])


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(texts_with_items(), min_size=1, max_size=4), system=st.sampled_from([None, "", SYSTEM, " a\n"]))
def test_ids_are_those_of_the_whole_text(made, texts, system):
    tokenizer, encoder = made
    texts = [text for text in texts if not find_codes(as_texts([text])).problems(LAYOUT, "user")]
    prompts = encoder.encode_prompts({"user": texts, "system": [system] * len(texts)})
    for text, prompt in zip(texts, prompts, strict=True):
        assert prompt.tolist() == whole_prompt(tokenizer, encoder.is_encoder_decoder, text, system)


def test_the_plain_path_gives_the_same(made):
    tokenizer, encoder = made
    plain = PromptEncoder(tokenizer, LAYOUT, encoder.is_encoder_decoder)
    plain.is_fast = False
    random = np.random.default_rng(0)
    items = LAYOUT.to_text(random.integers(0, 12, (60, 3)))
    users = ["历史：" + "".join(items), " ".join(items[:20]) + " .", "x " + ", ".join(items) + "，请预测", items[0]]
    rows = {"user": users, "answer": items[:4], "system": [SYSTEM, None, "b", SYSTEM]}
    for length in (1024, 120, 60, 40):
        encoder.max_source_length = plain.max_source_length = length
        for fast, slow in zip(encoder.encode_examples(rows), plain.encode_examples(rows), strict=True):
            assert torch.equal(fast[0], slow[0]) and torch.equal(fast[1], slow[1])
    encoder.max_source_length = 1024


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample rows of AL-GR aren't here")
@pytest.mark.parametrize("name", ["qwen", "t5"])
def test_sample_rows_as_forge_lays_them_out(name):
    layout = SemanticIdLayout([8192] * 3)
    make, is_encoder_decoder = TOKENIZERS[name]
    tokenizer = make(layout)
    encoder = PromptEncoder(tokenizer, layout, is_encoder_decoder)
    with SAMPLE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 10
    columns = {name: [row[name] for row in rows] for name in ("system", "user", "answer")}
    prompts = encoder.encode_prompts(columns)
    ids = lambda text: tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    for row, prompt, (input_ids, labels) in zip(rows, prompts, encoder.encode_examples(columns), strict=True):
        answer, eos = ids(row["answer"]), tokenizer.eos_token_id
        if is_encoder_decoder:
            assert input_ids.tolist() == prompt.tolist() == [*ids(row["user"]), eos]
            assert labels.tolist() == [*answer, eos]
        else:
            # Piece by piece, as FORGE's Qwen data: only the codes and the last end of sequence are labels.
            start, end, newline = ids("<|im_start|>"), ids("<|im_end|>"), ids("\n")
            expected = start + ids("system") + newline + ids(row["system"]) + end + newline
            expected += start + ids("user") + newline + ids(row["user"]) + end + newline + start + ids("assistant")
            expected += newline
            assert prompt.tolist() == expected
            assert input_ids.tolist() == [*expected, *answer, *end, *newline, eos]
            assert labels.tolist() == [*[-100] * len(expected), *answer, -100, -100, eos]


def test_the_oldest_items_are_cut(made):
    tokenizer, encoder = made
    items = LAYOUT.to_text([[i % 12, i // 12, 0] for i in range(40)])
    before, after = "历史：", "，请预测"
    whole = lambda items, between="": whole_prompt(  # noqa: E731
        tokenizer, encoder.is_encoder_decoder, before + between.join(items) + after
    )
    frame = 0 if encoder.is_encoder_decoder else len(whole_prompt(tokenizer, False, items[0])) - 3
    for between in ("", ", "):
        for length in (35, 36, 37, 50):
            encoder.max_source_length = length
            (prompt,) = encoder.encode_prompts({"user": [before + between.join(items) + after]})
            fitting = [k for k in range(1, 41) if len(whole(items[-k:], between)) - frame <= length]
            assert prompt.tolist() == whole(items[-max(fitting) :], between)
    encoder.max_source_length = 1024


def test_answers_keep_their_first_items():
    tokenizer = t5_tokenizer()
    items = LAYOUT.to_text([[i, i, i] for i in range(12)])
    rows = {"user": ["a " + items[0]], "answer": [" " + "".join(items) + " "]}
    for length, count in ((32, 10), (4, 1), (7, 2), (9, 2)):
        ((_, labels),) = PromptEncoder(tokenizer, LAYOUT, True, max_target_length=length).encode_examples(rows)
        assert labels.tolist() == tokenizer("".join(items[:count])).input_ids
    with pytest.raises(ValueError, match="`max_target_length` must be an integer above 3"):
        PromptEncoder(tokenizer, LAYOUT, True, max_target_length=3)


@pytest.mark.parametrize("is_encoder_decoder", [True, False])
def test_a_closed_vocabulary_reads_codes_alone(is_encoder_decoder):
    codes = [[0, 1, 2], [3, 4, 5], [11, 11, 11]]
    catalog = SemanticIdCatalog.from_codes(["a", "b", "c"], codes, codebook_sizes=[12] * 3, on_collision="keep")
    tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    encoder = PromptEncoder(tokenizer, catalog.layout, is_encoder_decoder)
    rows = {"user": ["历史：" + "，".join(LAYOUT.to_text(codes[:2]))], "answer": [LAYOUT.to_text(codes[2])]}
    (expected,) = HistoryEncoder(catalog, tokenizer, is_encoder_decoder)([["a", "b"]])
    (prompt,), ((input_ids, labels),) = encoder.encode_prompts(rows), encoder.encode_examples(rows)
    assert torch.equal(prompt, expected)
    answer = [*tokenizer(rows["answer"][0]).input_ids, tokenizer.eos_token_id]
    if is_encoder_decoder:
        assert torch.equal(input_ids, prompt) and labels.tolist() == answer
    else:
        assert input_ids.tolist() == [*prompt.tolist(), *answer] and labels.tolist() == [
            *[-100] * len(prompt),
            *answer,
        ]


GOOD = "C0C12C24"
BAD = {
    "no `user`": (None, GOOD),
    "no `answer`": (GOOD, ""),
    "`user` has no codes": ("看 C X12", GOOD),
    "`user` has 4 codes, and a semantic ID has 3": (GOOD + "C1", GOOD),
    "`user` has C36 where a code of level 3 should stand": ("a C0C12C36", GOOD),
    "`user` has C0 where a code of level 2 should stand": ("C0C0C24", GOOD),
    "`user` has C01 where": ("C01C12C24", GOOD),
    "`user` has C99999999": ("C99999999999", GOOD),
    "`answer` has more than codes": (GOOD, GOOD + ";" + GOOD),
    "`answer` has 2 codes": (GOOD, "C0C12"),
    "so much text that no item fits": ("word " * 1100 + GOOD, GOOD),
}


def test_malformed_rows_are_named_or_counted(made):
    _, encoder = made
    users, answers = zip(*BAD.values(), strict=True)
    rows = {"user": ["a " + GOOD, *users, GOOD], "answer": [GOOD, *answers, GOOD]}
    for reason, (user, answer) in BAD.items():
        with pytest.raises(InvalidSequencesError) as error:
            encoder.encode_examples({"user": [user], "answer": [answer]})
        assert reason in str(error.value)
    malformed = MalformedRows(max_rate=0.9, source="rows.csv", num_shown=20)
    examples = encoder.encode_examples(rows, malformed, range(2, 15))
    assert [example is None for example in examples] == [False, *[True] * 11, False]
    assert (malformed.num_rows, malformed.num_malformed) == (13, 11)
    assert [number for number, _ in malformed.first] == list(range(3, 14))
    for reason, (_, found) in zip(BAD, malformed.first, strict=True):
        assert reason in found
    good = encoder.encode_examples({"user": ["a " + GOOD, GOOD], "answer": [GOOD, GOOD]})
    for example, expected in zip([examples[0], examples[-1]], good, strict=True):
        assert torch.equal(example[0], expected[0]) and torch.equal(example[1], expected[1])
    with pytest.raises(MalformedRowsError, match="11 of 13 rows"):
        strict = MalformedRows(max_rate=0.1, min_rows=5)
        encoder.encode_examples(rows, strict)
        strict.check()
    # Of a prompt the answer isn't read: that of a test row is something else.
    assert len(encoder.encode_prompts({"user": [GOOD], "answer": ["b64;b65"]})) == 1
    assert encoder.encode_prompts({"user": []}) == []
    assert encoder.encode_prompts({"user": [None, 3.5]}, MalformedRows()) == [None, None]


def test_a_tokenizer_that_takes_no_parts_is_asked_for_whole_texts():
    tokenizer = t5_tokenizer()
    tokenizer.add_tokens([AddedToken("C0C12C24C0", normalized=False)])
    encoder = PromptEncoder(tokenizer, LAYOUT, True)
    assert not encoder.is_fast
    text = "历史：C3C13C25 C4C14C26"
    assert encoder.encode_prompts({"user": [text]})[0].tolist() == tokenizer(text).input_ids


def test_what_a_form_needs():
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="chat template"):
        PromptEncoder(tokenizer, LAYOUT, False)
    tokenizer.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(ValueError, match="as it is"):
        PromptEncoder(tokenizer, LAYOUT, False)
