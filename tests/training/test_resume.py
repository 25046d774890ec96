# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Killed anywhere and begun again, a run ends as an undisturbed one does, bit for bit. Here a kill is an exception that
nothing catches, and what goes on are new objects; `tests/test_kill.py` kills processes.
"""

import os
import signal

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from forge_hf.data import ItemEmbeddings, ItemPairs
from forge_hf.models import FSQConfig, FSQModel, RQVAEConfig, RQVAEModel
from forge_hf.training import (
    TERMINATED_EXIT_CODE,
    RetrievalTrainer,
    RetrievalTrainingArguments,
    RQVAETrainer,
    RQVAETrainingArguments,
    add_lora,
    create_retriever,
)


COMMON = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "steps", "save_steps": 6,
          "eval_strategy": "steps", "eval_steps": 6, "logging_steps": 5, "save_total_limit": 1}  # fmt: skip
TINY = {
    "qwen2-small": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "num_key_value_heads": 2},
    "t5-tiger": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1},
}  # fmt: skip
ITEM_TOKENIZERS = {
    "gradient": {"dropout": 0.1},
    "ema": {"codebook_update": "ema", "dead_code_threshold": 0.5, "dropout": 0.1},
    "simvq": {"codebook_update": "simvq"},
    "pairs": {"training_assignment": "sinkhorn", "contrastive_loss_weight": 1.0, "codebook_update": "ema"},
}


class Killed(BaseException):
    pass


def item_tokenizer_trainer(kind, folder, num_items=100, **changes):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    items = ItemEmbeddings(torch.randn(num_items, 6, generator=generator), [f"i{n}" for n in range(num_items)])
    sizes = {"input_dim": 6, "hidden_sizes": [8]}
    if kind == "fsq":
        model = FSQModel(FSQConfig(**sizes, fsq_levels=[[3, 2], [4]]))
    else:
        options = {"codebook_dim": 4, "codebook_sizes": [8, 8], **ITEM_TOKENIZERS[kind]}
        model = RQVAEModel(RQVAEConfig(**sizes, **options))
    pairs = None
    if kind == "pairs":
        others = ItemEmbeddings(torch.nn.functional.normalize(torch.randn(40, 6, generator=generator)))
        pairs = ItemPairs.from_rows(others, [[n, n + 20] for n in range(20)])
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": 20, "warmup_steps": 2, **COMMON, **changes}
    args = RQVAETrainingArguments(str(folder), **settings)
    return RQVAETrainer(model, args, train_dataset=items, eval_dataset=items, pairs=pairs)


def retrieval_trainer(kind, folder, catalog, splits, **changes):
    name, *options = kind.split()
    torch.manual_seed(0)
    model, tokenizer = create_retriever(name, catalog, **TINY[name])
    if "lora" in options:
        model = add_lora(model, tokenizer, catalog, rank=2)
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_train_epochs": 3,
                "eval_num_beams": 10, "learning_rate": 1e-2, "shuffle_buffer_size": 20, **COMMON}  # fmt: skip
    if name == "qwen2-small":
        settings["hidden_dropout"] = 0.2
    train = splits["train"]
    if "rows" in options or "stream" in options:
        texts = [catalog.layout.to_text(catalog.codes_for(items)) for items in train["items"]]
        train = Dataset.from_dict({"user": ["".join(t[:-1]) for t in texts], "answer": [t[-1] for t in texts]})
    if "stream" in options:
        train, settings["max_steps"] = train.to_iterable_dataset(num_shards=2), 13  # into the second epoch
    args = RetrievalTrainingArguments(str(folder), **settings | changes)
    return RetrievalTrainer(
        model, args, catalog=catalog, processing_class=tokenizer, train_dataset=train,
        eval_dataset=splits["validation"].select(range(8)),
    )  # fmt: skip


class At(TrainerCallback):
    """Does something at a step."""

    def __init__(self, event, step, act):
        self.step, self.act = step, act
        setattr(self, event, self.come)

    def come(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.act()


def die(*args, **kwargs):
    raise Killed


def kill_before_the_update_of(step):
    return lambda trainer: trainer.add_callback(At("on_pre_optimizer_step", step - 1, die))


def kill_in_the_evaluation_of(step):
    return lambda trainer: trainer.add_callback(At("on_evaluate", step, die))


def kill_in_the_write_of(step):
    def prepare(trainer):
        save = trainer._save_rng_state

        def write_half(folder):
            save(folder)
            if trainer.state.global_step == step:
                os.truncate(f"{folder}/optimizer.pt", 100)
                raise Killed

        trainer._save_rng_state = write_half

    return prepare


def terminate_in(step):
    return lambda trainer: trainer.add_callback(
        At("on_step_begin", step - 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    )


def train(trainer):
    trainer.train(resume_from_checkpoint=trainer.find_checkpoint())
    return trainer


def outcome(trainer):
    log = [
        {k: v for k, v in entry.items() if not k.endswith(("_runtime", "_per_second"))}
        for entry in trainer.state.log_history
    ]
    best = trainer.state.best_global_step, trainer.state.best_metric, trainer.weights_step
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    return log, best, weights


def assert_equal(actual, expected):
    assert actual[0] == expected[0] and actual[1] == expected[1]
    assert actual[2].keys() == expected[2].keys()
    assert all(torch.equal(tensor, expected[2][name]) for name, tensor in actual[2].items())


# In the midst of a checkpoint's write, on SIGTERM, between an evaluation and its checkpoint, and between two.
KILLS = [kill_in_the_write_of(12), terminate_in(8), kill_in_the_evaluation_of(12), kill_before_the_update_of(13)]


def check(make, folder):
    whole = outcome(train(make(folder / "whole")))
    for number, kill in enumerate(KILLS):
        trainer = make(folder / "killed")
        kill(trainer)
        with pytest.raises((Killed, SystemExit)) as info:
            train(trainer)
        assert not isinstance(info.value, SystemExit) or info.value.code == TERMINATED_EXIT_CODE == 143
        assert isinstance(info.value, SystemExit) == (number == 1)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        if number == 1:
            assert max((folder / "killed").glob("check*")).name == "checkpoint-8"
    assert_equal(outcome(train(make(folder / "killed"))), whole)
    # Once more: it has ended, and no step is taken.
    trainer = make(folder / "killed")
    trainer.training_step = die
    assert_equal(outcome(train(trainer)), whole)


@pytest.mark.parametrize("kind", [*ITEM_TOKENIZERS, "fsq"])
def test_item_tokenizers(kind, tmp_path):
    check(lambda folder: item_tokenizer_trainer(kind, folder), tmp_path)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize(
    "kind", ["t5-tiger", "qwen2-small", "qwen2-small rows lora", "t5-tiger stream", "qwen2-small stream",
             "t5-tiger stream lora"],
)  # fmt: skip
def test_retrievers(kind, ring_catalog, ring_splits, tmp_path):
    check(lambda folder: retrieval_trainer(kind, folder, ring_catalog, ring_splits), tmp_path)
