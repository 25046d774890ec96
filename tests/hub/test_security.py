# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Hostile repositories run nothing and write nowhere, and a token stays where it was given."""

import json
import sys
import textwrap

import pytest
import torch
from transformers import AutoModelForCausalLM

from forge_hf import RQVAEConfig, RQVAEModel, SemanticIdCatalog
from forge_hf.training import add_lora, create_retriever


pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def read_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_files(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Files (name -> bytes) of an RQ-VAE, a retriever and a LoRA adapter of `evil/retriever`."""
    root = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    codes = [[item // 4, item % 4] for item in range(16)]
    catalog = SemanticIdCatalog.from_codes([f"i{item}" for item in range(16)], codes, codebook_sizes=[4, 4])
    config = RQVAEConfig(input_dim=6, hidden_sizes=[5], codebook_dim=4, codebook_sizes=[4, 4])
    RQVAEModel(config).save_pretrained(root / "rqvae")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    model, tokenizer = create_retriever("qwen2-small", catalog, **small)
    for part in (model, tokenizer, catalog):
        part.save_pretrained(root / "retriever")
    model = add_lora(AutoModelForCausalLM.from_pretrained(root / "retriever"), tokenizer, catalog, rank=1)
    for part in (model, tokenizer, catalog):
        part.save_pretrained(root / "adapter")
    return {folder.name: read_files(folder) for folder in root.iterdir()}


# --- Code in a repository ---

CLASSES = """
from transformers import Pipeline, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM


class Config(Qwen2Config):
    pass


class Model(Qwen2ForCausalLM):
    config_class = Config


class Tokenizer(PreTrainedTokenizerFast):
    pass


class Recommender(Pipeline):
    def __init__(self, *args, **kwargs):
        pass


def generate(*args, **kwargs):
    return "generated"


RQVAEConfig, RQVAEModel, SemanticIdTokenizer = Config, Model, Tokenizer
"""
CODE_FILES = [
    "__init__.py", "code.py", "code_assignment.py", "configuration_rqvae.py", "contrastive_loss.py",
    "custom_generate/generate.py",
    "evil_module.py", "handler.py", "modeling_item_tokenizer.py", "modeling_neural_item_tokenizer.py",
    "modeling_rqvae.py", "pipeline.py", "quantization.py", "setup.py", "sitecustomize.py",
    "tokenization_semantic_id.py",
]  # fmt: skip


def hostile_code(repo_id):
    """Files that leave a note when they are imported."""
    source = 'import os\nopen(os.path.join(os.environ["NOTES"], {!r}), "w").close()\n' + CLASSES
    return {name: source.format(f"{repo_id}/{name}".replace("/", " ")).encode() for name in CODE_FILES}


def change_json(content, **changes):
    return json.dumps(json.loads(content) | changes).encode()


def auto_map(prefix="", module="code"):
    code = f"{prefix}{module}"
    return {
        "AutoConfig": f"{code}.Config", "AutoModel": f"{code}.Model", "AutoModelForCausalLM": f"{code}.Model",
        "AutoModelForSeq2SeqLM": f"{code}.Model", "AutoProcessor": f"{code}.Tokenizer",
    }  # fmt: skip


def create_hostile_repos(hub, saved):
    rqvae, retriever, adapter = (dict(saved[name]) for name in ("rqvae", "retriever", "adapter"))

    # As ours, but for what the files do.
    assert {name for name in rqvae if name.endswith(".py")} < set(CODE_FILES)
    assert {"modeling_rqvae.py", "configuration_rqvae.py", "code_assignment.py"} < rqvae.keys()
    assert "tokenization_semantic_id.py" in retriever
    hub.create("evil/rqvae", rqvae | hostile_code("evil/rqvae"))

    everywhere = {"custom_generate": "evil/code", "trust_remote_code": True}
    generation = change_json(retriever["generation_config.json"], custom_generate="evil/code", trust_remote_code=True)
    tokenizer = {"trust_remote_code": True, "tokenizer_class": "Tokenizer"}

    def hostile_retriever(repo_id, model_map, tokenizer_map):
        config = change_json(retriever["config.json"], auto_map=model_map, **everywhere)
        tokenizer_config = retriever["tokenizer_config.json"]
        if tokenizer_map:
            tokenizer_config = change_json(tokenizer_config, auto_map={"AutoTokenizer": tokenizer_map}, **tokenizer)
        files = retriever | hostile_code(repo_id)
        files |= {
            "config.json": config,
            "tokenizer_config.json": tokenizer_config,
            "generation_config.json": generation,
        }
        hub.create(repo_id, files)

    hostile_retriever("evil/retriever", auto_map(), ["code.Tokenizer", "code.Tokenizer"])
    hostile_retriever("evil/ours", {}, None)  # the tokenizer's config is ours, and the code that it names isn't
    hostile_retriever("evil/remote", auto_map("evil/code--"), [None, "evil/code--code.Tokenizer"])
    unknown = change_json(retriever["config.json"], model_type="evil", auto_map=auto_map(), architectures=["Model"])
    hub.create("evil/unknown", retriever | hostile_code("evil/unknown") | {"config.json": unknown})
    impl = {"impl": "pipeline.Recommender", "pt": ["AutoModelForCausalLM"], "tf": []}
    pipelines = {"generative-retrieval": impl, "text-generation": impl}
    pipelines = change_json(retriever["config.json"], custom_pipelines=pipelines, trust_remote_code=True)
    hub.create("evil/pipelines", retriever | hostile_code("evil/pipelines") | {"config.json": pipelines})
    kernel = change_json(retriever["config.json"], _attn_implementation="evil/code", attn_implementation="evil/code")
    hub.create("evil/kernel", retriever | hostile_code("evil/kernel") | {"config.json": kernel})
    hub.create("evil/code", hostile_code("evil/code"))
    hub.create("evil/catalog", {name: retriever[name] for name in retriever if name.startswith("semantic_ids")}
               | hostile_code("evil/catalog"))  # fmt: skip

    settings = json.loads(adapter["adapter_config.json"])
    library = {"parent_library": "evil_module", "base_model_class": "Model"}
    for name, base in (("evil/adapter", "evil/retriever"), ("evil/adapter-ours", "evil/ours")):
        changes = {"base_model_name_or_path": base, "auto_mapping": settings["auto_mapping"] | library,
                   "trust_remote_code": True, "tokenizer_kwargs": {"trust_remote_code": True}}  # fmt: skip
        config = change_json(adapter["adapter_config.json"], **changes)
        hub.create(name, adapter | hostile_code(name) | {"adapter_config.json": config})


ATTEMPTS = """
    import json, os, sys
    from pathlib import Path

    if sys.argv[1] == "with":
        import forge_hf
        from forge_hf import SemanticIdCatalog, load_retriever
    from huggingface_hub import snapshot_download
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers import pipeline

    notes = Path(os.environ["NOTES"])
    result = {}

    def attempt(name, load, *args, **kwargs):
        loaded, error = None, None
        try:
            loaded = load(*args, **kwargs)
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        result[name] = [error, sorted(path.name for path in notes.iterdir())]
        for path in notes.iterdir():
            path.unlink()
        return loaded

    repos = ["rqvae", "retriever", "ours", "remote", "unknown", "pipelines", "kernel", "adapter", "adapter-ours"]
    loads = {auto.__name__: auto.from_pretrained
             for auto in (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer)}
    loads["text-generation"] = lambda repo: pipeline("text-generation", model=repo)
    if sys.argv[1] == "with":
        loads["load_retriever"] = load_retriever
        loads["generative-retrieval"] = lambda repo: pipeline("generative-retrieval", model=repo)
        loads["SemanticIdCatalog"] = SemanticIdCatalog.from_pretrained
        repos.append("catalog")
    for repo in repos:
        for where in ("evil", "folder"):
            source = f"evil/{repo}"
            if where == "folder":  # a copy, from within it
                source = snapshot_download(source, local_dir=repo)
                home = os.getcwd()
                os.chdir(source)
                source = "."
            for name, load in loads.items():
                loaded = attempt(f"{name} {where}/{repo}", load, source)
                if hasattr(loaded, "generate"):
                    attempt(f"{name} {where}/{repo} generate", loaded.generate, max_new_tokens=1, do_sample=False)
            if where == "folder":
                os.chdir(home)
    for auto, repo in [(AutoModel, "retriever"), (AutoTokenizer, "ours"), (AutoModelForCausalLM, "remote")]:
        attempt(f"trusted: {auto.__name__} {repo}", auto.from_pretrained, f"evil/{repo}", trust_remote_code=True)
    attempt("trusted: generate ours", AutoModelForCausalLM.from_pretrained, "evil/ours", trust_remote_code=True)
    attempt("trusted: pipeline", pipeline, "text-generation", model="evil/pipelines", trust_remote_code=True)
    print()  # the question about trust has no line end
    print(json.dumps(result))
    """


@pytest.mark.parametrize("forge_hf", ["with", "without"])
def test_code_of_a_repository_runs_only_if_it_is_trusted(hub, run_python, saved, tmp_path, forge_hf):
    create_hostile_repos(hub, saved)
    (tmp_path / "notes").mkdir()
    options = {"without_forge_hf": forge_hf == "without", "NOTES": str(tmp_path / "notes")}
    result = run_python(ATTEMPTS, forge_hf, **options)
    expected = {
        "trusted: AutoModel retriever": "evil retriever code.py",
        "trusted: AutoTokenizer ours": "evil ours tokenization_semantic_id.py",
        "trusted: AutoModelForCausalLM remote": "evil code code.py",
        "trusted: generate ours": "evil ours custom_generate generate.py",
        "trusted: pipeline": "evil pipelines pipeline.py",
    }
    harmless = [name for name, note in expected.items() if note not in result.pop(name)[1]]
    assert harmless == [], "these files would run, if they were trusted"
    assert len(result) > 100
    assert {name: notes for name, (_, notes) in result.items() if notes} == {}
    if forge_hf == "with":
        loaded = {name for name, (error, _) in result.items() if error is None}
        assert {"load_retriever evil/ours", "load_retriever evil/adapter", "generative-retrieval folder/ours",
                "AutoModel evil/rqvae", "SemanticIdCatalog evil/catalog"} < loaded  # fmt: skip


# --- Names that lead out of a folder ---


def test_names_of_files_and_repositories_stay_in_their_folder(hub, run_python, saved, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    retriever, adapter = saved["retriever"], saved["adapter"]
    names = ["../evil.json", "../../../evil.json", "a/../../evil.json", f"{outside}/evil.json", "C:\\evil.json",
             "additional_chat_templates/../../../evil.jinja", f"additional_chat_templates/{outside}/evil.jinja",
             "..\\evil.json", "evil.json"]  # fmt: skip
    hub.create("evil/names", retriever | dict.fromkeys(names, b"{}"))
    weights = {name: content for name, content in retriever.items() if name != "model.safetensors"}
    places = ["../../evil.safetensors", f"{outside}/evil.safetensors", "..\\evil.safetensors"]
    for number, place in enumerate(places):
        index = {"metadata": {"total_size": 1}, "weight_map": {"lm_head.weight": place}}
        index = {"model.safetensors.index.json": json.dumps(index).encode(), place: retriever["model.safetensors"]}
        hub.create(f"evil/index{number}", weights | index)
    base = change_json(adapter["adapter_config.json"], base_model_name_or_path="../../evil")
    hub.create("evil/base", adapter | {"adapter_config.json": base})
    hub.create("evil/evil", retriever)
    write_files(tmp_path / "rqvae", saved["rqvae"])
    catalog = {name: content for name, content in retriever.items() if name.startswith("semantic_ids.")}
    write_files(tmp_path / "catalog", catalog)
    ids = ["../x", "..", "a/b/c", "a/../x", "x/..", "/x", "//x", "a b", "a\\b", "", "forge/x/../../y", "forge/..x"]
    result = run_python(
        """
        import json, sys
        from pathlib import Path
        from forge_hf import RQVAEModel, SemanticIdCatalog, load_retriever, push_folder
        from transformers import AutoTokenizer, pipeline

        def attempt(load, *args, **kwargs):
            try:
                load(*args, **kwargs)
            except Exception as error:
                return [kind.__name__ for kind in type(error).__mro__]

        root, ids = Path(sys.argv[1]), json.loads(sys.argv[2])
        catalog = SemanticIdCatalog.from_pretrained(root / "catalog")
        rqvae = RQVAEModel.from_pretrained(root / "rqvae")
        loads = [SemanticIdCatalog.from_pretrained, load_retriever]
        pushes = [lambda name: push_folder(root / "catalog", name), catalog.push_to_hub, rqvae.push_to_hub,
                  lambda name: push_folder(root / "catalog", name, repo_type="dataset")]
        print(json.dumps({
            "names": [attempt(load, "evil/names") for load in [*loads, AutoTokenizer.from_pretrained]]
            + [attempt(pipeline, "generative-retrieval", model="evil/names")],
            "index": [attempt(load_retriever, f"evil/index{number}") for number in range(3)],
            "base": attempt(load_retriever, "evil/base"),
            "loads": {name: [attempt(load, name) for load in loads] for name in ids},
            "pushes": {name: [attempt(push, name) for push in pushes] for name in ids},
        }))
        """,
        tmp_path,
        json.dumps(ids),
    )
    assert result["names"] == [None] * 4
    assert None not in result["index"] and None is not result["base"]
    for kind, expected in (("loads", "FileNotFoundError"), ("pushes", "ValueError")):
        wrong = {name: errors for name, errors in result[kind].items() if not all(expected in e for e in errors)}
        assert wrong == {}, kind
    asked = {request.path for request in hub.requests if "evil" not in request.path}
    assert asked == set(), "no request was made for a name that is no repository"
    written = [path for path in tmp_path.rglob("*evil*") if not path.is_relative_to(hub.root / "repos")]
    cache = hub.root / "home" / "hub"
    assert [path for path in written if not path.is_relative_to(cache)] == []
    assert list(outside.iterdir()) == []
    snapshots = {path.relative_to(cache).parts[:2] for path in cache.rglob("*evil.*")}
    assert snapshots <= {("models--evil--names", "snapshots")}


# --- Tokens ---

TOKEN = "hf_" + "aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA"


@pytest.fixture
def owner_token(hub, monkeypatch):
    """A token that looks like one, of the user who may write."""
    monkeypatch.setitem(sys.modules[type(hub).__module__].TOKENS, TOKEN, "forge")
    return TOKEN


def search(process, token, *folders):
    """Where the token is: what a process wrote to its streams, and the files below folders, archives included."""
    streams = {"stdout": process.stdout, "stderr": process.stderr}
    found = [name for name, text in streams.items() if token in text]
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        # torch.save doesn't compress.
        if token.encode() in path.read_bytes() or token in str(path):
            found.append(str(path))
    return found


PUSHES = """
    import logging, os

    logging.basicConfig(level=logging.DEBUG)
    import huggingface_hub, transformers

    huggingface_hub.logging.set_verbosity_debug()
    transformers.logging.set_verbosity_debug()

    import torch
    from datasets import Dataset
    from transformers import AutoModel, AutoTokenizer, pipeline
    from forge_hf import (
        ItemEmbeddings, RetrievalTrainer, RetrievalTrainingArguments, RQVAEConfig, RQVAEModel, RQVAETrainer,
        RQVAETrainingArguments, SemanticIdCatalog, create_retriever, load_retriever, push_folder,
    )

    token = {"token": os.environ["GIVEN"]}
    private = {"private": True, **token}
    rqvae = RQVAEModel(RQVAEConfig(input_dim=6, hidden_sizes=[5], codebook_dim=4, codebook_sizes=[4, 4]))
    rqvae.push_to_hub("forge/rqvae", **private)
    AutoModel.from_pretrained("forge/rqvae", **token).save_pretrained("rqvae", **token)
    push_folder("rqvae", "forge/rqvae-folder", **private)
    codes = [[item // 4, item % 4] for item in range(16)]
    catalog = SemanticIdCatalog.from_codes([f"i{item}" for item in range(16)], codes, codebook_sizes=[4, 4])
    catalog.push_to_hub("forge/catalog", **private)
    SemanticIdCatalog.from_pretrained("forge/catalog", **token).save_pretrained("catalog")

    def settings(name, strategy):
        return dict(
            output_dir=name, push_to_hub=True, hub_model_id=f"forge/{name}", hub_token=os.environ["GIVEN"],
            hub_strategy=strategy, hub_private_repo=True, hub_always_push=True, max_steps=2, save_steps=1,
            save_strategy="steps", eval_strategy="no", logging_steps=1, report_to="none", log_level="debug",
            use_cpu=True,
        )

    def train(trainer):
        print(trainer.args, trainer.args.to_json_string(), trainer.args.to_sanitized_dict())
        trainer.train()
        trainer.push_to_hub()

    small = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    model, tokenizer = create_retriever("qwen2-small", catalog, **small)
    rows = Dataset.from_dict({"user_id": ["u"] * 8, "items": [[f"i{row}", "i3", "i4"] for row in range(8)]})
    args = RetrievalTrainingArguments(**settings("trained", "checkpoint"), load_best_model_at_end=False)
    train(RetrievalTrainer(model, args, catalog=catalog, processing_class=tokenizer, train_dataset=rows))
    items = ItemEmbeddings(torch.randn(32, 6))
    args = RQVAETrainingArguments(**settings("trained-rqvae", "all_checkpoints"), kmeans_init=False)
    train(RQVAETrainer(rqvae, args, train_dataset=items))

    for part in load_retriever("forge/trained", **token):
        part.save_pretrained("loaded")
    push_folder("loaded", "forge/loaded", **private)
    recommend = pipeline("generative-retrieval", model="forge/trained", **token)
    recommend.save_pretrained("piped")
    recommend.push_to_hub("forge/piped", **private)
    AutoTokenizer.from_pretrained("forge/trained", **token).save_pretrained("tokenizer")
    """


def test_a_token_is_in_no_log_no_file_and_no_commit(hub, run_command, owner_token, tmp_path):
    (tmp_path / "pushes.py").write_text(textwrap.dedent(PUSHES))
    process = run_command("python", "-P", tmp_path / "pushes.py", token=None, GIVEN=owner_token)
    assert process.returncode == 0, process.stderr[-5000:]
    assert "HTTP Request" in process.stderr and "DEBUG" in process.stderr, "what is logged is searched"
    repos = ["rqvae", "rqvae-folder", "catalog", "trained", "trained-rqvae", "loaded", "piped"]
    assert all(hub.read(f"forge/{name}")["private"] for name in repos), "the token was needed"
    assert "last-checkpoint/optimizer.pt" in hub.files("forge/trained")
    work = tmp_path / "work"
    assert (work / "trained" / "checkpoint-2" / "run.json").exists() and (work / "loaded" / "config.json").exists()
    # Every file of every commit is one of the blobs.
    assert search(process, owner_token, work, hub.root) == []
    assert all(owner_token not in request.path for request in hub.requests)
    # The search sees what is there.
    (work / "leak").write_text(f"hub_token: {owner_token}")
    assert search(process, owner_token, work, hub.root) == [str(work / "leak")]


def test_a_token_that_is_refused_is_not_shown(hub, run_command, owner_token, tmp_path, saved):
    folder = tmp_path / "rqvae"
    write_files(folder, saved["rqvae"])
    source = """
        import os, sys, traceback
        from forge_hf import SemanticIdCatalog, load_retriever, push_folder

        def push(name, **kwargs):
            push_folder(sys.argv[1], name, **kwargs)

        token = os.environ["GIVEN"]
        wrong = {
            "unknown": token + "0", "line end": token + chr(10), "blank": token + " x", "nul": token + chr(0),
            "accent": token + chr(233), "two lines": token + chr(13) + chr(10) + "X-Header: 1",
        }
        for name, given in wrong.items():
            for load in (SemanticIdCatalog.from_pretrained, load_retriever, push):
                try:
                    load("forge/rqvae", token=given)
                except Exception:
                    text = traceback.format_exc()
                    print(load.__qualname__, name, "shown:" if token in text else "not shown:", text.splitlines()[-1])
                else:
                    print(load.__qualname__, name, "no error")
        """
    (tmp_path / "wrong.py").write_text(textwrap.dedent(source))
    hub.create("forge/rqvae", private=True)
    process = run_command("python", "-P", tmp_path / "wrong.py", folder, token=None, GIVEN=owner_token)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("shown:") == 18
    assert [line for line in process.stdout.splitlines() if " not shown:" not in line] == []


def test_the_command_shows_no_token_when_it_fails(hub, run_command, owner_token, tmp_path, saved):
    folder = tmp_path / "rqvae"
    write_files(folder, saved["rqvae"])
    hub.fail("/upload/", 403, times=100)
    process = run_command("forge-hf", "push", folder, "forge/rqvae", "--token", owner_token, token=None)
    assert process.returncode != 0
    assert search(process, owner_token, tmp_path) == []
