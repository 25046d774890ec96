# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Dropout for decoders whose architecture has none."""

import torch
from torch import nn

from ..checks import check_number, check_type


__all__ = ["add_hidden_dropout"]


def add_hidden_dropout(model: nn.Module, p: float) -> list[torch.utils.hooks.RemovableHandle]:
    """
    Drops hidden units of a decoder in training: outputs of the embedding, of each attention and of each MLP.

    Qwen2, Llama and their kin have no dropout but on attention weights, and a small model overfits a small catalog
    without. The hooks act in training mode only and leave the weights and the class as they are, so that the model
    saves and loads as the stock one.

    Args:
        model (`PreTrainedModel`):
            A decoder-only model whose layers have `self_attn` and `mlp` (Qwen2, Llama, Mistral, ...), with or without
            a LoRA adapter.
        p (`float`):
            Probability of dropping a unit.

    Returns:
        `list` of hook handles. `handle.remove()` takes a hook off again.

    Raises:
        `ValueError`: `p` isn't in [0, 1), or the model's layers lack `self_attn` and `mlp`.
    """
    check_type("model", model, nn.Module)
    check_number("p", p)
    if not 0 <= p < 1:
        raise ValueError(f"`p` must be in [0, 1), got {p}.")
    layers = [m for m in model.modules() if hasattr(m, "self_attn") and hasattr(m, "mlp")]
    if not layers:
        raise ValueError(
            f"`hidden_dropout` needs a model whose layers have `self_attn` and `mlp`, and {type(model).__name__} has "
            "none. T5 has a dropout of its own: set `dropout_rate` in its config."
        )

    def drop(module: nn.Module, args: tuple, output):
        if isinstance(output, tuple):
            return (nn.functional.dropout(output[0], p, module.training), *output[1:])
        return nn.functional.dropout(output, p, module.training)

    modules = [model.get_input_embeddings(), *(part for layer in layers for part in (layer.self_attn, layer.mlp))]
    return [module.register_forward_hook(drop) for module in modules]
