# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""MMQ: embeddings of several modalities in, codes of shared and specific experts out. Importing this registers it."""

from transformers import AutoConfig, AutoModel

from .configuration_mmq import MMQConfig
from .modeling_mmq import MMQModel, MMQOutput, MMQSoftEncoderOutput


AutoConfig.register(MMQConfig.model_type, MMQConfig, exist_ok=True)
AutoModel.register(MMQConfig, MMQModel, exist_ok=True)

__all__ = ["MMQConfig", "MMQModel", "MMQOutput", "MMQSoftEncoderOutput"]
