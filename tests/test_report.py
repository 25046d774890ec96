# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""`forge-hf report`: from files to a table, quality.json and pictures."""

import json
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from datasets import config
from safetensors.torch import save_file
from typer.testing import CliRunner

from forge_hf import SemanticIdCatalog, semantic_id_quality
from forge_hf.cli import app
from forge_hf.data import (
    ItemEmbeddings,
    ItemPairs,
    write_contrastive_archive,
    write_item_embeddings,
    write_reconstruction_archive,
)
from forge_hf.hub import read_folder, render_card
from forge_hf.report import format_quality, read_categories, run_report


SEQUENCES = [[1, 2, 3, 9, 9], [4, 5, 6, 7], [2, 1, 8, 9]]


@pytest.fixture(params=["int", "str"])
def files(request, tmp_path):
    """A catalog of ids of either type, and files about its items, in which ids may be of the other."""
    ids = list(range(1, 11))
    codes = torch.randint(4, (10, 3), generator=torch.Generator().manual_seed(0))
    catalog = SemanticIdCatalog.from_codes(
        ids if request.param == "int" else [*map(str, ids)], codes, codebook_sizes=[4] * 3, on_collision="suffix"
    )
    catalog.save_pretrained(tmp_path / "catalog")
    save_file(
        {"embeddings": torch.randn(10, 5, generator=torch.Generator().manual_seed(1))}, tmp_path / "e.safetensors"
    )
    pairs = np.array([[a, b] for items in SEQUENCES for a, b in zip(items[:-2], items[1:-2], strict=False)])
    np.save(tmp_path / "pairs.npy", pairs)
    pyarrow.csv.write_csv(pa.table({"a": pairs[:, 0], "b": pairs[:, 1]}), tmp_path / "pairs.csv")
    pyarrow.parquet.write_table(pa.table({"a": pairs[:, 0], "b": pairs[:, 1]}), tmp_path / "pairs.parquet")
    names = [["Mugs", "Tents"][n % 2] for n in ids]
    pyarrow.parquet.write_table(pa.table({"item_id": ids, "kind": names}), tmp_path / "items.parquet")
    (tmp_path / "items.json").write_text(json.dumps(dict(zip(ids, names, strict=True))))
    lines = [" ".join(map(str, [user, *items])) for user, items in enumerate(SEQUENCES)]
    (tmp_path / "sequences.txt").write_text("\n".join(lines) + "\n")
    return tmp_path, catalog, pairs


def test_files_give_what_arrays_give(files):
    folder, catalog, pairs = files
    own = [[type(catalog.item_ids[0])(item) for item in pair] for pair in pairs]
    for name in ("pairs.npy", "pairs.csv", "pairs.parquet"):
        assert run_report(catalog, pairs=folder / name) == semantic_id_quality(catalog, pairs=own)
    named = read_categories(folder / "items.parquet", "kind", catalog)
    assert named == read_categories(folder / "items.json", "kind", catalog)
    quality = run_report(
        catalog, folder / "e.safetensors", folder / "pairs.npy", categories=folder / "items.json", ks=(2, 5)
    )
    embeddings = torch.randn(10, 5, generator=torch.Generator().manual_seed(1))
    assert quality == semantic_id_quality(catalog, embeddings, own, named, ks=(2, 5))
    assert quality.embedding_hit_rate["5"] > 0


def test_sequences_give_adjacent_training_pairs(files):
    folder, catalog, _ = files
    assert run_report(catalog, sequences=folder / "sequences.txt") == run_report(catalog, pairs=folder / "pairs.npy")
    with pytest.raises(ValueError, match="not both"):
        run_report(catalog, pairs=folder / "pairs.npy", sequences=folder / "sequences.txt")


def test_the_command(files):
    folder, catalog, _ = files
    output = folder / "out"
    arguments = ["report", str(folder / "catalog"), "--embeddings", str(folder / "e.safetensors")]
    arguments += ["--pairs", str(folder / "pairs.csv"), "--categories", str(folder / "items.parquet")]
    arguments += ["--category-column", "kind", "--output-dir", str(output)]
    done = CliRunner().invoke(app, [*arguments, "--save"])
    assert done.exit_code == 0, done.output
    written = json.loads((output / "quality.json").read_text())
    assert written.pop("fingerprint") == catalog.fingerprint
    loaded = SemanticIdCatalog.from_pretrained(folder / "catalog")
    assert loaded.quality == written and loaded.fingerprint == catalog.fingerprint
    for picture in ("load_curves", "codebook_usage", "prefix_tree", "categories_by_first_code"):
        assert (output / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    for line in (
        "10 items, codebook sizes [4, 4, 4, ",
        f"Gini coefficient                       {written['gini']:.4f}   0.0000",
        f"of random pairs                           {100 * written['random_pairs_sharing_prefix'][0]:.3g}%",
    ):
        assert line in done.stdout, done.stdout
    # What was saved is on the card.
    card = render_card(read_folder(folder / "catalog"), "me/catalog")
    assert "**Embedding hit rate:**" not in card  # 20 neighbours are more than there are
    assert "| First codes | Commonest category | by chance | Nearest neighbours share them |" in card


def test_ids_that_look_like_something_else_stay_texts(tmp_path):
    ids = ["NA", "007", "1e5", "null"]
    catalog = SemanticIdCatalog.from_codes(ids, [[0, 0], [0, 1], [1, 0], [1, 1]], codebook_sizes=[2, 2])
    (tmp_path / "pairs.csv").write_text("a,b\nNA,007\n1e5,null\n")
    (tmp_path / "categories.csv").write_text("item_id,category\nNA,NA\n007,007\n1e5,\nnull,null\n")
    assert run_report(catalog, pairs=tmp_path / "pairs.csv").pairs_sharing_prefix == [1.0, 0.0]
    named = read_categories(tmp_path / "categories.csv", "category", catalog)
    assert named == {"NA": "NA", "007": "007", "1e5": None, "null": "null"}


def test_pairs_of_items_that_the_catalog_lacks_are_left_out_and_counted(files):
    folder, catalog, pairs = files
    strangers = np.array([[1, 99], [98, 2], [98, 99]])
    np.save(folder / "more.npy", np.concatenate([strangers, pairs]))
    arguments = ["report", str(folder / "catalog"), "--output-dir", str(folder / "out"), "--pairs"]
    with pytest.warns(UserWarning, match=f"Left out 3 of {len(pairs) + 3} pairs"):
        done = CliRunner().invoke(app, [*arguments, str(folder / "more.npy")])
    assert done.exit_code == 0, done.output
    own = np.array(pairs).astype(type(catalog.item_ids[0]))
    expected = semantic_id_quality(catalog, pairs=own.tolist()).to_dict()
    assert json.loads((folder / "out" / "quality.json").read_text()) == {
        "fingerprint": catalog.fingerprint,
        **expected,
    }
    np.save(folder / "none.npy", strangers)
    done = CliRunner().invoke(app, [*arguments, str(folder / "none.npy")])
    assert done.exit_code == 2 and "3 pairs" in done.stderr, done.output


def test_files_of_forge(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    ids = ["NA", "007", "1e5", "null"]
    catalog = SemanticIdCatalog.from_codes(ids, [[0, 0], [0, 1], [1, 0], [1, 1]], codebook_sizes=[2, 2])
    catalog.save_pretrained(tmp_path / "catalog")
    items = ItemEmbeddings(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), [*ids, "without codes"])
    pairs = [["NA", "007"], ["1e5", "null"]]
    write_item_embeddings(items, tmp_path / "part_01.csv")
    write_reconstruction_archive(items, tmp_path / "reconstruct.npz")
    write_contrastive_archive(ItemPairs(items, [*pairs, ["NA", "without codes"]]), tmp_path / "contrastive.npz")
    (tmp_path / "s1_tiny.csv").write_text("user_history,target_item\n007;NA,null\nnull;1e5,007\n")
    expected = semantic_id_quality(catalog, items, pairs, ks=(2,)).to_dict()
    for embeddings in ("part_01.csv", "reconstruct.npz"):
        for option, file in (("--pairs", "contrastive.npz"), ("--sequences", "s1_tiny.csv")):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the pair that is left out
                done = CliRunner().invoke(
                    app,
                    ["report", str(tmp_path / "catalog"), "--embeddings", str(tmp_path / embeddings), option]
                    + [str(tmp_path / file), "--output-dir", str(tmp_path / "out")],
                )
            assert done.exit_code == 0, done.output
            found = json.loads((tmp_path / "out" / "quality.json").read_text())
            for name in ("pairs_sharing_prefix", "neighbors_sharing_prefix", "num_pairs"):
                assert found[name] == expected[name]


def test_bad_files_are_refused_in_one_line(files):
    folder, catalog, _ = files
    np.save(folder / "flat.npy", np.arange(4))
    (folder / "list.json").write_text("[1]")
    (folder / "one.csv").write_text("a\n1\n")
    for options, match in (
        (["--pairs", "flat.npy"], "shape (num_pairs, 2)"),
        (["--pairs", "one.csv"], "two columns"),
        (["--pairs", "catalog.txt"], "catalog.txt"),
        (["--categories", "catalog.txt"], "catalog.txt"),
        (["--categories", "list.json"], "JSON object"),
        (["--categories", "items.parquet"], "lacks the columns ['category']"),
        (["--pairs", "nowhere.npy"], "nowhere.npy"),
    ):
        done = CliRunner().invoke(app, ["report", str(folder / "catalog"), options[0], str(folder / options[1])])
        assert done.exit_code == 2 and match in done.stderr and "Traceback" not in done.stderr
    done = CliRunner().invoke(app, ["report", "me/catalog", "--save"])
    assert done.exit_code == 2 and "is none" in done.stderr
    save_file({"embeddings": torch.eye(3)}, folder / "three.safetensors")
    with pytest.raises(ValueError, match="3 rows"):
        run_report(catalog, folder / "three.safetensors")


def test_a_table_of_codes_alone_and_of_moved_items():
    codes = torch.zeros(6, 2, dtype=torch.int64)
    kept = SemanticIdCatalog.from_codes(range(6), codes, codebook_sizes=[2, 4], on_collision="keep")
    lines = format_quality(semantic_id_quality(kept), kept).splitlines()
    assert lines[2:5] == [
        "collision rate                 83.33%",
        "most items of one semantic ID       6",
        "Gini coefficient               0.0000",
    ]
    moved = SemanticIdCatalog.from_codes(range(6), codes, codebook_sizes=[2, 4], on_collision="random", capacity=2)
    lines = format_quality(semantic_id_quality(moved), moved).splitlines()
    assert lines[4] == "most items of one semantic ID               6        2"
    assert all(line == line.rstrip() for line in lines)
