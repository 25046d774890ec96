# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The example scripts as a user runs them: in fresh processes, alone and on two."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from forge_hf import (
    DASModel,
    ItemEmbeddings,
    LetterModel,
    MMQModel,
    RQVAEModel,
    SemanticIdCatalog,
    SyntheticMarket,
    leave_one_out,
)
from forge_hf.data import (
    ItemPairs,
    write_contrastive_archive,
    write_item_embeddings,
    write_reconstruction_archive,
)


EXAMPLES = Path(__file__).parents[1] / "examples"
ACCELERATE = Path(sys.executable).with_name("accelerate")


def run(script, *args, num_processes=1):
    """Runs an example, and shows its output if it fails."""
    command = [sys.executable, str(EXAMPLES / script)]
    environment = dict(os.environ)
    if num_processes > 1:
        launcher = ["launch", "--multi_gpu", "--num_processes", str(num_processes), "--main_process_port", "0"]
        command = [str(ACCELERATE), *launcher, str(EXAMPLES / script)]
        environment["ACCELERATE_USE_CPU"] = "true"
    done = subprocess.run([*command, *map(str, args)], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Runs an example in this process: a fresh one takes longer than the script."""

    def run_here(script, *args):
        monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out

    return run_here


@pytest.fixture(scope="module")
def market_files(tmp_path_factory):
    """A small market as the files that users bring: safetensors, a list of ids, S3-Rec sequences."""
    folder = tmp_path_factory.mktemp("market")
    market = SyntheticMarket(num_items=300, num_users=200, seed=1)
    number = {item: row + 1 for row, item in enumerate(market.item_ids)}
    save_file({"embeddings": torch.from_numpy(market.embeddings)}, folder / "items.safetensors")
    (folder / "item_ids.json").write_text(json.dumps(list(number.values())))
    lines = [
        " ".join(map(str, [user + 1, *(number[item] for item in items)]))
        for user, items in enumerate(market.sequences["items"])
    ]
    (folder / "sequences.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_train_rqvae_as_forge_on_pairs(market_files, tmp_path, run_here):
    pairs = Dataset.from_dict({"left": list(range(1, 100)), "right": list(range(101, 200))})
    pairs.to_parquet(tmp_path / "pairs.parquet")
    run_here(
        "train_rqvae.py", "--preset", "forge", "--embeddings", market_files / "items.safetensors", "--item_ids",
        market_files / "item_ids.json", "--pairs", tmp_path / "pairs.parquet", "--pair_batch_ratio", 0.5,
        "--codebook_sizes", 16, 16, "--num_train_epochs", 2, "--batch_size", 50, "--output_dir", tmp_path / "rqvae",
    )  # fmt: skip
    config = RQVAEModel.from_pretrained(tmp_path / "rqvae").config
    assert (config.hidden_sizes, config.codebook_sizes, config.contrastive_loss_weight) == ([256, 256], [16, 16], 1)
    facts = json.loads((tmp_path / "rqvae" / "run.json").read_text())
    assert facts["data"]["num_pairs"] == 99 and facts["training"]["global_step"] == 2 * (6 + 3)


def test_mmq_of_two_files(market_files, tmp_path, run_here):
    embeddings = load_file(market_files / "items.safetensors")["embeddings"]
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    other = Dataset.from_dict({"item_id": (order + 1).tolist(), "embedding": embeddings[order, :5].tolist()})
    other.to_parquet(tmp_path / "other.parquet")
    files = ["--embeddings", market_files / "items.safetensors", tmp_path / "other.parquet"]
    files += ["--item_ids", market_files / "item_ids.json"]
    run_here(
        "train_rqvae.py", "--preset", "mmq", *files, "--num_shared_experts", 1, "--num_specific_experts", 1,
        "--codebook_sizes", 8, 8, 4, "--hidden_sizes", 16, "--codebook_dim", 8, "--num_train_epochs", 2,
        "--batch_size", 100, "--output_dir", tmp_path / "mmq",
    )  # fmt: skip
    facts = json.loads((tmp_path / "mmq" / "run.json").read_text())
    assert facts["data"]["embedding_dim"] == embeddings.shape[1] + 5
    run_here("build_catalog.py", "--rqvae", tmp_path / "mmq", *files, "--output_dir", tmp_path / "catalog")
    catalog = SemanticIdCatalog.from_pretrained(tmp_path / "catalog")
    model = AutoModel.from_pretrained(tmp_path / "mmq")
    assert isinstance(model, MMQModel) and model.is_initialized
    expected = model.encode(torch.cat([embeddings, embeddings[:, :5]], dim=1)).codes
    assert catalog.item_ids == list(range(1, 301)) and torch.equal(catalog.codes[:, :3], expected)


def test_the_road_from_files_on_two_processes(market_files, tmp_path, run_here):
    items, ids, sequences = (market_files / name for name in ("items.safetensors", "item_ids.json", "sequences.txt"))
    run(
        "train_rqvae.py", "--embeddings", items, "--output_dir", tmp_path / "rqvae", "--codebook_sizes", 16, 16,
        "--hidden_sizes", 32, "--codebook_dim", 16, "--num_train_epochs", 6, "--batch_size", 50, num_processes=2,
    )  # fmt: skip
    run(
        "build_catalog.py", "--rqvae", tmp_path / "rqvae", "--embeddings", items, "--item_ids", ids, "--output_dir",
        tmp_path / "catalog", num_processes=2,
    )  # fmt: skip
    catalog = SemanticIdCatalog.from_pretrained(tmp_path / "catalog")
    embeddings = load_file(items)["embeddings"]
    expected = RQVAEModel.from_pretrained(tmp_path / "rqvae").encode(embeddings).codes
    assert catalog.item_ids == list(range(1, 301)) and torch.equal(catalog.codes[:, :2], expected)

    arguments = ["--sequences", sequences, "--catalog", tmp_path / "catalog", "--output_dir", tmp_path / "retriever"]
    run("train_gr.py", *arguments, "--num_train_epochs", 1, "--batch_size", 32, "--evals", 2, num_processes=2)
    run_facts = json.loads((tmp_path / "retriever" / "run.json").read_text())
    assert run_facts["training"]["num_processes"] == 2, "several launch forms quietly run one process"
    (validation,) = run_facts["metrics"]

    output = tmp_path / "scores.json"
    run_here(
        "evaluate_gr.py", "--model", tmp_path / "retriever", "--sequences", sequences, "--embeddings", items,
        "--item_ids", ids, "--split", "validation", "--output", output,
    )  # fmt: skip
    # One process scores all users as two processes did.
    scores = json.loads(output.read_text())
    assert scores["scores"]["ours"]["ndcg@10"] == pytest.approx(validation["values"]["ndcg@10"], rel=1e-6)


def test_train_rqvae_alone_and_once_more(tmp_path, run_here):
    run("train_rqvae.py", "--tiny", "--output_dir", tmp_path)
    assert RQVAEModel.from_pretrained(tmp_path).is_initialized
    weights = (tmp_path / "model.safetensors").read_bytes()
    steps = sorted(tmp_path.glob("checkpoint-*"))
    assert "Collision rate" in run_here("train_rqvae.py", "--tiny", "--output_dir", tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == weights and sorted(tmp_path.glob("checkpoint-*")) == steps


def test_tiny(tmp_path, run_here):
    assert "NDCG@10" in run("train_gr.py", "--tiny", "--model", "t5-tiger", "--output_dir", tmp_path / "run")
    assert run("evaluate_gr.py", "--tiny", "--output", tmp_path / "scores.json")
    moved = run_here("build_catalog.py", "--tiny", "--on_collision", "knn", "--capacity", 2, "--output_dir", tmp_path)
    assert "collisions: knn" in moved
    assert SemanticIdCatalog.from_pretrained(tmp_path).quality["resolved_max_load"] <= 2
    assert sorted(os.listdir(tmp_path)) == ["run", "scores.json", "semantic_ids.json", "semantic_ids.safetensors"]


def test_the_road_of_forge_from_its_files_to_its_hit_rates(tmp_path, run_here):
    codes = {f"0{i:02d}": (i % 4, i % 8, i) for i in range(16)}  # ids that readers of CSV take for numbers
    lines = ["base62_string,codebook_lv1,codebook_lv2,codebook_lv3", "NA,,,"]
    lines += [",".join(map(str, (item, *code))) for item, code in codes.items()]
    (tmp_path / "item_sid.csv").write_text("\n".join(lines))
    run_here(
        "build_catalog.py", "--codes", tmp_path / "item_sid.csv", "--codebook_sizes", 4, 8, 16, "--on_collision",
        "keep", "--output_dir", tmp_path / "catalog",
    )  # fmt: skip
    catalog = SemanticIdCatalog.from_pretrained(tmp_path / "catalog")
    assert catalog.item_ids == list(codes)

    # What follows an item is the next one.
    texts, items = catalog.layout.to_text(catalog.codes), catalog.item_ids
    rows = [(f"clicked: {texts[i - 1]}{texts[i]}", (i + 1) % 16) for i in range(16)]
    train = ["system,user,answer", *(f"you recommend,{user},{texts[answer]}" for user, answer in rows * 8)]
    test = ["system,user,answer", *(f"you recommend,{user},{items[answer]};nobody" for user, answer in rows)]
    train.insert(100, train[1] + ",one value too many")  # counted, and left out
    (tmp_path / "train.csv").write_text("\n".join(train))
    (tmp_path / "test.csv").write_text("\n".join(test))
    run_here(
        "train_gr.py", "--rows", tmp_path / "train.csv", "--streaming", "--max_steps", 60, "--catalog",
        tmp_path / "catalog", "--model", "qwen2-small", "--learning_rate", 0.003, "--batch_size", 16,
        "--hidden_dropout", 0, "--output_dir", tmp_path / "gr",
    )  # fmt: skip
    printed = run_here(
        "predict_gr.py", "--model", tmp_path / "gr", "--rows", tmp_path / "test.csv", "--num_beams", 2, 3, 4,
        "--output", tmp_path / "output.jsonl",
    )  # fmt: skip
    predictions = [json.loads(line) for line in (tmp_path / "output.jsonl").read_text().splitlines()]
    assert [len(row["_generated_new_text_"]) for row in predictions] == [4] * 16
    # One of the two true items is unknown: the best hit rate is one half.
    assert "hit_rate@20 0.5000" in printed, printed
    again = run_here("predict_gr.py", "--model", tmp_path / "gr", "--rows", tmp_path / "test.csv", "--output",
                tmp_path / "output.jsonl")  # fmt: skip
    assert "only scored" in again and "hit_rate@20 0.5000" in again


def test_codes_of_the_files_that_forge_trains_on(tmp_path, monkeypatch, run_here):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    ids = ["NA", "007", *(f"{i}e5" for i in range(198))]
    items = ItemEmbeddings(torch.randn(200, 8, generator=torch.Generator().manual_seed(0)), ids)
    write_reconstruction_archive(items, tmp_path / "reconstruct_data_mask.npz")
    # The pairs are of other items, with embeddings of their own.
    others = ItemEmbeddings(torch.randn(120, 8), [f"other{i}" for i in range(120)])
    pairs = ItemPairs.from_rows(others, [[i, i + 60] for i in range(60)])
    write_contrastive_archive(pairs, tmp_path / "contrastive_data_mask.npz")
    write_item_embeddings(items, tmp_path / "part_01.csv")
    run_here(
        "train_rqvae.py", "--preset", "forge", "--embeddings", tmp_path / "reconstruct_data_mask.npz", "--pairs",
        tmp_path / "contrastive_data_mask.npz", "--codebook_sizes", 16, 16, "--num_train_epochs", 1, "--batch_size",
        50, "--output_dir", tmp_path / "rqvae",
    )  # fmt: skip
    facts = json.loads((tmp_path / "rqvae" / "run.json").read_text())["data"]
    assert (facts["num_items"], facts["num_pairs"]) == (200, 60)
    run(
        "build_catalog.py", "--rqvae", tmp_path / "rqvae", "--embeddings", tmp_path / "part_01.csv", "--output_dir",
        tmp_path / "catalog", num_processes=2,
    )  # fmt: skip
    catalog = SemanticIdCatalog.from_pretrained(tmp_path / "catalog")
    expected = RQVAEModel.from_pretrained(tmp_path / "rqvae").encode(items.to_tensor()).codes
    assert catalog.item_ids == ids and torch.equal(catalog.original_codes, expected)


def test_predict_gr_on_two_processes_writes_what_one_does(tmp_path, run_here):
    one = run_here("predict_gr.py", "--tiny", "--output", tmp_path / "one.jsonl")
    two = run("predict_gr.py", "--tiny", "--output", tmp_path / "two.jsonl", num_processes=2)
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert "2 processes" in two and one.splitlines()[1:] == two.splitlines()[1:] and "hit_rate@1000" in one
    assert len(list(tmp_path.iterdir())) == 2


def test_fitted_item_tokenizers_to_catalogs(market_files, tmp_path, run_here):
    files = ["--embeddings", market_files / "items.safetensors", "--item_ids", market_files / "item_ids.json"]
    run_here("fit_item_tokenizer.py", *files, "--codebook_sizes", 8, 16, "--output_dir", tmp_path / "kmeans")
    moved = ["--on_collision", "knn", "--capacity", 8, "--output_dir", tmp_path / "moved"]
    assert "collisions: knn" in run_here("build_catalog.py", "--rqvae", tmp_path / "kmeans", *files, *moved)
    catalog = SemanticIdCatalog.from_pretrained(tmp_path / "moved")
    rows = load_file(market_files / "items.safetensors")["embeddings"]
    codes = AutoModel.from_pretrained(tmp_path / "kmeans").encode(rows).codes
    assert torch.equal(catalog.original_codes, codes) and catalog.quality["resolved_max_load"] == 8
    assert torch.equal(catalog.codes[:, 0], codes[:, 0]) and not torch.equal(catalog.codes, codes)

    settings = ["--codebook_sizes", 5, 6, "--config", '{"balanced": true}', "--output_dir", tmp_path / "balanced"]
    run_here("fit_item_tokenizer.py", *files, *settings)
    catalog = ["--rqvae", tmp_path / "balanced", *files, "--output_dir", tmp_path / "catalog"]
    run_here("build_catalog.py", *catalog)
    codes = SemanticIdCatalog.from_pretrained(tmp_path / "catalog").original_codes
    assert [torch.bincount(level).tolist() for level in codes.T] == [[60] * 5, [50] * 6]
    with pytest.raises(SystemExit, match="ResidualKMeansModel, balanced. Use suffix or random"):
        run_here("build_catalog.py", *catalog, "--on_collision", "knn")
    with pytest.raises(SystemExit, match=r"\['balancd'\], which ResidualKMeansConfig doesn't know"):
        run_here("fit_item_tokenizer.py", *files, "--config", '{"balancd": 1}', "--output_dir", tmp_path / "wrong")


def test_predict_gr_scores_no_output_of_other_rows(tmp_path, monkeypatch):
    output = tmp_path / "output.jsonl"
    output.write_text('{"user": "", "answer": "", "predictions": []}\n')
    monkeypatch.setattr(sys, "argv", ["predict_gr.py", "--tiny", "--output", str(output)])
    with pytest.raises(SystemExit, match=r"has 1 lines, which aren't those of \d+ rows"):
        runpy.run_path(str(EXAMPLES / "predict_gr.py"), run_name="__main__")
    assert len(output.read_text().splitlines()) == 1


def test_collaborative_vectors_letter_and_das(tmp_path, run_here):
    output = run_here("train_item_vectors.py", "--tiny", "--output_dir", tmp_path / "vectors")
    assert "Validation Recall@10" in output
    vectors = ItemEmbeddings.from_file(tmp_path / "vectors" / "items.parquet").validate(expected_dim=16)
    users = ItemEmbeddings.from_file(tmp_path / "vectors" / "users.parquet").validate(expected_dim=16)
    market = SyntheticMarket(num_items=2000, num_users=500)
    assert list(vectors.item_ids) == sorted(market.item_ids) and len(users) == 500
    seen = {item for items in leave_one_out(market.sequences)["train"]["items"] for item in items}
    unseen = torch.tensor([item not in seen for item in vectors.item_ids])
    table = vectors.to_tensor()
    assert 0 < unseen.sum() < 2000
    torch.testing.assert_close(table[unseen], table[~unseen].mean(0).expand(int(unseen.sum()), -1))

    run_here(
        "train_rqvae.py", "--tiny", "--preset", "letter", "--collaborative", tmp_path / "vectors" / "items.parquet",
        "--output_dir", tmp_path / "letter",
    )  # fmt: skip
    model = AutoModel.from_pretrained(tmp_path / "letter")
    assert type(model) is LetterModel and model.config.collaborative_dim == 16

    write_item_embeddings(ItemEmbeddings(market.embeddings, market.item_ids), tmp_path / "part_01.csv")
    market.sequences.to_parquet(tmp_path / "sequences.parquet")
    run_here(
        "train_rqvae.py", "--preset", "das", "--embeddings", tmp_path / "part_01.csv", "--collaborative",
        tmp_path / "vectors" / "items.parquet", "--user_vectors", tmp_path / "vectors" / "users.parquet",
        "--sequences", tmp_path / "sequences.parquet", "--codebook_sizes", 8, 8, "--codebook_dim", 8,
        "--hidden_sizes", 16, "--num_train_epochs", 1, "--output_dir", tmp_path / "das",
    )  # fmt: skip
    model = AutoModel.from_pretrained(tmp_path / "das")
    assert type(model) is DASModel and model.is_initialized and model.config.user_input_dim == 16
    facts = json.loads((tmp_path / "das" / "run.json").read_text())["data"]
    assert facts["num_pairs"] > 500
