# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Scoring a retriever over a whole dataset, and rankings made elsewhere by the same measure."""

from collections.abc import Sequence
from itertools import chain

import torch
import torch.distributed
from datasets import Dataset
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..checks import check_dataset, check_integer, check_integers, check_type
from ..errors import InvalidSequencesError, UnsatisfiableRequestError
from ..generation import PrefixTable
from ..generation.catalog_tables import table_of
from ..generation.retrieval import rank_catalog, retrieve
from ..semantic_ids import SemanticIdCatalog
from .metrics import catalog_coverage_at_k, invalid_rate, mrr_at_k, ndcg_at_k, recall_at_k


__all__ = ["RetrievalEvaluator", "evaluate_rankings"]

# Rows of so many batches are searched in one go, so that those of similar length can go into one batch.
_BATCHES_PER_BLOCK = 64


class RetrievalEvaluator:
    """
    Scores a retriever by full ranking: a constrained beam search over the whole catalog for every row of a dataset.

    With `exclude_history` there are two searches: the plain names are of lists without the items of the history, as
    [`retrieve`] gives them, the names with `unmasked_` before them are of the lists with these items.

    Under `torch.distributed` every process, calling with its own copy of the model, scores every n-th row, and all
    return the scores of the whole dataset.

    Args:
        dataset ([`~datasets.Dataset`]):
            Columns `history` (item ids, oldest first) and `target` (the item that came next, or a list of them), and
            `user_id` for models with user tokens. What [`leave_one_out`] gives for validation and test.
        catalog ([`SemanticIdCatalog`]):
            The items to choose from.
        ks (`tuple[int]`, *optional*, defaults to `(5, 10)`):
            Lengths of the lists that are scored.
        exclude_history (`bool`, *optional*, defaults to `True`):
            Whether to keep items of the history, all of it, out of the lists.
        num_beams (`int`, *optional*, defaults to 50):
            Width of the beam search, at least the largest of `ks`.
        batch_size (`int`, *optional*, defaults to 64):
            Number of histories searched at once.
        max_history (`int`, *optional*):
            Number of most recent items that the model reads.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, in the first process.

    Attributes:
        primary_metric (`str`): the name of NDCG at the largest of `ks`, by which checkpoints are chosen.
        greater_is_better (`bool`): `True`.

    Raises:
        [`InvalidSequencesError`]: if the dataset has no rows, lacks a column, or a row has an empty history or target.
        [`UnknownItemError`]: if a history or a target isn't in the catalog.
        [`UnsatisfiableRequestError`]: if some history leaves fewer items than the largest of `ks`.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> from forge_hf import RetrievalEvaluator, SemanticIdCatalog, SemanticIdTokenizer

    >>> codes = [[1, 2], [0, 3], [1, 0]]
    >>> catalog = SemanticIdCatalog.from_codes(["shirt", "shoe", "sock"], codes, codebook_sizes=[4, 4])
    >>> tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    >>> config = Qwen2Config(
    ...     vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
    ...     num_attention_heads=2, num_key_value_heads=2, semantic_id_fingerprint=catalog.fingerprint,
    ... )
    >>> dataset = Dataset.from_dict({"history": [["shoe"]], "target": ["sock"]})
    >>> evaluator = RetrievalEvaluator(dataset, catalog, ks=(2,), show_progress=False)
    >>> evaluator(Qwen2ForCausalLM(config), tokenizer)["recall@2"]
    1.0
    ```
    """

    greater_is_better = True

    def __init__(
        self,
        dataset: Dataset,
        catalog: SemanticIdCatalog,
        ks: Sequence[int] = (5, 10),
        exclude_history: bool = True,
        num_beams: int = 50,
        batch_size: int = 64,
        max_history: int | None = None,
        show_progress: bool = True,
    ):
        check_type("catalog", catalog, SemanticIdCatalog)
        self.ks = check_ks(ks, num_beams)
        check_integer("batch_size", batch_size)
        self.catalog = catalog
        self.exclude_history = exclude_history
        self.num_beams = num_beams
        self.batch_size = batch_size
        self.max_history = max_history
        self.show_progress = show_progress

        self._histories, targets = _read(dataset)
        self._user_ids = dataset["user_id"][:] if "user_id" in dataset.column_names else None
        self._targets = _pad(catalog.indices_for(list(chain.from_iterable(targets))), targets)
        catalog.indices_for(list(chain.from_iterable(self._histories)))  # unknown items are refused now
        seen = [len(set(history)) for history in self._histories]
        most_seen = max(seen) if exclude_history else 0
        if self.ks[-1] > len(catalog) - most_seen:
            raise UnsatisfiableRequestError(
                f"`ks` asks for {self.ks[-1]} items, but the catalog has {len(catalog)}, of which a history holds "
                f"{most_seen}."
            )

    @property
    def primary_metric(self) -> str:
        return f"ndcg@{self.ks[-1]}"

    @property
    def protocol(self) -> str:
        """How a model is scored, in words, for its card."""
        return f"full ranking over all {len(self.catalog):,} items, constrained search with {self.num_beams} beams"

    def __call__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
        """
        Scores a model.

        Args:
            model (`PreTrainedModel` or `PeftModel`):
                A model that was trained on the catalog. It is put into eval mode meanwhile.
            tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
                The model's tokenizer.

        Returns:
            `dict[str, float]`: `recall@k` and `ndcg@k` for all of `ks`, `mrr@k` and `coverage@k` for the largest, the
            same with `unmasked_` before them if the history is excluded, and `invalid_rate`, the share of the search's
            first places (up to the largest k) that name no item.

        Raises:
            [`FingerprintMismatchError`]: if the model wasn't trained on this catalog, or doesn't say.
        """
        rank, world_size = _rank_and_world_size()
        table = table_of(self.catalog, tokenizer, model.device)
        rows = torch.arange(len(self._histories))[rank::world_size]
        blocks = rows.split(_BATCHES_PER_BLOCK * self.batch_size) if len(rows) else ()
        prefixes = ("", "unmasked_") if self.exclude_history else ("",)
        # per reading: the sums of the metrics that are means over rows, and which items were recommended
        sums = torch.zeros(len(prefixes), len(_mean_names(self.ks)) + 1, dtype=torch.float64)
        covered = torch.zeros(len(prefixes), len(self.catalog), dtype=torch.int32)
        disable = not self.show_progress or rank > 0
        with tqdm(total=len(rows), desc="Evaluating", unit="row", disable=disable) as progress:
            for block in blocks:
                readings = self._search(model, tokenizer, table, block)
                for number, reading in enumerate(readings):
                    means = [*_means(reading, self._targets[block], self.ks), invalid_rate(reading, self.ks[-1])]
                    sums[number] += torch.tensor(means, dtype=torch.float64) * len(block)
                    covered[number, reading[reading >= 0]] = 1
                progress.update(len(block))
        if world_size > 1:
            sums, covered = sums.to(model.device), covered.to(model.device)
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(covered, op=torch.distributed.ReduceOp.MAX)
        means, coverage = (sums / len(self._histories)).tolist(), covered.double().mean(dim=-1).tolist()
        scores = {}
        for prefix, values, share in zip(prefixes, means, coverage, strict=True):
            scores |= _named(prefix, [*values[:-1], share], self.ks)
        # of the search itself: the last reading is the one that nothing was taken out of
        return scores | {"invalid_rate": means[-1][-1]}

    def _search(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, table: PrefixTable, block: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """
        Catalog rows of the first items for a block of dataset rows, each of shape `(len(block), max(ks))`: without the
        history's items, if they are excluded, and with them.
        """
        histories = [self._histories[row] for row in block.tolist()]
        user_ids = None if self._user_ids is None else [self._user_ids[row] for row in block.tolist()]
        options = {"batch_size": self.batch_size, "max_history": self.max_history, "prefix_table": table}
        top_k = self.ks[-1]
        ranked = rank_catalog(
            model, tokenizer, self.catalog, histories, self.num_beams, user_ids=user_ids, **options
        ).rows
        raw = nn.functional.pad(ranked[:, :top_k], (0, max(0, top_k - ranked.shape[1])), value=-1)
        if not self.exclude_history:
            return (raw,)
        # What is excluded takes up no beams, so that this is another search.
        lists = retrieve(
            model,
            tokenizer,
            self.catalog,
            histories,
            top_k=top_k,
            num_beams=self.num_beams,
            user_ids=user_ids,
            **options,
        ).item_ids
        return self.catalog.indices_for(list(chain.from_iterable(lists))).view(-1, top_k), raw


def evaluate_rankings(
    rankings: Sequence[Sequence],
    dataset: Dataset,
    catalog: SemanticIdCatalog,
    ks: Sequence[int] = (5, 10),
    unmasked_rankings: Sequence[Sequence] | None = None,
) -> dict[str, float]:
    """
    Scores ranked lists, of a baseline for instance, by the measure of [`RetrievalEvaluator`].

    Args:
        rankings (`list[list]`):
            Ranked item ids for every row of the dataset, best first.
        dataset ([`~datasets.Dataset`]):
            Columns `history` and `target`, as for [`RetrievalEvaluator`].
        catalog ([`SemanticIdCatalog`]):
            The items to choose from.
        ks (`tuple[int]`, *optional*, defaults to `(5, 10)`):
            Lengths of the lists that are scored.
        unmasked_rankings (`list[list]`, *optional*):
            Ranked item ids with those of the history left in; adds the names with `unmasked_`.

    Returns:
        `dict[str, float]`: the names that [`RetrievalEvaluator`] gives.

    Raises:
        [`InvalidSequencesError`]: if the dataset has no rows, lacks a column, or a row has an empty history or target.
        `ValueError`: if there isn't one list a row.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from forge_hf import SemanticIdCatalog
    >>> from forge_hf.evaluation import PopularityBaseline, evaluate_rankings

    >>> codes = [[1, 2], [0, 3], [1, 0]]
    >>> catalog = SemanticIdCatalog.from_codes(["shirt", "shoe", "sock"], codes, codebook_sizes=[4, 4])
    >>> dataset = Dataset.from_dict({"history": [["shoe"]], "target": ["sock"]})
    >>> baseline = PopularityBaseline(catalog.item_ids, sequences=[["sock", "shoe"]])
    >>> rankings = baseline.rank(dataset["history"], top_k=1)
    >>> evaluate_rankings(rankings, dataset, catalog, ks=(1,))["recall@1"]
    1.0
    ```
    """
    ks = check_ks(ks)
    _, targets = _read(dataset)
    readings = {"": rankings} if unmasked_rankings is None else {"": rankings, "unmasked_": unmasked_rankings}
    scores = {}
    for prefix, lists in readings.items():
        coverage = catalog_coverage_at_k(lists, ks[-1], len(catalog))
        scores |= _named(prefix, [*_means(lists, targets, ks), coverage], ks)
    return scores | {"invalid_rate": invalid_rate(list(readings.values())[-1], ks[-1], valid=catalog.item_ids)}


def _means(rankings, targets, ks: tuple[int, ...]) -> list[float]:
    values = [metric(rankings, targets, k) for k in ks for metric in (recall_at_k, ndcg_at_k)]
    return [*values, mrr_at_k(rankings, targets, ks[-1])]


def _mean_names(ks: tuple[int, ...]) -> list[str]:
    return [*(f"{name}@{k}" for k in ks for name in ("recall", "ndcg")), f"mrr@{ks[-1]}"]


def _named(prefix: str, values: list[float], ks: tuple[int, ...]) -> dict[str, float]:
    names = [*_mean_names(ks), f"coverage@{ks[-1]}"]
    return {prefix + name: value for name, value in zip(names, values, strict=True)}


def _read(dataset: Dataset) -> tuple[list[list], list[list]]:
    """Histories and targets, both as lists a row."""
    check_dataset("dataset", dataset)
    missing = {"history", "target"}.difference(dataset.column_names)
    if missing:
        raise InvalidSequencesError(
            f"`dataset` lacks the columns {sorted(missing)}; it has {dataset.column_names}. `leave_one_out` does."
        )
    if len(dataset) == 0:
        raise InvalidSequencesError("`dataset` has no rows.")
    dataset = dataset.with_format(None)
    histories, targets = dataset["history"][:], dataset["target"][:]
    histories = [history if isinstance(history, list) else [] for history in histories]
    targets = [target if isinstance(target, list) else [target] for target in targets]
    for name, lists in (("history", histories), ("target", targets)):
        empty = [row for row, items in enumerate(lists) if not items or None in items]
        if empty:
            raise InvalidSequencesError(f"`dataset` has {len(empty)} rows without a {name}, such as row {empty[0]}.")
    return histories, targets


def _pad(values: torch.Tensor, lists: list[list]) -> torch.Tensor:
    """Of shape `(len(lists), longest)`, -1 after the last value of a row."""
    lengths = torch.tensor([len(items) for items in lists])
    padded = torch.full((len(lists), int(lengths.max())), -1)
    padded[torch.arange(padded.shape[1]) < lengths.unsqueeze(-1)] = values
    return padded


def check_ks(ks: Sequence[int], num_beams: int | None = None) -> tuple[int, ...]:
    """Lengths of lists in order, if they are some, and the beams are enough for them."""
    check_integers("ks", ks)
    ks = tuple(sorted(set(ks)))
    if num_beams is not None:
        check_integer("num_beams", num_beams)
        if num_beams < ks[-1]:
            raise ValueError(f"`num_beams` must be at least the largest of `ks`, {ks[-1]}, got {num_beams}.")
    return ks


def _rank_and_world_size() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
