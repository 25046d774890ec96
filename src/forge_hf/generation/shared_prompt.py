# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Attention of many beams to one prompt: its keys and values are held once, and each beam adds only its own tokens."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import AttentionInterface


__all__ = ["ATTENTION_NAME", "SharedPrompt", "UnsupportedAttentionError"]

ATTENTION_NAME = "forge_hf_shared_prompt"
# Attention weights computed at once: 64 MiB of float32.
BLOCK_NUMBERS = 1 << 24


class UnsupportedAttentionError(Exception):
    """A layer asks for a kind of attention that [`SharedPrompt`] doesn't know."""


class SharedPrompt:
    """
    Keys and values of a batch of prompts, one row each, and of the tokens that beams have appended to them.

    The beams of a row are neighbours on the sequence axis, `(batch_size, num_beams)` tokens a step. A beam sees its
    row's prompt and its own ancestors. The prompt's keys and values are neither copied nor moved; the ancestors' are
    picked out by number.

    Args:
        layers (sequence of `(keys, values)`, of shape `(batch_size, num_key_value_heads, prompt_length, head_dim)`):
            Self-attention cache of the prompt.
        mask (`torch.Tensor` of shape `(batch_size, prompt_length)`, *optional*):
            0 where the prompt is padding.
        cross_layers (as `layers`, *optional*):
            Cross-attention cache of the encoder's states, for an encoder-decoder model.
        cross_mask (`torch.Tensor` of shape `(batch_size, encoder_length)`, *optional*):
            0 where the encoder's input is padding.
    """

    def __init__(
        self,
        layers: Sequence[tuple[torch.Tensor, torch.Tensor]],
        mask: torch.Tensor | None = None,
        cross_layers: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
        cross_mask: torch.Tensor | None = None,
    ):
        self.layers, self.cross_layers = layers, cross_layers
        dtype = layers[0][0].dtype
        self.mask = None if mask is None else _additive(mask, torch.float32)
        self.cross_mask = None if cross_mask is None else _additive(cross_mask, dtype)
        # own tokens, step by step: a layer's keys and values of shape (batch_size * num_beams, heads, head_dim)
        self.own: list[dict[int, tuple[torch.Tensor, torch.Tensor]]] = []
        # for each step before the last, which of its rows each of the last step's beams descends from
        self.ancestors: list[torch.Tensor] = []
        self.position_bias: torch.Tensor | None = None

    def advance(self, parents: torch.Tensor) -> None:
        """Begins a step: `parents` of shape `(batch_size, num_beams)` number the beams of the step before."""
        batch_size, num_beams = parents.shape
        if self.own:
            keys = next(iter(self.own[-1].values()))[0]
            rows = torch.arange(batch_size, device=parents.device).unsqueeze(-1) * (len(keys) // batch_size) + parents
            rows = rows.flatten()
            self.ancestors = [ancestor[rows] for ancestor in self.ancestors] + [rows]
        self.own.append({})

    @property
    def is_complete(self) -> bool:
        """Whether every layer took part in the last step: not so if a model doesn't use the attention registry."""
        return len(self.own[-1]) == len(self.layers)

    def attend(self, module, query, key, value, scaling) -> torch.Tensor:
        """What a layer attends to: the encoder, if it was given the encoder's keys, or else prompt and ancestors."""
        layer = module.layer_idx
        if self.cross_layers and key is self.cross_layers[layer][0]:
            return self._cross_attention(query, key, value, scaling)
        if layer in self.own[-1] or key.shape[2] != query.shape[2]:
            raise UnsupportedAttentionError
        return self._self_attention(module, query, key, value, scaling)

    def _self_attention(self, module, query, key, value, scaling):
        batch_size, num_heads, num_beams, dim = query.shape
        layer = module.layer_idx
        self.own[-1][layer] = tuple(part.transpose(1, 2).reshape(-1, part.shape[1], dim) for part in (key, value))
        own = [tuple(part[rows] for part in step[layer]) for step, rows in zip(self.own, self.ancestors, strict=False)]
        own.append(self.own[-1][layer])
        keys = torch.stack([keys for keys, _ in own], dim=2).view(batch_size, num_beams, key.shape[1], len(own), dim)
        values = torch.stack([values for _, values in own], dim=2).view(keys.shape)
        prompt_keys, prompt_values = self.layers[layer]
        bias = self._bias(module, prompt_keys.shape[2] + len(own))
        # Heads that share keys stand side by side: (batch_size, num_key_value_heads, group, num_beams, dim).
        query = query.view(batch_size, key.shape[1], -1, num_beams, dim)
        size = max(1, BLOCK_NUMBERS // (batch_size * num_heads * prompt_keys.shape[2]))
        parts = [
            _attend(
                query[..., start : start + size, :], prompt_keys, prompt_values, keys[:, start : start + size],
                values[:, start : start + size], self.mask, bias, scaling,
            )
            for start in range(0, num_beams, size)
        ]  # fmt: skip
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _cross_attention(self, query, key, value, scaling):
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self.cross_mask, scale=scaling
        )
        return attended.transpose(1, 2)

    def _bias(self, module, length):
        """T5's bias of a token at position `length - 1` on those up to it, `(1, heads, 1, length)`; of layer 0's."""
        if getattr(module, "has_relative_attention_bias", False):
            self.position_bias = module.compute_bias(1, length, past_seen_tokens=length - 1).float()
        return self.position_bias


def _attend(query, prompt_keys, prompt_values, keys, values, mask, bias, scaling):
    """
    Softmax attention over a shared prompt and a few keys of each beam's own, by one softmax over both.

    `query` is of shape `(batch_size, heads, group, num_beams, dim)`, the prompt's keys and values are of shape
    `(batch_size, heads, prompt_length, dim)`, those of the beams `(batch_size, num_beams, heads, num_own, dim)`.
    """
    batch_size, num_heads, group, num_beams, dim = query.shape
    dtype, length = query.dtype, prompt_keys.shape[2]
    rows = query.reshape(batch_size, num_heads, group * num_beams, dim)
    scores = (rows @ prompt_keys.transpose(2, 3)).float().mul_(scaling)
    scores = scores.view(batch_size, num_heads, group, num_beams, length)
    own = query.permute(0, 3, 1, 2, 4) @ keys.transpose(3, 4)
    own = own.float().mul_(scaling).permute(0, 2, 3, 1, 4)
    if mask is not None:
        scores += mask.unsqueeze(2)
    if bias is not None:
        bias = bias.view(1, num_heads, group, 1, -1)
        scores += bias[..., :length]
        own = own + bias[..., length:]
    top = torch.maximum(scores.amax(dim=-1, keepdim=True), own.amax(dim=-1, keepdim=True))
    scores, own = scores.sub_(top).exp_(), (own - top).exp_()
    total = scores.sum(dim=-1, keepdim=True) + own.sum(dim=-1, keepdim=True)
    attended = (scores.to(dtype).view(rows.shape[:-1] + (length,)) @ prompt_values).view(query.shape)
    attended = (attended / total).permute(0, 3, 1, 2, 4)
    attended = attended + ((own / total).to(dtype).permute(0, 3, 1, 2, 4) @ values)
    return attended.to(dtype).reshape(batch_size, num_beams, num_heads * group, dim)


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """A padding mask as numbers to add to scores, `(batch_size, 1, 1, length)`; `None` if nothing is masked."""
    if mask.all():
        return None
    additive = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return additive.masked_fill_(mask == 0, torch.finfo(dtype).min)[:, None, None]


def _attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """The attention function: what a layer computes is up to the [`SharedPrompt`] that its module was given."""
    if any(kwargs.get(name) is not None for name in ("sliding_window", "softcap", "s_aux")):
        raise UnsupportedAttentionError
    shared: SharedPrompt = module.shared_prompt
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return shared.attend(module, query, key, value, scaling).contiguous(), None


# A name of our own in the registry of transformers: no model uses it unless its config says so.
AttentionInterface.register(ATTENTION_NAME, _attention)
