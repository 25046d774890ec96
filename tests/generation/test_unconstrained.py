# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
from itertools import product

import pytest
import torch

from forge_hf.errors import FingerprintMismatchError
from forge_hf.evaluation import invalid_rate
from forge_hf.generation import PrefixTable, retrieve_unconstrained, unconstrained
from forge_hf.semantic_ids import SemanticIdCatalog
from forge_hf.tokenization import HistoryEncoder, SemanticIdTokenizer


SIZES = [5, 4, 3]
HISTORIES = [["i3", "i7", "i3"], ["i19"], [f"i{n}" for n in range(5, 16)]]


@pytest.fixture
def catalog():
    """20 items, the last two of which share semantic IDs; no item has the first code 4."""
    generator = torch.Generator().manual_seed(3)
    codes = torch.stack([torch.randint(size, (20,), generator=generator) for size in [4, *SIZES[1:]]], dim=-1)
    codes[18:] = codes[:2]
    return SemanticIdCatalog.from_codes([f"i{n}" for n in range(20)], codes, codebook_sizes=SIZES, on_collision="keep")


@pytest.fixture
def tokenizer(catalog):
    return SemanticIdTokenizer(layout=catalog.layout)


@pytest.fixture
def model(architecture, make_model, catalog):
    return make_model(architecture, sum(SIZES), semantic_id_fingerprint=catalog.fingerprint)


def score_all_codes(model, tokenizer, catalog, history):
    """Every combination of codes with its log-probability, by teacher forcing."""
    encode = HistoryEncoder(catalog, tokenizer, model.config.is_encoder_decoder)
    codes = torch.tensor(list(product(*map(range, SIZES))))
    tokens = torch.tensor(tokenizer.convert_tokens_to_ids(tokenizer.semantic_id_tokens))[
        catalog.layout.to_index(codes)
    ]
    prompt = encode([history])[0].expand(len(codes), -1)
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            start = torch.full_like(tokens[:, :1], model.config.decoder_start_token_id)
            logits = model(input_ids=prompt, decoder_input_ids=torch.cat([start, tokens[:, :-1]], dim=-1)).logits
        else:
            logits = model(input_ids=torch.cat([prompt, tokens[:, :-1]], dim=-1)).logits[:, -tokens.shape[1] :]
    scores = logits.log_softmax(dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1).sum(dim=-1)
    return codes, scores


def test_all_combinations_are_those_of_brute_force(model, tokenizer, catalog):
    result = retrieve_unconstrained(model, tokenizer, catalog, HISTORIES, num_beams=60, batch_size=2)
    existing = {tuple(codes) for codes in catalog.codes.tolist()}
    for row, history in enumerate(HISTORIES):
        codes, scores = score_all_codes(model, tokenizer, catalog, history)
        order = scores.argsort(descending=True)
        assert result.semantic_ids[row] == catalog.layout.to_text(codes[order])
        torch.testing.assert_close(torch.tensor(result.scores[row]), scores[order], atol=1e-4, rtol=0)
        assert result.valid[row] == [tuple(c) in existing for c in codes[order].tolist()]
        assert result.item_ids[row] == [item for items in catalog.items_for(codes[order]) for item in items]
    rate = invalid_rate(result.semantic_ids, k=60, valid=catalog.layout.to_text(catalog.codes))
    assert rate == pytest.approx(1 - len(existing) / 60)


def test_narrow_beams_are_a_beam_search_over_all_codes(model, tokenizer, catalog):
    result = retrieve_unconstrained(model, tokenizer, catalog, HISTORIES, num_beams=4)
    for row, history in enumerate(HISTORIES):
        codes, scores = score_all_codes(model, tokenizer, catalog, history)
        best = dict(zip(catalog.layout.to_text(codes), scores.tolist(), strict=True))
        assert len(set(result.semantic_ids[row])) == 4
        assert result.scores[row] == pytest.approx([best[text] for text in result.semantic_ids[row]], abs=1e-4)
        assert result.scores[row] == sorted(result.scores[row], reverse=True)
    # more than there are
    assert len(retrieve_unconstrained(model, tokenizer, catalog, HISTORIES, num_beams=999).scores[0]) == 60
    assert retrieve_unconstrained(model, tokenizer, catalog, []).semantic_ids == []


def test_fallback_takes_an_item_of_the_longest_valid_prefix(model, tokenizer, catalog):
    plain = retrieve_unconstrained(model, tokenizer, catalog, HISTORIES, num_beams=12)
    result = retrieve_unconstrained(model, tokenizer, catalog, HISTORIES, num_beams=12, fallback="prefix")
    assert (plain.semantic_ids, plain.valid) == (result.semantic_ids, result.valid)
    assert not all(map(all, plain.valid))
    all_codes = catalog.codes.tolist()
    for texts, items, all_valid in zip(result.semantic_ids, result.item_ids, plain.item_ids, strict=True):
        assert len(set(items)) == len(items)
        expected = []
        for text in texts:
            codes = catalog.layout.from_text(text).tolist()
            exact = [row for row, other in enumerate(all_codes) if other == codes]
            expected += [catalog.item_ids[row] for row in exact]
            for depth in range(2, 0, -1) if not exact else ():
                shared = [row for row, other in enumerate(all_codes) if other[:depth] == codes[:depth]]
                if shared:
                    free = [catalog.item_ids[row] for row in shared]
                    expected += [item for item in free if item not in expected and item not in all_valid][:1]
                    break
        assert items == expected


def test_large_codebooks_need_no_memory(architecture, make_model):
    """4 levels of 64 codes: 16.8 million combinations, of which nothing is stored."""
    codes = torch.randint(64, (30, 4), generator=torch.Generator().manual_seed(0))
    catalog = SemanticIdCatalog.from_codes(list(range(30)), codes, codebook_sizes=[64] * 4)
    tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    model = make_model(architecture, catalog.layout.num_codes, semantic_id_fingerprint=catalog.fingerprint)
    result = retrieve_unconstrained(model, tokenizer, catalog, [[1, 2]], num_beams=5, fallback="prefix")
    assert sum(result.valid[0]) < 5 and len(result.item_ids[0]) <= 5


def test_refusals(model, tokenizer, catalog):
    with pytest.raises(ValueError, match="`fallback`"):
        retrieve_unconstrained(model, tokenizer, catalog, HISTORIES, fallback="nearest")
    with pytest.raises(ValueError, match="`num_beams`"):
        retrieve_unconstrained(model, tokenizer, catalog, HISTORIES, num_beams=0)
    model.config.semantic_id_fingerprint = "another"
    with pytest.raises(FingerprintMismatchError):
        retrieve_unconstrained(model, tokenizer, catalog, HISTORIES)


def test_a_table_of_some_items(model, tokenizer, catalog):
    """As a catalog of these items alone would do it, but for the rows of the catalog."""
    rows = [1, 4, 5, 8, 12, 13, 19]
    table = PrefixTable.from_catalog(catalog, tokenizer).restrict(torch.tensor(rows))
    for fallback in (None, "prefix"):
        result = retrieve_unconstrained(
            model, tokenizer, catalog, HISTORIES, num_beams=25, fallback=fallback, prefix_table=table
        )
        for codes, valid, item_ids in zip(result.semantic_ids, result.valid, result.item_ids, strict=True):
            named = [
                [row for row in rows if catalog.layout.to_text(catalog.codes[row : row + 1])[0] == text]
                for text in codes
            ]
            assert valid == [len(found) > 0 for found in named]
            expected = list(named)
            listed = {row for found in named for row in found}
            for place, text in enumerate(codes if fallback else ()):
                written = catalog.layout.from_text([text])[0].tolist()
                for depth in (2, 1) if not named[place] else ():
                    shared = [row for row in rows if catalog.codes[row, :depth].tolist() == written[:depth]]
                    if shared:
                        expected[place] = [row for row in shared if row not in listed][:1]
                        listed.update(expected[place])
                        break
            assert item_ids == [catalog.item_ids[row] for found in expected for row in found]


def test_batches_are_as_small_as_they_must_be(model, tokenizer, catalog, monkeypatch):
    expected = retrieve_unconstrained(model, tokenizer, catalog, HISTORIES, num_beams=10)
    monkeypatch.setattr(unconstrained, "CONTINUATIONS", 1)
    assert retrieve_unconstrained(model, tokenizer, catalog, HISTORIES, num_beams=10).item_ids == expected.item_ids
