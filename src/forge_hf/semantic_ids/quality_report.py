# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Every metric of a catalog's semantic IDs in one object, measured without training a retriever."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..checks import check_integer, check_integers, check_type
from ..errors import InvalidEmbeddingsError, UnknownItemError
from .catalog import SemanticIdCatalog
from .neighbors import embedding_hit_rate, nearest_neighbors
from .quality import codes_quality, pairs_by_shared_prefix, prefix_purity, random_pairs_by_shared_prefix


if TYPE_CHECKING:
    from ..data.embeddings import ItemEmbeddings


__all__ = ["SemanticIdQuality", "semantic_id_quality"]


@dataclass(frozen=True)
class SemanticIdQuality:
    """
    What [`semantic_id_quality`] measured. Lists hold one number for the first code, the first two, and so on; or one a
    level (`utilization`, `perplexity`). All are of the codes that the item tokenizer gave
    ([`~SemanticIdCatalog.original_codes`]: without a suffix, and before items were moved), except the three
    `resolved_` ones. What lacked its data is `None`.

    Args:
        num_items (`int`):
            Number of items.
        collision_rate (`float`):
            `1 - (distinct semantic IDs) / (items)`.
        max_load (`int`):
            The most items of one semantic ID.
        gini (`float`):
            Gini coefficient of how many items the occupied semantic IDs hold ([`gini`]).
        resolved_collision_rate (`float`), resolved_max_load (`int`), resolved_gini (`float`):
            The same three of the catalog's own codes: after collisions were dealt with.
        utilization (`list[float]`):
            Share of the codes of each level that are used.
        perplexity (`list[float]`):
            How many codes of each level it would take if all were used equally.
        prefix_collision_rates (`list[float]`):
            Collision rate of the first codes.
        embedding_hit_rate (`dict[str, float]`, *optional*):
            By `K`, how much of what occurs together with an item is among its `K` nearest neighbours in the embedding
            space ([`embedding_hit_rate`]). It knows no codes: it is what they can keep at best.
        prefix_purity (`list[float]`, *optional*):
            Share of items whose category is the commonest of those that share their first codes ([`prefix_purity`]).
        prefix_purity_by_chance (`list[float]`, *optional*):
            The same with categories dealt out at random. `(purity - chance) / (1 - chance)` is 0 for codes that know
            nothing of categories, 1 for codes that tell them.
        neighbors_sharing_prefix (`list[float]`, *optional*):
            Share of the items' nearest neighbours in the embedding space that have the first codes in common with
            them.
        pairs_sharing_prefix (`list[float]`, *optional*):
            The same of items that occur together.
        random_pairs_sharing_prefix (`list[float]`, *optional*):
            The same of any two different items: what the two before are to be compared with.
        num_queries (`int`, *optional*):
            How many items' neighbours were looked for.
        num_neighbors (`int`, *optional*):
            How many of them count in `neighbors_sharing_prefix`.
        num_pairs (`int`, *optional*):
            How many different pairs occur.
    """

    num_items: int
    collision_rate: float
    max_load: int
    gini: float
    resolved_collision_rate: float
    resolved_max_load: int
    resolved_gini: float
    utilization: list[float]
    perplexity: list[float]
    prefix_collision_rates: list[float]
    embedding_hit_rate: dict[str, float] | None = None
    prefix_purity: list[float] | None = None
    prefix_purity_by_chance: list[float] | None = None
    neighbors_sharing_prefix: list[float] | None = None
    pairs_sharing_prefix: list[float] | None = None
    random_pairs_sharing_prefix: list[float] | None = None
    num_queries: int | None = None
    num_neighbors: int | None = None
    num_pairs: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """What was measured, as JSON can hold it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def semantic_id_quality(
    catalog: SemanticIdCatalog,
    embeddings: "ItemEmbeddings | torch.Tensor | np.ndarray | None" = None,
    pairs: Sequence | np.ndarray | torch.Tensor | None = None,
    categories: Mapping | Sequence | None = None,
    ks: Sequence[int] = (20, 100, 500, 1000),
    num_neighbors: int = 10,
    num_queries: int = 10_000,
    seed: int = 0,
) -> SemanticIdQuality:
    """
    Measures semantic IDs without training a retriever: how evenly they are used, and what they know of items.

    Args:
        catalog ([`SemanticIdCatalog`]):
            The catalog.
        embeddings ([`ItemEmbeddings`], `torch.Tensor` or `np.ndarray` of shape `(num_items, dim)`, *optional*):
            Embeddings of its items: by their ids, of more items than the catalog's if need be; or a table in the order
            of `catalog.item_ids`. They give the neighbours.
        pairs (`Sequence`, `np.ndarray` or `torch.Tensor` of shape `(num_pairs, 2)`, *optional*):
            Ids of items that occur together, in any order, such as neighbours in sequences
            ([`~data.adjacent_pairs`]). With `embeddings` they give the embedding hit rate.
        categories (`Mapping` or `Sequence`, *optional*):
            The category of every item, `None` where there is none: by item id, or in the order of `catalog.item_ids`.
        ks (`Sequence[int]`, *optional*, defaults to `(20, 100, 500, 1000)`):
            For the embedding hit rate. Those that aren't below the number of items are left out.
        num_neighbors (`int`, *optional*, defaults to 10):
            Number of nearest neighbours for `neighbors_sharing_prefix`.
        num_queries (`int`, *optional*, defaults to 10,000):
            Neighbours are looked for of at most so many items, drawn at random: of those that occur in `pairs`, if
            given. The search is exact, over all items ([`~semantic_ids.neighbors.nearest_neighbors`]).
        seed (`int`, *optional*, defaults to 0):
            Seed of the draw.

    Returns:
        [`SemanticIdQuality`]

    Raises:
        [`UnknownItemError`]: `pairs` names an item that isn't in the catalog, or `embeddings` or `categories` lack
            one that is.
        [`InvalidEmbeddingsError`]: `embeddings` are a table of another length, or aren't finite.
        `ValueError`: `pairs` or `categories` have another shape, or a number isn't positive.

    Example:

    ```python
    >>> from forge_hf.semantic_ids import SemanticIdCatalog, semantic_id_quality

    >>> codes = [[1, 2], [0, 3], [1, 2]]
    >>> catalog = SemanticIdCatalog.from_codes(["shirt", "shoe", "sock"], codes, codebook_sizes=[4, 4])
    >>> quality = semantic_id_quality(catalog, categories=["top", "foot", "foot"])
    >>> quality.max_load, quality.resolved_max_load, round(quality.gini, 3)
    (2, 1, 0.167)
    ```
    """
    check_type("catalog", catalog, SemanticIdCatalog)
    check_integers("ks", ks)
    check_integer("num_neighbors", num_neighbors)
    check_integer("num_queries", num_queries)
    check_integer("seed", seed, 0)
    codes = catalog.original_codes
    sizes = catalog.layout.codebook_sizes[: codes.shape[1]]
    # What can be refused is refused before anything is measured.
    labels = None if categories is None else _labels(catalog, categories)
    rows = None if pairs is None else _pair_rows(catalog, pairs)
    items = None if embeddings is None else _items(catalog, embeddings)
    found: dict[str, Any] = {}
    if labels is not None:
        purity, chance = prefix_purity(codes, labels, seed)
        found |= {"prefix_purity": purity.tolist(), "prefix_purity_by_chance": chance.tolist()}
    if rows is not None:
        found |= {"pairs_sharing_prefix": pairs_by_shared_prefix(codes, rows).tolist(), "num_pairs": len(rows)}
    if items is not None:
        found |= _measure_neighbors(codes, items, rows, ks, num_neighbors, num_queries, seed)
    if rows is not None or items is not None:
        found["random_pairs_sharing_prefix"] = random_pairs_by_shared_prefix(codes).tolist()
    return SemanticIdQuality(**codes_quality(codes, catalog.codes, sizes), **found)


def _measure_neighbors(
    codes: torch.Tensor,
    items: "ItemEmbeddings",
    pairs: np.ndarray | None,
    ks: Sequence[int],
    num_neighbors: int,
    num_queries: int,
    seed: int,
) -> dict[str, Any]:
    queries = np.arange(len(codes)) if pairs is None else np.unique(pairs)
    if len(queries) > num_queries:
        queries = np.sort(np.random.default_rng(seed).choice(queries, num_queries, replace=False))
    num_neighbors = min(num_neighbors, len(codes) - 1)
    ks = [k for k in ks if k < len(codes)] if pairs is not None else []
    neighbors = nearest_neighbors(items, queries, max([num_neighbors, *ks]))
    near = neighbors[:, :num_neighbors].reshape(-1)
    found = {
        "neighbors_sharing_prefix": pairs_by_shared_prefix(
            codes, np.stack([np.repeat(queries, num_neighbors), near], axis=1)
        ).tolist(),
        "num_queries": len(queries),
        "num_neighbors": num_neighbors,
    }
    if ks:
        rates = embedding_hit_rate(pairs, queries, neighbors, ks)
        found["embedding_hit_rate"] = {str(k): rate for k, rate in zip(ks, rates, strict=True)}
    return found


def _labels(catalog: SemanticIdCatalog, categories: Mapping | Sequence) -> Sequence:
    if isinstance(categories, Mapping):
        missing = [item for item in catalog.item_ids if item not in categories]
        if missing:
            raise UnknownItemError(f"`categories` lack {len(missing)} items of the catalog, such as {missing[:5]}.")
        categories = [categories[item] for item in catalog.item_ids]
    if len(categories) != len(catalog):
        raise ValueError(f"`categories` has {len(categories)} entries for a catalog of {len(catalog)} items.")
    return categories


def _pair_rows(catalog: SemanticIdCatalog, pairs: Sequence | np.ndarray | torch.Tensor) -> np.ndarray:
    """Different pairs of different items as rows of the catalog, each once, whatever its order."""
    pairs = pairs if isinstance(pairs, torch.Tensor | np.ndarray) else np.array(pairs, dtype=object)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"`pairs` must be item ids of shape (num_pairs, 2), got {tuple(pairs.shape)}.")
    rows = np.sort(catalog.indices_for(pairs.reshape(-1)).numpy().reshape(-1, 2), axis=1)
    rows = rows[rows[:, 0] < rows[:, 1]]
    if len(rows) == 0:
        raise ValueError("`pairs` hold no pair of two different items.")
    keys = np.unique(rows[:, 0] * len(catalog) + rows[:, 1])
    return np.stack([keys // len(catalog), keys % len(catalog)], axis=1)


def _items(catalog: SemanticIdCatalog, embeddings: "ItemEmbeddings | torch.Tensor | np.ndarray") -> "ItemEmbeddings":
    """The embeddings in the order of the catalog."""
    from ..data.embeddings import ItemEmbeddings

    if len(catalog) < 2:
        raise ValueError("A catalog of one item has no neighbours: leave `embeddings` out.")
    if not isinstance(embeddings, ItemEmbeddings):
        if len(embeddings) != len(catalog):
            raise InvalidEmbeddingsError(
                f"`embeddings` must have one row for each of the {len(catalog)} items of the catalog, in their order, "
                f"got {len(embeddings)}. `ItemEmbeddings` with item ids may have more, in any order."
            )
        return ItemEmbeddings(embeddings)
    row_of = {item: row for row, item in enumerate(embeddings.item_ids)}
    order = np.array([row_of.get(item, -1) for item in catalog.item_ids])
    if (order < 0).any():
        missing = [item for item, row in zip(catalog.item_ids, order, strict=True) if row < 0]
        raise UnknownItemError(f"`embeddings` lack {len(missing)} items of the catalog, such as {missing[:5]}.")
    if np.array_equal(order, np.arange(len(embeddings))):
        return embeddings
    return ItemEmbeddings(_Reordered(embeddings, order))


class _Reordered:
    """Some rows of embeddings, in another order, as a table."""

    def __init__(self, items: "ItemEmbeddings", order: np.ndarray):
        self.items, self.order = items, order
        self.shape = (len(order), items.dim)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.items.__getitems__(self.order[rows])["embeddings"].numpy()
