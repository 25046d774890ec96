# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""`run.json`, the facts of a run: they are of the weights that lie beside it, and survive a resume."""

import json

import pytest
import torch

from forge_hf import RetrievalTrainer, RetrievalTrainingArguments, RQVAEConfig, RQVAEModel, create_retriever
from forge_hf.data import ItemEmbeddings
from forge_hf.evaluation import RetrievalEvaluator
from forge_hf.hub import is_generated, read_folder, render_card
from forge_hf.training import RQVAETrainer, RQVAETrainingArguments


COMMON = {"report_to": "none", "use_cpu": True, "disable_tqdm": True}


def make_trainer(catalog, splits, folder, **arguments):
    torch.manual_seed(0)
    model, tokenizer = create_retriever("qwen2-small", catalog, hidden_size=16, num_hidden_layers=1)
    args = RetrievalTrainingArguments(
        str(folder), num_train_epochs=3, per_device_train_batch_size=16, learning_rate=1e-2, eval_num_beams=10,
        max_history=7, dataset_name="forge/ring", save_total_limit=9, **COMMON, **arguments,
    )  # fmt: skip
    return RetrievalTrainer(
        model, args, catalog=catalog, processing_class=tokenizer, train_dataset=splits["train"],
        eval_dataset=splits["validation"],
    )  # fmt: skip


def test_facts_are_of_the_weights_beside_them(ring_catalog, ring_splits, tmp_path):
    odd = {"metric_for_best_model": "ndcg@5", "greater_is_better": False}  # so that an early one is the best
    trainer = make_trainer(ring_catalog, ring_splits, tmp_path, **odd)
    trainer.train()
    trainer.save_model(tmp_path / "final")
    for folder in (tmp_path / "final", *tmp_path.glob("checkpoint-*")):
        model, _ = create_retriever("qwen2-small", ring_catalog, hidden_size=16, num_hidden_layers=1)
        model = type(model).from_pretrained(folder)
        evaluator = RetrievalEvaluator(ring_splits["validation"], ring_catalog, num_beams=10, show_progress=False)
        (scores,) = json.loads((folder / "run.json").read_text())["metrics"]
        assert scores["values"] == pytest.approx(evaluator(model, trainer.processing_class))
        assert scores["split"] == "validation" and scores["num_examples"] == 80
        assert model.config.semantic_id_max_history == 7
    run = json.loads((tmp_path / "final" / "run.json").read_text())
    assert run["data"] == {
        "name": "forge/ring", "num_items": 40, "num_users": 80,
        "num_interactions": sum(map(len, ring_splits["train"]["items"])),
    }  # fmt: skip
    assert run["training"]["num_parameters"] == trainer.model.num_parameters()
    assert run["training"]["lr_scheduler_type"] == "linear" and run["training"]["max_history"] == 7
    # The card of the folder says the same, and is nobody's.
    trainer.save_model()
    trainer.create_model_card(license="mit")
    card = (tmp_path / "README.md").read_text()
    assert is_generated(card) and "license: mit" in card and f"{scores['values']['ndcg@10']:.4f}"[:4] in card
    (tmp_path / "README.md").write_text("# Mine")
    trainer.create_model_card()
    assert (tmp_path / "README.md").read_text() == "# Mine"


def test_time_goes_on_after_a_resume(ring_catalog, ring_splits, tmp_path):
    make_trainer(ring_catalog, ring_splits, tmp_path).train()
    checkpoint = min(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    run = json.loads((checkpoint / "run.json").read_text())
    run["training"]["seconds"] = 5000
    (checkpoint / "run.json").write_text(json.dumps(run))
    trainer = make_trainer(ring_catalog, ring_splits, tmp_path)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert 5000 < trainer.train_seconds < 5100
    trainer.save_model(tmp_path / "final")
    assert json.loads((tmp_path / "final" / "run.json").read_text())["training"]["seconds"] >= 5000


def test_rqvae(tmp_path):
    items = ItemEmbeddings(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)))
    model = RQVAEModel(RQVAEConfig(input_dim=8, hidden_sizes=[], codebook_dim=4, codebook_sizes=[4, 4]))
    args = RQVAETrainingArguments(str(tmp_path), num_train_epochs=2, **COMMON)
    trainer = RQVAETrainer(model, args, train_dataset=items, eval_dataset=items)
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model()
    facts = read_folder(tmp_path)
    assert facts.kind == "item_tokenizer" and "run.json" in facts.files
    assert {"code_assignment.py", "configuration_rqvae.py", "modeling_rqvae.py"} <= set(facts.files)
    assert facts.run["data"] == {"name": None, "num_items": 60, "embedding_dim": 8}
    assert facts.run["semantic_ids"] == {
        "codebook_sizes": [4, 4], "num_items": 60, "collision_rate": metrics["eval_collision_rate"],
        "utilization": [metrics[f"eval_utilization_{level}"] for level in range(2)],
        "perplexity": [metrics[f"eval_perplexity_{level}"] for level in range(2)],
    }  # fmt: skip
    card = render_card(facts, "me/rqvae")
    assert f"{metrics['eval_collision_rate']:.4f}"[:5] in card or f"{100 * metrics['eval_collision_rate']:.3g}" in card
    trainer.train()  # these codes are no longer those of the weights
    trainer.save_model()
    assert "utilization" not in read_folder(tmp_path).run["semantic_ids"]
