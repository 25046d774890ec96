# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Attention of many beams to one prompt: its keys and values are held once, and each beam adds only its own tokens."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import AttentionInterface


__all__ = ["ATTENTION_NAME", "SharedPrompt", "UnsupportedAttentionError"]

ATTENTION_NAME = "forge_hf_shared_prompt"
# So many tokens of a row's beams are read by all of them, behind a mask; of more, each beam reads its own.
MASKED_TOKENS = 64


class UnsupportedAttentionError(Exception):
    """A layer asks for a kind of attention that [`SharedPrompt`] doesn't know."""


class SharedPrompt:
    """
    Keys and values of a batch of prompts, one row each, and of the tokens that beams have appended to them.

    The beams of a row are neighbours on the sequence axis, `(batch_size, num_beams)` tokens a step, of which the model
    may read a part after the other: [`begin`] goes before each part and [`end`] after the last. A beam sees its row's
    prompt and its own ancestors, in one of two ways that give the same: of few beams, all read the prompt and all
    tokens of the row, behind a mask, for which a layer's keys and values are joined while it is read; of many, each
    picks out its ancestors by number, and the prompt isn't moved.

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
        self.mask, self.cross_mask = _padding(mask), _padding(cross_mask)
        # of each step that has ended: a layer's keys and values of shape (batch_size, heads, num_beams, head_dim)
        self.steps: list[dict[int, tuple[torch.Tensor, torch.Tensor]]] = []
        self.widths: list[int] = []  # numbers of beams of these steps
        # for each of them but the last: which of its beams the last one's beams descend from
        self.ancestors: list[torch.Tensor] = []
        # the same two of each part of the step that goes on, whose ancestors are of all steps that have ended
        self.parts: list[tuple[dict[int, tuple[torch.Tensor, torch.Tensor]], list[torch.Tensor]]] = []
        self.position_bias: torch.Tensor | None = None
        # what beams see of the prompt and of all tokens of their row, if a part is read so: as booleans of shape
        # (batch_size, 1, num_beams, length), and as what is added to scores
        self.seen: torch.Tensor | None = None
        self.score_mask: torch.Tensor | None = None

    def begin(self, parents: torch.Tensor) -> None:
        """Begins a part of a step: `parents`, of shape `(batch_size, num_beams)`, number beams of the step before."""
        ancestors = [ancestor.gather(1, parents) for ancestor in self.ancestors] + [parents] if self.steps else []
        self.parts.append(({}, ancestors))
        self.seen = self._seen(parents, ancestors)
        self.score_mask = None

    def end(self) -> None:
        """Ends a step."""
        layers = [
            {layer: [states[layer][kind] for states, _ in self.parts] for layer in self.parts[0][0]} for kind in (0, 1)
        ]
        self.steps.append({layer: tuple(torch.cat(kind[layer], dim=2) for kind in layers) for layer in layers[0]})
        self.widths.append(sum(next(iter(states.values()))[0].shape[2] for states, _ in self.parts))
        self.ancestors = [torch.cat(parts, dim=1) for parts in zip(*(part[1] for part in self.parts), strict=True)]
        self.parts = []

    @property
    def is_complete(self) -> bool:
        """Whether every layer has read the last part: not so if a model doesn't use the attention registry."""
        return len(self.parts[-1][0]) == len(self.layers)

    def attend(self, module, query, key, value, scaling) -> torch.Tensor:
        """What a layer attends to: the encoder, if it was given the encoder's keys, or else prompt and ancestors."""
        layer = module.layer_idx
        if self.cross_layers and key is self.cross_layers[layer][0]:
            return self._cross_attention(query, key, value, scaling)
        if layer in self.parts[-1][0] or key.shape[2] != query.shape[2]:
            raise UnsupportedAttentionError
        for states, prompt in zip((key, value), self.layers[layer], strict=True):
            if states.shape[1] != prompt.shape[1] or states.shape[3] != prompt.shape[3]:
                raise UnsupportedAttentionError  # what is cached isn't what is attended to, as in DeepSeek-V3
        return self._self_attention(module, query, key, value, scaling)

    def _self_attention(self, module, query, key, value, scaling):
        batch_size, num_beams, layer = len(query), query.shape[2], module.layer_idx
        states, ancestors = self.parts[-1]
        states[layer] = key, value
        if self.seen is not None:
            return self._masked_attention(module, query, scaling)
        users = torch.arange(batch_size, device=query.device).unsqueeze(-1)
        own = [
            torch.stack(
                [step[layer][kind][users, :, beams] for step, beams in zip(self.steps, ancestors, strict=True)]
                + [states[layer][kind].transpose(1, 2)],
                dim=3,
            )
            for kind in (0, 1)
        ]
        prompt_keys, prompt_values = self.layers[layer]
        bias = self._bias(module, prompt_keys.shape[2] + own[0].shape[3])
        # Heads that share keys stand side by side: (batch_size, num_key_value_heads, group, num_beams, head_dim).
        query = query.view(batch_size, key.shape[1], -1, num_beams, query.shape[-1])
        return _attend(query, prompt_keys, prompt_values, *own, self.mask, bias, scaling)

    def _seen(self, parents, ancestors):
        """Which tokens each beam of a part sees; `None` if that would be too many to read."""
        batch_size, num_beams = parents.shape
        length = self.layers[0][0].shape[2]
        if sum(self.widths) + num_beams > MASKED_TOKENS:
            return None
        device = parents.device
        prompt = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device) if self.mask is None else self.mask
        seen = [prompt[:, 0].expand(batch_size, num_beams, length)]
        for width, ancestor in zip(self.widths, ancestors, strict=True):
            seen.append(ancestor.unsqueeze(-1) == torch.arange(width, device=device))
        seen.append(torch.eye(num_beams, dtype=torch.bool, device=device).expand(batch_size, -1, -1))
        return torch.cat(seen, dim=-1).unsqueeze(1)

    def _masked_attention(self, module, query, scaling):
        """Of all beams to all tokens of their row: few operations, however many steps there were."""
        layer = module.layer_idx
        keys, values = (
            torch.cat([tokens[layer][kind] for tokens in (self.layers, *self.steps, self.parts[-1][0])], dim=2)
            for kind in (0, 1)
        )
        # Heads that share keys stand one below the other.
        group = query.shape[1] // keys.shape[1]
        if self.score_mask is None or getattr(module, "has_relative_attention_bias", False):
            self.score_mask = self._score_mask(module, group, query.dtype)
        rows = query.reshape(len(query), keys.shape[1], -1, query.shape[3])
        attended = nn.functional.scaled_dot_product_attention(
            rows, keys, values, attn_mask=self.score_mask, scale=scaling
        )
        return attended.reshape(query.shape).transpose(1, 2)

    def _score_mask(self, module, group, dtype):
        length, num_beams = self.layers[0][0].shape[2], self.seen.shape[2]
        bias = self._bias(module, length + len(self.steps) + 1)
        if bias is None:
            bias = torch.zeros(1, 1, 1, 1, dtype=dtype, device=self.seen.device)
        else:
            # The tokens of a step are all as far away.
            counts = [1] * length + self.widths + [num_beams]
            counts = torch.tensor(counts, device=bias.device)
            bias = bias.to(dtype).repeat_interleave(counts, dim=-1, output_size=self.seen.shape[-1])
        mask = bias.masked_fill(~self.seen, -torch.inf)
        return mask.repeat(1, 1, group, 1) if group > 1 else mask

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
        scores.masked_fill_(~mask.unsqueeze(2), -torch.inf)
    if bias is not None:
        bias = bias.view(1, num_heads, group, 1, -1)
        scores += bias[..., :length]
        own = own + bias[..., length:]
    top = torch.maximum(scores.amax(dim=-1, keepdim=True), own.amax(dim=-1, keepdim=True))
    scores, own = scores.sub_(top).exp_(), (own - top).exp_()
    total = scores.sum(dim=-1, keepdim=True) + own.sum(dim=-1, keepdim=True)
    attended = (scores.to(dtype).view(rows.shape[:-1] + (length,)) @ prompt_values).view(query.shape)
    attended = attended.permute(0, 3, 1, 2, 4) + own.to(dtype).permute(0, 3, 1, 2, 4) @ values
    attended = attended / total.permute(0, 3, 1, 2, 4)
    return attended.to(dtype).reshape(batch_size, num_beams, num_heads * group, dim)


def _padding(mask: torch.Tensor | None) -> torch.Tensor | None:
    """A padding mask as booleans of shape `(batch_size, 1, 1, length)`; `None` if there is no padding."""
    return None if mask is None or mask.all() else mask.bool()[:, None, None]


def _attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """The attention function: what a layer computes is up to the [`SharedPrompt`] that its module was given."""
    if any(kwargs.get(name) is not None for name in ("sliding_window", "softcap", "s_aux")):
        raise UnsupportedAttentionError
    shared: SharedPrompt = module.shared_prompt
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return shared.attend(module, query, key, value, scaling).contiguous(), None


# A name of our own in the registry of transformers: no model uses it unless its config says so.
AttentionInterface.register(ATTENTION_NAME, _attention)
