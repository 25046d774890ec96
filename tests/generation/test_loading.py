# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Whole retrievers from folders: checkpoints and LoRA adapters."""

import json
import shutil
import warnings

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSeq2SeqLM
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    T5Config,
    T5ForConditionalGeneration,
    pipeline,
)

from forge_hf import SemanticIdCatalog, SemanticIdTokenizer, retrieve
from forge_hf.errors import FingerprintMismatchError
from forge_hf.generation import Retriever, load_retriever
from forge_hf.generation.retrieval import get_trained_setting, set_trained_setting
from forge_hf.training import add_lora, create_retriever


pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

HISTORIES = [["i3", "i4", "i5"], ["i20"], ["i7", "i1", "i8", "i2"]]


@pytest.fixture(scope="module")
def catalog():
    codes = [[n // 8, n % 8] for n in range(30)]
    return SemanticIdCatalog.from_codes(
        [f"i{n}" for n in range(30)], codes, codebook_sizes=[4, 8], on_collision="keep"
    )


@pytest.fixture(scope="module")
def other_catalog(catalog):
    return SemanticIdCatalog(catalog.item_ids, catalog.codes.flip(0), catalog.layout)


def save(folder, model, tokenizer, catalog):
    for part in (model, tokenizer, catalog):
        part.save_pretrained(folder)
    return folder


def scores(model, tokenizer, catalog, **options):
    """Scores of all items by item, for each history: rankings don't hang on rounding then."""
    result = retrieve(model, tokenizer, catalog, HISTORIES, top_k=30, exclude_history=False, **options)
    rows = [dict(zip(*row, strict=True)) for row in zip(result.item_ids, result.scores, strict=True)]
    return torch.tensor([[row[item] for item in catalog.item_ids] for row in rows])


@pytest.fixture
def checkpoint(architecture, make_model, catalog, tmp_path):
    model = make_model(architecture, catalog.layout.num_codes, semantic_id_fingerprint=catalog.fingerprint)
    return save(tmp_path / "checkpoint", model, SemanticIdTokenizer(layout=catalog.layout), catalog)


def text_checkpoint(kind, folder):
    """A tiny text model and its tokenizer: a byte-level BPE for Qwen2, words for T5."""
    torch.manual_seed(0)
    if kind == "t5":
        words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "a", "blue", "shirt"])}
        backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        )
        config = T5Config(
            vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0,
            eos_token_id=1, decoder_start_token_id=0,
        )  # fmt: skip
        model = T5ForConditionalGeneration(config)
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
        backend.train_from_iterator(["recommend a blue shirt to this user"] * 5, trainer)
        vocab = {**backend.get_vocab(), "<|endoftext|>": backend.get_vocab_size()}
        merges = [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]
        tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges)
        config = Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=kind == "qwen2-tied",
        )  # fmt: skip
        model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module", params=["t5", "qwen2-tied", "qwen2-untied"])
def adapter(request, catalog, tmp_path_factory):
    """The folder of an adapter and the scores that it gave before it was saved."""
    folder = tmp_path_factory.mktemp("adapter")
    text_checkpoint(request.param, folder / "base")
    model, tokenizer = create_retriever(str(folder / "base"), catalog)
    model = add_lora(model, tokenizer, catalog, rank=2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    set_trained_setting(model, "semantic_id_max_history", 3)
    return save(folder / "adapter", model, tokenizer, catalog), scores(model, tokenizer, catalog)


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_checkpoint(checkpoint, architecture, make_model, catalog):
    saved = make_model(architecture, catalog.layout.num_codes, semantic_id_fingerprint=catalog.fingerprint)
    loaded = load_retriever(checkpoint)
    assert isinstance(loaded, Retriever) and type(loaded.model) is type(saved)
    assert isinstance(loaded.tokenizer, SemanticIdTokenizer)
    assert loaded.catalog.fingerprint == catalog.fingerprint
    assert torch.equal(scores(*loaded), scores(saved, loaded.tokenizer, catalog))
    assert load_retriever(str(checkpoint), dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_adapter(adapter):
    folder, expected = adapter
    loaded = load_retriever(folder)
    assert torch.equal(scores(*loaded), expected)
    assert get_trained_setting(loaded.model, "semantic_id_max_history") == 3
    recommend = pipeline("generative-retrieval", model=str(folder), device="cpu", top_k=30, exclude_history=False)
    answers = recommend(HISTORIES)
    for row, answer in zip(expected, answers, strict=True):
        assert [entry["score"] for entry in answer] == row.sort(descending=True).values.tolist()
    # The tokenizer is the adapter's, and not that of the base.
    assert len(recommend.tokenizer) == len(loaded.tokenizer) == loaded.model.get_input_embeddings().weight.shape[0]


def test_adapter_in_peft(adapter, catalog):
    """`retrieve` takes what plain peft loads, and peft has nothing to say about the fingerprint in its config."""
    folder, expected = adapter
    task = json.loads((folder / "adapter_config.json").read_text())["task_type"]
    auto_class = AutoPeftModelForSeq2SeqLM if task == "SEQ_2_SEQ_LM" else AutoPeftModelForCausalLM
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        model = auto_class.from_pretrained(str(folder))
    tokenizer = load_retriever(folder).tokenizer
    assert torch.equal(scores(model, tokenizer, catalog), expected)


def test_adapter_has_no_more_rows_than_the_codes(adapter, catalog, tmp_path):
    folder, expected = adapter
    loaded = load_retriever(folder)
    save(tmp_path, *loaded)
    for saved in (folder, tmp_path):
        tensors = load_file(saved / "adapter_model.safetensors")
        rows = {name: len(tensor) for name, tensor in tensors.items() if "lora_" not in name}
        assert rows and set(rows.values()) == {catalog.layout.num_codes}
    assert torch.equal(scores(*load_retriever(tmp_path)), expected)


def test_merged_adapter_is_a_checkpoint(adapter, tmp_path):
    folder, expected = adapter
    model, tokenizer, catalog = load_retriever(folder)
    save(tmp_path / "merged", model.merge_and_unload(), tokenizer, catalog)
    merged = load_retriever(tmp_path / "merged")
    assert isinstance(merged.model, T5ForConditionalGeneration | Qwen2ForCausalLM)
    torch.testing.assert_close(scores(*merged), expected, rtol=1e-4, atol=1e-4)
    assert merged.model.config.semantic_id_max_history == 3


def test_saved_pipeline_of_an_adapter(adapter, tmp_path):
    folder, expected = adapter
    recommend = pipeline("generative-retrieval", model=str(folder), device="cpu", dtype=torch.float32)
    recommend.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()
    assert torch.equal(scores(*load_retriever(tmp_path)), expected)


@pytest.mark.parametrize("load", [load_retriever, lambda name: pipeline("generative-retrieval", model=name)])
def test_no_catalog_or_a_foreign_one(load, checkpoint, adapter, catalog, other_catalog, tmp_path):
    for number, source in enumerate([checkpoint, adapter[0]]):
        folder = shutil.copytree(source, tmp_path / str(number))
        for weights in folder.glob("*model.safetensors"):  # never read
            weights.write_bytes(b"broken")
        other_catalog.save_pretrained(folder)
        with pytest.raises(FingerprintMismatchError, match=f"{catalog.fingerprint}.*{other_catalog.fingerprint}"):
            load(str(folder))
        for file in folder.glob("semantic_ids.*"):
            file.unlink()
        with pytest.raises(FileNotFoundError, match=f"no catalog.*{catalog.fingerprint}.*save_pretrained"):
            load(str(folder))


def test_model_that_names_no_catalog(checkpoint, adapter, tmp_path):
    edit_json(checkpoint / "config.json", semantic_id_fingerprint=None)
    with pytest.raises(FingerprintMismatchError, match="nothing says"):
        load_retriever(checkpoint)
    folder = copy_of(adapter[0], tmp_path)
    edit_json(folder / "adapter_config.json", auto_mapping=None)
    with pytest.raises(FingerprintMismatchError, match="nothing says"):
        load_retriever(folder)


def test_adapter_speaks_for_its_base(adapter, catalog):
    """The base may have been trained on other semantic IDs, and the adapter on these."""
    model, tokenizer, _ = load_retriever(adapter[0])
    model.config.semantic_id_fingerprint = "of another catalog"
    retrieve(model, tokenizer, catalog, HISTORIES)
    set_trained_setting(model, "semantic_id_fingerprint", "of another catalog")
    with pytest.raises(FingerprintMismatchError, match="of another catalog"):
        retrieve(model, tokenizer, catalog, HISTORIES)
    with pytest.raises(FingerprintMismatchError, match="of another catalog"):
        add_lora(model, tokenizer, catalog)


def test_given_parts_win(checkpoint, catalog, other_catalog):
    tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    for file in [*checkpoint.glob("semantic_ids.*"), *checkpoint.glob("tokeniz*")]:
        file.unlink()
    loaded = load_retriever(checkpoint, tokenizer=tokenizer, catalog=catalog)
    assert loaded.tokenizer is tokenizer and loaded.catalog is catalog
    with pytest.raises(FingerprintMismatchError):
        load_retriever(checkpoint, tokenizer=tokenizer, catalog=other_catalog)


def test_base_that_cannot_be_had(adapter, tmp_path):
    folder = copy_of(adapter[0], tmp_path)
    edit_json(folder / "adapter_config.json", base_model_name_or_path="/not/on/this/machine")
    with pytest.raises(FileNotFoundError, match="is an adapter of the model /not/on/this/machine, which can't be had"):
        load_retriever(folder)
    edit_json(folder / "adapter_config.json", base_model_name_or_path="")
    with pytest.raises(FileNotFoundError, match="names no base model"):
        load_retriever(folder)


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a folder nor"):
        load_retriever(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_retriever(tmp_path)
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match="JSON"):
            load_retriever(tmp_path)


def test_pickled_weights_are_refused(checkpoint, adapter, tmp_path):
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load_retriever(checkpoint)
    folder = copy_of(adapter[0], tmp_path)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no adapter_model\.safetensors"):
        load_retriever(folder)


def test_code_of_a_folder_is_not_run(checkpoint, tmp_path):
    marker = tmp_path / "was_run"
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nraise SystemExit('code was run')\n"
    for name in ("code.py", "tokenization_semantic_id.py", "custom_generate/generate.py"):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_text(code)
    classes = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
    edit_json(checkpoint / "config.json", auto_map=dict.fromkeys(classes, "code.Evil"))
    load_retriever(checkpoint)
    edit_json(checkpoint / "config.json", model_type="evil", architectures=["Evil"])
    for load in (load_retriever, lambda folder: pipeline("generative-retrieval", model=str(folder))):
        with pytest.raises(ValueError, match="trust_remote_code|does not recognize"):
            load(checkpoint)
    assert not marker.exists()


def test_max_history_is_what_the_model_was_trained_with(checkpoint, adapter):
    for folder in (checkpoint, adapter[0]):
        model, tokenizer, catalog = load_retriever(folder)
        for length in (None, 2):
            set_trained_setting(model, "semantic_id_max_history", length)
            default = scores(model, tokenizer, catalog)
            assert torch.equal(default, scores(model, tokenizer, catalog, max_history=length or 20))
        assert not torch.equal(default, scores(model, tokenizer, catalog, max_history=3))
        recommend = pipeline("generative-retrieval", model=model, tokenizer=tokenizer, catalog=catalog, device="cpu")
        answer = recommend(HISTORIES[2], top_k=30, exclude_history=False)
        expected = default[2].sort(descending=True).values.tolist()
        assert [entry["score"] for entry in answer] == pytest.approx(expected, abs=1e-4)
