# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Small whole parts, made once, and a folder for each test."""

import pytest

from .world import Parts, World


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
    return {kind: folder / kind for kind in ("catalog", "retriever", "rqvae")}


@pytest.fixture
def world(parts, saved, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets_cache")
    folder = tmp_path / "world"
    folder.mkdir()
    return World(parts, folder, saved)
