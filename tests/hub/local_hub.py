# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""A small Hugging Face Hub on localhost, for tests: the real clients push to it and load from it over HTTP.

File contents lie under their sha256. A repo is one JSON of its refs and commits, and a commit lists all its files.
Not as on the Hub: no xet, no lists of repos, no pages, no last commit of a file, no discussions beyond `refs/pr/N`; a
repo has one owner; a missing or hidden one is 404 for everybody (there, 401 without a token); README metadata must be
YAML, but only the fields in `TAG_PREFIXES` are checked.
"""

import base64
import fnmatch
import hashlib
import json
import os
import re
import threading
import traceback
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

import yaml


TOKENS = {"hf_local": "forge", "hf_guest": "guest"}  # token -> user
LFS_SUFFIXES = (".arrow", ".bin", ".gz", ".npy", ".parquet", ".png", ".pt", ".safetensors", ".tar", ".zip")
LFS_SIZE = 10 * 1024 * 1024  # larger files are LFS whatever their name
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
TAG_PREFIXES = {  # key of a card's metadata -> prefix of the tags that the Hub makes of it
    "tags": "", "library_name": "", "pipeline_tag": "", "language": "language:", "license": "license:",
    "datasets": "dataset:", "base_model": "base_model:", "task_categories": "task_categories:",
    "size_categories": "size_categories:",
}  # fmt: skip


class Request(NamedTuple):
    """A request that was answered; `path` is as sent, without the query."""

    method: str
    path: str
    status: int


class Response(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]


class HubError(Exception):
    """An answer that isn't a success. The client picks its exception by `code`."""

    def __init__(self, status, message, code=None, headers=None, **body):
        super().__init__(message)
        headers = {"X-Error-Message": message.encode("unicode_escape").decode()} | (headers or {})
        if code:
            headers["X-Error-Code"] = code
        self.response = json_response({"error": message} | body, status, headers)


def json_response(value, status=200, headers=None):
    body = json.dumps(value, default=str).encode()  # `default`: YAML has dates
    return Response(status, body, {"Content-Type": "application/json"} | (headers or {}))


def write_atomically(path, content):
    temporary = path.with_name(f"{path.name}.{threading.get_ident()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def is_lfs(path, size):
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > LFS_SIZE)


def is_ignored(path, gitignore):
    """Whether a `.gitignore` names the file or a folder above it (plain patterns only)."""
    parts = path.split("/")
    names = {*parts, *("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))}
    patterns = [line.strip().strip("/") for line in gitignore.splitlines() if line.strip() and line[0] != "#"]
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def as_list(value):
    return value if isinstance(value, list) else [] if value is None else [value]


def read_card(readme):
    """The metadata at the head of a README, and what is wrong with it."""
    match = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*$", readme, re.DOTALL | re.MULTILINE)
    try:
        card = (yaml.safe_load(match[1]) or {}) if match else {}
    except yaml.YAMLError as error:
        return {}, [f"Invalid YAML: {error}"]
    if not isinstance(card, dict):
        return {}, ["The metadata must be a mapping"]
    wrong = [key for key in TAG_PREFIXES if not all(isinstance(value, str) for value in as_list(card.get(key)))]
    return card, [f'"{key}" must be a string or a list of strings' for key in wrong]


class LocalHub:
    """A Hub on a free port of localhost, whose data lies under `root`.

    `hf_local` is the token of the user `forge`, who may use every namespace but `guest`; `hf_guest` that of `guest`.
    As on the Hub, a new repo has one commit, with `.gitattributes`.

    ```python
    with LocalHub(tmp_path) as hub:
        hub.create("forge/rqvae", {"config.json": b"{}"})
        subprocess.run(command, env=hub.env())  # clients read HF_ENDPOINT at import: use a fresh process
        assert Request("GET", "/api/models/forge/rqvae", 200) in hub.requests
    ```
    """

    def __init__(self, root):
        self.root = Path(root)
        for folder in ("blobs", "repos", "home"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        self.requests: list[Request] = []
        self.failures: list[dict] = []
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def env(self, token="hf_local", **overrides):
        """The environment of a client process. No Hugging Face variable is inherited; caches lie under `root`."""
        prefixes = ("HF_", "HUGGING_FACE_", "TRANSFORMERS_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
        own = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.root / "home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_ETAG_TIMEOUT": "30",  # on a busy machine, a slow answer must not become "use the cache"
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return inherited | own | ({"HF_TOKEN": token} if token else {}) | overrides

    def fail(self, route, status=500, times=1, method=None):
        """The next `times` requests with `route` in their path do nothing and answer `status`.

        Clients repeat most requests, but not the commit, after 408, 429 and 5xx: `fail("/upload/", 403)`,
        for LFS, fails at once.
        """
        self.failures.append({"route": route, "status": status, "times": times, "method": method})

    def create(self, repo_id, files=None, *, repo_type="model", private=False, owner="forge"):
        """Makes a repo without a client; `files` (path -> bytes) become a second commit."""
        if self.repo_file(repo_id, repo_type).exists():
            raise HubError(409, "You already created this repo", url=self.url(repo_id, repo_type))
        repo = {"id": repo_id, "type": repo_type, "owner": owner, "private": private, "refs": {}, "commits": {}}
        start = {".gitattributes": self.add_blob(GIT_ATTRIBUTES)}
        self.add_commit(repo, "refs/heads/main", None, start, "initial commit", author=owner)
        if files:
            self.add_files(repo_id, files, repo_type=repo_type)

    def add_files(self, repo_id, files, *, repo_type="model"):
        """Commits `files` (path -> bytes) to main without a client. No path is checked: `../evil` goes in as it is."""
        with self.lock:
            repo = self.read(repo_id, repo_type)
            head = self.find_commit(repo, "main")
            added = {path: self.add_blob(content, is_lfs(path, len(content))) for path, content in files.items()}
            self.add_commit(repo, "refs/heads/main", head["id"], head["files"] | added, "Add files")

    def files(self, repo_id, repo_type="model", revision="main"):
        """The files of a revision, path -> bytes; `.gitattributes` is one of them."""
        entries = self.find_commit(self.read(repo_id, repo_type), revision)["files"]
        return {path: self.blob(entry["sha256"]).read_bytes() for path, entry in entries.items()}

    def commits(self, repo_id, repo_type="model", revision="main"):
        """The commits of a revision, newest first: dicts of id, parent, title, message, author, date and files."""
        repo = self.read(repo_id, repo_type)
        commits = [self.find_commit(repo, revision)]
        while commits[-1]["parent"]:
            commits.append(self.find_commit(repo, commits[-1]["parent"]))
        return commits

    def read(self, repo_id, repo_type="model"):
        """The record of a repo: `id`, `type`, `owner`, `private`, `refs` (name -> commit id) and `commits`."""
        try:
            return json.loads(self.repo_file(repo_id, repo_type).read_bytes())
        except FileNotFoundError:
            raise HubError(404, "Repository not found", "RepoNotFound") from None

    def write(self, repo):
        write_atomically(self.repo_file(repo["id"], repo["type"]), json.dumps(repo).encode())

    def repo_file(self, repo_id, repo_type):
        return self.root / "repos" / f"{repo_type}--{repo_id.replace('/', '--')}.json"

    def url(self, repo_id, repo_type):
        return f"{self.endpoint}/{'' if repo_type == 'model' else repo_type + 's/'}{repo_id}"

    def blob(self, sha256):
        return self.root / "blobs" / sha256

    def add_blob(self, content, lfs=False):
        """Keeps a file's content and returns what a commit says of it."""
        sha256, size = hashlib.sha256(content).hexdigest(), len(content)
        write_atomically(self.blob(sha256), content)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        in_git = pointer if lfs else content
        oid = hashlib.sha1(b"blob %d\0" % len(in_git) + in_git).hexdigest()
        entry = {"type": "file", "oid": oid, "size": size, "sha256": sha256}
        if lfs:
            entry["lfs"] = {"oid": sha256, "sha256": sha256, "size": size, "pointerSize": len(pointer)}
        return entry | {"etag": sha256 if lfs else oid}

    def find_commit(self, repo, revision):
        """The commit that a branch, a tag, a ref or a full commit id names."""
        refs = repo["refs"]
        names = (f"refs/heads/{revision}", f"refs/tags/{revision}", revision)
        commit_id = next((refs[name] for name in names if name in refs), revision)
        if commit_id not in repo["commits"]:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo["commits"][commit_id]

    def add_commit(self, repo, ref, parent, files, title, message="", author="forge"):
        """Puts a commit on `ref`; nothing has changed before the repo's record is replaced, the last step."""
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        commit = {"parent": parent, "title": title, "message": message, "author": author, "date": date}
        commit["files"] = dict(sorted(files.items()))
        commit_id = hashlib.sha1(json.dumps(commit).encode()).hexdigest()
        repo["commits"][commit_id] = {"id": commit_id} | commit
        repo["refs"][ref] = commit_id
        self.write(repo)
        return commit_id


REPO = r"/api/(?P<repo_type>model|dataset|space)s/(?P<repo_id>[^/]+(?:/[^/]+)?)"
PAGE = r"/(?:(?P<repo_type>dataset|space)s/)?(?P<repo_id>[^/]+(?:/[^/]+)?)"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = [  # the first that matches the whole path; the groups are the method's arguments, with `repo` for type and id
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", r"/api/repos/create", "create_repo"),
    ("DELETE", r"/api/repos/delete", "delete_repo"),
    ("POST", rf"{REPO}/preupload/{REVISION}", "preupload"),
    ("POST", rf"{PAGE}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/upload/(?P<sha256>[0-9a-f]{64})", "lfs_upload"),
    ("POST", rf"{REPO}/commit/{REVISION}", "commit"),
    ("GET", rf"{REPO}/commits/{REVISION}", "commits"),
    ("GET", rf"{REPO}/refs", "refs"),
    ("POST", rf"{REPO}/branch/(?P<name>[^/]+)", "create_branch"),
    ("POST", rf"{REPO}/tag/{REVISION}", "create_tag"),
    ("DELETE", rf"{REPO}/(?P<kind>branch|tag)/(?P<name>[^/]+)", "delete_ref"),
    ("GET", rf"{REPO}/tree/{REVISION}(?:/(?P<folder>.+))?", "tree"),
    ("POST", rf"{REPO}/paths-info/{REVISION}", "paths_info"),
    ("GET", rf"{REPO}(?:/revision/{REVISION})?", "info"),
    ("GET", rf"{PAGE}/resolve/{REVISION}/(?P<path>.+)", "resolve"),
]


class Handler(BaseHTTPRequestHandler):
    """A connection. The methods that `ROUTES` names return JSON or a `Response`, or raise a `HubError`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self):
        self.hub = self.server.hub
        self.body = self.read_body()  # even if nobody wants it: the connection's next request comes behind it
        path, _, query = self.path.partition("?")
        self.query = parse_qs(query)
        try:
            with self.hub.lock:
                response = self.find_response(path)
        except HubError as error:
            response = error.response
        except Exception:  # a bug in this file; clients would repeat a 500
            response = json_response({"error": traceback.format_exc()}, 501)
        self.hub.requests.append(Request(self.command, path, response.status))
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = answer

    def log_message(self, *_):
        pass

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = bytearray()
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(body)

    def find_response(self, path):
        for failure in self.hub.failures:
            if failure["times"] and failure["route"] in path and failure["method"] in (None, self.command):
                failure["times"] -= 1
                raise HubError(failure["status"], "The test asked for this failure")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise HubError(401, "Invalid credentials in Authorization header")
        self.user = TOKENS.get(token)
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == self.command.replace("HEAD", "GET"):
                arguments = {key: unquote(value) for key, value in match.groupdict().items() if value}
                if repo_id := arguments.pop("repo_id", None):
                    arguments["repo"] = self.visible_repo(repo_id, arguments.pop("repo_type", "model"))
                response = getattr(self, name)(**arguments)
                return response if isinstance(response, Response) else json_response(response)
        raise HubError(404, f"There is no {self.command} {path}")

    def visible_repo(self, repo_id, repo_type):
        repo = self.hub.read(repo_id, repo_type)
        if repo["private"] and self.user != repo["owner"]:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repo

    def check_user(self, allowed=None):
        """Refuses who has no token, and who isn't the user `allowed`."""
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        if allowed and self.user != allowed:
            raise HubError(403, f"The user {self.user} has no right to do this")

    def whoami(self):
        self.check_user()
        auth = {"type": "access_token", "accessToken": {"displayName": "tests", "role": "write"}}
        return {"type": "user", "name": self.user, "fullname": self.user, "isPro": False, "orgs": [], "auth": auth}

    def validate_yaml(self):
        card, errors = read_card(json.loads(self.body)["content"])
        if errors:
            raise HubError(400, "Invalid metadata", errors=[{"message": error} for error in errors], warnings=[])
        return {"errors": [], "warnings": [] if card else [{"message": "empty or missing yaml metadata in repo card"}]}

    def asked_repo(self):
        """What a request to create or delete a repo asks for: its id, its type, whether it is private."""
        self.check_user()
        asked = json.loads(self.body)
        private = asked.get("visibility") == "private" or asked.get("private", False)
        return f"{asked.get('organization') or self.user}/{asked['name']}", asked.get("type") or "model", private

    def create_repo(self):
        repo_id, repo_type, private = self.asked_repo()
        namespace = repo_id.split("/")[0]
        if namespace in TOKENS.values():
            self.check_user(namespace)
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo_id) or "--" in repo_id or ".." in repo_id:
            raise HubError(400, f"Invalid repo name: {repo_id}")
        self.hub.create(repo_id, repo_type=repo_type, private=private, owner=self.user)
        return {"url": self.hub.url(repo_id, repo_type)}

    def delete_repo(self):
        repo_id, repo_type, _ = self.asked_repo()
        self.check_user(self.visible_repo(repo_id, repo_type)["owner"])
        self.hub.repo_file(repo_id, repo_type).unlink()

    def info(self, repo, revision="main"):
        commit = self.hub.find_commit(repo, revision)
        siblings = [{"rfilename": path} for path in commit["files"]]
        if "blobs" in self.query:
            for sibling, entry in zip(siblings, commit["files"].values(), strict=True):
                sibling |= {"size": entry["size"], "blobId": entry["oid"], "lfs": entry.get("lfs")}
        readme = commit["files"].get("README.md")
        card = read_card(self.hub.blob(readme["sha256"]).read_text(errors="replace"))[0] if readme else {}
        tags = [f"{prefix}{value}" for key, prefix in TAG_PREFIXES.items() for value in as_list(card.get(key))]
        created = min(commit["date"] for commit in repo["commits"].values())
        return {
            "id": repo["id"], "author": repo["id"].split("/")[0], "sha": commit["id"], "private": repo["private"],
            "createdAt": created, "lastModified": commit["date"], "gated": False, "disabled": False, "downloads": 0,
            "likes": 0, "tags": tags, "cardData": card, "siblings": siblings,
            "library_name": card.get("library_name"), "pipeline_tag": card.get("pipeline_tag"),
        }  # fmt: skip

    def preupload(self, repo, revision):
        self.check_user(None if "create_pr" in self.query else repo["owner"])
        present = self.hub.find_commit(repo, revision)["files"]
        asked = json.loads(self.body)
        ignored = asked.get("gitIgnore", "")
        if not ignored and ".gitignore" in present:
            ignored = self.hub.blob(present[".gitignore"]["sha256"]).read_text()
        files = []
        for path, size in ((file["path"], file["size"]) for file in asked["files"]):
            mode = "lfs" if is_lfs(path, size) else "regular"
            oid = present[path]["etag"] if path in present else None  # a file whose content has this oid isn't sent
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": is_ignored(path, ignored), "oid": oid})
        return {"files": files}

    def lfs_batch(self, repo):
        self.check_user()
        objects = json.loads(self.body)["objects"]
        for asked in objects:
            if not self.hub.blob(asked["oid"]).exists():
                asked["actions"] = {"upload": {"href": f"{self.hub.endpoint}/upload/{asked['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def lfs_upload(self, sha256):
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise HubError(400, "The content doesn't have the sha256 of its address")
        self.hub.add_blob(self.body)

    def commit(self, repo, revision):
        create_pr = "create_pr" in self.query
        self.check_user(None if create_pr else repo["owner"])
        ref = revision if revision.startswith("refs/pr/") else f"refs/heads/{revision}"
        parent = self.hub.find_commit(repo, ref)
        header, *operations = (json.loads(line) for line in self.body.splitlines())
        header = header["value"]
        if not parent["id"].startswith(header.get("parentCommit", "")):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = self.apply(operations, parent["files"])
        url = pull_request = self.hub.url(repo["id"], repo["type"])
        if create_pr:
            number = 1 + sum(name.startswith("refs/pr/") for name in repo["refs"])
            ref, pull_request = f"refs/pr/{number}", f"{url}/discussions/{number}"
        title, message = header["summary"], header.get("description", "")
        commit_id = self.hub.add_commit(repo, ref, parent["id"], files, title, message, self.user)
        return {"commitOid": commit_id, "commitUrl": f"{url}/commit/{commit_id}", "pullRequestUrl": pull_request}

    def apply(self, operations, files):
        """The files after the operations of a commit. Nothing but blobs is written here, and all is checked."""
        files = dict(files)
        for kind, value in ((operation["key"], operation["value"]) for operation in operations):
            path = value["path"]
            if kind in ("file", "lfsFile") and {"", ".", "..", ".git"} & set(path.split("/")):
                raise HubError(400, f"Invalid path in a commit: {path}")
            if kind == "file":
                content = base64.b64decode(value["content"])
                if path == "README.md" and read_card(content.decode(errors="replace"))[1]:
                    raise HubError(400, "Invalid metadata in README.md")
                files[path] = self.hub.add_blob(content)
            elif kind == "lfsFile":
                if not self.hub.blob(value["oid"]).exists():
                    raise HubError(400, f"The LFS file {path} was not uploaded")
                files[path] = self.hub.add_blob(self.hub.blob(value["oid"]).read_bytes(), lfs=True)
            elif kind == "deletedFile" and path in files:
                del files[path]
            elif kind == "deletedFolder" and any(name.startswith(path.rstrip("/") + "/") for name in files):
                files = {name: entry for name, entry in files.items() if not name.startswith(path.rstrip("/") + "/")}
            else:
                raise HubError(404, f"A file with this name doesn't exist: {path} ({kind})", "EntryNotFound")
        return files

    def commits(self, repo, revision):
        commits = self.hub.commits(repo["id"], repo["type"], revision)
        return [commit | {"authors": [{"user": commit["author"]}], "files": None} for commit in commits]

    def refs(self, repo):
        listed = {"branches": [], "tags": [], "pullRequests": [], "converts": []}
        kinds = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}
        for ref, commit_id in repo["refs"].items():
            _, kind, name = ref.split("/", 2)
            listed[kinds[kind]].append({"name": name, "ref": ref, "targetCommit": commit_id})
        return listed

    def create_branch(self, repo, name):
        self.create_ref(repo, f"refs/heads/{name}", json.loads(self.body).get("startingPoint", "main"))

    def create_tag(self, repo, revision):
        self.create_ref(repo, f"refs/tags/{json.loads(self.body)['tag']}", revision)

    def create_ref(self, repo, ref, revision):
        self.check_user(repo["owner"])
        commit = self.hub.find_commit(repo, revision)
        if ref in repo["refs"]:
            raise HubError(409, f"{ref} exists already")
        repo["refs"][ref] = commit["id"]
        self.hub.write(repo)

    def delete_ref(self, repo, kind, name):
        self.check_user(repo["owner"])
        ref = f"refs/heads/{name}" if kind == "branch" else f"refs/tags/{name}"
        if ref == "refs/heads/main":
            raise HubError(403, "The branch main can't be deleted")
        if repo["refs"].pop(ref, None) is None:
            raise HubError(404, f"There is no {ref}", "RevisionNotFound")
        self.hub.write(repo)

    def entries(self, repo, revision):
        """All files and folders of a revision: path -> what the Hub says of it."""
        entries = {}
        for path, entry in self.hub.find_commit(repo, revision)["files"].items():
            parts = path.split("/")
            for folder in ("/".join(parts[:depth]) for depth in range(1, len(parts))):
                oid = hashlib.sha1(folder.encode()).hexdigest()  # any 40 digits: nobody asks for trees
                entries[folder] = {"type": "directory", "oid": oid, "size": 0, "path": folder}
            entries[path] = {"path": path} | entry
        return entries

    def tree(self, repo, revision, folder=""):
        entries = self.entries(repo, revision)
        if folder and entries.get(folder, {}).get("type") != "directory":
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        prefix = f"{folder}/" if folder else ""
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        inside = {path.removeprefix(prefix): entry for path, entry in entries.items() if path.startswith(prefix)}
        return [entry for path, entry in inside.items() if recursive or "/" not in path]

    def paths_info(self, repo, revision):
        entries = self.entries(repo, revision)
        return [entries[path] for path in parse_qs(self.body.decode()).get("paths", []) if path in entries]

    def resolve(self, repo, revision, path):
        commit = self.hub.find_commit(repo, revision)
        headers = {"X-Repo-Commit": commit["id"], "Accept-Ranges": "bytes"}
        entry = commit["files"].get(path)
        if entry is None:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound", headers)
        headers |= {"Content-Type": "application/octet-stream", "ETag": f'"{entry["etag"]}"'}
        if "lfs" in entry:
            headers |= {"X-Linked-Size": str(entry["size"]), "X-Linked-ETag": headers["ETag"]}
        content = self.hub.blob(entry["sha256"]).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return Response(200, content, headers)
        start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
        if start >= stop:
            raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        return Response(206, content[start:stop], headers)
