# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Random IDs: item embeddings in, codes out. Importing this registers it with AutoConfig and AutoModel."""

from transformers import AutoConfig, AutoModel

from .configuration_random_ids import RandomIdsConfig
from .modeling_random_ids import RandomIdsModel


AutoConfig.register(RandomIdsConfig.model_type, RandomIdsConfig, exist_ok=True)
AutoModel.register(RandomIdsConfig, RandomIdsModel, exist_ok=True)

__all__ = ["RandomIdsConfig", "RandomIdsModel"]
