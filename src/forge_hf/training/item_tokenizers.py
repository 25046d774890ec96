# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Item tokenizers as published: their sizes, how they are trained, and FORGE's own weights."""

import re
from collections.abc import Mapping
from dataclasses import fields
from os import PathLike
from typing import Any

import torch

from ..models import DASModel, FSQModel, LetterModel, MMQModel, NeuralItemTokenizerModel, RQVAEModel, VQVAEModel
from .rqvae_trainer import RQVAETrainingArguments


__all__ = ["ITEM_TOKENIZER_PRESETS", "convert_forge_weights", "create_item_tokenizer", "item_tokenizer_arguments"]

# Fields of the config ("model") and of `RQVAETrainingArguments` ("training") that aren't at their defaults, and the
# class, where it isn't `RQVAEModel`.
ITEM_TOKENIZER_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # TIGER, section 4 of https://huggingface.co/papers/2305.05065, for embeddings of Sentence-T5.
    "tiger": {"model": {"codebook_dim": 32, "codebook_sizes": [256, 256, 256], "hidden_sizes": [512, 256, 128]}},
    # FORGE, SID_generation/configs/rqvae_i2v.yml of https://github.com/selous123/al_sid.
    "forge": {
        "model": {
            "input_dim": 512,
            "hidden_sizes": [256, 256],
            "codebook_dim": 64,
            "codebook_sizes": [8192, 8192, 8192],
            "input_normalization": "none",
            "quantization_loss": "cumulative",
            "contrastive_loss_weight": 1.0,
            "training_assignment": "sinkhorn",
            "sinkhorn_epsilon": 0.1,
            "sinkhorn_iterations": 5,
            "initializer_range": (2 / 64) ** 0.5,  # of a Kaiming uniform initialization of 64 dimensions
        },
        "training": {
            "learning_rate": 2e-3,
            "weight_decay": 1e-4,
            "max_grad_norm": 0.0,
            "per_device_train_batch_size": 2048,
            "dataloader_drop_last": True,
            "num_train_epochs": 150,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr": 1e-7},
            "warmup_steps": 40 / 150,  # 40 epochs
            "kmeans_init": False,
        },
    },
    # LETTER, RQ-VAE/main.py of https://github.com/HonghuiBao2000/LETTER.
    "letter": {
        "class": LetterModel,
        "model": {"codebook_dim": 32, "hidden_sizes": [2048, 1024, 512, 256, 128, 64]},
        "training": {"weight_decay": 1e-4, "lr_scheduler_type": "constant", "warmup_steps": 0},
    },
    # MMQ, https://huggingface.co/papers/2508.15281, with codes by moving averages, of which none falls out of use.
    "mmq": {"class": MMQModel, "model": {"codebook_update": "ema", "dead_code_threshold": 0.25}},
    # DAS, https://huggingface.co/papers/2508.10584
    "das": {"class": DASModel, "model": {"codebook_update": "ema", "dead_code_threshold": 0.25}},
    # RQ-KMeans+, rq/rqkmeans_plus.py of https://github.com/AkaliKong/MiniOneRec, with codes by moving averages.
    "rqkmeans_plus": {
        "model": {
            "residual_encoder": True,
            "codebook_sizes": [256, 256, 256],
            "codebook_update": "ema",
            "dead_code_threshold": 0.25,
        },
        "training": {"learning_rate": 1e-4},
    },
    # One flat codebook, where no code falls out of use.
    "vqvae": {
        "class": VQVAEModel,
        "model": {"codebook_sizes": [8192], "codebook_update": "ema", "dead_code_threshold": 0.25},
    },
    # Three codes of 8 x 6 x 5 values.
    "fsq": {"class": FSQModel, "model": {}},
}


def create_item_tokenizer(name: str, **config_overrides: Any) -> NeuralItemTokenizerModel:
    """
    Makes an item tokenizer of published sizes and objective, with random weights.

    Args:
        name (`str`):
            `"tiger"`, or `"forge"` for the configuration `rqvae_i2v` of FORGE: 512 → 256 → 256 → 64, three levels of
            8192 codes, the cumulative quantization loss, a Sinkhorn assignment in training and the contrastive loss,
            for which [`RQVAETrainer`] needs `pairs` (without pairs, set `contrastive_loss_weight=0`). Or `"letter"`, a
            [`LetterModel`], for which the items need a table of collaborative vectors; LETTER also balances the last
            level: `training_assignment=["nearest", "nearest", "nearest", "sinkhorn"]`. Or `"mmq"`, an [`MMQModel`] of
            two shared experts and two for each of `modality_dims`; `"das"`, a [`DASModel`], for which [`RQVAETrainer`]
            needs [`UserItemPairs`]; `"rqkmeans_plus"`, an RQ-VAE that starts as a residual k-means, whose
            `codebook_dim` is `input_dim`; `"vqvae"`, a [`VQVAEModel`] of one codebook; or `"fsq"`, an [`FSQModel`].
            What is fitted without a trainer, such as [`ResidualKMeansModel`], is made from its config.
        config_overrides (*optional*):
            Fields of the config to set, such as `input_dim`.

    Returns:
        [`RQVAEModel`], or the class that is named above.

    Raises:
        `ValueError`: There is no such preset, or the config has no such field.

    Example:

    ```python
    >>> from forge_hf.training import create_item_tokenizer

    >>> model = create_item_tokenizer("forge", input_dim=384)
    >>> model.config.hidden_sizes, model.config.codebook_sizes
    ([256, 256], [8192, 8192, 8192])
    ```
    """
    model_class = _preset(name).get("class", RQVAEModel)
    config = _preset(name)["model"] | config_overrides
    if config.get("residual_encoder") and "input_dim" in config:
        config.setdefault("codebook_dim", config["input_dim"])
    known = {field.name for field in fields(model_class.config_class)}
    if unknown := sorted(set(config) - known):  # which a config would take, and ignore
        raise ValueError(f"`config_overrides` have {unknown}, which {model_class.config_class.__name__} doesn't know.")
    return model_class(model_class.config_class(**config))


def item_tokenizer_arguments(name: str, output_dir: str | PathLike, **overrides: Any) -> RQVAETrainingArguments:
    """
    How an item tokenizer of [`create_item_tokenizer`] is trained.

    Of `"forge"`, the optimizer, the schedule of the learning rate and the batch (2048 on each process) are FORGE's.
    The linear layers are initialized otherwise, and codes from a normal distribution of FORGE's deviation. Of
    `"tiger"`, which was trained with Adagrad, these are the defaults of [`RQVAETrainingArguments`]. Of `"letter"`,
    these are LETTER's but for the number of epochs, 20,000.

    Args:
        name (`str`):
            As in [`create_item_tokenizer`].
        output_dir (`str` or `os.PathLike`):
            Folder of checkpoints.
        overrides (*optional*):
            Further arguments of [`RQVAETrainingArguments`], which go before the preset's.

    Returns:
        [`RQVAETrainingArguments`]
    """
    return RQVAETrainingArguments(str(output_dir), **_preset(name).get("training", {}) | overrides)


def _preset(name: str) -> dict[str, dict[str, Any]]:
    if name not in ITEM_TOKENIZER_PRESETS:
        raise ValueError(f"`name` must be one of {sorted(ITEM_TOKENIZER_PRESETS)}, but is {name!r}.")
    return ITEM_TOKENIZER_PRESETS[name]


def convert_forge_weights(state_dict: Mapping[str, torch.Tensor]) -> RQVAEModel:
    """
    Makes an [`RQVAEModel`] that gives the codes of FORGE's own model.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`):
            FORGE's weights, the entry `"model"` of a checkpoint that its `train.py` writes:
            `torch.load("checkpoint-149.pth", map_location="cpu", weights_only=True)["model"]`.

    Returns:
        [`RQVAEModel`] of the preset `"forge"` with the sizes of the weights.

    Raises:
        `ValueError`: if these are the weights of another model.
    """
    weights = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    prefix, layers = "rq_model.", {"fc1": 0, "fc3": 1, "fc2": 2}
    renamed = {
        f"{side}.layers.{layer}.{kind}": f"{prefix}{side}.{side}.{name}.{kind}"
        for side in ("encoder", "decoder")
        for name, layer in layers.items()
        for kind in ("weight", "bias")
    }
    # In RQVAEContrastiveLoss: self, original, cross.
    scales = {"self": "logit_scale_self", "original": "logit_scale", "cross": "logit_scale_cl"}
    renamed |= {f"contrastive_loss.logit_scale_{term}": name for term, name in scales.items()}
    codebook = re.compile(re.escape(prefix) + r"quantizer\.codebooks\.(\d+)\.weight")
    levels = sum(codebook.fullmatch(name) is not None for name in weights)
    codebooks = [f"{prefix}quantizer.codebooks.{level}.weight" for level in range(levels)]
    missing = [name for name in (*renamed.values(), *codebooks) if name not in weights]
    if missing or not codebooks:
        raise ValueError(f"`state_dict` isn't of FORGE's RQ-VAE: it lacks {', '.join(missing[:3] or ['codebooks'])}.")
    flat = [name for name in (*renamed.values(), *codebooks) if name.endswith("weight") and weights[name].ndim != 2]
    if flat:
        raise ValueError(f"`state_dict` isn't of FORGE's RQ-VAE: {flat[0]} has shape {tuple(weights[flat[0]].shape)}.")
    encoder = [weights[renamed[f"encoder.layers.{layer}.weight"]] for layer in range(3)]
    model = create_item_tokenizer(
        "forge",
        input_dim=encoder[0].shape[1],
        hidden_sizes=[encoder[0].shape[0], encoder[1].shape[0]],
        codebook_dim=encoder[2].shape[0],
        codebook_sizes=[len(weights[name]) - 1 for name in codebooks],
    )
    state = model.state_dict()
    for ours, theirs in renamed.items():
        if weights[theirs].shape != state[ours].shape or not weights[theirs].isfinite().all():
            raise ValueError(
                f"`state_dict` must have finite weights of shape {tuple(state[ours].shape)} in {theirs}, got "
                f"{tuple(weights[theirs].shape)}."
            )
    model.load_state_dict({ours: weights[theirs] for ours, theirs in renamed.items()}, strict=False)
    for level, name in enumerate(codebooks):
        model.set_codebook(level, weights[name][:-1])  # the last row is for padding, and never a code
    return model.eval()
