# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Item tokenizers: embeddings in, codes out. Each is a `PreTrainedModel` with `encode`, `decode` and `forward`.

They know nothing of item ids, catalogs or tokens.
"""

from .das import DASConfig, DASModel, DASOutput
from .encoding import encode_items
from .fsq import FiniteScalarQuantizer, FSQConfig, FSQModel, FSQOutput
from .hierarchical_kmeans import HierarchicalKMeansConfig, HierarchicalKMeansModel
from .letter import LetterConfig, LetterModel, LetterOutput
from .lsh import LSHConfig, LSHModel
from .mmq import MMQConfig, MMQModel, MMQOutput, MMQSoftEncoderOutput
from .opq import OPQConfig, OPQModel
from .random_ids import RandomIdsConfig, RandomIdsModel
from .residual_kmeans import ResidualKMeansConfig, ResidualKMeansModel
from .residual_kmeans_fsq import ResidualKMeansFSQConfig, ResidualKMeansFSQModel
from .rqvae import RQVAEConfig, RQVAEContrastiveLoss, RQVAEEncoderOutput, RQVAEModel, RQVAEOutput, RQVAEPreTrainedModel
from .rqvae.modeling_item_tokenizer import ItemTokenizerOutput, ItemTokenizerPreTrainedModel
from .rqvae.modeling_neural_item_tokenizer import NeuralItemTokenizerModel
from .vqvae import VQVAEConfig, VQVAEModel


__all__ = [
    "DASConfig",
    "DASModel",
    "DASOutput",
    "FSQConfig",
    "FSQModel",
    "FSQOutput",
    "FiniteScalarQuantizer",
    "HierarchicalKMeansConfig",
    "HierarchicalKMeansModel",
    "ItemTokenizerOutput",
    "ItemTokenizerPreTrainedModel",
    "LSHConfig",
    "LSHModel",
    "LetterConfig",
    "LetterModel",
    "LetterOutput",
    "MMQConfig",
    "MMQModel",
    "MMQOutput",
    "MMQSoftEncoderOutput",
    "NeuralItemTokenizerModel",
    "OPQConfig",
    "OPQModel",
    "RQVAEConfig",
    "RQVAEContrastiveLoss",
    "RQVAEEncoderOutput",
    "RQVAEModel",
    "RQVAEOutput",
    "RQVAEPreTrainedModel",
    "RandomIdsConfig",
    "RandomIdsModel",
    "ResidualKMeansConfig",
    "ResidualKMeansFSQConfig",
    "ResidualKMeansFSQModel",
    "ResidualKMeansModel",
    "VQVAEConfig",
    "VQVAEModel",
    "encode_items",
]
