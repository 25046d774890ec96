# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""A tokenizer whose whole vocabulary is the codes of semantic IDs."""

import hashlib
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..checks import check_integer, check_type
from ..hub import write_then_rename
from ..semantic_ids import SemanticIdLayout
from ..semantic_ids.layout import MAX_NUM_TOKENS


__all__ = ["SemanticIdTokenizer", "semantic_id_token_ids"]

# Saved beside the tokenizer: what `AutoTokenizer.from_pretrained(..., trust_remote_code=True)` runs.
_REMOTE_CODE_FILE = "tokenization_semantic_id.py"
_REMOTE_CODE = '''\
# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Stands in for `forge_hf.SemanticIdTokenizer`: tokenizer.json holds everything that encoding needs."""

from transformers import PreTrainedTokenizerFast


try:
    from forge_hf.tokenization import SemanticIdTokenizer as Base
except ImportError:
    Base = PreTrainedTokenizerFast


class SemanticIdTokenizer(Base):
    pass
'''


class SemanticIdTokenizer(PreTrainedTokenizerFast):
    r"""
    Tokenizer for models that read and write nothing but semantic IDs. The vocabulary is, in this order, `<pad>`,
    `</s>`, `<unk>`, `<sep>`, one token for each user bucket (`<user_0>`, ...), and one for each code (`C0`, ...).

    Text is a row of codes, as [`SemanticIdLayout`] writes them, with or without spaces. Whatever else it holds becomes
    `<unk>`. Nothing is added at either end.

    Args:
        layout ([`SemanticIdLayout`], *optional*):
            Layout of the semantic IDs. May be left out where `codebook_sizes` is given.
        num_user_buckets (`int`, *optional*, defaults to 0):
            Number of tokens that users are hashed to, as TIGER does with 2000 (https://huggingface.co/papers/2305.05065).
        codes_are_special (`bool`, *optional*, defaults to `False`):
            Whether codes are flagged special, so that `decode(..., skip_special_tokens=True)` leaves them out.
        codebook_sizes (`list[int]`, *optional*):
            Number of codes of each level. How a saved tokenizer keeps its layout.
        kwargs:
            Passed on to [`~transformers.PreTrainedTokenizerFast`].

    Raises:
        `ValueError`: Neither or both of `layout` and `codebook_sizes` are given, or `num_user_buckets` is negative.

    Example:

    ```python
    >>> from forge_hf.semantic_ids import SemanticIdLayout
    >>> from forge_hf.tokenization import SemanticIdTokenizer

    >>> tokenizer = SemanticIdTokenizer(layout=SemanticIdLayout([256, 256, 256]))
    >>> tokenizer("C12C264C528").input_ids
    [16, 268, 532]
    >>> tokenizer.decode([16, 268, 532])
    'C12C264C528'
    ```
    """

    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        layout: SemanticIdLayout | None = None,
        num_user_buckets: int = 0,
        codes_are_special: bool = False,
        codebook_sizes: list[int] | None = None,
        **kwargs,
    ):
        if (layout is None) == (codebook_sizes is None):
            raise ValueError(
                "Give exactly one of `layout` and `codebook_sizes`. A saved tokenizer that lacks `codebook_sizes` in "
                "its tokenizer_config.json wasn't saved by `SemanticIdTokenizer`."
            )
        check_integer("num_user_buckets", num_user_buckets, 0, MAX_NUM_TOKENS)
        self._layout = layout if layout is not None else SemanticIdLayout(codebook_sizes)
        check_type("layout", self._layout, SemanticIdLayout)
        self.num_user_buckets = num_user_buckets
        self.codes_are_special = codes_are_special
        special_tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "<sep>"}
        user_tokens = [f"<user_{bucket}>" for bucket in range(num_user_buckets)]
        codes = self._layout.tokens()
        vocabulary = {token: i for i, token in enumerate([*special_tokens.values(), *user_tokens, *codes])}

        # The vocabulary follows from the layout, so what a saved tokenizer.json says of it isn't needed.
        for saved in ("vocab", "tokenizer_file", "tokenizer_object"):
            kwargs.pop(saved, None)
        self._tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=special_tokens["unk_token"]))
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("C[0-9]+|<user_[0-9]+>"), "isolated")]
        )
        self._tokenizer.decoder = decoders.Fuse()
        super().__init__(
            num_user_buckets=num_user_buckets,
            codes_are_special=codes_are_special,
            codebook_sizes=list(self._layout.codebook_sizes),
            **{**special_tokens, **kwargs},
        )
        # transformers 5 rebuilds whatever tokenizer lies beside a `qwen2` model as a Qwen2Tokenizer, which reads codes
        # as other ids, unless the tokenizer names a class of its own here.
        self._auto_map = {"AutoTokenizer": [None, f"{Path(_REMOTE_CODE_FILE).stem}.SemanticIdTokenizer"]}
        if codes_are_special:
            self.add_tokens([AddedToken(code, special=True, normalized=False) for code in codes])

    @property
    def layout(self) -> SemanticIdLayout:
        """[`SemanticIdLayout`]: Layout of the semantic IDs."""
        return self._layout

    @property
    def semantic_id_tokens(self) -> list[str]:
        """`list[str]`: Tokens of all codes, in the order of their index in the layout."""
        return self._layout.tokens()

    def user_token_id(self, user_id: str | int) -> int:
        """
        Hashes a user to a user token. The same on every machine and in every run; `7` and `"7"` are the same user.

        Args:
            user_id (`str` or `int`):
                Id of the user.

        Returns:
            `int`: id of the token.

        Raises:
            `ValueError`: The tokenizer has no user buckets.
        """
        if self.num_user_buckets == 0:
            raise ValueError("This tokenizer has no user tokens: make it with `num_user_buckets` above 0.")
        digest = hashlib.sha256(str(user_id).encode("utf-8")).digest()
        bucket = int.from_bytes(digest[:8], "big") % self.num_user_buckets
        return self.convert_tokens_to_ids(f"<user_{bucket}>")

    def _save_pretrained(self, save_directory, file_names, *args, **kwargs):
        remote_code = Path(save_directory) / _REMOTE_CODE_FILE
        write_then_rename(remote_code, lambda path: path.write_text(_REMOTE_CODE, encoding="utf-8"))
        return super()._save_pretrained(save_directory, (*file_names, str(remote_code)), *args, **kwargs)


def semantic_id_token_ids(tokenizer: PreTrainedTokenizerBase, layout: SemanticIdLayout) -> torch.Tensor:
    """
    Token id of every code.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A [`SemanticIdTokenizer`], or a text tokenizer that [`extend_tokenizer`] extended.
        layout ([`SemanticIdLayout`]):
            Layout of the semantic IDs.

    Returns:
        `torch.Tensor` of dtype int64 and shape `(num_codes,)`, in the order of the codes' index in the layout.

    Raises:
        `ValueError`: A code isn't one token of the tokenizer.
    """
    check_type("tokenizer", tokenizer, PreTrainedTokenizerBase)
    check_type("layout", layout, SemanticIdLayout)
    codes = layout.tokens()
    vocabulary = tokenizer.get_vocab()
    token_ids = [vocabulary.get(code, -1) for code in codes]
    # A word piece "C1" of a text vocabulary isn't enough: all codes, written in one row, must be read as themselves.
    read = tokenizer("".join(codes), add_special_tokens=False, split_special_tokens=False, verbose=False).input_ids
    if read != token_ids:
        lacking = [code for code, token_id in zip(codes, token_ids, strict=True) if token_id < 0]
        raise ValueError(
            f"`tokenizer` doesn't read the {len(codes)} codes of the layout as one token each"
            f"{f'; it lacks {len(lacking)}, such as {lacking[0]!r}' if lacking else ''}. Make a `SemanticIdTokenizer` "
            "for this layout, or extend the tokenizer with `extend_tokenizer`."
        )
    return torch.tensor(token_ids, dtype=torch.int64)
