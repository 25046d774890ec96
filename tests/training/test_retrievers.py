# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from forge_hf.generation import retrieve
from forge_hf.models import RQVAEConfig, RQVAEModel
from forge_hf.tokenization import semantic_id_token_ids
from forge_hf.training import RetrievalTrainer, RetrievalTrainingArguments, add_lora, create_retriever


WORDS = ["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def text_checkpoint(request, tmp_path):
    """A tiny Qwen2 with a tokenizer of its own, as a folder."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    config = Qwen2Config(
        vocab_size=len(WORDS) + 3,  # like Qwen2.5, more rows than tokens
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        tie_word_embeddings=request.param, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize(
    "name, architecture", [("t5-tiger", T5ForConditionalGeneration), ("qwen2-small", Qwen2ForCausalLM)]
)
def test_presets_are_stock_models_over_the_codes(name, architecture, ring_catalog):
    model, tokenizer = create_retriever(name, ring_catalog, num_user_buckets=7)
    assert type(model) is architecture
    assert model.config.vocab_size == len(tokenizer) == 4 + 7 + 13
    assert model.config.semantic_id_fingerprint == ring_catalog.fingerprint
    assert model.config.pad_token_id == tokenizer.pad_token_id and model.config.eos_token_id == tokenizer.eos_token_id


def test_tiger_has_its_published_size():
    # TIGER, section 4: "around 13 million parameters". Without vocabulary: 4 + 4 layers.
    from forge_hf.semantic_ids import SemanticIdCatalog

    catalog = SemanticIdCatalog.from_codes([0], [[0, 0, 0]], codebook_sizes=[256] * 3, on_collision="suffix")
    model, _ = create_retriever("t5-tiger", catalog, num_user_buckets=2000)
    attention, mlp = 4 * 128 * 384, 2 * 128 * 1024
    layers = 4 * (attention + mlp) + 4 * (2 * attention + mlp)
    assert layers < model.num_parameters() < 1.2 * layers
    assert model.config.decoder_start_token_id == model.config.pad_token_id


def test_checkpoint_is_extended_by_the_codes(text_checkpoint, ring_catalog):
    base = Qwen2ForCausalLM.from_pretrained(text_checkpoint)
    model, tokenizer = create_retriever(str(text_checkpoint), ring_catalog)
    rows = semantic_id_token_ids(tokenizer, ring_catalog.layout)
    embedding = model.get_input_embeddings().weight
    assert torch.equal(embedding[: len(WORDS)], base.get_input_embeddings().weight[: len(WORDS)])
    assert torch.pdist(embedding[rows]).min() > 0.01
    assert tokenizer("a b")["input_ids"] == AutoTokenizer.from_pretrained(text_checkpoint)("a b")["input_ids"]


def test_checkpoint_rows_from_codebooks(text_checkpoint, ring_catalog):
    rqvae = RQVAEModel(RQVAEConfig(input_dim=8, hidden_sizes=[], codebook_dim=16, codebook_sizes=[5, 8]))
    for level, size in enumerate([5, 8]):
        rqvae.set_codebook(level, torch.randn(size, 16))
    model, tokenizer = create_retriever(str(text_checkpoint), ring_catalog, rqvae=rqvae)
    rows = semantic_id_token_ids(tokenizer, ring_catalog.layout)[5:]
    cosine = torch.nn.functional.cosine_similarity
    codes = rqvae.get_codebook(1)
    embedding = model.get_input_embeddings().weight.detach()[rows]
    embedding = embedding - embedding.mean(0)
    codes = codes - codes.mean(0)
    pairs = torch.triu_indices(8, 8, 1)
    expected, actual = cosine(codes[pairs[0]], codes[pairs[1]]), cosine(embedding[pairs[0]], embedding[pairs[1]])
    assert torch.corrcoef(torch.stack([expected, actual]))[0, 1] > 0.9


def test_arguments_that_do_not_go_together(text_checkpoint, ring_catalog):
    with pytest.raises(ValueError, match="`num_user_buckets`"):
        create_retriever(str(text_checkpoint), ring_catalog, num_user_buckets=5)
    with pytest.raises(ValueError, match="`rqvae`"):
        rqvae = RQVAEModel(RQVAEConfig(input_dim=8, hidden_sizes=[], codebook_dim=4, codebook_sizes=[5, 8]))
        create_retriever("qwen2-small", ring_catalog, rqvae=rqvae)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_lora_trains_code_rows_and_adapters_alone(text_checkpoint, ring_catalog, ring_splits, tmp_path):
    model, tokenizer = create_retriever(str(text_checkpoint), ring_catalog)
    model = add_lora(model, tokenizer, ring_catalog, rank=4)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    args = RetrievalTrainingArguments(
        output_dir=str(tmp_path / "run"), num_train_epochs=2, per_device_train_batch_size=16, learning_rate=1e-2,
        eval_num_beams=10, report_to="none", use_cpu=True, disable_tqdm=True, hidden_dropout=0.1,
    )  # fmt: skip
    trainer = RetrievalTrainer(
        model, args, catalog=ring_catalog, processing_class=tokenizer, train_dataset=ring_splits["train"],
        eval_dataset=ring_splits["validation"],
    )  # fmt: skip
    trainer.train()
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed and all("lora_" in name or "token_adapter" in name for name in changed)
    assert any("token_adapter" in name for name in changed)
    # The adapter merges into a stock model that recommends the same.
    histories = ring_splits["test"]["history"][:6]
    expected = retrieve(model, tokenizer, ring_catalog, histories, top_k=5)
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    actual = retrieve(plain, tokenizer, ring_catalog, histories, top_k=5)
    assert actual.item_ids == expected.item_ids
    torch.testing.assert_close(torch.tensor(actual.scores), torch.tensor(expected.scores), rtol=1e-4, atol=1e-4)


def test_t5_checkpoint(tmp_path, ring_catalog):
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    config = T5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=1, pad_token_id=0,
        eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    model, tokenizer = create_retriever(str(tmp_path), ring_catalog)
    assert type(model) is T5ForConditionalGeneration
    result = retrieve(model, tokenizer, ring_catalog, [[100, 101]], top_k=3)
    assert len(set(result.item_ids[0])) == 3
