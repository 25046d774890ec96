# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Killed anywhere and begun again, a run ends as an undisturbed one does, bit for bit. Here a kill is an exception that
nothing catches, and what goes on are new objects; `tests/test_kill.py` kills processes.
"""

import json
import os
import re
import shutil
import signal
import sys
import threading

import pytest
import torch
from accelerate import debug_launcher
from datasets import Dataset
from transformers import EarlyStoppingCallback, TrainerCallback

from forge_hf.data import ItemEmbeddings, ItemPairs
from forge_hf.errors import CorruptFileError, OutputInUseError, RunMismatchError, StorageError
from forge_hf.models import (
    FSQConfig,
    FSQModel,
    LetterConfig,
    LetterModel,
    MMQConfig,
    MMQModel,
    RQVAEConfig,
    RQVAEModel,
    VQVAEConfig,
    VQVAEModel,
)
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
    codebooks = {"codebook_dim": 4, "codebook_sizes": [8, 8]}
    others = ItemEmbeddings(torch.nn.functional.normalize(torch.randn(num_items, 4, generator=generator)))
    if kind == "fsq":
        model = FSQModel(FSQConfig(**sizes, fsq_levels=[[3, 2], [4]]))
    elif kind == "vqvae":
        options = {"codebook_form": "product", "codebook_update": "ema", "dead_code_threshold": 0.5}
        model = VQVAEModel(VQVAEConfig(**sizes, **codebooks, **options))
    elif kind == "letter":  # whose groups of codes are of a step between two checkpoints
        options = {"diversity_num_clusters": 3, "diversity_update_steps": 5}
        model = LetterModel(LetterConfig(**sizes, **codebooks, **options))
        items = items.join(collaborative=ItemEmbeddings(others.to_tensor(), items.item_ids))
    elif kind == "mmq":
        options = {"modality_dims": [6, 4], "num_shared_experts": 0, "num_specific_experts": 1, "hidden_sizes": [8]}
        model = MMQModel(MMQConfig(**codebooks, **options, dropout=0.1))
        items = ItemEmbeddings.concatenate([items, ItemEmbeddings(others.to_tensor(), items.item_ids)])
    else:
        model = RQVAEModel(RQVAEConfig(**sizes, **codebooks, **ITEM_TOKENIZERS[kind]))
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


@pytest.mark.parametrize("kind", [*ITEM_TOKENIZERS, "fsq", "vqvae", "letter", "mmq"])
def test_item_tokenizers(kind, tmp_path):
    check(lambda folder: item_tokenizer_trainer(kind, folder), tmp_path)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize(
    "kind", ["t5-tiger", "qwen2-small", "qwen2-small rows lora", "t5-tiger stream", "qwen2-small stream",
             "t5-tiger stream lora"],
)  # fmt: skip
def test_retrievers(kind, ring_catalog, ring_splits, tmp_path):
    check(lambda folder: retrieval_trainer(kind, folder, ring_catalog, ring_splits), tmp_path)


TWO_PROCESSES = ["rqvae", "qwen2-small", "t5-tiger", "t5-tiger stream lora"]


def train_as_process(folder, catalog, splits):
    torch.set_num_threads(1)
    changes = {"gradient_accumulation_steps": 1}
    for name in TWO_PROCESSES:

        def make(folder, name=name):
            if name == "rqvae":
                return item_tokenizer_trainer("ema", folder, per_device_train_batch_size=10)
            return retrieval_trainer(name, folder, catalog, splits, **changes)

        whole = outcome(train(make(folder / name / "whole")))
        trainer = make(folder / name / "killed")
        rank = trainer.args.process_index
        if rank == 1:
            terminate_in(8)(trainer)  # of 5 steps an epoch
        try:
            train(trainer)
        except SystemExit as exit_:
            (folder / f"{name}-{rank}-{exit_.code}").touch()
        trainer = make(folder / name / "killed")
        torch.save([trainer.find_checkpoint(), outcome(train(trainer)), whole], folder / f"{name}-{rank}.pt")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_two_processes(ring_catalog, ring_splits, tmp_path):
    debug_launcher(train_as_process, args=(tmp_path, ring_catalog, ring_splits), num_processes=2)
    for name in TWO_PROCESSES:
        for rank in range(2):
            assert (tmp_path / f"{name}-{rank}-143").exists()
            checkpoint, actual, expected = torch.load(tmp_path / f"{name}-{rank}.pt")
            assert checkpoint.endswith("checkpoint-8") and actual[1] == expected[1]
            # Equal here; what two processes sum up need not come in the same order everywhere.
            for entry, other in zip(actual[0], expected[0], strict=True):
                assert entry == pytest.approx(other, rel=1e-5, abs=1e-6)
            for key, weight in expected[2].items():
                torch.testing.assert_close(actual[2][key], weight, rtol=1e-5, atol=1e-6)


def test_a_kill_at_any_touch_of_the_disk_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    def make(folder, **changes):
        settings = {"num_train_epochs": 2, "save_steps": 4, "kmeans_init": False, **changes}
        return item_tokenizer_trainer("ema", folder, num_items=70, **settings)

    whole = outcome(train(make(tmp_path / "whole")))  # 8 steps
    trainer = make(tmp_path / "first")
    kill_before_the_update_of(6)(trainer)
    with pytest.raises(Killed):
        train(trainer)
    watched = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}
    touches, die_at, root = 0, None, None

    def hook(event, arguments):
        nonlocal touches
        if root is None or event not in watched or not str(arguments[0]).startswith(root):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        touches += 1
        if touches == die_at:
            raise Killed

    sys.addaudithook(hook)  # for good, but idle without a `root`
    steps = set()
    for number in range(1, 200):
        folder = shutil.copytree(tmp_path / "first", tmp_path / f"kill-{number}")
        trainer = make(folder)
        checkpoint, touches, die_at, root = trainer.find_checkpoint(), 0, number, str(folder)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
            break
        except Killed:
            root = None
        again = make(folder)
        steps.add(again.find_checkpoint()[-1])
        assert_equal(outcome(train(again)), whole)
        shutil.rmtree(folder)
    root = None
    assert number > 15 and steps == {"4", "8"}
    assert not (folder / ".incomplete").exists() and (folder / "checkpoint-8").exists()


@pytest.mark.parametrize("small_mount", ["2m"], indirect=True)
def test_a_full_disk_keeps_the_checkpoint_before(small_mount, tmp_path):
    def make(folder):
        return item_tokenizer_trainer("ema", folder)

    whole = outcome(train(make(tmp_path / "whole")))
    trainer = make(tmp_path / "first")
    kill_before_the_update_of(8)(trainer)
    with pytest.raises(Killed):
        train(trainer)
    run, ballast, causes = small_mount / "run", small_mount / "ballast", set()
    for room in range(4, 164, 8):
        shutil.copytree(tmp_path / "first", run)
        trainer = make(run)
        ballast.write_bytes(bytes(shutil.disk_usage(small_mount).free - 1024 * room))
        last = "checkpoint-15"
        try:
            train(trainer)
        except StorageError as error:
            assert re.search(r"checkpoint-12\S* isn't written, and what was there stays. Make room", str(error))
            causes.add(type(error.__cause__).__name__)
            last = "checkpoint-6"
        ballast.unlink()
        trainer = make(run)
        assert trainer.find_checkpoint().endswith(last)
        assert_equal(outcome(train(trainer)), whole)
        shutil.rmtree(run)
    # of files that Python and torch write
    assert causes >= {"OSError", "RuntimeError"} and last == "checkpoint-15"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    train(item_tokenizer_trainer("gradient", folder, num_train_epochs=2, save_steps=4, save_total_limit=3))  # 10 steps
    return folder


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "resume.json", "rng_state.pth", "run.json"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_broken_checkpoint_is_passed_over(finished, file, how, tmp_path, caplog):
    folder = shutil.copytree(finished, tmp_path / "run")
    path = folder / "checkpoint-10" / file
    path.unlink() if how == "gone" else os.truncate(path, path.stat().st_size // 2)
    settings = {"num_train_epochs": 2, "save_steps": 4}
    trainer = item_tokenizer_trainer("gradient", folder, **settings)
    assert trainer.find_checkpoint() == str(folder / "checkpoint-8")
    assert "checkpoint-10 isn't whole" in caplog.text and file in caplog.text
    if (file, how) == ("model.safetensors", "cut"):
        train(trainer)
        again = item_tokenizer_trainer("gradient", folder, **settings)
        assert again.find_checkpoint() == str(folder / "checkpoint-10")
        (folder / "checkpoint-10" / file).unlink()
        for other in folder.glob("checkpoint-[48]"):
            shutil.rmtree(other)
        with pytest.raises(CorruptFileError, match=r"model.safetensors has no bytes.*choose another `output_dir`"):
            again.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"learning_rate": 2e-3}, r"`learning_rate` was 0\.001 and is 0\.002"),
        ({"num_train_epochs": 4, "seed": 1}, r"`num_train_epochs` was 2 and is 4; `seed` was 42 and is 1"),
        ({"num_items": 101}, r"`num_items` was 100 and is 101"),
        ({"order": -1}, r"`eval_dataset` was '\w+' and is '\w+'; `train_dataset` was"),
        ({"kind": "ema"}, r"`codebook_update` was 'gradient' and is 'ema'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(finished, changes, message, monkeypatch):
    changes = {"kind": "gradient", "num_train_epochs": 2, "save_steps": 4, **changes}
    if "order" in changes:
        normal = torch.randn
        monkeypatch.setattr("torch.randn", lambda *a, **k: normal(*a, **k).flip(0))
        del changes["order"]
    trainer = item_tokenizer_trainer(folder=finished, **changes)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in finished.rglob("*"))
    with pytest.raises(RunMismatchError, match=message):
        train(trainer)
    with pytest.raises(RunMismatchError):
        trainer.train(resume_from_checkpoint=True)
    assert sorted((str(path), path.stat().st_mtime_ns) for path in finished.rglob("*")) == before


@pytest.mark.parametrize("what", ["an embedding", "an item id"])
def test_one_changed_item_among_many_is_another_run(what, tmp_path):
    def make(row=None):
        trainer = item_tokenizer_trainer("gradient", tmp_path, num_items=4000, num_train_epochs=0.01, save_steps=1)
        items = trainer.train_dataset
        vectors, ids = items.to_tensor().clone(), list(items.item_ids)
        if row is not None and what == "an embedding":
            vectors[row, 0] += 1
        elif row is not None:
            ids[row] += "x"
        trainer.train_dataset = ItemEmbeddings(vectors, ids)
        return trainer

    make().train()
    assert make().find_checkpoint() is not None
    for row in (0, 1, 1234, 3999):
        with pytest.raises(RunMismatchError, match="`train_dataset` was"):
            make(row).find_checkpoint()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_an_adapter_on_other_weights_is_another_run(ring_catalog, ring_splits, tmp_path):
    def make(change=0.0):
        trainer = retrieval_trainer("qwen2-small rows lora", tmp_path, ring_catalog, ring_splits, max_steps=6)
        with torch.no_grad():
            trainer.model.get_decoder().layers[0].mlp.up_proj.base_layer.weight += change
        return trainer

    train(make())
    assert make().find_checkpoint() is not None
    with pytest.raises(RunMismatchError, match="`frozen_weights` was"):
        make(0.01).find_checkpoint()


def test_early_stopping_counts_on(tmp_path):
    def make(folder):
        settings = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "learning_rate": 0.5}
        steps = {"eval_steps": 2, "save_steps": 2, "num_train_epochs": 12}
        trainer = item_tokenizer_trainer("gradient", folder, **settings, **steps)
        trainer.add_callback(EarlyStoppingCallback(3))
        return trainer

    whole = outcome(trainer := train(make(tmp_path / "whole")))
    assert trainer.state.global_step < trainer.state.max_steps
    killed = make(tmp_path / "killed")
    kill_before_the_update_of(trainer.state.global_step - 1)(killed)
    with pytest.raises(Killed):
        train(killed)
    assert_equal(outcome(train(make(tmp_path / "killed"))), whole)


def test_sigterm_while_the_best_model_is_loaded(ring_catalog, ring_splits, tmp_path):
    def make():
        return retrieval_trainer("qwen2-small", tmp_path, ring_catalog, ring_splits, load_best_model_at_end=True)

    trainer = make()
    load = trainer._load_best_model

    def terminate_and_load():
        os.kill(os.getpid(), signal.SIGTERM)
        load()

    trainer._load_best_model = terminate_and_load
    with pytest.raises(SystemExit) as info:
        train(trainer)
    assert info.value.code == TERMINATED_EXIT_CODE
    again = make()
    again.training_step = die  # there is none left
    assert train(again).state.global_step == trainer.state.global_step


def test_what_changes_no_weights_may_change(finished, tmp_path):
    changes = {"logging_steps": 1, "save_total_limit": 9, "per_device_eval_batch_size": 7, "dataset_name": "x"}
    trainer = item_tokenizer_trainer("gradient", finished, num_train_epochs=2, save_steps=5, **changes)
    assert trainer.find_checkpoint() == str(finished / "checkpoint-10")
    assert item_tokenizer_trainer("gradient", tmp_path).find_checkpoint() is None
    with pytest.raises(ValueError, match="`resume_from_checkpoint` is True, but"):
        item_tokenizer_trainer("gradient", tmp_path).train(resume_from_checkpoint=True)


def test_two_runs_in_one_folder_refuse_each_other(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("forge_hf.training.checkpoints._ORPHAN_SECONDS", 0.1)
    folder, problems = shutil.copytree(finished, tmp_path / "run"), []
    first, second = (item_tokenizer_trainer("gradient", folder, num_train_epochs=2, save_steps=4) for _ in range(2))

    def train_second():
        try:
            second.train()
        except OutputInUseError as error:
            problems.append(str(error))

    def in_another_thread():
        thread = threading.Thread(target=train_second)
        thread.start()
        thread.join()

    first.add_callback(At("on_step_end", 2, in_another_thread))
    first.train()
    assert len(problems) == 1 and f"Another run is training in {folder}. " in problems[0]
    assert second.state.global_step == 0
    second.train()  # the lock has ended with the first
    assert not list(folder.glob(".*"))


def test_checkpoints_of_weights_alone_are_not_gone_on_from(tmp_path):
    trainer = item_tokenizer_trainer(
        "gradient", tmp_path, save_only_model=True, num_train_epochs=1, eval_strategy="no"
    )
    trainer.train()
    with pytest.raises(CorruptFileError, match="the model alone"):
        trainer.find_checkpoint()


def test_the_end_of_an_epoch_is_in_its_checkpoint(tmp_path):
    # Evaluated and logged at the end of the epoch, saved each step: SIGTERM comes in the last step of an epoch.
    settings = {"eval_strategy": "epoch", "logging_strategy": "epoch", "save_steps": 100, "num_train_epochs": 2}
    whole = outcome(train(item_tokenizer_trainer("gradient", tmp_path / "whole", **settings)))
    trainer = item_tokenizer_trainer("gradient", tmp_path / "killed", **settings)
    terminate_in(5)(trainer)
    with pytest.raises(SystemExit):
        train(trainer)
    state = json.loads((tmp_path / "killed" / "checkpoint-5" / "trainer_state.json").read_text())
    assert len(state["log_history"]) == 2
    assert_equal(outcome(train(item_tokenizer_trainer("gradient", tmp_path / "killed", **settings))), whole)
