# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Artifacts are whole or absent: killed anywhere, on a full disk, and with two who write at once."""

import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModel

from forge_hf import (
    GenerativeRetrievalPipeline,
    ItemEmbeddings,
    RQVAEConfig,
    RQVAEModel,
    SemanticIdCatalog,
    create_retriever,
    load_retriever,
    report,
)
from forge_hf.data import write_item_embeddings, write_reconstruction_archive
from forge_hf.data.al_gr_embeddings import read_item_embeddings
from forge_hf.errors import CorruptFileError, ForgeError, OutputInUseError, StorageError
from forge_hf.generation import PrefixTable
from forge_hf.hub import (
    finish_interrupted,
    lock_file,
    lock_folder,
    read_folder,
    write_folder,
    write_json,
    write_run,
    write_then_rename,
)
from forge_hf.semantic_ids import catalog as catalog_module

from ..faults import full_points, in_child, kill_points, small_disk


KEY_FILES = {"config.json", "semantic_ids.json", "tokenizer_config.json", "quality.json"}


def make_catalog(version):
    num_items = [40, 900][version]
    codes = torch.randint(0, 30, (num_items, 3), generator=torch.Generator().manual_seed(version))
    return SemanticIdCatalog.from_codes([f"i{n}" for n in range(num_items)], codes, codebook_sizes=[30] * 3)


def make_retriever(version):
    catalog = SemanticIdCatalog.from_codes([1, 2, 3], [[0, version], [1, 0], [2, 2]], codebook_sizes=[3, 3])
    torch.manual_seed(version)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1 + version}
    model, tokenizer = create_retriever("qwen2-small", catalog, **sizes)
    return GenerativeRetrievalPipeline(model=model, tokenizer=tokenizer, catalog=catalog)


def make_item_tokenizer(version):
    torch.manual_seed(version)
    sizes = {"codebook_sizes": [8 + 40 * version] * 2}
    return RQVAEModel(RQVAEConfig(input_dim=8, hidden_sizes=[16], codebook_dim=4, **sizes))


@pytest.fixture(scope="module")
def artifacts():
    """By name, what writes version 0 or 1 of an artifact to a folder."""
    catalogs, retrievers, tokenizers = (
        [make(version) for version in (0, 1)] for make in (make_catalog, make_retriever, make_item_tokenizer)
    )
    tables = [PrefixTable.from_catalog(retriever.catalog, retriever.tokenizer) for retriever in retrievers]
    return {
        "catalog": lambda folder, version: catalogs[version].save_pretrained(folder),
        "item_tokenizer": lambda folder, version: tokenizers[version].save_pretrained(folder),
        "retriever": lambda folder, version: retrievers[version].save_pretrained(folder),
        "report": lambda folder, version: report.run_report(catalogs[version], output_dir=folder),
        "prefix_table": lambda folder, version: tables[version].save_pretrained(folder),
        "run": lambda folder, version: write_run(folder, {"metrics": list(range(10 + 2000 * version))}),
    }


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    def draw(catalog, path, *_):
        write_then_rename(path, lambda temporary: temporary.write_bytes(b"picture" * len(catalog)))

    monkeypatch.setattr(report, "plot_load_curves", draw)
    for name in ("plot_codebook_usage", "plot_prefix_tree"):
        monkeypatch.setattr(report, name, lambda *_: None)


def snapshot(folder):
    """Every file of a folder that isn't hidden; those of safetensors without the order of their metadata."""
    files = {name: (folder / name).read_bytes() for name in os.listdir(folder) if not name.startswith(".")}
    for name in files:
        if name.endswith(".safetensors"):
            end = 8 + int.from_bytes(files[name][:8], "little")
            files[name] = json.loads(files[name][8:end]), files[name][end:]
    return files


@pytest.fixture
def versions(artifacts, tmp_path):
    """What each version of an artifact looks like, in a folder of its own and after the other."""

    def look(name):
        write, looks = artifacts[name], []
        for version in (0, 1):
            folder = tmp_path / f"{name}-{version}"
            write(folder, version)
            assert not [path for path in folder.iterdir() if path.name.startswith(".")]
            looks.append(snapshot(folder))
        assert looks[0].keys() == looks[1].keys() and looks[0] != looks[1]
        return looks

    return look


def is_part(some, whole):
    return all(name in whole and whole[name] == content for name, content in some.items())


@pytest.mark.parametrize("name", ["catalog", "item_tokenizer", "retriever", "report", "prefix_table", "run"])
def test_killed_anywhere_leaves_the_old_or_the_new(artifacts, versions, name, tmp_path):
    write, (old, new) = artifacts[name], versions(name)
    folder, seen, points = tmp_path / "output", [], 0
    write(folder, 0)
    for points in kill_points(lambda: write(folder, 1)):
        before = snapshot(folder)
        # Those who know nothing of this package find files of one of the two, or nothing to begin with.
        assert is_part(before, old) or is_part(before, new) or not KEY_FILES & before.keys()
        finish_interrupted(folder)
        after = snapshot(folder)
        assert after in (old, new)
        seen.append(after == new)
        if points % 5 == 1:  # the killed writer doesn't block the next, and what it left is gone
            write(folder, 0)
            assert snapshot(folder) == old and {path.name for path in folder.iterdir()} == old.keys()
        else:
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / f"{name}-0", folder)
    assert snapshot(folder) == new and {path.name for path in folder.iterdir()} == new.keys()
    assert seen == sorted(seen) and seen[-1] and not seen[0] and points > 5  # the old, until there is the new


def test_new_weights_of_the_same_model_replace_the_old_at_once(tmp_path):
    old, new = make_item_tokenizer(0), make_item_tokenizer(0)
    with torch.no_grad():
        for weight in new.parameters():
            weight.add_(1)
    old.save_pretrained(tmp_path / "model")
    seen = set()
    for _ in kill_points(lambda: new.save_pretrained(tmp_path / "model")):
        weights = AutoModel.from_pretrained(tmp_path / "model").state_dict()
        is_new = torch.equal(weights["encoder.layers.0.bias"], new.encoder.layers[0].bias)
        expected = (new if is_new else old).state_dict()
        assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())
        seen.add(is_new)
        old.save_pretrained(tmp_path / "model")
    assert seen == {False, True}


@pytest.mark.parametrize("text", ['["../../victim"]', '["/victim"]', '["config.json"]', '[["a"]]', "{"])
def test_a_folder_of_somebody_else_removes_nothing(text, artifacts, tmp_path):
    folder, victim = tmp_path / "some" / "folder", tmp_path / "victim"
    artifacts["catalog"](folder, 0)
    victim.write_text("mine")
    (folder / ".whole").mkdir()
    (folder / ".whole" / ".stale.json").write_text(text.replace('"/victim', f'"{victim}'))
    files = snapshot(folder)
    with pytest.raises(CorruptFileError, match=r"stale.json"):
        SemanticIdCatalog.from_pretrained(folder)
    assert victim.read_text() == "mine" and snapshot(folder) == files


def test_a_folder_of_somebody_else_moves_nothing_in_or_out(artifacts, tmp_path):
    folder, others = tmp_path / "folder", tmp_path / "others"
    artifacts["catalog"](folder, 0)
    others.mkdir()
    (others / "mine").write_text("mine")
    (folder / ".whole").symlink_to(others)
    SemanticIdCatalog.from_pretrained(folder)
    assert os.listdir(others) == ["mine"] and not (folder / "mine").exists()
    (folder / ".whole").unlink()
    (folder / ".whole" / "sub").mkdir(parents=True)
    (folder / ".whole" / "sub" / "mine").write_text("theirs")
    (folder / "sub").symlink_to(others)
    with pytest.raises(CorruptFileError, match="outside of"):
        SemanticIdCatalog.from_pretrained(folder)
    assert (others / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["catalog", "item_tokenizer", "prefix_table", "run"])
def test_full_disk_leaves_what_was_there(artifacts, versions, name, tmp_path):
    write, (old, new) = artifacts[name], versions(name)
    folder, points = tmp_path / "output", 0
    write(folder, 0)
    for points in full_points(lambda: write(folder, 1)):  # noqa: B007
        if snapshot(folder) == old:
            assert {path.name for path in folder.iterdir()} == old.keys()
        else:  # all of the new was on the disk
            finish_interrupted(folder)
            assert snapshot(folder) == new
            write(folder, 0)
    assert snapshot(folder) == new and points > 3
    # A disk that takes a part of the largest file; libraries in other languages write there, too.
    write(folder, 0)
    largest = max(path.stat().st_size for path in (tmp_path / f"{name}-1").iterdir())
    for size in (0, largest // 2, largest - 1):
        assert small_disk(lambda: write(folder, 1), size)
        assert snapshot(folder) == old and {path.name for path in folder.iterdir()} == old.keys()
    assert small_disk(lambda: write(tmp_path / "nothing", 1), largest // 2)
    assert not (tmp_path / "nothing").exists() or not list((tmp_path / "nothing").iterdir())


def test_torn_writes_of_a_library_are_never_seen(artifacts, versions, tmp_path, monkeypatch):
    old, new = versions("catalog")
    folder = tmp_path / "output"
    artifacts["catalog"](folder, 0)

    def tear(tensors, path, **_):
        path.write_bytes(new["semantic_ids.safetensors"][1][:1000])
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(catalog_module, "save_file", tear)
    assert os.WIFSIGNALED(in_child(lambda: artifacts["catalog"](folder, 1)))
    monkeypatch.undo()
    assert snapshot(folder) == old
    assert len(SemanticIdCatalog.from_pretrained(folder)) == 40


def test_what_a_kill_left_half_moved_is_loaded_whole(artifacts, versions, tmp_path):
    """By all that read folders: each finishes the move."""
    _, new = versions("retriever")
    written = {path.name: path.read_bytes() for path in (tmp_path / "retriever-1").iterdir()}
    reads = [SemanticIdCatalog.from_pretrained, read_folder, load_retriever]
    moved_first = sorted(new)[:3]
    for number, read in enumerate(reads):
        folder = tmp_path / str(number)
        artifacts["retriever"](folder, 0)
        (folder / ".whole").mkdir()
        for name, content in written.items():
            (folder / (name if name in moved_first else f".whole/{name}")).write_bytes(content)
        read(folder)
        assert snapshot(folder) == new and not (folder / ".whole").exists()


def test_other_files_stay_and_old_weights_go(artifacts, tmp_path):
    folder = tmp_path / "output"
    artifacts["item_tokenizer"](folder, 0)
    old_weights = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    others = ["README.md", "semantic_ids.json", "checkpoint-3"]
    for name in [*old_weights, *others]:
        (folder / name).write_text(name)
    artifacts["catalog"](folder, 1)
    assert all((folder / name).exists() for name in old_weights)
    artifacts["item_tokenizer"](folder, 1)
    assert not any((folder / name).exists() for name in old_weights)
    assert (folder / "README.md").read_text() == "README.md" and (folder / "checkpoint-3").exists()
    assert len(SemanticIdCatalog.from_pretrained(folder)) == 900
    with pytest.raises(KeyError), write_folder(tmp_path / "new") as unfinished:
        (unfinished / "a").write_text("a")
        raise KeyError
    assert not (tmp_path / "new").exists()
    with write_folder(tmp_path / "new") as unfinished:
        (unfinished / "b").mkdir()
        (unfinished / "b" / "a").write_text("a")
    assert (tmp_path / "new" / "b" / "a").read_text() == "a" and len(list((tmp_path / "new").iterdir())) == 1


def other_thread(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_two_writers_refuse_each_other_and_a_killed_one_blocks_nobody(artifacts, versions, tmp_path):
    old, new = versions("catalog")
    folder = tmp_path / "output"
    artifacts["catalog"](folder, 0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with lock_folder(folder), lock_file(folder / "quality.json"):
            os.write(writing, b"x")
            time.sleep(600)
    os.read(reading, 1)
    with pytest.raises(OutputInUseError, match="Another process is writing to .*output") as caught:
        artifacts["catalog"](folder, 1)
    assert isinstance(caught.value, OSError) and isinstance(caught.value, ForgeError)
    with pytest.raises(OutputInUseError, match="quality.json"):
        write_json(folder / "quality.json", {})
    assert snapshot(folder) == old
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    artifacts["catalog"](folder, 1)
    assert snapshot(folder) == new and (folder / ".quality.json.lock").exists()
    write_json(folder / "quality.json", {})
    assert {path.name for path in folder.iterdir()} == {*new, "quality.json"}
    with lock_folder(folder):
        with lock_folder(folder):  # once more by the same thread
            pass
        with pytest.raises(OutputInUseError):
            other_thread(lambda: artifacts["catalog"](folder, 0))
        assert os.waitstatus_to_exitcode(in_child(lambda: artifacts["catalog"](folder, 0))) == 1
    artifacts["catalog"](folder, 0)
    assert snapshot(folder).items() >= old.items()


def test_one_at_a_time_though_locks_are_removed(tmp_path):
    """Several processes count in one file, which goes wrong as soon as two hold the lock."""
    path = tmp_path / "count"
    path.write_text("0")

    def count():
        for _ in range(40):
            with lock_folder(tmp_path, timeout=60):
                path.write_text(str(int(path.read_text()) + 1))

    children = []
    for _ in range(3):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                count()
                os._exit(0)
            except BaseException:
                os._exit(1)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert path.read_text() == "120" and os.listdir(tmp_path) == ["count"]


def test_a_disk_that_is_really_full(artifacts, versions, small_mount, tmp_path):
    rows = torch.randn(2000, 64)
    items = ItemEmbeddings(rows, item_ids=[f"i{n}" for n in range(2000)])
    write_item_embeddings(items, tmp_path / "items.csv")
    large = SemanticIdCatalog.from_codes(range(30_000), [[0, 0]] * 30_000, codebook_sizes=[1, 1], on_collision="keep")
    writes = {
        "catalog": lambda: large.save_pretrained(small_mount),
        "json": lambda: write_json(small_mount / "semantic_ids.json", list(range(100_000))),
        "csv": lambda: write_item_embeddings(items, small_mount / "items.csv"),
        "arrow": lambda: read_item_embeddings(tmp_path / "items.csv", small_mount / "items.arrow"),
        "npz": lambda: write_reconstruction_archive(items, small_mount / "items.npz"),
        "model": lambda: RQVAEModel(RQVAEConfig(input_dim=512, codebook_sizes=[256] * 3)).save_pretrained(small_mount),
    }
    artifacts["catalog"](small_mount, 0)
    old = snapshot(small_mount)
    for write in writes.values():
        with pytest.raises(StorageError, match=r"No space left on device.*disk.*Make room") as caught:
            write()
        assert isinstance(caught.value, OSError) and isinstance(caught.value, ForgeError)
        assert snapshot(small_mount) == old and {path.name for path in small_mount.iterdir()} == old.keys()
    assert len(SemanticIdCatalog.from_pretrained(small_mount)) == 40
