# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""A language model that has read prompts, one row each, and then takes one token a beam."""

import copy
from types import MethodType

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from .code_head import CodeHead
from .shared_prompt import ATTENTION_NAME, SharedPrompt, UnsupportedAttentionError


__all__ = ["BeamDecoder"]

# Beams read at once: of all rows, of one row (T5 makes a bias of their square), and times the prompt's length.
PART_ROWS, PART_BEAMS, PART_WEIGHTS = 1 << 11, 1 << 10, 1 << 20


class BeamDecoder:
    """
    A model that has read its prompts, one row each, and then takes one token a beam.

    The prompt is always read on `batch_size` rows. Afterwards there are two ways to hold the beams:

    - Side by side: the beams of a row are neighbours on the sequence axis of one row, and share its prompt
      ([`SharedPrompt`]). No cache is ever repeated or reordered. This takes an ordinary growing cache in every layer
      (no sliding windows, no recurrent states), and attention that goes through the registry of transformers: the
      decoder-only models that say so (`_supports_attention_backend`) and, for their cross-attention and relative
      positions, the T5 family.
    - Repeated: a cache row a beam, reordered as beams die. For all others that keep a cache of `past_key_values`.

    Either way the model isn't run itself but as a [`ModelView`], which ends before the output head. A model that goes
    on after its head (soft caps, a scale or a bias of the logits) is run to its end, and one that can't be viewed is
    run as it is: all their logits are made.

    Args:
        model (`PreTrainedModel` or `PeftModel`): An encoder-decoder or decoder-only model.
        prompt (`torch.LongTensor` of shape `(batch_size, prompt_length)`): Its decoder's first tokens.
        attention_mask (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
            0 for padding: of the prompt, or of the encoder's input.
        encoder_hidden_states (`torch.Tensor`, *optional*): The encoder's states, for an encoder-decoder model.
    """

    def __init__(self, model, prompt, attention_mask, encoder_hidden_states=None):
        self.view = ModelView.of(model)
        self.model = model if self.view is None else self.view.model
        self.head = CodeHead(nn.Identity() if self.view is None else self.view.head)
        self.prompt = prompt
        self.attention_mask = attention_mask
        self.encoder_hidden_states = encoder_hidden_states
        self.cache = None
        self.shared = None

    def prefill(self) -> torch.Tensor:
        """Reads the prompts; returns the inputs of `head`, of shape `(batch_size, 1, size)`."""
        if self.encoder_hidden_states is None:
            positions = (self.attention_mask.long().cumsum(-1) - 1).clamp(min=0)
            self.position = positions[:, -1:] + 1  # of the next token, a row

        def read():
            if self.encoder_hidden_states is not None:
                return self._decode(self.prompt, EncoderDecoderCache(DynamicCache(), DynamicCache()))
            return self._continue(self.prompt, self.attention_mask, positions, logits_to_keep=1)

        outputs = read()
        if self.view is not None and outputs.logits is not self.view.tap.logits:
            # The model does something to its logits: they are what must be scored.
            self.view.tap.is_open, self.head = True, CodeHead(nn.Identity())
            outputs = read()
        self.cache = outputs.past_key_values
        if self.view is not None and self._can_share():
            self.shared = self._share()
        return self._head_inputs(outputs)[:, -1:]

    def step(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """
        Appends a token to beams.

        Args:
            tokens (`torch.LongTensor` of shape `(batch_size, num_beams)`): The new tokens.
            parents (`torch.LongTensor` of shape `(batch_size, num_beams)`): The last step's beam that each extends.

        Returns:
            The inputs of `head` for the next token, of shape `(batch_size, num_beams, size)`.
        """
        if self.shared is not None:
            hidden = self._step_side_by_side(tokens, parents)
            if hidden is not None:
                return hidden
            # That was the first step: the cache is as the prompt has left it.
            self.view.attend_as(None)
            self.shared = None
        return self._step_repeated(tokens, parents)

    def _can_share(self):
        if self.encoder_hidden_states is None:
            caches = [self.cache]
            supported = getattr(self.model, "_supports_attention_backend", False)
        else:
            caches = [self.cache.self_attention_cache, self.cache.cross_attention_cache]
            supported = any(hasattr(type(module), "compute_bias") for module in self.model.modules())
        return supported and all(type(layer) is DynamicLayer for cache in caches for layer in cache.layers)

    def _share(self):
        def states(cache):
            return [(layer.keys, layer.values) for layer in cache.layers]

        if self.encoder_hidden_states is None:
            shared = SharedPrompt(states(self.cache), self.attention_mask)
        else:
            own, cross = self.cache.self_attention_cache, self.cache.cross_attention_cache
            shared = SharedPrompt(states(own), cross_layers=states(cross), cross_mask=self.attention_mask)
        self.view.attend_as(shared)
        return shared

    def _step_side_by_side(self, tokens, parents):
        """As `step`, so many beams at once as fit into `PART_ROWS` and the like; `None` if the model can't do that."""
        length = self.prompt.shape[1]
        size = max(1, min(PART_BEAMS, min(PART_ROWS, PART_WEIGHTS // length) // len(tokens)))
        parts = []
        for part, part_parents in zip(tokens.split(size, dim=1), parents.split(size, dim=1), strict=True):
            self.shared.begin(part_parents)
            try:
                outputs = self._read_side_by_side(part)
            except UnsupportedAttentionError:
                return None
            if not self.shared.is_complete:
                return None
            parts.append(self._head_inputs(outputs))
        self.shared.end()
        return torch.cat(parts, dim=1)

    def _read_side_by_side(self, tokens):
        if self.encoder_hidden_states is not None:
            # The shared prompt keeps the beams' own keys; a new cache makes the layers hand over the new tokens alone.
            cache = EncoderDecoderCache(DynamicCache(), self.cache.cross_attention_cache)
            return self._decode(tokens, cache)
        return self.model(
            input_ids=tokens,
            position_ids=(self.position + len(self.shared.steps)).expand(tokens.shape),
            use_cache=False,
            logits_to_keep=tokens.shape[1],
            return_dict=True,
        )

    def _step_repeated(self, tokens, parents):
        batch_size, num_beams = tokens.shape
        previous_beams = self.attention_mask.shape[0] // batch_size
        rows = torch.arange(batch_size, device=tokens.device).unsqueeze(-1) * previous_beams + parents
        rows, tokens = rows.flatten(), tokens.reshape(-1, 1)
        if self.encoder_hidden_states is None:
            self.cache.reorder_cache(rows)
            self.attention_mask = nn.functional.pad(self.attention_mask[rows], (0, 1), value=1)
            self.position = self.position[rows]
            outputs = self._continue(tokens, self.attention_mask, self.position, logits_to_keep=1)
            self.position = self.position + 1
        else:
            if num_beams == previous_beams:
                # The beams of a row read the same encoder states: their cross-attention cache needs no reordering.
                self.cache.self_attention_cache.reorder_cache(rows)
            else:
                self.cache.reorder_cache(rows)
                self.attention_mask = self.attention_mask[rows]
                self.encoder_hidden_states = self.encoder_hidden_states[rows]
            outputs = self._decode(tokens, self.cache)
        self.cache = outputs.past_key_values
        return self._head_inputs(outputs)[:, -1].view(batch_size, num_beams, -1)

    def _head_inputs(self, outputs):
        return outputs.logits if self.view is None or self.view.tap.is_open else self.view.tap.hidden

    def _continue(self, tokens, attention_mask, positions, logits_to_keep):
        return self.model(
            input_ids=tokens,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
            return_dict=True,
        )

    def _decode(self, tokens, cache):
        return self.model(
            decoder_input_ids=tokens,
            encoder_outputs=BaseModelOutput(last_hidden_state=self.encoder_hidden_states),
            attention_mask=self.attention_mask,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )


class ModelView:
    """
    A second tree of modules over a model's weights, for one search: made by [`ModelView.of`].

    Only the modules' own records are copied, not a tensor: the view can name another attention function and leave
    out the output head while the model itself stays as it is, and other threads may use it meanwhile. An encoder is
    not part of the view.
    """

    def __init__(self, model: nn.Module):
        self.head = model.get_output_embeddings()
        self.tap = _Tap(self.head, getattr(self.head, "out_features", model.config.vocab_size))
        self._twins = {self.head: self.tap}
        self._shared_modules = {model.get_encoder()} if model.config.is_encoder_decoder else set()
        self._configs = {}
        self.model = self._copy(model)
        self._attention = {key: config._attn_implementation for key, config in self._configs.items()}

    @classmethod
    def of(cls, model: nn.Module) -> "ModelView | None":
        """The view of a model; `None` if it has no output head or a module whose `forward` isn't a method of it."""
        try:
            return None if model.get_output_embeddings() is None else cls(model)
        except _UnviewableError:
            return None

    def attend_as(self, shared: SharedPrompt | None) -> None:
        """Lets the layers attend through a [`SharedPrompt`]; as the model does if `None`."""
        for twin in self._twins.values():
            vars(twin)["shared_prompt"] = shared
        for key, config in self._configs.items():
            config._attn_implementation = self._attention[key] if shared is None else ATTENTION_NAME

    def _copy(self, module):
        if module in self._shared_modules:
            return module
        if module not in self._twins:
            record = vars(module)
            forward = record.get("forward")
            # A method is bound to the twin below: accelerate prepares models for mixed precision by one.
            if not (forward is None or getattr(forward, "__self__", None) is module) or isinstance(
                module, torch.jit.ScriptModule
            ):
                raise _UnviewableError
            self._twins[module] = twin = object.__new__(type(module))
            vars(twin).update(record)
            if forward is not None:
                vars(twin)["forward"] = MethodType(forward.__func__, twin)
            # Some rotary embeddings write into their buffers as sequences grow.
            vars(twin)["_buffers"] = dict(record["_buffers"])
            vars(twin)["_modules"] = {
                name: None if child is None else self._copy(child) for name, child in record["_modules"].items()
            }
            if "config" in record:
                vars(twin)["config"] = self._copy_config(record["config"])
        return self._twins[module]

    def _copy_config(self, config):
        if id(config) not in self._configs:
            # Setting the attention of a config sets that of the configs in it.
            self._configs[id(config)] = copy.deepcopy(config) if config.sub_configs else copy.copy(config)
        return self._configs[id(config)]


class _UnviewableError(Exception):
    """A module can't be part of a view."""


class _Tap(nn.Module):
    """Stands for the output head: keeps its input, and hands on logits without memory; real ones if it is open."""

    def __init__(self, head: nn.Module, vocab_size: int):
        super().__init__()
        self.head = head
        self.vocab_size = vocab_size
        self.is_open = False

    @property
    def weight(self) -> torch.Tensor:
        """Of the head: some models bring their states to its type."""
        return self.head.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.is_open:
            return self.head(hidden)
        self.hidden = hidden
        self.logits = hidden.new_zeros(1).expand(*hidden.shape[:-1], self.vocab_size)
        return self.logits
