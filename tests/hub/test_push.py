# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Pushing and coming back by name, over HTTP: what fresh processes print is compared with what was saved here."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from forge_hf import RQVAEConfig, RQVAEModel, SemanticIdCatalog, create_retriever, retrieve
from forge_hf.hub import is_generated


EXAMPLES = Path(__file__).parents[2] / "examples"
EMBEDDINGS = torch.arange(60.0).sin().reshape(5, 12)
CODES = "model.encode(torch.arange(60.0).sin().reshape(5, 12)).codes.tolist()"


# Several calls of `forge-hf push`, each with its options, in one process.
PUSHES = """
    import json, sys
    from pathlib import Path
    from typer.testing import CliRunner
    from forge_hf.cli import app

    folder, repo_id, calls = sys.argv[1:]
    answers = []
    for options in json.loads(calls):
        if options == ["README.md"]:
            Path(folder, "README.md").write_text("# Mine\\n")
            options = []
        done = CliRunner().invoke(app, ["push", folder, repo_id, *options])
        answers.append([done.exit_code, done.stdout, done.stderr])
    print(json.dumps(answers))
    """


@pytest.fixture
def rqvae(tmp_path):
    torch.manual_seed(0)
    model = RQVAEModel(RQVAEConfig(input_dim=12, hidden_sizes=[8], codebook_dim=4, codebook_sizes=[8, 6]))
    model.save_pretrained(tmp_path / "rqvae")
    return model


@pytest.fixture
def catalog():
    codes = [[i // 8, i % 8] for i in range(40)]
    return SemanticIdCatalog.from_codes(list(range(100, 140)), codes, codebook_sizes=[5, 8], on_collision="keep")


@pytest.fixture
def retriever(tmp_path, catalog):
    """The folder of a retriever, and what it retrieves."""
    model, tokenizer = create_retriever("qwen2-small", catalog, hidden_size=32, num_hidden_layers=1)
    for part in (model, tokenizer, catalog):
        part.save_pretrained(tmp_path / "retriever")
    return tmp_path / "retriever", retrieve(model, tokenizer, catalog, [[100, 117]], top_k=5).item_ids[0]


def test_rqvae_loads_with_forge_hf_or_with_trust_or_says_what_to_do(hub, rqvae, run_python, tmp_path):
    codes = rqvae.encode(EMBEDDINGS).codes.tolist()
    pushed = run_python(
        """
        import json, sys
        from forge_hf import RQVAEModel
        model = RQVAEModel.from_pretrained(sys.argv[1])
        print(json.dumps([model.push_to_hub("forge/rqvae", private=True).oid for _ in range(2)]))
        """,
        tmp_path / "rqvae",
    )
    commits = hub.commits("forge/rqvae")
    assert pushed == [commits[0]["id"]] * 2 and len(commits) == 2, "one commit after the repository's first"
    files = hub.files("forge/rqvae")
    code = {"code_assignment.py", "configuration_rqvae.py", "modeling_rqvae.py"}
    assert code | {"config.json", "README.md"} <= files.keys()
    assert files["model.safetensors"] == (tmp_path / "rqvae" / "model.safetensors").read_bytes()
    assert is_generated(files["README.md"].decode())

    # Without forge_hf: refused without trust; with it, the same codes, also after saving and pushing again.
    bare = run_python(
        f"""
        import importlib.util, json, torch
        assert importlib.util.find_spec("forge_hf") is None
        from transformers import AutoModel
        answer = {{}}
        try:
            AutoModel.from_pretrained("forge/rqvae")
        except ValueError as error:
            answer["refused"] = str(error)
        model = AutoModel.from_pretrained("forge/rqvae", trust_remote_code=True)
        answer["module"], answer["codes"] = type(model).__module__, {CODES}
        model.save_pretrained("again")
        model.push_to_hub("forge/again", private=True)
        model = AutoModel.from_pretrained("forge/again", trust_remote_code=True)
        model.save_pretrained("third")
        model = AutoModel.from_pretrained("third", trust_remote_code=True)
        answer["again"] = {CODES}
        print()  # ends the line of the question that transformers asked
        print(json.dumps(answer))
        """,
        without_forge_hf=True,
    )
    assert "trust_remote_code=True" in bare["refused"]
    assert bare["module"].startswith("transformers_modules.")
    assert bare["codes"] == bare["again"] == codes

    # With forge_hf, both are its own class, with no question; saved from here, remote code loads elsewhere.
    modules, own = run_python(
        f"""
        import json, torch, forge_hf
        from transformers import AutoModel
        modules, answers = [], []
        for repo in ("forge/rqvae", "forge/again"):
            model = AutoModel.from_pretrained(repo)
            modules.append(type(model).__module__)
            answers.append({CODES})
        model.save_pretrained("own")
        print(json.dumps([modules, answers]))
        """
    )
    assert modules == ["forge_hf.models.rqvae.modeling_rqvae"] * 2 and own == [codes] * 2
    from_own = run_python(
        f"""
        import json, torch
        from transformers import AutoModel
        model = AutoModel.from_pretrained("own", trust_remote_code=True)
        print(json.dumps({CODES}))
        """,
        without_forge_hf=True,
    )
    assert from_own == codes


def test_catalog_and_retriever(hub, catalog, retriever, run_python, run_command, tmp_path):
    folder, expected = retriever
    other = SemanticIdCatalog(catalog.item_ids, catalog.codes.flip(0), catalog.layout)
    catalog.save_pretrained(tmp_path / "catalog")
    other.save_pretrained(tmp_path / "other")

    # The shell command pushes in one commit, and says where to.
    pushed = run_command("forge-hf", "push", folder, "forge/retriever", "--private", "--license", "mit")
    assert pushed.returncode == 0, pushed.stderr
    commits = hub.commits("forge/retriever")
    assert len(commits) == 2 and pushed.stdout.strip().endswith(commits[0]["id"])
    files = hub.files("forge/retriever")
    assert {path.name for path in folder.iterdir()} | {"README.md", ".gitattributes"} == files.keys()
    card = files["README.md"].decode()
    assert is_generated(card) and "license: mit" in card and catalog.fingerprint in card

    answer = run_python(
        """
        import json, sys
        from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
        from forge_hf import SemanticIdCatalog, push_folder, retrieve
        folder, catalog, other = sys.argv[1:]
        answer = {}
        catalog, other = SemanticIdCatalog.from_pretrained(catalog), SemanticIdCatalog.from_pretrained(other)
        first = catalog.push_to_hub("forge/catalog", private=True)
        assert catalog.push_to_hub("forge/catalog").oid == first.oid
        other.push_to_hub("forge/catalog")
        other.push_to_hub("forge/catalog", revision="next")
        load = SemanticIdCatalog.from_pretrained
        answer["fingerprints"] = [load("forge/catalog", revision=r).fingerprint for r in (None, first.oid, "next")]
        recommend = pipeline("generative-retrieval", model="forge/retriever")
        answer["items"] = [found["item_id"] for found in recommend([100, 117], top_k=5)]
        # The parts one by one, as transformers pushes them, make the same repository.
        model = AutoModelForCausalLM.from_pretrained(folder)
        for part in (model, AutoTokenizer.from_pretrained(folder), catalog):
            part.push_to_hub("forge/parts", private=True)
        recommend = pipeline("generative-retrieval", model="forge/parts")
        answer["parts"] = [found["item_id"] for found in recommend([100, 117], top_k=5)]
        # The card that transformers left is nobody's: a push of the whole folder replaces it.
        push_folder(folder, "forge/parts")
        model.push_to_hub("forge/parts")
        print(json.dumps(answer))
        """,
        folder,
        tmp_path / "catalog",
        tmp_path / "other",
    )
    assert answer["fingerprints"] == [other.fingerprint, catalog.fingerprint, other.fingerprint]
    assert answer["items"] == answer["parts"] == expected
    assert is_generated(hub.files("forge/parts")["README.md"].decode())
    assert len(hub.commits("forge/catalog")) == 3


def test_cards_that_somebody_wrote_stay(hub, retriever, run_python):
    folder, _ = retriever
    assert run_python(PUSHES, folder, "forge/retriever", "[[]]")[0][0] == 0
    edited = hub.files("forge/retriever")["README.md"].decode().replace("forge_hf", "forge_hf, by my own hands", 1)
    hub.add_files("forge/retriever", {"README.md": edited.encode()})
    (folder / "generation_config.json").write_text('{"top_k": 7}')
    answers = run_python(PUSHES, folder, "forge/retriever", '[[], ["--overwrite-card"], ["README.md"]]')
    assert [code for code, *_ in answers] == [0, 0, 0]
    assert "written by hand and stays" in answers[0][2]
    own, replaced, kept = hub.commits("forge/retriever")[:3]
    files = [hub.files("forge/retriever", revision=commit["id"]) for commit in (kept, replaced, own)]
    assert files[0]["README.md"].decode() == edited and files[0]["generation_config.json"] == b'{"top_k": 7}'
    # Asked for, it's replaced: by what this package writes, or by what somebody wrote in the folder.
    assert is_generated(files[1]["README.md"].decode()) and files[2]["README.md"] == b"# Mine\n"


def test_a_failed_push_leaves_the_old_revision_whole(hub, retriever, run_python):
    folder, _ = retriever
    hub.create("forge/retriever", {path.name: path.read_bytes() for path in folder.iterdir()})
    before = hub.commits("forge/retriever")[0]
    with open(folder / "model.safetensors", "ab") as file:
        file.write(b"\0")  # another large file
    for route in ("/preupload/", "/upload/", "/commit/"):  # in the order of a push: each stops one
        hub.fail(route, 403)
    answers = run_python(PUSHES, folder, "forge/retriever", "[[], [], []]")
    for code, _, stderr in answers:
        assert code == 2 and stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    assert {request.status for request in hub.requests if "/commit/" in request.path} == {403}
    assert hub.commits("forge/retriever")[0] == before
    assert run_python(PUSHES, folder, "forge/retriever", "[[]]")[0][0] == 0
    assert hub.files("forge/retriever")["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_refusals_take_one_line_and_no_time(hub, catalog, retriever, run_python, tmp_path):
    folder, _ = retriever
    hub.create("forge/secret", {path.name: path.read_bytes() for path in folder.iterdir()}, private=True)
    hub.create("forge/empty")
    for name in ("foreign", "bare", "linked", "pickled", "nothing", "two"):
        shutil.copytree(folder, tmp_path / name)
    SemanticIdCatalog(catalog.item_ids, catalog.codes.flip(0), catalog.layout).save_pretrained(tmp_path / "foreign")
    (tmp_path / "bare" / "semantic_ids.json").unlink()
    (tmp_path / "linked" / "notes.txt").symlink_to("/etc/hostname")
    (tmp_path / "two" / "adapter_config.json").write_text('{"base_model_name_or_path": "forge/base"}')
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    for path in (tmp_path / "nothing").iterdir():
        path.unlink()
    source = """
        import json, sys, time
        from forge_hf import SemanticIdCatalog, load_retriever, push_folder
        root, answers = sys.argv[1], {}

        def note(name, function, *args, **kwargs):
            started = time.perf_counter()
            try:
                function(*args, **kwargs)
            except Exception as error:
                answers[name] = [type(error).__name__, str(error), time.perf_counter() - started]

        load = SemanticIdCatalog.from_pretrained
        for function in (load, load_retriever):
            note(function.__name__ + " missing", function, "forge/missing")
            note(function.__name__ + " empty", function, "forge/empty")
            note(function.__name__ + " private", function, "forge/secret")
            note(function.__name__ + " revision", function, "forge/empty", revision="v7")
            note(function.__name__ + " wrong token", function, "forge/empty", token="hf_wrong")
        note("push wrong token", push_folder, root + "/retriever", "forge/empty", token="hf_wrong")
        note("push elsewhere", push_folder, root + "/retriever", "guest/theirs", token="hf_local")
        note("load two", load_retriever, root + "/two")
        for name in ("foreign", "bare", "linked", "pickled", "nothing", "two", "nowhere"):
            note(name, push_folder, root + "/" + name, "forge/never")
        print(json.dumps(answers))
        """
    answers = run_python(source, tmp_path, token=None)
    expected = {
        "missing": "no model repository forge/missing at .*`token`",
        "empty": "forge/empty has no ",
        "private": "no model repository forge/secret at .*private.*`token`",
        "revision": "forge/empty has no revision 'v7'",
        "wrong token": "token is missing or not valid",
        "push elsewhere": "the token may not do this.*write to guest",
        "foreign": f"trained on the catalog {catalog.fingerprint}.*beside it is [0-9a-f]{{32}}",
        "bare": "no catalog of semantic IDs",
        "linked": "link out of the folder",
        "pickled": "may be a pickle",
        "two": "whole model .config.json. and an adapter",
        "nothing": "holds nothing that this package saves",
        "nowhere": "there is none at",
    }
    assert len(answers) == 20, sorted(answers)
    for name, (kind, message, seconds) in answers.items():
        pattern = next(pattern for key, pattern in expected.items() if name.endswith(key))
        assert re.search(pattern, message), (name, message)
        assert "\n" not in message and seconds < 2, (name, message, seconds)
        assert kind in ("HubError", "FileNotFoundError", "FingerprintMismatchError", "ValueError"), (name, kind)
    assert not any("forge/never" in request.path for request in hub.requests), "refused before any request"

    # The owner's token opens the private repository; a stranger's doesn't.
    opened = run_python(
        """
        import json
        from forge_hf import SemanticIdCatalog, load_retriever
        from forge_hf.errors import HubError
        model, tokenizer, catalog = load_retriever("forge/secret", token="hf_local")
        try:
            SemanticIdCatalog.from_pretrained("forge/secret", token="hf_guest")
        except HubError as error:
            print(json.dumps([catalog.fingerprint, str(error)]))
        """,
        token=None,
    )
    assert opened[0] == catalog.fingerprint and "private" in opened[1]


def test_without_a_network(hub, catalog, retriever, run_python):
    folder, _ = retriever
    hub.create("forge/retriever", {path.name: path.read_bytes() for path in folder.iterdir()})
    source = """
        import json, sys, time
        from forge_hf import SemanticIdCatalog, load_retriever, push_folder
        answers = []
        for function, args in (
            (SemanticIdCatalog.from_pretrained, ["forge/retriever"]),
            (lambda name: load_retriever(name).catalog, ["forge/retriever"]),
            (SemanticIdCatalog.from_pretrained, ["forge/other"]),
            (load_retriever, ["forge/other"]),
            (push_folder, [sys.argv[1], "forge/other"]),
        ):
            started = time.perf_counter()
            try:
                answer = function(*args).fingerprint
            except AttributeError:
                answer = "pushed"
            except OSError as error:
                answer = [type(error).__name__, str(error)]
            answers.append([answer, time.perf_counter() - started])
        print(json.dumps(answers))
        """
    run_python(source, folder)  # fills the cache
    dead = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    for environment in (dead, {"HF_HUB_OFFLINE": "1"}):
        answers, times = zip(*run_python(source, folder, **environment), strict=True)
        assert answers[:2] == (catalog.fingerprint, catalog.fingerprint)
        for kind, message in answers[2:]:
            assert kind == "HubError" and "\n" not in message
            assert "can't be reached" in message or "HF_HUB_OFFLINE" in message
        # A second each, and some for what the first model of a process has to import.
        assert max(times[:1] + times[2:]) < 2 and times[1] < 10, times


def test_nothing_of_another_model_stays(hub, catalog, retriever, run_python, tmp_path):
    """Files that a loader would read before those that were pushed, or beside them."""
    folder, expected = retriever
    sharded = tmp_path / "sharded"
    shutil.copytree(folder, sharded)
    (sharded / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(sharded, max_shard_size="20KB")
    left = {"adapter_config.json": b'{"base_model_name_or_path": "forge/none"}', "adapter_model.safetensors": b""}
    left |= {"run.json": b"{}", "notes.md": b"mine", "model-00001-of-00009.safetensors": b"0"}
    hub.create("forge/mixed", left)
    foreign = SemanticIdCatalog(catalog.item_ids, catalog.codes.flip(0), catalog.layout)
    foreign.save_pretrained(tmp_path / "foreign")
    answers = run_python(
        """
        import json, sys
        from forge_hf import SemanticIdCatalog, load_retriever, push_folder, retrieve
        answers = []
        for folder in sys.argv[1:3] * 2:
            push_folder(folder, "forge/mixed")
            answers.append(retrieve(*load_retriever("forge/mixed"), [[100, 117]], top_k=5).item_ids[0])
        try:
            SemanticIdCatalog.from_pretrained(sys.argv[3]).push_to_hub("forge/mixed")
        except ValueError as error:
            answers.append(str(error))
        print(json.dumps(answers))
        """,
        folder,
        sharded,
        tmp_path / "foreign",
    )
    *items, refused = answers
    assert items == [expected] * 4
    assert catalog.fingerprint in refused and foreign.fingerprint in refused
    sharded_files, own_files = (
        set(hub.files("forge/mixed", revision=commit["id"])) for commit in hub.commits("forge/mixed")[:2]
    )
    own = {path.name for path in folder.iterdir()} | {"README.md", "notes.md", ".gitattributes"}
    assert own_files == own
    assert "model.safetensors" not in sharded_files and "model.safetensors.index.json" in sharded_files


def test_example_pushes_and_loads_by_tag(hub, run_command, tmp_path):
    example = EXAMPLES / "push_to_hub.py"
    options = ["--private", "--license", "mit", "--tag", "v1"]
    done = run_command("python", example, "--tiny", tmp_path / "tiny", "forge/tiny", *options)
    assert done.returncode == 0, done.stderr
    assert "Pushed to http" in done.stdout
    assert len(re.findall(r"^\S+ C\d+C\d+ -\d", done.stdout, flags=re.MULTILINE)) == 3, "three items came back"
    again = run_command("python", example, tmp_path / "tiny", "forge/tiny", "--tag", "v1")
    assert again.returncode != 0 and "409" in again.stderr, "a tag doesn't move"
    assert hub.read("forge/tiny")["private"]
    assert any(ref.endswith("/v1") for ref in hub.read("forge/tiny")["refs"])
    assert "license: mit" in hub.files("forge/tiny", revision="v1")["README.md"].decode()
