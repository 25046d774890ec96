# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Tells models apart: a long job goes on with the one that it was begun with, and with no other."""

import hashlib
import json

import torch
from torch import nn


__all__ = ["digest_model"]

_VOLATILE = {"_name_or_path", "architectures", "auto_map", "transformers_version"}
_CHUNK = 2**24  # bytes


def digest_model(model: nn.Module) -> str:
    """BLAKE2b of a model's config and of everything in its `state_dict`, 32 hexadecimal digits."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _VOLATILE}
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in tensor.detach().reshape(-1).split(_CHUNK // tensor.element_size()):
            digest.update(part.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
