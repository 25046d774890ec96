# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Codes for a text model: tokens added to its tokenizer, and embedding rows that differ from the start."""

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checks import check_type
from ..models.rqvae import RQVAEModel
from ..semantic_ids import SemanticIdLayout
from .tokenization_semantic_id import semantic_id_token_ids


__all__ = ["extend_tokenizer", "resize_and_init"]

# Entries of a codebook may be equal, and rows must not be: this much noise, relative to a row, moves no neighbours.
_JITTER = 0.01


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerBase, layout: SemanticIdLayout, codes_are_special: bool = False
) -> PreTrainedTokenizerBase:
    """
    Adds every code of a layout to a text tokenizer as one token, in place.

    A tokenizer that has all of them already is returned as it is. A code that is a word piece of the vocabulary keeps
    the id of that piece, and becomes atomic.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of a text model, such as Qwen2.5 or T5.
        layout ([`SemanticIdLayout`]):
            Layout of the semantic IDs.
        codes_are_special (`bool`, *optional*, defaults to `False`):
            Whether to flag the codes special. With `split_special_tokens=True` the words of a user then are never read
            as codes, but `decode(..., skip_special_tokens=True)` leaves the codes out.

    Returns:
        [`~transformers.PreTrainedTokenizerBase`]: the tokenizer.

    Raises:
        `ValueError`: Some of the codes were added before, but not all: they belong to another layout.

    Example:

    ```python
    >>> from transformers import AutoTokenizer
    >>> from forge_hf.semantic_ids import SemanticIdLayout
    >>> from forge_hf.tokenization import extend_tokenizer

    >>> tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen2.5-0.5B")  # doctest: +SKIP
    >>> tokenizer = extend_tokenizer(tokenizer, SemanticIdLayout([8192, 8192, 8192]))  # doctest: +SKIP
    >>> tokenizer("C12C8200C16400").input_ids  # doctest: +SKIP
    [151677, 159865, 168065]
    ```
    """
    check_type("tokenizer", tokenizer, PreTrainedTokenizerBase)
    check_type("layout", layout, SemanticIdLayout)
    codes = layout.tokens()
    added = tokenizer.get_added_vocab()
    present = [code for code in codes if code in added]
    if 0 < len(present) < len(codes):
        raise ValueError(
            f"`tokenizer` has {len(present)} of the {len(codes)} codes already, such as {present[0]!r}: it was "
            "extended for another layout. Start from the tokenizer of the text model."
        )
    if not present:
        # In one call: one call a code takes minutes (tokenizers rebuilds its matcher each time).
        tokenizer.add_tokens([AddedToken(code, special=codes_are_special, normalized=False) for code in codes])
    semantic_id_token_ids(tokenizer, layout)  # raises if a code isn't atomic
    return tokenizer


def resize_and_init(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layout: SemanticIdLayout,
    rqvae: RQVAEModel | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """
    Gives a text model embedding rows for the codes that [`extend_tokenizer`] added, in place.

    `resize_token_embeddings` alone sets all new rows to nearly the same vector, so that a model can't tell codes apart
    until it has learned to. Here each row is the mean of the old rows plus something of its own, as large as the old
    rows' spread: noise, or, with `rqvae`, the code's entry of its codebook under a random rotation, which keeps the
    angles between the codes of a level. Levels beyond those of `rqvae`, such as a suffix level, get noise. Input and
    output embeddings are treated alike, and tied ones stay tied. All other rows stay as they are.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A text model. Its vocabulary never shrinks: Qwen2.5 has more rows than its tokenizer has tokens.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer, extended.
        layout ([`SemanticIdLayout`]):
            Layout of the semantic IDs.
        rqvae ([`RQVAEModel`], *optional*):
            Item tokenizer that made the codes.
        seed (`int`, *optional*, defaults to 0):
            Seed of the noise and the rotations.

    Returns:
        [`~transformers.PreTrainedModel`]: the model.

    Raises:
        `ValueError`: The tokenizer lacks codes of `layout`, or `rqvae` has other codebook sizes than `layout`.
    """
    check_type("model", model, PreTrainedModel)
    token_ids = semantic_id_token_ids(tokenizer, layout)
    codebooks = [] if rqvae is None else [rqvae.get_codebook(level).cpu() for level in range(rqvae.config.num_levels)]
    sizes = tuple(len(codebook) for codebook in codebooks)
    if layout.codebook_sizes[: len(sizes)] != sizes:
        raise ValueError(
            f"`rqvae` has the codebook sizes {list(sizes)}, and `layout` {list(layout.codebook_sizes)}: they must "
            "agree on all levels of `rqvae`."
        )
    num_old = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > num_old:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    is_old = torch.ones(num_old, dtype=torch.bool)
    is_old[token_ids[token_ids < num_old]] = False

    tables = [model.get_input_embeddings().weight]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not tables[0]:
        tables.append(head.weight)
    for table in tables:
        old = table.detach()[:num_old][is_old.to(table.device)].float()
        mean, std = old.mean(dim=0), old.std(dim=0).square().mean().sqrt()
        generator = torch.Generator().manual_seed(seed)  # the same for both tables: untied rows start aligned
        own = _unit_rows(layout, codebooks, table.shape[1], generator).to(table.device)
        with torch.no_grad():
            table[token_ids.to(table.device)] = (mean + std * own).to(table.dtype)
    return model


def _unit_rows(
    layout: SemanticIdLayout, codebooks: list[torch.Tensor], width: int, generator: torch.Generator
) -> torch.Tensor:
    """Rows of shape `(num_codes, width)`, with a root mean square of 1 in every level."""
    levels = []
    for level, size in enumerate(layout.codebook_sizes):
        rows = torch.randn(size, width, generator=generator)
        if level < len(codebooks):
            dim = codebooks[level].shape[1]
            rotation = torch.empty(dim, width)
            nn.init.orthogonal_(rotation, generator=generator)
            rotated = codebooks[level] @ rotation
            rows = rotated / rotated.square().mean().sqrt().clamp(min=1e-12) + _JITTER * rows
        levels.append(rows)
    return torch.cat(levels)
