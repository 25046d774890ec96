# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import peft
import pytest
import torch

from forge_hf.errors import (
    FingerprintMismatchError,
    InvalidSequencesError,
    UnknownItemError,
    UnsatisfiableRequestError,
)
from forge_hf.generation import PrefixTable, rank_catalog, retrieve
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
    result = retrieve(tuned, tokenizer, catalog, HISTORIES)
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
            with pytest.raises(ValueError, match=name if name != "max_history" else "max_items"):
                retrieve(model, tokenizer, catalog, HISTORIES, **{name: 0})

    def test_a_foreign_prefix_table(self, model, tokenizer, catalog):
        swapped = catalog.codes.roll(1, dims=0)  # as many items, but each with another's codes
        other = SemanticIdCatalog.from_codes(catalog.item_ids, swapped, codebook_sizes=SIZES, on_collision="keep")
        table = PrefixTable.from_catalog(other, tokenizer)
        with pytest.raises(FingerprintMismatchError, match="`prefix_table`"):
            retrieve(model, tokenizer, catalog, HISTORIES, prefix_table=table)
