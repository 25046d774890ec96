# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Retrievers by name: in plain transformers and peft, and in `pipeline`, the same as where they were saved."""

import json
from functools import partial

import pytest
import torch

from forge_hf import SemanticIdCatalog, add_lora, create_retriever, retrieve
from forge_hf.hub import is_generated


pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

HISTORIES = [["i3", "i4", "i5"], ["i20"]]
T5_SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1}
QWEN2_SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
TINY = {"t5": ("t5-tiger", T5_SIZES), "qwen2": ("qwen2-small", QWEN2_SIZES)}


@pytest.fixture
def catalog():
    ids, codes = [f"i{n}" for n in range(30)], [[n // 8, n % 8] for n in range(30)]
    return SemanticIdCatalog.from_codes(ids, codes, codebook_sizes=[4, 8], on_collision="keep")


@pytest.fixture
def other_catalog(catalog):
    return SemanticIdCatalog(catalog.item_ids, catalog.codes.flip(0), catalog.layout)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def saved(folder, *parts):
    for part in parts:
        part.save_pretrained(folder)
    return files_of(folder)


@pytest.fixture
def make_retriever(catalog, tmp_path):
    """`make_retriever(kind, seed=0, catalog=...)`: model and tokenizer of a random retriever, and their files."""

    def make(kind, seed=0, catalog=catalog):
        torch.manual_seed(seed)
        preset, overrides = TINY[kind]
        model, tokenizer = create_retriever(preset, catalog, num_user_buckets=5, **overrides)
        return model.eval(), tokenizer, saved(tmp_path / f"{kind}-{seed}", model, tokenizer, catalog)

    return make


@pytest.fixture
def make_adapter(base, catalog, tmp_path):
    """`make_adapter(seed=0)`: as `make_retriever`, for an adapter on the repository forge/base."""

    def make(seed=0):
        model, tokenizer = create_retriever(str(base), catalog)
        model = add_lora(model, tokenizer, catalog, rank=2)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        model.peft_config["default"].base_model_name_or_path = "forge/base"
        return model.eval(), tokenizer, saved(tmp_path / f"adapter-{seed}", model, tokenizer, catalog)

    return make


def answers(model, tokenizer, catalog):
    result = retrieve(model, tokenizer, catalog, HISTORIES, top_k=4, user_ids=[7, 8])
    return [list(map(list, zip(*row, strict=True))) for row in zip(result.item_ids, result.scores, strict=True)]


def same(actual, expected):
    """The same items in the same order, with the same scores."""
    assert [[item for item, _ in row] for row in actual] == [[item for item, _ in row] for row in expected]
    for row, expected_row in zip(actual, expected, strict=True):
        assert [score for _, score in row] == pytest.approx([score for _, score in expected_row], abs=1e-4)
    return True


def test_plain_transformers_and_peft(hub, run_python, make_retriever, make_adapter, base):
    text = {"t5": "C1C5 C3C11", "qwen2": "C1C5 C3C11", "adapter": "recommend C1C5 a blue shirt"}
    made = {"t5": make_retriever("t5"), "qwen2": make_retriever("qwen2"), "adapter": make_adapter()}
    hub.create("forge/base", files_of(base))
    expected = {}
    for name, (model, tokenizer, files) in made.items():
        hub.create(f"forge/{name}", files)
        batch = tokenizer(text[name], return_tensors="pt", return_token_type_ids=False)
        if model.config.is_encoder_decoder:
            batch["decoder_input_ids"] = torch.tensor([[0, 9]])
        with torch.no_grad():
            expected[name] = {"ids": batch.input_ids[0].tolist(), "logits": model(**batch).logits[0].tolist()}

    actual = run_python(
        """
        import importlib.util, json, sys
        import torch
        from peft import AutoPeftModelForCausalLM
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        assert importlib.util.find_spec("forge_hf") is None
        classes = {"t5": AutoModelForSeq2SeqLM, "qwen2": AutoModelForCausalLM, "adapter": AutoPeftModelForCausalLM}
        result = {}
        for name, text in json.loads(sys.argv[1]).items():
            tokenizer = AutoTokenizer.from_pretrained(f"forge/{name}")
            model = classes[name].from_pretrained(f"forge/{name}").eval()
            batch = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
            if model.config.is_encoder_decoder:
                batch["decoder_input_ids"] = torch.tensor([[0, 9]])
            with torch.no_grad():
                logits = model(**batch).logits[0].tolist()
            result[name] = {"ids": batch.input_ids[0].tolist(), "logits": logits}
        print(json.dumps(result))
        """,
        json.dumps(text),
        without_forge_hf=True,
    )
    for name in made:
        assert actual[name]["ids"] == expected[name]["ids"]
        torch.testing.assert_close(
            torch.tensor(actual[name]["logits"]), torch.tensor(expected[name]["logits"]), rtol=1e-5, atol=1e-5
        )


def test_pipeline_by_name(hub, run_python, make_retriever, make_adapter, base, catalog, other_catalog):
    old, new = {}, {}
    hub.create("forge/base", files_of(base))
    hub.create("forge/private-base", files_of(base), private=True)
    for name in ("t5", "qwen2", "adapter"):
        make = make_adapter if name == "adapter" else partial(make_retriever, name)
        model, tokenizer, files = make(seed=0)
        old[name] = answers(model, tokenizer, catalog)
        hub.create(f"forge/{name}", files)
        latest = other_catalog if name == "t5" else catalog
        model, tokenizer, files = make(seed=1) if latest is catalog else make(seed=1, catalog=latest)
        new[name] = answers(model, tokenizer, latest)
        hub.add_files(f"forge/{name}", files)

    config = json.loads(files["adapter_config.json"]) | {"base_model_name_or_path": "forge/private-base"}
    hub.create("forge/private", make_retriever("qwen2", 1)[2], private=True)
    hub.create("forge/private-adapter", files | {"adapter_config.json": json.dumps(config).encode()}, private=True)

    foreign = make_retriever("qwen2", 2, catalog=other_catalog)[2]
    own = make_retriever("qwen2", 3)[2]
    catalog_files = ("semantic_ids.json", "semantic_ids.safetensors")
    hub.create("forge/foreign", own | {name: foreign[name] for name in catalog_files})
    hub.create("forge/bare", {name: content for name, content in own.items() if name not in catalog_files})
    hub.create("forge/bare-adapter", {name: content for name, content in files.items() if name not in catalog_files})

    commits = {name: hub.commits(f"forge/{name}")[1]["id"] for name in old}
    result = run_python(
        """
        import json, sys
        from huggingface_hub import HfApi
        from transformers import pipeline
        import forge_hf
        from forge_hf.generation import load_retriever

        HISTORIES, commits = json.loads(sys.argv[1])

        def answers(model, **options):
            recommend = pipeline("generative-retrieval", model=model, device="cpu", **options)
            rows = recommend(HISTORIES, top_k=4, user_ids=[7, 8])
            return [[[entry["item_id"], entry["score"]] for entry in row] for row in rows]

        def error(load, *args, **options):
            try:
                load(*args, **options)
            except Exception as error:
                return [type(error).__name__, str(error)]

        result = {"new": {}, "tag": {}, "commit": {}, "cache": {}}
        for name, commit in commits.items():
            HfApi().create_tag(f"forge/{name}", tag="v1", revision=commit)
            result["new"][name] = answers(f"forge/{name}")
            if name == "adapter":  # transformers looks for the revision in the base, too
                load = lambda revision: load_retriever("forge/adapter", revision=revision)._asdict()
                result["tag"][name] = answers(**load("v1"))
                result["commit"][name] = answers(**load(commit))
            else:
                result["tag"][name] = answers(f"forge/{name}", revision="v1")
                result["commit"][name] = answers(f"forge/{name}", revision=commit)
            result["cache"][name] = answers(**load_retriever(f"forge/{name}", local_files_only=True)._asdict())
        result["dtype"] = str(pipeline("generative-retrieval", model="forge/adapter", dtype="bfloat16").dtype)
        for name in ("foreign", "bare", "bare-adapter"):
            result[name] = error(pipeline, "generative-retrieval", model=f"forge/{name}")
        result["no revision"] = error(load_retriever, "forge/t5", revision="v2")

        recommend = pipeline("generative-retrieval", model="forge/adapter", device="cpu")
        result["oid"] = recommend.push_to_hub("forge/pushed", private=True, commit_message="Pushed").oid
        result["pushed"] = answers("forge/pushed")
        print(json.dumps(result))
        """,
        json.dumps([HISTORIES, commits]),
    )
    for name in old:
        assert same(result["new"][name], new[name])
        assert same(result["cache"][name], new[name])
        assert same(result["tag"][name], old[name])
        assert same(result["commit"][name], old[name])
        assert old[name] != new[name]
    assert result["dtype"] == "torch.bfloat16"

    fingerprint, other = catalog.fingerprint, other_catalog.fingerprint
    kind, message = result["foreign"]
    assert kind == "FingerprintMismatchError" and fingerprint in message and other in message
    for name in ("bare", "bare-adapter"):
        kind, message = result[name]
        assert kind == "FileNotFoundError" and fingerprint in message and "push_to_hub" in message
    assert result["no revision"][0] == "HubError" and "'v2'" in result["no revision"][1]
    refused = ("/foreign/", "/bare/", "/bare-adapter/")
    weights = [request.path for request in hub.requests if request.path.endswith("model.safetensors")]
    assert weights and not any(name in path for name in refused for path in weights), "refused before weights are read"

    assert same(result["pushed"], new["adapter"])
    first, *before = hub.commits("forge/pushed")
    assert first["id"] == result["oid"] and first["title"] == "Pushed" and len(before) == 1
    pushed = hub.files("forge/pushed")
    assert is_generated(pushed["README.md"].decode()) and hub.read("forge/pushed")["private"]
    assert {"adapter_config.json", "adapter_model.safetensors", *catalog_files} <= pushed.keys()
    assert "config.json" not in pushed and len(pushed["adapter_model.safetensors"]) < 100_000

    private = run_python(
        """
        import json, sys
        from transformers import pipeline
        import forge_hf
        from forge_hf.generation import load_retriever

        def loaded(name, **options):
            return pipeline("generative-retrieval", device="cpu", **load_retriever(name, **options)._asdict())

        def by_name(name, **options):
            return pipeline("generative-retrieval", model=name, device="cpu", **options)

        result = {}
        for name in ("forge/private", "forge/private-adapter"):
            token, cache = {"token": "hf_local"}, {"local_files_only": True}
            for load, options in [(loaded, {}), (by_name, {}), (loaded, token), (loaded, cache), (by_name, token)]:
                try:
                    rows = load(name, **options)(json.loads(sys.argv[1]), top_k=4, user_ids=[7, 8])
                except OSError as error:
                    answer = [type(error).__name__, str(error)]
                else:
                    answer = [[[entry["item_id"], entry["score"]] for entry in row] for row in rows]
                result.setdefault(name, []).append(answer)
        print(json.dumps(result))
        """,
        json.dumps(HISTORIES),
        token=None,
    )
    for name, expected in {"forge/private": new["qwen2"], "forge/private-adapter": new["adapter"]}.items():
        (kind, message), (_, of_transformers), *loaded = private[name]
        assert kind == "HubError" and "private" in message and "token" in of_transformers
        assert len(loaded) == 3 and all(same(answer, expected) for answer in loaded)
