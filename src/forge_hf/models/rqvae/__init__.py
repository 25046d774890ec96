# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""RQ-VAE: item embeddings in, codes out. Importing this registers it with AutoConfig and AutoModel."""

from transformers import AutoConfig, AutoModel

from .configuration_rqvae import RQVAEConfig
from .contrastive_loss import RQVAEContrastiveLoss
from .modeling_rqvae import RQVAEEncoderOutput, RQVAEModel, RQVAEOutput, RQVAEPreTrainedModel


AutoConfig.register(RQVAEConfig.model_type, RQVAEConfig, exist_ok=True)
AutoModel.register(RQVAEConfig, RQVAEModel, exist_ok=True)
# `save_pretrained` puts the files beside the weights, which then load without forge_hf (`trust_remote_code=True`).
RQVAEConfig.register_for_auto_class()
RQVAEModel.register_for_auto_class("AutoModel")

__all__ = [
    "RQVAEConfig",
    "RQVAEContrastiveLoss",
    "RQVAEEncoderOutput",
    "RQVAEModel",
    "RQVAEOutput",
    "RQVAEPreTrainedModel",
]
