# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Scoring a retriever over rows of text, as FORGE's test files have them."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..checks import check_integer, check_type
from ..data import MalformedRows
from ..errors import InvalidSequencesError
from ..generation import PrefixTable
from ..generation.retrieval import rank_rows
from ..semantic_ids import SemanticIdCatalog
from ..tokenization.code_text import as_texts, find_codes
from .evaluator import RetrievalEvaluator, _pad, check_ks


__all__ = ["RowEvaluator"]


class RowEvaluator(RetrievalEvaluator):
    """
    As [`RetrievalEvaluator`], for rows of text: the model reads what [`PromptEncoder`] makes of them, and items of the
    history stay in the lists. `recall@k` is FORGE's hit rate: the share of a row's true items that are found.

    Args:
        dataset ([`~datasets.Dataset`]):
            Columns `user`, perhaps `system`, and `answer`: item ids joined by `;`, as in FORGE's test rows, or one
            semantic ID, as in its training rows, which stands for the first item that has it. A true item that isn't
            in the catalog can't be found.
        catalog ([`SemanticIdCatalog`]):
            The items to choose from.
        ks, num_beams, batch_size, show_progress (*optional*):
            As in [`RetrievalEvaluator`].
        max_source_length (`int`, *optional*, defaults to 1024):
            Most tokens of `user`.
        malformed ([`MalformedRows`], *optional*):
            Takes count of rows without an answer or with a `user` text that can't be read, which are left out.

    Raises:
        [`InvalidSequencesError`]: if the dataset has no rows, or lacks a column.
        [`MalformedRowsError`]: if too many rows are malformed.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> from forge_hf import SemanticIdCatalog, SemanticIdTokenizer
    >>> from forge_hf.evaluation import RowEvaluator

    >>> codes = [[1, 2], [0, 3], [1, 0]]
    >>> catalog = SemanticIdCatalog.from_codes(["7a", "b2", "0c"], codes, codebook_sizes=[4, 4], on_collision="keep")
    >>> tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    >>> config = Qwen2Config(
    ...     vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
    ...     num_attention_heads=2, num_key_value_heads=2, semantic_id_fingerprint=catalog.fingerprint,
    ... )
    >>> dataset = Dataset.from_dict({"user": ["clicks: C1C6C0C7"], "answer": ["0c;7a"]})
    >>> evaluator = RowEvaluator(dataset, catalog, ks=(3,), show_progress=False)
    >>> evaluator(Qwen2ForCausalLM(config), tokenizer)["recall@3"]
    1.0
    ```
    """

    def __init__(
        self,
        dataset: Dataset,
        catalog: SemanticIdCatalog,
        ks: Sequence[int] = (5, 10),
        num_beams: int = 50,
        batch_size: int = 64,
        max_source_length: int = 1024,
        show_progress: bool = True,
        malformed: MalformedRows | None = None,
    ):
        if not isinstance(dataset, Dataset):
            raise InvalidSequencesError(
                f"`dataset` must be a `datasets.Dataset`, got {type(dataset).__name__}. Of a stream take some rows: "
                "`Dataset.from_list(list(stream.take(1000)))`."
            )
        missing = {"user", "answer"}.difference(dataset.column_names)
        if missing or len(dataset) == 0:
            raise InvalidSequencesError(
                f"`dataset` must have rows with the columns `user` and `answer`, got {len(dataset)} with "
                f"{dataset.column_names}."
            )
        check_type("catalog", catalog, SemanticIdCatalog)
        self.ks = check_ks(ks, num_beams)
        check_integer("batch_size", batch_size)
        check_integer("max_source_length", max_source_length, catalog.layout.num_levels + 1)
        self.catalog = catalog
        self.exclude_history = False
        self.num_beams = num_beams
        self.batch_size = batch_size
        self.max_source_length = max_source_length
        self.show_progress = show_progress
        malformed = malformed or MalformedRows(source="`dataset`")
        self._rows = _readable(dataset.with_format(None), catalog, malformed)
        self._histories = range(len(self._rows))  # what is searched: rows, by number
        self._targets = _true_rows(self._rows["answer"][:], catalog)

    @property
    def protocol(self) -> str:
        """How a model is scored, in words, for its card."""
        return f"{super().protocol}, from rows of text"

    def _search(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, table: PrefixTable, block: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        rows = self._rows[block.tolist()]
        top_k = self.ks[-1]
        options = {"batch_size": self.batch_size, "max_source_length": self.max_source_length, "prefix_table": table}
        ranked = rank_rows(model, tokenizer, self.catalog, rows, top_k, self.num_beams, **options).rows
        return (nn.functional.pad(ranked, (0, max(0, top_k - ranked.shape[1])), value=-1),)


def _readable(rows: Dataset, catalog: SemanticIdCatalog, malformed: MalformedRows) -> Dataset:
    answers = as_texts(rows["answer"][:]).to_pylist()  # null what isn't text
    problems = {row: "no `answer`" for row, answer in enumerate(answers) if not (answer or "").strip().strip(";")}
    problems |= find_codes(as_texts(rows["user"][:])).problems(catalog.layout, "user", only_codes=False)
    malformed.seen(len(rows))
    numbers = sorted(problems)
    malformed.record([row + 1 for row in numbers], [problems[row] for row in numbers], unit="row")
    malformed.report()
    if len(problems) == len(rows):
        raise InvalidSequencesError(f"`dataset` must hold at least one row, got {len(rows)}, all malformed.")
    return rows.select([row for row in range(len(rows)) if row not in problems]) if problems else rows


def _true_rows(answers: Sequence[str], catalog: SemanticIdCatalog) -> torch.Tensor:
    """Rows of the catalog that each answer names, padded with -1; rows beyond the catalog for what it lacks."""
    texts = as_texts(answers)
    codes = find_codes(texts)
    not_codes = codes.problems(catalog.layout, "answer", only_codes=True)
    is_code = np.ones(len(texts), dtype=bool)
    is_code[list(not_codes)] = False
    is_code &= codes.counts == catalog.layout.num_levels
    known = {str(item): row for row, item in enumerate(catalog.item_ids)}
    named = codes.index[np.repeat(is_code, codes.counts)].reshape(-1, catalog.layout.num_levels)
    items_of = iter(catalog.items_for(catalog.layout.from_index(named)))
    truths = []
    for text, by_code in zip(texts.to_pylist(), is_code.tolist(), strict=True):
        if by_code:
            items = next(items_of)[:1]
            truths.append([known[str(items[0])] if items else len(catalog)])
            continue
        items = list(dict.fromkeys(filter(None, text.strip().split(";"))))
        truths.append([known.get(item, len(catalog) + place) for place, item in enumerate(items)])
    return _pad(torch.tensor(list(chain.from_iterable(truths))), truths)
