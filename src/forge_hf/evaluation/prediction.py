# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Predictions for a whole dataset, in a file of FORGE's form."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..checks import check_dataset, check_integer
from ..data import MalformedRows
from ..errors import CorruptFileError, InvalidSequencesError
from ..generation import PrefixTable, constrained_beam_search
from ..generation.beam_search import beam_widths
from ..generation.catalog_tables import table_of
from ..generation.history_search import eval_mode, pad_prompts
from ..generation.retrieval import DEFAULT_MAX_HISTORY, check_fingerprint, check_table, get_trained_setting
from ..hub import Shards, lock_file, write_then_rename
from ..hub.processes import join_processes, wait_for_processes
from ..models.digest import digest_model
from ..semantic_ids import SemanticIdCatalog, SemanticIdLayout
from ..tokenization import HistoryEncoder, PromptEncoder


__all__ = ["DECODER_ONLY_KEY", "ENCODER_DECODER_KEY", "predict_to_jsonl"]

DECODER_ONLY_KEY, ENCODER_DECODER_KEY = "_generated_new_text_", "_generated_text_"
# Rows of so many batches are sorted by length together.
_BATCHES_PER_WINDOW = 8
_BLOCK_SIZE = 1000  # rows that are checked at once
_PROMPT_COLUMNS = ("system", "user", "history", "user_id")
Encode = Callable[[dict[str, list], int, MalformedRows], list[torch.Tensor | None]]


def predict_to_jsonl(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    catalog: SemanticIdCatalog,
    rows: Dataset,
    path: str | os.PathLike,
    *,
    num_beams: int | Sequence[int] = 100,
    batch_size: int = 16,
    encoder: PromptEncoder | HistoryEncoder | None = None,
    prefix_table: PrefixTable | None = None,
    malformed: MalformedRows | None = None,
    show_progress: bool = True,
) -> None:
    """
    Predicts semantic IDs for every row of a dataset, by constrained beam search, and writes them as FORGE
    (https://huggingface.co/papers/2509.20904) does: one JSON object a row, with the row's own columns and the semantic
    IDs in beam order, in `_generated_new_text_` for a decoder-only model and in `_generated_text_` for an
    encoder-decoder one.

    Under `accelerate launch` the processes share the rows, each with its own copy of the model. Each writes its
    batches, with checksums, to a file of its own beside `path` (`.part-0000` and so on). The same call goes on where a
    killed one stopped, on any number of processes: no row is lost or repeated, and a batch that is damaged is searched
    again. `path` itself appears when it's complete, with all rows in their order, and doesn't depend on the number of
    processes or on kills where the hardware is the same.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            A stock encoder-decoder or decoder-only model, on the device of its process.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        catalog ([`SemanticIdCatalog`]):
            The catalog that the model was trained on.
        rows ([`~datasets.Dataset`]):
            Either rows of text, with the column `user` and perhaps `system`, or histories of item ids, oldest first,
            in a column `history`, and perhaps `user_id`. [`hit_rate_of_predictions`] needs `answer`, the items that
            came next, joined by `;`. Other columns are written as they are.
        path (`str` or `os.PathLike`):
            The JSONL file to write.
        num_beams (`int` or `Sequence[int]`, *optional*, defaults to 100):
            Width of the beam search, or one for each level: `(300, 600, 1200)` spends fewer beams where there are
            fewer prefixes to tell apart. The last is the number of semantic IDs of a row.
        batch_size (`int`, *optional*, defaults to 16):
            Number of rows that a process searches at once.
        encoder ([`PromptEncoder`] or [`HistoryEncoder`], *optional*):
            What makes tokens of rows, or of histories. By default one with its own defaults, and with as many items of
            a history as the model was trained on.
        prefix_table ([`PrefixTable`], *optional*):
            The catalog's prefix table, where there is one already.
        malformed ([`MalformedRows`], *optional*):
            Takes count of rows of text that can't be read, in all rows before the first is searched. They are written
            with no predictions.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, in the first process.

    Raises:
        `FileExistsError`: `path` exists already.
        [`FingerprintMismatchError`]: The model wasn't trained on this catalog, or doesn't say.
        [`InvalidSequencesError`]: `rows` has no rows, or neither `user` nor `history`.
        [`MalformedRowsError`]: Too many rows are malformed.
        [`OutputInUseError`]: Another process is writing `path`.
        [`StorageError`]: The disk is full, over quota, or fails. Run it again when there is room.
        `ValueError`: What lies beside `path` was begun with other rows, another model or other settings, or an
            argument is out of range.

    Example:

    ```python
    >>> import tempfile
    >>> from datasets import Dataset
    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> from forge_hf import SemanticIdCatalog, SemanticIdTokenizer
    >>> from forge_hf.evaluation import hit_rate_of_predictions, predict_to_jsonl

    >>> codes = [[1, 2], [0, 3], [1, 0]]
    >>> items = ["shirt", "shoe", "sock"]
    >>> catalog = SemanticIdCatalog.from_codes(items, codes, codebook_sizes=[4, 4], on_collision="keep")
    >>> tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    >>> config = Qwen2Config(
    ...     vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
    ...     num_attention_heads=2, num_key_value_heads=2, semantic_id_fingerprint=catalog.fingerprint,
    ... )
    >>> rows = Dataset.from_dict({"user": ["C0C7"], "answer": ["sock;hat"]})
    >>> path = tempfile.mkdtemp() + "/output.jsonl"
    >>> predict_to_jsonl(Qwen2ForCausalLM(config), tokenizer, catalog, rows, path, num_beams=3, show_progress=False)
    >>> hit_rate_of_predictions(path, catalog, ks=(3,))
    {'hit_rate@3': 0.5}
    ```
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"`path` {str(path)!r} exists already. Remove it, or write to another.")
    check_dataset("rows", rows)
    check_fingerprint(model, catalog)
    check_integer("batch_size", batch_size)
    if len(rows) == 0 or not {"user", "history"} & set(rows.column_names):
        raise InvalidSequencesError(
            f"`rows` must have rows, with a column `user` or `history`; it has {len(rows)} and {rows.column_names}."
        )
    if prefix_table is not None:
        check_table(prefix_table, catalog)
    table = table_of(catalog, tokenizer, model.device) if prefix_table is None else prefix_table
    widths = beam_widths(num_beams, table)
    malformed = malformed or MalformedRows(source="`rows`")
    encode = _encoding(model, tokenizer, catalog, rows, encoder, table)
    # All rows by each process, and whatever was finished before: else it would depend on that which rows are accepted.
    prompt_columns = rows.select_columns([name for name in _PROMPT_COLUMNS if name in rows.column_names])
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(rows), _BLOCK_SIZE):
        prompts = encode(prompt_columns[start : start + _BLOCK_SIZE], start, malformed)
        malformed.check()
        digest.update(_as_json(rows[start : start + _BLOCK_SIZE]))
        for prompt in prompts:
            digest.update(b"-" if prompt is None else prompt.numpy())
    malformed.report()
    search = _Search(model, tokenizer, catalog.layout, table.to(model.device), widths)
    key = ENCODER_DECODER_KEY if model.config.is_encoder_decoder else DECODER_ONLY_KEY

    index, count = join_processes()
    settings = {
        "num_rows": len(rows),
        "num_beams": widths,
        "batch_size": batch_size,
        "columns": rows.column_names,
        "catalog": catalog.fingerprint,
        "model": digest_model(model),
        "rows": digest.hexdigest(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(rows), batch_size * _BATCHES_PER_WINDOW)
    with lock_file(path) if index == 0 else nullcontext():
        finished = Shards(path, settings, part=index)
        wait_for_processes()  # before anybody writes to a part that another reads
        own = starts[index::count]
        progress = tqdm(
            desc="Predicting",
            total=sum(min(starts.step, len(rows) - start) for start in own),
            disable=index > 0 or not show_progress,
        )
        with finished, eval_mode(model), progress:
            for start in own:
                numbers = _shard_numbers(start // starts.step)
                columns = rows[start : start + starts.step]
                prompts = encode(columns, start, MalformedRows(max_rate=1))
                # Windows and their batches don't depend on processes or kills: numbers that rounding could change
                # stay the same.
                for number, batch in zip(numbers, _batches(prompts, batch_size), strict=False):
                    if number not in finished:
                        texts = search([prompts[row] for row in batch])
                        lines = [
                            json.dumps(
                                {name: values[row] for name, values in columns.items()} | {key: found},
                                ensure_ascii=False,
                            )
                            for row, found in zip(batch, texts, strict=True)
                        ]
                        data = (f"{row}\t{line}\n".encode() for row, line in zip(batch, lines, strict=True))
                        finished.write(number, b"".join(data))
                progress.update(len(prompts))
        wait_for_processes()
        if index == 0:
            _merge(path, Shards(path, settings), len(rows), starts.step)
            Shards.remove(path)
    wait_for_processes()


def _shard_numbers(window: int) -> range:
    """Of the batches of a window, with one for rows that can't be read."""
    return range(window * (_BATCHES_PER_WINDOW + 1), (window + 1) * (_BATCHES_PER_WINDOW + 1))


def _merge(path: Path, finished: Shards, num_rows: int, window_size: int) -> None:
    """Writes the lines of all shards, in the order of their rows."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            for window, start in enumerate(range(0, num_rows, window_size)):
                lines = {}
                for number in _shard_numbers(window):
                    if number in finished:
                        pairs = (line.split(b"\t", 1) for line in finished.read(number).splitlines(keepends=True))
                        lines |= {int(row): line for row, line in pairs}
                count = min(window_size, num_rows - start)
                if lines.keys() != set(range(count)):
                    raise CorruptFileError(
                        f"{count - len(lines)} of the rows {start} to {start + count - 1} are in no part of {path}. "
                        "Run it again."
                    )
                file.writelines(lines[row] for row in range(count))

    write_then_rename(path, write)


class _Search:
    """Semantic IDs of a batch of prompts, as texts, best first."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        layout: SemanticIdLayout,
        table: PrefixTable,
        widths: list[int],
    ):
        self.model, self.layout, self.table, self.widths = model, layout, table, widths
        self.pad_token_id = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        tokens = table.token_ids.cpu()
        self._index_of = torch.full((int(tokens.max()) + 1,), -1)
        self._index_of[tokens] = torch.arange(len(tokens))

    def __call__(self, prompts: list[torch.Tensor | None]) -> list[list[str]]:
        if prompts[0] is None:  # a batch of rows that can't be read
            return [[] for _ in prompts]
        input_ids, attention_mask = pad_prompts(self.model, prompts, self.pad_token_id)
        output = constrained_beam_search(self.model, input_ids, attention_mask, self.table, self.widths)
        found = (output.leaves >= 0).cpu()
        texts = iter(self.layout.to_text(self.layout.from_index(self._index_of[output.sequences.cpu()[found]])))
        return [list(islice(texts, count)) for count in found.sum(dim=-1).tolist()]


def _encoding(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    catalog: SemanticIdCatalog,
    rows: Dataset,
    encoder: PromptEncoder | HistoryEncoder | None,
    table: PrefixTable,
) -> Encode:
    is_text = "user" in rows.column_names if encoder is None else isinstance(encoder, PromptEncoder)
    column, is_encoder_decoder = "user" if is_text else "history", model.config.is_encoder_decoder
    if column not in rows.column_names:
        raise InvalidSequencesError(f"`rows` has no column {column!r}, which a {type(encoder).__name__} reads.")
    token_ids = table.token_ids.cpu()
    if encoder is None and is_text:
        encoder = PromptEncoder(tokenizer, catalog.layout, is_encoder_decoder, token_ids=token_ids)
    elif encoder is None:
        max_items = get_trained_setting(model, "semantic_id_max_history") or DEFAULT_MAX_HISTORY
        encoder = HistoryEncoder(catalog, tokenizer, is_encoder_decoder, max_items, token_ids=token_ids)
    elif encoder.is_encoder_decoder != is_encoder_decoder:
        raise ValueError("`encoder` is for a model of the other kind: its `is_encoder_decoder` isn't the model's.")

    def encode(batch: dict[str, list], start: int, malformed: MalformedRows) -> list[torch.Tensor | None]:
        if is_text:
            return encoder.encode_prompts(batch, malformed, range(start + 1, start + 1 + len(batch["user"])))
        return encoder(batch["history"], batch.get("user_id"))

    return encode


def _batches(prompts: list[torch.Tensor | None], batch_size: int) -> list[list[int]]:
    """Rows of similar length together, those that can't be read apart."""
    readable = [row for row, prompt in enumerate(prompts) if prompt is not None]
    readable.sort(key=lambda row: len(prompts[row]), reverse=True)
    malformed = [row for row, prompt in enumerate(prompts) if prompt is None]
    batches = [readable[at : at + batch_size] for at in range(0, len(readable), batch_size)]
    return [*batches, malformed] if malformed else batches


def _as_json(rows: dict[str, list]) -> bytes:
    try:
        return json.dumps(rows, sort_keys=True).encode()
    except TypeError as error:
        raise ValueError(f"`rows` must have columns that JSON can hold: {error}. Remove the others.") from error
