# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import time

import numpy as np
import peft
import pytest
import torch

from forge_hf.errors import (
    FingerprintMismatchError,
    InvalidSequencesError,
    UnknownItemError,
    UnsatisfiableRequestError,
)
from forge_hf.evaluation import entropy_at_k
from forge_hf.generation import PrefixTable, history_search, rank_catalog, retrieve
from forge_hf.generation.beam_search import constrained_beam_search
from forge_hf.semantic_ids import SemanticIdCatalog
from forge_hf.tokenization import HistoryEncoder, SemanticIdTokenizer


SIZES = [6, 5, 4]


@pytest.fixture
def catalog():
    """60 items, of which some share a semantic ID."""
    generator = torch.Generator().manual_seed(3)
    codes = torch.stack([torch.randint(size, (60,), generator=generator) for size in SIZES], dim=-1)
    codes[50:] = codes[:10]
    return SemanticIdCatalog.from_codes([f"i{n}" for n in range(60)], codes, codebook_sizes=SIZES, on_collision="keep")


@pytest.fixture
def tokenizer(catalog):
    return SemanticIdTokenizer(layout=catalog.layout)


@pytest.fixture
def model(architecture, make_model, catalog):
    return make_model(architecture, sum(SIZES), semantic_id_fingerprint=catalog.fingerprint)


HISTORIES = [["i3", "i7", "i3"], ["i59"], [f"i{n}" for n in range(5, 20)], ["i1", "i51"], ["i0", "i2"]]


def rank_by_brute_force(model, tokenizer, catalog, history, max_history=20):
    """Every item of the catalog with its log-probability, best first; ties in the catalog's order."""
    encode = HistoryEncoder(catalog, tokenizer, model.config.is_encoder_decoder, max_history)
    prompt = encode([history])[0].expand(len(catalog), -1)
    targets = encode.item_tokens
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            start = torch.full_like(targets[:, :1], model.config.decoder_start_token_id)
            logits = model(input_ids=prompt, decoder_input_ids=torch.cat([start, targets[:, :-1]], dim=-1)).logits
        else:
            logits = model(input_ids=torch.cat([prompt, targets[:, :-1]], dim=-1)).logits[:, -targets.shape[1] :]
    scores = logits.log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1).sum(dim=-1)
    order = sorted(range(len(catalog)), key=lambda row: (-round(scores[row].item(), 4), row))
    return [(catalog.item_ids[row], scores[row].item()) for row in order]


@pytest.mark.parametrize("exclude_history", [True, False])
def test_equals_brute_force(model, tokenizer, catalog, exclude_history):
    result = retrieve(
        model, tokenizer, catalog, HISTORIES, top_k=12, exclude_history=exclude_history, num_beams=60, batch_size=2
    )
    for history, item_ids, scores in zip(HISTORIES, result.item_ids, result.scores, strict=True):
        ranking = rank_by_brute_force(model, tokenizer, catalog, history)
        expected = [pair for pair in ranking if not exclude_history or pair[0] not in history][:12]
        assert item_ids == [item for item, _ in expected]
        torch.testing.assert_close(torch.tensor(scores), torch.tensor([s for _, s in expected]), atol=1e-4, rtol=0)


def test_lists_are_full_however_few_beams_there_are(model, tokenizer, catalog):
    # one beam finds one semantic ID, which may be in the history: the search is widened until the list is full
    for num_beams in (1, 3):
        result = retrieve(model, tokenizer, catalog, HISTORIES, top_k=20, num_beams=num_beams)
        for history, item_ids, scores in zip(HISTORIES, result.item_ids, result.scores, strict=True):
            assert len(set(item_ids)) == len(item_ids) == 20
            assert not set(item_ids) & set(history)
            assert scores == sorted(scores, reverse=True)
    # the whole catalog but the history
    longest = HISTORIES[2]
    result = retrieve(model, tokenizer, catalog, [longest], top_k=60 - len(longest), num_beams=2)
    assert set(result.item_ids[0]) == set(catalog.item_ids) - set(longest)


def test_all_items_of_one_semantic_id_can_be_asked_for(architecture, make_model):
    catalog = SemanticIdCatalog.from_codes(
        list(range(40)), [[0, 1, 1]] * 40, codebook_sizes=SIZES, on_collision="keep"
    )
    model = make_model(architecture, sum(SIZES), semantic_id_fingerprint=catalog.fingerprint)
    tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    result = retrieve(model, tokenizer, catalog, [[5, 0]], top_k=38, num_beams=1)
    assert result.item_ids[0] == [item for item in range(40) if item not in (5, 0)]
    assert len(set(result.scores[0])) == 1


def test_batches_and_order_do_not_matter(model, tokenizer, catalog):
    table = PrefixTable.from_catalog(catalog, tokenizer)
    whole = retrieve(model, tokenizer, catalog, HISTORIES, prefix_table=table, show_progress=True)
    for batch_size in (1, 3):
        parts = retrieve(model, tokenizer, catalog, HISTORIES[::-1], batch_size=batch_size)
        assert parts.item_ids[::-1] == whole.item_ids
        torch.testing.assert_close(torch.tensor(parts.scores[::-1]), torch.tensor(whole.scores), atol=1e-4, rtol=0)
    assert retrieve(model, tokenizer, catalog, []).item_ids == []


def test_generation_config_does_not_leak(model, tokenizer, catalog):
    before = retrieve(model, tokenizer, catalog, HISTORIES)
    config = model.generation_config
    config.update(
        do_sample=True, temperature=0.01, top_p=0.01, top_k=1, num_beams=2, num_return_sequences=2, max_new_tokens=1,
        repetition_penalty=9.0, length_penalty=-5.0, eos_token_id=list(range(4, 19)), suppress_tokens=[4, 5, 6, 10],
        forced_eos_token_id=7, min_length=9, use_cache=False, decoder_start_token_id=9, renormalize_logits=True,
    )  # fmt: skip
    assert retrieve(model, tokenizer, catalog, HISTORIES) == before


def test_training_mode_is_suspended_and_restored(architecture, make_model, tokenizer, catalog):
    model = make_model(architecture, sum(SIZES), semantic_id_fingerprint=catalog.fingerprint)
    before = retrieve(model, tokenizer, catalog, HISTORIES)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.train()
    frozen = model.get_input_embeddings().eval()
    assert retrieve(model, tokenizer, catalog, HISTORIES) == before
    assert model.training and not frozen.training and all(m.training for m in model.modules() if m is not frozen)


def test_only_recent_items_are_read_but_all_are_excluded(model, tokenizer, catalog):
    long, short = [[f"i{n}" for n in range(30)]], [[f"i{n}" for n in range(28, 30)]]
    assert (
        retrieve(model, tokenizer, catalog, long, max_history=2, exclude_history=False).item_ids
        == retrieve(model, tokenizer, catalog, short, exclude_history=False).item_ids
    )
    excluded = retrieve(model, tokenizer, catalog, long, top_k=25, max_history=2)
    assert not set(excluded.item_ids[0]) & set(long[0])


def expected_lists(model, tokenizer, catalog, histories, top_k, is_open):
    """The best items by brute force, of those of which `is_open(number of the history, item)` is true."""
    rankings = [rank_by_brute_force(model, tokenizer, catalog, history) for history in histories]
    return [[item for item, _ in ranking if is_open(row, item)][:top_k] for row, ranking in enumerate(rankings)]


def test_excluded_items_equal_brute_force(model, tokenizer, catalog):
    out_of_stock = [f"i{n}" for n in range(10, 30)]
    options = {"top_k": 8, "num_beams": 60, "batch_size": 2}
    expected = expected_lists(
        model, tokenizer, catalog, HISTORIES, 8, lambda row, i: i not in out_of_stock and i not in HISTORIES[row]
    )
    for num in (5, 1):  # left out by a smaller table, and within the search
        result = retrieve(model, tokenizer, catalog, HISTORIES[:num], exclude=out_of_stock, **options)
        assert result.item_ids == expected[:num]
    of_each = [["i4"], [], ["i58", "i59"], [f"i{n}" for n in range(40)], ["i4", "i0"]]
    result = retrieve(model, tokenizer, catalog, HISTORIES, exclude=of_each, exclude_history=False, **options)
    assert result.item_ids == expected_lists(
        model, tokenizer, catalog, HISTORIES, 8, lambda row, i: i not in of_each[row]
    )
    assert retrieve(model, tokenizer, catalog, HISTORIES, exclude=[]) == retrieve(model, tokenizer, catalog, HISTORIES)


def test_excluded_items_take_up_no_beams(model, tokenizer, catalog):
    """What 10 beams found and is then excluded makes room for others, in one search and with 10 beams."""
    excluded = retrieve(model, tokenizer, catalog, HISTORIES, exclude_history=False, num_beams=60).item_ids
    again = retrieve(
        model, tokenizer, catalog, HISTORIES, exclude=excluded, exclude_history=False, num_beams=10, timings=True
    )
    for before, items in zip(excluded, again.item_ids, strict=True):
        assert len(set(items)) == 10 and not set(items) & set(before)


def test_one_search_fills_every_list(model, tokenizer, catalog, monkeypatch):
    searches = []

    def count(*args, **kwargs):
        searches.append(args)
        return constrained_beam_search(*args, **kwargs)

    monkeypatch.setattr(history_search, "constrained_beam_search", count)
    retrieve(model, tokenizer, catalog, HISTORIES, top_k=20, num_beams=20, exclude=[f"i{n}" for n in range(20, 35)])
    assert len(searches) == 1


def test_a_shared_semantic_id_stays_open_until_all_its_items_are_excluded(architecture, make_model):
    catalog = SemanticIdCatalog.from_codes(
        list(range(8)), [[0, 1, 1]] * 4 + [[1, 1, n] for n in range(4)], codebook_sizes=SIZES, on_collision="keep"
    )
    model = make_model(architecture, sum(SIZES), semantic_id_fingerprint=catalog.fingerprint)
    tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    options = {"exclude_history": False, "num_beams": 5}
    result = retrieve(model, tokenizer, catalog, [[5]], top_k=5, exclude=[0, 1, 3], **options)
    assert set(result.item_ids[0]) == {2, 4, 5, 6, 7}
    result = retrieve(model, tokenizer, catalog, [[5]], top_k=4, exclude=[0, 1, 2, 3], **options)
    assert set(result.item_ids[0]) == {4, 5, 6, 7}


def test_candidates_equal_brute_force(model, tokenizer, catalog):
    candidates = [f"i{n}" for n in (3, 5, 8, 13, 21, 34, 50, 55, 3)]
    options = {"top_k": 5, "num_beams": 60}
    result = retrieve(model, tokenizer, catalog, HISTORIES, candidates=candidates, exclude=["i8"], **options)
    expected = expected_lists(
        model, tokenizer, catalog, HISTORIES, 5,
        lambda row, i: i in candidates and i != "i8" and i not in HISTORIES[row],
    )  # fmt: skip
    assert result.item_ids == expected
    # the same by a table that is kept
    table = PrefixTable.from_catalog(catalog, tokenizer).restrict(catalog.indices_for(sorted(set(candidates))))
    kept = retrieve(model, tokenizer, catalog, HISTORIES, prefix_table=table, exclude=["i8"], **options)
    assert kept.item_ids == expected


def test_numbers_of_beams(model, tokenizer, catalog):
    everything = retrieve(model, tokenizer, catalog, HISTORIES, num_beams=60)
    exact = retrieve(model, tokenizer, catalog, HISTORIES, num_beams="all")
    assert exact.item_ids == everything.item_ids
    assert retrieve(model, tokenizer, catalog, HISTORIES, num_beams=(6, 30, 60)).item_ids == everything.item_ids
    narrow = retrieve(model, tokenizer, catalog, HISTORIES, num_beams=(1, 1, 2), top_k=30)
    assert all(len(set(items)) == 30 for items in narrow.item_ids)


class TestTemperature:
    def test_lists_are_full_sorted_and_repeatable(self, model, tokenizer, catalog):
        options = {"top_k": 12, "temperature": 1.5}
        result = retrieve(model, tokenizer, catalog, HISTORIES, seed=4, **options)
        for history, items, scores in zip(HISTORIES, result.item_ids, result.scores, strict=True):
            assert len(set(items)) == 12 and not set(items) & set(history)
            assert scores == sorted(scores, reverse=True)
            by_brute_force = dict(rank_by_brute_force(model, tokenizer, catalog, history))
            assert scores == pytest.approx([by_brute_force[item] for item in items], abs=1e-4)
        assert retrieve(model, tokenizer, catalog, HISTORIES, seed=4, **options) == result
        assert retrieve(model, tokenizer, catalog, HISTORIES, seed=5, **options).item_ids != result.item_ids

    def test_without_randomness(self, model, tokenizer, catalog):
        cold = [retrieve(model, tokenizer, catalog, HISTORIES, temperature=1e-4, seed=seed) for seed in (0, 1)]
        assert cold[0] == cold[1]
        best = retrieve(model, tokenizer, catalog, HISTORIES, num_beams=10)
        levels = [None, None, None]
        assert retrieve(model, tokenizer, catalog, HISTORIES, temperature=levels, num_beams=10) == best

    def test_entropy_grows_with_temperature(self, model, tokenizer, catalog):
        first_codes = dict(zip(catalog.item_ids, catalog.codes[:, 0].tolist(), strict=True))
        histories = [[item] for item in catalog.item_ids]
        entropy = [
            entropy_at_k(
                retrieve(model, tokenizer, catalog, histories, temperature=temperature, seed=0).item_ids,
                first_codes,
                k=10,
            )
            for temperature in (0.05, 1.0, 20.0)
        ]
        assert entropy == sorted(entropy) and entropy[2] > entropy[0] + 0.1


def rank_among(model, tokenizer, catalog, history, item_ids, num_levels=3):
    """Some items by brute force, each code scored against those that follow the same codes in one of these items."""
    encode = HistoryEncoder(catalog, tokenizer, model.config.is_encoder_decoder)
    prompt = encode([history])[0].unsqueeze(0)
    targets = encode.item_tokens[catalog.indices_for(item_ids)][:, :num_levels]
    scores = []
    for tokens in targets:
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                start = torch.tensor([[model.config.decoder_start_token_id, *tokens[:-1]]])
                logits = model(input_ids=prompt, decoder_input_ids=start).logits[0]
            else:
                logits = model(input_ids=torch.cat([prompt, tokens[None, :-1]], dim=-1)).logits[0, -num_levels:]
        score = 0
        for level, token in enumerate(tokens):
            legal = targets[(targets[:, :level] == tokens[:level]).all(dim=-1), level].unique()
            score += (logits[level, token] - logits[level, legal].logsumexp(-1)).item()
        scores.append(score)
    order = sorted(range(len(item_ids)), key=lambda n: (-round(scores[n], 4), catalog.item_ids.index(item_ids[n])))
    return [(item_ids[n], scores[n]) for n in order]


class TestUnseenItems:
    UNSEEN = [f"i{n}" for n in range(0, 60, 7)]

    @pytest.mark.parametrize("fraction, places", [(0, 0), (0.09, 0), (0.1, 1), (0.19, 1), (0.3, 3), (1, 9)])
    def test_share_is_rounded_down(self, model, tokenizer, catalog, fraction, places):
        options = {"exclude_history": False, "num_beams": 60, "unseen_items": self.UNSEEN}
        result = retrieve(model, tokenizer, catalog, HISTORIES, unseen_fraction=fraction, **options)
        for history, items, scores in zip(HISTORIES, result.item_ids, result.scores, strict=True):
            ranking = rank_by_brute_force(model, tokenizer, catalog, history)
            expected = [pair for pair in ranking if pair[0] not in self.UNSEEN][: 10 - places]
            expected += rank_among(model, tokenizer, catalog, history, self.UNSEEN)[:places]
            assert items == [item for item, _ in expected]
            assert scores == pytest.approx([score for _, score in expected], abs=1e-4)

    def test_the_numbering_level_does_not_rank_them(self, architecture, make_model, catalog):
        """The score of an unseen item is that of its other codes, whatever its number among items of equal codes."""
        suffixed = SemanticIdCatalog.from_codes(catalog.item_ids, catalog.codes, codebook_sizes=SIZES)
        model = make_model(architecture, suffixed.layout.num_codes, semantic_id_fingerprint=suffixed.fingerprint)
        tokenizer = SemanticIdTokenizer(layout=suffixed.layout)
        unseen = ["i1", "i51", "i4", "i5"]
        options = {"unseen_items": unseen, "unseen_fraction": 0.5, "top_k": 8, "num_beams": 60}
        result = retrieve(model, tokenizer, suffixed, [["i3"]], **options)
        expected = rank_among(model, tokenizer, suffixed, ["i3"], unseen)
        assert result.item_ids[0][4:] == [item for item, _ in expected]
        assert result.scores[0][4:] == pytest.approx([score for _, score in expected], abs=1e-4)
        assert suffixed.codes_for(["i1", "i51"])[:, -1].tolist() != [0, 0]

    def test_with_exclusions_and_candidates(self, model, tokenizer, catalog):
        excluded = ["i7", "i14", "i8"]
        candidates = [f"i{n}" for n in range(30)]
        result = retrieve(
            model, tokenizer, catalog, HISTORIES, top_k=12, exclude=excluded, candidates=candidates, num_beams=60,
            unseen_items=self.UNSEEN, unseen_fraction=1.0,
        )  # fmt: skip
        for history, items in zip(HISTORIES, result.item_ids, strict=True):
            unseen = {"i0", "i21", "i28"} - set(history)  # fewer than there are places: all of them
            assert unseen <= set(items) and len(set(items)) == 12
            assert set(items) <= set(candidates) - set(excluded) - set(history)

    def test_without_a_share_they_are_left_out(self, model, tokenizer, catalog):
        result = retrieve(model, tokenizer, catalog, HISTORIES, unseen_items=self.UNSEEN)
        assert not set(self.UNSEEN) & set().union(*result.item_ids)


def test_timings(model, tokenizer, catalog):
    assert retrieve(model, tokenizer, catalog, HISTORIES).timings is None
    started = time.perf_counter()
    result = retrieve(model, tokenizer, catalog, HISTORIES, batch_size=2, timings=True)
    elapsed = 1000 * (time.perf_counter() - started)
    assert list(result.timings) == ["encode", "prefill", "search", "items"]
    assert min(result.timings.values()) > 0
    assert 0.5 * elapsed < sum(result.timings.values()) <= elapsed
    assert not any(module._forward_hooks for module in model.modules())


def test_user_tokens_are_read(architecture, make_model, catalog):
    tokenizer = SemanticIdTokenizer(layout=catalog.layout, num_user_buckets=50)
    model = make_model(architecture, sum(SIZES) + 50, semantic_id_fingerprint=catalog.fingerprint)
    with_user = retrieve(model, tokenizer, catalog, HISTORIES, user_ids=list("abcde"))
    assert retrieve(model, tokenizer, catalog, HISTORIES, user_ids=list("abcde")) == with_user
    assert with_user.scores != retrieve(model, tokenizer, catalog, HISTORIES).scores


def test_rank_catalog_keeps_seen_items_and_pads(model, tokenizer, catalog):
    ranking = rank_catalog(model, tokenizer, catalog, HISTORIES, num_beams=60, batch_size=2)
    assert ranking.rows.dtype == torch.int64 and ranking.rows.shape == (5, 60) == ranking.scores.shape
    for history, rows in zip(HISTORIES, ranking.rows.tolist(), strict=True):
        expected = [item for item, _ in rank_by_brute_force(model, tokenizer, catalog, history)]
        assert [catalog.item_ids[row] for row in rows] == expected

    # 4 beams name 4 semantic IDs, each with all its items
    few = rank_catalog(model, tokenizer, catalog, HISTORIES, num_beams=4)
    for rows, scores in zip(few.rows, few.scores, strict=True):
        present = rows[rows >= 0]
        assert (rows[len(present) :] == -1).all() and scores[len(present) :].isneginf().all()
        assert scores[: len(present)].isfinite().all()
        assert len(catalog.codes[present].unique(dim=0)) == 4
        assert len(present) == sum(map(len, catalog.items_for(catalog.codes[present].unique(dim=0))))
    assert rank_catalog(model, tokenizer, catalog, []).rows.shape == (0, 0)


# peft 0.21 asks transformers 5.23 for a property by its old name
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_peft_model(model, architecture, tokenizer, catalog):
    config = peft.LoraConfig(
        task_type="SEQ_2_SEQ_LM" if architecture == "t5" else "CAUSAL_LM", target_modules="all-linear",
        init_lora_weights=False,
    )  # fmt: skip
    tuned = peft.get_peft_model(model, config)
    result = retrieve(tuned, tokenizer, catalog, HISTORIES, timings=True)
    assert min(result.timings.values()) > 0
    assert result.item_ids == retrieve(tuned.merge_and_unload(), tokenizer, catalog, HISTORIES).item_ids
    tuned.config.semantic_id_fingerprint = "another"
    with pytest.raises(FingerprintMismatchError):
        retrieve(tuned, tokenizer, catalog, HISTORIES)


class TestRefusals:
    @pytest.fixture(autouse=True)
    def forbid_model_work(self, model):
        def forward(*args, **kwargs):
            raise AssertionError("the model was called")

        for module in model.modules():
            module.register_forward_pre_hook(forward, with_kwargs=True)

    def test_more_items_than_there_are(self, model, tokenizer, catalog):
        with pytest.raises(UnsatisfiableRequestError, match="`top_k` is 61, but the catalog has only 60 items"):
            retrieve(model, tokenizer, catalog, HISTORIES, top_k=61, exclude_history=False)
        # history 2 has 15 different items, history 0 three of which two are the same
        with pytest.raises(UnsatisfiableRequestError, match="`top_k` is 46, but history 2 leaves only 45"):
            retrieve(model, tokenizer, catalog, HISTORIES, top_k=46)
        with pytest.raises(UnsatisfiableRequestError, match="`top_k` is 59, but history 0 leaves only 58"):
            retrieve(model, tokenizer, catalog, HISTORIES[:1], top_k=59)

    def test_another_catalog(self, model, tokenizer, catalog):
        other = SemanticIdCatalog.from_codes(catalog.item_ids, catalog.codes.flip(0), codebook_sizes=SIZES)
        for function in (retrieve, rank_catalog):
            with pytest.raises(FingerprintMismatchError) as error:
                function(model, tokenizer, other, HISTORIES)
            assert catalog.fingerprint in str(error.value) and other.fingerprint in str(error.value)
            del model.config.semantic_id_fingerprint
            with pytest.raises(FingerprintMismatchError, match="has no `semantic_id_fingerprint`.*set"):
                function(model, tokenizer, catalog, HISTORIES)
            model.config.semantic_id_fingerprint = catalog.fingerprint

    def test_bad_histories(self, model, tokenizer, catalog):
        with pytest.raises(InvalidSequencesError, match="rows 1"):
            retrieve(model, tokenizer, catalog, [["i1"], []])
        with pytest.raises(UnknownItemError, match="nowhere"):
            retrieve(model, tokenizer, catalog, [["i1", "nowhere"]])
        # beyond what the model reads, but to be excluded
        with pytest.raises(UnknownItemError, match="nowhere"):
            retrieve(model, tokenizer, catalog, [["nowhere", "i1"]], max_history=1)
        with pytest.raises(InvalidSequencesError, match="`user_ids`"):
            retrieve(model, tokenizer, catalog, [["i1"]], user_ids=["a", "b"])

    def test_bad_numbers(self, model, tokenizer, catalog):
        for name in ("top_k", "num_beams", "batch_size", "max_history"):
            with pytest.raises(ValueError, match=name):
                retrieve(model, tokenizer, catalog, HISTORIES, **{name: 0})

    def test_bad_requests(self, model, tokenizer, catalog):
        for name in ("exclude", "candidates", "unseen_items"):
            with pytest.raises(UnknownItemError, match="nowhere"):
                retrieve(model, tokenizer, catalog, HISTORIES, **{name: ["nowhere"]})
        with pytest.raises(InvalidSequencesError, match="`exclude` .* 5 `histories`, got 2"):
            retrieve(model, tokenizer, catalog, HISTORIES, exclude=[["i1"], ["i2"]])
        with pytest.raises(UnsatisfiableRequestError, match="history 2 leaves only 0"):
            retrieve(model, tokenizer, catalog, HISTORIES, candidates=["i6", "i7"], top_k=1)
        with pytest.raises(UnsatisfiableRequestError, match="history 0 leaves only 0"):
            retrieve(model, tokenizer, catalog, HISTORIES, exclude=catalog.item_ids)
        with pytest.raises(UnsatisfiableRequestError, match="history 1 leaves only 9"):
            exclude = [[], [f"i{n}" for n in range(50)], [], [], []]
            retrieve(model, tokenizer, catalog, HISTORIES, exclude=exclude)
        with pytest.raises(ValueError, match="`unseen_fraction` must be between"):
            retrieve(model, tokenizer, catalog, HISTORIES, unseen_items=["i1"], unseen_fraction=1.5)
        with pytest.raises(ValueError, match="no `unseen_items`"):
            retrieve(model, tokenizer, catalog, HISTORIES, unseen_fraction=0.5)

    def test_a_foreign_prefix_table(self, model, tokenizer, catalog):
        swapped = catalog.codes.roll(1, dims=0)  # as many items, but each with another's codes
        other = SemanticIdCatalog.from_codes(catalog.item_ids, swapped, codebook_sizes=SIZES, on_collision="keep")
        table = PrefixTable.from_catalog(other, tokenizer)
        with pytest.raises(FingerprintMismatchError, match="`prefix_table`"):
            retrieve(model, tokenizer, catalog, HISTORIES, prefix_table=table)


def test_what_items_come_in(model, tokenizer, catalog):
    history, left_out = [["i3", "i7"]], ["i23", "i11", "i40", "i41", "i42"]

    def ask(**options):
        return retrieve(model, tokenizer, catalog, history, top_k=20, **options).item_ids

    expected = ask(exclude=left_out)
    for form in (tuple, np.array, iter, set, lambda items: (item for item in items)):
        assert ask(exclude=form(left_out)) == expected
        assert ask(exclude=form([left_out])) == expected if form in (tuple, iter) else True
    rest = sorted(set(catalog.item_ids) - set(left_out))
    assert ask(candidates=iter(rest)) == ask(candidates=np.array(rest)) == expected


def test_numbers_of_numpy_are_numbers(model, tokenizer, catalog):
    def ask(number, numbers):
        return retrieve(
            model, tokenizer, catalog, HISTORIES, top_k=number(5), num_beams=numbers([3, 4, 5]), batch_size=number(2),
            temperature=1.0, seed=number(2),
        )  # fmt: skip

    expected = ask(int, list)
    assert ask(np.int64, np.array) == ask(np.int32, lambda values: range(3, 6)) == expected
    one = retrieve(model, tokenizer, catalog, HISTORIES, num_beams=30)
    assert retrieve(model, tokenizer, catalog, HISTORIES, num_beams=np.int64(30)) == one
