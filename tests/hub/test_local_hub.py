# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The local Hub answers the real clients as the Hub does: what the other tests here rest on."""

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from .local_hub import Request


CARD = (
    b"---\nlicense: mit\nlibrary_name: forge_hf\npipeline_tag: feature-extraction\ntags: [semantic-ids]\n---\n# Card\n"
)


def test_models(hub, run_python):
    result = run_python(
        """
        import json, sys, warnings
        from pathlib import Path
        from huggingface_hub import HfApi, HfFileSystem, ModelCard, hf_hub_download, snapshot_download

        api = HfApi()
        result = {"name": api.whoami()["name"]}
        repo = api.create_repo("forge/model")
        result["same"] = api.create_repo("forge/model", exist_ok=True) == repo
        result["repo_id"] = repo.repo_id
        folder = Path("folder")
        (folder / "sub").mkdir(parents=True)
        (folder / "README.md").write_text(sys.argv[1])
        (folder / "model.safetensors").write_bytes(bytes(range(256)) * 4096)
        (folder / "empty.bin").touch()
        (folder / "long.txt").write_bytes(bytes(10 * 1024 * 1024 + 1))
        (folder / "sub" / "a b#%.json").write_text("{}")
        push = {"folder_path": folder, "repo_id": repo.repo_id, "commit_message": "one", "commit_description": "1"}
        first = api.upload_folder(**push)
        again = api.upload_folder(**push)
        result["no_op"] = first.oid == again.oid
        api.create_tag(repo.repo_id, tag="v1")
        api.create_branch(repo.repo_id, branch="dev/x")
        api.upload_file(path_or_fileobj=b"2", path_in_repo="new.txt", repo_id=repo.repo_id, revision="dev/x")
        pull = api.upload_file(path_or_fileobj=b"3", path_in_repo="pr.txt", repo_id=repo.repo_id, create_pr=True)
        result["pr"] = [pull.pr_revision, pull.pr_num]
        api.delete_file("empty.bin", repo.repo_id)
        result["main"] = api.list_repo_files(repo.repo_id)
        result["v1"] = api.list_repo_files(repo.repo_id, revision="v1")
        result["by id"] = api.list_repo_files(repo.repo_id, revision=first.oid) == result["v1"]
        result["dev"] = "new.txt" in api.list_repo_files(repo.repo_id, revision="dev/x")
        result["pr files"] = "pr.txt" in api.list_repo_files(repo.repo_id, revision=pull.pr_revision)
        info = api.model_info(repo.repo_id, files_metadata=True)
        result["info"] = [info.library_name, info.pipeline_tag, info.tags, info.card_data.license, info.private]
        result["lfs"] = {file.rfilename: file.lfs is not None for file in info.siblings}
        tree = list(api.list_repo_tree(repo.repo_id, recursive=True))
        result["tree"] = {entry.path: type(entry).__name__ for entry in tree}
        result["sub"] = [entry.path for entry in api.list_repo_tree(repo.repo_id, "sub")]
        paths = api.get_paths_info(repo.repo_id, ["sub", "model.safetensors", "none"])
        result["paths"] = [path.path for path in paths]
        result["commits"] = [[c.title, c.message, c.authors] for c in api.list_repo_commits(repo.repo_id)]
        refs = api.list_repo_refs(repo.repo_id, include_pull_requests=True)
        result["refs"] = [[ref.name for ref in kind] for kind in (refs.branches, refs.tags)]
        result["pr ref"] = refs.pull_requests[0].ref
        snapshot = Path(snapshot_download(repo.repo_id))
        result["snapshot"] = snapshot.name == info.sha and sorted(
            str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()
        )
        result["same bytes"] = (snapshot / "model.safetensors").read_bytes() == bytes(range(256)) * 4096
        result["at dev"] = Path(hf_hub_download(repo.repo_id, "new.txt", revision="dev/x")).read_text()
        filesystem = HfFileSystem()
        with filesystem.open("forge/model/model.safetensors", block_size=64) as file:
            file.seek(1000)
            result["range"] = file.read(4).hex()
        result["ls"] = sorted(filesystem.ls("forge/model@dev%2Fx", detail=False))
        filesystem.pipe("forge/model/written.txt", b"through fsspec")
        result["written"] = filesystem.cat("forge/model/written.txt").decode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            api.upload_file(path_or_fileobj=b"No metadata.", path_in_repo="README.md", repo_id=repo.repo_id)
        result["warned"] = any("empty or missing yaml" in str(warning.message) for warning in caught)
        result["card"] = ModelCard.load(repo.repo_id).text
        api.delete_tag(repo.repo_id, tag="v1")
        api.delete_branch(repo.repo_id, branch="dev/x")
        refs = api.list_repo_refs(repo.repo_id)
        result["refs after"] = [[ref.name for ref in kind] for kind in (refs.branches, refs.tags)]
        (folder / ".gitignore").write_text("# not these\\n*.txt\\n/sub/\\n")
        api.create_repo("forge/ignoring")
        api.upload_folder(folder_path=folder, repo_id="forge/ignoring")
        result["ignoring"] = api.list_repo_files("forge/ignoring")
        api.create_repo("forge/space", repo_type="space", space_sdk="gradio")
        result["space"] = api.space_info("forge/space").id
        api.delete_repo("forge/space", repo_type="space")
        result["gone"] = not api.repo_exists("forge/space", repo_type="space")
        print(json.dumps(result))
        """,
        CARD.decode(),
    )
    v1 = [".gitattributes", "README.md", "empty.bin", "long.txt", "model.safetensors", "sub/a b#%.json"]
    main = [path for path in v1 if path != "empty.bin"]
    assert result == {
        "name": "forge", "same": True, "repo_id": "forge/model", "no_op": True, "pr": ["refs/pr/1", 1],
        "main": main, "v1": v1, "by id": True, "dev": True, "pr files": True,
        "info": ["forge_hf", "feature-extraction", ["semantic-ids", "forge_hf", "feature-extraction", "license:mit"],
                 "mit", False],
        "lfs": {path: path in ("long.txt", "model.safetensors") for path in main},
        "tree": dict.fromkeys(main, "RepoFile") | {"sub": "RepoFolder"}, "sub": ["sub/a b#%.json"],
        "paths": ["sub", "model.safetensors"],
        "commits": [["Delete empty.bin with huggingface_hub", "", ["forge"]], ["one", "1", ["forge"]],
                    ["initial commit", "", ["forge"]]],
        "refs": [["main", "dev/x"], ["v1"]], "pr ref": "refs/pr/1", "snapshot": main, "same bytes": True,
        "at dev": "2", "range": bytes(range(256))[232:236].hex(),
        "ls": sorted(f"forge/model@dev%2Fx/{path}" for path in [*v1[:-1], "new.txt", "sub"]),
        "written": "through fsspec", "warned": True, "card": "No metadata.", "refs after": [["main"], []],
        "ignoring": [".gitattributes", ".gitignore", *v1[1:3], "model.safetensors"],
        "space": "forge/space", "gone": True,
    }  # fmt: skip
    assert Request("GET", "/forge/model/resolve/main/model.safetensors", 206) in hub.requests


def test_who_may_see_and_change(hub, run_python):
    hub.create("forge/secret", {"config.json": b"{}"}, private=True)
    hub.create("forge/open", {"config.json": b"{}"})
    before = hub.commits("forge/open")
    source = """
        import json
        from huggingface_hub import HfApi, hf_hub_download

        api = HfApi()

        def outcome(function, *args, **kwargs):
            try:
                return str(function(*args, **kwargs)) and "ok"
            except Exception as error:
                return [type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)]

        def upload(repo_id, path="x.txt", **kwargs):
            return api.upload_file(path_or_fileobj=b"x", path_in_repo=path, repo_id=repo_id, **kwargs)

        print(json.dumps({
            "whoami": outcome(api.whoami),
            "secret": outcome(api.model_info, "forge/secret"),
            "secret file": outcome(hf_hub_download, "forge/secret", "config.json"),
            "open": outcome(api.model_info, "forge/open"),
            "open file": outcome(hf_hub_download, "forge/open", "config.json"),
            "upload": outcome(upload, "forge/open"),
            "pull request": outcome(upload, "forge/open", "y.txt", create_pr=True),
            "delete": outcome(api.delete_repo, "forge/secret"),
            "create": outcome(api.create_repo, "forge/new", private=True),
            "missing repo": outcome(hf_hub_download, "forge/none", "config.json"),
            "missing file": outcome(hf_hub_download, "forge/open", "none.json"),
            "missing revision": outcome(hf_hub_download, "forge/open", "config.json", revision="none"),
        }))
        """
    no_repo, no_file = ["RepositoryNotFoundError", 404], ["RemoteEntryNotFoundError", 404]
    missing = {
        "missing repo": no_repo, "missing file": no_file, "missing revision": ["RevisionNotFoundError", 404],
        "open": "ok", "open file": "ok",
    }  # fmt: skip
    unknown, forbidden, hidden = ["HfHubHTTPError", 401], ["HfHubHTTPError", 403], dict.fromkeys(["secret"], no_repo)
    assert run_python(source, token=None) == missing | hidden | {
        "whoami": ["LocalTokenNotFoundError", None], "secret file": no_repo, "upload": unknown,
        "pull request": unknown, "delete": unknown, "create": unknown,
    }  # fmt: skip
    assert run_python(source, token="hf_guest") == missing | hidden | {
        "whoami": "ok", "secret file": no_repo, "upload": forbidden, "pull request": "ok", "delete": no_repo,
        "create": forbidden,
    }  # fmt: skip
    wrong = run_python(source, token="hf_wrong", HF_HOME=str(hub.root / "empty"))  # a file in the cache would do
    assert wrong == dict.fromkeys(wrong, unknown)
    assert hub.commits("forge/open") == before
    assert run_python(source) == missing | dict.fromkeys(
        ["whoami", "secret", "secret file", "upload", "pull request", "delete", "create"], "ok"
    )
    assert hub.read("forge/new")["private"]


def post(hub, route, body, status, token="hf_local"):
    """A raw request, for what the client refuses to send; the answer's JSON."""
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(hub.endpoint + route, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request) as response:
            answer = response
            content = response.read()
    except urllib.error.HTTPError as error:
        answer, content = error, error.read()
    assert answer.status == status, content
    return json.loads(content)


def commit_body(path, parent=None, operations=()):
    header = {"summary": "title", "description": ""} | ({"parentCommit": parent} if parent else {})
    file = {"path": path, "content": base64.b64encode(b"content").decode(), "encoding": "base64"}
    lines = [{"key": "header", "value": header}, {"key": "file", "value": file}, *operations]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/x", ".git/config", "a/.git/x", "a//x", "", "./x"])
def test_paths_that_leave_the_repo_are_refused(hub, path):
    hub.create("forge/model", {"x": b"1"})
    before = hub.read("forge/model")
    assert "Invalid path" in post(hub, "/api/models/forge/model/commit/main", commit_body(path), 400)["error"]
    assert hub.read("forge/model") == before


def test_a_commit_is_whole_or_not_at_all(hub):
    hub.create("forge/model", {"x": b"1"})
    before = hub.read("forge/model")
    head = hub.commits("forge/model")[0]
    route = "/api/models/forge/model/commit/main"
    absent = {"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}}
    post(hub, route, commit_body("new", operations=[absent]), 400)
    post(hub, route, commit_body("new", operations=[{"key": "deletedFile", "value": {"path": "none"}}]), 404)
    post(hub, route, commit_body("new", operations=[{"key": "unknown", "value": {"path": "x"}}]), 404)
    post(hub, route, commit_body("new", parent=head["parent"]), 412)
    post(hub, "/api/models/forge/model/commit/" + head["id"], commit_body("new"), 404)  # not a branch
    assert hub.read("forge/model") == before
    commit = post(hub, route, commit_body("new", parent=head["id"]), 200)
    assert hub.commits("forge/model")[0]["id"] == commit["commitOid"]
    assert hub.files("forge/model") == hub.files("forge/model", revision=head["id"]) | {"new": b"content"}


def test_failures_on_request(hub, run_python):
    hub.create("forge/model", {"x": b"1", "weights.safetensors": b"old"})
    before = hub.commits("forge/model")
    source = """
        import json, sys
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        def commit(card="# Card", **kwargs):
            contents = {"x": b"2", "weights.safetensors": b"new", "README.md": card.encode()}
            operations = [CommitOperationAdd(path, content) for path, content in contents.items()]
            try:
                return HfApi().create_commit("forge/model", operations, commit_message="push", **kwargs).oid
            except Exception as error:
                return [type(error).__name__, str(error)]

        print(json.dumps([
            commit(card="---\\nlicense: [\\n---\\n"),
            commit(card="---\\ntags: [1, 2]\\n---\\n"),
            commit(), commit(), commit(parent_commit=sys.argv[1]), commit(),
        ]))
        """
    hub.fail("/upload/", 403)
    hub.fail("/commit/", 500)
    bad_yaml, bad_tags, no_lfs, no_commit, no_parent, oid = run_python(source, hub.commits("forge/model")[1]["id"])
    assert bad_yaml[0] == "ValueError" and "Invalid YAML" in bad_yaml[1]
    assert bad_tags[0] == "ValueError" and '"tags" must be' in bad_tags[1]
    assert no_lfs == ["RuntimeError", "Error while uploading 'weights.safetensors' to the Hub."]
    assert no_commit[0] == "HfHubHTTPError" and "500" in no_commit[1]
    assert no_parent[0] == "HfHubHTTPError" and "412" in no_parent[1]
    asked = [request.status for request in hub.requests if "/commit/" in request.path]
    assert asked == [500, 412, 200]
    assert [request.status for request in hub.requests if request.method == "PUT"] == [403, 200]
    commits = hub.commits("forge/model")
    assert commits[0]["id"] == oid and commits[1:] == before
    assert hub.files("forge/model")["weights.safetensors"] == b"new"
    assert hub.files("forge/model", revision=commits[1]["id"])["weights.safetensors"] == b"old"


def test_hostile_file_names_are_listed_as_they_are(hub, run_python):
    hub.create("forge/model", {"../evil": b"1", "/tmp/evil": b"2", "good": b"3"})
    listed, tree = run_python(
        """
        import json
        from huggingface_hub import HfApi

        tree = [entry.path for entry in HfApi().list_repo_tree("forge/model", recursive=True)]
        print(json.dumps([HfApi().list_repo_files("forge/model"), tree]))
        """
    )
    assert listed == ["../evil", ".gitattributes", "/tmp/evil", "good"]
    assert set(listed) < set(tree)


def test_datasets(hub, run_python):
    rows = "".join(f"{row},{row % 7}\n" for row in range(100))
    hub.create("AL-GR/AL-GR-Tiny", {"train_data/s1_tiny.csv": f"user,item\n{rows}".encode()}, repo_type="dataset")
    result = run_python(
        """
        import json
        from datasets import Dataset, DatasetDict, load_dataset
        from huggingface_hub import HfApi

        options = {"data_files": "train_data/s1_tiny.csv", "split": "train"}
        plain = load_dataset("AL-GR/AL-GR-Tiny", **options)
        stream = load_dataset("AL-GR/AL-GR-Tiny", streaming=True, **options)
        pushed = Dataset.from_dict({"x": list(range(50))})
        pushed.push_to_hub("forge/pushed", private=True)
        DatasetDict({"train": pushed, "test": pushed.select(range(5))}).push_to_hub("forge/pushed", "other")
        loaded = load_dataset("forge/pushed", split="train")
        other = load_dataset("forge/pushed", "other")
        print(json.dumps([
            plain[:] == {"user": list(range(100)), "item": [row % 7 for row in range(100)]},
            list(stream) == list(plain),
            loaded["x"][:] == list(range(50)),
            other.num_rows,
            HfApi().dataset_info("forge/pushed").card_data["configs"][1]["config_name"],
        ]))
        """
    )
    assert result == [True, True, True, {"train": 50, "test": 5}, "other"]
    assert hub.read("forge/pushed", "dataset")["private"]
    assert "data/train-00000-of-00001.parquet" in hub.files("forge/pushed", "dataset")


def test_hf_command(hub, run_command, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.bin").write_bytes(b"weights")
    uploaded = run_command("hf", "upload", "forge/model", folder, "--private")
    assert uploaded.returncode == 0, uploaded.stderr
    downloaded = run_command("hf", "download", "forge/model", "--local-dir", tmp_path / "downloaded")
    assert downloaded.returncode == 0, downloaded.stderr
    assert (tmp_path / "downloaded" / "model.bin").read_bytes() == b"weights"
    refused = run_command("hf", "download", "forge/model", token="hf_guest")
    assert refused.returncode != 0 and "not found" in refused.stderr
    assert hub.read("forge/model")["private"]


def test_without_forge_hf(run_python, run_command):
    source = """
        import importlib.util, json, sys

        try:
            found = importlib.util.find_spec("forge_hf") and "found"
            found or __import__("forge_hf.models")
        except ModuleNotFoundError as error:
            found = error.name
        print(json.dumps([found, sys.path]))
        """
    found, _ = run_python(source, without_forge_hf=True)
    assert found == "forge_hf"
    found, path = run_python(source)
    assert found == "found"
    assert not {"", str(Path(__file__).parents[2]), str(Path(__file__).parent)} & set(path)
    assert "No module named 'forge_hf'" in run_command("forge-hf", without_forge_hf=True).stderr
