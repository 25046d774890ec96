# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
In: ranked items (or a model that makes them) and what users did next. Out: numbers and pictures.
Knows metrics, baselines and how to score a model over a whole dataset; doesn't know how models are trained.
"""

from .baselines import Baseline, NearestNeighborsBaseline, PopularityBaseline, RandomBaseline
from .catalog_plots import plot_load_curves, plot_prefix_tree
from .evaluator import RetrievalEvaluator, evaluate_rankings
from .fusion import reciprocal_rank_fusion
from .metrics import (
    catalog_coverage_at_k,
    entropy_at_k,
    hit_rate_at_k,
    invalid_rate,
    mrr_at_k,
    ndcg_at_k,
    recall_at_k,
)
from .plots import plot_categories_by_first_code, plot_codebook_usage, plot_curves
from .prediction import predict_to_jsonl
from .prediction_scores import hit_rate_of_predictions
from .row_evaluator import RowEvaluator


__all__ = [
    "Baseline",
    "NearestNeighborsBaseline",
    "PopularityBaseline",
    "RandomBaseline",
    "RetrievalEvaluator",
    "RowEvaluator",
    "catalog_coverage_at_k",
    "entropy_at_k",
    "evaluate_rankings",
    "hit_rate_at_k",
    "hit_rate_of_predictions",
    "invalid_rate",
    "mrr_at_k",
    "ndcg_at_k",
    "plot_categories_by_first_code",
    "plot_codebook_usage",
    "plot_curves",
    "plot_load_curves",
    "plot_prefix_tree",
    "predict_to_jsonl",
    "recall_at_k",
    "reciprocal_rank_fusion",
]
