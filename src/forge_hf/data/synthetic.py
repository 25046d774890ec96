# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
The built-in market: a generated catalog, and users whose next item follows a law that is known exactly, so that the
best that any recommender can reach is known too.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from datasets import Dataset

from ..checks import check_histories, check_integer
from ..errors import InvalidSequencesError, UnknownItemError


__all__ = ["SyntheticMarket"]

# department -> category -> leaf category (its products are named by the singular)
_TREE = {
    "Kitchen": {
        "Cookware": ["Saucepan", "Skillet", "Stockpot"],
        "Tableware": ["Plate", "Bowl", "Mug"],
        "Coffee": ["Grinder", "Kettle", "Espresso Cup"],
    },
    "Outdoors": {
        "Camping": ["Tent", "Lantern", "Sleeping Bag"],
        "Hiking": ["Backpack", "Trekking Pole", "Water Bottle"],
        "Cycling": ["Helmet", "Bike Light", "Pannier"],
    },
    "Beauty": {
        "Skin Care": ["Face Cream", "Cleanser", "Serum"],
        "Hair Care": ["Shampoo", "Conditioner", "Hair Oil"],
        "Make-up": ["Lipstick", "Mascara", "Eye Shadow"],
    },
    "Studio": {
        "Writing": ["Fountain Pen", "Notebook", "Ink Bottle"],
        "Desk": ["Desk Lamp", "Desk Mat", "Pen Holder"],
        "Sound": ["Headphone", "Speaker", "Microphone"],
    },
}
# style -> its adjectives and its brands (all invented)
_STYLES = {
    "Minimal": (["Plain", "Slim", "Quiet", "Clear"], ["Norrby", "Tenku", "Fjell"]),
    "Rustic": (["Woven", "Earthen", "Hand-Made", "Hearth"], ["Oldmill", "Brackenwood", "Terrano"]),
    "Bold": (["Neon", "Giant", "Electric", "Vivid"], ["Zapporo", "Krakk", "Voltino"]),
    "Classic": (["Royal", "Heritage", "Velvet", "Gilded"], ["Ashcombe", "Delacour", "Winfield"]),
}


class SyntheticMarket:
    """
    A market of invented items and users, made from a seed.

    Every item has a leaf category of a three-level tree, a style, a brand, a title, a price and an embedding: the sum
    of a vector for each level of its category path, one for its style, and noise. Popularity falls by Zipf's law.

    **The law.** A user's first item is drawn by popularity. After an item of leaf category `c` and style `s`, the next
    one is drawn, by popularity within each group,

    - with probability 0.5 from the items of style `s` in the leaf category that succeeds `c`
      (`SUCCESSOR_PROBABILITY`);
    - with probability 0.2 from the items of `c`, of any style (`SAME_CATEGORY_PROBABILITY`);
    - otherwise from all items;

    and items that the user already has are ruled out, the rest keeping their proportions. The successor of a leaf
    category is fixed, and elsewhere in the tree, so an item's nearest neighbours are not what follows it; but it holds
    for all items of the category, so whoever reads category and style from the embeddings can learn it.

    Args:
        num_items (`int`, *optional*, defaults to 1000):
            Number of items, at least twice `max_length`. The number of leaf categories grows with it, to 36.
        num_users (`int`, *optional*, defaults to 3000):
            Number of users.
        embedding_dim (`int`, *optional*, defaults to 64):
            Width of the embeddings.
        min_length (`int`, *optional*, defaults to 5):
            Length of the shortest sequences.
        max_length (`int`, *optional*, defaults to 20):
            Length of the longest sequences; lengths are uniform between the two.
        seed (`int`, *optional*, defaults to 0):
            The same arguments and seed make the same market.

    Attributes:
        items ([`~datasets.Dataset`]): columns `item_id`, `title`, `brand`, `style`, `categories` (path from the
            department to the leaf), `top_category`, `leaf_category` and `price`.
        embeddings (`np.ndarray`): float32, of shape `(num_items, embedding_dim)`, rows as in `items`.
        sequences ([`~datasets.Dataset`]): columns `user_id` and `items`, in time order.

    Example:

    ```python
    >>> from forge_hf.data import SyntheticMarket

    >>> market = SyntheticMarket(num_items=200, num_users=50, seed=1)
    >>> histories = [sequence[:-1] for sequence in market.sequences["items"]]
    >>> market.next_item_probabilities(histories).shape
    (50, 200)
    >>> 0 < market.best_possible_recall(histories, k=10) < 1
    True
    ```
    """

    SUCCESSOR_PROBABILITY = 0.5
    SAME_CATEGORY_PROBABILITY = 0.2
    ZIPF_EXPONENT = 0.6

    def __init__(
        self,
        num_items: int = 1000,
        num_users: int = 3000,
        embedding_dim: int = 64,
        min_length: int = 5,
        max_length: int = 20,
        seed: int = 0,
    ):
        check_integer("max_length", max_length)
        check_integer("min_length", min_length, 1, max_length)
        check_integer("num_items", num_items, 2 * max_length)
        check_integer("num_users", num_users)
        check_integer("embedding_dim", embedding_dim)
        check_integer("seed", seed, 0)
        self.num_items = num_items
        self.num_users = num_users
        # One stream a part: more users don't change the items.
        item_rng, embedding_rng, user_rng = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(3))
        self._make_items(item_rng)
        self._make_embeddings(embedding_rng, embedding_dim)
        rows, lengths = self._simulate(user_rng, min_length, max_length)
        ids = np.asarray(self.item_ids)
        self.sequences = Dataset.from_dict(
            {
                "user_id": [f"U{user:06d}" for user in range(num_users)],
                "items": [ids[row[:length]].tolist() for row, length in zip(rows, lengths, strict=True)],
            }
        )

    def next_item_probabilities(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """
        The law, exactly: each user's probabilities of the next item.

        Args:
            histories (`list[list[str]]`):
                Item ids that each user already has, oldest first.

        Returns:
            `np.ndarray` of shape `(batch_size, num_items)`, columns in the order of `item_ids`: rows sum to 1, items
            of the history have 0.

        Raises:
            [`UnknownItemError`]: if a history names an item that isn't of this market.
            [`InvalidSequencesError`]: if a history is empty.
        """
        check_histories(histories)
        flat = [item for history in histories for item in history]
        unknown = [item for item in dict.fromkeys(flat) if item not in self._row_of]
        if unknown:
            raise UnknownItemError(f"`histories` name {len(unknown)} items that aren't of this market: {unknown[:5]}.")
        lengths = np.fromiter(map(len, histories), np.int64, len(histories))
        seen = np.fromiter(map(self._row_of.__getitem__, flat), np.int64, len(flat))
        probabilities = self._law[self._cells[seen[np.cumsum(lengths) - 1]]]
        probabilities[np.repeat(np.arange(len(histories)), lengths), seen] = 0
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def best_possible_recall(self, histories: Sequence[Sequence[str]], k: int) -> float:
        """
        Expected Recall@k of the best ranker there can be, which ranks by the law: the mean, over histories, of the sum
        of the `k` largest probabilities. (Items of the history have probability 0, so whether they are ruled out makes
        no difference to it.)
        """
        check_integer("k", k, 1, self.num_items)
        return self._best_possible(histories, np.ones(k))

    def best_possible_ndcg(self, histories: Sequence[Sequence[str]], k: int) -> float:
        """Expected NDCG@k of the ranker of [`~SyntheticMarket.best_possible_recall`], one true item a history."""
        check_integer("k", k, 1, self.num_items)
        return self._best_possible(histories, 1 / np.log2(np.arange(k) + 2))

    def _best_possible(self, histories: Sequence[Sequence[str]], gains: np.ndarray) -> float:
        if len(histories) == 0:
            raise InvalidSequencesError("`histories` has no rows.")
        total = 0.0
        for start in range(0, len(histories), 1024):
            probabilities = self.next_item_probabilities(histories[start : start + 1024])
            top = np.partition(probabilities, -len(gains), axis=1)[:, -len(gains) :]
            total += float((np.sort(top, axis=1)[:, ::-1] @ gains).sum())
        return total / len(histories)

    def _make_items(self, rng: np.random.Generator):
        num_items = self.num_items
        paths = [(top, mid, noun) for top, mids in _TREE.items() for mid, nouns in mids.items() for noun in nouns]
        # Few items have few categories, so that the groups of the law (category and style) don't get too small.
        self._paths = paths[: max(2, min(len(paths), num_items // 28))]
        # A cycle through all leaf categories, in a random order.
        order = rng.permutation(len(self._paths))
        self._successors = np.empty_like(order)
        self._successors[order] = np.roll(order, -1)

        # Every cell (leaf category, style) gets as many items as any other, give or take one.
        self._num_styles = len(_STYLES)
        num_cells = len(self._paths) * self._num_styles
        cells = rng.permutation(np.arange(num_items) % num_cells)
        self._cells = cells
        self._leaves, self._styles = cells // self._num_styles, cells % self._num_styles
        weights = 1 / (1 + rng.permutation(num_items)) ** self.ZIPF_EXPONENT
        self.popularity = weights / weights.sum()

        # The how-manieth of its cell an item is gives its brand and adjective, and a number after these are used up.
        by_cell = np.argsort(cells, kind="stable")
        counts = np.bincount(cells, minlength=num_cells)
        nth = np.empty(num_items, dtype=np.int64)
        nth[by_cell] = np.arange(num_items) - np.repeat(np.cumsum(counts) - counts, counts)
        self.item_ids = [f"B{row:06d}" for row in range(num_items)]
        self._row_of = {item: row for row, item in enumerate(self.item_ids)}
        self.items = self._describe(nth, rng)

    def _describe(self, nth: np.ndarray, rng: np.random.Generator) -> Dataset:
        adjectives = np.array([adjectives for adjectives, _ in _STYLES.values()])
        brands = np.array([brands for _, brands in _STYLES.values()])
        turn, brand = np.divmod(nth, brands.shape[1])
        number, adjective = np.divmod(turn, adjectives.shape[1])
        brand, adjective = brands[self._styles, brand], adjectives[self._styles, adjective]
        top, _, noun = (np.array(names)[self._leaves] for names in zip(*self._paths, strict=True))
        endings = ["", *(f" No. {n}" for n in range(2, number.max() + 2))]
        base_price = np.exp(rng.normal(3.3, 0.6, len(self._paths)))
        price = base_price[self._leaves] * np.exp(rng.normal(0, 0.25, self.num_items))
        paths = [[top, mid, f"{noun}s"] for top, mid, noun in self._paths]
        words = zip(brand, adjective, noun, number, strict=True)
        return Dataset.from_dict(
            {
                "item_id": self.item_ids,
                "title": [f"{b} {a} {n}{endings[i]}" for b, a, n, i in words],
                "brand": brand,
                "style": np.array(list(_STYLES))[self._styles],
                "categories": [paths[leaf] for leaf in self._leaves],
                "top_category": top,
                "leaf_category": [paths[leaf][-1] for leaf in self._leaves],
                "price": np.round(price, 2),
            }
        )

    def _make_embeddings(self, rng: np.random.Generator, dim: int):
        def vectors(count: int, norm: float) -> np.ndarray:
            directions = rng.standard_normal((count, dim))
            return norm * directions / np.linalg.norm(directions, axis=1, keepdims=True)

        embeddings = vectors(self._num_styles, 0.8)[self._styles] + vectors(self.num_items, 0.4)
        for depth, norm in ((1, 1.0), (2, 0.8), (3, 0.8)):
            nodes = {path[:depth]: None for path in self._paths}
            numbers = {node: number for number, node in enumerate(nodes)}
            node_of_leaf = np.array([numbers[path[:depth]] for path in self._paths])
            embeddings += vectors(len(nodes), norm)[node_of_leaf[self._leaves]]
        self.embeddings = embeddings.astype(np.float32)

    @cached_property
    def _law(self) -> np.ndarray:
        """Of shape `(num_cells, num_items)`: the next item's probabilities, before seen items are ruled out."""
        leaf, style = np.divmod(np.arange(len(self._paths) * self._num_styles), self._num_styles)
        same_leaf = leaf[:, None] == self._leaves
        successor = (self._successors[leaf][:, None] == self._leaves) & (style[:, None] == self._styles)
        groups = ((successor, self.SUCCESSOR_PROBABILITY), (same_leaf, self.SAME_CATEGORY_PROBABILITY))
        law = np.tile((1 - sum(share for _, share in groups)) * self.popularity, (len(leaf), 1))
        for group, share in groups:
            weights = group * self.popularity
            # A market too small to fill every cell has successors without items: they give way to the other two parts.
            law += share * weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        return law / law.sum(axis=1, keepdims=True)

    def _simulate(self, rng: np.random.Generator, min_length: int, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of items of shape `(num_users, max_length)`, and how many of them each user has."""
        lengths = rng.integers(min_length, max_length + 1, self.num_users)
        # All cells' cumulative laws in one ascending array: cell c's lies between c and c + 1.
        steps = np.cumsum(self._law, axis=1)
        steps = (steps / steps[:, -1:] + np.arange(len(steps))[:, None]).ravel()
        items = np.full((self.num_users, max_length), -1)
        items[:, 0] = rng.choice(self.num_items, self.num_users, p=self.popularity)
        for position in range(1, max_length):
            # Drawing again whenever an item was seen is drawing from what is left, in its proportions.
            waiting = np.flatnonzero(lengths > position)
            while len(waiting):
                cells = self._cells[items[waiting, position - 1]]
                drawn = np.searchsorted(steps, cells + rng.random(len(waiting)), side="right") - cells * self.num_items
                drawn = np.clip(drawn, 0, self.num_items - 1)
                new = ~(items[waiting, :position] == drawn[:, None]).any(axis=1)
                items[waiting[new], position] = drawn[new]
                waiting = waiting[~new]
        return items, lengths
