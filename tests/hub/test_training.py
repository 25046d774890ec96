# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Training that starts from the Hub and ends there."""

import json
from pathlib import Path

import torch
from safetensors.torch import load

from forge_hf import SemanticIdCatalog, SyntheticMarket
from forge_hf.hub import is_generated


EXAMPLES = Path(__file__).parents[2] / "examples"


def put_market_on_hub(hub, tmp_path):
    """A dataset of sequences and a catalog, as users keep them on the Hub."""
    market = SyntheticMarket(num_items=100, num_users=80, seed=1)
    rows = zip(market.sequences["user_id"], market.sequences["items"], strict=True)
    lines = [json.dumps({"user_id": user, "items": list(items)}) for user, items in rows]
    hub.create("forge/market", {"train.jsonl": "\n".join(lines).encode()}, repo_type="dataset")
    codes = [[row // 10, row % 10] for row in range(100)]
    catalog = SemanticIdCatalog.from_codes(market.item_ids, codes, codebook_sizes=[10, 10], on_collision="keep")
    catalog.save_pretrained(tmp_path / "catalog")
    files = {path.name: path.read_bytes() for path in (tmp_path / "catalog").iterdir()}
    hub.create("forge/market-semantic-ids", files)
    return catalog


def test_launched_on_two_processes_from_a_hub_dataset_to_a_pushed_model(hub, run_command, run_python, tmp_path):
    """T5, whose own loss the Trainer of transformers 5 would multiply by the number of processes."""
    catalog = put_market_on_hub(hub, tmp_path)
    arguments = [
        EXAMPLES / "train_gr.py", "--sequences", "forge/market", "--catalog", "forge/market-semantic-ids",
        "--model", "t5-tiger", "--dropout_rate", 0, "--num_train_epochs", 1, "--evals", 2, "--num_beams", 10,
        "--private",
    ]  # fmt: skip
    two = ["launch", "--multi_gpu", "--num_processes", 2, "--main_process_port", 0, *arguments, "--batch_size", 16]
    runs = {
        "two": run_command(
            "accelerate", *two, "--output_dir", "two", "--push_to_hub", "forge/two", ACCELERATE_USE_CPU="true"
        ),
        "one": run_command(
            "python", *arguments, "--batch_size", 16, "--gradient_accumulation_steps", 2, "--output_dir", "one",
            "--push_to_hub", "forge/one", ACCELERATE_USE_CPU="true",
        ),
    }  # fmt: skip
    files = {}
    for name, done in runs.items():
        assert done.returncode == 0, done.stdout + done.stderr
        files[name] = hub.files(f"forge/{name}")
        run = json.loads(files[name]["run.json"])
        assert run["data"]["name"] == "forge/market" and run["data"]["num_users"] == 80
        assert run["metrics"][0]["num_examples"] == 80 and run["training"]["global_step"] > 5
        card = files[name]["README.md"].decode()
        assert f"{run['metrics'][0]['values']['ndcg@10']:.4f}" in card and "- forge/market" in card
        assert not any("optimizer" in file or file.endswith((".bin", ".pt", ".pth")) for file in files[name])
    # Really two processes (several launch forms quietly run one), and the result of one on the same global batch.
    processes = {name: json.loads(files[name]["run.json"])["training"]["num_processes"] for name in files}
    assert processes == {"two": 2, "one": 1}
    weights = {name: load(files[name]["model.safetensors"]) for name in files}
    for name, weight in weights["one"].items():
        torch.testing.assert_close(weights["two"][name], weight, atol=2e-3, rtol=0)
    ndcg = [json.loads(files[name]["run.json"])["metrics"][0]["values"]["ndcg@10"] for name in files]
    assert abs(ndcg[0] - ndcg[1]) < 0.01

    answer = run_python(
        """
        import json
        from transformers import pipeline
        import forge_hf
        recommend = pipeline("generative-retrieval", model="forge/two")
        print(json.dumps([recommend.catalog.fingerprint, len(recommend(recommend.catalog.item_ids[:3], top_k=7))]))
        """
    )
    assert answer == [catalog.fingerprint, 7]


def test_trainers_push_what_loads_and_no_pickle(hub, run_python):
    answer = run_python(
        """
        import json
        from pathlib import Path
        from transformers import AutoModel
        from forge_hf import *

        market = SyntheticMarket(num_items=60, num_users=60)
        items, splits = ItemEmbeddings(market.embeddings, market.item_ids), leave_one_out(market.sequences)
        config = RQVAEConfig(input_dim=items.dim, hidden_sizes=[16], codebook_dim=8, codebook_sizes=[8, 8])
        common = {"report_to": "none", "push_to_hub": True, "hub_private_repo": True, "use_cpu": True}
        args = RQVAETrainingArguments("rqvae", num_train_epochs=3, hub_model_id="forge/rqvae", **common)
        trainer = RQVAETrainer(RQVAEModel(config), args, train_dataset=items, eval_dataset=items)
        trainer.train()
        trainer.evaluate()
        trainer.push_to_hub(license="mit", datasets=["forge/market"])
        rqvae = AutoModel.from_pretrained("forge/rqvae")
        codes = rqvae.encode(items.to_tensor()).codes
        same = bool((codes == trainer.model.encode(items.to_tensor()).codes).all())

        catalog = SemanticIdCatalog.from_codes(market.item_ids, codes, codebook_sizes=[8, 8])
        model, tokenizer = create_retriever("qwen2-small", catalog, hidden_size=16, num_hidden_layers=1)
        args = RetrievalTrainingArguments(
            "gr", num_train_epochs=3, hub_model_id="forge/gr", hub_token="hf_local", hub_strategy="checkpoint",
            eval_num_beams=10, **common,
        )
        trainer = RetrievalTrainer(
            model, args, catalog=catalog, processing_class=tokenizer, train_dataset=splits["train"],
            eval_dataset=splits["validation"],
        )
        trainer.train()
        trainer.save_model()  # pushes, as with every Trainer
        best = trainer.state.best_metric
        print(json.dumps([same, best, catalog.fingerprint, load_retriever("forge/gr").catalog.fingerprint]))
        """
    )
    same, best, *fingerprints = answer
    assert same and fingerprints[0] == fingerprints[1]
    rqvae, gr = hub.files("forge/rqvae"), hub.files("forge/gr")
    card = rqvae["README.md"].decode()
    assert "license: mit" in card and "- forge/market" in card
    run = json.loads(rqvae["run.json"])
    assert run["task"] == "item-tokenization" and run["metrics"][0]["split"] == "items"
    assert len(run["semantic_ids"]["utilization"]) == 2

    # The metrics on the card are those of the weights that were pushed: the best checkpoint's.
    run = json.loads(gr["run.json"])
    assert [scores["values"]["ndcg@10"] for scores in run["metrics"]] == [best]
    top = {path for path in gr if "/" not in path}
    assert {"model.safetensors", "semantic_ids.json", "run.json", "README.md"} <= top
    assert not any(path.endswith((".bin", ".pt", ".pth")) for path in top), "nothing at the top is a pickle"
    assert "last-checkpoint/optimizer.pt" in gr, "the strategy that was asked for: to go on from the Hub"
    assert not any("training_args" in path for path in gr), "it would hold the token"


def test_lora_from_a_hub_model_to_a_pushed_adapter(hub, base, run_command, run_python, tmp_path):
    catalog = put_market_on_hub(hub, tmp_path)
    hub.create("forge/base", {path.name: path.read_bytes() for path in base.iterdir()})
    train = [
        EXAMPLES / "train_gr.py", "--sequences", "forge/market", "--catalog", "forge/market-semantic-ids",
        "--model", "forge/base", "--lora_rank", 2, "--num_train_epochs", 1, "--evals", 2, "--num_beams", 10,
    ]  # fmt: skip
    adapter = ["--save_adapter", "--output_dir", "adapter", "--push_to_hub", "forge/adapter"]
    done = run_command("python", *train, *adapter)
    assert done.returncode == 0, done.stderr
    files = hub.files("forge/adapter")
    assert {"adapter_config.json", "adapter_model.safetensors", "run.json", "semantic_ids.json"} <= files.keys()
    assert not {"model.safetensors", "config.json"} & files.keys()
    card = files["README.md"].decode()
    assert is_generated(card) and "base_model: forge/base" in card and "library_name: peft" in card
    run = json.loads(files["run.json"])["training"]
    assert run["num_trainable_parameters"] < run["num_parameters"] / 2

    # Pushed again from another process: the shell command, on the folder that the training left.
    assert run_command("forge-hf", "push", "adapter", "forge/copy").returncode == 0
    assert hub.files("forge/copy")["adapter_model.safetensors"] == files["adapter_model.safetensors"]
    answer = run_python(
        """
        import json
        from peft import AutoPeftModelForCausalLM
        from transformers import AutoTokenizer, pipeline
        from forge_hf import SemanticIdCatalog, retrieve
        catalog = SemanticIdCatalog.from_pretrained("forge/copy")
        model = AutoPeftModelForCausalLM.from_pretrained("forge/copy")
        tokenizer = AutoTokenizer.from_pretrained("forge/copy")
        history = catalog.item_ids[:3]
        found = retrieve(model, tokenizer, catalog, [history], top_k=5).item_ids[0]
        again = pipeline("generative-retrieval", model="forge/adapter")(history, top_k=5)
        print(json.dumps([catalog.fingerprint, found, [row["item_id"] for row in again]]))
        """
    )
    assert answer[0] == catalog.fingerprint and answer[1] == answer[2]

    # By default the adapter is merged: no file of the one that was pushed before stays in the repository.
    done = run_command("python", *train, "--output_dir", "merged", "--push_to_hub", "forge/copy")
    assert done.returncode == 0, done.stderr
    files = hub.files("forge/copy")
    assert "model.safetensors" in files and not any(name.startswith("adapter_") for name in files)
    assert json.loads(files["run.json"])["training"]["num_trainable_parameters"] == run["num_trainable_parameters"]
