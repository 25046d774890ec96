# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Tests of `SemanticIdTokenizer`."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from forge_hf.semantic_ids import SemanticIdLayout
from forge_hf.tokenization import SemanticIdTokenizer, semantic_id_token_ids


LAYOUT = SemanticIdLayout([8192, 8192, 8192])
TEXT = "C12C8200C16400"
MODEL_TYPES = ["t5", "qwen2", "qwen3", "llama", None]


@pytest.fixture(scope="module")
def tokenizer():
    return SemanticIdTokenizer(layout=LAYOUT, num_user_buckets=5)


def save(tokenizer, folder, model_type):
    tokenizer.save_pretrained(folder)
    if model_type is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def test_vocabulary(tokenizer):
    assert len(tokenizer) == 4 + 5 + 24576
    assert tokenizer.convert_ids_to_tokens(list(range(10))) == [
        *["<pad>", "</s>", "<unk>", "<sep>"],
        *[f"<user_{bucket}>" for bucket in range(5)],
        "C0",
    ]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.sep_token_id) == (
        0,
        1,
        2,
        3,
    )
    assert tokenizer.layout == LAYOUT and tokenizer.semantic_id_tokens == LAYOUT.tokens()
    assert tokenizer.is_fast and tokenizer.bos_token is None


@given(st.lists(st.lists(st.integers(0, 8191), min_size=3, max_size=3), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_text_round_trip(tokenizer, codes):
    text = "".join(LAYOUT.to_text(codes))
    ids = tokenizer(text).input_ids
    assert ids == (LAYOUT.to_index(codes).reshape(-1) + 9).tolist()
    assert tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer(" ".join(LAYOUT.to_text(codes))).input_ids == ids


def test_special_tokens_and_strangers(tokenizer):
    assert tokenizer("<user_3>C0<sep>C24575</s>").input_ids == [7, 9, 3, 24584, 1]
    assert tokenizer.decode([7, 9, 1, 0], skip_special_tokens=True) == "<user_3>C0"
    for stranger in ("C24576", "C012", "D1", "C", "<user_5>", "C٣"):
        assert tokenizer(stranger).input_ids.count(2) >= 1 and set(tokenizer(stranger).input_ids) == {2}


def test_padding_on_either_side(tokenizer):
    texts = ["C0C8192", "C1"]
    assert list(tokenizer(texts, padding=True)) == ["input_ids", "attention_mask"]
    for side, ids, mask in [("left", [0, 10], [0, 1]), ("right", [10, 0], [1, 0])]:
        tokenizer.padding_side = side
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        assert batch.input_ids[1].tolist() == ids and batch.attention_mask[1].tolist() == mask


def test_codes_are_special():
    tokenizer = SemanticIdTokenizer(layout=SemanticIdLayout([4, 4]), codes_are_special=True)
    ids = tokenizer("C1C5").input_ids
    assert ids == [5, 9] and tokenizer.decode(ids) == "C1C5"
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""
    assert len(tokenizer) == 12


@pytest.mark.parametrize("codes_are_special", [False, True])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_reload(tmp_path, model_type, codes_are_special):
    layout = SemanticIdLayout([6, 3])
    tokenizer = SemanticIdTokenizer(
        layout, num_user_buckets=2, codes_are_special=codes_are_special, padding_side="left"
    )
    folder = save(tokenizer, tmp_path, model_type)
    text = "<user_1>C1C8<sep>x</s>"
    for loaded in (
        SemanticIdTokenizer.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder, trust_remote_code=True),
        # A second generation, saved from the first.
        AutoTokenizer.from_pretrained(save(AutoTokenizer.from_pretrained(folder), tmp_path / "again", model_type)),
    ):
        assert isinstance(loaded, SemanticIdTokenizer)
        assert loaded.layout == layout and loaded.num_user_buckets == 2 and loaded.padding_side == "left"
        assert loaded.codes_are_special == codes_are_special
        assert loaded.get_vocab() == tokenizer.get_vocab()
        assert loaded(text).input_ids == tokenizer(text).input_ids == [5, 7, 14, 3, 2, 1]
        ids = [7, 14, 1]
        for skip in (False, True):
            assert loaded.decode(ids, skip_special_tokens=skip) == tokenizer.decode(ids, skip_special_tokens=skip)


def test_loading_remote_code_leaves_the_class_alone(tmp_path, tokenizer):
    folder = save(tokenizer, tmp_path / "first", "qwen2")
    AutoTokenizer.from_pretrained(folder, trust_remote_code=True).save_pretrained(tmp_path / "second")
    assert SemanticIdTokenizer._auto_class is None
    tokenizer.save_pretrained(tmp_path / "third")
    first, third = ((tmp_path / name / "tokenizer_config.json").read_text() for name in ("first", "third"))
    assert first == third
    assert AutoTokenizer.from_pretrained(tmp_path / "second", trust_remote_code=True).layout == LAYOUT


def test_added_tokens_survive(tmp_path):
    tokenizer = SemanticIdTokenizer(layout=SemanticIdLayout([4, 4]))
    tokenizer.add_tokens(["<task>"])
    loaded = AutoTokenizer.from_pretrained(save(tokenizer, tmp_path, "qwen2"))
    assert loaded("<task>C1").input_ids == tokenizer("<task>C1").input_ids == [12, 5]


FRESH = """
import json, sys
from transformers import AutoTokenizer
tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in sys.argv[1:]]
tokenizers += [AutoTokenizer.from_pretrained(folder, trust_remote_code=True) for folder in sys.argv[1:]]
text = "<user_3>C12C8200C16400</s>"
print(json.dumps([[t(text).input_ids, t.decode([21, 1], skip_special_tokens=True)] for t in tokenizers]))
"""


def test_reload_without_forge_hf(tmp_path, tokenizer):
    """A plain transformers process reads the same ids, trusting remote code or not."""
    folders = [str(save(tokenizer, tmp_path / name, name)) for name in ("t5", "qwen2")]
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "forge_hf.py").write_text("raise ImportError('hidden by the test')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "hidden"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *folders],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    expected = [tokenizer(f"<user_3>{TEXT}</s>").input_ids, "C12"]
    assert json.loads(done.stdout.splitlines()[-1]) == [expected] * 4


def test_a_qwen2_folder_would_be_corrupted_otherwise(tmp_path, tokenizer):
    """The trap that `_auto_map` is there for. If this fails, transformers was mended, and `_auto_map` may go."""
    folder = save(tokenizer, tmp_path, "qwen2")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["auto_map"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert AutoTokenizer.from_pretrained(folder)(TEXT).input_ids != tokenizer(TEXT).input_ids


def test_loads_fast(tmp_path, tokenizer):
    folder = save(tokenizer, tmp_path, "qwen2")
    start = time.process_time()
    AutoTokenizer.from_pretrained(folder)
    assert time.process_time() - start < 2  # 0.04 s, where nothing else runs


def test_user_tokens(tokenizer):
    assert tokenizer.user_token_id(7) == tokenizer.user_token_id("7")
    assert {tokenizer.user_token_id(user) for user in range(200)} == {4, 5, 6, 7, 8}
    # Trained models depend on these: a release must not change them.
    assert [tokenizer.user_token_id(user) for user in ("A1", "B2", 3)] == [8, 5, 7]
    with pytest.raises(ValueError, match="num_user_buckets"):
        SemanticIdTokenizer(layout=LAYOUT).user_token_id(7)


def test_refused_arguments():
    with pytest.raises(ValueError, match="exactly one of `layout` and `codebook_sizes`"):
        SemanticIdTokenizer()
    with pytest.raises(ValueError, match="exactly one of `layout` and `codebook_sizes`"):
        SemanticIdTokenizer(layout=LAYOUT, codebook_sizes=[4])
    for buckets in (-1, 1.5, True, "3"):
        with pytest.raises(ValueError, match="num_user_buckets"):
            SemanticIdTokenizer(layout=LAYOUT, num_user_buckets=buckets)
    assert SemanticIdTokenizer(codebook_sizes=[4, 4]).layout == SemanticIdLayout([4, 4])


def test_semantic_id_token_ids(tokenizer):
    ids = semantic_id_token_ids(tokenizer, LAYOUT)
    assert ids.dtype == torch.int64 and torch.equal(ids, torch.arange(24576) + 9)
    assert torch.equal(semantic_id_token_ids(tokenizer, SemanticIdLayout([4, 4])), torch.arange(8) + 9)
    with pytest.raises(ValueError, match="lacks 1, such as 'C24576'"):
        semantic_id_token_ids(tokenizer, SemanticIdLayout([8192, 8192, 8193]))


def test_semantic_id_token_ids_refuses_codes_that_are_not_atomic():
    # All codes are in the vocabulary, yet text is cut in other places.
    backend = Tokenizer(WordLevel({"C0": 0, "C1": 1, "C": 2, "0": 3, "1": 4, "?": 5}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    with pytest.raises(ValueError, match="one token each"):
        semantic_id_token_ids(tokenizer, SemanticIdLayout([2]))
