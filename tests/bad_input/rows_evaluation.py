# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
# fmt: off
# ruff: noqa: E501
"""forge_hf.evaluation: rankings, datasets and files of predictions that can't be scored."""

import datetime

import numpy as np
import torch
from datasets import Dataset

from forge_hf import ItemEmbeddings, PrefixTable, RetrievalEvaluator
from forge_hf.errors import (
    CorruptFileError,
    DuplicateItemError,
    FingerprintMismatchError,
    InvalidEmbeddingsError,
    InvalidSequencesError,
    MalformedRowsError,
    UnknownItemError,
    UnsatisfiableRequestError,
)
from forge_hf.evaluation import (
    NearestNeighborsBaseline,
    PopularityBaseline,
    RandomBaseline,
    RowEvaluator,
    catalog_coverage_at_k,
    entropy_at_k,
    evaluate_rankings,
    hit_rate_at_k,
    hit_rate_of_predictions,
    invalid_rate,
    mrr_at_k,
    ndcg_at_k,
    plot_categories_by_first_code,
    plot_codebook_usage,
    plot_curves,
    plot_load_curves,
    plot_prefix_tree,
    predict_to_jsonl,
    recall_at_k,
    reciprocal_rank_fusion,
)

from .world import INF, NAN, Row, table


RANKINGS, TRUTHS = [["a", "b"]], [["a"]]
PREDICTION = '{"answer": "a;b", "_generated_text_": ["C0C4"]}\n'


def rows(**columns):
    return Dataset.from_dict({"history": [["a", "b"]], "target": ["c"]} | columns)


def evaluator(w, dataset=None, **options):
    return RetrievalEvaluator(rows() if dataset is None else dataset, w.catalog, show_progress=False, **{"ks": (2,)} | options)


def text_rows(w, dataset=None, **options):
    return RowEvaluator(w.rows if dataset is None else dataset, w.catalog, show_progress=False, **{"ks": (2,)} | options)


def predict(w, dataset=None, path=None, **options):
    path = w.path("new.jsonl") if path is None else path
    predict_to_jsonl(w.model, w.tokenizer, w.catalog, w.rows if dataset is None else dataset, path, show_progress=False, **{"num_beams": 2} | options)


ROWS = table(
    # entry point         | bad input               | call                                        | error             | the message names
    ("catalog_coverage_at_k", "a catalog of none", lambda w: catalog_coverage_at_k([[]], 1, 0), ValueError, "`catalog_size`"),
    ("catalog_coverage_at_k", "more items than there are", lambda w: catalog_coverage_at_k(RANKINGS, 2, 1), ValueError, "`catalog_size`"),
    ("entropy_at_k", "an item without a category", lambda w: entropy_at_k(RANKINGS, {"a": "x"}, 2), ValueError, "`categories`"),
    ("entropy_at_k", "texts into a list", lambda w: entropy_at_k(RANKINGS, ["x", "y"], 2), ValueError, "`categories`"),
    ("entropy_at_k", "categories that are lists", lambda w: entropy_at_k(RANKINGS, {"a": ["x"], "b": ["y"]}, 2), ValueError, "`categories`"),
    ("invalid_rate", "k of 0", lambda w: invalid_rate(RANKINGS, 0), ValueError, "`k`"),
    ("invalid_rate", "one list", lambda w: invalid_rate(["a", "b"], 1), ValueError, "`rankings`"),
    ("evaluate_rankings", "a list for a dataset", lambda w: evaluate_rankings(RANKINGS, [{"history": ["a"]}], w.catalog), TypeError, "`dataset`"),
    ("evaluate_rankings", "fewer lists", lambda w: evaluate_rankings([], rows(), w.catalog), ValueError, "`rankings`"),
    ("evaluate_rankings", "k of 0", lambda w: evaluate_rankings(RANKINGS, rows(), w.catalog, ks=[0]), ValueError, "`ks`"),
    ("reciprocal_rank_fusion", "no rankings", lambda w: reciprocal_rank_fusion([]), ValueError, "`rankings`"),
    ("reciprocal_rank_fusion", "of other histories", lambda w: reciprocal_rank_fusion([RANKINGS, RANKINGS * 2]), ValueError, "`rankings`"),
    ("reciprocal_rank_fusion", "one ranking", lambda w: reciprocal_rank_fusion(RANKINGS), ValueError, "`rankings`"),
    ("reciprocal_rank_fusion", "NaN", lambda w: reciprocal_rank_fusion([RANKINGS], k=NAN), ValueError, "`k`"),
    ("reciprocal_rank_fusion", "inf", lambda w: reciprocal_rank_fusion([RANKINGS], k=INF), ValueError, "`k`"),
    ("reciprocal_rank_fusion", "top_k of 0", lambda w: reciprocal_rank_fusion([RANKINGS], top_k=0), ValueError, "`top_k`"),

    ("RandomBaseline", "duplicate ids", lambda w: RandomBaseline(["a", "a"]), DuplicateItemError, "`item_ids`"),
    ("RandomBaseline", "ids that are lists", lambda w: RandomBaseline([["a"]]), TypeError, "`item_ids`"),
    ("RandomBaseline", "one text", lambda w: RandomBaseline("abc"), TypeError, "`item_ids`"),
    ("RandomBaseline", "a negative seed", lambda w: RandomBaseline(["a"], seed=-1), ValueError, "`seed`"),
    ("RandomBaseline.rank", "zero-length history", lambda w: RandomBaseline(w.ids).rank([["a"], []]), InvalidSequencesError, "rows 1"),
    ("RandomBaseline.rank", "unknown items", lambda w: RandomBaseline(w.ids).rank([["x"]]), UnknownItemError, "'x'"),
    ("RandomBaseline.rank", "top_k of 0", lambda w: RandomBaseline(w.ids).rank([["a"]], top_k=0), ValueError, "`top_k`"),
    ("RandomBaseline.rank", "top_k of half an item", lambda w: RandomBaseline(w.ids).rank([["a"]], top_k=1.5), ValueError, "`top_k`"),
    ("RandomBaseline.rank", "top_k above what is left", lambda w: RandomBaseline(w.ids).rank([["a"]], top_k=12), UnsatisfiableRequestError, "`top_k`"),
    ("PopularityBaseline", "unknown items", lambda w: PopularityBaseline(["a"], [["x"]]), UnknownItemError, "`sequences`"),
    ("PopularityBaseline", "one sequence", lambda w: PopularityBaseline(["a"], ["a"]), InvalidSequencesError, "`sequences`"),
    ("NearestNeighborsBaseline", "NaN", lambda w: NearestNeighborsBaseline(w.vectors_with(NAN)), InvalidEmbeddingsError, "1 of 12 rows: 3"),
    ("NearestNeighborsBaseline", "fewer ids", lambda w: NearestNeighborsBaseline(np.ones((3, 2)), ["a"]), ValueError, "`item_ids`"),
    ("NearestNeighborsBaseline", "a list", lambda w: NearestNeighborsBaseline([[1.0, 2.0]]), TypeError, "`embeddings`"),
    ("NearestNeighborsBaseline", "duplicate ids", lambda w: NearestNeighborsBaseline(ItemEmbeddings(torch.ones(2, 2), ["a", "a"])), DuplicateItemError, "`item_ids`"),

    ("RetrievalEvaluator", "a list for a dataset", lambda w: evaluator(w, [{"history": ["a"], "target": "b"}]), TypeError, "`dataset`"),
    ("RetrievalEvaluator", "no column", lambda w: evaluator(w, w.sequences), InvalidSequencesError, "history"),
    ("RetrievalEvaluator", "empty", lambda w: evaluator(w, rows(history=[], target=[])), InvalidSequencesError, "`dataset`"),
    ("RetrievalEvaluator", "zero-length history", lambda w: evaluator(w, rows(history=[[]])), InvalidSequencesError, "row 0"),
    ("RetrievalEvaluator", "a missing history", lambda w: evaluator(w, rows(history=[None])), InvalidSequencesError, "row 0"),
    ("RetrievalEvaluator", "numbers for histories", lambda w: evaluator(w, rows(history=[1.5])), InvalidSequencesError, "row 0"),
    ("RetrievalEvaluator", "a missing target", lambda w: evaluator(w, rows(target=[None])), InvalidSequencesError, "row 0"),
    ("RetrievalEvaluator", "unknown items", lambda w: evaluator(w, rows(history=[["x"]])), UnknownItemError, "'x'"),
    ("RetrievalEvaluator", "an unknown target", lambda w: evaluator(w, rows(target=["x"])), UnknownItemError, "'x'"),
    ("RetrievalEvaluator", "a folder for a catalog", lambda w: RetrievalEvaluator(rows(), "runs/gr"), TypeError, "`catalog`"),
    ("RetrievalEvaluator", "one k", lambda w: evaluator(w, ks=5), ValueError, "`ks`"),
    ("RetrievalEvaluator", "k of half an item", lambda w: evaluator(w, ks=[2.5]), ValueError, "`ks`"),
    ("RetrievalEvaluator", "k above the catalog", lambda w: evaluator(w, ks=[12]), UnsatisfiableRequestError, "`ks`"),
    ("RetrievalEvaluator", "too few beams", lambda w: evaluator(w, num_beams=1), ValueError, "`num_beams`"),
    ("RetrievalEvaluator", "batches of none", lambda w: evaluator(w, batch_size=0), ValueError, "`batch_size`"),
    ("RetrievalEvaluator", "mismatched fingerprint", lambda w: RetrievalEvaluator(rows(), w.other_catalog, ks=(2,))(w.model, w.tokenizer), FingerprintMismatchError, "fingerprint"),
    ("RowEvaluator", "a list for a dataset", lambda w: text_rows(w, [{"user": "C0C4"}]), InvalidSequencesError, "`dataset`"),
    ("RowEvaluator", "no column", lambda w: text_rows(w, w.sequences), InvalidSequencesError, "`answer`"),
    ("RowEvaluator", "rows without codes", lambda w: text_rows(w, Dataset.from_dict({"user": ["hello"], "answer": ["a"]})), MalformedRowsError, "row 1"),
    ("RowEvaluator", "answers that are numbers", lambda w: text_rows(w, Dataset.from_dict({"user": ["C0C4"], "answer": [7]})), MalformedRowsError, "no `answer`"),
    ("RowEvaluator", "no room", lambda w: text_rows(w, max_source_length=2), ValueError, "`max_source_length`"),
    ("RowEvaluator", "too few beams", lambda w: text_rows(w, num_beams=1), ValueError, "`num_beams`"),

    ("predict_to_jsonl", "a file that is there", lambda w: predict(w, path=w.output("there.jsonl")), FileExistsError, "`path`"),
    ("predict_to_jsonl", "a list of rows", lambda w: predict(w, [{"user": "C0C4"}]), TypeError, "`rows`"),
    ("predict_to_jsonl", "no column", lambda w: predict(w, w.sequences), InvalidSequencesError, "`rows`"),
    ("predict_to_jsonl", "zero-length history", lambda w: predict(w, rows(history=[[]])), InvalidSequencesError, "`histories`"),
    ("predict_to_jsonl", "unknown items", lambda w: predict(w, rows(history=[["x"]])), UnknownItemError, "'x'"),
    ("predict_to_jsonl", "too many rows without codes", lambda w: predict(w, Dataset.from_dict({"user": ["hello"]})), MalformedRowsError, "row 1"),
    ("predict_to_jsonl", "columns that JSON can't hold", lambda w: predict(w, w.rows.add_column("when", [datetime.datetime(2026, 1, 1)] * 4)), ValueError, "`rows`"),
    ("predict_to_jsonl", "num_beams of 0", lambda w: predict(w, num_beams=0), ValueError, "`num_beams`"),
    ("predict_to_jsonl", "a billion beams", lambda w: predict(w, num_beams=10**9), ValueError, "`num_beams`"),
    ("predict_to_jsonl", "num_beams of other levels", lambda w: predict(w, num_beams=[2, 2, 2]), ValueError, "`num_beams`"),
    ("predict_to_jsonl", "batches of none", lambda w: predict(w, batch_size=0), ValueError, "`batch_size`"),
    ("predict_to_jsonl", "mismatched fingerprint", lambda w: predict_to_jsonl(w.model, w.tokenizer, w.other_catalog, w.rows, w.path("new.jsonl")), FingerprintMismatchError, "fingerprint"),
    ("predict_to_jsonl", "a table of another catalog", lambda w: predict(w, prefix_table=PrefixTable.from_catalog(w.other_catalog, w.tokenizer)), FingerprintMismatchError, "`prefix_table`"),
    ("hit_rate_of_predictions", "no file", lambda w: hit_rate_of_predictions(w.path("x.jsonl"), w.catalog), FileNotFoundError, "`path`"),
    ("hit_rate_of_predictions", "empty", lambda w: hit_rate_of_predictions(w.file("x.jsonl"), w.catalog), CorruptFileError, "x.jsonl"),
    ("hit_rate_of_predictions", "truncated", lambda w: hit_rate_of_predictions(w.file("x.jsonl", PREDICTION * 2 + PREDICTION[:20]), w.catalog), CorruptFileError, "x.jsonl"),
    ("hit_rate_of_predictions", "JSON with wrong types", lambda w: hit_rate_of_predictions(w.file("x.jsonl", '{"answer": 7, "_generated_text_": []}\n'), w.catalog), CorruptFileError, "x.jsonl"),
    ("hit_rate_of_predictions", "predictions that are numbers", lambda w: hit_rate_of_predictions(w.file("x.jsonl", '{"answer": "a", "_generated_text_": [7]}\n'), w.catalog), CorruptFileError, "x.jsonl"),
    ("hit_rate_of_predictions", "no UTF-8", lambda w: hit_rate_of_predictions(w.file("x.jsonl", b"\xff\n"), w.catalog), CorruptFileError, "x.jsonl"),
    ("hit_rate_of_predictions", "k of 0", lambda w: hit_rate_of_predictions(w.file("x.jsonl", PREDICTION), w.catalog, ks=[0]), ValueError, "`ks`"),

    ("plot_categories_by_first_code", "fewer categories", lambda w: plot_categories_by_first_code(w.catalog, ["x"], w.output("x.png")), ValueError, "`categories`"),
    ("plot_categories_by_first_code", "no row", lambda w: plot_categories_by_first_code(w.catalog, dict.fromkeys(w.ids, "x"), w.output("x.png"), max_categories=0), ValueError, "`max_categories`"),
    ("plot_codebook_usage", "a folder for a catalog", lambda w: plot_codebook_usage("runs/catalog", w.output("x.png")), TypeError, "`catalog`"),
    ("plot_load_curves", "a folder for a catalog", lambda w: plot_load_curves("runs/catalog", w.output("x.png")), TypeError, "`catalog`"),
    ("plot_prefix_tree", "items without a category", lambda w: plot_prefix_tree(w.catalog, w.output("x.png"), {"a": "x"}), ValueError, "`categories`"),
    ("plot_prefix_tree", "one text", lambda w: plot_prefix_tree(w.catalog, w.output("x.png"), "abcdefghijkl"), ValueError, "`categories`"),
    ("plot_curves", "no panel", lambda w: plot_curves([], w.output("x.png")), ValueError, "`panels`"),
    ("plot_curves", "no curves", lambda w: plot_curves([{"title": "x"}], w.output("x.png")), ValueError, "`curves`"),
    ("plot_curves", "NaN", lambda w: plot_curves([{"curves": {"x": ([1], [NAN])}}], w.output("x.png")), ValueError, "`curves`"),
    ("plot_curves", "more numbers for x", lambda w: plot_curves([{"curves": {"x": ([1, 2], [1])}}], w.output("x.png")), ValueError, "`curves`"),
)
for metric in (recall_at_k, hit_rate_at_k, ndcg_at_k, mrr_at_k):
    ROWS += [
        Row(metric.__name__, bad, lambda w, m=metric, given=given: m(*given), ValueError, names)
        for bad, given, names in (
            ("k of 0", (RANKINGS, TRUTHS, 0), "`k`"),
            ("k of half an item", (RANKINGS, TRUTHS, 2.5), "`k`"),
            ("k that is text", (RANKINGS, TRUTHS, "10"), "`k`"),
            ("no rows", ([], [], 1), "`rankings`"),
            ("fewer truths", (RANKINGS * 2, TRUTHS, 1), "`truths`"),
            ("a row without a truth", (RANKINGS, [[]], 1), "`truths`"),
            ("one truth", (RANKINGS, "a", 1), "`truths`"),
            ("one list", (["ab"], TRUTHS, 1), "`rankings`"),
            ("one array", (np.array([1, 2]), np.array([1, 2]), 1), "`rankings`"),
            ("floats", (np.array([[1.0, NAN]]), np.array([1]), 1), "integers"),
            ("items that are lists", ([[["a"]]], TRUTHS, 1), "`rankings`"),
        )
    ]
