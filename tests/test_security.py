# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Files that somebody else made: nothing in them runs, leaves its folder, or takes memory that isn't there."""

import ast
import json
import pickle
import shutil
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    TrainingArguments,
    pipeline,
)

import forge_hf
from forge_hf import RQVAEConfig, RQVAEModel, RQVAETrainer, RQVAETrainingArguments, SemanticIdCatalog, load_retriever
from forge_hf.cli import app
from forge_hf.data import ItemEmbeddings
from forge_hf.errors import CorruptCatalogError
from forge_hf.hub import read_folder
from forge_hf.training import RetrievalTrainingArguments, add_lora, create_retriever


# From peft, under transformers 5.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


# --- What the package's own code may not do ---

# Modules that unpickle, run programs, load machine code, or unpack archives, whose names may lead out of a folder.
FORBIDDEN_MODULES = {
    "_pickle", "cPickle", "cloudpickle", "code", "commands", "ctypes", "dill", "jsonpickle", "joblib", "marshal",
    "pickle", "pty", "runpy", "shelve", "subprocess", "tarfile", "zipfile",
}  # fmt: skip
FORBIDDEN_NAMES = {
    "__import__", "compile", "eval", "exec", "os.popen", "os.startfile", "os.system", "pandas.read_pickle",
    "shutil.unpack_archive", "torch.hub", "torch.jit.load", "torch.load", "torch.save", "yaml.full_load", "yaml.load",
    "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all",
}  # fmt: skip
# Settings that would open what is closed, and the one value that they may have.
ONLY_VALUES = {"allow_pickle": False, "shell": False, "trust_remote_code": False, "weights_only": True}


def violations(source):
    """What a module's code does that it may not: names after their imports, not as text."""
    tree, found, aliases = ast.parse(source), [], {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.split(".")[0]
                aliases[alias.asname or package] = alias.name if alias.asname else package
                found += [alias.name] if package in FORBIDDEN_MODULES else []
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found += [node.module] if node.module.split(".")[0] in FORBIDDEN_MODULES else []

    def full_name(node):
        if isinstance(node, ast.Attribute):
            return f"{full_name(node.value)}.{node.attr}"
        return aliases.get(node.id, node.id) if isinstance(node, ast.Name) else "?"

    def is_only_value(name, node):
        return isinstance(node, ast.Constant) and node.value is ONLY_VALUES[name]

    safe_loads = set()
    for node in ast.walk(tree):
        settings = []
        if isinstance(node, ast.Call):
            settings = [(keyword.arg, keyword.value) for keyword in node.keywords]
            if any(name == "allow_pickle" and is_only_value(name, value) for name, value in settings):
                safe_loads.add(node.func)
        elif isinstance(node, ast.Dict):
            keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
            settings = list(zip(keys, node.values, strict=True))
        elif isinstance(node, ast.Assign):
            targets = [target.slice for target in node.targets if isinstance(target, ast.Subscript)]
            settings = [(key.value, node.value) for key in targets if isinstance(key, ast.Constant)]
        found += [name for name, value in settings if name in ONLY_VALUES and not is_only_value(name, value)]
        if isinstance(node, ast.Name | ast.Attribute):
            name = full_name(node)
            if name in FORBIDDEN_NAMES or name.startswith(("os.exec", "os.spawn", "os.posix_spawn")):
                found.append(name)
            if name == "numpy.load" and node not in safe_loads:
                found.append(name)
    return found


@pytest.mark.parametrize(
    "source, expected",
    [
        ("import pickle", ["pickle"]),
        ("import os, _pickle as p", ["_pickle"]),
        ("def f():\n    from joblib import load", ["joblib"]),
        ("from subprocess import run", ["subprocess"]),
        ("import torch\nx = torch.load('x')", ["torch.load"]),
        ("import torch as t\nx = map(t.load, 'x')", ["torch.load"]),
        ("from torch import load as read\nread('x', weights_only=True)", ["torch.load"]),
        ("import numpy as np\nnp.load('x')", ["numpy.load"]),
        ("from numpy import load\nload('x', allow_pickle=None)", ["allow_pickle", "numpy.load"]),
        ("import numpy as np\nnp.load('x', allow_pickle=False)", []),
        ("import yaml\nyaml.load(x, Loader)", ["yaml.load"]),
        ("import yaml\nyaml.safe_load(x)", []),
        ("eval('1')", ["eval"]),
        ("model.eval()", []),
        ("re.compile('x')", []),
        ("import os\nos.system('x')", ["os.system"]),
        ("from os import execv\nexecv('x')", ["os.execv"]),
        ("load('x', trust_remote_code=True)", ["trust_remote_code"]),
        ("load('x', trust_remote_code=trust)", ["trust_remote_code"]),
        ("load('x', trust_remote_code=False)", []),
        ("load('x', **{'trust_remote_code': True})", ["trust_remote_code"]),
        ("kwargs['trust_remote_code'] = True", ["trust_remote_code"]),
        ("load('x', weights_only=False)", ["weights_only"]),
        ("text = 'import pickle; torch.load(x)'  # torch.load", []),
    ],
)
def test_the_check_of_code_sees_what_is_forbidden(source, expected):
    assert sorted(violations(source)) == sorted(expected)


def test_the_package_has_no_code_that_could_unpickle_or_run_what_it_reads():
    files = sorted(Path(forge_hf.__file__).parent.rglob("*.py"))
    assert len(files) > 30
    assert {path.name: found for path in files if (found := violations(path.read_text("utf-8")))} == {}


# --- Pickles, wherever a load could find one ---


class Evil:
    """Unpickling makes the file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


def write_pickles(marker, folder, form, *names):
    """Pickles that make `marker`: bare, or in the archive that `torch.save` writes."""
    for name in names:
        if form == "bare":
            (folder / name).write_bytes(pickle.dumps({"weight": Evil(marker)}, protocol=2))
        else:
            torch.save({"weight": Evil(marker)}, folder / name)


def attempt(load, *args, **kwargs):
    """What `load` raises, if it does."""
    try:
        load(*args, **kwargs)
    except Exception as error:  # noqa: BLE001
        return error
    return None


forms = pytest.mark.parametrize("form", ["bare", "torch"])


@forms
def test_the_pickles_of_these_tests_would_run(tmp_path, marker, form):
    write_pickles(marker, tmp_path, form, "x.bin")
    attempt(torch.load, tmp_path / "x.bin", weights_only=True)
    assert not marker.exists()
    attempt(torch.load, tmp_path / "x.bin", weights_only=False)
    assert marker.exists()


@pytest.fixture(scope="module")
def catalog():
    codes = [[item // 4, item % 4] for item in range(16)]
    return SemanticIdCatalog.from_codes([f"i{item}" for item in range(16)], codes, codebook_sizes=[4, 4])


@pytest.fixture(scope="module")
def saved(tmp_path_factory, catalog):
    """A folder each of an RQ-VAE, a retriever of either kind, an adapter and its base, and a catalog."""
    root = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    config = RQVAEConfig(input_dim=6, hidden_sizes=[5], codebook_dim=4, codebook_sizes=[4, 4])
    RQVAEModel(config).save_pretrained(root / "rqvae")
    catalog.save_pretrained(root / "catalog")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    qwen2, tokenizer = create_retriever("qwen2-small", catalog, **small)
    t5, _ = create_retriever("t5-tiger", catalog, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_decoder_layers=1)
    for name, model in (("base", qwen2), ("qwen2", qwen2), ("t5", t5)):
        for part in (model, tokenizer, catalog):
            part.save_pretrained(root / name)
    model = add_lora(AutoModelForCausalLM.from_pretrained(root / "base"), tokenizer, catalog, rank=1)
    for part in (model, tokenizer, catalog):
        part.save_pretrained(root / "adapter")
    return root


LOADERS = {
    "rqvae": [AutoModel.from_pretrained, RQVAEModel.from_pretrained],
    "qwen2": [AutoModel.from_pretrained, AutoModelForCausalLM.from_pretrained, load_retriever],
    "t5": [AutoModelForSeq2SeqLM.from_pretrained, load_retriever],
    "adapter": [AutoModelForCausalLM.from_pretrained, load_retriever],
}


def recommender(folder):
    return pipeline("generative-retrieval", model=str(folder))


@forms
@pytest.mark.parametrize("name", LOADERS)
def test_pickled_weights_do_not_run(saved, tmp_path, marker, name, form):
    loaders = LOADERS[name] + ([recommender] if name != "rqvae" else [])
    for loader in loaders:
        assert attempt(loader, saved / name) is None, "the folder is whole before"
    folder = shutil.copytree(saved / name, tmp_path / name)
    [weights] = folder.glob("*model.safetensors")
    weights.unlink()
    write_pickles(marker, folder, form, "pytorch_model.bin", "adapter_model.bin", "model.bin", "model.pt")
    index = {"metadata": {}, "weight_map": {"weight": "pytorch_model.bin"}}
    for with_index in (False, True):
        if with_index:
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        for loader in loaders:
            assert attempt(loader, folder) is not None
            assert not marker.exists(), loader
    write_pickles(marker, folder, form, weights.name)
    for loader in loaders:
        assert attempt(loader, folder) is not None
        assert not marker.exists(), loader


@forms
def test_pickles_in_place_of_other_files_do_not_run(saved, tmp_path, marker, form):
    names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
             "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model", "chat_template.jinja", "config.json",
             "generation_config.json", "semantic_ids.json", "semantic_ids.safetensors", "run.json"]  # fmt: skip
    for name in names:
        folder = shutil.copytree(saved / "qwen2", tmp_path / name)
        write_pickles(marker, folder, form, name)
        if name in ("vocab.txt", "spiece.model", "tokenizer.model"):
            (folder / "tokenizer.json").unlink()  # otherwise nobody reads them
        for loader in (AutoTokenizer.from_pretrained, PreTrainedTokenizerFast.from_pretrained, load_retriever,
                       SemanticIdCatalog.from_pretrained, read_folder):  # fmt: skip
            error = attempt(loader, folder)
            assert not marker.exists(), (name, loader)
            if name.startswith("semantic_ids") and loader is SemanticIdCatalog.from_pretrained:
                assert type(error) is CorruptCatalogError


@forms
def test_pickled_embeddings_do_not_run(tmp_path, marker, form):
    objects = np.empty((3, 2), dtype=object)
    objects[:] = Evil(marker)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    write_pickles(marker, tmp_path, form, "bare.npy", "bare.safetensors", "bare.parquet", "bare.arrow")
    # Arrow once unpickled the types of columns.
    evil_type = {"ARROW:extension:name": "arrow.py_extension_type",
                 "ARROW:extension:metadata": pickle.dumps(Evil(marker))}  # fmt: skip
    column = pa.array([[1.0, 2.0]], pa.list_(pa.float32()))
    schema = pa.schema([pa.field("embedding", column.type, metadata=evil_type)])
    pa.parquet.write_table(pa.table([column], schema=schema), tmp_path / "type.parquet")
    for path in sorted(tmp_path.iterdir()):
        error = attempt(lambda path=path: ItemEmbeddings.from_file(path).validate())
        assert not marker.exists(), path.name
        assert error is not None or path.name == "type.parquet"
    attempt(np.load, tmp_path / "objects.npy", allow_pickle=True)
    assert marker.exists()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint in the middle of a training, and what resumes it."""
    root = tmp_path_factory.mktemp("run")
    items = ItemEmbeddings(torch.randn(32, 6))

    def train(resume=None):
        args = RQVAETrainingArguments(
            str(root / "out"), max_steps=4, save_steps=2, save_strategy="steps", per_device_train_batch_size=8,
            kmeans_init=False, report_to="none", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        config = RQVAEConfig(input_dim=6, hidden_sizes=[5], codebook_dim=4, codebook_sizes=[4, 4])
        trainer = RQVAETrainer(RQVAEModel(config), args, train_dataset=items)
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        return trainer.state.global_step

    train()
    shutil.copytree(root / "out" / "checkpoint-2", root / "checkpoint-2")
    return root / "checkpoint-2", train


@forms
@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin",
             "trainer_state.json", "run.json"],
)  # fmt: skip
def test_pickles_in_a_checkpoint_do_not_run(checkpoint, tmp_path, marker, name, form):
    folder, train = checkpoint
    folder = shutil.copytree(folder, tmp_path / folder.name)
    assert (folder / name).exists() or name in ("training_args.bin", "pytorch_model.bin")
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    write_pickles(marker, folder, form, name)
    error = attempt(train, folder)
    assert not marker.exists()
    assert error is not None or name == "training_args.bin"  # which nothing reads


# --- Names that lead out of a folder ---


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_links_out_of_a_folder_are_refused(saved, tmp_path, target, repo_type):
    folder = shutil.copytree(saved / "catalog", tmp_path / "catalog")
    (folder / "data").mkdir()
    (folder / "data" / "a.csv").write_text("a\n1\n")
    secret = tmp_path / "secret"
    if target == "folder":
        secret.mkdir()
        (secret / "b.csv").write_text("a\n1\n")
    elif target == "file":
        secret.write_text("a\n1\n")
    read_folder(folder, repo_type)
    places = ["notes.csv", "README.md"] + ["data/notes.csv"] * (repo_type == "dataset")
    for place in places:
        for to in (secret, Path("../" * (1 + place.count("/")) + "secret")):
            (folder / place).symlink_to(to, target_is_directory=target == "folder")
            with pytest.raises(ValueError, match="link out of the folder"):
                read_folder(folder, repo_type)
            (folder / place).unlink()
    # Through a second link, and in place of a file that is read and pushed.
    (folder / "inside.csv").symlink_to("also.csv")
    (folder / "also.csv").symlink_to(secret)
    with pytest.raises(ValueError, match="link out of the folder"):
        read_folder(folder, repo_type)
    (folder / "inside.csv").unlink()
    (folder / "also.csv").rename(folder / "config.json")
    with pytest.raises(ValueError, match="link out of the folder"):
        read_folder(folder, repo_type)


def test_links_within_a_folder_are_files_of_it(saved, tmp_path):
    folder = shutil.copytree(saved / "catalog", tmp_path / "real")
    (folder / "copy.json").symlink_to(folder / "semantic_ids.json")
    (folder / "relative.json").symlink_to("copy.json")
    (tmp_path / "link").symlink_to(folder)
    assert {"copy.json", "relative.json"} < set(read_folder(folder).files)
    assert read_folder(tmp_path / "link").files == read_folder(folder).files


@pytest.mark.parametrize("outside", ["../outside.safetensors", "{root}/outside.safetensors"])
def test_an_index_of_weights_cannot_name_other_folders(saved, tmp_path, outside):
    folder = shutil.copytree(saved / "qwen2", tmp_path / "qwen2")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    weights = load_file(tmp_path / "outside.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, outside.format(root=tmp_path))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises((ValueError, OSError)):
        load_retriever(folder)


@pytest.mark.parametrize("name", ["../x", "a/b/c", "/nowhere/x", "a/../../x", "x/..", "..", "", "a b", "a\\b"])
def test_a_name_that_is_no_repository_is_not_looked_for(name, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for load in (SemanticIdCatalog.from_pretrained, load_retriever):
        with pytest.raises(FileNotFoundError):
            load(name)


@pytest.mark.parametrize(
    "name",
    ["x.pkl", "x.pickle", "x.pt", "x.bin", "x.joblib", "data/x.ckpt",
     "x.PKL",
     "x.dill"],
)  # fmt: skip
def test_pickles_are_not_shared(saved, tmp_path, marker, name):
    folder = shutil.copytree(saved / "catalog", tmp_path / "catalog")
    (folder / "data").mkdir()
    write_pickles(marker, folder, "bare", name)
    with pytest.raises(ValueError, match="may be a pickle"):
        read_folder(folder, "dataset")
    assert not marker.exists()


# --- Sizes that no machine has ---


@pytest.mark.parametrize(
    "load, name",
    [
        (read_folder, "config.json"),
        (read_folder, "semantic_ids.json"),
        (read_folder, "run.json"),
        (load_retriever, "config.json"),
        (load_retriever, "semantic_ids.json"),
    ],
)
def test_deep_json_is_refused(saved, tmp_path, load, name):
    folder = shutil.copytree(saved / "qwen2", tmp_path / "qwen2")
    (folder / name).write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(ValueError):
        load(folder)


def write_safetensors(path, header, data=b"", claimed=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header) if claimed is None else claimed) + header + data)


def tensor(dtype, shape, start, stop):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def absurd_catalogs(saved, root):
    """Folders with a catalog whose files claim what they don't hold."""
    settings = json.loads((saved / "catalog" / "semantic_ids.json").read_text())
    codes = load_file(saved / "catalog" / "semantic_ids.safetensors")
    count, width = codes["codes"].shape

    def folder(name, **changes):
        target = shutil.copytree(saved / "catalog", root / name)
        (target / "semantic_ids.json").write_text(json.dumps(settings | changes))
        return target / "semantic_ids.safetensors"

    folder("many items", num_items=10**15)
    folder("many digits", num_items=10**4000)
    folder("negative items", num_items=-1)
    folder("no items", num_items=0)
    folder("large codebook", codebook_sizes=[2**60, 4, 1])
    folder("huge codebook", codebook_sizes=[10**4000, 4, 1])
    folder("many levels", codebook_sizes=[1] * 300_000)
    json_file = "semantic_ids.json"
    folder("large JSON").with_name(json_file).open("a").write(" " * 2**21)
    with folder("sparse JSON").with_name(json_file).open("r+") as file:
        file.truncate(2**40)
    folder("deep JSON").with_name(json_file).write_text("[" * 100_000)
    folder("empty JSON").with_name(json_file).write_text("")

    offsets = codes["item_id_offsets"]
    middle = len(offsets) // 2
    for name, at, value in [
        ("offsets jump", middle, 10**15), ("offsets jump in 64 bits", middle, 2**63 - 1),
        ("negative offsets", middle, -(10**15)), ("offsets start late", 0, 1), ("offsets end late", -1, 2**62),
    ]:  # fmt: skip
        changed = offsets.clone()
        changed[at] = value
        save_file(codes | {"item_id_offsets": changed}, folder(name))

    ids = {"item_id_offsets": tensor("I64", [count + 1], 192, 328), "item_id_bytes": tensor("U8", [52], 328, 380)}
    body, many = bytes(380), 10**15
    claims = {
        "items in both files": tensor("I32", [many, width], 0, 4 * many * width),
        "items in the shape alone": tensor("I32", [many, width], 0, 192),
        "product beyond 64 bits": tensor("I32", [2**62, 16], 0, 192),
        "negative shape": tensor("I32", [-1, -48], 0, 192),
        "offsets backwards": tensor("I32", [count, width], 192, 0),
        "offsets in 64 bits": tensor("I32", [count, width], 2**64 - 192, 2**64),
    }
    for name, claim in claims.items():
        write_safetensors(folder(name, num_items=many if "items" in name else count), {"codes": claim, **ids}, body)
    whole = {"codes": tensor("I32", [count, width], 0, 192), **ids}
    for name, claimed in [("header of 2^63", 2**63), ("header of 2 GiB", 2**31), ("header of 90 MB", 90_000_000)]:
        write_safetensors(folder(name), whole, body, claimed)
    write_safetensors(path := folder("sparse header of 2 GiB"), whole, body, 2**31)
    with path.open("r+") as file:
        file.truncate(2**32)
    write_safetensors(folder("deep header"), b"[" * 1_000_000)
    folder("empty").write_bytes(b"")
    folder("short").write_bytes(b"1234567")
    empty = {f"empty {index}": tensor("U8", [0], 380, 380) for index in range(100_000)}
    write_safetensors(folder("tensors, many"), whole | empty, body)
    write_safetensors(path := folder("tensors, sparse"), whole | {"x": tensor("U8", [2**36], 380, 380 + 2**36)}, body)
    with path.open("r+") as file:
        file.truncate(path.stat().st_size + 2**36)


def write_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def absurd_models(saved, root):
    """Folders with the config of an RQ-VAE that is too large, with other weights or with none of its own."""
    sizes = {
        "codebook_sizes": {"codebook_sizes": [2**40, 4]},
        "codebook_dim": {"codebook_dim": 2**40},
        "input_dim": {"input_dim": 2**40},
        "hidden_sizes": {"hidden_sizes": [2**40]},
        "in all": {"codebook_sizes": [2**24] * 8},
    }
    for name, changes in sizes.items():
        write_json(shutil.copytree(saved / "rqvae", root / f"{name}, other weights") / "config.json", **changes)
        folder = shutil.copytree(root / f"{name}, other weights", root / f"{name}, no weights")
        save_file({"x": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})


def absurd_tokenizers(saved, root):
    for changes in ({"num_user_buckets": 10**12}, {"codebook_sizes": [2**40, 4, 4]}):
        folder = root / " ".join(f"{name} {value}" for name, value in changes.items())
        write_json(shutil.copytree(saved / "qwen2", folder) / "tokenizer_config.json", **changes)


@pytest.fixture(scope="module")
def measured(saved, tmp_path_factory):
    """What a process with little memory gets of absurd things: an error, its message, and the megabytes taken."""
    if not Path("/proc/self/status").exists():
        pytest.skip("reads the size of the process from /proc")
    root = tmp_path_factory.mktemp("absurd")
    for kind, make in {"catalog": absurd_catalogs, "rqvae": absurd_models, "tokenizer": absurd_tokenizers}.items():
        (root / kind).mkdir()
        make(saved, root / kind)
    source = """
        import json, resource, sys
        from pathlib import Path
        from transformers import AutoModel, AutoTokenizer
        from forge_hf import SemanticIdCatalog

        loads = {
            "catalog": SemanticIdCatalog.from_pretrained,
            "rqvae": AutoModel.from_pretrained,
            "tokenizer": AutoTokenizer.from_pretrained,
        }
        saved, root = map(Path, sys.argv[1:])

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

        def measure(kind, folder):
            before, error = peak(), None
            try:
                loads[kind](folder)
            except BaseException as raised:
                error = raised
            return [type(error).__name__, str(error), peak() - before]

        for kind in loads:
            assert measure(kind, saved / {"tokenizer": "qwen2"}.get(kind, kind))[0] == "NoneType"
        lines = Path("/proc/self/status").read_text().splitlines()
        size = next(int(line.split()[1]) for line in lines if line.startswith("VmSize:"))
        resource.setrlimit(resource.RLIMIT_AS, (1024 * size + 2**28,) * 2)
        folders = [(kind, folder) for kind in loads for folder in sorted((root / kind).iterdir())]
        print(json.dumps({f"{kind}: {folder.name}": measure(kind, folder) for kind, folder in folders}))
        """
    command = [sys.executable, "-c", textwrap.dedent(source), str(saved), str(root)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert len(result) == sum(1 for _ in root.glob("*/*"))
    return result


def not_refused(measured, kind, errors, known=()):
    """What isn't refused by one of `errors`, and before memory is taken; of the names that begin with `known`."""
    return {
        name: (error, message[:200], megabytes)
        for name, (error, message, megabytes) in measured.items()
        if name.startswith(kind) and (error not in errors or "allocat" in message or megabytes > 32)
    }


# What isn't refused as it should be, yet.
CATALOGS = {"deep JSON", "sparse header of 2 GiB", "tensors, many", "tensors, sparse"}


def test_catalogs_of_absurd_sizes_are_refused_before_memory_is_taken(measured):
    assert sum(name.startswith("catalog") for name in measured) > 30
    assert not_refused(measured, "catalog", {"CorruptCatalogError"}).keys() <= {
        f"catalog: {name}" for name in CATALOGS
    }


def test_catalogs_of_absurd_files_are_refused_before_memory_is_taken(measured):
    assert not_refused(measured, "catalog", {"CorruptCatalogError"}) == {}


def test_models_of_absurd_sizes_are_refused_where_their_weights_do_not_fit(measured):
    wrong = not_refused(measured, "rqvae", {"RuntimeError", "StrictDataclassClassValidationError"})
    assert {name for name in wrong if name.endswith("other weights")} == set()


def test_models_of_absurd_sizes_are_refused_where_weights_are_missing(measured):
    assert not_refused(measured, "rqvae", {"RuntimeError", "StrictDataclassClassValidationError"}) == {}


def test_tokenizers_of_absurd_sizes_are_refused_before_memory_is_taken(measured):
    assert not_refused(measured, "tokenizer", {"ValueError"}) == {}


# --- Tokens (those that are used: tests/hub/test_security.py) ---


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        TrainingArguments.to_json_string,
        TrainingArguments.to_sanitized_dict,
    ],
)
@pytest.mark.parametrize("arguments", [RQVAETrainingArguments, RetrievalTrainingArguments])
def test_arguments_show_no_token(arguments, show):
    token = "hf_" + "aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA"
    args = arguments("out", hub_token=token, push_to_hub=True, hub_model_id="forge/x", report_to="none")
    assert args.hub_token == token
    assert token not in str(show(args))


def test_errors_of_the_command_show_no_variables():
    """typer's tracebacks once showed them all, and one of them is the token."""
    assert app.pretty_exceptions_show_locals is False
