# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""From users' histories to ranked items of a catalog."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Integral
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..checks import check_integer, check_number, check_type, shorten, to_python
from ..errors import FingerprintMismatchError, InvalidSequencesError, UnsatisfiableRequestError
from ..semantic_ids import SemanticIdCatalog
from ..tokenization import HistoryEncoder, PromptEncoder
from .history_search import CatalogRanking, Clock, Excluded, HistorySearch
from .prefix_table import PrefixTable


__all__ = ["CatalogRanking", "RetrievalResult", "rank_catalog", "rank_rows", "retrieve"]

DEFAULT_NUM_BEAMS = 50
DEFAULT_MAX_HISTORY = 20
# Prefixes that the model reads at once where every semantic ID is scored.
CATALOG_PREFIXES = 1 << 14


@dataclass
class RetrievalResult:
    """
    Result of [`retrieve`].

    Args:
        item_ids (`list[list[str]]` or `list[list[int]]`):
            `top_k` items of each history, best first; unseen ones, where they are asked for, after all others.
        scores (`list[list[float]]`):
            Log-probability of each item's semantic ID. Items that share a semantic ID have the same.
        timings (`dict[str, float]`, *optional*):
            Milliseconds that the call spent on each stage, over all batches: `encode` (checks, and histories to
            tokens), `prefill` (the model reads the histories), `search` (the beams) and `items` (from semantic IDs to
            lists of items). `None` unless asked for.
    """

    item_ids: list[list[str]] | list[list[int]]
    scores: list[list[float]]
    timings: dict[str, float] | None = None


def retrieve(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    catalog: SemanticIdCatalog,
    histories: Sequence[Sequence[str]] | Sequence[Sequence[int]],
    top_k: int = 10,
    exclude_history: bool = True,
    num_beams: int | Sequence[int] | str | None = None,
    batch_size: int = 64,
    user_ids: Sequence[str | int] | None = None,
    max_history: int | None = None,
    prefix_table: PrefixTable | None = None,
    show_progress: bool = False,
    *,
    exclude: Sequence | None = None,
    candidates: Sequence[str] | Sequence[int] | None = None,
    temperature: float | Sequence[float | None] | None = None,
    seed: int | None = None,
    unseen_items: Sequence[str] | Sequence[int] | None = None,
    unseen_fraction: float = 0.0,
    timings: bool = False,
) -> RetrievalResult:
    """
    Recommends items of a catalog to users.

    A constrained beam search over the catalog's semantic IDs ranks items by the log-probability of their semantic ID;
    items that share one follow each other in the catalog's order. What is excluded is no part of the search, so that
    it takes up no beams and every list is full; only where fewer beams than `top_k` are asked for, the search may have
    to be repeated for a history with twice the beams. Nothing of the model's generation config is used. The model is
    put into eval mode meanwhile.

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
        num_beams (`int`, `Sequence[int]` or `str`, *optional*):
            Width of the beam search, or one width for each level, or `"all"` to score every semantic ID of a small
            catalog. Defaults to 50, or `top_k` if that is more or a `temperature` is given. More beams find likely
            items whose first codes are unlikely, at a cost in proportion.
        batch_size (`int`, *optional*, defaults to 64):
            Number of histories searched at once.
        user_ids (`Sequence[str | int]`, *optional*):
            Id of each user, for a model that was trained with user tokens.
        max_history (`int`, *optional*):
            Number of most recent items that the model reads. Defaults to what it was trained with, if it says so in
            `config.semantic_id_max_history`, or else to 20.
        prefix_table ([`PrefixTable`], *optional*):
            By default the one that was saved beside a loaded catalog, mapped into memory, or else
            `PrefixTable.from_catalog(catalog, tokenizer)`, made at the first call and kept with the catalog. Give what
            its `restrict` made of it for many calls with the same `candidates`.
        show_progress (`bool`, *optional*, defaults to `False`):
            Whether to show a progress bar over batches.
        exclude (`Sequence`, *optional*):
            Items to leave out, such as those out of stock: item ids for all histories, or a list of them for each. A
            semantic ID that several items share stays open until all of them are excluded.
        candidates (`Sequence[str]` or `Sequence[int]`, *optional*):
            The only items to choose from, for all histories.
        temperature (`float` or `Sequence[float | None]`, *optional*):
            Draw continuations instead of taking the best ones, at this temperature; one for each level, with `None`
            for levels that aren't drawn. They are drawn without replacement
            ([stochastic beam search](https://huggingface.co/papers/1903.06059)), so that lists stay full and hold no
            item twice. A list is sorted by the model's own log-probabilities.
        seed (`int`, *optional*):
            Seed of the draws. The same call with the same seed gives the same lists.
        unseen_items (`Sequence[str]` or `Sequence[int]`, *optional*):
            Items of the catalog that the model never saw in training, which enter it by encoding alone (TIGER's
            section 4.3). They are ranked among themselves, by the codes that their embedding got, without the level
            that only numbers items of equal codes. What the model learnt is that codes which it never saw together are
            unlikely: so each code is scored against those that other unseen items have in its place, and the scores of
            unseen items can't be compared with those of others.
        unseen_fraction (`float`, *optional*, defaults to 0):
            The share of a list that the best unseen items get, rounded down to whole items: TIGER's ε. They stand in
            its last places, fewer if there aren't as many.
        timings (`bool`, *optional*, defaults to `False`):
            Whether to measure how long each stage takes.

    Returns:
        [`RetrievalResult`]

    Raises:
        [`UnsatisfiableRequestError`]: `top_k` is more than the catalog has, or than is left of it for a history.
        [`FingerprintMismatchError`]: The model wasn't trained on this catalog, or doesn't say.
        [`InvalidSequencesError`]: A history is empty.
        [`UnknownItemError`]: An item of a history, or of another argument, isn't in the catalog.
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
    check_fingerprint(model, catalog)
    check_integer("top_k", top_k)
    if top_k > len(catalog):
        raise UnsatisfiableRequestError(
            f"`top_k` is {top_k}, but the catalog has only {len(catalog)} items. Ask for fewer."
        )
    check_number("unseen_fraction", unseen_fraction, 0, 1)
    if seed is not None:
        check_integer("seed", seed, -(2**63), 2**64 - 1)
    check_integer("batch_size", batch_size)
    top_k, batch_size, seed = to_python(top_k), to_python(batch_size), to_python(seed)
    num_beams, temperature = to_python(num_beams), to_python(temperature)
    exclude = _as_list("exclude", exclude)
    candidates, unseen_items = _as_list("candidates", candidates), _as_list("unseen_items", unseen_items)
    if unseen_fraction > 0 and unseen_items is None:
        raise ValueError("`unseen_fraction` is given, but no `unseen_items`: name the items that it is about.")
    if num_beams is None:
        num_beams = top_k if temperature is not None else max(DEFAULT_NUM_BEAMS, top_k)
    clock = Clock(model.device if timings else None)
    with clock("encode"):
        search = open_search(model, tokenizer, catalog, histories, user_ids, max_history, prefix_table, clock)
        lists, for_all = _lists_to_exclude(histories, exclude_history, exclude)
        if len(for_all) * len(histories) <= len(catalog):  # few: they are left out history by history
            lists, for_all = [[*items, *for_all] for items in lists], []
        excluded = _pairs(catalog, lists)
        table, unseen = search.table, torch.empty(0, dtype=torch.int64)
        if candidates is not None or unseen_items is not None or for_all:
            seen, unseen = _choices(table, catalog, candidates, for_all, unseen_items)
            table = table.restrict(seen) if len(seen) else None
        # Two kinds of places: for items that training saw, which are all of them by default, and for unseen ones.
        excluded_unseen = excluded.renumbered(unseen)
        num_unseen = len(unseen) - excluded_unseen.count(len(histories))
        # 0.3 * 10 may be 2.9999999999999996, and is 3 places.
        num_unseen = num_unseen.clamp(max=int(unseen_fraction * top_k + 1e-9))
        num_seen, num_left = top_k - num_unseen, torch.zeros_like(num_unseen)
        if table is not None:
            excluded = excluded.within(table)
            num_left = table.num_items - excluded.count(len(histories))
        _refuse_too_few(top_k, num_seen, num_left, len(catalog))

    generator = None if seed is None else torch.Generator(model.device).manual_seed(seed)
    options = {"num_beams": num_beams, "temperature": temperature, "generator": generator}
    options |= {"batch_size": batch_size, "show_progress": show_progress}
    rows = torch.full((len(histories), top_k), -1)
    scores = torch.full((len(histories), top_k), -torch.inf)
    places = torch.arange(top_k)
    if num_seen.any():
        taken = places < num_seen.unsqueeze(-1)
        rows[taken], scores[taken] = _fill(search, table, num_seen, excluded, options)
    if num_unseen.any():
        table = _table_without_suffix(search, catalog, unseen)
        options["normalization"] = "legal"
        for name in ("num_beams", "temperature"):
            if isinstance(options[name], Sequence) and not isinstance(options[name], str):  # one for each level
                options[name] = options[name][: table.num_levels]
        taken = places >= num_seen.unsqueeze(-1)
        numbers, scores[taken] = _fill(search, table, num_unseen, excluded_unseen, options)
        rows[taken] = unseen[numbers]
    with clock("items"):
        item_ids = catalog.item_ids_at(rows.flatten())
        lists = [item_ids[start : start + top_k] for start in range(0, len(item_ids), top_k)]
    return RetrievalResult(item_ids=lists, scores=scores.tolist(), timings=clock.milliseconds)


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
    check_integer("num_beams", num_beams)
    search = open_search(model, tokenizer, catalog, histories, user_ids, max_history, prefix_table)
    longest = max(map(len, histories), default=0)
    return search.rank(
        search.table,
        torch.arange(len(histories)),
        num_beams=num_beams,
        batch_size=batch_size,
        max_width=num_beams + longest,
        show_progress=show_progress,
    )


def rank_rows(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    catalog: SemanticIdCatalog,
    rows: Mapping[str, Sequence[str]],
    num_items: int,
    num_beams: int | Sequence[int] = DEFAULT_NUM_BEAMS,
    batch_size: int = 64,
    max_source_length: int = 1024,
    prefix_table: PrefixTable | None = None,
    show_progress: bool = False,
) -> CatalogRanking:
    """
    Ranks the items that one beam search reaches for rows of text, from the prompts that [`PromptEncoder`] makes.

    Args:
        model, tokenizer, catalog, num_beams, batch_size, prefix_table, show_progress:
            As in [`retrieve`].
        rows (`dict[str, list[str]]`):
            Columns `user` and perhaps `system`.
        num_items (`int`):
            Most items of a row.
        max_source_length (`int`, *optional*, defaults to 1024):
            Most tokens of `user`.

    Returns:
        [`CatalogRanking`]: on the CPU, in the order of `rows`, at most `num_items` wide. Items that share a semantic
        ID follow each other in the catalog's order.

    Raises:
        [`FingerprintMismatchError`], [`InvalidSequencesError`], `ValueError`: As [`retrieve`] and [`PromptEncoder`].
    """

    check_integer("num_items", num_items)

    def encode(token_ids: torch.Tensor) -> list[torch.Tensor]:
        encoder = PromptEncoder(
            tokenizer, catalog.layout, model.config.is_encoder_decoder, max_source_length, token_ids=token_ids
        )
        return encoder.encode_prompts(rows)

    search = _open(model, tokenizer, catalog, prefix_table, None, encode)
    return search.rank(
        search.table,
        torch.arange(len(search.prompts)),
        num_beams=num_beams,
        batch_size=batch_size,
        max_width=num_items,
        show_progress=show_progress,
    )


def open_search(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    catalog: SemanticIdCatalog,
    histories: Sequence[Sequence],
    user_ids: Sequence[str | int] | None,
    max_history: int | None,
    prefix_table: PrefixTable | None,
    clock: Clock | None = None,
) -> HistorySearch:
    """Checks that model, catalog and table belong together, and encodes histories. Arguments as in [`retrieve`]."""
    if max_history is None:
        max_history = get_trained_setting(model, "semantic_id_max_history") or DEFAULT_MAX_HISTORY
    check_integer("max_history", max_history)

    def encode(token_ids: torch.Tensor) -> list[torch.Tensor]:
        is_encoder_decoder = model.config.is_encoder_decoder
        return HistoryEncoder(catalog, tokenizer, is_encoder_decoder, max_history, token_ids)(histories, user_ids)

    return _open(model, tokenizer, catalog, prefix_table, clock, encode)


def _open(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    catalog: SemanticIdCatalog,
    prefix_table: PrefixTable | None,
    clock: Clock | None,
    encode: Callable[[torch.Tensor], list[torch.Tensor]],
) -> HistorySearch:
    check_fingerprint(model, catalog)
    check_type("tokenizer", tokenizer, PreTrainedTokenizerBase)
    if prefix_table is not None:
        check_table(prefix_table, catalog)
    return HistorySearch(model, tokenizer, catalog, prefix_table, clock or Clock(None), encode)


def _fill(
    search: HistorySearch, table: PrefixTable, counts: torch.Tensor, excluded: Excluded, options: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The best items of a table for every history, as many as `counts` says, none of them `excluded`: their rows and
    their scores, one history after the other.
    """
    if options["num_beams"] == "all":
        at_once = max(1, CATALOG_PREFIXES // table.num_nodes(table.num_levels - 1))
        batch_size = min(options["batch_size"], at_once)
        options = options | {"num_beams": table.num_leaves, "batch_size": batch_size}
    excluded_leaves = excluded.leaves(table)
    # A semantic ID of which only some items are excluded is found; these are left out here. A pair of history and item
    # is one number, so that one look-up finds them all.
    pairs = excluded.histories * search.num_items + excluded.items
    most, width = int(excluded.count(len(counts)).max()), int(counts.max())
    rows, scores = torch.full((len(counts), width), -1), torch.full((len(counts), width), -torch.inf)
    pending = counts.nonzero()[:, 0]
    while len(pending):
        ranking = search.rank(table, pending, max_width=width + most, excluded=excluded_leaves, **options)
        keep = (ranking.rows >= 0) & ~torch.isin(pending.unsqueeze(-1) * search.num_items + ranking.rows, pairs)
        wanted = counts[pending]
        full = keep.sum(dim=-1) >= wanted
        best = (~keep[full]).to(torch.int8).argsort(dim=-1, stable=True)[:, :width]
        beyond = torch.arange(best.shape[1]) >= wanted[full].unsqueeze(-1)
        rows[pending[full], : best.shape[1]] = ranking.rows[full].gather(-1, best).masked_fill(beyond, -1)
        scores[pending[full], : best.shape[1]] = ranking.scores[full].gather(-1, best).masked_fill(beyond, -torch.inf)
        pending = pending[~full]
        if len(pending) and not _can_widen(options["num_beams"], table):
            raise UnsatisfiableRequestError(
                f"The model gives a probability of 0 to so many semantic IDs that history {int(pending[0])} can't get "
                f"{int(counts[pending[0]])} items."
            )
        options = options | _widened(options, table)
    if options["temperature"] is not None:  # found in the order of drawing
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
        rows = rows.gather(-1, order)
    return rows[rows >= 0], scores[rows >= 0]


def _can_widen(num_beams: int | Sequence[int], table: PrefixTable) -> bool:
    widths = [num_beams] if isinstance(num_beams, int) else num_beams
    return min(widths) < table.num_leaves


def _widened(options: dict[str, Any], table: PrefixTable) -> dict[str, Any]:
    """Twice the beams, and as many of them in a batch as before: memory stays the same."""
    num_beams, most = options["num_beams"], table.num_leaves
    wider = min(2 * num_beams, most) if isinstance(num_beams, int) else [min(2 * width, most) for width in num_beams]
    return {"num_beams": wider, "batch_size": max(1, options["batch_size"] // 2)}


def _choices(
    table: PrefixTable,
    catalog: SemanticIdCatalog,
    candidates: Sequence | None,
    exclude: Sequence,
    unseen_items: Sequence | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of the catalog to choose from, ascending: those that training saw, and those that it didn't."""
    allowed, unseen = torch.ones(len(catalog), dtype=torch.bool), torch.zeros(len(catalog), dtype=torch.bool)
    if table.num_items < len(catalog):
        rows, _ = table.items(torch.arange(table.num_leaves, device=table.device))
        allowed = unseen.index_fill(0, rows.cpu(), True)
    if candidates is not None:
        allowed = allowed & unseen.index_fill(0, catalog.indices_for(candidates), True)
    allowed[catalog.indices_for(exclude)] = False
    if unseen_items is not None:
        unseen[catalog.indices_for(unseen_items)] = True
    return (allowed & ~unseen).nonzero()[:, 0], (allowed & unseen).nonzero()[:, 0]


def _pairs(catalog: SemanticIdCatalog, lists: Sequence[Sequence]) -> Excluded:
    """Items of one list for each history, as rows of the catalog, each once."""
    items = catalog.indices_for(list(chain.from_iterable(lists)))
    lengths = torch.tensor([len(items) for items in lists], dtype=torch.int64)
    pairs = (torch.arange(len(lists)).repeat_interleave(lengths) * len(catalog) + items).unique()
    return Excluded(pairs // len(catalog), pairs % len(catalog))


def _as_list(name: str, items: Any) -> list | None:
    items = to_python(items)
    if items is None:
        return None
    if isinstance(items, str | Mapping) or not isinstance(items, Iterable):
        raise ValueError(f"`{name}` must be a list of item ids, got {shorten(items)}.")
    return list(items)


def _lists_to_exclude(
    histories: Sequence[Sequence], exclude_history: bool, exclude: list | None
) -> tuple[list[list], list]:
    """Item ids that each history leaves out, and those that all do."""
    lists = [list(history) if exclude_history else [] for history in histories]
    if exclude is None or all(isinstance(entry, str | Integral) for entry in exclude):
        return lists, exclude or []
    for place, entry in enumerate(exclude):
        if isinstance(entry, str) or not isinstance(entry, Iterable):
            raise InvalidSequencesError(
                "`exclude` must hold item ids alone, or a list of them for each of the `histories`, got "
                f"{shorten(entry)} at place {place}."
            )
    if len(exclude) != len(histories):
        raise InvalidSequencesError(
            f"`exclude` must hold item ids, or a list of them for each of the {len(histories)} `histories`, got "
            f"{len(exclude)} lists."
        )
    return [[*items, *more] for items, more in zip(lists, exclude, strict=True)], []


def _refuse_too_few(top_k: int, wanted: torch.Tensor, left: torch.Tensor, num_items: int) -> None:
    short = (left < wanted).nonzero()[:, 0].tolist()
    if short:
        raise UnsatisfiableRequestError(
            f"`top_k` is {top_k}, but history {short[0]} leaves only {int(left[short[0]])} of the catalog's "
            f"{num_items} items. Ask for fewer, exclude fewer, or set `exclude_history=False`."
        )


def _table_without_suffix(search: HistorySearch, catalog: SemanticIdCatalog, rows: torch.Tensor) -> PrefixTable:
    """The codes that the embeddings of some items got. The table numbers the items by their places in `rows`."""
    levels = catalog.layout.num_levels - (catalog.on_collision == "suffix")
    sizes = catalog.layout.codebook_sizes[:levels]
    return PrefixTable(catalog.codes_at(rows)[:, :levels], sizes, search.token_ids[: sum(sizes)]).to(
        search.table.device
    )


def check_fingerprint(model: nn.Module, catalog: SemanticIdCatalog) -> None:
    """Raises [`FingerprintMismatchError`] unless the model, or its adapter, names this catalog's fingerprint."""
    check_type("model", model, nn.Module)
    check_type("catalog", catalog, SemanticIdCatalog)
    compare_fingerprints(get_trained_setting(model, "semantic_id_fingerprint"), catalog.fingerprint)


def check_table(prefix_table: PrefixTable, catalog: SemanticIdCatalog) -> None:
    """Raises [`FingerprintMismatchError`] unless the table was built from this catalog."""
    check_type("prefix_table", prefix_table, PrefixTable)
    prefix_table.check_catalog(catalog)


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
