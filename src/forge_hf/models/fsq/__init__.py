# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Finite scalar quantization: item embeddings in, codes out, no codebooks. Importing this registers it."""

from transformers import AutoConfig, AutoModel

from .configuration_fsq import FSQConfig
from .modeling_fsq import FiniteScalarQuantizer, FSQModel, FSQOutput


AutoConfig.register(FSQConfig.model_type, FSQConfig, exist_ok=True)
AutoModel.register(FSQConfig, FSQModel, exist_ok=True)

__all__ = ["FSQConfig", "FSQModel", "FSQOutput", "FiniteScalarQuantizer"]
