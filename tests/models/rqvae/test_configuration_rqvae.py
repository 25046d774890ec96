# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""RQVAEConfig: defaults by objective, round trip, and refusals that name the field."""

import pytest
from huggingface_hub.errors import StrictDataclassError

from forge_hf.models.rqvae import RQVAEConfig


def test_loss_weights_default_to_the_papers():
    tiger, forge = RQVAEConfig(), RQVAEConfig(quantization_loss="cumulative")
    assert (tiger.codebook_loss_weight, tiger.commitment_loss_weight) == (1.0, 0.25)
    assert (forge.codebook_loss_weight, forge.commitment_loss_weight) == (0.5, 0.5)
    assert RQVAEConfig(quantization_loss="cumulative", commitment_loss_weight=0).commitment_loss_weight == 0


def test_round_trip(tmp_path):
    config = RQVAEConfig(
        input_dim=8, hidden_sizes=(4, 3), codebook_sizes=[5, 7], training_assignment=["nearest", "sinkhorn"]
    )
    config.save_pretrained(tmp_path)
    loaded = RQVAEConfig.from_pretrained(tmp_path)
    assert list(loaded.hidden_sizes) == [4, 3]
    assert list(loaded.codebook_sizes) == [5, 7]
    assert loaded.level_assignments == ["nearest", "sinkhorn"]
    assert loaded.num_levels == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_dim", 0),
        ("codebook_dim", -1),
        ("hidden_sizes", [16, 0]),
        ("codebook_sizes", []),
        ("codebook_sizes", [16, 1]),
        ("hidden_act", "reluu"),
        ("dropout", 1.0),
        ("dropout", float("nan")),
        ("ema_decay", 1.0),
        ("ema_epsilon", 0.0),
        ("sinkhorn_epsilon", -0.1),
        ("sinkhorn_iterations", 0),
        ("initializer_range", float("nan")),
        ("codebook_loss_weight", -1.0),
        ("commitment_loss_weight", float("nan")),
        ("dead_code_threshold", 1.0),
        ("training_assignment", "greedy"),
        ("training_assignment", ["nearest", "sinkhorn"]),
    ],
)
def test_values_out_of_range(field, value):
    with pytest.raises(StrictDataclassError, match=f"`{field}`.*{'nan' if value != value else ''}"):
        RQVAEConfig(**{field: value})


def test_fields_that_do_not_go_together():
    with pytest.raises(StrictDataclassError, match="`residual_encoder` needs `codebook_dim` to be `input_dim`, 768"):
        RQVAEConfig(residual_encoder=True)
    with pytest.raises(StrictDataclassError, match="`dead_code_threshold` must be 0"):
        RQVAEConfig(codebook_update="simvq", dead_code_threshold=0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_dim", "768"),
        ("codebook_sizes", 256),
        ("codebook_sizes", ["256"]),
        ("quantization_loss", "tiger"),
        ("reconstruction_loss", "huber"),
        ("gradient_estimator", "gumbel"),
        ("codebook_update", "none"),
        ("input_normalization", "l2"),
    ],
)
def test_wrong_types_and_choices(field, value):
    with pytest.raises(StrictDataclassError, match=field):
        RQVAEConfig(**{field: value})


def test_assignment_is_validated_too():
    config = RQVAEConfig()
    with pytest.raises(StrictDataclassError, match="codebook_dim"):
        config.codebook_dim = "32"
