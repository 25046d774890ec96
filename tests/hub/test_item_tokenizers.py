# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Item tokenizers that are fitted: pushed to the Hub, and back by name as their own class."""

from forge_hf.hub import is_generated


def test_fitted_item_tokenizers_push_and_load(hub, run_python):
    loaded = run_python(
        """
        import json, torch
        import forge_hf
        from transformers import AutoModel
        embeddings = torch.randn(100, 12, generator=torch.Generator().manual_seed(0))
        answer = {}
        others = {"OPQ": {"codebook_sizes": [8, 8]}, "ResidualKMeansFSQ": {"fsq_levels": [2, 2]}}
        for name in ("ResidualKMeans", "HierarchicalKMeans", "LSH", "RandomIds", *others):
            options = {"codebook_sizes": [8, 4]} | others.get(name, {})
            config = getattr(forge_hf, f"{name}Config")(input_dim=12, **options)
            model = getattr(forge_hf, f"{name}Model")(config).fit(forge_hf.ItemEmbeddings(embeddings))
            model.push_to_hub(f"forge/{config.model_type}", private=True)
            back = AutoModel.from_pretrained(f"forge/{config.model_type}")
            same = torch.equal(back.encode(embeddings).codes, model.encode(embeddings).codes)
            answer[config.model_type] = [type(back).__name__, same]
        print(json.dumps(answer))
        """
    )
    assert loaded == {
        "residual_kmeans": ["ResidualKMeansModel", True],
        "hierarchical_kmeans": ["HierarchicalKMeansModel", True],
        "lsh": ["LSHModel", True],
        "random_ids": ["RandomIdsModel", True],
        "opq": ["OPQModel", True],
        "residual_kmeans_fsq": ["ResidualKMeansFSQModel", True],
    }
    for name in loaded:
        assert len(hub.commits(f"forge/{name}")) == 2, "one commit after the repository's first"
        files = hub.files(f"forge/{name}")
        assert {"config.json", "model.safetensors", "README.md"} <= files.keys()
        assert not any(file.endswith(".py") for file in files) and is_generated(files["README.md"].decode())
