# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""DASModel: every view against its formula, masks, where gradients go, users' codes, what training does."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from forge_hf.hub import read_folder, render_card
from forge_hf.models import DASConfig, DASModel, RQVAEModel

from ..modeling_common import ItemTokenizerTesterMixin


SIZES = {
    "input_dim": 12, "hidden_sizes": [10, 8], "codebook_dim": 6, "codebook_sizes": [9, 7, 5], "user_input_dim": 8,
    "user_hidden_sizes": [9], "user_codebook_sizes": [6, 4], "initializer_range": 0.5,
}  # fmt: skip
VIEWS = ["u2i_loss", "i2i_loss", "u2u_loss", "co_i2i_loss", "co_u2u_loss"]


def tiny_model(**kwargs):
    torch.manual_seed(0)
    weights = dict.fromkeys([f"{name}_weight" for name in VIEWS], 1.0)
    return DASModel(DASConfig(**SIZES | weights | kwargs))


def rows(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_batch(size=30, dim=6, seed=0):
    """Interactions in which users and items occur again, and some have no other item or user."""
    generator = torch.Generator().manual_seed(seed)
    item_vectors, user_vectors = rows(8, dim, seed=1), rows(10, dim, seed=2)
    item_rows = torch.stack([torch.randint(8, (size,), generator=generator) for _ in range(2)], dim=1)
    user_rows = torch.stack([torch.randint(10, (size,), generator=generator) for _ in range(2)], dim=1)
    item_rows[::7, 1] = user_rows[::5, 1] = -1
    return {
        "embeddings": rows(8, 12, seed=4)[item_rows[:, 0]],
        "user_embeddings": rows(10, 8, seed=5)[user_rows[:, 0]],
        "item_collaborative": item_vectors[item_rows],
        "user_collaborative": user_vectors[user_rows],
        "item_rows": item_rows,
        "user_rows": user_rows,
    }


class TestDASModel(ItemTokenizerTesterMixin):
    model_class = DASModel

    def get_config(self):
        return DASConfig(**SIZES, collaborative_dim=4, dropout=0.3)


class TestDASModelOfUsers(ItemTokenizerTesterMixin):
    """Its users' side alone, as a model."""

    model_class = RQVAEModel

    def get_config(self):
        return DASConfig(**SIZES, codebook_update="ema").user_config


# -- formulas


def plain_alignment(queries, keys, query_rows, key_rows, temperature, same_kind):
    total = 0.0
    for i in range(len(queries)):
        if key_rows[i] < 0:
            continue

        def score(j, i=i):
            return math.exp(torch.cosine_similarity(queries[i], keys[j], dim=0) / temperature)

        normalizer = score(i)
        for j in range(len(keys)):
            positive = key_rows[j] == key_rows[i] or query_rows[j] == query_rows[i]
            itself = same_kind and key_rows[j] == query_rows[i]
            if j != i and key_rows[j] >= 0 and not positive and not itself:
                normalizer += score(j)
        total -= math.log(score(i) / normalizer)
    return total / len(queries)


@pytest.mark.parametrize(("dim", "training"), [(6, True), (4, False)])
def test_losses_equal_their_formulas(dim, training):
    model = tiny_model(collaborative_dim=dim, temperature=0.5).train(training)
    batch = make_batch(dim=dim)
    output = model(**batch)
    items, users = (model.projection(batch[f"{kind}_collaborative"]).detach().double() for kind in ("item", "user"))
    codes = model.user_tokenizer(batch["user_embeddings"]).codes
    user = sum(model.user_tokenizer.get_codebook(level)[codes[:, level]] for level in range(2)).double()
    item = sum(model.get_codebook(level)[output.codes[:, level]] for level in range(3)).double()
    (i, co_i), (u, co_u) = batch["item_rows"].T.tolist(), batch["user_rows"].T.tolist()
    expected = {
        "i2i_loss": plain_alignment(item, items[:, 0], i, i, 0.5, True),
        "u2u_loss": plain_alignment(user, users[:, 0], u, u, 0.5, True),
        "co_i2i_loss": plain_alignment(item, items[:, 1], i, co_i, 0.5, True),
        "co_u2u_loss": plain_alignment(user, users[:, 1], u, co_u, 0.5, True),
    }
    both = plain_alignment(user, items[:, 0], u, i, 0.5, False), plain_alignment(item, users[:, 0], i, u, 0.5, False)
    expected["u2i_loss"] = sum(both) / 2
    for name, value in expected.items():
        assert output[name].item() == pytest.approx(value, rel=1e-4), name
    alone = model.user_tokenizer(batch["user_embeddings"])
    torch.testing.assert_close(output.user_loss, alone.loss)
    items_alone = model(batch["embeddings"])
    total = items_alone.loss + alone.loss + sum(output[name] for name in VIEWS)
    torch.testing.assert_close(output.loss, total)
    assert not any(name in items_alone for name in [*VIEWS, "user_loss"])


def test_weights_are_each_its_own():
    batch = make_batch()
    full = tiny_model()(**batch)
    for name in VIEWS:
        output = tiny_model(**{f"{name}_weight": 0})(**batch)
        assert name not in output
        torch.testing.assert_close(full.loss - output.loss, full[name])
        twice = tiny_model(**{f"{name}_weight": 2.0})(**batch)
        torch.testing.assert_close(twice.loss - full.loss, full[name])


def test_a_batch_of_one_user_has_no_negatives():
    batch = make_batch(6)
    batch["user_rows"][:, 0] = 3
    batch["item_rows"][:] = 2
    output = tiny_model(co_u2u_loss_weight=0)(**batch)
    assert all(output[name].abs() < 1e-6 for name in VIEWS if name in output)


def test_where_gradients_go():
    model, batch = tiny_model(collaborative_dim=4).train(), make_batch(dim=4)
    constants = [batch[f"{kind}_collaborative"].requires_grad_() for kind in ("item", "user")]
    item_side, user_side = {"encoder"}, {"user_tokenizer"}
    sides = {"i2i_loss": item_side, "co_i2i_loss": item_side, "u2u_loss": user_side, "co_u2u_loss": user_side}
    for name in VIEWS:
        model.zero_grad()
        model(**batch)[name].backward()
        moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        expected = sides.get(name, item_side | user_side) | {"projection"}
        assert {n.split(".")[0] for n in moved} == expected
        assert not any("quantizer" in n or "decoder" in n for n in moved)  # codes follow the latents alone
    assert all(vectors.grad is None for vectors in constants)
    model.zero_grad()
    model(**batch).loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


# -- codes


def test_codes_are_those_of_two_rqvaes():
    model = tiny_model(collaborative_dim=4)
    items, users = RQVAEModel(DASConfig(**SIZES)), RQVAEModel(model.config.user_config)
    assert not items.load_state_dict(model.state_dict(), strict=False).missing_keys
    users.load_state_dict(model.user_tokenizer.state_dict())
    assert torch.equal(model.encode(rows(50, 12)).codes, items.encode(rows(50, 12)).codes)
    codes = model.encode_users(rows(50, 8)).codes
    assert codes.shape == (50, 2) and torch.equal(codes, users.encode(rows(50, 8)).codes)
    assert torch.equal(model.decode_users(codes), users.decode(codes))
    with pytest.raises(ValueError, match=r"\(batch_size, 8\)"):
        model.encode_users(rows(5, 12))


def test_save_load_keeps_users(tmp_path):
    model = tiny_model(dead_code_threshold=0.2).train()
    model(**make_batch())
    model.save_pretrained(tmp_path)
    loaded = DASModel.from_pretrained(tmp_path, dtype="bfloat16")
    assert torch.equal(loaded.encode_users(rows(50, 8)).codes, model.encode_users(rows(50, 8)).codes)
    assert not list(tmp_path.glob("*.py"))
    card = render_card(read_folder(tmp_path), "me/model")
    assert "DAS" in card and "import forge_hf" in card


def test_user_sizes_default_to_those_of_items():
    config = DASConfig(input_dim=10, hidden_sizes=[4], codebook_sizes=[5, 3], codebook_update="ema", dropout=0.1)
    user = config.user_config
    assert (user.input_dim, user.hidden_sizes, user.codebook_sizes) == (10, [4], [5, 3])
    assert (user.codebook_update, user.dropout) == ("ema", 0.1)
    assert DASConfig(codebook_dim=16).collaborative_dim == 16


def test_default_weights_go_with_the_reduction():
    for kind, expected in (("per_level", 0.2 * 12), ("cumulative", 0.2)):
        config = DASConfig(**SIZES, quantization_loss=kind, i2i_loss_weight=0)
        weights = [getattr(config, f"{name}_weight") for name in VIEWS]
        assert weights == pytest.approx([expected, 0, expected, expected, expected])


# -- refusals


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"u2i_loss_weight": -1}, "`u2i_loss_weight` must be finite and not negative"),
        ({"user_loss_weight": float("inf")}, "`user_loss_weight` must be finite and not negative"),
        ({"temperature": 0}, "`temperature` must be positive"),
        ({"collaborative_dim": 0}, "`collaborative_dim` must be at least 1"),
        ({"contrastive_loss_weight": 1.0}, "`contrastive_loss_weight` must be 0"),
        ({"user_codebook_sizes": [1]}, r"(?s)The users' RQ-VAE .*`codebook_sizes` must give at least 2"),
        ({"user_input_dim": 0}, "`user_input_dim`"),
    ],
)
def test_bad_configs(kwargs, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        DASConfig(**SIZES | kwargs)


def test_bad_interactions():
    model, batch = tiny_model(), make_batch()
    for name in set(batch) - {"embeddings"}:
        with pytest.raises(ValueError, match=f"`{name}` must have shape .* but is missing"):
            model(**{key: value for key, value in batch.items() if key != name})
        with pytest.raises(ValueError, match=f"`{name}` must have shape .* but has shape"):
            model(**batch | {name: batch[name][1:]})
