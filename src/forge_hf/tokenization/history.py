# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""From a user's items to the tokens that a model reads."""

import warnings
from collections.abc import Sequence
from functools import cached_property
from itertools import chain

import torch
from transformers import PreTrainedTokenizerBase

from ..checks import check_histories, check_integer, check_type, shorten
from ..errors import InvalidSequencesError
from ..semantic_ids import SemanticIdCatalog
from .tokenization_semantic_id import SemanticIdTokenizer, semantic_id_token_ids


__all__ = ["HistoryEncoder"]


class HistoryEncoder:
    """
    Turns histories of item ids into token ids.

    - For an encoder-decoder model: the user's token, if there is one, then the codes of the items, then the end of
      sequence, as TIGER does (https://huggingface.co/papers/2305.05065).
    - For a decoder-only model: one start token, then the codes. The start is the user's token if there is one, else
      the separator, the beginning or the end of sequence, whichever the tokenizer has first.

    There is a user's token if the tokenizer is a [`SemanticIdTokenizer`] with user buckets, and the call gives
    `user_ids`.

    Args:
        catalog ([`SemanticIdCatalog`]):
            Semantic IDs of the items.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A [`SemanticIdTokenizer`], or a text tokenizer that [`extend_tokenizer`] extended.
        is_encoder_decoder (`bool`):
            Which of the two forms to write. A model says it in `model.config.is_encoder_decoder`.
        max_items (`int`, *optional*, defaults to 20):
            Number of most recent items to keep of a history.
        token_ids (`torch.Tensor` of shape `(num_codes,)`, *optional*):
            Token id of every code, level after level, where they are known already. By default the tokenizer is asked.

    Raises:
        `ValueError`: The tokenizer lacks a code of the catalog or a token that the form needs.

    Example:

    ```python
    >>> from forge_hf.semantic_ids import SemanticIdCatalog
    >>> from forge_hf.tokenization import HistoryEncoder, SemanticIdTokenizer

    >>> catalog = SemanticIdCatalog.from_codes(["shirt", "shoe"], [[1, 2], [0, 3]], codebook_sizes=[4, 4])
    >>> tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    >>> encode = HistoryEncoder(catalog, tokenizer, is_encoder_decoder=False)
    >>> tokenizer.decode(encode([["shoe", "shirt"]])[0])
    '<sep>C0C7C8C1C6C8'
    ```
    """

    def __init__(
        self,
        catalog: SemanticIdCatalog,
        tokenizer: PreTrainedTokenizerBase,
        is_encoder_decoder: bool,
        max_items: int = 20,
        token_ids: torch.Tensor | None = None,
    ):
        check_type("catalog", catalog, SemanticIdCatalog)
        check_integer("max_items", max_items)
        self.catalog = catalog
        self.tokenizer = tokenizer
        self.is_encoder_decoder = is_encoder_decoder
        self.max_items = max_items
        self._token_ids = semantic_id_token_ids(tokenizer, catalog.layout) if token_ids is None else token_ids
        if is_encoder_decoder:
            self._start, self._end = [], [tokenizer.eos_token_id]
        else:
            starts = [tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
            self._start, self._end = [next((start for start in starts if start is not None), None)], []
        if None in [*self._start, *self._end]:
            needed = "an `eos_token`" if is_encoder_decoder else "a `sep_token`, `bos_token` or `eos_token`"
            raise ValueError(f"The tokenizer needs {needed} to mark a history, and has none: set it first.")

    @cached_property
    def item_tokens(self) -> torch.Tensor:
        """Token ids of every item of the catalog, of shape `(num_items, num_levels)`."""
        return self._tokens_of(self.catalog.codes)

    def _tokens_of(self, codes: torch.Tensor) -> torch.Tensor:
        return self._token_ids[self.catalog.layout.to_index(codes)]

    def __call__(
        self, histories: Sequence[Sequence[str] | Sequence[int]], user_ids: Sequence[str | int] | None = None
    ) -> list[torch.Tensor]:
        """
        Args:
            histories (`Sequence[Sequence[str]]` or `Sequence[Sequence[int]]`):
                Item ids of each user, from the oldest to the most recent.
            user_ids (`Sequence[str | int]`, *optional*):
                Id of each user. Without effect if the tokenizer has no user buckets.

        Returns:
            `list[torch.Tensor]`: one int64 tensor of token ids for each history.

        Raises:
            [`InvalidSequencesError`]: A history is empty or isn't a list, or `user_ids` are more or fewer than
                `histories`.
            [`UnknownItemError`]: An item isn't in the catalog.
        """
        check_histories(histories)
        if user_ids is not None and (isinstance(user_ids, str | int) or len(user_ids) != len(histories)):
            raise InvalidSequencesError(
                f"`user_ids` must list one user for each of the {len(histories)} `histories`, got {shorten(user_ids)}."
            )
        recent = [history[-self.max_items :] for history in histories]
        rows = self.catalog.indices_for(list(chain.from_iterable(recent)))
        return self.encode_rows(rows.split([len(history) for history in recent]), user_ids)

    def encode_rows(
        self, histories: Sequence[torch.Tensor], user_ids: Sequence[str | int] | None = None
    ) -> list[torch.Tensor]:
        """
        The same for histories that are given as rows of the catalog, whole.

        Args:
            histories (`Sequence[torch.Tensor]`):
                Rows of the catalog, one int64 tensor for each user, none empty.
            user_ids (`Sequence[str | int]`, *optional*):
                Id of each user. Without effect if the tokenizer has no user buckets.

        Returns:
            `list[torch.Tensor]`: one int64 tensor of token ids for each history.
        """
        if len(histories) == 0:
            return []
        codes = self._tokens_of(self.catalog.codes_at(torch.cat(list(histories))))

        if (
            user_ids is not None
            and isinstance(self.tokenizer, SemanticIdTokenizer)
            and self.tokenizer.num_user_buckets
        ):
            start = torch.tensor([[self.tokenizer.user_token_id(user_id)] for user_id in user_ids])
        else:
            if user_ids is None and getattr(self.tokenizer, "num_user_buckets", 0):
                warnings.warn(
                    "The tokenizer has user buckets, but no `user_ids` are given: histories start without the user's "
                    "token, which the model may never have seen. Give `user_ids`.",
                    stacklevel=2,
                )
            start = torch.tensor([self._start] * len(histories), dtype=torch.int64)
        # All histories are laid out in one row and cut apart at the end: no loop over tokens.
        num_codes = torch.tensor([len(history) for history in histories]) * codes.shape[1]
        lengths = num_codes + start.shape[1] + len(self._end)
        begins = lengths.cumsum(0) - lengths
        tokens = torch.empty(int(lengths.sum()), dtype=torch.int64)
        is_code = torch.ones(len(tokens), dtype=torch.bool)
        if start.shape[1]:
            tokens[begins] = start[:, 0]
            is_code[begins] = False
        if self._end:
            tokens[begins + lengths - 1] = self._end[0]
            is_code[begins + lengths - 1] = False
        tokens[is_code] = codes.reshape(-1)
        return list(tokens.split(lengths.tolist()))
