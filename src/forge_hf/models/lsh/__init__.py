# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Random hyperplanes: item embeddings in, codes out. Importing this registers it with AutoConfig and AutoModel."""

from transformers import AutoConfig, AutoModel

from .configuration_lsh import LSHConfig
from .modeling_lsh import LSHModel


AutoConfig.register(LSHConfig.model_type, LSHConfig, exist_ok=True)
AutoModel.register(LSHConfig, LSHModel, exist_ok=True)

__all__ = ["LSHConfig", "LSHModel"]
