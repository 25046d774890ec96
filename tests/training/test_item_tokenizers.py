# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Presets against the published numbers, the schedule against FORGE's, FORGE's weights against its codes in numpy."""

import math

import numpy as np
import pytest
import torch

from forge_hf.data import ItemEmbeddings, ItemPairs
from forge_hf.models import DASModel, FSQModel, LetterModel, VQVAEModel
from forge_hf.training import RQVAETrainer, convert_forge_weights, create_item_tokenizer, item_tokenizer_arguments


def test_forge_is_its_configuration():
    model = create_item_tokenizer("forge")
    shapes = [tuple(layer.weight.shape[::-1]) for side in (model.encoder, model.decoder) for layer in side.layers]
    assert shapes == [(512, 256), (256, 256), (256, 64), (64, 256), (256, 256), (256, 512)]
    assert [tuple(model.get_codebook(level).shape) for level in range(3)] == [(8192, 64)] * 3
    config = model.config
    assert config.level_assignments == ["sinkhorn"] * 3
    assert (config.sinkhorn_epsilon, config.sinkhorn_iterations) == (0.1, 5)
    assert (config.codebook_loss_weight, config.commitment_loss_weight, config.contrastive_loss_weight) == (
        0.5,
        0.5,
        1,
    )
    assert (config.quantization_loss, config.reconstruction_loss, config.hidden_act) == ("cumulative", "mse", "relu")
    assert (config.codebook_update, config.dropout, config.dead_code_threshold) == ("gradient", 0, 0)
    assert (config.gradient_estimator, config.input_normalization) == ("straight_through", "none")
    bound = math.sqrt(6 / 64)  # of torch.nn.init.kaiming_uniform_
    assert model.get_codebook(0).std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_tiger_is_its_configuration():
    config = create_item_tokenizer("tiger").config
    assert (config.input_dim, config.hidden_sizes, config.codebook_dim) == (768, [512, 256, 128], 32)
    assert (config.codebook_sizes, config.commitment_loss_weight) == ([256, 256, 256], 0.25)


def test_letter_is_the_configuration_of_its_code(tmp_path):
    model = create_item_tokenizer("letter", input_dim=16, collaborative_dim=8)
    config = model.config
    assert type(model) is LetterModel and model.takes_tables == {"collaborative": 8}
    assert config.hidden_sizes == [2048, 1024, 512, 256, 128, 64] and config.codebook_dim == 32
    assert list(config.codebook_sizes) == [256] * 4 and config.diversity_num_clusters == 10
    args = item_tokenizer_arguments("letter", tmp_path)
    assert (args.learning_rate, args.weight_decay, args.per_device_train_batch_size) == (1e-3, 1e-4, 1024)


def test_overrides_and_wrong_names(tmp_path):
    model = create_item_tokenizer("forge", input_dim=12, codebook_sizes=[4, 4], contrastive_loss_weight=0)
    assert model.encode(torch.randn(3, 12)).codes.shape == (3, 2) and not hasattr(model, "contrastive_loss")
    assert item_tokenizer_arguments("forge", tmp_path, learning_rate=1e-3, use_cpu=True).learning_rate == 1e-3
    model = create_item_tokenizer("mmq", modality_dims=[7, 5], codebook_sizes=[4] * 6)
    assert model.encode(torch.randn(3, 12)).codes.shape == (3, 6) and model.config.codebook_update == "ema"
    for make in (create_item_tokenizer, lambda name: item_tokenizer_arguments(name, tmp_path)):
        with pytest.raises(ValueError, match=r"one of \['das', 'forge', .*, 'vqvae'\], but is 'forg'"):
            make("forg")
    with pytest.raises(ValueError, match=r"\['codebok_dim'\], which RQVAEConfig doesn't know"):
        create_item_tokenizer("tiger", codebok_dim=3)


def test_presets_of_other_classes(tmp_path):
    sizes = {"input_dim": 12, "hidden_sizes": [8], "codebook_sizes": [4, 4]}
    assert type(create_item_tokenizer("das", **sizes)) is DASModel
    assert type(create_item_tokenizer("fsq", input_dim=12)) is FSQModel
    model = create_item_tokenizer("vqvae", **sizes, codebook_form="product")
    assert type(model) is VQVAEModel and model.encode(torch.randn(3, 12)).codes.shape == (3, 2)
    model = create_item_tokenizer("rqkmeans_plus", **sizes)
    rows = torch.randn(3, 12)
    torch.testing.assert_close(model.encode(rows).latents, rows)  # the encoder starts as the identity
    assert item_tokenizer_arguments("rqkmeans_plus", tmp_path, use_cpu=True).learning_rate == 1e-4


def test_forge_trains_by_its_schedule(tmp_path):
    items = ItemEmbeddings(torch.nn.functional.normalize(torch.randn(40, 12), dim=-1))
    pairs = ItemPairs.from_rows(items, torch.arange(40).reshape(20, 2))
    model = create_item_tokenizer("forge", input_dim=12, hidden_sizes=[8, 8], codebook_dim=4, codebook_sizes=[5, 5])
    args = item_tokenizer_arguments(
        "forge", tmp_path, per_device_train_batch_size=10, num_train_epochs=15, logging_steps=1, save_strategy="no",
        use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    preset = item_tokenizer_arguments("forge", tmp_path, use_cpu=True)
    assert (preset.per_device_train_batch_size, preset.num_train_epochs) == (2048, 150)
    assert (args.weight_decay, args.adam_beta1, args.adam_beta2, args.adam_epsilon) == (1e-4, 0.9, 0.999, 1e-8)
    assert args.optim.value.startswith("adamw") and args.max_grad_norm == 0 and not args.kmeans_init
    trainer = RQVAETrainer(model, args, train_dataset=items, pairs=pairs)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    expected = []
    for step in range(90):
        epoch = step / 6 * 10  # in FORGE's 150 epochs, of which 40 warm up
        cosine = 0.5 * (1 + math.cos(math.pi * (epoch - 40) / 110))
        expected.append(2e-3 * epoch / 40 if epoch < 40 else 1e-7 + (2e-3 - 1e-7) * cosine)
    assert rates == pytest.approx(expected, rel=1e-6)


def forge_weights(sizes=(20, 12, 8, 6), codes=(9, 7)):
    """Random weights under the names of FORGE's modules."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for side, widths in (("encoder", sizes), ("decoder", sizes[::-1])):
        for name, width, out in zip(("fc1", "fc3", "fc2"), widths, widths[1:], strict=False):
            weights[f"rq_model.{side}.{side}.{name}.weight"] = (
                torch.randn(out, width, generator=generator) / width**0.5
            )
            weights[f"rq_model.{side}.{side}.{name}.bias"] = torch.randn(out, generator=generator)
    for level, size in enumerate(codes):
        table = torch.randn(size + 1, sizes[-1], generator=generator)
        table[-1] = 0  # for padding: the nearest code of many an item, if it were one
        weights[f"rq_model.quantizer.codebooks.{level}.weight"] = table
    weights |= {"rq_model.quantizer.initted": torch.zeros(1), "rq_model.bn.weight": torch.ones(6)}
    scales = {"logit_scale_self": 1.5, "logit_scale": 2.5, "logit_scale_cl": 3.5}
    return weights | {name: torch.tensor(value) for name, value in scales.items()}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_forge_weights_give_forge_codes(prefix, tmp_path):
    weights = forge_weights()
    model = convert_forge_weights({prefix + name: tensor for name, tensor in weights.items()})
    arrays = {name: tensor.double().numpy() for name, tensor in weights.items()}
    rows = torch.randn(200, 20, generator=torch.Generator().manual_seed(1))

    def mlp(side, hidden):
        for name in ("fc1", "fc3", "fc2"):
            hidden = np.maximum(hidden, 0) if name != "fc1" else hidden
            key = f"rq_model.{side}.{side}.{name}"
            hidden = hidden @ arrays[f"{key}.weight"].T + arrays[f"{key}.bias"]
        return hidden

    residual, codes, quantized = mlp("encoder", rows.double().numpy()), [], 0
    for level in range(2):
        table = arrays[f"rq_model.quantizer.codebooks.{level}.weight"][:-1]
        codes.append(((residual[:, None] - table) ** 2).sum(-1).argmin(1))
        quantized = quantized + table[codes[-1]]
        residual = residual - table[codes[-1]]
    assert np.array_equal(model.encode(rows).codes.numpy(), np.stack(codes, axis=1))
    decoded = model.decode(model.encode(rows).codes).detach().numpy()
    np.testing.assert_allclose(decoded, mlp("decoder", quantized), rtol=1e-4, atol=1e-5)
    assert [scale.item() for scale in model.contrastive_loss.logit_scales] == [1.5, 2.5, 3.5]
    assert model.is_initialized and model.config.input_normalization == "none"
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path).encode(rows).codes, model.encode(rows).codes)


def test_other_weights_are_refused():
    weights = forge_weights()
    with pytest.raises(ValueError, match="lacks rq_model.encoder.encoder.fc1.weight"):
        convert_forge_weights({"weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="lacks codebooks"):
        convert_forge_weights({name: tensor for name, tensor in weights.items() if "codebooks" not in name})
