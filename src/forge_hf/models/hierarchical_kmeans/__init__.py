# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Hierarchical k-means: item embeddings in, codes out. Importing this registers it with AutoConfig and AutoModel."""

from transformers import AutoConfig, AutoModel

from .configuration_hierarchical_kmeans import HierarchicalKMeansConfig
from .modeling_hierarchical_kmeans import HierarchicalKMeansModel


AutoConfig.register(HierarchicalKMeansConfig.model_type, HierarchicalKMeansConfig, exist_ok=True)
AutoModel.register(HierarchicalKMeansConfig, HierarchicalKMeansModel, exist_ok=True)

__all__ = ["HierarchicalKMeansConfig", "HierarchicalKMeansModel"]
