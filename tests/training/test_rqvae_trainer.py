# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""RQVAETrainer: initialization from data, metrics, resuming, refusals, two processes."""

import builtins
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from forge_hf.data.embeddings import ItemEmbeddings
from forge_hf.errors import DuplicateItemError, InvalidEmbeddingsError
from forge_hf.models import (
    FSQConfig,
    FSQModel,
    MMQConfig,
    MMQModel,
    ResidualKMeansConfig,
    ResidualKMeansModel,
    RQVAEConfig,
    RQVAEModel,
    VQVAEConfig,
    VQVAEModel,
)
from forge_hf.training.rqvae_trainer import RQVAETrainer, RQVAETrainingArguments


DIM, SIZES = 12, [8, 6, 4]


def make_items(count=240, seed=0):
    """A mixture in a narrow cone, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    centers = 4 + torch.randn(10, DIM, generator=generator)
    noise = 0.2 * torch.randn(count, DIM, generator=generator)
    return ItemEmbeddings(centers[torch.randint(10, (count,), generator=generator)] + noise)


def make_model(**kwargs):
    torch.manual_seed(0)
    return RQVAEModel(RQVAEConfig(input_dim=DIM, hidden_sizes=[10], codebook_dim=6, codebook_sizes=SIZES, **kwargs))


def make_trainer(folder, model=None, items=None, **kwargs):
    items = make_items() if items is None else items
    settings = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 50,
        "per_device_eval_batch_size": 64,
        "warmup_steps": 0,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        **kwargs,
    }
    args = RQVAETrainingArguments(str(folder), **settings)
    return RQVAETrainer(make_model() if model is None else model, args, train_dataset=items, eval_dataset=items)


def test_evaluation_reports_the_loss_and_the_codes(tmp_path):
    items, model = make_items(), make_model()
    trainer = make_trainer(tmp_path, model, items)
    trainer.initialize_from_data()
    metrics = trainer.evaluate()
    codes = model.encode(items.to_tensor()).codes.numpy()
    model.eval()
    with torch.no_grad():
        output = model(items.to_tensor())
    assert metrics["eval_loss"] == pytest.approx(output.loss.item(), rel=1e-4)
    assert metrics["eval_reconstruction_loss"] == pytest.approx(output.reconstruction_loss.item(), rel=1e-4)
    assert metrics["eval_commitment_loss"] == pytest.approx(output.commitment_loss.item(), rel=1e-4)
    for level, size in enumerate(SIZES):
        counts = np.bincount(codes[:, level], minlength=size)
        shares = counts[counts > 0] / len(codes)
        assert metrics[f"eval_utilization_{level}"] == pytest.approx((counts > 0).mean())
        assert metrics[f"eval_perplexity_{level}"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
        prefixes = {tuple(row[: level + 1]) for row in codes.tolist()}
        assert metrics[f"eval_prefix_collision_rate_{level}"] == pytest.approx(1 - len(prefixes) / len(codes))
    assert metrics["eval_collision_rate"] == metrics["eval_prefix_collision_rate_2"]


def test_input_statistics_are_those_of_the_items(tmp_path, monkeypatch):
    items, model = make_items(), make_model(input_normalization="standardize")
    monkeypatch.setattr(ItemEmbeddings.batches, "__defaults__", (50,))
    make_trainer(tmp_path, model, items).initialize_from_data()
    expected = items.to_tensor()
    torch.testing.assert_close(model.input_normalization.mean, expected.mean(0))
    torch.testing.assert_close(model.input_normalization.std, expected.std(0, correction=0))


def test_kmeans_initialization(tmp_path):
    items, random, model = make_items(), make_model(), make_model()
    trainer = make_trainer(tmp_path, model, items)
    trainer.initialize_from_data()
    random.load_state_dict({k: v for k, v in model.state_dict().items() if "codebooks" not in k}, strict=False)
    assert model.is_initialized and not random.is_initialized
    residuals = model.get_latents(items.to_tensor())
    codes = model.encode(items.to_tensor()).codes
    for level, size in enumerate(SIZES):
        # A fixed point of Lloyd's algorithm on what the levels before left over.
        means = torch.stack([residuals[codes[:, level] == code].mean(0) for code in range(size)])
        torch.testing.assert_close(model.get_codebook(level), means, atol=0.05, rtol=0)
        residuals = residuals - model.get_codebook(level)[codes[:, level]]
    with torch.no_grad():
        losses = [m.eval()(items.to_tensor()).commitment_loss.item() for m in (model, random)]
    assert losses[0] < 0.5 * losses[1]


def test_kmeans_of_fewer_distinct_items_than_codes(tmp_path):
    items = ItemEmbeddings(make_items(3).to_tensor().repeat(10, 1))
    trainer = make_trainer(tmp_path, items=items)
    trainer.train()
    assert len(trainer.model.encode(items.to_tensor()).codes.unique(dim=0)) == 3


def test_kmeans_sees_a_sample(tmp_path, monkeypatch):
    seen = []
    latents = RQVAEModel.get_latents
    monkeypatch.setattr(RQVAEModel, "get_latents", lambda self, x: seen.append(x.clone()) or latents(self, x))
    items = make_items(3000)
    make_trainer(tmp_path, items=items, kmeans_sample_size=100).initialize_from_data()
    sample = torch.cat(seen)
    assert len(sample) == 100 == len(sample.unique(dim=0))
    assert torch.isin(sample, items.to_tensor()).all()
    seen.clear()
    make_trainer(tmp_path, items=items).initialize_from_data()
    assert sum(map(len, seen)) == 256 * 8


def test_training_lowers_the_loss_and_can_be_repeated(tmp_path):
    results = []
    for _ in range(2):
        trainer = make_trainer(tmp_path, num_train_epochs=15, learning_rate=1e-2)
        trainer.initialize_from_data()
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        results.append(trainer.evaluate()["eval_loss"])
    assert results[0] == results[1] < 0.7 * before


@pytest.mark.parametrize(
    "settings",
    [
        {"codebook_update": "ema", "dead_code_threshold": 0.2},
        {"quantization_loss": "cumulative", "gradient_estimator": "rotation_trick", "reconstruction_loss": "cosine"},
        {"training_assignment": ["nearest", "nearest", "sinkhorn"], "reconstruction_loss": "l1"},
    ],
)
def test_objectives_train(tmp_path, settings):
    trainer = make_trainer(
        tmp_path, make_model(**settings), num_train_epochs=15, learning_rate=1e-2, dataloader_drop_last=True
    )
    trainer.initialize_from_data()
    before = trainer.evaluate()["eval_reconstruction_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_reconstruction_loss"] < before


def test_resume_goes_on_where_it_stopped(tmp_path, monkeypatch):
    settings = {"codebook_update": "ema", "dead_code_threshold": 0.2, "dropout": 0.1}
    whole = make_trainer(tmp_path / "whole", make_model(**settings), save_strategy="epoch")
    whole.train()
    first_epoch = tmp_path / "whole" / "checkpoint-5"

    def no_kmeans(self):
        raise AssertionError("a resumed model was initialized again")

    monkeypatch.setattr(RQVAETrainer, "_kmeans_codebooks", no_kmeans)
    resumed = make_trainer(tmp_path / "resumed", make_model(**settings))
    resumed.train(resume_from_checkpoint=str(first_epoch))
    assert resumed.state.global_step == whole.state.global_step == 15
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, msg=name)


def test_a_trained_model_is_not_initialized_again(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    loaded = RQVAEModel.from_pretrained(tmp_path / "model")
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    make_trainer(tmp_path, loaded, make_items(seed=7)).initialize_from_data()
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())


def test_without_kmeans(tmp_path):
    model = make_model()
    before = model.get_codebook(0).clone()
    make_trainer(tmp_path, model, kmeans_init=False).initialize_from_data()
    assert torch.equal(model.get_codebook(0), before) and not model.is_initialized
    assert model.input_normalization.mean.abs().min() > 0


def test_bad_input_is_refused_before_any_work(tmp_path, monkeypatch):
    def no_work(*args, **kwargs):
        raise AssertionError("work was started")

    monkeypatch.setattr("transformers.Trainer.train", no_work)
    table = make_items().to_tensor()
    with pytest.raises(InvalidEmbeddingsError, match=r"7 items, but the k-means of a codebook of 8"):
        make_trainer(tmp_path, items=ItemEmbeddings(table[:7])).train()
    with pytest.raises(InvalidEmbeddingsError, match="width 12, but has width 11"):
        make_trainer(tmp_path, items=ItemEmbeddings(table[:, 1:])).train()
    with pytest.raises(InvalidEmbeddingsError, match="is empty"):
        make_trainer(tmp_path, items=ItemEmbeddings(table[:0])).train()
    holed = table.clone()
    holed[9, 0] = float("inf")
    trainer = make_trainer(tmp_path)
    trainer.eval_dataset = ItemEmbeddings(holed)
    with pytest.raises(InvalidEmbeddingsError, match="1 of 240 rows: 9"):
        trainer.train()
    with pytest.raises(DuplicateItemError, match="'a'"):
        make_trainer(tmp_path, items=ItemEmbeddings(table, ["a", "a", *map(str, range(238))])).train()
    table[5, 3] = float("nan")
    with pytest.raises(InvalidEmbeddingsError, match="1 of 240 rows: 5"):
        make_trainer(tmp_path, items=ItemEmbeddings(table)).train()
    with pytest.raises(ValueError, match="`kmeans_sample_size` must be at least .* 8, but is 5"):
        make_trainer(tmp_path, kmeans_sample_size=5).train()
    with pytest.raises(ValueError, match="dataloader_drop_last=True"):
        make_trainer(tmp_path, make_model(training_assignment="sinkhorn")).train()
    with pytest.raises(ValueError, match="bf16_full_eval"):
        make_trainer(tmp_path, bf16_full_eval=True)
    with pytest.raises(TypeError, match="`train_dataset` must be ItemEmbeddings, but is list"):
        make_trainer(tmp_path, items=[1, 2])


def test_missing_faiss_is_explained(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def no_faiss(name, *args, **kwargs):
        if name == "faiss":
            raise ImportError("No module named 'faiss'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_faiss)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        make_trainer(tmp_path).train()


# -- other models


def make_other(kind):
    torch.manual_seed(0)
    sizes = {"input_dim": DIM, "hidden_sizes": [10]}
    if kind == "fsq":
        return FSQModel(FSQConfig(**sizes, fsq_levels=[[3, 2], [4], [2, 2]]))
    if kind == "mmq":
        experts = {"modality_dims": [7, 5], "num_specific_experts": 1, "codebook_sizes": SIZES, "codebook_dim": 6}
        return MMQModel(MMQConfig(hidden_sizes=[10], num_shared_experts=1, dead_code_threshold=0.2, **experts))
    update = {"ema": {"codebook_update": "ema", "dead_code_threshold": 0.2}, "simvq": {"codebook_update": "simvq"}}
    form, update_name = kind.split("-")
    codebooks = {"codebook_dim": 6, "codebook_sizes": [12] if form == "flat" else SIZES}
    codebooks["codebook_form"] = "multi" if form == "multi" else "product"
    return VQVAEModel(VQVAEConfig(**sizes, **codebooks, **update.get(update_name, {})))


@pytest.mark.parametrize("kind", ["fsq", "mmq", "flat-gradient", "product-ema", "multi-simvq"])
def test_other_models_train_and_resume(tmp_path, kind):
    items = make_items()
    trainer = make_trainer(
        tmp_path / "whole", make_other(kind), items, num_train_epochs=15, learning_rate=1e-2, save_strategy="epoch"
    )
    model = trainer.model
    trainer.initialize_from_data()
    assert model.is_initialized
    torch.testing.assert_close(model.input_normalization.mean, items.to_tensor().mean(0))
    before = trainer.evaluate()
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_reconstruction_loss"] < 0.8 * before["eval_reconstruction_loss"]
    with torch.no_grad():
        output = model.eval()(items.to_tensor())
    assert metrics["eval_loss"] == pytest.approx(output.loss.item(), rel=1e-4)
    codes = model.encode(items.to_tensor()).codes
    assert metrics["eval_collision_rate"] == pytest.approx(1 - len(codes.unique(dim=0)) / len(codes))
    assert ("eval_commitment_loss" in metrics) == (kind != "fsq")

    trainer.save_model()
    run = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert run["semantic_ids"]["codebook_sizes"] == list(model.config.codebook_sizes)
    assert run["semantic_ids"]["collision_rate"] == metrics["eval_collision_rate"]
    assert ("commitment_loss" in run["metrics"][0]["values"]) == (kind != "fsq")

    resumed = make_trainer(tmp_path / "resumed", make_other(kind), items, num_train_epochs=15, learning_rate=1e-2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-50"))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, msg=name)


def test_kmeans_is_not_asked_of_a_model_without_codebooks(tmp_path, monkeypatch):
    monkeypatch.setattr(RQVAETrainer, "_kmeans_codebooks", None)
    make_trainer(tmp_path, make_other("fsq"), ItemEmbeddings(make_items().to_tensor()[:5])).train()


def test_models_that_are_fitted_are_refused(tmp_path):
    model = ResidualKMeansModel(ResidualKMeansConfig(input_dim=DIM, codebook_sizes=SIZES))
    with pytest.raises(TypeError, match="is ResidualKMeansModel. Item tokenizers with a `fit` need no trainer"):
        make_trainer(tmp_path, model)


@pytest.mark.parametrize("sample_size", [None, 500])
def test_rq_kmeans_plus_starts_as_residual_kmeans(tmp_path, sample_size):
    # No clusters, so that many items lie near the boundary of two codes.
    items = ItemEmbeddings(3 + torch.randn(3000, DIM, generator=torch.Generator().manual_seed(0)))
    sizes = {"input_dim": DIM, "codebook_sizes": [32, 16, 16]}
    kmeans = ResidualKMeansModel(ResidualKMeansConfig(**sizes)).fit(items, seed=4, sample_size=sample_size)
    model = RQVAEModel(RQVAEConfig(**sizes, hidden_sizes=[10], codebook_dim=DIM, residual_encoder=True))
    trainer = make_trainer(tmp_path, model, items, seed=4, kmeans_sample_size=sample_size, learning_rate=1e-4)
    trainer.initialize_from_data()
    codes = kmeans.encode(items.to_tensor()).codes
    assert torch.equal(model.encode(items.to_tensor()).codes, codes)
    for level in range(3):
        assert torch.equal(model.get_codebook(level), kmeans.get_codebook(level))
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    assert model.encoder.layers[-1].weight.abs().max() > 0  # the identity was where it started
    assert (model.encode(items.to_tensor()).codes == codes).float().mean() > 0.8


def train_as_process(rank, folder, port):
    """One of the two processes of the test below, which runs this file."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank))
    os.environ.update(LOCAL_RANK=str(rank), ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # what each process initializes by itself differs
    config = RQVAEConfig(
        input_dim=DIM,
        hidden_sizes=[10],
        codebook_dim=6,
        codebook_sizes=SIZES,
        codebook_update="ema",
        dead_code_threshold=0.2,
    )
    # 245 items don't divide into the batches of two processes.
    trainer = make_trainer(
        folder, RQVAEModel(config), make_items(245), per_device_train_batch_size=25, ddp_backend="gloo"
    )
    if trainer.args.world_size != 2:
        raise RuntimeError(f"expected 2 processes, got {trainer.args.world_size}")
    trainer.train()
    metrics = trainer.evaluate()
    torch.save(trainer.model.state_dict(), f"{folder}/{rank}.pt")
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(metrics, file)
    torch.distributed.destroy_process_group()


def test_two_processes(tmp_path):
    # From a fresh process: forking this one would copy its threads' locks.
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True, timeout=600)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    metrics = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    model = make_model(codebook_update="ema", dead_code_threshold=0.2)
    model.load_state_dict(first)
    alone = make_trainer(tmp_path, model, make_items(245)).evaluate()
    names = [name for name in alone if name.endswith("loss") or name[-2:] in ("_0", "_1", "_2", "te")]
    assert len(names) == 3 + 9 + 1
    for name in names:
        assert metrics[0][name] == pytest.approx(metrics[1][name])
        # Losses are averaged by batch, as in transformers' trainer; the codes are counted exactly.
        assert metrics[0][name] == pytest.approx(alone[name], rel=0.1 if name.endswith("loss") else 1e-6), name


if __name__ == "__main__":
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        free_port = server.getsockname()[1]
    mp.start_processes(train_as_process, args=(sys.argv[1], free_port), nprocs=2, start_method="fork")
