# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures: how evenly a catalog's codes are used, what the first code means, and curves of what was measured."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..checks import check_integer, check_type
from ..hub import write_then_rename
from ..semantic_ids.catalog import SemanticIdCatalog
from ..semantic_ids.quality import codebook_perplexity, codebook_utilization


__all__ = ["plot_categories_by_first_code", "plot_codebook_usage", "plot_curves"]

# The Okabe-Ito palette, told apart under every common colour blindness.
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"]
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#595959"
# Curves differ in more than colour: marker and line, too.
_STYLES = [
    {"color": BLUE, "marker": "o", "linestyle": "-"},
    {"color": ORANGE, "marker": "s", "linestyle": "--"},
    {"color": "#009E73", "marker": "^", "linestyle": "-."},
    {"color": "#CC79A7", "marker": "D", "linestyle": ":"},
    {"color": GREY, "marker": "v", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
]


def plot_codebook_usage(catalog: SemanticIdCatalog, path: str | os.PathLike) -> None:
    """
    Draws how many items each code holds, one panel a level, codes from the fullest to the emptiest; the broken line is
    an even spread. Titles give the share of codes in use and the perplexity (how many codes an even use would need).

    Args:
        catalog ([`SemanticIdCatalog`]):
            The catalog to draw.
        path (`str` or `os.PathLike`):
            PNG file to write.

    Example:

    ```python
    >>> import tempfile
    >>> from forge_hf.evaluation import plot_codebook_usage
    >>> from forge_hf.semantic_ids import SemanticIdCatalog

    >>> catalog = SemanticIdCatalog.from_codes(["a", "b"], [[0, 1], [2, 1]], codebook_sizes=[3, 2])
    >>> folder = tempfile.mkdtemp()
    >>> plot_codebook_usage(catalog, f"{folder}/codebook_usage.png")
    ```
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    check_type("catalog", catalog, SemanticIdCatalog)
    sizes = catalog.layout.codebook_sizes
    used = codebook_utilization(catalog.codes, sizes).tolist()
    perplexity = codebook_perplexity(catalog.codes, sizes).tolist()
    figure = Figure(figsize=(3.4 * len(sizes) + 0.4, 3.3), layout="constrained")
    axes = figure.subplots(1, len(sizes), squeeze=False)[0]
    for level, (axis, size) in enumerate(zip(axes, sizes, strict=True)):
        load = np.sort(np.bincount(catalog.codes[:, level].numpy(), minlength=size))[::-1]
        axis.stairs(load, np.arange(size + 1), fill=True, color=BLUE, alpha=0.85)
        axis.axhline(len(catalog) / size, color=ORANGE, linestyle="--", linewidth=1.4)
        is_suffix = catalog.on_collision == "suffix" and level == len(sizes) - 1
        name = "Suffix level" if is_suffix else f"Level {level + 1}"
        axis.set_title(
            f"{name}: {size:,} codes\n{used[level]:.0%} used, perplexity {perplexity[level]:,.1f}", fontsize=10
        )
        axis.set_xlim(0, size)
        axis.set_ylim(0, None)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    axes[0].set_ylabel("Items of a code")
    figure.supxlabel("Codes, fullest first (broken line: an even spread)", fontsize=10)
    save_figure(figure, path)


def plot_categories_by_first_code(
    catalog: SemanticIdCatalog, categories: Mapping | Sequence, path: str | os.PathLike, max_categories: int = 20
) -> None:
    """
    Draws which categories the items of each first code are of: a column a code, as wide as it has items; a row a
    category, dark where most of the code's items are of it. Codes are ordered by their commonest category, so that
    first codes which follow the categories show as a staircase.

    Args:
        catalog ([`SemanticIdCatalog`]):
            The catalog to draw.
        categories (`Mapping` or `Sequence`):
            The category of every item: by item id, or in the order of `catalog.item_ids`.
        path (`str` or `os.PathLike`):
            PNG file to write.
        max_categories (`int`, *optional*, defaults to 20):
            How many of the commonest categories have a row of their own; the others share one.

    Raises:
        `ValueError`: if an item has no category.

    Example:

    ```python
    >>> import tempfile
    >>> from forge_hf.evaluation import plot_categories_by_first_code
    >>> from forge_hf.semantic_ids import SemanticIdCatalog

    >>> catalog = SemanticIdCatalog.from_codes(["a", "b"], [[0, 1], [2, 1]], codebook_sizes=[3, 2])
    >>> folder = tempfile.mkdtemp()
    >>> plot_categories_by_first_code(catalog, {"a": "Tents", "b": "Mugs"}, f"{folder}/categories.png")
    ```
    """
    from matplotlib.figure import Figure

    check_type("catalog", catalog, SemanticIdCatalog)
    check_integer("max_categories", max_categories)
    names, counts = _count_categories(catalog, categories)
    purity = counts.max(axis=0).sum() / len(catalog)
    folded = len(names) > max_categories
    if folded:
        counts = np.vstack([counts[:max_categories], counts[max_categories:].sum(axis=0)])
        names = [*names[:max_categories], f"{len(names) - max_categories} others"]
    num_items = counts.sum(axis=0)
    shares = counts / num_items
    # Codes of the same commonest category stand together, the purest first.
    main = shares.argmax(axis=0)
    order = np.lexsort([-shares.max(axis=0), main])
    edges = np.concatenate([[0], np.cumsum(num_items[order])])

    figure = Figure(figsize=(9, 1.6 + 0.3 * len(names)), layout="constrained")
    axis = figure.subplots()
    style = {"vmin": 0, "vmax": 1, "edgecolors": "white", "linewidth": 0.4 if len(order) <= 128 else 0}
    rows, shares = np.arange(len(names) + 1), shares[:, order]
    mesh = axis.pcolormesh(edges, rows, shares, cmap="Blues", **style)
    if folded:  # many categories in one row: not to be read like the others
        axis.pcolormesh(edges, rows[-2:], shares[-1:], cmap="Greys", **style)
    # Lines where one group of codes ends and the next one begins.
    axis.vlines(edges[1:-1][np.diff(main[order]) > 0], 0, len(names), color=GREY, linewidth=0.7)
    axis.set_title(f"{purity:.0%} of items are of the commonest category of their first code", fontsize=11)
    axis.set_xlabel(f"Items by first code ({len(order):,} codes in use), grouped by the code's commonest category")
    axis.set_yticks(np.arange(len(names)) + 0.5, names)
    axis.invert_yaxis()
    axis.tick_params(left=False, labelsize=9)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    bar = figure.colorbar(mesh, ax=axis, shrink=0.8, pad=0.01, ticks=[0, 0.5, 1], format="{x:.0%}")
    bar.set_label("Share of the code's items", fontsize=9)
    bar.outline.set_visible(False)
    save_figure(figure, path)


def plot_curves(panels: Sequence[Mapping], path: str | os.PathLike) -> None:
    """
    Draws measurements as curves, in one or more panels side by side.

    Args:
        panels (`Sequence[Mapping]`):
            For each panel, `curves`: a dict from the name of each curve (up to 5) to its `(xs, ys)`; and, as wanted,
            `title`, `xlabel`, `ylabel`, `percent` (whether ys are shares, written as percentages) and `log` (`"x"`,
            `"y"` or `"xy"`: which axes are logarithmic). Axes that aren't begin at 0.
        path (`str` or `os.PathLike`):
            PNG file to write.

    Raises:
        `ValueError`: if a panel has no curves or more than 5.

    Example:

    ```python
    >>> import tempfile
    >>> from forge_hf.evaluation import plot_curves

    >>> recall = {"beam search": ([5, 10], [0.04, 0.06]), "popularity": ([5, 10], [0.01, 0.02])}
    >>> folder = tempfile.mkdtemp()
    >>> plot_curves([{"curves": recall, "xlabel": "K", "ylabel": "Recall@K"}], f"{folder}/recall.png")
    ```
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    if len(panels) == 0:
        raise ValueError("`panels` is empty: give at least one.")
    for panel in panels:
        if "curves" not in panel:
            raise ValueError(f"A panel of `panels` must have `curves`, got {sorted(panel)}.")
        if not 1 <= len(panel["curves"]) <= len(_STYLES):
            raise ValueError(f"A panel must have 1 to {len(_STYLES)} `curves`, got {len(panel['curves'])}.")
        for name, (xs, ys) in panel["curves"].items():
            if len(xs) != len(ys) or len(xs) == 0 or not np.isfinite([*xs, *ys]).all():
                raise ValueError(
                    f"`curves` must have as many finite numbers for x as for y, but {name!r} has {len(xs)} and "
                    f"{len(ys)}, or some that aren't."
                )
    figure = Figure(figsize=(4.6 * len(panels) + 0.2, 4), layout="constrained")
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        curves = panel["curves"].values()
        for name, (xs, ys), style in zip(panel["curves"], curves, _STYLES, strict=False):
            axis.plot(xs, ys, label=name, markersize=4.5, linewidth=1.6, **style)
        if "x" in panel.get("log", ""):
            axis.set_xscale("log")
            axis.set_xticks(sorted({x for xs, _ in curves for x in xs}), minor=False)
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_locator(NullLocator())
        else:
            axis.set_xlim(0, None)
            if all(float(x).is_integer() for xs, _ in curves for x in xs):
                axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        if "y" in panel.get("log", ""):
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:,g}")
            axis.yaxis.set_minor_locator(NullLocator())
        else:
            axis.set_ylim(0, None)
        if panel.get("percent"):
            axis.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.4g}%")
        axis.set_title(panel.get("title", ""), fontsize=11)
        axis.set_xlabel(panel.get("xlabel", ""), fontsize=10)
        axis.set_ylabel(panel.get("ylabel", ""), fontsize=10)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
        axis.legend(frameon=False, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17))
    save_figure(figure, path)


def category_labels(catalog: SemanticIdCatalog, categories: Mapping | Sequence) -> np.ndarray:
    """The category of every item of the catalog, as text."""
    if isinstance(categories, Mapping):
        missing = [item for item in catalog.item_ids if item not in categories]
        if missing:
            raise ValueError(f"`categories` lacks {len(missing)} items of the catalog, such as {missing[:5]}.")
        categories = [categories[item] for item in catalog.item_ids]
    if isinstance(categories, str) or not isinstance(categories, Sequence | np.ndarray):
        raise ValueError(f"`categories` must be one for each item, got {type(categories).__name__}.")
    if len(categories) != len(catalog):
        raise ValueError(f"`categories` has {len(categories)} entries for a catalog of {len(catalog)} items.")
    return np.array([str(category) for category in categories])


def _count_categories(catalog: SemanticIdCatalog, categories: Mapping | Sequence) -> tuple[list[str], np.ndarray]:
    """Categories, commonest first, and their items of shape `(categories, first codes in use)`."""
    labels = category_labels(catalog, categories)
    names, rows = np.unique(labels, return_inverse=True)
    by_count = np.argsort(-np.bincount(rows), kind="stable")
    rank = np.empty_like(by_count)
    rank[by_count] = np.arange(len(names))
    codes, columns = np.unique(catalog.codes[:, 0].numpy(), return_inverse=True)
    counts = np.bincount(rank[rows] * len(codes) + columns, minlength=len(names) * len(codes))
    return [str(name) for name in names[by_count]], counts.reshape(len(names), len(codes))


def save_figure(figure, path: str | os.PathLike) -> None:
    """Writes a figure as PNG, whole or not at all."""
    write_then_rename(Path(path), lambda temporary: figure.savefig(temporary, format="png", dpi=150))
