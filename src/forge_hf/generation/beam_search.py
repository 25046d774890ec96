# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Beam search of fixed length over a catalog's semantic IDs, for stock encoder-decoder and decoder-only models."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.cache_utils import DynamicLayer
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateBeamEncoderDecoderOutput
from transformers.modeling_outputs import BaseModelOutput

from .prefix_table import PrefixTable


__all__ = ["BeamSearchOutput", "constrained_beam_search", "semantic_id_beam_search"]


@dataclass
class BeamSearchOutput:
    """
    Result of [`constrained_beam_search`], best first.

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
    num_beams: int,
) -> BeamSearchOutput:
    """
    Finds the `num_beams` semantic IDs of a catalog that a beam search through its prefix tree reaches.

    The same hypotheses and scores as `model.generate` with [`SemanticIdLogitsProcessor`], `num_beams` beams, no end
    token and `length_penalty=0`: a code's score is its log-probability over the whole vocabulary, in float32, and
    isn't renormalised over the legal codes. But the prompt is read once for all beams, only legal continuations are
    scored, and rows beyond the catalog are marked instead of repeated. Equal scores are ordered by semantic ID.
    Nothing of the model's generation config is used.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            An encoder-decoder or decoder-only language model, in eval mode.
        input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
            Histories, padded on the left for a decoder-only model.
        attention_mask (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            0 for padding. All ones if `None`.
        prefix_table ([`PrefixTable`]):
            The catalog's semantic IDs, on the model's device.
        num_beams (`int`):
            Number of beams, and of results a row.

    Returns:
        [`BeamSearchOutput`]

    Raises:
        `ValueError`: `num_beams` is below 1, `input_ids` and `attention_mask` differ in shape, a decoder-only batch is
            padded on the right, or the model's logits aren't finite.

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
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    if input_ids.ndim != 2 or attention_mask.shape != input_ids.shape:
        raise ValueError(
            "`input_ids` and `attention_mask` must both have the shape (batch_size, sequence_length), got "
            f"{tuple(input_ids.shape)} and {tuple(attention_mask.shape)}."
        )
    if model.config.is_encoder_decoder:
        encoder_outputs = model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        start = torch.full_like(input_ids[:, :1], _decoder_start_token_id(model))
        decoder = _Decoder(model, start, attention_mask, encoder_outputs.last_hidden_state)
    else:
        if not attention_mask[:, -1].all():
            raise ValueError(
                "`input_ids` of a decoder-only model must be padded on the left: `attention_mask` ends in 0 in "
                f"{int((attention_mask[:, -1] == 0).sum())} rows."
            )
        decoder = _Decoder(model, input_ids, attention_mask)
    return _search(decoder, prefix_table, num_beams)


def semantic_id_beam_search(
    model: nn.Module,
    input_ids: torch.Tensor,
    logits_processor=None,
    stopping_criteria=None,
    generation_config=None,
    prefix_table: PrefixTable | None = None,
    **model_kwargs,
):
    """
    [`constrained_beam_search`] as a decoding method of `model.generate`, passed as its `custom_generate`.

    The semantic IDs are always complete and nothing follows them, whatever `max_new_tokens` and the end token are;
    pass `max_new_tokens=num_levels` so that `generate` finds its lengths in order. Of the generation config only
    `num_beams`, `num_return_sequences`, `pad_token_id`, `return_dict_in_generate` and `output_scores` are used:
    logits processors, stopping criteria, sampling and length penalty aren't.

    Args:
        model (`PreTrainedModel`): The model that `generate` was called on.
        input_ids (`torch.LongTensor` of shape `(batch_size * num_beams, prompt_length)`):
            Prompts, which `generate` has repeated `num_beams` times; one of each is read.
        prefix_table ([`PrefixTable`]): The catalog's semantic IDs.

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
    num_beams, num_return = generation_config.num_beams, generation_config.num_return_sequences
    # `generate` has repeated every row; the search needs one of each.
    expanded = max(num_beams, num_return)
    input_ids = input_ids[::expanded]
    attention_mask = model_kwargs.get("attention_mask")
    attention_mask = None if attention_mask is None else attention_mask[::expanded]
    if model.config.is_encoder_decoder:
        states = model_kwargs["encoder_outputs"][0][::expanded]
        if attention_mask is None:
            attention_mask = torch.ones(states.shape[:2], dtype=torch.int64, device=states.device)
        decoder, output_class = _Decoder(model, input_ids, attention_mask, states), GenerateBeamEncoderDecoderOutput
    else:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        decoder, output_class = _Decoder(model, input_ids, attention_mask), GenerateBeamDecoderOnlyOutput
    result = _search(decoder, prefix_table.to(input_ids.device), expanded)

    pad = generation_config._pad_token_tensor
    tokens = result.sequences[:, :num_return].flatten(0, 1)
    tokens = torch.where(tokens >= 0, tokens, 0 if pad is None else pad)
    sequences = torch.cat([input_ids.repeat_interleave(num_return, dim=0), tokens], dim=-1)
    if not generation_config.return_dict_in_generate:
        return sequences
    scores = result.scores[:, :num_return].flatten() if generation_config.output_scores else None
    return output_class(sequences=sequences, sequences_scores=scores)


def _search(decoder: "_Decoder", table: PrefixTable, num_beams: int) -> BeamSearchOutput:
    if num_beams < 1:
        raise ValueError(f"`num_beams` must be at least 1, got {num_beams}.")
    # Beams are kept in lexicographic order, not by score: candidates then come in that order too, so that ties are
    # broken by semantic ID at no cost. Depth 0 has one beam, the empty prefix.
    logits = decoder.prefill().unsqueeze(1)
    nodes = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
    scores = torch.zeros(logits.shape[:2], dtype=torch.float32, device=logits.device)
    for depth in range(table.num_levels):
        children = table.children(depth, nodes)
        logits = logits.float()
        normalizer = logits.logsumexp(dim=-1)
        if not normalizer.isfinite().all():
            raise ValueError("The model's logits are not finite (NaN or infinite), so beams can't be ranked.")
        candidates = logits.gather(-1, children.tokens) - normalizer.unsqueeze(-1) + scores.unsqueeze(-1)
        candidates = candidates.masked_fill(~children.legal, -torch.inf).flatten(1)
        # No more beams than prefixes of this depth: a narrow first level needs no wider batch.
        width = min(num_beams, table.num_nodes(depth + 1), candidates.shape[-1])
        chosen = _top_k_in_order(candidates, width)
        scores = candidates.gather(-1, chosen)
        parents = chosen // children.tokens.shape[-1]
        tokens = children.tokens.flatten(1).gather(-1, chosen)
        nodes = children.nodes.flatten(1).gather(-1, chosen).masked_fill(scores.isneginf(), -1)
        if depth + 1 < table.num_levels:
            logits = decoder.step(tokens, parents)

    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    missing = num_beams - scores.shape[-1]
    leaves = nn.functional.pad(nodes.gather(-1, order), (0, missing), value=-1)
    scores = nn.functional.pad(scores, (0, missing), value=-torch.inf)
    return BeamSearchOutput(leaves=leaves, scores=scores, sequences=table.leaf_tokens(leaves))


def _top_k_in_order(scores: torch.Tensor, k: int) -> torch.Tensor:
    """
    Positions of the `k` largest scores of each row, in ascending order of position; of equal scores the first.

    Unlike `torch.topk`, which of equal scores it takes is defined, on every device.
    """
    threshold = scores.topk(k, dim=-1).values[:, -1:]
    above, equal = scores > threshold, scores == threshold
    room = k - above.sum(dim=-1, keepdim=True)
    keep = above | (equal & (equal.cumsum(dim=-1) <= room))
    return keep.nonzero()[:, 1].view(-1, k)


class _Decoder:
    """
    A model that has read its prompts, one row each, and then takes one token a beam.

    The prompt is always read on `batch_size` rows. Afterwards there are two ways to hold the beams:

    - Side by side: the beams of a row are neighbours on the sequence axis of one cache row, and a mask shows each beam
      the prompt and its own ancestors. Nothing is ever repeated or reordered. For decoder-only models whose attention
      takes any mask (`sdpa`, `eager`) over an ordinary growing cache.
    - Repeated: a cache row a beam, reordered as beams die. For all others, and for encoder-decoder models, whose
      relative position biases don't know two tokens at one position.
    """

    def __init__(self, model, prompt, attention_mask, encoder_hidden_states=None):
        self.model = model
        self.prompt = prompt
        self.attention_mask = attention_mask
        self.encoder_hidden_states = encoder_hidden_states
        self.cache = None
        self.side_by_side = False
        # which of the tokens since the prompt each beam descends from, of shape (batch_size, num_beams, num_tokens)
        self.ancestors = None

    def prefill(self) -> torch.Tensor:
        """Reads the prompts; returns the next token's logits, of shape `(batch_size, vocab_size)`."""
        if self.encoder_hidden_states is not None:
            return self._decode(self.prompt)
        positions = (self.attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        logits = self._continue(self.prompt, self.attention_mask, positions, logits_to_keep=1)[:, -1]
        self.side_by_side = self.model.config._attn_implementation in ("sdpa", "eager") and all(
            type(layer) is DynamicLayer for layer in self.cache.layers
        )
        # the next token's position, a row
        self.position = positions[:, -1:] + 1
        return logits

    def step(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """
        Appends a token to beams.

        Args:
            tokens (`torch.LongTensor` of shape `(batch_size, num_beams)`): The new tokens.
            parents (`torch.LongTensor` of shape `(batch_size, num_beams)`): The last step's beam that each extends.

        Returns:
            The next token's logits, of shape `(batch_size, num_beams, vocab_size)`.
        """
        batch_size, num_beams = tokens.shape
        if self.side_by_side:
            logits = self._step_side_by_side(tokens, parents)
        else:
            previous_beams = self.attention_mask.shape[0] // batch_size
            rows = torch.arange(batch_size, device=tokens.device).unsqueeze(-1) * previous_beams + parents
            logits = self._step_repeated(tokens.reshape(-1, 1), rows.flatten(), num_beams == previous_beams)
        return logits.reshape(batch_size, num_beams, -1)

    def _step_side_by_side(self, tokens, parents):
        batch_size, num_beams = tokens.shape
        itself = torch.eye(num_beams, dtype=torch.bool, device=tokens.device).expand(batch_size, -1, -1)
        if self.ancestors is None:
            self.ancestors = itself
        else:
            inherited = self.ancestors.gather(1, parents.unsqueeze(-1).expand(-1, -1, self.ancestors.shape[-1]))
            self.ancestors = torch.cat([inherited, itself], dim=-1)
        prompt = self.attention_mask.bool().unsqueeze(1).expand(-1, num_beams, -1)
        mask = torch.cat([prompt, self.ancestors], dim=-1).unsqueeze(1)
        if self.model.config._attn_implementation == "eager":
            dtype = self.model.dtype
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
        positions = self.position.expand(-1, num_beams)
        self.position = self.position + 1
        return self._continue(tokens, mask, positions, logits_to_keep=num_beams)

    def _step_repeated(self, tokens, rows, same_rows):
        if self.encoder_hidden_states is None:
            self.cache.reorder_cache(rows)
            self.attention_mask = nn.functional.pad(self.attention_mask[rows], (0, 1), value=1)
            self.position = self.position[rows]
            logits = self._continue(tokens, self.attention_mask, self.position, logits_to_keep=1)
            self.position = self.position + 1
            return logits
        if same_rows:
            # The beams of a row read the same encoder states, so their cross-attention cache needs no reordering.
            self.cache.self_attention_cache.reorder_cache(rows)
        else:
            self.cache.reorder_cache(rows)
            self.attention_mask = self.attention_mask[rows]
            self.encoder_hidden_states = self.encoder_hidden_states[rows]
        return self._decode(tokens)

    def _continue(self, tokens, attention_mask, positions, logits_to_keep):
        outputs = self.model(
            input_ids=tokens,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
            return_dict=True,
        )
        self.cache = outputs.past_key_values
        return outputs.logits

    def _decode(self, tokens):
        outputs = self.model(
            decoder_input_ids=tokens,
            encoder_outputs=BaseModelOutput(last_hidden_state=self.encoder_hidden_states),
            attention_mask=self.attention_mask,
            past_key_values=self.cache,
            use_cache=True,
            return_dict=True,
        )
        self.cache = outputs.past_key_values
        return outputs.logits[:, -1]


def _decoder_start_token_id(model: nn.Module) -> int:
    start = getattr(model.config, "decoder_start_token_id", None)
    if start is None and model.generation_config is not None:
        start = model.generation_config.decoder_start_token_id
    if start is None:
        raise ValueError("`model.config.decoder_start_token_id` isn't set: an encoder-decoder model begins with it.")
    return start
