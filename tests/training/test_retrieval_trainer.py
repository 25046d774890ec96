# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import json

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen2ForCausalLM, T5ForConditionalGeneration

from forge_hf.errors import FingerprintMismatchError, ForgeError, UnknownItemError
from forge_hf.evaluation import RetrievalEvaluator
from forge_hf.generation import retrieve
from forge_hf.semantic_ids import SemanticIdCatalog
from forge_hf.training import RetrievalTrainer, RetrievalTrainingArguments, add_hidden_dropout, create_retriever


TINY = {
    "qwen2-small": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "num_key_value_heads": 2},
    "t5-tiger": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1,
                 "dropout_rate": 0.0},
}  # fmt: skip


def make_trainer(name, catalog, splits, folder, seed=0, **arguments):
    torch.manual_seed(seed)
    model, tokenizer = create_retriever(name, catalog, **TINY[name])
    defaults = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "eval_num_beams": 10, "report_to": "none",
                "use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "seed": seed}  # fmt: skip
    args = RetrievalTrainingArguments(output_dir=str(folder), **defaults | arguments)
    return RetrievalTrainer(
        model, args, catalog=catalog, processing_class=tokenizer, train_dataset=splits["train"],
        eval_dataset=splits["validation"],
    )  # fmt: skip


@pytest.mark.parametrize("name", ["qwen2-small", "t5-tiger"])
def test_learns_the_ring_and_keeps_the_best(name, ring_catalog, ring_splits, tmp_path):
    # Everyone's next item is the next in the ring: a retriever that learns anything is nearly always right.
    epochs = 40 if name == "qwen2-small" else 25
    trainer = make_trainer(
        name, ring_catalog, ring_splits, tmp_path, num_train_epochs=epochs, learning_rate=1e-2,
        eval_strategy="steps", eval_steps=0.5, save_strategy="steps", save_steps=0.5, bf16=False,
    )  # fmt: skip
    trainer.train()
    scores = [log["eval_ndcg@10"] for log in trainer.state.log_history if "eval_ndcg@10" in log]
    assert trainer.state.best_metric == max(scores)
    metrics = RetrievalEvaluator(ring_splits["test"], ring_catalog, ks=(5, 10), num_beams=10)(
        trainer.model, trainer.processing_class
    )
    assert metrics["recall@5"] > 0.9

    # What it leaves behind is stock, and holds the catalog.
    trainer.save_model(tmp_path / "final")
    model_class = Qwen2ForCausalLM if name == "qwen2-small" else T5ForConditionalGeneration
    model = model_class.from_pretrained(tmp_path / "final")
    catalog = SemanticIdCatalog.from_pretrained(tmp_path / "final")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "final")
    histories = ring_splits["test"]["history"][:5]
    again = retrieve(model, tokenizer, catalog, histories, top_k=5)
    assert again.item_ids == retrieve(trainer.model, tokenizer, ring_catalog, histories, top_k=5).item_ids
    assert not list((tmp_path / "final").glob("*.bin")), "no pickle in a folder that people load"


def gradients(name, catalog, splits, folder, **arguments):
    """Weights' change by one step of SGD: the gradient that the optimizer saw, unclipped."""
    trainer = make_trainer(
        name, catalog, splits, folder, max_steps=1, optim="sgd", learning_rate=1.0, max_grad_norm=0.0,
        eval_strategy="no", save_strategy="no", load_best_model_at_end=False, lr_scheduler_type="constant",
        train_sampling_strategy="sequential", **arguments,
    )  # fmt: skip
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    loss = trainer.state.log_history[0]["loss"]
    return loss, {name: before[name] - weight for name, weight in trainer.model.named_parameters()}


@pytest.mark.parametrize("name", ["qwen2-small", "t5-tiger"])
def test_accumulation_gives_the_gradient_of_one_batch(name, ring_catalog, ring_splits, tmp_path):
    whole = gradients(name, ring_catalog, ring_splits, tmp_path / "a", per_device_train_batch_size=32)
    parts = gradients(
        name, ring_catalog, ring_splits, tmp_path / "b", per_device_train_batch_size=8, gradient_accumulation_steps=4
    )
    assert parts[0] == pytest.approx(whole[0], rel=1e-4)
    for key, gradient in whole[1].items():
        torch.testing.assert_close(parts[1][key], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen2-small", "t5-tiger"])
def test_loss_is_the_mean_over_codes(name, ring_catalog, ring_splits, tmp_path):
    trainer = make_trainer(name, ring_catalog, ring_splits, tmp_path)
    trainer.model.eval()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(7)])
    with torch.no_grad():
        ours = trainer.compute_loss(trainer.model, dict(batch))
        stock = trainer.model(**batch).loss  # the class's own loss, a mean over one batch
    torch.testing.assert_close(ours, stock)


def test_resume_ends_where_an_undisturbed_run_does(ring_catalog, ring_splits, tmp_path):
    settings = {"num_train_epochs": 4, "eval_strategy": "no", "load_best_model_at_end": False, "hidden_dropout": 0.2}
    whole = make_trainer("qwen2-small", ring_catalog, ring_splits, tmp_path / "whole", **settings)
    whole.train()
    # The same run, cut short after two epochs, and taken up by new objects.
    cut = make_trainer("qwen2-small", ring_catalog, ring_splits, tmp_path / "cut", **settings)
    cut.add_callback(_StopAfter(epochs=2))
    cut.train()
    resumed = make_trainer("qwen2-small", ring_catalog, ring_splits, tmp_path / "cut", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step
    for (name, expected), actual in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(expected, actual), name


class _StopAfter:
    def __new__(cls, epochs):
        from transformers import TrainerCallback

        class Stop(TrainerCallback):
            def on_epoch_end(self, args, state, control, **kwargs):
                control.should_training_stop = state.epoch >= epochs
                return control

        return Stop()


def test_each_epoch_sees_every_window_once_in_a_new_order(ring_catalog, ring_splits, tmp_path):
    trainer = make_trainer(
        "qwen2-small", ring_catalog, ring_splits, tmp_path, num_train_epochs=2, eval_strategy="no",
        save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    seen, collate = [], trainer.data_collator
    trainer.data_collator = lambda windows: seen.extend(w["user_id"] for w in windows) or collate(windows)
    trainer.train()
    epochs = seen[:80], seen[80:]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(80))
    assert epochs[0] != epochs[1]


def test_checkpoints_hold_the_catalog(ring_catalog, ring_splits, tmp_path):
    trainer = make_trainer("qwen2-small", ring_catalog, ring_splits, tmp_path)
    trainer.train()
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert SemanticIdCatalog.from_pretrained(checkpoint).fingerprint == ring_catalog.fingerprint
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["semantic_id_fingerprint"] == ring_catalog.fingerprint
    assert load_file(checkpoint / "model.safetensors")


def test_evaluation_is_the_evaluators(ring_catalog, ring_splits, tmp_path):
    trainer = make_trainer("t5-tiger", ring_catalog, ring_splits, tmp_path)
    metrics = trainer.evaluate(ring_splits["test"], metric_key_prefix="test")
    evaluator = RetrievalEvaluator(ring_splits["test"], ring_catalog, ks=(5, 10), num_beams=10)
    assert metrics.pop("epoch") == 0
    assert metrics == {f"test_{k}": v for k, v in evaluator(trainer.model, trainer.processing_class).items()}


def test_refusals(ring_catalog, ring_splits, tmp_path):
    other = SemanticIdCatalog.from_codes([100], [[0, 0]], codebook_sizes=[5, 8], on_collision="keep")
    model, tokenizer = create_retriever("qwen2-small", other, **TINY["qwen2-small"])
    args = RetrievalTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(FingerprintMismatchError):
        RetrievalTrainer(model, args, catalog=ring_catalog, processing_class=tokenizer)
    with pytest.raises(UnknownItemError):
        RetrievalTrainer(model, args, catalog=other, processing_class=tokenizer, train_dataset=ring_splits["train"])


def test_bad_questions_are_refused_before_training(ring_catalog, ring_splits, tmp_path):
    unknown = Dataset.from_dict({"history": [[100, 999]], "target": [101]})
    for validation, error, match in (
        (unknown, UnknownItemError, "999"),
        (unknown.remove_columns("target"), ForgeError, "target"),
    ):
        with pytest.raises(error, match=match):
            make_trainer("qwen2-small", ring_catalog, ring_splits | {"validation": validation}, tmp_path)
    with pytest.raises(ValueError, match="num_beams"):
        make_trainer("qwen2-small", ring_catalog, ring_splits, tmp_path, eval_num_beams=3)
    trainer = make_trainer("qwen2-small", ring_catalog, ring_splits, tmp_path, eval_ks=[1, 5])
    with pytest.raises(ValueError, match="`metric_for_best_model` is 'ndcg@10'"):
        trainer.train()
    with pytest.raises(ValueError, match="`hidden_dropout`"):
        make_trainer("t5-tiger", ring_catalog, ring_splits, tmp_path, hidden_dropout=0.1)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_hidden_dropout_lasts_for_a_training_only(ring_catalog, ring_splits, tmp_path):
    trainer = make_trainer(
        "qwen2-small", ring_catalog, ring_splits, tmp_path, max_steps=1, hidden_dropout=0.5, eval_strategy="no",
        save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    trainer.train()
    assert not any(module._forward_hooks for module in trainer.model.modules())


def test_hidden_dropout_acts_in_training_only(ring_catalog):
    model, _ = create_retriever("qwen2-small", ring_catalog, **TINY["qwen2-small"])
    ids = torch.tensor([[3, 4, 9, 5, 10]])
    model.eval()
    plain = model(ids).logits
    handles = add_hidden_dropout(model, 0.5)
    assert torch.equal(model(ids).logits, plain)
    model.train()
    assert not torch.allclose(model(ids).logits, plain)
    for handle in handles:
        handle.remove()
    assert torch.equal(model(ids).logits, plain)
    t5, _ = create_retriever("t5-tiger", ring_catalog, **TINY["t5-tiger"])
    with pytest.raises(ValueError, match="dropout_rate"):
        add_hidden_dropout(t5, 0.5)
    with pytest.raises(ValueError, match="`p`"):
        add_hidden_dropout(model, 1.0)
