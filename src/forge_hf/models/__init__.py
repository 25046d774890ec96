# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Item tokenizers: embeddings in, codes out. Each is a `PreTrainedModel` with `encode`, `decode` and `forward`.

They know nothing of item ids, catalogs or tokens.
"""

from .rqvae import RQVAEConfig, RQVAEContrastiveLoss, RQVAEEncoderOutput, RQVAEModel, RQVAEOutput, RQVAEPreTrainedModel


__all__ = [
    "RQVAEConfig",
    "RQVAEContrastiveLoss",
    "RQVAEEncoderOutput",
    "RQVAEModel",
    "RQVAEOutput",
    "RQVAEPreTrainedModel",
]
