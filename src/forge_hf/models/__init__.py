# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Item tokenizers: embeddings in, codes out. Each is a `PreTrainedModel` with `encode`, `decode` and `forward`.

They know nothing of item ids, catalogs or tokens.
"""

from .fsq import FiniteScalarQuantizer, FSQConfig, FSQModel, FSQOutput
from .opq import OPQConfig, OPQModel
from .residual_kmeans_fsq import ResidualKMeansFSQConfig, ResidualKMeansFSQModel
from .rqvae import RQVAEConfig, RQVAEEncoderOutput, RQVAEModel, RQVAEOutput, RQVAEPreTrainedModel


__all__ = [
    "FSQConfig",
    "FSQModel",
    "FSQOutput",
    "FiniteScalarQuantizer",
    "OPQConfig",
    "OPQModel",
    "RQVAEConfig",
    "RQVAEEncoderOutput",
    "RQVAEModel",
    "RQVAEOutput",
    "RQVAEPreTrainedModel",
    "ResidualKMeansFSQConfig",
    "ResidualKMeansFSQModel",
]
