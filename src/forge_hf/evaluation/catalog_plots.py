# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of a whole catalog: how many items a semantic ID holds, and the tree of the first codes."""

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from ..checks import check_integer, check_type
from ..semantic_ids.catalog import SemanticIdCatalog
from ..semantic_ids.quality import gini, prefix_groups
from .plots import BLUE, GREY, ORANGE, PALETTE, category_labels, save_figure


__all__ = ["plot_load_curves", "plot_prefix_tree"]


def plot_load_curves(catalog: SemanticIdCatalog, path: str | os.PathLike) -> None:
    """
    Draws how unevenly items lie on semantic IDs and on their prefixes. On the left, the items of each, fullest first.
    On the right, the Lorenz curve: the share of items on the emptiest 10 %, 20 %, ... of those in use; the diagonal is
    an even load, and the Gini coefficient is twice the area between. Curves are of the codes that the item tokenizer
    gave, and one more of the catalog's own where items were moved.

    Args:
        catalog ([`SemanticIdCatalog`]):
            The catalog to draw.
        path (`str` or `os.PathLike`):
            PNG file to write.

    Example:

    ```python
    >>> import tempfile
    >>> from forge_hf.evaluation import plot_load_curves
    >>> from forge_hf.semantic_ids import SemanticIdCatalog

    >>> catalog = SemanticIdCatalog.from_codes(["a", "b"], [[0, 1], [2, 1]], codebook_sizes=[3, 2])
    >>> folder = tempfile.mkdtemp()
    >>> plot_load_curves(catalog, f"{folder}/load_curves.png")
    ```
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    check_type("catalog", catalog, SemanticIdCatalog)
    curves = _load_curves(catalog)
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    shades = colormaps["Blues"](np.linspace(0.4, 0.95, len(curves)))
    for number, (name, codes, moved) in enumerate(curves):
        loads = np.sort(np.unique(prefix_groups(codes)[-1], return_counts=True)[1])
        style = {"linewidth": 1.8, "color": shades[number], "linestyle": ["-", "--", "-.", ":"][-1 - number % 4]}
        if number == len(curves) - 1 - curves[-1][2]:  # whole semantic IDs
            style |= {"linewidth": 2.4, "linestyle": "-"}
        if moved:
            style = {"linewidth": 2, "color": ORANGE, "linestyle": "--"}
        left.step(np.arange(1, len(loads) + 1), loads[::-1], where="post", **style)
        shares = np.concatenate([[0], np.cumsum(loads) / loads.sum()])
        right.plot(
            np.linspace(0, 1, len(shares)), shares, label=f"{name}: Gini {gini(codes):.3f}", **style, clip_on=False
        )
    left.set(xscale="log", yscale="log", xlim=(0.8, None), ylim=(0.8, None), title="Load, fullest first")
    left.set_xlabel("Rank among those in use", fontsize=10)
    left.set_ylabel("Items", fontsize=10)
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    right.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (1, 2)))
    right.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title="Lorenz curves")
    right.set_xlabel("Share of those in use, emptiest first", fontsize=10)
    right.set_ylabel("Share of items", fontsize=10)
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_formatter(lambda share, _: f"{share:.0%}")
    right.legend(frameon=False, fontsize=9, loc="upper left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.tick_params(labelsize=9)
        axes.title.set_fontsize(11)
    save_figure(figure, path)


def _load_curves(catalog: SemanticIdCatalog) -> list[tuple[str, torch.Tensor, bool]]:
    """Name, codes, and whether they are those after items were moved; few enough to be told apart."""
    codes = catalog.original_codes
    lengths = range(max(1, codes.shape[1] - 4), codes.shape[1])
    curves = [("first code" if n == 1 else f"first {n} codes", codes[:, :n], False) for n in lengths]
    curves.append(("semantic ID", codes, False))
    if catalog.on_collision not in ("keep", "suffix") and codes is not catalog.codes:
        curves.append((f"after '{catalog.on_collision}'", catalog.codes, True))
    return curves


def plot_prefix_tree(
    catalog: SemanticIdCatalog,
    path: str | os.PathLike,
    categories: Mapping | Sequence | None = None,
    max_categories: int = 7,
) -> None:
    """
    Draws the first two levels as rings: an arc a code, as long as it has items, and outside of it the codes that
    follow it, fullest first. With `categories`, an arc has the colour of the commonest category of its items, the
    paler the smaller that category's share; without, an arc is the darker the more items it has.

    Args:
        catalog ([`SemanticIdCatalog`]):
            The catalog to draw.
        path (`str` or `os.PathLike`):
            PNG file to write.
        categories (`Mapping` or `Sequence`, *optional*):
            The category of every item: by item id, or in the order of `catalog.item_ids`.
        max_categories (`int`, *optional*, defaults to 7):
            How many of the commonest categories have a colour of their own, 7 at most; the others share grey.

    Raises:
        `ValueError`: if an item has no category.

    Example:

    ```python
    >>> import tempfile
    >>> from forge_hf.evaluation import plot_prefix_tree
    >>> from forge_hf.semantic_ids import SemanticIdCatalog

    >>> catalog = SemanticIdCatalog.from_codes(["a", "b"], [[0, 1], [2, 1]], codebook_sizes=[3, 2])
    >>> folder = tempfile.mkdtemp()
    >>> plot_prefix_tree(catalog, f"{folder}/prefix_tree.png", categories={"a": "Tents", "b": "Mugs"})
    ```
    """
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    check_type("catalog", catalog, SemanticIdCatalog)
    check_integer("max_categories", max_categories)
    codes = catalog.original_codes[:, :2]
    groups = prefix_groups(codes)
    legend = []
    if categories is None:
        labels, colors = np.zeros(len(catalog), dtype=np.int64), np.array([to_rgb(BLUE)])
    else:
        names, labels = np.unique(category_labels(catalog, categories), return_inverse=True)
        by_count = np.argsort(-np.bincount(labels), kind="stable")
        rank = np.argsort(by_count)
        labels = rank[labels]
        shown = min(max_categories, len(PALETTE), len(names))
        colors = np.array([to_rgb(color) for color in [*PALETTE[:shown], *["#999999"] * (len(names) - shown)]])
        counts = np.bincount(labels)
        rows = [(str(names[by_count[row]]), counts[row]) for row in range(shown)]
        if len(names) > shown:
            rows.append((f"{len(names) - shown} others", counts[shown:].sum()))
        legend = [
            Patch(color=color, label=f"{_shorten(name)}  {count / len(catalog):.0%}")
            for (name, count), color in zip(rows, colors, strict=False)
        ]
    rings = _rings(groups, labels, colors, shade_by_size=categories is None)
    figure = Figure(figsize=(8.6 if legend else 6.4, 6.6), layout="constrained")
    axis = figure.subplots()
    axis.imshow(_draw_rings(rings), extent=(-1, 1, -1, 1))
    axis.text(0, 0, f"{len(catalog):,}\nitems", ha="center", va="center", fontsize=13, color=GREY)
    axis.set_axis_off()
    title = f"{rings[0].num_arcs:,} first codes"
    if len(rings) > 1:
        title = f"Inner ring: {title}. Outer ring: {rings[1].num_arcs:,} prefixes of two codes"
    axis.set_title(title, fontsize=11)
    if legend:
        figure.legend(
            handles=legend, title="Commonest category\n(pale where mixed)", frameon=False, fontsize=9,
            title_fontsize=9, loc="outside right center", alignment="left",
        )  # fmt: skip
    save_figure(figure, path)


class _Ring(NamedTuple):
    """Arcs of one ring, in their order around it."""

    ends: np.ndarray  # share of the items up to the end of each arc
    colors: np.ndarray  # of shape `(num_arcs, 3)`

    @property
    def num_arcs(self) -> int:
        return len(self.ends)


def _rings(groups: np.ndarray, labels: np.ndarray, colors: np.ndarray, shade_by_size: bool) -> list[_Ring]:
    """One ring a level of `groups`. Arcs lie within those of the level before, by commonest category, then by size."""
    rings, parents = [], np.zeros(len(labels), dtype=np.int64)
    for group in groups:
        cells, counts = np.unique(group * len(colors) + labels, return_counts=True)
        sizes = np.bincount(group)
        fullest = np.lexsort([-counts, cells // len(colors)])
        fullest = fullest[np.unique(cells[fullest] // len(colors), return_index=True)[1]]
        main, share = cells[fullest] % len(colors), counts[fullest] / sizes
        if shade_by_size:
            share = np.sqrt(sizes / sizes.max())
        parent = np.zeros(len(sizes), dtype=np.int64)
        parent[group] = parents
        order = np.lexsort([-sizes, main, parent])
        alpha = (0.12 + 0.88 * share[order])[:, None]
        rings.append(_Ring(np.cumsum(sizes[order]) / len(labels), 1 - alpha * (1 - colors[main[order]])))
        parents = np.argsort(order)[group]
    return rings


def _draw_rings(rings: list[_Ring], num_pixels: int = 1000) -> np.ndarray:
    """An image of shape `(num_pixels, num_pixels, 3)`. Its cost doesn't grow with the number of arcs."""
    image = np.ones((2 * num_pixels, 2 * num_pixels, 3), dtype=np.float32)  # twice as fine: edges become smooth
    across = np.linspace(-1, 1, 2 * num_pixels, dtype=np.float32)
    radius = np.hypot(across, across[:, None])
    bounds = np.linspace(0.3, 0.985, len(rings) + 1)
    for level, (inner, outer) in enumerate(pairwise(bounds)):
        rows, columns = np.nonzero((radius >= inner + 0.006) & (radius < outer))
        turn = (
            np.arctan2(across[columns].astype(np.float64), -across[rows]) / (2 * np.pi) % 1
        )  # clockwise from the top
        pixels = np.pi * num_pixels * radius[rows, columns]  # of a whole turn
        line = np.zeros(len(rows), dtype=bool)
        # Arcs of the level before show in this one, too. Between arcs that are hardly wider than a line there is none.
        for ring, width in zip(rings[: level + 1], [0.9] * level + [0.5], strict=True):
            arc = np.searchsorted(ring.ends, turn, side="right").clip(max=ring.num_arcs - 1)
            starts = np.concatenate([[0], ring.ends[:-1]])
            wide = (ring.ends - starts) * np.pi * num_pixels * (inner + outer) / 2 > 5
            line |= (np.minimum(turn - starts[arc], ring.ends[arc] - turn) * pixels < width) & wide[arc]
        image[rows, columns] = np.where(line[:, None] & (rings[0].num_arcs > 1), 1, rings[level].colors[arc])
    return image.reshape(num_pixels, 2, num_pixels, 2, 3).mean(axis=(1, 3))


def _shorten(name: str) -> str:
    return name if len(name) <= 28 else name[:27] + "…"
