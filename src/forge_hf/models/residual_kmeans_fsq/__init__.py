# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Residual k-means with a last level by finite scalar quantization. Importing this registers it."""

from transformers import AutoConfig, AutoModel

from .configuration_residual_kmeans_fsq import ResidualKMeansFSQConfig
from .modeling_residual_kmeans_fsq import ResidualKMeansFSQModel


AutoConfig.register(ResidualKMeansFSQConfig.model_type, ResidualKMeansFSQConfig, exist_ok=True)
AutoModel.register(ResidualKMeansFSQConfig, ResidualKMeansFSQModel, exist_ok=True)

__all__ = ["ResidualKMeansFSQConfig", "ResidualKMeansFSQModel"]
