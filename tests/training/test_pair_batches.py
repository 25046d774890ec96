# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Batches of items and pairs in turn: ratio, order, sharding, resuming; terms, refusals, two processes."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from forge_hf.data import ItemEmbeddings, ItemPairs
from forge_hf.errors import InvalidEmbeddingsError
from forge_hf.models.rqvae import RQVAEConfig, RQVAEModel
from forge_hf.training import RQVAETrainer, RQVAETrainingArguments
from forge_hf.training.pair_batches import ItemsAndPairs, ItemsAndPairsSampler


NUM_ITEMS, NUM_PAIRS, DIM = 53, 37, 6


def make_items(count=NUM_ITEMS):
    return ItemEmbeddings(torch.randn(count, DIM, generator=torch.Generator().manual_seed(0)))


def make_pairs(items, count=NUM_PAIRS):
    return ItemPairs.from_rows(items, np.stack([np.arange(count), np.arange(count) + 1], axis=1))


def make_dataset():
    return ItemsAndPairs(make_items(), make_pairs(make_items()))


def make_batches(batch_size=5, ratio=None, seed=0, epoch=0):
    dataset = make_dataset()
    sampler = ItemsAndPairsSampler(dataset, batch_size, ratio, seed)
    sampler.set_epoch(epoch)
    indices = list(sampler)
    assert len(indices) == len(sampler)
    return [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]


def split(batches):
    """Batches of items, and of pairs counted from 0; that no batch holds both."""
    kinds = [{index >= NUM_ITEMS for index in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds)
    items = [batch for batch in batches if batch[0] < NUM_ITEMS]
    return items, [[index - NUM_ITEMS for index in batch] for batch in batches if batch[0] >= NUM_ITEMS]


@pytest.mark.parametrize(("ratio", "number"), [(None, 7), (1, 10), (0.5, 5), (2, 20), (0.3, 3), (1e-3, 1)])
def test_ratio(ratio, number):
    batches = make_batches(ratio=ratio)
    items, pairs = split(batches)
    assert len(items) == 10 and len(pairs) == number
    assert len({index for batch in items for index in batch}) == 50  # each item at most once
    # Spread evenly: among the first n batches, as many are of pairs as the ratio says, but for rounding.
    seen = np.cumsum([batch[0] >= NUM_ITEMS for batch in batches])
    assert np.abs(seen - np.arange(1, len(seen) + 1) * number / len(batches)).max() <= 1


def test_pairs_go_on_in_the_next_epoch():
    epochs = [split(make_batches(ratio=0.5, epoch=epoch))[1] for epoch in range(7)]
    batches = [batch for pairs in epochs for batch in pairs]
    for start in range(0, 35, 7):  # a pass over the pairs is 7 batches, an epoch takes 5
        assert len({pair for batch in batches[start : start + 7] for pair in batch}) == 35
    assert len({pair for batch in batches for pair in batch}) == NUM_PAIRS  # other pairs are left out of other passes


def test_the_order_depends_on_seed_and_epoch_alone():
    torch.manual_seed(0), np.random.seed(0)
    first = make_batches(epoch=1)
    torch.manual_seed(1), np.random.seed(1)
    assert first == make_batches(epoch=1)
    assert first != make_batches(epoch=2) and first != make_batches(epoch=1, seed=1)


def loaders(num_processes, batch_size=3):
    """As `transformers.Trainer` makes them, of each process."""
    for rank in range(num_processes):
        dataset = make_dataset()
        sampler = ItemsAndPairsSampler(dataset, batch_size * num_processes, seed=4)
        loader = DataLoader(dataset, batch_size=batch_size, sampler=sampler, collate_fn=lambda batch: batch)
        yield prepare_data_loader(loader, num_processes=num_processes, process_index=rank)


def batches_of(loader, epoch, skipped=0):
    if skipped:
        loader = skip_first_batches(loader, skipped)
    loader.set_epoch(epoch)
    return list(loader)


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_processes_share_every_batch(num_processes):
    dataset = make_dataset()
    by_process = [batches_of(loader, 2) for loader in loaders(num_processes)]
    sampler = ItemsAndPairsSampler(dataset, 3 * num_processes, seed=4)
    sampler.set_epoch(2)
    indices, size = list(sampler), 3 * num_processes
    assert {len(batches) for batches in by_process} == {len(indices) // size}
    for step in range(len(indices) // size):
        expected = dataset.__getitems__(indices[step * size : (step + 1) * size])
        parts = [batches[step] for batches in by_process]
        assert all(part.keys() == expected.keys() for part in parts)
        for name, tensor in expected.items():
            assert torch.equal(torch.cat([part[name] for part in parts]), tensor)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_the_rest_of_an_epoch_after_a_resume(num_processes):
    wholes = [batches_of(loader, 3) for loader in loaders(num_processes)]
    rests = [batches_of(loader, 3, skipped=4) for loader in loaders(num_processes)]
    for whole, rest in zip(wholes, rests, strict=True):
        assert len(rest) == len(whole) - 4 > 0
        for expected, batch in zip(whole[4:], rest, strict=True):
            assert expected.keys() == batch.keys() and all(torch.equal(expected[name], batch[name]) for name in batch)


# -- the trainer


def make_trainer(folder, pairs=None, items=None, model=None, **kwargs):
    items = make_items() if items is None else items
    pairs = make_pairs(items) if pairs is None else pairs
    torch.manual_seed(0)
    config = RQVAEConfig(
        input_dim=DIM, hidden_sizes=[10], codebook_dim=4, codebook_sizes=[7, 5], quantization_loss="cumulative",
        contrastive_loss_weight=0.5, training_assignment="sinkhorn",
    )  # fmt: skip
    settings = {
        "num_train_epochs": 3, "per_device_train_batch_size": 10, "warmup_steps": 0, "use_cpu": True,
        "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1, "learning_rate": 1e-2,
    }  # fmt: skip
    args = RQVAETrainingArguments(str(folder), **settings | kwargs)
    return RQVAETrainer(RQVAEModel(config) if model is None else model, args, train_dataset=items, pairs=pairs)


def test_every_term_is_logged(tmp_path):
    trainer = make_trainer(tmp_path, pair_batch_ratio=1)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert trainer.state.global_step == 3 * 10 == len(logs)
    assert ["contrastive_loss" in entry for entry in logs] == [False, True] * 15
    for entry in logs:
        expected = 0.5 * (entry["commitment_loss"] + entry["codebook_loss"])
        if "contrastive_loss" in entry:
            terms = [entry[f"contrastive_loss_{term}"] for term in ("self", "original", "cross")]
            assert entry["contrastive_loss"] == pytest.approx(sum(terms) / 3, rel=1e-5)
            expected += 0.5 * entry["contrastive_loss"]
        else:
            expected += entry["reconstruction_loss"]
        assert entry["loss"] == pytest.approx(expected, rel=1e-4)
    temperatures = [logs[i][f"temperature_{term}"] for i in (0, -1) for term in ("self", "original", "cross")]
    assert temperatures[:3] == pytest.approx([0.07] * 3) and all(abs(t - 0.07) > 1e-4 for t in temperatures[3:])
    facts = trainer.describe_run()
    assert facts["data"]["num_pairs"] == NUM_PAIRS and facts["training"]["pair_batch_ratio"] == 1


def test_terms_between_logs_are_means_over_the_batches_that_have_them(tmp_path):
    each, every = make_trainer(tmp_path, pair_batch_ratio=0.5), make_trainer(tmp_path, pair_batch_ratio=0.5)
    every.args.logging_steps = every.state.logging_steps = 7
    for trainer in (each, every):
        trainer.train()
    (log,) = [entry for entry in every.state.log_history if entry["step"] == 7 and "loss" in entry]
    single = [entry for entry in each.state.log_history if "loss" in entry][:7]
    for name in ("reconstruction_loss", "contrastive_loss", "contrastive_loss_cross"):
        values = [entry[name] for entry in single if name in entry]
        assert 2 <= len(values) <= 7 and log[name] == pytest.approx(np.mean(values), rel=1e-5)


def test_resume_within_an_epoch_goes_on_where_it_stopped(tmp_path):
    whole = make_trainer(tmp_path / "whole", save_strategy="steps", save_steps=11)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-11"))  # of 8 steps an epoch
    assert resumed.state.global_step == whole.state.global_step == 24
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, msg=name)


def test_temperatures_do_not_decay(tmp_path):
    trainer = make_trainer(tmp_path, weight_decay=0.1)
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    others = {name for name, _ in trainer.model.named_parameters()} - decayed
    assert all("bias" in name or "logit_scale" in name for name in others) and len(others) == 4 + 3


def test_bad_input_is_refused_before_any_work(tmp_path, monkeypatch):
    def no_work(*args, **kwargs):
        raise AssertionError("work was started")

    monkeypatch.setattr("transformers.Trainer.train", no_work)
    items = make_items()
    with pytest.raises(TypeError, match="`pairs` must be ItemPairs, but is list"):
        make_trainer(tmp_path, pairs=[[1, 2]])
    plain = RQVAEModel(RQVAEConfig(input_dim=DIM, hidden_sizes=[], codebook_dim=4, codebook_sizes=[7, 5]))
    with pytest.raises(ValueError, match="`pairs` are given and it has none"):
        make_trainer(tmp_path, model=plain).train()
    trainer = make_trainer(tmp_path)
    trainer.pairs = None
    with pytest.raises(ValueError, match="`pairs` is missing and the model has one"):
        trainer.train()
    with pytest.raises(ValueError, match="`pair_batch_ratio` must be positive, but is 0"):
        make_trainer(tmp_path, pair_batch_ratio=0).train()
    with pytest.raises(ValueError, match="`pairs` has 9 rows, fewer than the 10 of a batch"):
        make_trainer(tmp_path, pairs=make_pairs(items, 9)).train()
    with pytest.raises(ValueError, match="`train_dataset` has 9 rows"):
        make_trainer(tmp_path, items=make_items(9), pairs=make_pairs(items)).train()
    table = items.to_tensor()
    table[5, 3] = float("nan")
    with pytest.raises(InvalidEmbeddingsError, match="1 of 53 rows: 5"):
        make_trainer(tmp_path, items=items, pairs=make_pairs(ItemEmbeddings(table))).train()


def train(folder, world_size):
    """A few steps of SGD on batches of 20, however many processes share them."""
    trainer = make_trainer(
        folder, per_device_train_batch_size=20 // world_size, optim="sgd", learning_rate=0.1, max_steps=6,
        kmeans_init=False, pair_batch_ratio=1, ddp_backend="gloo" if world_size > 1 else None,
        num_train_epochs=4,
    )  # fmt: skip
    if trainer.args.world_size != world_size:
        raise RuntimeError(f"expected {world_size} processes, got {trainer.args.world_size}")
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {"weights": trainer.model.state_dict(), "logs": logs}


def train_as_process(rank, folder, port):
    """One of the two processes of the test below, which runs this file."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank))
    os.environ.update(LOCAL_RANK=str(rank), ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    torch.save(train(folder, 2), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    # From a fresh process: forking this one would copy its threads' locks.
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True, timeout=600)
    expected = train(tmp_path, 1)
    for rank in range(2):
        actual = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, tensor in expected["weights"].items():
            torch.testing.assert_close(actual["weights"][name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    terms = [name for name in expected["logs"][1] if "loss" in name or "temperature" in name]
    actual = torch.load(tmp_path / "0.pt", weights_only=True)["logs"]
    assert len(actual) == len(expected["logs"]) == 6 and len(terms) == 1 + 4 + 3 + 3
    for mine, theirs in zip(actual, expected["logs"], strict=True):
        assert mine.keys() == theirs.keys()
        for name in theirs.keys() & set(terms):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4), name


if __name__ == "__main__":
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        free_port = server.getsockname()[1]
    mp.start_processes(train_as_process, args=(sys.argv[1], free_port), nprocs=2, start_method="fork")
