# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""From FORGE's rows of text (`system`, `user`, `answer`) to the tokens that a model reads and learns."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import PreTrainedTokenizerBase

from ..checks import check_type
from ..data.malformed import MalformedRows
from ..errors import InvalidSequencesError
from ..semantic_ids import SemanticIdLayout
from .code_text import CodesInTexts, as_texts, concatenate_rows, find_codes, take_rows, unique_slices
from .tokenization_semantic_id import SemanticIdTokenizer, semantic_id_token_ids


__all__ = ["IGNORE_INDEX", "PromptEncoder"]

logger = logging.getLogger(__name__)

IGNORE_INDEX = -100
_USER, _ANSWER = "{forge_hf.user}", "{forge_hf.answer}"  # places in a chat template
_CACHED = 1 << 16  # texts whose tokens are kept
_SHOWN = 3
Rows = Mapping[str, Sequence | pa.Array | pa.ChunkedArray]
Ragged = tuple[np.ndarray, np.ndarray]  # the values of all rows, and the length of each


class PromptEncoder:
    """
    Turns rows of text into token ids, as FORGE (https://huggingface.co/papers/2509.20904) trains on them: a `user`
    text with the codes of a history, oldest first, and an `answer`, the codes of what came next.

    - For an encoder-decoder model the source is the `user` text and what the tokenizer puts at its ends (T5: the end
      of sequence); the labels are the codes of `answer` and the end of sequence. `system` isn't read.
    - For a decoder-only model the prompt is the tokenizer's chat template with `system` and `user`, up to where the
      assistant speaks. The codes of `answer`, what the template writes after it (Qwen2.5: `<|im_end|>` and a newline)
      and the end of sequence follow. The codes and the end of sequence are labels, all else is -100.
    - For a [`SemanticIdTokenizer`], which has no tokens for text, all text is left out: what remains are the codes,
      laid out as [`HistoryEncoder`] does, and an answer that ends with the end of sequence.

    The ids are those of the tokenizer on the whole text, and for T5 and Qwen2.5-Instruct those of FORGE, with its
    labels, but for texts that are too long. FORGE cuts off the end of a source, which holds the most recent items and
    the question, and where the whole exceeds its `max_length`, the answer too. Here the oldest items are cut out of
    the source, as few as will do, and the answer stays; one beyond `max_target_length` keeps its first items.

    Text between codes is tokenized once and kept; codes get their ids by their number, a batch at a time. Where a
    tokenizer makes something else of a text than of its parts, each text is tokenized whole; `is_fast` says so.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A text tokenizer that [`extend_tokenizer`] extended, or a [`SemanticIdTokenizer`].
        layout ([`SemanticIdLayout`]):
            Layout of the semantic IDs.
        is_encoder_decoder (`bool`):
            Which of the forms to write. A model says it in `model.config.is_encoder_decoder`.
        max_source_length (`int`, *optional*, defaults to 1024):
            Most tokens of `user`, with what the tokenizer puts at its ends, without what a chat template adds.
        max_target_length (`int`, *optional*, defaults to 32):
            Most tokens of `answer`, with the end of sequence.
        token_ids (`torch.Tensor` of shape `(num_codes,)`, *optional*):
            Token id of every code, level after level, where they are known already. By default the tokenizer is asked.

    Attributes:
        is_fast (`bool`): whether texts are tokenized in parts.

    Raises:
        `ValueError`: The tokenizer lacks a code, an end of sequence or a chat template that the form needs, or a
            length leaves no room for an item.

    Example:

    ```python
    >>> from forge_hf.semantic_ids import SemanticIdLayout
    >>> from forge_hf.tokenization import PromptEncoder, SemanticIdTokenizer

    >>> layout = SemanticIdLayout([4, 4])
    >>> tokenizer = SemanticIdTokenizer(layout=layout)
    >>> encoder = PromptEncoder(tokenizer, layout, is_encoder_decoder=True)
    >>> ((input_ids, labels),) = encoder.encode_examples({"user": ["clicks: C1C5C2C6"], "answer": ["C0C7"]})
    >>> tokenizer.decode(input_ids), tokenizer.decode(labels)
    ('C1C5C2C6</s>', 'C0C7</s>')
    ```
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        layout: SemanticIdLayout,
        is_encoder_decoder: bool,
        max_source_length: int = 1024,
        max_target_length: int = 32,
        token_ids: torch.Tensor | None = None,
    ):
        check_type("layout", layout, SemanticIdLayout)
        for name, length in (("max_source_length", max_source_length), ("max_target_length", max_target_length)):
            if not isinstance(length, int) or isinstance(length, bool) or length <= layout.num_levels:
                raise ValueError(
                    f"`{name}` must be an integer above {layout.num_levels}, the codes of one item, got {length!r}."
                )
        self.tokenizer = tokenizer
        self.layout = layout
        self.is_encoder_decoder = is_encoder_decoder
        self.max_source_length = max_source_length
        self.max_target_length = max_target_length
        self._token_ids = (semantic_id_token_ids(tokenizer, layout) if token_ids is None else token_ids).numpy()
        self._codes_only = isinstance(tokenizer, SemanticIdTokenizer)
        if tokenizer.eos_token_id is None:
            raise ValueError("The tokenizer needs an `eos_token` to end an answer, and has none: set it first.")
        is_chat = not (is_encoder_decoder or self._codes_only)
        if is_chat and not tokenizer.chat_template:
            raise ValueError(
                "A decoder-only model reads rows through its tokenizer's chat template, and this one has none. Set "
                "`tokenizer.chat_template`, or take an instruct checkpoint such as Qwen/Qwen2.5-0.5B-Instruct."
            )
        self._cache: dict[str, dict[str, np.ndarray]] = {"first": {}, "between": {}, "last": {}}
        self._is_chat = is_chat
        self._frames: dict[str | None, tuple[str, str, int]] = {}  # by system: texts around `user`, and their tokens
        self._head, self._tail, after_answer = self._ends()
        self._after_answer = np.array([*after_answer, tokenizer.eos_token_id], dtype=np.int64)
        self.is_fast = True
        if not self._codes_only:
            self.is_fast = self._takes_parts()
            if not self.is_fast:
                logger.warning(
                    "This tokenizer doesn't tokenize texts in parts: rows are tokenized one whole at a time."
                )

    def encode_prompts(
        self, rows: Rows, malformed: MalformedRows | None = None, row_numbers: Iterable[int] | None = None
    ) -> list[torch.Tensor]:
        """
        What generation starts from.

        Args:
            rows (`dict[str, list[str]]`):
                Columns `user` and, if there is one, `system`. Without a system text the chat template's own stands.
            malformed ([`MalformedRows`], *optional*):
                Keeps count of rows that can't be read, which are `None` in the list. By default they are refused.
            row_numbers (`Iterable[int]`, *optional*):
                Number of each row, for messages. By default counted from 1.

        Returns:
            `list[torch.Tensor]`: one int64 tensor of token ids for each row.

        Raises:
            [`InvalidSequencesError`]: A `user` text isn't there, has no codes, has codes that aren't whole semantic
                IDs of the layout, or so much other text that no item fits in `max_source_length`.
        """
        return self._encode(rows, False, malformed, row_numbers)

    def encode_examples(
        self, rows: Rows, malformed: MalformedRows | None = None, row_numbers: Iterable[int] | None = None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """
        What a model trains on. For a decoder-only model, the `input_ids` begin with the prompt.

        Args:
            rows (`dict[str, list[str]]`):
                Columns `user`, `answer` and, if there is one, `system`.
            malformed, row_numbers (*optional*):
                As in [`~PromptEncoder.encode_prompts`].

        Returns:
            `list` of tuples `(input_ids, labels)` of int64 tensors, one for each row. For a decoder-only model both
            are of one length.

        Raises:
            [`InvalidSequencesError`]: As [`~PromptEncoder.encode_prompts`], or an `answer` isn't there or isn't one or
                more semantic IDs and nothing else.
        """
        return self._encode(rows, True, malformed, row_numbers)

    def _encode(
        self, rows: Rows, with_answers: bool, malformed: MalformedRows | None, row_numbers: Iterable[int] | None
    ) -> list:
        check_type("rows", rows, Mapping)
        needed = ["user", "answer"] if with_answers else ["user"]
        if missing := [name for name in needed if name not in rows]:
            raise InvalidSequencesError(f"`rows` lacks the columns {missing}; it has {list(rows)}.")
        if len({len(rows[name]) for name in (*needed, "system") if name in rows}) > 1:
            raise InvalidSequencesError("`rows` must have columns of one length.")
        columns = {"user": as_texts(rows["user"])}
        if self.is_encoder_decoder:  # as FORGE does
            columns["user"] = pc.utf8_trim_whitespace(columns["user"])
        if with_answers:
            columns["answer"] = pc.utf8_trim_whitespace(as_texts(rows["answer"]))
        count = len(columns["user"])
        systems = as_texts(rows["system"]).to_pylist() if self._is_chat and "system" in rows else [None] * count
        codes = {name: find_codes(texts) for name, texts in columns.items()}
        problems: dict[int, str] = {}
        for name, found in codes.items():
            problems = found.problems(self.layout, name, only_codes=name == "answer") | problems
        kept = np.setdiff1d(np.arange(count), list(problems))
        if problems:
            codes = {name: find_codes(texts.take(pa.array(kept))) for name, texts in columns.items()}
            systems = [systems[row] for row in kept.tolist()]
        encoded: list = [None] * count
        if len(kept):
            prompts, fits = self._prompts(codes["user"], [system or None for system in systems])
            examples = self._examples(prompts, codes["answer"]) if with_answers else _split(*prompts)
            for row, fitting, example in zip(kept.tolist(), fits.tolist(), examples, strict=True):
                if fitting:
                    encoded[row] = example
                else:
                    problems[row] = "`user` has so much text that no item fits in `max_source_length`"
        numbers = list(range(1, count + 1) if row_numbers is None else row_numbers)
        rows_with_problems = sorted(problems)
        if malformed is not None:
            malformed.seen(count)
            malformed.record(
                [numbers[row] for row in rows_with_problems], [problems[row] for row in rows_with_problems], unit="row"
            )
        elif problems:
            named = "; ".join(f"row {numbers[row]}: {problems[row]}" for row in rows_with_problems[:_SHOWN])
            raise InvalidSequencesError(
                f"{len(problems)} of {count} rows can't be read: {named}{'; ...' if len(problems) > _SHOWN else ''}. "
                "Mend them, or pass `malformed` to leave them out."
            )
        return encoded

    def _prompts(self, codes: CodesInTexts, systems: list[str | None]) -> tuple[Ragged, np.ndarray]:
        """Tokens of all prompts, and for each whether it fits: whether an item is left where the oldest were cut."""
        if not self.is_fast:
            return self._whole_prompts(codes, systems)
        tokens, places, counts = self._token_ids[codes.index], codes.places, codes.counts
        first_codes, last_codes = codes.bounds[:-1], codes.bounds[1:] - 1
        first, between, last = [(np.zeros(0, np.int64), np.zeros(len(n), np.int64)) for n in (counts, tokens, counts)]
        if not self._codes_only:
            # Systems are few: a prompt's first and last text are looked up together with the template around them.
            names = list(dict.fromkeys(systems))
            system = np.array([names.index(name) for name in systems]) if len(names) > 1 else np.zeros_like(counts)
            frames = [self._frame(name) for name in names]
            first = self._texts(
                "first", codes, codes.offsets[:-1], codes.starts[first_codes], system, [frame[0] for frame in frames]
            )
            last = self._texts(
                "last", codes, codes.stops[last_codes], codes.offsets[1:], system, [frame[1] for frame in frames]
            )
            after = codes.stops[:-1]
            gaps = np.flatnonzero((places[1:] > 0) & (codes.starts[1:] > after))
            if len(gaps):
                values, lengths = self._texts("between", codes, after[gaps], codes.starts[gaps + 1])
                between[1][gaps + 1] = lengths
                between = (values, between[1])
            room = self.max_source_length + np.array([frame[2] for frame in frames])[system]
        else:
            room = np.full(len(counts), self.max_source_length)
        room = room - len(self._head) - len(self._tail)
        width = 1 + between[1]  # of a code and the text before it
        rows = codes.rows
        excess = first[1] + last[1] + np.bincount(rows, weights=width, minlength=len(counts)).astype(np.int64) - room
        fits = np.ones(len(counts), dtype=bool)
        if (excess > 0).any():
            # What goes if an item becomes the first: the codes before it, and the texts between up to it.
            gone = np.cumsum(width) - width + between[1]
            gone = gone - np.repeat(gone[first_codes], counts)
            starts_item = places % self.layout.num_levels == 0
            too_old = np.bincount(rows[starts_item & (gone < excess[rows])], minlength=len(counts))
            fits = too_old * self.layout.num_levels < counts
            cut = np.where(fits, too_old, 0) * self.layout.num_levels
            kept = places >= cut[rows]
            lengths = np.where(places > cut[rows], between[1], 0)
            values = between[0][np.repeat(lengths > 0, between[1])]
            between, tokens, rows = (values, lengths[kept]), tokens[kept], rows[kept]
        body = tokens
        if len(between[0]):
            body, width = concatenate_rows([between, (tokens, np.ones(len(tokens), dtype=np.int64))])
            lengths = np.bincount(rows, weights=width, minlength=len(counts)).astype(np.int64)
        else:
            lengths = np.bincount(rows, minlength=len(counts))
        ends = [_repeated(ids, len(counts)) for ids in (self._head, self._tail)]
        return concatenate_rows([ends[0], first, (body, lengths), last, ends[1]]), fits

    def _whole_prompts(self, codes: CodesInTexts, systems: list[str | None]) -> tuple[Ragged, np.ndarray]:
        """The same, from the tokenizer on each whole text."""
        text, edges = codes.data.tobytes(), codes.offsets.tolist()
        texts = [text[start:stop].decode() for start, stop in zip(edges, edges[1:], strict=False)]
        frames = [self._frame(system) for system in systems]
        texts = [frame[0] + text + frame[1] for frame, text in zip(frames, texts, strict=True)]
        ends, fits = len(self._head) + len(self._tail), np.ones(len(texts), dtype=bool)
        prompts = []
        for row, ids in enumerate(self._tokenize(texts)):
            ids = np.array(ids, dtype=np.int64)
            excess = len(ids) + ends - self.max_source_length - frames[row][2]
            if excess > 0:
                places = np.flatnonzero(np.isin(ids, self._token_ids))
                before = len(self._tokenize([frames[row][0]])[0]) if self._is_chat else 0
                items = places[places >= before][:: self.layout.num_levels]
                too_old = int((items - items[0] < excess).sum())
                fits[row] = too_old < len(items)
                ids = np.delete(ids, np.s_[items[0] : items[too_old]]) if fits[row] else ids
            prompts.append(np.concatenate([self._head, ids, self._tail]))
        return take_rows(prompts, np.arange(len(prompts))), fits

    def _examples(self, prompts: Ragged, answers: CodesInTexts) -> list[tuple[torch.Tensor, torch.Tensor]]:
        levels = self.layout.num_levels
        room = (self.max_target_length - 1) // levels * levels
        kept = answers.places < room
        answer = self._token_ids[answers.index][kept], np.minimum(answers.counts, room)
        count = len(answers.counts)
        if self.is_encoder_decoder:
            labels = concatenate_rows([answer, _repeated(self._after_answer, count)])
            return list(zip(_split(*prompts), _split(*labels), strict=True))
        ignored = np.full_like(prompts[0], IGNORE_INDEX), prompts[1]
        after = np.full_like(self._after_answer, IGNORE_INDEX)
        after[-1] = self._after_answer[-1]
        input_ids = concatenate_rows([prompts, answer, _repeated(self._after_answer, count)])
        labels = concatenate_rows([ignored, answer, _repeated(after, count)])
        return list(zip(_split(*input_ids), _split(*labels), strict=True))

    def _texts(
        self,
        kind: str,
        codes: CodesInTexts,
        starts: np.ndarray,
        stops: np.ndarray,
        frame: np.ndarray | None = None,
        frames: Sequence[str] = ("",),
    ) -> Ragged:
        """Tokens of the texts `codes.data[start:stop]` before, between or after codes, in a frame by its number."""
        texts, index = unique_slices(codes.data, starts, stops)
        if len(frames) > 1:
            pairs, index = np.unique(index * len(frames) + frame, return_inverse=True)
            pairs = [(texts[pair // len(frames)], frames[pair % len(frames)]) for pair in pairs.tolist()]
        else:
            pairs = [(text, frames[0]) for text in texts]
        texts = [frame + text if kind == "first" else text + frame for text, frame in pairs]
        cache = self._cache[kind]
        missing = [text for text in texts if text not in cache]
        if missing:
            if len(cache) > _CACHED:
                cache.clear()
                missing = list(dict.fromkeys(texts))
            # Beside codes as they stand in the row: what begins a text may be tokenized otherwise than what goes on.
            before, after = ("" if kind == "first" else "C0"), ("" if kind == "last" else "C0")
            encoded = self._tokenize([before + text + after for text in missing])
            for text, ids in zip(missing, encoded, strict=True):
                cache[text] = np.array(ids[bool(before) : len(ids) - bool(after)], dtype=np.int64)
        return take_rows([cache[text] for text in texts], index)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(
            texts, add_special_tokens=False, split_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]

    def _ends(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Tokens that every source begins and ends with, and those between an answer and the end of sequence."""
        eos, head, tail, after_answer = self.tokenizer.eos_token_id, [], [], []
        if self._codes_only:
            head, tail = ([], [eos]) if self.is_encoder_decoder else ([self.tokenizer.sep_token_id], [])
        elif self.is_encoder_decoder:
            ids = self.tokenizer("C0", add_special_tokens=True, split_special_tokens=False).input_ids
            place = ids.index(int(self._token_ids[0]))
            head, tail = ids[:place], ids[place + 1 :]
            tail = tail if tail[-1:] == [eos] else [*tail, eos]
        else:
            whole = self._render([("user", _USER), ("assistant", _ANSWER)], add_generation_prompt=False)
            self._check_template(whole, _ANSWER)
            (ids,) = self._tokenize(["C0" + whole.split(_ANSWER)[1]])
            after_answer = ids[1:]
        return np.array(head, dtype=np.int64), np.array(tail, dtype=np.int64), after_answer

    def _frame(self, system: str | None) -> tuple[str, str, int]:
        """What the chat template writes before and after `user`, and the number of its tokens."""
        if not self._is_chat:
            return "", "", 0
        if system not in self._frames:
            if len(self._frames) > _CACHED:
                self._frames.clear()
            messages = [("system", system)] if system else []
            text = self._render([*messages, ("user", _USER)], add_generation_prompt=True)
            self._check_template(text, _USER)
            before, after = text.split(_USER)
            (ids,) = self._tokenize([f"{before}C0{after}"])
            self._frames[system] = before, after, len(ids) - 1
        return self._frames[system]

    def _render(self, messages: list[tuple[str, str]], add_generation_prompt: bool) -> str:
        messages = [{"role": role, "content": content} for role, content in messages]
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )

    @staticmethod
    def _check_template(text: str, place: str) -> None:
        if text.count(place) != 1:
            raise ValueError(
                "`tokenizer.chat_template` must write each message once and as it is; it writes one "
                f"{text.count(place)} times. Set another."
            )

    def _takes_parts(self) -> bool:
        """Whether the tokens of a text are those of its parts. Tried on texts of all kinds."""
        codes = set(self.layout.tokens())
        if any(re.search("C[0-9]", token) and token not in codes for token in self.tokenizer.get_added_vocab()):
            return False
        item = self.layout.to_text([0] * self.layout.num_levels)
        other = self.layout.to_text([size - 1 for size in self.layout.codebook_sizes])
        probes = [
            item,
            f" {item} ",
            f"a: {item}{other} b",
            f"{item} {other}, {item}\n{other}",
            f"\n{item}\n\n{other}\n",
        ]
        probes += [
            f"历史：{item}{other}，请预测",
            f"xC{item}C {other}C",
            f"<b>{item}</b>  {other}.",
            f"1{item}; 2.{other};3",
        ]
        codes = find_codes(pa.array(probes, type=pa.large_string()))
        systems = [None] * len(probes)
        parts, whole = self._prompts(codes, systems)[0], self._whole_prompts(codes, systems)[0]
        return all(np.array_equal(part, other) for part, other in zip(parts, whole, strict=True))


def _repeated(ids: np.ndarray, count: int) -> Ragged:
    return np.tile(ids, count), np.full(count, len(ids))


def _split(values: np.ndarray, lengths: np.ndarray) -> Sequence[torch.Tensor]:
    return torch.from_numpy(values).split(lengths.tolist())
