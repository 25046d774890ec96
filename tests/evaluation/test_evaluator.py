# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The evaluator against `retrieve` with pure metrics, against brute force, and against itself on two processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration

from forge_hf import RetrievalEvaluator, SemanticIdCatalog, SemanticIdTokenizer, retrieve
from forge_hf.errors import (
    FingerprintMismatchError,
    InvalidSequencesError,
    UnknownItemError,
    UnsatisfiableRequestError,
)
from forge_hf.evaluation import (
    PopularityBaseline,
    catalog_coverage_at_k,
    evaluate_rankings,
    mrr_at_k,
    ndcg_at_k,
    recall_at_k,
)


NUM_ITEMS = 40


def make_catalog(on_collision="suffix"):
    codes = np.random.default_rng(0).integers(0, 5, (NUM_ITEMS, 2))
    return SemanticIdCatalog.from_codes(
        [f"i{row}" for row in range(NUM_ITEMS)], codes, codebook_sizes=[5, 5], on_collision=on_collision
    )


def make_model(catalog, kind="qwen2", num_user_buckets=0):
    tokenizer = SemanticIdTokenizer(layout=catalog.layout, num_user_buckets=num_user_buckets)
    torch.manual_seed(0)
    common = {"vocab_size": len(tokenizer), "semantic_id_fingerprint": catalog.fingerprint}
    if kind == "qwen2":
        config = Qwen2Config(
            hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            initializer_range=0.5, **common,
        )  # fmt: skip
        return Qwen2ForCausalLM(config), tokenizer
    config = T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id, initializer_factor=3.0, **common,
    )  # fmt: skip
    return T5ForConditionalGeneration(config), tokenizer


def make_dataset(catalog, num_rows=13, longest=20, several_targets=False, seed=1):
    rng = np.random.default_rng(seed)
    sequences = [rng.permutation(catalog.item_ids)[: rng.integers(2, longest + 2)].tolist() for _ in range(num_rows)]
    targets = [sequence[-1] for sequence in sequences]
    if several_targets:
        for row, sequence in enumerate(sequences):
            unseen = [item for item in catalog.item_ids if item not in sequence]
            targets[row] = [targets[row], *rng.permutation(unseen)[: row % 3].tolist()]
    return Dataset.from_dict(
        {"user_id": list(range(num_rows)), "history": [sequence[:-1] for sequence in sequences], "target": targets}
    )


def expected_scores(lists, targets, ks, prefix=""):
    scores = {}
    for k in ks:
        scores[f"{prefix}recall@{k}"] = recall_at_k(lists, targets, k)
        scores[f"{prefix}ndcg@{k}"] = ndcg_at_k(lists, targets, k)
    k = max(ks)
    scores[f"{prefix}mrr@{k}"] = mrr_at_k(lists, targets, k)
    scores[f"{prefix}coverage@{k}"] = catalog_coverage_at_k(lists, k, NUM_ITEMS)
    return scores


@pytest.mark.parametrize(
    ("kind", "on_collision", "num_beams", "several_targets"),
    [
        ("qwen2", "suffix", 10, False),
        ("qwen2", "keep", 12, True),
        ("t5", "suffix", 12, True),
        ("t5", "keep", 10, False),
    ],
)
def test_scores_are_those_of_retrieve(kind, on_collision, num_beams, several_targets):
    """Histories of up to 20 of 40 items and 10 beams: many lists run short and need a wider search."""
    catalog = make_catalog(on_collision)
    model, tokenizer = make_model(catalog, kind)
    dataset = make_dataset(catalog, num_rows=9, several_targets=several_targets)
    options = {"num_beams": num_beams, "batch_size": 4, "max_history": 6}
    scores = RetrievalEvaluator(dataset, catalog, ks=(10, 3), show_progress=False, **options)(model, tokenizer)

    expected = {}
    for prefix, exclude_history in (("", True), ("unmasked_", False)):
        result = retrieve(model, tokenizer, catalog, dataset["history"][:], exclude_history=exclude_history, **options)
        expected |= expected_scores(result.item_ids, dataset["target"][:], (3, 10), prefix)
    assert list(scores) == [*expected, "invalid_rate"]
    assert scores == pytest.approx(expected | {"invalid_rate": 0.0})
    left = [len(set(items) - set(history)) for items, history in zip(result.item_ids, dataset["history"], strict=True)]
    assert min(left) < 10  # the first search was too narrow for some rows


def test_scores_are_those_of_all_items_log_probabilities():
    """With as many beams as there are semantic IDs, beam search is exhaustive: here all items by teacher forcing."""
    catalog = make_catalog()
    model, tokenizer = make_model(catalog)
    model.eval()
    dataset = make_dataset(catalog, longest=5)
    token_ids = torch.tensor(tokenizer.convert_tokens_to_ids(tokenizer.semantic_id_tokens))
    item_tokens = token_ids[catalog.layout.to_index(catalog.codes)]
    lists = []
    for history in dataset["history"]:
        rows = catalog.indices_for(history)
        prompt = torch.cat([torch.tensor([tokenizer.sep_token_id]), item_tokens[rows].flatten()])
        with torch.no_grad():
            logits = model(torch.cat([prompt.expand(NUM_ITEMS, -1), item_tokens], dim=1)).logits
        log_probs = logits[:, len(prompt) - 1 : -1].log_softmax(-1).gather(-1, item_tokens.unsqueeze(-1)).sum((1, 2))
        log_probs[rows] = -torch.inf
        lists.append([catalog.item_ids[row] for row in log_probs.argsort(descending=True)[:10]])
    scores = RetrievalEvaluator(dataset, catalog, num_beams=NUM_ITEMS, show_progress=False)(model, tokenizer)
    expected = expected_scores(lists, dataset["target"][:], (5, 10))
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


def test_without_exclusion_there_is_one_reading():
    catalog = make_catalog()
    model, tokenizer = make_model(catalog)
    dataset = make_dataset(catalog)
    options = {"num_beams": 12, "show_progress": False}
    both = RetrievalEvaluator(dataset, catalog, **options)(model, tokenizer)
    one = RetrievalEvaluator(dataset, catalog, exclude_history=False, **options)(model, tokenizer)
    assert one == {name: both[f"unmasked_{name}"] for name in one if name != "invalid_rate"} | {"invalid_rate": 0.0}


def test_blocks_and_training_mode_make_no_difference(monkeypatch):
    catalog = make_catalog()
    model, tokenizer = make_model(catalog, "t5")  # with dropout
    dataset = make_dataset(catalog, num_rows=11)
    options = {"num_beams": 12, "show_progress": False, "batch_size": 2}
    one = RetrievalEvaluator(dataset, catalog, **options)(model.train(), tokenizer)
    assert model.training
    monkeypatch.setattr("forge_hf.evaluation.evaluator._BATCHES_PER_BLOCK", 2)
    many = RetrievalEvaluator(dataset, catalog, **options)(model.eval(), tokenizer)
    assert many == pytest.approx(one)


def test_user_tokens_are_read():
    catalog = make_catalog()
    model, tokenizer = make_model(catalog, num_user_buckets=7)
    dataset = make_dataset(catalog)
    scores = RetrievalEvaluator(dataset, catalog, num_beams=12, show_progress=False)(model, tokenizer)
    lists = retrieve(
        model, tokenizer, catalog, dataset["history"][:], num_beams=12, user_ids=dataset["user_id"][:]
    ).item_ids
    expected = expected_scores(lists, dataset["target"][:], (5, 10))
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert lists != retrieve(model, tokenizer, catalog, dataset["history"][:], num_beams=12).item_ids


def test_names_for_choosing_the_best_checkpoint():
    catalog = make_catalog()
    evaluator = RetrievalEvaluator(make_dataset(catalog), catalog, ks=(2, 7))
    assert evaluator.primary_metric == "ndcg@7" and evaluator.greater_is_better


def evaluate_here(rank, folder):
    """What each of two processes does: three datasets, one of them with fewer rows than processes."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    catalog = make_catalog()
    model, tokenizer = make_model(catalog)
    scores = []
    for num_rows in (13, 2, 1):
        dataset = make_dataset(catalog, num_rows=num_rows)
        scores.append(RetrievalEvaluator(dataset, catalog, num_beams=10, show_progress=False)(model, tokenizer))
    torch.distributed.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(scores))


def test_two_processes_give_what_one_gives(tmp_path):
    torch.multiprocessing.start_processes(evaluate_here, args=(tmp_path,), nprocs=2, start_method="fork")
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert both[0] == both[1]
    catalog = make_catalog()
    model, tokenizer = make_model(catalog)
    for num_rows, scores in zip((13, 2, 1), both[0], strict=True):
        dataset = make_dataset(catalog, num_rows=num_rows)
        alone = RetrievalEvaluator(dataset, catalog, num_beams=10, show_progress=False)(model, tokenizer)
        assert scores == pytest.approx(alone, abs=1e-12)


def test_rankings_made_elsewhere_get_the_same_names_and_values():
    catalog = make_catalog()
    model, tokenizer = make_model(catalog)
    dataset = make_dataset(catalog)
    lists = {
        exclude_history: retrieve(
            model, tokenizer, catalog, dataset["history"][:], num_beams=12, exclude_history=exclude_history
        ).item_ids
        for exclude_history in (True, False)
    }
    scores = RetrievalEvaluator(dataset, catalog, num_beams=12, show_progress=False)(model, tokenizer)
    same = evaluate_rankings(lists[True], dataset, catalog, unmasked_rankings=lists[False])
    assert list(same) == list(scores)
    assert same == pytest.approx(scores)

    ranked = PopularityBaseline(catalog.item_ids, dataset["history"][:]).rank(dataset["history"][:])
    scores = evaluate_rankings(ranked, dataset, catalog)
    assert scores == pytest.approx(expected_scores(ranked, dataset["target"][:], (5, 10)) | {"invalid_rate": 0.0})
    broken = [["nowhere", *items[1:]] for items in ranked]
    assert evaluate_rankings(broken, dataset, catalog)["invalid_rate"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ({"history": [["i0"]]}, InvalidSequencesError, "target"),
        ({"history": [], "target": []}, InvalidSequencesError, "no rows"),
        ({"history": [["i0"], []], "target": ["i1", "i2"]}, InvalidSequencesError, "without a history, such as row 1"),
        ({"history": [["i0"]], "target": [None]}, InvalidSequencesError, "without a target, such as row 0"),
        ({"history": [["i0"]], "target": [[]]}, InvalidSequencesError, "without a target, such as row 0"),
        ({"history": [["nowhere"]], "target": ["i1"]}, UnknownItemError, "nowhere"),
        ({"history": [["i0"]], "target": ["nowhere"]}, UnknownItemError, "nowhere"),
        ({"history": [[f"i{n}" for n in range(31)]], "target": ["i39"]}, UnsatisfiableRequestError, "holds 31"),
    ],
)
def test_bad_datasets_are_refused(rows, error, message):
    with pytest.raises(error, match=message):
        RetrievalEvaluator(Dataset.from_dict(rows), make_catalog())


def test_bad_arguments_are_refused():
    catalog = make_catalog()
    dataset = make_dataset(catalog)
    with pytest.raises(ValueError, match="`ks`"):
        RetrievalEvaluator(dataset, catalog, ks=(0, 5))
    with pytest.raises(ValueError, match="`num_beams` must be at least the largest of `ks`, 10"):
        RetrievalEvaluator(dataset, catalog, num_beams=9)
    with pytest.raises(UnsatisfiableRequestError, match="catalog has 40"):
        RetrievalEvaluator(dataset, catalog, ks=(41,), num_beams=50, exclude_history=False)
    model, tokenizer = make_model(catalog)
    model.config.semantic_id_fingerprint = "another"
    with pytest.raises(FingerprintMismatchError):
        RetrievalEvaluator(dataset, catalog, show_progress=False)(model, tokenizer)
    with pytest.raises(ValueError, match="13"):
        evaluate_rankings([["i0"]], dataset, catalog)
