# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""LetterModel: both losses against their formulas, where gradients go, groups, what training does."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from forge_hf.hub import read_folder, render_card
from forge_hf.models import LetterConfig, LetterModel, RQVAEConfig, RQVAEModel

from ..modeling_common import ItemTokenizerTesterMixin


SIZES = {"input_dim": 12, "hidden_sizes": [10, 8], "codebook_dim": 6, "codebook_sizes": [9, 7, 5]}
LETTER = {"diversity_num_clusters": 4, "initializer_range": 0.5}


def tiny_model(**kwargs):
    torch.manual_seed(0)
    return LetterModel(LetterConfig(**SIZES | LETTER | kwargs))


def rows(count, dim=12, seed=3):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


class TestLetterModel(ItemTokenizerTesterMixin):
    model_class = LetterModel

    def get_config(self):
        return LetterConfig(**SIZES, **LETTER, collaborative_dim=4, dropout=0.3)


class TestLetterModelWithoutItsLosses(ItemTokenizerTesterMixin):
    model_class = LetterModel

    def get_config(self):
        return LetterConfig(**SIZES, collaborative_loss_weight=0, diversity_loss_weight=0, codebook_update="ema")


# -- formulas


def plain_collaborative_loss(quantized, vectors):
    total = 0.0
    for i in range(len(quantized)):
        products = [float(quantized[i] @ vector) for vector in vectors]
        total -= math.log(math.exp(products[i]) / sum(map(math.exp, products)))
    return total / len(quantized)


def plain_diversity_loss(codebook, groups, codes):
    """The mean, over codes `j` of the same group as an item's code `i`, of the cross-entropy of `j` without `i`."""
    total = 0.0
    for i in codes.tolist():
        others = [j for j in range(len(codebook)) if j != i]
        normalizer = sum(math.exp(codebook[i] @ codebook[j]) for j in others)
        positives = [j for j in others if groups[j] == groups[i]]
        losses = [-math.log(math.exp(codebook[i] @ codebook[j]) / normalizer) for j in positives]
        total += sum(losses) / len(losses) if losses else 0.0
    return total / len(codes)


@pytest.mark.parametrize("collaborative_dim", [6, 4])
@pytest.mark.parametrize("training", [True, False])
def test_losses_equal_their_formulas(collaborative_dim, training):
    model = tiny_model(collaborative_dim=collaborative_dim).train(training)
    model(rows(5), collaborative=rows(5, collaborative_dim))  # groups are made in training alone
    vectors = rows(30, collaborative_dim, seed=4)
    output = model(rows(30), collaborative=vectors)
    books = [model.get_codebook(level).double() for level in range(3)]
    quantized = sum(book[output.codes[:, level]] for level, book in enumerate(books))
    if collaborative_dim != 6:
        vectors = vectors @ model.collaborative_loss.projection.weight.detach().T
    expected = plain_collaborative_loss(quantized, vectors.double())
    assert output.collaborative_loss.item() == pytest.approx(expected, rel=1e-5)
    groups = model.diversity_loss.groups.split([9, 7, 5])
    expected = [plain_diversity_loss(books[i], groups[i], output.codes[:, i]) for i in range(3)]
    assert output.diversity_loss.item() == pytest.approx(sum(expected) / 3, rel=1e-5)
    config = model.config
    total = output.reconstruction_loss + 0.25 * output.commitment_loss + output.codebook_loss
    total += config.collaborative_loss_weight * output.collaborative_loss
    total += config.diversity_loss_weight * output.diversity_loss
    torch.testing.assert_close(output.loss, total)
    assert model(rows(30)).get("collaborative_loss") is None


def test_a_code_that_is_alone_in_its_group_adds_nothing():
    model = tiny_model(codebook_sizes=[3], diversity_num_clusters=2).train()
    model.set_codebook(0, torch.tensor([[0.5], [0.6], [-1.0]]).expand(3, 6))
    codes = torch.tensor([[0], [1], [2], [2]])
    model.diversity_loss.begin_step(model.quantizer.codebooks)
    groups = model.diversity_loss.groups
    assert groups[0] == groups[1] != groups[2]
    loss = model.diversity_loss(model.quantizer.codebooks, codes)
    expected = plain_diversity_loss(model.get_codebook(0).double(), groups, codes[:, 0])
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    model.diversity_loss(model.quantizer.codebooks, codes[2:]).backward()
    assert model.quantizer.codebooks[0].weight.grad.abs().max() == 0


def test_drawing_one_code_of_the_group_gives_the_same_on_average():
    """LETTER's own form: a positive is drawn for each item, and the item's own code is masked by a large number."""
    model = tiny_model(codebook_sizes=[9]).train()
    codes = torch.arange(9)
    model.diversity_loss.begin_step(model.quantizer.codebooks)
    groups, book = model.diversity_loss.groups, model.get_codebook(0)
    scores = book @ book.T - 1e12 * torch.eye(9)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(500):
        drawn = [
            (others := [j for j in range(9) if j != i and groups[j] == groups[i]])[
                int(torch.randint(len(others), (1,), generator=generator))
            ]
            for i in range(9)
        ]
        losses.append(torch.nn.functional.cross_entropy(scores, torch.tensor(drawn)))
    loss = model.diversity_loss(model.quantizer.codebooks, codes[:, None])
    assert loss.item() == pytest.approx(float(torch.stack(losses).mean()), abs=0.02)


# -- gradients


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def test_where_gradients_go():
    model, vectors = tiny_model(collaborative_dim=4).train(), rows(40, 4).requires_grad_()
    output = model(rows(40), collaborative=vectors)
    names = {name for name, _ in model.named_parameters()}
    encoder = {name for name in names if name.startswith("encoder.")}
    books = {name for name in names if name.startswith("quantizer.")}
    projection = {"collaborative_loss.projection.weight"}
    # The latents follow the collaborative vectors, the codes only the latents; collaborative vectors are constants.
    assert gradients(model, output.collaborative_loss) == encoder | projection
    assert vectors.grad is None
    output = model(rows(40), collaborative=vectors)
    assert gradients(model, output.diversity_loss) == books
    output = model(rows(40), collaborative=vectors)
    assert gradients(model, output.loss) == names


def test_diversity_of_a_level_moves_no_other_level():
    model = tiny_model().train()
    model.diversity_loss.begin_step(model.quantizer.codebooks)
    books, codes = model.quantizer.codebooks, torch.zeros(10, 3, dtype=torch.int64)

    def gradients_of(levels):
        loss = model.diversity_loss(books, codes)
        return torch.autograd.grad(loss, [books[level].weight for level in levels])

    before = gradients_of([0, 2])
    model.set_codebook(1, rows(7, 6, seed=9))
    assert all(torch.equal(x, y) for x, y in zip(before, gradients_of([0, 2]), strict=True))


def test_dead_codes_restart_after_the_losses():
    model = tiny_model(dead_code_threshold=0.5, ema_decay=0.5).train()
    before = model.get_codebook(0).clone()
    for _ in range(4):
        model(rows(40), collaborative=rows(40, 6)).loss.backward()
    assert not torch.equal(before, model.get_codebook(0))


# -- groups


def test_groups_are_balanced_and_renewed():
    model = tiny_model(codebook_sizes=[33, 20], diversity_num_clusters=10, diversity_update_steps=3).train()
    loss, seen = model.diversity_loss, []
    for step in range(7):
        with torch.no_grad():
            for codebook in model.quantizer.codebooks:
                codebook.weight.copy_(rows(codebook.size, 6, seed=step))
        model(rows(20))
        seen.append(loss.groups.clone())
        for groups in loss.groups.split([33, 20]):
            counts = torch.bincount(groups, minlength=10)
            assert counts.max() - counts.min() <= 1
    changed = [not torch.equal(a, b) for a, b in zip(seen, seen[1:], strict=False)]
    assert changed == [False, False, True, False, False, True] and int(loss.step) == 7
    # Evaluation neither counts nor clusters.
    model.eval()(rows(20))
    assert int(loss.step) == 7 and torch.equal(loss.groups, seen[-1])


def test_groups_are_saved(tmp_path):
    model = tiny_model(diversity_update_steps=5).train()
    for _ in range(3):
        model(rows(20))
    model.save_pretrained(tmp_path)
    loaded = LetterModel.from_pretrained(tmp_path)
    assert (
        torch.equal(loaded.diversity_loss.groups, model.diversity_loss.groups) and int(loaded.diversity_loss.step) == 3
    )
    assert torch.equal(loaded.eval()(rows(20)).diversity_loss, model.eval()(rows(20)).diversity_loss)


# -- the RQ-VAE


def test_codes_and_steps_are_those_of_an_rqvae():
    letter = tiny_model(collaborative_dim=4)
    plain = RQVAEModel(RQVAEConfig(**SIZES))
    report = plain.load_state_dict(letter.state_dict(), strict=False)
    assert not report.missing_keys
    codes = letter.encode(rows(100)).codes
    assert torch.equal(codes, plain.encode(rows(100)).codes)
    assert torch.equal(letter.decode(codes), plain.decode(codes))
    for model in (letter, plain):
        model.train()
    terms, others = letter(rows(40), collaborative=rows(40, 4)), plain(rows(40))
    for name in ("reconstruction_loss", "commitment_loss", "codebook_loss", "codes", "latents"):
        assert torch.equal(terms[name], others[name])


def test_pairs_and_collaborative_vectors_together():
    model = tiny_model(contrastive_loss_weight=1.0).train()
    output = model(rows(20), positives=rows(20, seed=5), collaborative=rows(20, 6))
    quantized = sum(model.get_codebook(level)[output.codes[:, level]] for level in range(3))
    expected = plain_collaborative_loss(quantized.double(), rows(20, 6).double())
    assert output.collaborative_loss.item() == pytest.approx(expected, rel=1e-5)
    assert "contrastive_loss" in output and len(output.codes) == 20


def test_saved_without_code_and_card(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    card = render_card(read_folder(tmp_path), "me/model")
    assert "LETTER" in card and "import forge_hf" in card and "trust_remote_code" not in card


# -- what training does


def planted(num_groups=8, size=12):
    """Items whose embeddings say nothing of the group that their collaborative vectors are in."""
    group = torch.arange(num_groups).repeat_interleave(size)
    centers = rows(num_groups, 6, seed=7)
    return rows(len(group), seed=8), centers[group] * 2 + 0.1 * rows(len(group), 6, seed=9), group


def train(embeddings, vectors, **kwargs):
    sizes = {"input_dim": 12, "hidden_sizes": [64], "codebook_dim": 6, "codebook_sizes": [8, 4]}
    torch.manual_seed(0)
    model = LetterModel(LetterConfig(**sizes | {"diversity_num_clusters": 4, "diversity_loss_weight": 0} | kwargs))
    model.initialize_codebooks(model.get_latents(embeddings), lambda points, size, _: points[:size])
    optimizer = torch.optim.Adam(model.train().parameters(), lr=5e-3)
    for _ in range(80):
        output = model(embeddings, collaborative=vectors if kwargs.get("collaborative_loss_weight", 1) > 0 else None)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    return model.eval().encode(embeddings).codes


def share_of_neighbours(codes, group):
    """Of the pairs of items of one group, the share with the same first code."""
    same = (group[:, None] == group) & ~torch.eye(len(group), dtype=torch.bool)
    return (codes[:, None, 0] == codes[:, 0])[same].float().mean().item()


def test_collaborative_loss_gives_collaborative_neighbours_the_same_codes():
    embeddings, vectors, group = planted()
    without = share_of_neighbours(train(embeddings, vectors, collaborative_loss_weight=0), group)
    with_loss = share_of_neighbours(train(embeddings, vectors, collaborative_loss_weight=30.0), group)
    assert with_loss > 2 * without


def test_diversity_loss_spreads_the_use_of_codes():
    used = {}
    for weight in (0, 1.0):
        config = {"codebook_dim": 6, "codebook_sizes": [32], "diversity_num_clusters": 4, "diversity_update_steps": 10}
        torch.manual_seed(0)  # codes that start near 0, where few are the nearest of any item
        model = LetterModel(
            LetterConfig(
                input_dim=12, hidden_sizes=[], collaborative_loss_weight=0, diversity_loss_weight=weight, **config
            )
        ).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(100):
            loss = model(rows(200)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        used[weight] = len(model.encode(rows(200)).codes.unique())
    assert used[1.0] > 1.2 * used[0]


# -- refusals


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"collaborative_loss_weight": -1}, "`collaborative_loss_weight` must be finite and not negative"),
        ({"diversity_loss_weight": float("inf")}, "`diversity_loss_weight` must be finite and not negative"),
        ({"diversity_num_clusters": 6}, "at most the smallest of `codebook_sizes`, 5, but is 6"),
        ({"diversity_num_clusters": 0}, "`diversity_num_clusters` must be at least 1"),
        ({"diversity_update_steps": 0}, "`diversity_update_steps` must be at least 1"),
        ({"collaborative_dim": 0}, "`collaborative_dim` must be at least 1"),
        ({"codebook_update": "ema"}, "`diversity_loss_weight` must be 0 with `codebook_update='ema'`"),
        ({"codebook_sizes": []}, "`codebook_sizes`"),
    ],
)
def test_bad_configs(kwargs, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        LetterConfig(**SIZES | LETTER | kwargs)


def test_default_weights_go_with_the_reduction():
    config = LetterConfig(input_dim=384, codebook_dim=32, codebook_sizes=[16, 16, 16])
    assert config.collaborative_loss_weight == pytest.approx(0.02 * 384)
    assert config.diversity_loss_weight == pytest.approx(1e-4 * 32 * 3)
    config = LetterConfig(codebook_dim=32, quantization_loss="cumulative")
    assert (config.collaborative_loss_weight, config.diversity_loss_weight) == (0.02, 1e-4)
    assert LetterConfig(codebook_dim=16).collaborative_dim == 16


def test_bad_collaborative_vectors():
    model = tiny_model(collaborative_dim=4)
    for wrong in (rows(9, 4), rows(10, 5), rows(10, 4).long(), rows(10, 4)[0]):
        with pytest.raises(ValueError, match=r"`collaborative` must be floating point of shape \(10, 4\)"):
            model(rows(10), collaborative=wrong)
    with pytest.raises(ValueError, match="set `collaborative_loss_weight` above 0"):
        tiny_model(collaborative_loss_weight=0)(rows(10), collaborative=rows(10, 6))
