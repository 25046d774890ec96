# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Beam search of fixed length over a catalog's semantic IDs, for stock encoder-decoder and decoder-only models."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType

import torch
from torch import nn
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateBeamEncoderDecoderOutput

from ..checks import check_integer, check_integers, check_number, check_type, shorten, to_python
from .beam_decoder import BeamDecoder
from .candidates import ExcludedPrefixes, GumbelSampler, top_k_in_order
from .code_head import NORMALIZATIONS
from .prefix_table import PrefixTable


__all__ = ["BeamSearchOutput", "constrained_beam_search", "score_catalog", "semantic_id_beam_search"]

# Prefixes that `score_catalog` lets the model read at once.
CATALOG_ROWS = 1 << 14
# More are refused, unless there are as many semantic IDs.
MAX_BEAMS = 1 << 16
# Log-probabilities are divided by temperatures: by less they could overflow.
MIN_TEMPERATURE = 1e-20


@dataclass
class BeamSearchOutput:
    """
    Result of [`constrained_beam_search`], best first; in the order of sampling where the last level was sampled.

    Args:
        leaves (`torch.LongTensor` of shape `(batch_size, num_beams)`):
            Leaf of the prefix table that each beam ends in; -1 where the catalog has fewer semantic IDs than beams.
            No leaf occurs twice in a row.
        scores (`torch.FloatTensor` of shape `(batch_size, num_beams)`):
            Log-probability of the semantic ID, summed over its codes; -inf where the leaf is -1.
        sequences (`torch.LongTensor` of shape `(batch_size, num_beams, num_levels)`):
            Token ids of the semantic IDs; -1 where the leaf is -1.
    """

    leaves: torch.Tensor
    scores: torch.Tensor
    sequences: torch.Tensor


@torch.no_grad()
def constrained_beam_search(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    prefix_table: PrefixTable,
    num_beams: int | Sequence[int],
    *,
    excluded_leaves: torch.Tensor | None = None,
    normalization: str = "vocabulary",
    temperature: float | Sequence[float | None] | None = None,
    generator: torch.Generator | None = None,
) -> BeamSearchOutput:
    """
    Finds the `num_beams` semantic IDs of a catalog that a beam search through its prefix tree reaches.

    The same hypotheses and scores as `model.generate` with [`SemanticIdLogitsProcessor`], `num_beams` beams, no end
    token and `length_penalty=0`: a code's score is its log-probability over the whole vocabulary, in float32, and
    isn't renormalised over the legal codes. But the prompt is read and its keys and values are held once for all
    beams, only legal continuations are scored, no tensor of beams times vocabulary is made, and rows beyond the
    catalog are marked instead of repeated. Equal scores are ordered by semantic ID. Nothing of the model's generation
    config is used. With as many beams as the table has leaves the search is exact: see [`score_catalog`].

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            An encoder-decoder or decoder-only language model, in eval mode.
        input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
            Histories, padded on the left for a decoder-only model.
        attention_mask (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            0 for padding. All ones if `None`.
        prefix_table ([`PrefixTable`]):
            The catalog's semantic IDs, on the model's device.
        num_beams (`int` or `Sequence[int]`):
            Number of beams, and of results a row; or one number for each level, of which the last is that of results.
        excluded_leaves (`torch.LongTensor` of shape `(num_pairs, 2)`, *optional*):
            Pairs of a row of the batch and a leaf that it can't have, in any order. A prefix whose leaves are all
            excluded is no legal continuation, so that no beam is lost to them.
        normalization (`str`, *optional*, defaults to `"vocabulary"`):
            Over what a code's probability is normalised: the whole `"vocabulary"`; the codes of its `"level"`, which
            spares the product with the rest of the output head; or the `"legal"` codes after its prefix, among which
            a code without alternatives is certain. The last two rank differently from `generate`.
        temperature (`float` or `Sequence[float | None]`, *optional*):
            If given, semantic IDs are sampled without replacement instead of searched for, by a stochastic beam search
            (https://huggingface.co/papers/1903.06059): each draw takes one of those left, code by code, by the model's
            probabilities at this temperature among the legal codes. One number for all levels, or one for each; at
            levels with `None` or 0 the beams of highest score are kept, and a sampled level after them starts from
            their scores at its temperature. Scores stay the model's.
        generator (`torch.Generator`, *optional*):
            Source of the samples.

    Returns:
        [`BeamSearchOutput`]

    Raises:
        `ValueError`: An argument is out of range or of the wrong shape, a decoder-only batch is padded on the right,
            or the model's logits aren't finite.

    Example:

    ```python
    >>> import torch
    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> from forge_hf.generation import PrefixTable, constrained_beam_search

    >>> config = Qwen2Config(
    ...     vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    ...     num_key_value_heads=2,
    ... )
    >>> model = Qwen2ForCausalLM(config).eval()
    >>> table = PrefixTable(torch.tensor([[0, 1], [2, 0], [2, 1]]), codebook_sizes=[3, 2])
    >>> output = constrained_beam_search(model, torch.tensor([[5, 0, 4]]), None, table, num_beams=4)
    >>> sorted(output.leaves[0].tolist())
    [-1, 0, 1, 2]

    ```
    """
    check_type("model", model, nn.Module)
    check_type("prefix_table", prefix_table, PrefixTable)
    _check_model(model, prefix_table)
    return search_tree(
        model,
        input_ids,
        attention_mask,
        prefix_table,
        num_beams,
        excluded_leaves,
        normalization,
        temperature,
        generator,
    )


def search_tree(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    prefix_table: PrefixTable,
    num_beams: int | Sequence[int],
    excluded_leaves: torch.Tensor | None = None,
    normalization: str = "vocabulary",
    temperature: float | Sequence[float | None] | None = None,
    generator: torch.Generator | None = None,
) -> BeamSearchOutput:
    """[`constrained_beam_search`] for whatever has the methods of a [`PrefixTable`] that a search asks."""
    check_type("input_ids", input_ids, torch.Tensor)
    check_type("attention_mask", attention_mask, torch.Tensor, NoneType)
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    if input_ids.ndim != 2 or 0 in input_ids.shape or attention_mask.shape != input_ids.shape:
        raise ValueError(
            "`input_ids` and `attention_mask` must both have the shape (batch_size, sequence_length), not empty, got "
            f"{tuple(input_ids.shape)} and {tuple(attention_mask.shape)}."
        )
    if input_ids.is_floating_point():
        raise ValueError(f"`input_ids` must be integers, got {input_ids.dtype}.")
    plan = _Plan.of(prefix_table, len(input_ids), num_beams, excluded_leaves, normalization, temperature, generator)
    if model.config.is_encoder_decoder:
        encoder_outputs = model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        start = torch.full_like(input_ids[:, :1], _decoder_start_token_id(model))
        decoder = BeamDecoder(model, start, attention_mask, encoder_outputs.last_hidden_state)
    else:
        _check_padding(attention_mask)
        decoder = BeamDecoder(model, input_ids, attention_mask)
    return _search(decoder, prefix_table, plan)


def score_catalog(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    prefix_table: PrefixTable,
    *,
    normalization: str = "vocabulary",
) -> torch.Tensor:
    """
    Log-probability of every semantic ID of a small catalog.

    Each distinct prefix is read once, not each semantic ID. The cost is that of as many beams as there are prefixes.

    Args:
        model, input_ids, attention_mask, prefix_table, normalization:
            As in [`constrained_beam_search`].

    Returns:
        `torch.FloatTensor` of shape `(batch_size, prefix_table.num_leaves)`.

    Example:

    ```python
    >>> import torch
    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> from forge_hf.generation import PrefixTable, score_catalog

    >>> config = Qwen2Config(
    ...     vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    ...     num_key_value_heads=2,
    ... )
    >>> model = Qwen2ForCausalLM(config).eval()
    >>> table = PrefixTable(torch.tensor([[0, 1], [2, 0], [2, 1]]), codebook_sizes=[3, 2])
    >>> score_catalog(model, torch.tensor([[5, 0, 4], [1, 2, 3]]), None, table).shape
    torch.Size([2, 3])

    ```
    """
    check_type("input_ids", input_ids, torch.Tensor)
    check_type("attention_mask", attention_mask, torch.Tensor, NoneType)
    check_type("prefix_table", prefix_table, PrefixTable)
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    size = max(1, CATALOG_ROWS // prefix_table.num_nodes(prefix_table.num_levels - 1))
    parts = []
    for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True):
        found = constrained_beam_search(
            model, ids, mask, prefix_table, prefix_table.num_leaves, normalization=normalization
        )
        # Leaves of probability 0 aren't found: they are -1, which stands for a last column that is cut off.
        scores = found.scores.new_full((len(ids), prefix_table.num_leaves + 1), -torch.inf)
        parts.append(scores.scatter_(1, found.leaves % scores.shape[1], found.scores)[:, :-1])
    return torch.cat(parts)


def semantic_id_beam_search(
    model: nn.Module,
    input_ids: torch.Tensor,
    logits_processor=None,
    stopping_criteria=None,
    generation_config=None,
    prefix_table: PrefixTable | None = None,
    num_beams: int | Sequence[int] | None = None,
    num_return_sequences: int | None = None,
    excluded_leaves: torch.Tensor | None = None,
    normalization: str = "vocabulary",
    temperature: float | Sequence[float | None] | None = None,
    generator: torch.Generator | None = None,
    **model_kwargs,
):
    """
    [`constrained_beam_search`] as a decoding method of `model.generate`, passed as its `custom_generate`.

    The semantic IDs are always complete and nothing follows them, whatever `max_new_tokens` and the end token are;
    pass `max_new_tokens=num_levels` so that `generate` finds its lengths in order. Of the generation config only
    `num_beams` and `num_return_sequences`, where they aren't arguments of the call, `pad_token_id`,
    `return_dict_in_generate` and `output_scores` are used: logits processors, stopping criteria, its sampling and
    length penalty aren't.

    Args:
        model (`PreTrainedModel`): The model that `generate` was called on.
        input_ids (`torch.LongTensor` of shape `(batch_size, prompt_length)`):
            Prompts. Where the generation config has made `generate` repeat them, one of each is read.
        prefix_table ([`PrefixTable`]): The catalog's semantic IDs.
        num_return_sequences (`int`, *optional*): Number of results a row. Defaults to 1, as in `generate`.
        num_beams, excluded_leaves, normalization, temperature, generator:
            As in [`constrained_beam_search`].

    Returns:
        What beam search returns: token ids of shape `(batch_size * num_return_sequences, prompt_length + num_levels)`,
        the decoder's start token included for an encoder-decoder model; or, with `return_dict_in_generate`, a
        `GenerateBeamDecoderOnlyOutput` or `GenerateBeamEncoderDecoderOutput` with `sequences` and, with
        `output_scores`, `sequences_scores` (the summed log-probabilities). Where the catalog has fewer semantic IDs
        than `num_return_sequences`, the rows left over hold the pad token (0 if there is none) after the prompt, and
        their score is -inf.

    Example:

    ```python
    >>> import torch
    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> from forge_hf.generation import PrefixTable, semantic_id_beam_search

    >>> config = Qwen2Config(
    ...     vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    ...     num_key_value_heads=2,
    ... )
    >>> model = Qwen2ForCausalLM(config).eval()
    >>> table = PrefixTable(torch.tensor([[0, 1], [2, 0], [2, 1]]), codebook_sizes=[3, 2])
    >>> model.generate(
    ...     torch.tensor([[5, 0, 4]]), custom_generate=semantic_id_beam_search, prefix_table=table, num_beams=3,
    ...     num_return_sequences=3, max_new_tokens=2,
    ... ).shape
    torch.Size([3, 5])

    ```
    """
    if prefix_table is None:
        raise ValueError("`prefix_table` is missing: call `model.generate(..., prefix_table=PrefixTable(...))`.")
    check_type("prefix_table", prefix_table, PrefixTable)
    if num_return_sequences is not None:
        check_integer("num_return_sequences", num_return_sequences)
    if 0 in input_ids.shape:
        raise ValueError(
            f"`input_ids` must not be empty, got the shape {tuple(input_ids.shape)}: a search can't begin from "
            "`inputs_embeds`."
        )
    # `generate` repeats rows for numbers in its config, but not for arguments that it hands on to this function.
    repeats = max(generation_config.num_beams, generation_config.num_return_sequences)
    num_return = num_return_sequences or generation_config.num_return_sequences
    num_beams = max(generation_config.num_beams, num_return) if num_beams is None else num_beams
    input_ids = input_ids[::repeats]
    prefix_table = prefix_table.to(input_ids.device)
    _check_model(model, prefix_table)
    plan = _Plan.of(prefix_table, len(input_ids), num_beams, excluded_leaves, normalization, temperature, generator)
    if plan.widths[-1] < num_return:
        raise ValueError(f"`num_return_sequences` is {num_return}, but `num_beams` is {num_beams}.")
    attention_mask = model_kwargs.get("attention_mask")
    attention_mask = None if attention_mask is None else attention_mask[::repeats]
    if model.config.is_encoder_decoder:
        states = model_kwargs["encoder_outputs"][0][::repeats]
        if attention_mask is None:
            attention_mask = torch.ones(states.shape[:2], dtype=torch.int64, device=states.device)
        decoder, output_class = BeamDecoder(model, input_ids, attention_mask, states), GenerateBeamEncoderDecoderOutput
    else:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        _check_padding(attention_mask)
        decoder, output_class = BeamDecoder(model, input_ids, attention_mask), GenerateBeamDecoderOnlyOutput
    result = _search(decoder, prefix_table, plan)

    pad = generation_config._pad_token_tensor
    tokens = result.sequences[:, :num_return].flatten(0, 1)
    tokens = torch.where(tokens >= 0, tokens, 0 if pad is None else pad)
    sequences = torch.cat([input_ids.repeat_interleave(num_return, dim=0), tokens], dim=-1)
    if not generation_config.return_dict_in_generate:
        return sequences
    scores = result.scores[:, :num_return].flatten() if generation_config.output_scores else None
    return output_class(sequences=sequences, sequences_scores=scores)


@dataclass
class _Plan:
    """The checked arguments of a search: a width and a temperature (`None` for none) for each level."""

    widths: list[int]
    temperatures: list[float | None]
    excluded: ExcludedPrefixes | None
    normalization: str
    generator: torch.Generator | None

    @classmethod
    def of(cls, table, batch_size, num_beams, excluded_leaves, normalization, temperature, generator):
        levels = table.num_levels
        widths = beam_widths(num_beams, table)
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"`normalization` must be one of {NORMALIZATIONS}, got {normalization!r}.")
        temperature = to_python(temperature)
        temperatures = list(temperature) if isinstance(temperature, Sequence) else [temperature] * levels
        if len(temperatures) != levels or isinstance(temperature, str):
            raise ValueError(
                f"`temperature` must be a number, or one for each of {levels} levels, got {shorten(temperature)}."
            )
        for value in temperatures:
            if value is not None:
                check_number("temperature", value, 0)
                if 0 < value < MIN_TEMPERATURE:
                    raise ValueError(f"`temperature` must be 0, or at least {MIN_TEMPERATURE:g}, got {value}.")
        check_type("generator", generator, torch.Generator, NoneType)
        check_type("excluded_leaves", excluded_leaves, torch.Tensor, NoneType)
        excluded = None
        if excluded_leaves is not None and len(excluded_leaves):
            excluded = ExcludedPrefixes(table, batch_size, excluded_leaves)
        return cls(widths, [value or None for value in temperatures], excluded, normalization, generator)


def beam_widths(num_beams: int | Sequence[int], table: PrefixTable) -> list[int]:
    """The number of beams of each level."""
    levels, num_beams = table.num_levels, to_python(num_beams)
    check_integers("num_beams", num_beams if isinstance(num_beams, Sequence) else [num_beams])
    widths = list(num_beams) if isinstance(num_beams, Sequence) else [num_beams] * levels
    if len(widths) != levels:
        raise ValueError(f"`num_beams` must be an integer, or one for each of {levels} levels, got {num_beams}.")
    if max(widths) > max(MAX_BEAMS, table.num_leaves):
        raise ValueError(
            f"`num_beams` is {max(widths)}, but there are only {table.num_leaves} semantic IDs. Ask for fewer."
        )
    return widths


def _search(decoder: BeamDecoder, table: PrefixTable, plan: _Plan) -> BeamSearchOutput:
    # Beams are kept in lexicographic order, not by score: candidates then come in that order too, so that ties are
    # broken by semantic ID at no cost. Depth 0 has one beam, the empty prefix.
    hidden = decoder.prefill()
    batch_size, device = len(hidden), hidden.device
    nodes = torch.zeros(batch_size, 1, dtype=torch.int64, device=device)
    scores = keys = torch.zeros(batch_size, 1, device=device)
    sampler, suspicious = None, []
    for depth, (width, temperature) in enumerate(zip(plan.widths, plan.temperatures, strict=True)):
        num_beams = nodes.shape[1]
        # The candidates of all rows in one line, without padding: for each its beam, its node and its last token.
        beam, child = _children(table, depth, nodes.flatten())
        if plan.excluded is not None:
            allowed = plan.excluded.allow(depth + 1, beam // num_beams, child)
            beam, child = beam[allowed], child[allowed]
        if len(child) == 0:
            nodes, scores, keys = nodes[:, :0], scores[:, :0], keys[:, :0]
            break
        token = table.last_tokens(depth + 1, child)
        log_probs = decoder.head.log_probs(
            hidden.flatten(0, 1), beam, token, table.level_tokens(depth), plan.normalization
        )
        suspicious.append(log_probs.isnan().any())
        candidate_scores = candidate_keys = scores.flatten()[beam] + log_probs
        if temperature is None:
            sampler = None
        else:
            sampler = sampler or GumbelSampler(scores.flatten() / temperature, plan.generator)
            candidate_keys = sampler.perturb(beam, log_probs / temperature)

        # The best of each row: candidates, by their number in the line.
        counts = torch.bincount(beam // num_beams, minlength=batch_size).unsqueeze(-1)
        starts = counts.cumsum(0) - counts
        position = torch.arange(int(counts.max()), device=device)
        exists = position < counts
        number = torch.where(exists, position + starts, 0)
        padded = candidate_keys[number].nan_to_num(nan=-torch.inf, neginf=-torch.inf).masked_fill(~exists, -torch.inf)
        # No more beams than there are candidates: a narrow first level needs no wider batch.
        chosen = top_k_in_order(padded, min(width, padded.shape[1]))
        keys = padded.gather(-1, chosen)
        chosen = number.gather(-1, chosen)
        scores = candidate_scores[chosen].masked_fill(keys.isneginf(), -torch.inf)
        nodes = child[chosen].masked_fill(scores.isneginf(), -1)
        if sampler is not None:
            sampler.keep(chosen.flatten())
        if depth + 1 < table.num_levels:
            hidden = decoder.step(token[chosen], beam[chosen] % num_beams)
    if suspicious and torch.stack(suspicious).any():
        raise ValueError("The model's logits are not finite (NaN or infinite), so beams can't be ranked.")

    order = keys.argsort(dim=-1, descending=True, stable=True)
    missing = plan.widths[-1] - order.shape[-1]
    leaves = nn.functional.pad(nodes.gather(-1, order), (0, missing), value=-1)
    scores = nn.functional.pad(scores.gather(-1, order), (0, missing), value=-torch.inf)
    return BeamSearchOutput(leaves=leaves, scores=scores, sequences=table.leaf_tokens(leaves))


def _children(table: PrefixTable, depth: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The children of all nodes in one line: for each the position of its parent in `nodes`, and its number."""
    start, stop = table.child_range(depth, nodes)
    degrees = stop - start
    parent = torch.arange(len(nodes), device=nodes.device).repeat_interleave(degrees)
    shift = start - (degrees.cumsum(0) - degrees)
    return parent, torch.arange(len(parent), device=nodes.device) + shift[parent]


def _check_model(model: nn.Module, table: PrefixTable) -> None:
    """Refuses a table whose tokens the output head doesn't have, and tokens that an adapter sets before the input."""
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError(
            f"`model` has an adapter of the type {model.active_peft_config.peft_type.value}, whose virtual tokens a "
            "search doesn't know. Use LoRA, or another adapter of the weights."
        )
    last = int(table.token_ids.max())
    vocab_size = len(getattr(model.get_output_embeddings(), "weight", ()))
    if 0 < vocab_size <= last:
        raise ValueError(
            f"`prefix_table` has tokens up to number {last}, but the model's vocabulary has only {vocab_size}. Resize "
            "the model's embeddings to the tokenizer with the semantic IDs."
        )


def _check_padding(attention_mask: torch.Tensor) -> None:
    if not attention_mask[:, -1].all():
        raise ValueError(
            "`input_ids` of a decoder-only model must be padded on the left: `attention_mask` ends in 0 in "
            f"{int((attention_mask[:, -1] == 0).sum())} rows."
        )


def _decoder_start_token_id(model: nn.Module) -> int:
    start = getattr(model.config, "decoder_start_token_id", None)
    if start is None and model.generation_config is not None:
        start = model.generation_config.decoder_start_token_id
    if start is None:
        raise ValueError("`model.config.decoder_start_token_id` isn't set: an encoder-decoder model begins with it.")
    return start
