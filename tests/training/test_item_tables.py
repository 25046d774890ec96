# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""RQVAETrainer of models that learn from more than items: LETTER's tables, DAS's users; refusals, two processes."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.multiprocessing as mp

from forge_hf.data import ItemEmbeddings, ItemPairs, UserItemPairs
from forge_hf.errors import InvalidEmbeddingsError
from forge_hf.models import DASConfig, DASModel, LetterConfig, LetterModel, RQVAEConfig, RQVAEModel
from forge_hf.training import RQVAETrainer, RQVAETrainingArguments


SIZES = {"input_dim": 12, "hidden_sizes": [10], "codebook_dim": 6, "codebook_sizes": [8, 6], "collaborative_dim": 4}


def rows(count, dim, seed):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def make_items(count=120):
    ids = [f"i{row}" for row in range(count)]
    return ItemEmbeddings(rows(count, 12, 0), ids), ItemEmbeddings(rows(count, 4, 1), ids)


def joined_items(count=120):
    items, vectors = make_items(count)
    return items.join(collaborative=vectors)


def make_interactions(items, num_users=50, num_pairs=200, dim=4):
    users = ItemEmbeddings(rows(num_users, 5, 2)).join(collaborative=ItemEmbeddings(rows(num_users, dim, 3)))
    generator = torch.Generator().manual_seed(4)
    draws = [torch.randint(size, (num_pairs,), generator=generator).tolist() for size in (num_users, len(items))]
    return UserItemPairs(users, items, (draws[0], [items.item_ids[row] for row in draws[1]]))


def letter_model(**kwargs):
    torch.manual_seed(0)
    settings = {"diversity_num_clusters": 3, "diversity_update_steps": 4, "diversity_loss_weight": 0.1}
    return LetterModel(LetterConfig(**SIZES | settings | kwargs))


def das_model(**kwargs):
    torch.manual_seed(0)
    return DASModel(DASConfig(**SIZES | {"user_input_dim": 5, "user_codebook_sizes": [5]} | kwargs))


def make_trainer(folder, model, items, pairs=None, eval_items=None, **kwargs):
    settings = {
        "num_train_epochs": 4, "per_device_train_batch_size": 30, "per_device_eval_batch_size": 64, "warmup_steps": 0,
        "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1,
    }  # fmt: skip
    args = RQVAETrainingArguments(str(folder), **settings | kwargs)
    eval_items = items if eval_items is None else eval_items
    return RQVAETrainer(model, args, train_dataset=items, eval_dataset=eval_items, pairs=pairs)


# -- LETTER


def test_letter_trains_and_resumes(tmp_path):
    trainer = make_trainer(tmp_path / "whole", letter_model(), joined_items(), save_strategy="epoch")
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    for name in ("collaborative_loss", "diversity_loss", "reconstruction_loss"):
        assert all(name in entry for entry in logs)
    assert logs[-1]["collaborative_loss"] < logs[0]["collaborative_loss"]
    without = trainer.evaluate(make_items()[0])
    assert "eval_collaborative_loss" not in without
    metrics = trainer.evaluate()
    assert metrics["eval_collaborative_loss"] > 0 and metrics["eval_diversity_loss"] > 0
    assert without["eval_collision_rate"] == metrics["eval_collision_rate"]
    trainer.save_model()
    run = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert {"collaborative_loss", "diversity_loss"} <= run["metrics"][0]["values"].keys()

    # 4 steps an epoch, and the codes are grouped every 4: the groups of a resumed run come from its checkpoint.
    resumed = make_trainer(tmp_path / "resumed", letter_model(diversity_update_steps=4), joined_items())
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-8"))
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, msg=name)


def test_items_with_and_without_vectors(tmp_path):
    """Training needs vectors, evaluation doesn't; a model without the loss needs none."""
    items, _ = make_items()
    make_trainer(tmp_path, letter_model(), joined_items(), eval_items=items, max_steps=1).train()
    make_trainer(tmp_path, letter_model(collaborative_loss_weight=0), items, max_steps=1).train()


def test_letter_refuses_before_any_work(tmp_path, monkeypatch):
    def no_work(*args, **kwargs):
        raise AssertionError("work was started")

    monkeypatch.setattr("transformers.Trainer.train", no_work)
    items, vectors = make_items()
    with pytest.raises(ValueError, match=r"lacks \['collaborative'\]. Join them: `items\.join\(collaborative"):
        make_trainer(tmp_path, letter_model(), items).train()
    with pytest.raises(ValueError, match="must have width 4, but has width 12. Set `collaborative_dim`"):
        make_trainer(tmp_path, letter_model(), items.join(collaborative=items)).train()
    with pytest.raises(ValueError, match="`train_dataset` has a table 'other', which this LetterModel lacks"):
        make_trainer(tmp_path, letter_model(), joined_items().join(other=vectors)).train()
    plain = RQVAEModel(RQVAEConfig(**{k: v for k, v in SIZES.items() if k != "collaborative_dim"}))
    with pytest.raises(ValueError, match="has a table 'collaborative', which this RQVAEModel lacks"):
        make_trainer(tmp_path, plain, joined_items()).train()
    table = vectors.to_tensor()
    table[7] = float("nan")
    holed = items.join(collaborative=ItemEmbeddings(table, vectors.item_ids))
    with pytest.raises(InvalidEmbeddingsError, match="`collaborative` has NaN .* for 1 of 120 items: 'i7'"):
        make_trainer(tmp_path, letter_model(), holed).train()


# -- DAS


def test_das_trains_and_resumes(tmp_path):
    items = make_items()[0]
    pairs = make_interactions(joined_items())

    def trainer_of(name, **kwargs):
        return make_trainer(tmp_path / name, das_model(), items, pairs, learning_rate=1e-2, **kwargs)

    trainer = trainer_of("whole", save_strategy="steps", save_steps=10)
    trainer.initialize_from_data()
    users = pairs.users.to_tensor()
    assert trainer.model.is_initialized and trainer.model.user_tokenizer.is_initialized
    torch.testing.assert_close(trainer.model.user_tokenizer.input_normalization.mean, users.mean(0))
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "u2i_loss" in entry]
    for name in ("user_loss", "u2i_loss", "i2i_loss", "u2u_loss", "co_i2i_loss", "co_u2u_loss"):
        assert all(name in entry for entry in logs)
    assert logs[-1]["u2i_loss"] < logs[0]["u2i_loss"]
    assert trainer.evaluate()["eval_collision_rate"] < 1
    trainer.save_model()
    run = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert run["data"] == run["data"] | {"num_users": 50, "num_pairs": len(pairs), "num_items": 120}
    resumed = trainer_of("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-10"))
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, msg=name)


def test_das_names_users_and_items_and_knows_other_vectors(tmp_path):
    items, pairs = make_items(40)[0], make_interactions(joined_items(40), num_users=60)
    trainer = make_trainer(tmp_path, das_model(), items, pairs)
    pairs.rows[0] = 59, 3  # a user's row beyond those of the items
    assert trainer.describe_rows([40]) == "pairs (59, 'i3')"
    before = trainer.fingerprint_data()
    pairs.users.tables["collaborative"]._table[0] += 1
    assert {name for name, value in trainer.fingerprint_data().items() if value != before[name]} == {"users of pairs"}


def test_a_resume_knows_other_vectors_of_the_same_items_and_users(tmp_path):
    items, vectors = make_items()
    others = ItemEmbeddings(vectors.to_tensor().flip(0), vectors.item_ids)
    hashes = [
        make_trainer(tmp_path, letter_model(), items.join(collaborative=table)).fingerprint_data()
        for table in (vectors, vectors, others)
    ]
    assert hashes[0] == hashes[1] and hashes[0].keys() == hashes[2].keys()
    assert all(hashes[0][name] != hashes[2][name] for name in hashes[0])
    pairs = make_interactions(joined_items())
    users = ItemEmbeddings(pairs.users.to_tensor().flip(0)).join(collaborative=pairs.users.tables["collaborative"])
    interactions = [users.item_ids[row] for row in pairs.rows[:, 0]], [items.item_ids[row] for row in pairs.rows[:, 1]]
    changed = UserItemPairs(users, pairs.items, interactions)
    one, other = (make_trainer(tmp_path, das_model(), items, given).fingerprint_data() for given in (pairs, changed))
    assert {name for name in one if one[name] != other[name]} == {"users of pairs"}


def test_das_aligns_items_that_users_have_together(tmp_path):
    """Items of 4 groups, of which embeddings say nothing: users are of one group, and vectors tell it."""
    group = torch.arange(80) % 4
    centers = 3 * rows(4, 4, seed=5)
    item_vectors = ItemEmbeddings(centers[group] + 0.1 * rows(80, 4, 6))
    user_vectors = ItemEmbeddings(centers[group[:40]] + 0.1 * rows(40, 4, 7))
    items = ItemEmbeddings(rows(80, 12, 8))
    users = ItemEmbeddings(rows(40, 5, 9)).join(collaborative=user_vectors)
    interactions = [[u, i] for u in range(40) for i in range(80) if group[u] == group[i] and (u + i) % 8 < 5]
    pairs = UserItemPairs(users, items.join(collaborative=item_vectors), interactions)
    share = {}
    same = (group[:, None] == group) & ~torch.eye(80, dtype=torch.bool)
    for weight in (0, 30.0):
        weights = {f"{name}_loss_weight": weight for name in ("u2i", "i2i", "u2u", "co_i2i", "co_u2u")}
        model = das_model(codebook_sizes=[8, 4], hidden_sizes=[48], **weights)
        make_trainer(tmp_path, model, items, pairs, max_steps=60, learning_rate=1e-2, logging_steps=500).train()
        codes = model.encode(items.to_tensor()).codes[:, 0]
        share[weight] = (codes[:, None] == codes)[same].float().mean().item()
    assert share[30.0] > 1.6 * share[0]


def test_das_refuses_before_any_work(tmp_path, monkeypatch):
    def no_work(*args, **kwargs):
        raise AssertionError("work was started")

    monkeypatch.setattr("transformers.Trainer.train", no_work)
    items, joined = make_items()[0], joined_items()
    with pytest.raises(ValueError, match="`pairs` of users and items are missing, which DASModel needs"):
        make_trainer(tmp_path, das_model(), items).train()
    with pytest.raises(TypeError, match="`pairs` must be UserItemPairs, but is ItemPairs"):
        make_trainer(tmp_path, das_model(), items, ItemPairs.from_rows(items, [[0, 1]]))
    with pytest.raises(TypeError, match="`pairs` must be ItemPairs, but is UserItemPairs"):
        make_trainer(tmp_path, letter_model(contrastive_loss_weight=1.0), joined, make_interactions(joined))
    with pytest.raises(ValueError, match="`pairs` must have width 3, but have width 4"):
        make_trainer(tmp_path, das_model(collaborative_dim=3), items, make_interactions(joined)).train()
    with pytest.raises(InvalidEmbeddingsError, match="`pairs` has 4 users, but the k-means of a codebook of 5"):
        make_trainer(tmp_path, das_model(), items, make_interactions(joined, num_users=4)).train()
    with pytest.raises(InvalidEmbeddingsError, match="must have width 6, but has width 5"):
        make_trainer(tmp_path, das_model(user_input_dim=6), items, make_interactions(joined)).train()
    with pytest.raises(ValueError, match="has a table 'collaborative', which this DASModel lacks"):
        make_trainer(tmp_path, das_model(), joined, make_interactions(joined)).train()


# -- two processes


def train(kind, folder, world_size):
    """A few steps of SGD on batches of 30, however many processes share them."""
    items = joined_items()
    model, data = (letter_model(), (items,)) if kind == "letter" else (das_model(), (make_items()[0],))
    trainer = make_trainer(
        folder, model, *data, pairs=make_interactions(items) if kind == "das" else None, optim="sgd",
        per_device_train_batch_size=30 // world_size, learning_rate=0.02, max_steps=6, kmeans_init=False,
        pair_batch_ratio=1 if kind == "das" else None, ddp_backend="gloo" if world_size > 1 else None,
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
    torch.save({kind: train(kind, folder, 2) for kind in ("letter", "das")}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    # From a fresh process: forking this one would copy its threads' locks.
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True, timeout=600)
    processes = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for kind in ("letter", "das"):
        expected = train(kind, tmp_path, 1)
        for process in processes:
            for name, tensor in expected["weights"].items():
                torch.testing.assert_close(process[kind]["weights"][name], tensor, rtol=1e-4, atol=1e-5, msg=name)
        actual = processes[0][kind]["logs"]
        assert len(actual) == len(expected["logs"]) == 6
        for mine, theirs in zip(actual, expected["logs"], strict=True):
            assert mine.keys() == theirs.keys()
            for name in [name for name in theirs if "loss" in name]:
                assert mine[name] == pytest.approx(theirs[name], rel=1e-4), (kind, name)


if __name__ == "__main__":
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        free_port = server.getsockname()[1]
    mp.start_processes(train_as_process, args=(sys.argv[1], free_port), nprocs=2, start_method="fork")
