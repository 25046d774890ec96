# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
# fmt: off
# ruff: noqa: E501
"""forge_hf.models: configs out of range, embeddings and codes that aren't any, items that can't be fitted."""

import torch
from huggingface_hub.errors import StrictDataclassError

from forge_hf.data import ItemEmbeddings
from forge_hf.errors import DuplicateItemError, InvalidEmbeddingsError
from forge_hf.models import (
    DASConfig,
    DASModel,
    FiniteScalarQuantizer,
    FSQConfig,
    FSQModel,
    HierarchicalKMeansConfig,
    HierarchicalKMeansModel,
    LetterConfig,
    LetterModel,
    LSHConfig,
    LSHModel,
    MMQConfig,
    MMQModel,
    OPQConfig,
    OPQModel,
    RandomIdsConfig,
    RandomIdsModel,
    ResidualKMeansConfig,
    ResidualKMeansFSQConfig,
    ResidualKMeansFSQModel,
    ResidualKMeansModel,
    RQVAEConfig,
    RQVAEModel,
    VQVAEConfig,
    VQVAEModel,
    encode_items,
)

from .world import INF, NAN, TWO_GIB_HEADER, Row, table, truncated


SIZES = {"input_dim": 4, "codebook_sizes": [4, 4]}
NEURAL = {"hidden_sizes": [4], "codebook_dim": 4}
# Each model with the settings of a small one, for what all of them refuse alike.
TRAINED = {
    RQVAEModel: RQVAEConfig(**SIZES, **NEURAL),
    VQVAEModel: VQVAEConfig(**SIZES, **NEURAL),
    FSQModel: FSQConfig(input_dim=4, hidden_sizes=[4], fsq_levels=[[4], [4]]),
    LetterModel: LetterConfig(**SIZES, **NEURAL, diversity_num_clusters=2),
    DASModel: DASConfig(**SIZES, **NEURAL),
    MMQModel: MMQConfig(modality_dims=[2, 2], num_shared_experts=0, num_specific_experts=1, codebook_sizes=[4, 4], **NEURAL),
}
FITTED = {
    ResidualKMeansModel: ResidualKMeansConfig(**SIZES),
    HierarchicalKMeansModel: HierarchicalKMeansConfig(**SIZES),
    LSHModel: LSHConfig(**SIZES),
    OPQModel: OPQConfig(**SIZES),
    RandomIdsModel: RandomIdsConfig(**SIZES),
    ResidualKMeansFSQModel: ResidualKMeansFSQConfig(**SIZES, fsq_levels=[2, 2]),
}


def trained(model):
    return model(TRAINED[model]).eval()


def fitted(model, w):
    return model(FITTED[model]).fit(w.items)


def vectors(w, value):
    return w.vectors_with(value).to_tensor()


ROWS = table(
    # entry point    | bad input              | call                                          | error             | the message names
    ("RQVAEConfig", "width of 0", lambda w: RQVAEConfig(input_dim=0), StrictDataclassError, "`input_dim`"),
    ("RQVAEConfig", "text", lambda w: RQVAEConfig(input_dim="wide"), StrictDataclassError, "input_dim"),
    ("RQVAEConfig", "no levels", lambda w: RQVAEConfig(codebook_sizes=[]), StrictDataclassError, "`codebook_sizes`"),
    ("RQVAEConfig", "a codebook of one", lambda w: RQVAEConfig(codebook_sizes=[4, 1]), StrictDataclassError, "`codebook_sizes`"),
    ("RQVAEConfig", "more than memory", lambda w: RQVAEConfig(codebook_sizes=[2**40]), StrictDataclassError, "`codebook_sizes`"),
    ("RQVAEConfig", "NaN", lambda w: RQVAEConfig(sinkhorn_epsilon=NAN), StrictDataclassError, "`sinkhorn_epsilon`"),
    ("RQVAEConfig", "inf", lambda w: RQVAEConfig(contrastive_loss_weight=INF), StrictDataclassError, "`contrastive_loss_weight`"),
    ("RQVAEConfig", "negative", lambda w: RQVAEConfig(commitment_loss_weight=-1), StrictDataclassError, "`commitment_loss_weight`"),
    ("RQVAEConfig", "an assignment of no kind", lambda w: RQVAEConfig(training_assignment=["nearest", "?"]), StrictDataclassError, "`training_assignment`"),
    ("VQVAEConfig", "chunks that don't fit", lambda w: VQVAEConfig(codebook_dim=5, codebook_sizes=[4, 4]), StrictDataclassError, "`codebook_dim`"),
    ("VQVAEConfig", "a form of no kind", lambda w: VQVAEConfig(codebook_form="sum"), StrictDataclassError, "codebook_form"),
    ("LetterConfig", "negative", lambda w: LetterConfig(diversity_loss_weight=-1), StrictDataclassError, "`diversity_loss_weight`"),
    ("LetterConfig", "NaN", lambda w: LetterConfig(collaborative_loss_weight=NAN), StrictDataclassError, "`collaborative_loss_weight`"),
    ("LetterModel", "vectors of another width", lambda w: trained(LetterModel)(w.vectors, collaborative=torch.ones(len(w.vectors), 5)), ValueError, "`collaborative`"),
    ("DASConfig", "a temperature of 0", lambda w: DASConfig(temperature=0), StrictDataclassError, "`temperature`"),
    ("DASConfig", "NaN", lambda w: DASConfig(u2i_loss_weight=NAN), StrictDataclassError, "`u2i_loss_weight`"),
    ("DASModel.encode_users", "wrong width", lambda w: trained(DASModel).encode_users(torch.ones(2, 5)), ValueError, "(batch_size, 4)"),
    ("MMQConfig", "one modality", lambda w: MMQConfig(modality_dims=[4]), StrictDataclassError, "`modality_dims`"),
    ("MMQConfig", "another width", lambda w: MMQConfig(modality_dims=[4, 4], input_dim=9), StrictDataclassError, "`input_dim`"),
    ("MMQConfig", "other numbers of experts", lambda w: MMQConfig(modality_dims=[2, 2], codebook_sizes=[4]), StrictDataclassError, "`codebook_sizes`"),
    ("encode_items", "no model", lambda w: encode_items("rqvae", w.items, w.output("codes")), TypeError, "`model`"),
    ("encode_items", "no items", lambda w: encode_items(w.rqvae, w.vectors, w.output("codes")), TypeError, "`items`"),
    ("encode_items", "wrong width", lambda w: encode_items(w.rqvae, ItemEmbeddings(torch.ones(2, 5)), w.output("codes")), InvalidEmbeddingsError, "5"),
    ("FSQConfig", "one value", lambda w: FSQConfig(fsq_levels=[[1]]), StrictDataclassError, "`fsq_levels`"),
    ("FSQConfig", "too many codes", lambda w: FSQConfig(fsq_levels=[[2**16, 2**16]]), StrictDataclassError, "`fsq_levels`"),
    ("FSQConfig", "other sizes", lambda w: FSQConfig(fsq_levels=[[4]], codebook_sizes=[5]), StrictDataclassError, "`codebook_sizes`"),
    ("ResidualKMeansConfig", "negative", lambda w: ResidualKMeansConfig(input_dim=-1), StrictDataclassError, "`input_dim`"),
    ("ResidualKMeansConfig", "no list", lambda w: ResidualKMeansConfig(codebook_sizes=256), StrictDataclassError, "codebook_sizes"),
    ("HierarchicalKMeansConfig", "more nodes than codes", lambda w: HierarchicalKMeansConfig(**SIZES, num_nodes=[5, 5]), StrictDataclassError, "`num_nodes`"),
    ("LSHConfig", "no power of 2", lambda w: LSHConfig(codebook_sizes=[6]), StrictDataclassError, "`codebook_sizes`"),
    ("OPQConfig", "levels that don't divide", lambda w: OPQConfig(input_dim=5, codebook_sizes=[4, 4]), StrictDataclassError, "`codebook_sizes`"),
    ("RandomIdsConfig", "too many codes", lambda w: RandomIdsConfig(codebook_sizes=[2**32], input_dim=1), StrictDataclassError, "`codebook_sizes`"),
    ("ResidualKMeansFSQConfig", "another product", lambda w: ResidualKMeansFSQConfig(codebook_sizes=[4, 5], fsq_levels=[2, 2]), StrictDataclassError, "`codebook_sizes`"),
    ("FiniteScalarQuantizer", "one value", lambda w: FiniteScalarQuantizer([[1]]), ValueError, "`groups`"),
    ("FiniteScalarQuantizer", "empty", lambda w: FiniteScalarQuantizer([]), ValueError, "`groups`"),

    ("RQVAEModel", "unfit positives", lambda w: w.rqvae(w.vectors, positives=w.vectors), ValueError, "`positives`"),
    ("RQVAEModel.encode", "too many candidates", lambda w: w.rqvae.encode(w.vectors, num_candidates=5), ValueError, "`num_candidates`"),
    ("RQVAEModel.get_codebook", "a level too high", lambda w: w.rqvae.get_codebook(2), ValueError, "`level`"),
    ("RQVAEModel.set_codebook", "NaN", lambda w: w.rqvae.set_codebook(0, torch.full((4, 4), NAN)), ValueError, "`centroids`"),
    ("RQVAEModel.set_codebook", "wrong width", lambda w: w.rqvae.set_codebook(0, torch.ones(4, 5)), ValueError, "`centroids`"),
    ("RQVAEModel.set_codebook", "a negative level", lambda w: w.rqvae.set_codebook(-1, torch.ones(4, 4)), ValueError, "`level`"),
    ("RQVAEModel.set_input_statistics", "NaN", lambda w: w.rqvae.set_input_statistics(torch.full((4,), NAN), torch.ones(4)), ValueError, "`mean`"),
    ("RQVAEModel.set_input_statistics", "wrong width", lambda w: w.rqvae.set_input_statistics(torch.ones(5), torch.ones(5)), ValueError, "`mean`"),
    ("RQVAEModel.from_pretrained", "truncated safetensors", lambda w: RQVAEModel.from_pretrained(w.copy("rqvae", model__safetensors=truncated)), ValueError, "rqvae"),
    ("RQVAEModel.from_pretrained", "a 2 GiB header", lambda w: RQVAEModel.from_pretrained(w.copy("rqvae", model__safetensors=TWO_GIB_HEADER)), ValueError, "rqvae"),
    ("RQVAEModel.from_pretrained", "no JSON", lambda w: RQVAEModel.from_pretrained(w.copy("rqvae", config__json="{")), OSError, "config.json"),
    ("ResidualKMeansModel.get_codebook", "a level too high", lambda w: w.kmeans.get_codebook(2), ValueError, "`level`"),
    ("ResidualKMeansModel.balanced_codes", "not balanced", lambda w: w.kmeans.balanced_codes(w.items), ValueError, "`balanced=True`"),
    ("ResidualKMeansModel.fit", "fewer items than codes", lambda w: ResidualKMeansModel(ResidualKMeansConfig(input_dim=4, codebook_sizes=[16])).fit(w.items), InvalidEmbeddingsError, "`items`"),
    ("ResidualKMeansModel.fit", "a small sample", lambda w: ResidualKMeansModel(FITTED[ResidualKMeansModel]).fit(w.items, sample_size=2), ValueError, "`sample_size`"),
    ("ResidualKMeansModel.fit", "no iterations", lambda w: ResidualKMeansModel(FITTED[ResidualKMeansModel]).fit(w.items, num_iterations=0), ValueError, "`num_iterations`"),
    ("HierarchicalKMeansModel.fit", "no iterations", lambda w: HierarchicalKMeansModel(FITTED[HierarchicalKMeansModel]).fit(w.items, num_iterations=0), ValueError, "`num_iterations`"),
    ("HierarchicalKMeansModel.decode", "codes that lead nowhere", lambda w: HierarchicalKMeansModel(HierarchicalKMeansConfig(input_dim=4, codebook_sizes=[4, 16])).fit(w.items).decode(torch.tensor([[0, 15]])), ValueError, "`codes`"),
    ("OPQModel.fit", "no rotations", lambda w: OPQModel(FITTED[OPQModel]).fit(w.items, rotation_iterations=0), ValueError, "`rotation_iterations`"),
    ("RandomIdsModel.decode", "codes", lambda w: fitted(RandomIdsModel, w).decode(torch.zeros(1, 2, dtype=torch.int64)), NotImplementedError, "can't decode"),
)
for model in TRAINED:
    ROWS += table(
        (f"{model.__name__}.encode", "NaN", lambda w, m=model: trained(m).encode(vectors(w, NAN)), ValueError, "1 rows have NaN"),
        (f"{model.__name__}.encode", "inf", lambda w, m=model: trained(m).encode(vectors(w, INF)), ValueError, "1 rows have NaN"),
        (f"{model.__name__}.encode", "wrong width", lambda w, m=model: trained(m).encode(torch.ones(2, 5)), ValueError, "`embeddings`"),
        (f"{model.__name__}.encode", "integers", lambda w, m=model: trained(m).encode(torch.ones(2, 4, dtype=torch.int64)), ValueError, "`embeddings`"),
        (model.__name__, "empty", lambda w, m=model: trained(m)(torch.ones(0, 4)), ValueError, "`embeddings`"),
        (model.__name__, "a list", lambda w, m=model: trained(m)([[1.0] * 4]), TypeError, "`embeddings`"),
        (f"{model.__name__}.decode", "too large codes", lambda w, m=model: trained(m).decode(torch.tensor([[0, 4]])), ValueError, "`codes`"),
        (f"{model.__name__}.decode", "floats", lambda w, m=model: trained(m).decode(torch.ones(1, 2)), ValueError, "`codes`"),
    )
for model in FITTED:
    ROWS += table(
        (f"{model.__name__}.fit", "NaN", lambda w, m=model: m(FITTED[m]).fit(w.vectors_with(NAN)), InvalidEmbeddingsError, "1 of 12 rows: 3"),
        (f"{model.__name__}.fit", "inf", lambda w, m=model: m(FITTED[m]).fit(w.vectors_with(INF)), InvalidEmbeddingsError, "1 of 12 rows: 3"),
        (f"{model.__name__}.fit", "empty", lambda w, m=model: m(FITTED[m]).fit(ItemEmbeddings(torch.ones(0, 4))), InvalidEmbeddingsError, "(0, 4)"),
        (f"{model.__name__}.fit", "wrong width", lambda w, m=model: m(FITTED[m]).fit(ItemEmbeddings(torch.ones(12, 5))), InvalidEmbeddingsError, "width 4"),
        (f"{model.__name__}.fit", "a tensor", lambda w, m=model: m(FITTED[m]).fit(w.vectors), TypeError, "`items`"),
        (f"{model.__name__}.fit", "duplicate ids", lambda w, m=model: m(FITTED[m]).fit(ItemEmbeddings(w.vectors, ["a"] * 12)), DuplicateItemError, "`item_ids`"),
        (f"{model.__name__}.fit", "a negative seed", lambda w, m=model: m(FITTED[m]).fit(w.items, seed=-1), ValueError, "`seed`"),
        (f"{model.__name__}.encode", "not fitted", lambda w, m=model: m(FITTED[m]).encode(w.vectors), ValueError, "fit(items)"),
        (f"{model.__name__}.encode", "NaN", lambda w, m=model: fitted(m, w).encode(vectors(w, NAN)), ValueError, "1 rows have NaN"),
        (f"{model.__name__}.encode", "an array", lambda w, m=model: fitted(m, w).encode(w.vectors.numpy()), TypeError, "`embeddings`"),
    )
    if model is not RandomIdsModel:
        ROWS += [
            Row(f"{model.__name__}.decode", "negative codes", lambda w, m=model: fitted(m, w).decode(torch.tensor([[-1, 0]])), ValueError, "`codes`"),
            Row(f"{model.__name__}.decode", "wrong width", lambda w, m=model: fitted(m, w).decode(torch.zeros(1, 3, dtype=torch.int64)), ValueError, "`codes`"),
            Row(f"{model.__name__}.decode", "a list", lambda w, m=model: fitted(m, w).decode([[0, 0]]), TypeError, "`codes`"),
        ]
