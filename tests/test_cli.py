# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forge_hf.cli import app
from forge_hf.demo import run_demo
from forge_hf.hub import render_card
from forge_hf.hub.folder import read_folder
from forge_hf.training import create_retriever


def test_importing_prints_nothing_and_leaves_training_for_later():
    code = (
        "import sys, forge_hf; from transformers import AutoConfig; "
        "assert AutoConfig.for_model('rqvae').model_type == 'rqvae'; "
        "assert not any(m in sys.modules for m in ('transformers.trainer', 'peft', 'faiss', 'matplotlib'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_recommend(ring_folder):
    done = CliRunner().invoke(app, ["recommend", str(ring_folder), "100", "101", "--top-k", "3"])
    assert done.exit_code == 0, done.output
    rows = [line.split("\t") for line in done.stdout.strip().splitlines()]
    assert len(rows) == 3 and not {"100", "101"} & {row[0] for row in rows}
    scores = [float(row[2]) for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_recommend_says_in_one_line_what_is_wrong(ring_folder):
    done = CliRunner().invoke(app, ["recommend", str(ring_folder), "999"])
    assert done.exit_code == 2
    assert "999" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def ring_folder(tmp_path):
    from forge_hf.semantic_ids import SemanticIdCatalog

    codes = [[i // 8, i % 8] for i in range(40)]
    catalog = SemanticIdCatalog.from_codes(list(range(100, 140)), codes, codebook_sizes=[5, 8], on_collision="keep")
    model, tokenizer = create_retriever("qwen2-small", catalog, hidden_size=32, num_hidden_layers=1)
    for part in (model, tokenizer, catalog):
        part.save_pretrained(tmp_path)
    return tmp_path


def test_demo_is_the_same_each_time(tmp_path):
    """In this process, and in a fresh one in which sets of strings have another order."""
    options = {"num_items": 60, "num_users": 90, "num_train_epochs": 1}
    code = f"from forge_hf.demo import run_demo; run_demo({str(tmp_path / 'second')!r}, **{options})"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    run_demo(tmp_path / "first", **options)
    facts = [read_folder(tmp_path / name / "retriever") for name in ("first", "second")]
    assert facts[0].files == facts[1].files and "model.safetensors" in facts[0].files
    same = ["results.json", *(f"retriever/{name}" for name in facts[0].files if name != "run.json")]
    for name in same:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    assert render_card(facts[0], "me/demo") == render_card(facts[1], "me/demo")
    for fact in facts:
        assert fact.run["training"].pop("seconds") > 0
    assert facts[0].run == facts[1].run
    run_demo(tmp_path / "first", seed=1, **options)
    assert (tmp_path / "first" / "results.json").read_bytes() != (tmp_path / "second" / "results.json").read_bytes()


def test_demo_is_better_than_its_baselines(tmp_path, capsys):
    results = run_demo(tmp_path, num_items=300, num_users=600, num_train_epochs=6)
    recall = {name: metrics["recall@10"] for name, metrics in results.items()}
    baselines = ("random", "popularity", "neighbours of the last item")
    assert max(recall[name] for name in baselines) < recall["forge_hf"] < recall["best possible"] + 0.03
    assert json.loads((tmp_path / "results.json").read_text()).keys() == results.keys()
    for picture in ("codebook_usage.png", "categories_by_first_code.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert "p = " in capsys.readouterr().out
    assert Path(tmp_path, "retriever", "semantic_ids.json").exists()
