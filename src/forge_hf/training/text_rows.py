# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Rows of text (`system`, `user`, `answer`) as a model learns from them: of a dataset at hand, or of a stream."""

import logging
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset as HFDataset
from datasets import IterableDataset as HFIterableDataset
from datasets.iterable_dataset import SkipExamplesIterable, TakeExamplesIterable
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from tqdm.auto import tqdm

from ..checks import check_dataset, check_integer, check_type
from ..data import MalformedRows
from ..errors import InvalidSequencesError
from ..tokenization import PromptEncoder
from .fingerprints import fingerprint


__all__ = ["PromptRows", "PromptStream"]

logger = logging.getLogger(__name__)

BLOCK_SIZE = 1000  # rows that are read and tokenized at once
_COLUMNS = ("system", "user", "answer")
Example = tuple[torch.Tensor, torch.Tensor]


class PromptRows(Dataset):
    """
    Examples of a dataset of rows, tokenized when they are asked for.

    All rows are read once at first: malformed ones are left out, and lengths are noted.

    Args:
        rows (`datasets.Dataset`):
            Columns `user`, `answer` and perhaps `system`.
        encoder ([`PromptEncoder`]):
            Tokens of a row.
        malformed ([`MalformedRows`], *optional*):
            Keeps count of malformed rows, by their number, from 1.
        show_progress (`bool`, *optional*, defaults to `False`):
            Whether to show a progress bar while the rows are read.

    Attributes:
        lengths (`np.ndarray` of shape `(num_examples,)`): number of tokens that a model reads of each.

    Raises:
        [`InvalidSequencesError`]: There are no rows but malformed ones, or a column is missing.
        [`MalformedRowsError`]: Too many are malformed.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from forge_hf import SemanticIdLayout, SemanticIdTokenizer
    >>> from forge_hf.tokenization import PromptEncoder
    >>> from forge_hf.training import PromptRows

    >>> layout = SemanticIdLayout([4, 4])
    >>> encoder = PromptEncoder(SemanticIdTokenizer(layout=layout), layout, is_encoder_decoder=False)
    >>> rows = PromptRows(Dataset.from_dict({"user": ["C0C5C1C6"], "answer": ["C2C7"]}), encoder)
    >>> input_ids, labels = rows[0]
    >>> encoder.tokenizer.decode(input_ids)
    '<sep>C0C5C1C6C2C7</s>'
    ```
    """

    def __init__(
        self,
        rows: HFDataset,
        encoder: PromptEncoder,
        malformed: MalformedRows | None = None,
        show_progress: bool = False,
    ):
        check_dataset("rows", rows)
        _check_columns(rows.column_names)
        self.encoder = encoder
        self.malformed = malformed or MalformedRows(source="`train_dataset`")
        self._rows = rows.select_columns([name for name in _COLUMNS if name in rows.column_names]).with_format("arrow")
        kept, lengths = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        with tqdm(total=len(rows), desc="Reading rows", unit="row", disable=not show_progress, delay=2) as progress:
            for start in range(0, len(rows), BLOCK_SIZE):
                table = self._rows[start : start + BLOCK_SIZE]
                numbers = np.arange(start, start + len(table))
                examples = encoder.encode_examples(_columns(table), self.malformed, numbers + 1)
                self.malformed.check()
                kept.append(numbers[[example is not None for example in examples]])
                lengths.append(np.array([len(example[0]) for example in examples if example is not None], dtype=int))
                progress.update(len(table))
        self._kept, self.lengths = np.concatenate(kept), np.concatenate(lengths)
        self.malformed.report()
        if len(self._kept) == 0:
            raise InvalidSequencesError(f"`rows` must hold at least one row, got {len(rows)}, all malformed.")

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Example:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Example]:
        """A batch at once, as a `DataLoader` asks for it."""
        return self.encoder.encode_examples(_columns(self._rows[self._kept[indices]]))

    def names(self, indices: Sequence[int]) -> list[int]:
        """Numbers of examples among the rows, from 1."""
        return (self._kept[np.asarray(indices)] + 1).tolist()

    def fingerprint(self) -> str:
        """A hash of the rows: of all their lengths and texts (of 1,000 of them, if they are more than 200,000)."""
        return fingerprint(self._kept, self.lengths, self._rows.with_format(None))


class PromptStream(IterableDataset):
    """
    Examples of a stream of rows, epoch after epoch without end, at constant memory.

    - Every row is read exactly once an epoch, by one process and there by one worker of the `DataLoader`: the i-th row
      by the one with the number i modulo their number, whatever the number of files. So each reads all files, which
      takes some 10 to 20 microseconds a row of others (and all of them over the network, if files aren't local), and
      none gets further than the others.
    - There is no end of an epoch to stop at: batches are always full, and as many on every process.
    - A stream that was cut with `take` or `skip` is read in its own order of files.
    - Order depends on `seed`, the epoch, and the numbers of processes and workers alone: files in a random order, and
      rows drawn from a buffer. A training goes on from a checkpoint by passing over the rows before.

    Args:
        rows (`datasets.IterableDataset`):
            Columns `user`, `answer` and perhaps `system`: what `read_text_rows(..., streaming=True)` gives.
        encoder ([`PromptEncoder`]):
            Tokens of a row.
        buffer_size (`int`, *optional*, defaults to 10000):
            Examples to draw from, on each worker. 0 leaves the rows in their order.
        seed (`int`, *optional*, defaults to 0):
            Seed of the order.
        process_index, num_processes (`int`, *optional*, default to 0 and 1):
            The number of this process, and how many there are.
        malformed ([`MalformedRows`], *optional*):
            How many malformed rows to bear, and what to call the rows. Each worker keeps a count of its own, in the
            first epoch, logs it at the 1st, 10th, 100th, ... such row, and stops above the rate.

    Raises:
        [`InvalidSequencesError`]: There are no rows, all are malformed, or a column is missing.
        [`MalformedRowsError`]: Too many are malformed.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from forge_hf import SemanticIdLayout, SemanticIdTokenizer
    >>> from forge_hf.tokenization import PromptEncoder
    >>> from forge_hf.training import PromptStream

    >>> layout = SemanticIdLayout([4, 4])
    >>> encoder = PromptEncoder(SemanticIdTokenizer(layout=layout), layout, is_encoder_decoder=False)
    >>> rows = Dataset.from_dict({"user": ["C0C5", "C1C6"], "answer": ["C2C7", "C3C4"]}).to_iterable_dataset()
    >>> examples = iter(PromptStream(rows, encoder, buffer_size=0))
    >>> [encoder.tokenizer.decode(next(examples)[0]) for _ in range(3)]
    ['<sep>C0C5C2C7</s>', '<sep>C1C6C3C4</s>', '<sep>C0C5C2C7</s>']
    ```
    """

    def __init__(
        self,
        rows: HFIterableDataset,
        encoder: PromptEncoder,
        buffer_size: int = 10_000,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        malformed: MalformedRows | None = None,
    ):
        check_type("rows", rows, HFIterableDataset)
        check_integer("buffer_size", buffer_size, 0)
        check_integer("num_processes", num_processes)
        check_integer("process_index", process_index, 0, num_processes - 1)
        first = next(iter(rows.take(1)), None)
        if first is None:
            raise InvalidSequencesError("`rows` must hold at least one row, got none.")
        _check_columns(list(first))
        self.encoder = encoder
        self.buffer_size = buffer_size
        self.seed = seed
        self.process_index = process_index
        self.num_processes = num_processes
        self.malformed = malformed or MalformedRows(source="`train_dataset`")
        self._rows = rows.select_columns([name for name in _COLUMNS if name in first]).with_format("arrow")
        # Of a stream that was cut, each file would be cut for itself.
        self._num_files = 1 if _is_cut(rows._ex_iterable) else rows.num_shards
        self._first_row = first
        self._first_epoch = 0

    def fingerprint(self) -> str:
        """A hash of the first row and the number of files: more of a stream isn't known at first."""
        return fingerprint([self._num_files, self._first_row])

    def set_epoch(self, epoch: int) -> None:
        """The epoch to begin with."""
        self._first_epoch = epoch

    def __iter__(self) -> Iterator[Example]:
        for epoch in count(self._first_epoch):
            is_empty = True
            for example in self.epoch(epoch):
                is_empty = False
                yield example
            if is_empty:
                raise InvalidSequencesError("`rows` must hold at least one row, got none but malformed ones.")

    def epoch(self, epoch: int) -> Iterator[Example]:
        """
        One epoch's examples, of this process and worker.

        Args:
            epoch (`int`):
                Number of the epoch.
        """
        worker = get_worker_info()
        worker, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        part, num_parts = self.process_index * num_workers + worker, self.num_processes * num_workers
        examples = self._read(epoch, part, num_parts)
        if self.buffer_size == 0:
            yield from examples
            return
        generator = np.random.default_rng([self.seed, epoch, part])
        buffer = []
        for input_ids, labels in examples:
            # Examples are parts of a block, all of which stays in memory as long as one of them does.
            example = input_ids.clone(), labels.clone()
            if len(buffer) < self.buffer_size:
                buffer.append(example)
                continue
            place = int(generator.integers(len(buffer)))
            yield buffer[place]
            buffer[place] = example
        for place in generator.permutation(len(buffer)).tolist():
            yield buffer[place]

    def _read(self, epoch: int, part: int, num_parts: int) -> Iterator[Example]:
        is_first = epoch == self._first_epoch
        malformed = self.malformed if is_first else MalformedRows(max_rate=1)
        self._rows.set_epoch(epoch)  # of a shuffling that was asked of the stream before
        files = np.arange(self._num_files)
        if self.buffer_size:
            files = np.random.default_rng([self.seed, epoch]).permutation(files)  # the same on all
        place, logged = 0, 1
        for file in files.tolist():
            number = 1
            rows = self._rows.shard(len(files), file) if len(files) > 1 else self._rows
            for table in rows.iter(BLOCK_SIZE):
                mine = np.arange((part - place) % num_parts, len(table), num_parts)
                named = len(malformed.first)
                yield from filter(
                    None,
                    self.encoder.encode_examples(_columns(table.take(pa.array(mine))), malformed, number + mine),
                )
                if len(files) > 1:
                    found = malformed.first[named:]
                    malformed.first[named:] = [(row, f"{reason} (file {file + 1})") for row, reason in found]
                malformed.check()
                if is_first and malformed.num_malformed >= logged:
                    logger.warning(f"{malformed.summary()}. They are left out.")
                    logged = 10 ** len(str(malformed.num_malformed))
                place, number = place + len(table), number + len(table)
        if place < num_parts:
            raise InvalidSequencesError(
                f"`rows` must hold a row for each of the {num_parts} processes and workers, got {place}. Use fewer."
            )
        if is_first:
            malformed.report()


def is_rows(dataset) -> bool:
    """Whether a dataset is one of rows: a stream, or one with the columns `user` and `answer`."""
    if isinstance(dataset, HFIterableDataset):
        return True
    return isinstance(dataset, HFDataset) and {"user", "answer"} <= set(dataset.column_names)


def _is_cut(examples) -> bool:
    """Whether `take` or `skip` is one of the steps of a stream."""
    if isinstance(examples, (SkipExamplesIterable, TakeExamplesIterable)):
        return True
    before = getattr(examples, "ex_iterables", None) or [getattr(examples, "ex_iterable", None)]
    return any(_is_cut(step) for step in before if step is not None)


def _check_columns(names: list[str]) -> None:
    missing = [name for name in ("user", "answer") if name not in names]
    if missing:
        raise InvalidSequencesError(
            f"Rows must have the columns `user` and `answer`, but lack {missing}: they have {names}. "
            "`normalize_text_rows` renames those of AL-GR's other forms."
        )


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: table[name] for name in table.column_names}
