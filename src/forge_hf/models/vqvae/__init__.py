# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""VQ-VAE: item embeddings in, codes of independent codebooks out. Importing this registers it."""

from transformers import AutoConfig, AutoModel

from .configuration_vqvae import VQVAEConfig
from .modeling_vqvae import VQVAEModel


AutoConfig.register(VQVAEConfig.model_type, VQVAEConfig, exist_ok=True)
AutoModel.register(VQVAEConfig, VQVAEModel, exist_ok=True)

__all__ = ["VQVAEConfig", "VQVAEModel"]
