# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Two processes take the step, and give the scores, of one process on the same global batch."""

import pytest
import torch
from accelerate import debug_launcher

from forge_hf.training import RetrievalTrainer, RetrievalTrainingArguments, create_retriever


TINY = {
    "qwen2-small": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
    "t5-tiger": {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "dropout_rate": 0.0},
}


def one_step(catalog, splits, folder, world_size):
    """A step of SGD over 32 windows: the weights' change is the gradient that the optimizer saw, unclipped."""
    result = {}
    for name, sizes in TINY.items():
        torch.manual_seed(0)
        model, tokenizer = create_retriever(name, catalog, **sizes)
        args = RetrievalTrainingArguments(
            output_dir=str(folder), max_steps=1, optim="sgd", learning_rate=1.0, lr_scheduler_type="constant",
            max_grad_norm=0.0, per_device_train_batch_size=16 // world_size, gradient_accumulation_steps=2,
            train_sampling_strategy="sequential", eval_strategy="no", save_strategy="no",
            load_best_model_at_end=False, logging_steps=1, use_cpu=True, report_to="none", disable_tqdm=True,
        )  # fmt: skip
        trainer = RetrievalTrainer(
            model, args, catalog=catalog, processing_class=tokenizer, train_dataset=splits["train"],
            eval_dataset=splits["validation"].select(range(61)),
        )  # fmt: skip
        assert trainer.accelerator.num_processes == world_size
        before = {key: weight.detach().clone() for key, weight in model.named_parameters()}
        trainer.train()
        result[name] = {
            "gradient": {key: before[key] - weight.detach() for key, weight in model.named_parameters()},
            "loss": trainer.state.log_history[0]["loss"],
            "scores": {key: value for key, value in trainer.evaluate().items() if "@" in key},
        }
    return result


def save_one_step(catalog, splits, folder):
    torch.set_num_threads(1)
    result = one_step(catalog, splits, folder, world_size=2)
    torch.save(result, folder / f"rank{torch.distributed.get_rank()}.pt")


def test_two_processes_equal_one(ring_catalog, ring_splits, tmp_path):
    debug_launcher(save_one_step, args=(ring_catalog, ring_splits, tmp_path), num_processes=2)
    expected = one_step(ring_catalog, ring_splits, tmp_path, world_size=1)
    for rank in range(2):
        actual = torch.load(tmp_path / f"rank{rank}.pt")
        for name, whole in expected.items():
            assert actual[name]["loss"] == pytest.approx(whole["loss"], rel=1e-4)
            assert actual[name]["scores"] == pytest.approx(whole["scores"], rel=1e-6)
            for key, gradient in whole["gradient"].items():
                torch.testing.assert_close(actual[name]["gradient"][key], gradient, rtol=1e-3, atol=1e-6)
