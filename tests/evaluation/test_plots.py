# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures: written whole or not at all, with the numbers and the order that they claim."""

import matplotlib
import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from forge_hf.evaluation import plot_categories_by_first_code, plot_codebook_usage, plot_curves
from forge_hf.semantic_ids import SemanticIdCatalog


@pytest.fixture
def catalog():
    codes = [[0, 0], [0, 1], [0, 1], [2, 0], [2, 1], [3, 3]]
    return SemanticIdCatalog.from_codes(list("abcdef"), codes, codebook_sizes=[4, 4], on_collision="suffix")


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    saved, savefig = [], Figure.savefig

    def save(figure, *args, **options):
        saved.append(figure)
        savefig(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", save)
    return saved


def test_codebook_usage(catalog, figures, tmp_path):
    plot_codebook_usage(catalog, tmp_path / "usage.png")
    assert image.imread(tmp_path / "usage.png").std() > 0.01
    assert [path.name for path in tmp_path.iterdir()] == ["usage.png"]
    axes = figures[0].axes
    assert len(axes) == 3
    loads = [axis.patches[0].get_data().values.tolist() for axis in axes]
    assert loads == [[3, 2, 1, 0], [3, 2, 1, 0], [5, 1]]
    # p = 1/2, 1/3, 1/6
    perplexity = np.exp(-sum(p * np.log(p) for p in (1 / 2, 1 / 3, 1 / 6)))
    assert axes[0].get_title() == f"Level 1: 4 codes\n75% used, perplexity {perplexity:.1f}"
    assert axes[2].get_title().startswith("Suffix level: 2 codes")


@pytest.mark.parametrize("as_mapping", [True, False])
def test_categories_stand_in_a_staircase(catalog, figures, tmp_path, as_mapping):
    categories = dict(zip("abcdef", ["Mugs", "Tents", "Mugs", "Tents", "Tents", "Mugs"], strict=True))
    plot_categories_by_first_code(
        catalog, categories if as_mapping else list(categories.values()), tmp_path / "categories.png"
    )
    assert image.imread(tmp_path / "categories.png").std() > 0.01
    axis = figures[0].axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["Mugs", "Tents"]
    # Code 3 (one mug), code 0 (two mugs, one tent), code 2 (two tents).
    shares = axis.collections[0].get_array().reshape(2, 3)
    np.testing.assert_allclose(shares, [[1, 2 / 3, 0], [0, 1 / 3, 1]])
    assert "83% of items" in axis.get_title()


def test_rare_categories_share_a_row(catalog, figures, tmp_path):
    categories = ["Mugs", "Mugs", "Mugs", "Tents", "Bowls", "Pens"]
    plot_categories_by_first_code(catalog, categories, tmp_path / "categories.png", max_categories=1)
    axis = figures[0].axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["Mugs", "3 others"]
    assert "83% of items" in axis.get_title()  # of the categories themselves, not of the shared row


def test_missing_categories_are_refused(catalog, tmp_path):
    with pytest.raises(ValueError, match=r"lacks 5 items .*'b'"):
        plot_categories_by_first_code(catalog, {"a": "Mugs"}, tmp_path / "categories.png")
    with pytest.raises(ValueError, match="5 entries for a catalog of 6"):
        plot_categories_by_first_code(catalog, ["Mugs"] * 5, tmp_path / "categories.png")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_picture(catalog, monkeypatch, tmp_path):
    path = tmp_path / "usage.png"
    path.write_bytes(b"old")

    def fail(self, file, **options):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot_codebook_usage(catalog, path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_no_display_and_no_global_state_is_touched(catalog, tmp_path):
    backend = matplotlib.rcParams._get("backend")
    plot_codebook_usage(catalog, tmp_path / "usage.png")
    assert matplotlib.rcParams._get("backend") == backend


def test_curves_hold_what_was_measured(figures, tmp_path):
    curves = {"ours": ([1, 8, 32], [4.0, 20.0, 50.0]), "theirs": ([1, 8], [2.0, 3.0])}
    panels = [
        {"curves": curves, "title": "Speed", "xlabel": "Users", "ylabel": "Lists a second", "log": "x"},
        {"curves": {"share": ([0, 1], [0.0, 0.016])}, "percent": True},
    ]
    plot_curves(panels, tmp_path / "curves.png")
    assert image.imread(tmp_path / "curves.png").std() > 0.01
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    speed, share = figures[0].axes
    assert {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in speed.lines} == curves
    assert (speed.get_title(), speed.get_xlabel(), speed.get_ylabel()) == ("Speed", "Users", "Lists a second")
    assert speed.get_xscale() == "log" and speed.get_xlim()[0] > 0 and [*speed.get_xticks()] == [1, 8, 32]
    assert speed.get_yscale() == "linear" and speed.get_ylim()[0] == 0
    assert share.yaxis.get_major_formatter()(0.016) == "1.6%"
    # told apart without colour
    looks = {(line.get_marker(), line.get_linestyle()) for line in speed.lines}
    assert len(looks) == 2
    for number in (0, 6):
        with pytest.raises(ValueError, match=f"got {number}"):
            plot_curves([{"curves": {f"{n}": ([0], [0]) for n in range(number)}}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
