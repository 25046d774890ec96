# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What `forge-hf report` does: a catalog and files about its items -> metrics, a table, pictures."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .data import ItemEmbeddings, adjacent_pairs
from .data.pairs import find_rows, like_ids, read_pairs, read_table, read_training_sequences
from .errors import DuplicateItemError, UnknownItemError
from .evaluation import plot_categories_by_first_code, plot_codebook_usage, plot_load_curves, plot_prefix_tree
from .hub import read_json, write_folder, write_json
from .semantic_ids import SemanticIdCatalog, SemanticIdQuality, semantic_id_quality


__all__ = ["format_quality", "read_categories", "run_report"]


def run_report(
    catalog: SemanticIdCatalog,
    embeddings: str | os.PathLike | None = None,
    pairs: str | os.PathLike | None = None,
    sequences: str | os.PathLike | None = None,
    categories: str | os.PathLike | None = None,
    category_column: str = "category",
    output_dir: str | os.PathLike | None = None,
    **options,
) -> SemanticIdQuality:
    """
    Measures a catalog by files, and writes `quality.json` and pictures.

    Args:
        catalog ([`SemanticIdCatalog`]):
            The catalog.
        embeddings (`str` or `os.PathLike`, *optional*):
            A file that [`ItemEmbeddings.from_file`] reads. Without item ids in it, rows are in the catalog's order.
        pairs (`str` or `os.PathLike`, *optional*):
            Items that occur together: a file that [`ItemPairs.from_file`] reads. Pairs with items that aren't in the
            catalog are left out; one warning says how many.
        sequences (`str` or `os.PathLike`, *optional*):
            Instead of `pairs`, sequences that [`read_sequences`] reads. Items that follow each other are pairs, each
            user's last two items left out: they are what retrievers are validated and tested on. Or AL-GR's
            `origin_behavior`, whose targets are left out.
        categories (`str` or `os.PathLike`, *optional*):
            A file with the columns `item_id` and `category_column`, such as `.csv`, `.tsv` or `.parquet`, or a JSON
            object from item id to category.
        category_column (`str`, *optional*, defaults to `"category"`):
            Name of that column. An empty value in CSV is no category.
        output_dir (`str` or `os.PathLike`, *optional*):
            Folder for `quality.json` and the pictures, all of them or none; nothing is written without it.
        **options:
            Further arguments of [`semantic_id_quality`].

    Returns:
        [`SemanticIdQuality`]

    Raises:
        [`UnknownItemError`]: no pair has both of its items in the catalog.
        [`OutputInUseError`], [`StorageError`]: another process is writing to `output_dir`, or the disk is full.
        `ValueError`: `pairs` and `sequences` are both given, or a file doesn't hold what it should.
    """
    if pairs is not None and sequences is not None:
        raise ValueError("Give `pairs` or `sequences`, not both: items that follow each other are pairs.")
    items = None if embeddings is None else ItemEmbeddings.from_file(embeddings)
    if items is not None and isinstance(items.item_ids, range):  # no ids in the file
        items = ItemEmbeddings.from_file(embeddings, item_ids=catalog.item_ids)
    named = None if categories is None else read_categories(categories, category_column, catalog)
    taken = None
    if pairs is not None:
        taken = read_pairs(pairs, catalog.item_ids)
    elif sequences is not None:
        columns = adjacent_pairs(read_training_sequences(sequences)).T
        taken = [like_ids(ids, catalog.item_ids) for ids in columns]
    if taken is not None:
        taken = _of_catalog(taken, catalog)
    quality = semantic_id_quality(catalog, items, taken, named, **options)
    if output_dir is not None:
        with write_folder(output_dir) as folder:
            write_json(folder / "quality.json", {"fingerprint": catalog.fingerprint, **quality.to_dict()})
            plot_load_curves(catalog, folder / "load_curves.png")
            plot_codebook_usage(catalog, folder / "codebook_usage.png")
            plot_prefix_tree(catalog, folder / "prefix_tree.png", named)
            if named is not None:
                plot_categories_by_first_code(catalog, named, folder / "categories_by_first_code.png")
    return quality


def _of_catalog(pairs: Sequence[pa.Array], catalog: SemanticIdCatalog) -> np.ndarray:
    """The pairs whose items are both in the catalog: one of AL-GR lacks the items without codes."""
    rows = [find_rows(catalog.item_ids, ids) for ids in pairs]
    known = pc.and_(rows[0].is_valid(), rows[1].is_valid())
    num_known = pc.sum(known).as_py() or 0
    if num_known == 0:
        raise UnknownItemError(f"None of the {len(known)} pairs has both of its items in the catalog.")
    if num_known < len(known):
        warnings.warn(
            f"Left out {len(known) - num_known} of {len(known)} pairs: with items that aren't in the catalog.",
            stacklevel=3,
        )
    return np.stack([ids.filter(known).to_numpy(zero_copy_only=False) for ids in pairs], axis=1)


def read_categories(path: str | os.PathLike, column: str, catalog: SemanticIdCatalog) -> dict[Any, str | None]:
    """The category of every item, by ids of the type of the catalog's."""
    if Path(path).suffix == ".json":
        if not Path(path).is_file():
            raise FileNotFoundError(f"`categories` {str(path)!r} is not a file.")
        named = read_json(path)
        if not named:
            raise ValueError(f"`categories` {str(path)!r} must hold a JSON object of categories by item id.")
        return dict(zip(like_ids(list(named), catalog.item_ids).to_pylist(), named.values(), strict=True))
    table = read_table(path, ["item_id", column])
    ids = like_ids(table["item_id"].combine_chunks(), catalog.item_ids).to_pylist()
    named = [None if category == "" else category for category in table[column].to_pylist()]
    categories = dict(zip(ids, named, strict=True))
    if len(categories) < len(ids):
        raise DuplicateItemError(f"`categories` {str(path)!r} names {len(ids) - len(categories)} items again.")
    return categories


def format_quality(quality: SemanticIdQuality, catalog: SemanticIdCatalog) -> str:
    """The metrics as aligned text."""
    found = quality
    sizes = catalog.layout.codebook_sizes[: len(found.utilization)]
    lines = [
        f"{found.num_items:,} items, codebook sizes {list(catalog.layout.codebook_sizes)}, collisions: "
        f"{catalog.on_collision}, fingerprint {catalog.fingerprint}",
        "",
    ]
    moved = catalog.on_collision != "keep"
    rows = [
        ["", "item tokenizer", *(["catalog"] if moved else [])],
        ["collision rate", f"{found.collision_rate:.2%}", f"{found.resolved_collision_rate:.2%}"],
        ["most items of one semantic ID", f"{found.max_load:,}", f"{found.resolved_max_load:,}"],
        ["Gini coefficient", f"{found.gini:.4f}", f"{found.resolved_gini:.4f}"],
    ]
    lines += _align([row[: len(rows[0])] for row in rows] if moved else [row[:2] for row in rows[1:]])

    rows = [["level", "codes", "in use", "perplexity"]]
    columns = zip(sizes, found.utilization, found.perplexity, strict=True)
    rows += [[str(n + 1), f"{size:,}", f"{used:.1%}", f"{even:,.1f}"] for n, (size, used, even) in enumerate(columns)]
    lines += ["", *_align(rows)]

    rows = [["with the first", *("1 code" if n == 1 else f"{n} codes" for n in range(1, len(sizes) + 1))]]
    for title, values in (
        ("collision rate", found.prefix_collision_rates),
        ("items of the commonest category", found.prefix_purity),
        ("  by chance", found.prefix_purity_by_chance),
        (f"of the {found.num_neighbors} nearest, those that share them", found.neighbors_sharing_prefix),
        ("of what occurs together", found.pairs_sharing_prefix),
        ("of random pairs", found.random_pairs_sharing_prefix),
    ):
        if values is not None:
            rows.append([title, *("<0.001%" if 0 < value < 1e-5 else f"{100 * value:.3g}%" for value in values)])
    lines += ["", *_align(rows)]
    if found.embedding_hit_rate is not None:
        rows = [["embedding hit rate", *(f"@{k}" for k in found.embedding_hit_rate)]]
        rows.append([f"  of {found.num_queries:,} items", *(f"{v:.4f}" for v in found.embedding_hit_rate.values())])
        lines += ["", *_align(rows)]
    return "\n".join(lines)


def _align(rows: list[list[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return ["  ".join(row) for row in cells]
