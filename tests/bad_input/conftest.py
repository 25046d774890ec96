# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Small whole parts, made once, and a folder for each test."""

import json
import shutil
import time

import pytest

from forge_hf.hub import describe_hardware, describe_versions

from .world import Parts, World


COMMAND = "python -m pytest tests/bad_input --fuzz-examples {} --fuzz-results results/bad_input.json"


@pytest.fixture(scope="session")
def tally(request):
    """How much was tried, written to `--fuzz-results` in the end."""
    started, counts = time.perf_counter(), {"table": {"rows": 0, "entry_points": set()}, "fuzz": {}}
    yield counts
    path = request.config.getoption("--fuzz-results")
    if path:
        fuzz = counts["fuzz"]
        results = {
            "command": COMMAND.format(request.config.getoption("--fuzz-examples")),
            "hardware": describe_hardware(),
            "versions": describe_versions(),
            "seconds": round(time.perf_counter() - started),
            "table": counts["table"] | {"entry_points": len(counts["table"]["entry_points"])},
            "inputs": sum(of["tried"] for of in fuzz.values()),
            "failed_tests": request.session.testsfailed,
            "parsers": fuzz,
        }
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(results, indent=2) + "\n")


@pytest.fixture(scope="session")
def parts():
    return Parts()


@pytest.fixture(scope="session")
def saved(parts, tmp_path_factory):
    """Folders that rows copy and damage."""
    folder = tmp_path_factory.mktemp("saved")
    parts.catalog.save_pretrained(folder / "catalog")
    parts.rqvae.save_pretrained(folder / "rqvae")
    for part in (parts.model, parts.tokenizer, parts.catalog, parts.table):
        part.save_pretrained(folder / "retriever")
    shutil.copytree(folder / "retriever", folder / "adapter")
    (folder / "adapter" / "config.json").unlink()
    (folder / "adapter" / "model.safetensors").rename(folder / "adapter" / "adapter_model.safetensors")
    adapter = {"base_model_name_or_path": "Qwen/Qwen2.5-0.5B", "auto_mapping": {}}
    adapter["auto_mapping"]["semantic_id_fingerprint"] = parts.catalog.fingerprint
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(adapter))
    return {kind: folder / kind for kind in ("adapter", "catalog", "retriever", "rqvae")}


@pytest.fixture
def world(parts, saved, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets_cache")
    folder = tmp_path / "world"
    folder.mkdir()
    return World(parts, folder, saved)
