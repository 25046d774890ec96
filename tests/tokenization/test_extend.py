# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Tests of `extend_tokenizer` and `resize_and_init`."""

import json

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from forge_hf.models import RQVAEConfig, RQVAEModel
from forge_hf.semantic_ids import SemanticIdLayout
from forge_hf.tokenization import extend_tokenizer, resize_and_init, semantic_id_token_ids


LAYOUT = SemanticIdLayout([16, 12, 3])
CORPUS = ["recommend a blue shirt to this user", "Code C1 and C12 are words here", "C1 C1 C1 C12 C12"] * 5


def qwen2_tokenizer():
    """A byte-level BPE as Qwen2.5's, trained on a few words."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    vocab = {**backend.get_vocab(), "<|endoftext|>": backend.get_vocab_size()}
    merges = [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]
    return Qwen2Tokenizer(vocab=vocab, merges=merges)


def metaspace_tokenizer():
    """A unigram as T5's: words start with a mark, and "C1" is a piece of the vocabulary."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("C1", -3.0), ("▁C1", -3.0)]
    pieces += [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyzC0123456789"]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="<unk>")


def qwen2(vocab_size, tied):
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    return Qwen2ForCausalLM(config)


def t5(vocab_size, tied):  # transformers 5 ties the embeddings of T5 always
    config = T5Config(
        vocab_size=vocab_size,
        d_model=32,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


@pytest.mark.parametrize("make", [qwen2_tokenizer, metaspace_tokenizer])
def test_extended_codes_are_atomic(make):
    before, tokenizer = make(), make()
    assert extend_tokenizer(tokenizer, LAYOUT) is tokenizer
    ids = semantic_id_token_ids(tokenizer, LAYOUT)
    assert len(set(ids.tolist())) == LAYOUT.num_codes
    text = "".join(LAYOUT.to_text([[12, 3, 1], [0, 11, 2]]))
    assert tokenizer(text).input_ids == ids[LAYOUT.to_index([[12, 3, 1], [0, 11, 2]]).reshape(-1)].tolist()
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).replace(" ", "") == text
    words = "recommend a blue shirt"
    assert tokenizer(words).input_ids == before(words).input_ids


def test_a_word_piece_keeps_its_id():
    tokenizer = metaspace_tokenizer()
    piece = tokenizer.get_vocab()["C1"]
    extend_tokenizer(tokenizer, LAYOUT)
    assert semantic_id_token_ids(tokenizer, LAYOUT)[1] == piece
    assert len(tokenizer) == len(metaspace_tokenizer()) + LAYOUT.num_codes - 1


@pytest.mark.parametrize("codes_are_special", [False, True])
def test_special_or_plain(codes_are_special):
    tokenizer = extend_tokenizer(qwen2_tokenizer(), LAYOUT, codes_are_special=codes_are_special)
    ids = tokenizer("to C1C20").input_ids
    assert tokenizer.decode(ids) == "to C1C20"
    assert tokenizer.decode(ids, skip_special_tokens=True) == ("to " if codes_are_special else "to C1C20")
    typed = tokenizer("C1C20", split_special_tokens=True).input_ids
    assert (len(typed) > 2) == codes_are_special


@pytest.mark.parametrize("codes_are_special", [False, True])
def test_extended_qwen2_reloads_to_the_same_ids(tmp_path, codes_are_special):
    tokenizer = extend_tokenizer(qwen2_tokenizer(), LAYOUT, codes_are_special=codes_are_special)
    tokenizer.save_pretrained(tmp_path)
    qwen2(len(tokenizer), tied=True).config.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "recommend a blue shirt: C12C20C30<|endoftext|>"
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert torch.equal(semantic_id_token_ids(loaded, LAYOUT), semantic_id_token_ids(tokenizer, LAYOUT))
    assert loaded.decode(loaded(text).input_ids) == text


def test_extending_twice():
    tokenizer = extend_tokenizer(qwen2_tokenizer(), LAYOUT)
    size = len(tokenizer)
    assert len(extend_tokenizer(tokenizer, LAYOUT)) == size
    with pytest.raises(ValueError, match="31 of the 40 codes already, such as 'C0'"):
        extend_tokenizer(tokenizer, SemanticIdLayout([16, 24]))


@pytest.mark.parametrize("spare_rows", [0, 7, 64])
@pytest.mark.parametrize(("make", "tied"), [(qwen2, True), (qwen2, False), (t5, True)])
def test_resize_and_init(make, tied, spare_rows):
    torch.manual_seed(0)
    tokenizer = qwen2_tokenizer()
    num_old = len(tokenizer) + spare_rows  # Qwen2.5 has more rows than tokens
    model = make(num_old, tied)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.5)
    old = model.get_input_embeddings().weight.detach().clone()
    old_head = model.get_output_embeddings().weight.detach().clone()
    extend_tokenizer(tokenizer, LAYOUT)
    assert resize_and_init(model, tokenizer, LAYOUT) is model

    rows, head = model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()
    assert len(rows) == len(head) == model.config.vocab_size == max(num_old, len(tokenizer))
    ids = semantic_id_token_ids(tokenizer, LAYOUT)
    kept = torch.tensor([row for row in range(num_old) if row not in set(ids.tolist())])
    assert torch.equal(rows[kept], old[kept]) and torch.equal(head[kept], old_head[kept])
    assert (head.data_ptr() == rows.data_ptr()) == tied
    for table, before in ((rows, old[kept]), (head, old_head[kept])):
        new = table[ids]
        assert torch.pdist(new).min() > 0.5 * torch.pdist(before).min()
        assert new.std(dim=0).mean() == pytest.approx(before.std(dim=0).mean().item(), rel=0.15)
        assert (new.mean(dim=0) - before.mean(dim=0)).abs().max() < before.std()
    output = model(input_ids=ids[None, :5], labels=ids[None, :5])
    assert output.logits.shape[-1] == len(rows) and output.loss.isfinite()


def make_rqvae(codebook_dim=8):
    torch.manual_seed(1)
    rqvae = RQVAEModel(RQVAEConfig(input_dim=6, hidden_sizes=[8], codebook_dim=codebook_dim, codebook_sizes=[16, 12]))
    for level, (size, scale) in enumerate([(16, 5.0), (12, 0.3)]):
        rqvae.set_codebook(level, scale * torch.randn(size, codebook_dim))
    return rqvae


@pytest.mark.parametrize("codebook_dim", [8, 32])
@pytest.mark.parametrize("tied", [True, False])
def test_codebooks_keep_their_angles(tied, codebook_dim):
    rqvae, tokenizer = make_rqvae(codebook_dim), qwen2_tokenizer()
    model = qwen2(len(tokenizer), tied)
    old = model.get_input_embeddings().weight.detach().clone()
    resize_and_init(model, extend_tokenizer(tokenizer, LAYOUT), LAYOUT, rqvae=rqvae)
    ids = semantic_id_token_ids(tokenizer, LAYOUT)
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        before = table.detach()[: len(old)]
        own = table.detach()[ids] - before.mean(dim=0)
        for level in range(2):
            start, size = LAYOUT.offsets[level], LAYOUT.codebook_sizes[level]
            vectors, rows = F.normalize(rqvae.get_codebook(level)), F.normalize(own[start : start + size])
            torch.testing.assert_close(rows @ rows.T, vectors @ vectors.T, atol=0.05, rtol=0)
            spread = own[start : start + size].square().mean().sqrt()
            assert spread == pytest.approx(before.std(dim=0).square().mean().sqrt().item(), rel=0.02)
        assert torch.pdist(own).min() > 0
    assert torch.pdist(own[LAYOUT.offsets[2] :]).min() > 0.01  # the suffix level, of which the RQ-VAE knows nothing


def test_wider_codebooks_than_the_model():
    rqvae, tokenizer = make_rqvae(codebook_dim=256), extend_tokenizer(qwen2_tokenizer(), LAYOUT)
    model = resize_and_init(qwen2(300, True), tokenizer, LAYOUT, rqvae=rqvae)
    assert (
        torch.pdist(model.get_input_embeddings().weight.detach()[semantic_id_token_ids(tokenizer, LAYOUT)]).min() > 0
    )


def test_equal_codebook_entries_get_rows_that_differ():
    rqvae, tokenizer = make_rqvae(), extend_tokenizer(qwen2_tokenizer(), LAYOUT)
    rqvae.set_codebook(0, torch.ones(16, 8))
    rqvae.set_codebook(1, torch.zeros(12, 8))
    model = resize_and_init(qwen2(300, True), tokenizer, LAYOUT, rqvae=rqvae)
    rows = model.get_input_embeddings().weight.detach()[semantic_id_token_ids(tokenizer, LAYOUT)]
    assert rows.isfinite().all() and torch.pdist(rows).min() > 0


def test_seed():
    def rows(seed):
        torch.manual_seed(0)
        tokenizer = extend_tokenizer(qwen2_tokenizer(), LAYOUT)
        model = resize_and_init(qwen2(300, True), tokenizer, LAYOUT, seed=seed)
        return model.get_input_embeddings().weight.detach()

    assert torch.equal(rows(0), rows(0)) and not torch.equal(rows(0), rows(1))


def test_half_precision_keeps_its_dtype():
    tokenizer = extend_tokenizer(qwen2_tokenizer(), LAYOUT)
    model = resize_and_init(qwen2(300, False).to(torch.bfloat16), tokenizer, LAYOUT, rqvae=make_rqvae())
    assert model.get_input_embeddings().weight.dtype == model.get_output_embeddings().weight.dtype == torch.bfloat16


def test_refusals():
    tokenizer = qwen2_tokenizer()
    with pytest.raises(ValueError, match="extend_tokenizer"):
        resize_and_init(qwen2(300, True), tokenizer, LAYOUT)
    extend_tokenizer(tokenizer, LAYOUT)
    model = qwen2(300, True)
    with pytest.raises(ValueError, match=r"\[16, 12\], and `layout` \[16, 11"):
        resize_and_init(model, tokenizer, SemanticIdLayout([16, 11]), rqvae=make_rqvae())
    assert model.get_input_embeddings().weight.shape[0] == 300
