# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Residual k-means: item embeddings in, codes out. Importing this registers it with AutoConfig and AutoModel."""

from transformers import AutoConfig, AutoModel

from .configuration_residual_kmeans import ResidualKMeansConfig
from .modeling_residual_kmeans import ResidualKMeansModel


AutoConfig.register(ResidualKMeansConfig.model_type, ResidualKMeansConfig, exist_ok=True)
AutoModel.register(ResidualKMeansConfig, ResidualKMeansModel, exist_ok=True)

__all__ = ["ResidualKMeansConfig", "ResidualKMeansModel"]
