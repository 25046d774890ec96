# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Tests of the pictures of a catalog: what they draw, read back from the figure."""

import numpy as np
import pytest
import torch
from matplotlib import image
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from forge_hf.evaluation import catalog_plots, plot_load_curves, plot_prefix_tree
from forge_hf.evaluation.plots import PALETTE
from forge_hf.semantic_ids import SemanticIdCatalog, SemanticIdLayout


CODES = [[3, 0], [0, 1], [0, 1], [0, 2], [2, 2], [2, 2]]


@pytest.fixture
def figures(monkeypatch):
    saved = []
    original = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (saved.append(self), original(self, *args, **kw)))
    return saved


def test_load_curves(figures, tmp_path):
    catalog = SemanticIdCatalog.from_codes(
        list("abcdef"), CODES, codebook_sizes=[4, 4], on_collision="random", capacity=1
    )
    plot_load_curves(catalog, tmp_path / "load.png")
    assert image.imread(tmp_path / "load.png").std() > 0.01
    left, right = figures[0].axes
    assert [line.get_ydata().tolist() for line in left.lines] == [[3, 2, 1], [2, 2, 1, 1], [1] * 6]
    first, whole, moved, even = right.lines
    np.testing.assert_allclose(first.get_ydata(), [0, 1 / 6, 1 / 2, 1])
    np.testing.assert_allclose(whole.get_ydata(), [0, 1 / 6, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(moved.get_ydata(), moved.get_xdata(), atol=1e-12)
    names = [text.get_text() for text in right.get_legend().get_texts()]
    assert names == ["first code: Gini 0.222", "semantic ID: Gini 0.167", "after 'random': Gini 0.000"]
    assert len({line.get_linestyle() for line in right.lines[:2]}) == 2
    # The Gini coefficient is one less twice the area under the curve, and a little more, as loads come in steps.
    area = np.trapezoid(whole.get_ydata(), whole.get_xdata())
    assert 1 - 2 * area == pytest.approx(1 / 6)


@pytest.mark.parametrize("on_collision", ["keep", "suffix"])
def test_load_curves_are_of_the_item_tokenizers_codes(figures, tmp_path, on_collision):
    catalog = SemanticIdCatalog.from_codes(list("abcdef"), CODES, codebook_sizes=[4, 4], on_collision=on_collision)
    plot_load_curves(catalog, tmp_path / "load.png")
    assert [line.get_ydata().tolist() for line in figures[0].axes[0].lines] == [[3, 2, 1], [2, 2, 1, 1]]


def test_prefix_tree_by_category(figures, tmp_path):
    catalog = SemanticIdCatalog.from_codes(list("abcdef"), CODES, codebook_sizes=[4, 4], on_collision="suffix")
    categories = dict(zip("abcdef", ["Mugs", "Tents", "Mugs", "Mugs", "Tents", "Mugs"], strict=True))
    plot_prefix_tree(catalog, tmp_path / "tree.png", categories)
    assert image.imread(tmp_path / "tree.png").std() > 0.01
    (axis,) = figures[0].axes
    assert axis.get_title() == "Inner ring: 3 first codes. Outer ring: 4 prefixes of two codes"
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["Mugs  67%", "Tents  33%"]
    drawn = axis.images[0].get_array()

    def color_at(turn, radius):
        size = len(drawn)
        return drawn[
            int(size / 2 * (1 - radius * np.cos(2 * np.pi * turn))),
            int(size / 2 * (1 + radius * np.sin(2 * np.pi * turn))),
        ]

    mugs = np.array(to_rgb(PALETTE[0]))
    pale = lambda color, share: 1 - (0.12 + 0.88 * share) * (1 - color)  # noqa: E731
    # Clockwise: code 0 (2 of 3 are mugs), code 2 (half, the commoner category first), code 3 (one mug).
    for turn, inner in ((0.25, pale(mugs, 2 / 3)), (0.6, pale(mugs, 1 / 2)), (0.9, mugs)):
        np.testing.assert_allclose(color_at(turn, 0.5), inner, atol=0.02)
    # Within code 0: (0, 1) holds two, mixed, then (0, 2) one mug.
    for turn, outer in ((0.15, pale(mugs, 1 / 2)), (0.42, mugs), (0.6, pale(mugs, 1 / 2)), (0.9, mugs)):
        np.testing.assert_allclose(color_at(turn, 0.8), outer, atol=0.02)
    for radius in (0.5, 0.8):  # the line between codes 0 and 2, white over two half pixels
        assert color_at(0.5, radius).mean() > pale(mugs, 1 / 2).mean() + 0.1
    assert color_at(0.3, 0.1).tolist() == [1, 1, 1]


def test_prefix_tree_without_categories_and_of_one_level(figures, tmp_path):
    catalog = SemanticIdCatalog.from_codes([1, 2, 3], [[0], [1], [1]], codebook_sizes=[2], on_collision="keep")
    plot_prefix_tree(catalog, tmp_path / "tree.png")
    assert figures[0].axes[0].get_title() == "2 first codes" and not figures[0].legends
    with pytest.raises(ValueError, match="lacks 2 items"):
        plot_prefix_tree(catalog, tmp_path / "none.png", {1: "a"})
    assert not (tmp_path / "none.png").exists()


def test_rare_categories_share_grey(figures, tmp_path):
    catalog = SemanticIdCatalog(range(12), torch.arange(12)[:, None] % 4, SemanticIdLayout([4]))
    plot_prefix_tree(catalog, tmp_path / "tree.png", [f"category {n % 10}" for n in range(12)], max_categories=3)
    texts = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert texts == ["category 0  17%", "category 1  17%", "category 2  8%", "7 others  58%"]


def test_many_arcs_cost_no_more(tmp_path):
    count = 300_000
    groups = np.stack([np.arange(count) // 40, np.arange(count)])
    rings = catalog_plots._rings(groups, np.zeros(count, dtype=np.int64), np.zeros((1, 3)), shade_by_size=True)
    assert [ring.num_arcs for ring in rings] == [7500, count]
    assert catalog_plots._draw_rings(rings, num_pixels=100).shape == (100, 100, 3)
