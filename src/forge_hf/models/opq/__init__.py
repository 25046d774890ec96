# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Product quantization: item embeddings in, many order-free codes out. Importing this registers it."""

from transformers import AutoConfig, AutoModel

from .configuration_opq import OPQConfig
from .modeling_opq import OPQModel


AutoConfig.register(OPQConfig.model_type, OPQConfig, exist_ok=True)
AutoModel.register(OPQConfig, OPQModel, exist_ok=True)

__all__ = ["OPQConfig", "OPQModel"]
