# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Histories of any lengths, searched in batches, with what each of them leaves out."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..checks import check_integer, check_integers, to_python
from ..semantic_ids import SemanticIdCatalog
from .beam_search import BeamSearchOutput, constrained_beam_search
from .catalog_tables import table_of
from .prefix_table import PrefixTable


__all__ = ["CatalogRanking", "Clock", "Excluded", "HistorySearch", "eval_mode", "pad_prompts"]


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


class Excluded(NamedTuple):
    """Distinct pairs of a history and an item that it isn't to get, both of shape `(num_pairs,)`."""

    histories: torch.Tensor
    items: torch.Tensor

    def within(self, table: PrefixTable) -> "Excluded":
        """The pairs whose item is in a table."""
        known = (table.leaves_of(self.items.to(table.device)) >= 0).to(self.items.device)
        return Excluded(self.histories[known], self.items[known])

    def renumbered(self, items: torch.Tensor) -> "Excluded":
        """The pairs of some items, of shape `(num_items,)` and ascending, with the places in `items` for the items."""
        places = torch.searchsorted(items, self.items)
        kept = places < len(items)
        kept[kept.clone()] = items[places[kept]] == self.items[kept]
        return Excluded(self.histories[kept], places[kept])

    def leaves(self, table: PrefixTable) -> "Excluded":
        """Pairs of a history and a semantic ID all of whose items are left out, for items of a table."""
        leaves = table.leaves_of(self.items.to(table.device)).to(self.items.device)
        pairs, counts = (self.histories * table.num_leaves + leaves).unique(return_counts=True)
        histories, leaves = pairs // table.num_leaves, pairs % table.num_leaves
        _, num_items = table.items(leaves.to(table.device))
        whole = counts == num_items.to(counts.device)
        return Excluded(histories[whole], leaves[whole])

    def count(self, num_histories: int) -> torch.Tensor:
        """How many pairs each history has."""
        return torch.bincount(self.histories, minlength=num_histories)

    def of_batch(self, batch: torch.Tensor, num_histories: int) -> torch.Tensor:
        """Pairs of a batch's row and an item, of shape `(num_pairs, 2)`, for the histories that the batch holds."""
        row_of = torch.full((num_histories,), -1)
        row_of[batch] = torch.arange(len(batch))
        rows = row_of[self.histories]
        return torch.stack([rows, self.items], dim=-1)[rows >= 0]


class Clock:
    """Milliseconds of the stages of a call; of nothing, without a device to measure on."""

    def __init__(self, device: torch.device | None):
        self.device = device
        stages = ("encode", "prefill", "search", "items")
        self.milliseconds = None if device is None else dict.fromkeys(stages, 0.0)

    def now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter() * 1000

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Adds what happens inside to a stage."""
        if self.device is None:
            yield
            return
        started = self.now()
        yield
        self.milliseconds[stage] += self.now() - started

    @contextmanager
    def search(self, model: nn.Module) -> Iterator[None]:
        """The same for a search: its part until the model has read the prompts goes to `prefill`."""
        if self.device is None:
            yield
            return
        # Of an encoder-decoder the encoder reads the histories, else the first pass through the decoder.
        reader = model.get_encoder() if model.config.is_encoder_decoder else model.get_decoder()
        times = [self.now()]

        thread = threading.get_ident()

        def note(*_) -> None:
            # Other threads may search with the same model.
            if len(times) == 1 and threading.get_ident() == thread:
                times.append(self.now())

        handle = reader.register_forward_hook(note)
        try:
            yield
        finally:
            handle.remove()
        self.milliseconds["prefill"] += times[-1] - times[0]
        self.milliseconds["search"] += self.now() - times[-1]


class HistorySearch:
    """
    Encoded histories, and the search for what comes next, any number of times.

    `encode` makes the prompts: it gets the token id of every code, which can take longer to ask the tokenizer for than
    a search, and which the table knows. The other arguments are those of [`retrieve`].
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        catalog: SemanticIdCatalog,
        prefix_table: PrefixTable | None,
        clock: Clock,
        encode: Callable[[torch.Tensor], list[torch.Tensor]],
    ):
        self.model = model
        self.clock = clock
        self.pad_token_id = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        table = table_of(catalog, tokenizer, model.device) if prefix_table is None else prefix_table
        self.token_ids = table.token_ids.cpu()
        self.prompts = encode(self.token_ids)
        self.num_items = len(catalog)
        self.table = table.to(model.device)

    def rank(
        self,
        table: PrefixTable,
        histories: torch.Tensor,
        *,
        num_beams: int | Sequence[int],
        batch_size: int,
        max_width: int,
        show_progress: bool = False,
        excluded: Excluded | None = None,
        **sampling,
    ) -> CatalogRanking:
        """
        Ranks a table's items, `max_width` of them at most, for some histories, given by number. Leaves that are
        `excluded` for a history are no part of its search.
        """
        num_beams = to_python(num_beams)
        check_integers("num_beams", num_beams if isinstance(num_beams, Sequence) else [num_beams])

        def search(batch, input_ids, attention_mask) -> CatalogRanking:
            leaves = None if excluded is None else excluded.of_batch(batch, len(self.prompts)).to(input_ids.device)
            with self.clock.search(self.model):
                output = constrained_beam_search(
                    self.model, input_ids, attention_mask, table, num_beams, excluded_leaves=leaves, **sampling
                )
            with self.clock("items"):
                return _items(table, output, max_width)

        order, parts = self.map(search, histories, batch_size, show_progress)
        width = max((part.rows.shape[-1] for part in parts), default=0)
        rows = torch.full((len(histories), width), -1)
        scores = torch.full((len(histories), width), -torch.inf)
        for places, part in zip(order, parts, strict=True):
            rows[places, : part.rows.shape[-1]] = part.rows
            scores[places, : part.rows.shape[-1]] = part.scores
        return CatalogRanking(rows, scores)

    def map(
        self, function: Callable, histories: torch.Tensor, batch_size: int, show_progress: bool = False
    ) -> tuple[tuple[torch.Tensor, ...], list]:
        """
        `function(batch, input_ids, attention_mask)` of batches of histories, given by number: the places in
        `histories` that each batch holds, and what it gave.
        """
        check_integer("batch_size", batch_size)
        if len(histories) == 0:
            return (), []
        # Histories of similar length together: little padding. The longest go first, so that memory runs out at once.
        lengths = torch.tensor([len(self.prompts[history]) for history in histories.tolist()])
        order = lengths.argsort(descending=True, stable=True).split(int(batch_size))
        with eval_mode(self.model):
            progress = tqdm(order, desc="Retrieving", unit="batch", disable=not show_progress)
            return order, [function(batch, *self._inputs(batch)) for batch in map(histories.__getitem__, progress)]

    def _inputs(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return pad_prompts(self.model, [self.prompts[history] for history in batch.tolist()], self.pad_token_id)


def pad_prompts(
    model: nn.Module, prompts: Sequence[torch.Tensor], pad_token_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`input_ids` and `attention_mask` of a batch, padded on the side and put on the device that the model needs."""
    side = "right" if model.config.is_encoder_decoder else "left"
    input_ids = pad_sequence(prompts, batch_first=True, padding_value=pad_token_id, padding_side=side)
    masks = [torch.ones_like(prompt) for prompt in prompts]
    attention_mask = pad_sequence(masks, batch_first=True, padding_side=side)
    return input_ids.to(model.device), attention_mask.to(model.device)


def _items(table: PrefixTable, output: BeamSearchOutput, max_width: int) -> CatalogRanking:
    """Replaces the semantic IDs of each row by their items."""
    batch_size, num_beams = output.leaves.shape
    items, counts = table.items(output.leaves.flatten())
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
    ranking.rows[row, column] = items.long()
    ranking.scores[row, column] = scores
    return CatalogRanking(ranking.rows.cpu(), ranking.scores.cpu())


# Models in eval mode, with the number of callers that need it and the modes that their modules had before the first.
_in_eval: dict[nn.Module, tuple[int, list[tuple[nn.Module, bool]]]] = {}
_eval_lock = threading.Lock()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts a model into eval mode for a while: where several threads do so, until the last of them is done."""
    with _eval_lock:
        count, modes = _in_eval.get(model) or (0, [(module, module.training) for module in model.modules()])
        _in_eval[model] = count + 1, modes
        if any(training for _, training in modes):
            model.eval()
    try:
        yield
    finally:
        with _eval_lock:
            count, modes = _in_eval.pop(model)
            if count > 1:
                _in_eval[model] = count - 1, modes
            else:
                for module, training in modes:
                    module.training = training
