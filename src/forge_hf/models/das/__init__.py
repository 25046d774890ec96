# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""DAS: RQ-VAEs of items and users, aligned with collaborative vectors. Importing this registers it."""

from transformers import AutoConfig, AutoModel

from .configuration_das import DASConfig
from .modeling_das import DASModel, DASOutput


AutoConfig.register(DASConfig.model_type, DASConfig, exist_ok=True)
AutoModel.register(DASConfig, DASModel, exist_ok=True)

__all__ = ["DASConfig", "DASModel", "DASOutput"]
