# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""From users' histories to ranked items of a catalog."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..errors import FingerprintMismatchError, UnsatisfiableRequestError
from ..semantic_ids import SemanticIdCatalog
from ..tokenization import HistoryEncoder
from .beam_search import BeamSearchOutput, constrained_beam_search
from .prefix_table import PrefixTable


__all__ = ["CatalogRanking", "RetrievalResult", "rank_catalog", "retrieve"]

DEFAULT_NUM_BEAMS = 50
DEFAULT_MAX_HISTORY = 20


class CatalogRanking(NamedTuple):
    """
    Items that a beam search reached, best first.

    Attributes:
        rows (`torch.LongTensor` of shape `(num_histories, width)`):
            Rows of the catalog; -1 after the last item. No item occurs twice for a history.
        scores (`torch.FloatTensor` of shape `(num_histories, width)`):
            Log-probability of the item's semantic ID; -inf after the last item.
    """

    rows: torch.Tensor
    scores: torch.Tensor


@dataclass
class RetrievalResult:
    """
    Result of [`retrieve`].

    Args:
        item_ids (`list[list[str]]` or `list[list[int]]`):
            `top_k` items of each history, best first.
        scores (`list[list[float]]`):
            Log-probability of each item's semantic ID. Items that share a semantic ID have the same.
    """

    item_ids: list[list[str]] | list[list[int]]
    scores: list[list[float]]


def retrieve(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    catalog: SemanticIdCatalog,
    histories: Sequence[Sequence[str]] | Sequence[Sequence[int]],
    top_k: int = 10,
    exclude_history: bool = True,
    num_beams: int | None = None,
    batch_size: int = 64,
    user_ids: Sequence[str | int] | None = None,
    max_history: int | None = None,
    prefix_table: PrefixTable | None = None,
    show_progress: bool = False,
) -> RetrievalResult:
    """
    Recommends items of a catalog to users.

    A constrained beam search over the catalog's semantic IDs ranks items by the log-probability of their semantic ID;
    items that share one follow each other in the catalog's order. Every list is full: where seen items leave fewer
    than `top_k`, the search is repeated for that history with twice the beams, up to all semantic IDs. Nothing of the
    model's generation config is used. The model is put into eval mode meanwhile.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            A model that was trained on the catalog, with `config.semantic_id_fingerprint` saying so.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer, with a token for each code.
        catalog ([`SemanticIdCatalog`]):
            The items to choose from.
        histories (`Sequence[Sequence[str]]` or `Sequence[Sequence[int]]`):
            Item ids of each user, from the oldest to the most recent.
        top_k (`int`, *optional*, defaults to 10):
            Number of items a history.
        exclude_history (`bool`, *optional*, defaults to `True`):
            Whether to leave out items of the history, all of it and not only what `max_history` lets the model read.
        num_beams (`int`, *optional*):
            Width of the beam search. Defaults to 50, or `top_k` if that is more. More beams find likely items whose
            first codes are unlikely, at a cost in proportion.
        batch_size (`int`, *optional*, defaults to 64):
            Number of histories searched at once.
        user_ids (`Sequence[str | int]`, *optional*):
            Id of each user, for a model that was trained with user tokens.
        max_history (`int`, *optional*):
            Number of most recent items that the model reads. Defaults to what it was trained with, if it says so in
            `config.semantic_id_max_history`, or else to 20.
        prefix_table ([`PrefixTable`], *optional*):
            `PrefixTable.from_catalog(catalog, tokenizer)`, made once for many calls.
        show_progress (`bool`, *optional*, defaults to `False`):
            Whether to show a progress bar over batches.

    Returns:
        [`RetrievalResult`]

    Raises:
        [`UnsatisfiableRequestError`]: `top_k` is more than the catalog has, or than a history leaves of it.
        [`FingerprintMismatchError`]: The model wasn't trained on this catalog, or doesn't say.
        [`InvalidSequencesError`]: A history is empty.
        [`UnknownItemError`]: An item of a history isn't in the catalog.
        `ValueError`: Another argument is out of range.

    Example:

    ```python
    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> from forge_hf import SemanticIdCatalog, SemanticIdTokenizer, retrieve

    >>> catalog = SemanticIdCatalog.from_codes(
    ...     ["shirt", "shoe", "sock"], [[1, 2], [0, 3], [1, 0]], codebook_sizes=[4, 4], on_collision="keep"
    ... )
    >>> tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    >>> config = Qwen2Config(
    ...     vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
    ...     num_attention_heads=2, num_key_value_heads=2, semantic_id_fingerprint=catalog.fingerprint,
    ... )
    >>> result = retrieve(Qwen2ForCausalLM(config), tokenizer, catalog, [["shoe"]], top_k=2)
    >>> sorted(result.item_ids[0])
    ['shirt', 'sock']

    ```
    """
    if top_k < 1:
        raise ValueError(f"`top_k` must be at least 1, got {top_k}.")
    if top_k > len(catalog):
        raise UnsatisfiableRequestError(
            f"`top_k` is {top_k}, but the catalog has only {len(catalog)} items. Ask for fewer."
        )
    num_beams = max(DEFAULT_NUM_BEAMS, top_k) if num_beams is None else num_beams
    search = _Search(model, tokenizer, catalog, histories, user_ids, max_history, prefix_table)
    seen = _seen_items(catalog, histories) if exclude_history else torch.empty(0, dtype=torch.int64)
    num_left = len(catalog) - torch.bincount(seen // len(catalog), minlength=len(histories))
    if (num_left < top_k).any():
        row = int((num_left < top_k).nonzero()[0])
        raise UnsatisfiableRequestError(
            f"`top_k` is {top_k}, but history {row} leaves only {int(num_left[row])} of the catalog's {len(catalog)} "
            "items. Ask for fewer, or set `exclude_history=False`."
        )

    rows = torch.empty(len(histories), top_k, dtype=torch.int64)
    scores = torch.empty(len(histories), top_k)
    pending = torch.arange(len(histories))
    width, batch = num_beams, batch_size
    while len(pending):
        ranking = search(pending, width, top_k, batch, show_progress)
        # A pair of history and item is one number, so that one look-up finds all seen items.
        keep = (ranking.rows >= 0) & ~torch.isin(pending.unsqueeze(-1) * len(catalog) + ranking.rows, seen)
        full = keep.sum(dim=-1) >= top_k
        if full.any():
            best = (~keep[full]).to(torch.int8).argsort(dim=-1, stable=True)[:, :top_k]
            rows[pending[full]] = ranking.rows[full].gather(-1, best)
            scores[pending[full]] = ranking.scores[full].gather(-1, best)
        pending = pending[~full]
        if len(pending) and width >= search.table.num_leaves:
            raise UnsatisfiableRequestError(
                f"The model gives a probability of 0 to so many semantic IDs that history {int(pending[0])} can't get "
                f"`top_k`={top_k} items."
            )
        # As many beams in a batch as before: memory stays the same.
        width = min(2 * width, search.table.num_leaves)
        batch = max(1, batch_size * num_beams // width)
    item_ids = catalog.item_ids
    return RetrievalResult(
        item_ids=[[item_ids[row] for row in ranked] for ranked in rows.tolist()], scores=scores.tolist()
    )


def rank_catalog(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    catalog: SemanticIdCatalog,
    histories: Sequence[Sequence[str]] | Sequence[Sequence[int]],
    num_beams: int = DEFAULT_NUM_BEAMS,
    batch_size: int = 64,
    user_ids: Sequence[str | int] | None = None,
    max_history: int | None = None,
    prefix_table: PrefixTable | None = None,
    show_progress: bool = False,
) -> CatalogRanking:
    """
    Ranks the items that one beam search reaches, seen ones included. What [`retrieve`] and evaluation are made of.

    Args:
        model, tokenizer, catalog, histories, batch_size, user_ids, max_history, prefix_table, show_progress:
            As in [`retrieve`].
        num_beams (`int`, *optional*, defaults to 50):
            Width of the beam search: number of semantic IDs that are found for each history.

    Returns:
        [`CatalogRanking`]: on the CPU, in the order of `histories`. As wide as the most items that the beams of a
        history name, but cut after `num_beams` items more than the longest history has, which leaves `num_beams` items
        when a history's own are taken out.

    Raises:
        [`FingerprintMismatchError`], [`InvalidSequencesError`], [`UnknownItemError`], `ValueError`: As [`retrieve`].
    """
    search = _Search(model, tokenizer, catalog, histories, user_ids, max_history, prefix_table)
    return search(torch.arange(len(histories)), num_beams, num_beams, batch_size, show_progress)


class _Search:
    """Checked and encoded histories, that can be searched with any number of beams."""

    def __init__(self, model, tokenizer, catalog, histories, user_ids, max_history, prefix_table):
        check_fingerprint(model, catalog)
        if prefix_table is not None and prefix_table.fingerprint != catalog.fingerprint:
            raise FingerprintMismatchError(
                f"`prefix_table` was built from a catalog with the fingerprint {prefix_table.fingerprint!r}, but "
                f"`catalog` has {catalog.fingerprint!r}. Build it with `PrefixTable.from_catalog(catalog, tokenizer)`."
            )
        if max_history is None:
            max_history = get_trained_setting(model, "semantic_id_max_history") or DEFAULT_MAX_HISTORY
        self.model = model
        self.pad_token_id = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        encode = HistoryEncoder(catalog, tokenizer, model.config.is_encoder_decoder, max_history)
        self.prompts = encode(histories, user_ids)
        self.longest_history = max(map(len, histories), default=0)
        table = PrefixTable.from_catalog(catalog, tokenizer) if prefix_table is None else prefix_table
        self.table = table.to(model.device)

    def __call__(
        self, histories: torch.Tensor, num_beams: int, num_items: int, batch_size: int, show_progress: bool
    ) -> CatalogRanking:
        """Ranks items for some histories, given by number; `num_items` at most, and the longest history's besides."""
        if num_beams < 1 or batch_size < 1:
            raise ValueError(f"`num_beams` and `batch_size` must be at least 1, got {num_beams} and {batch_size}.")
        if len(histories) == 0:
            return CatalogRanking(torch.empty(0, 0, dtype=torch.int64), torch.empty(0, 0))
        # Histories of similar length together: little padding. The longest go first, so that memory runs out at once.
        lengths = torch.tensor([len(self.prompts[history]) for history in histories.tolist()])
        order = lengths.argsort(descending=True, stable=True)
        batches = histories[order].split(batch_size)
        parts = []
        with _eval_mode(self.model):
            for batch in tqdm(batches, desc="Retrieving", unit="batch", disable=not show_progress):
                output = self._search([self.prompts[history] for history in batch.tolist()], num_beams)
                parts.append(self._items(output, max_width=num_items + self.longest_history))
        width = max(part.rows.shape[-1] for part in parts)
        rows = torch.full((len(histories), width), -1)
        scores = torch.full((len(histories), width), -torch.inf)
        for places, part in zip(order.split(batch_size), parts, strict=True):
            rows[places, : part.rows.shape[-1]] = part.rows
            scores[places, : part.rows.shape[-1]] = part.scores
        return CatalogRanking(rows, scores)

    def _search(self, prompts: list[torch.Tensor], num_beams: int) -> BeamSearchOutput:
        side = "right" if self.model.config.is_encoder_decoder else "left"
        input_ids = pad_sequence(prompts, batch_first=True, padding_value=self.pad_token_id, padding_side=side)
        masks = [torch.ones_like(prompt) for prompt in prompts]
        attention_mask = pad_sequence(masks, batch_first=True, padding_side=side)
        device = self.model.device
        return constrained_beam_search(
            self.model, input_ids.to(device), attention_mask.to(device), self.table, num_beams
        )

    def _items(self, output: BeamSearchOutput, max_width: int) -> CatalogRanking:
        """Replaces the semantic IDs of each row by their items."""
        batch_size, num_beams = output.leaves.shape
        items, counts = self.table.items(output.leaves.flatten())
        per_row = counts.view(batch_size, num_beams).sum(dim=-1)
        scores = output.scores.flatten().repeat_interleave(counts)
        row = torch.arange(batch_size, device=items.device).repeat_interleave(per_row)
        column = torch.arange(len(items), device=items.device) - (per_row.cumsum(0) - per_row)[row]
        kept = column < max_width
        row, column, items, scores = row[kept], column[kept], items[kept], scores[kept]
        width = min(int(per_row.max()), max_width)
        ranking = CatalogRanking(
            rows=torch.full((batch_size, width), -1, device=items.device),
            scores=torch.full((batch_size, width), -torch.inf, device=items.device),
        )
        ranking.rows[row, column] = items
        ranking.scores[row, column] = scores
        return CatalogRanking(ranking.rows.cpu(), ranking.scores.cpu())


def check_fingerprint(model: nn.Module, catalog: SemanticIdCatalog) -> None:
    """Raises [`FingerprintMismatchError`] unless the model, or its adapter, names this catalog's fingerprint."""
    compare_fingerprints(get_trained_setting(model, "semantic_id_fingerprint"), catalog.fingerprint)


def compare_fingerprints(trained: str | None, present: str) -> None:
    """Raises [`FingerprintMismatchError`] unless both are the same."""
    if trained is None:
        raise FingerprintMismatchError(
            "The model's config has no `semantic_id_fingerprint`, so nothing says which semantic IDs it was trained "
            f"on. If it was trained on this catalog, set `model.config.semantic_id_fingerprint = {present!r}`, the "
            "catalog's `fingerprint`. A saved model is loaded with `AutoModelForCausalLM` or `AutoModelForSeq2SeqLM` "
            "for that, and saved again."
        )
    if trained != present:
        raise FingerprintMismatchError(
            f"The model was trained on semantic IDs with the fingerprint {trained!r}, but the catalog's is "
            f"{present!r}. Load the catalog that was saved with the model, or train on this one."
        )


# An adapter is saved without its base's config, and peft warns of fields that it doesn't know in the adapter's own. It
# keeps the field `auto_mapping` as it is, and reads it only where there is no `task_type`.


def get_trained_setting(model: nn.Module, name: str) -> Any:
    """What a retriever keeps of its training: its active adapter says it first, then the config."""
    adapter = _active_adapter(model)
    settings = {} if adapter is None else adapter.auto_mapping or {}
    return settings.get(name, getattr(model.config, name, None))


def set_trained_setting(model: nn.Module, name: str, value: Any) -> None:
    """Writes what a retriever keeps of its training into its config, and into that of its active adapter."""
    setattr(model.config, name, value)
    adapter = _active_adapter(model)
    if adapter is not None:
        adapter.auto_mapping = {**(adapter.auto_mapping or {}), name: value}


def _active_adapter(model: nn.Module) -> Any:
    """The `peft.PeftConfig` of the active adapter of a `PeftModel`, or `None`."""
    active = getattr(model, "active_adapter", None)
    return model.peft_config[active] if isinstance(active, str) else None


def _seen_items(catalog: SemanticIdCatalog, histories: Sequence[Sequence]) -> torch.Tensor:
    """Distinct pairs of history and item, each as the number `history * num_items + item`."""
    items = catalog.indices_for(list(chain.from_iterable(histories)))
    lengths = torch.tensor([len(history) for history in histories], dtype=torch.int64)
    return (torch.arange(len(histories)).repeat_interleave(lengths) * len(catalog) + items).unique()


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
