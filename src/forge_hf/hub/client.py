# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Reading from the Hub: files of one commit, and errors in one line."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import HubError
from .writing import finish_interrupted


__all__ = ["TIMEOUT", "check_token", "explain_hub_errors", "find_files", "hub_answers"]

# What huggingface_hub's HTTP client raises when no answer comes. Which client that is depends on the version.
_HTTPError = HfHubHTTPError.__bases__[0]
TIMEOUT = 10  # seconds to wait for the Hub's answer to a question about a repository


def find_files(
    source: str | os.PathLike,
    names: Sequence[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
) -> list[str]:
    """
    Finds files in a folder, or downloads them from a repository, all from one commit.

    Without a network, a repository's files are taken from the cache.

    Args:
        source (`str` or `os.PathLike`):
            A folder, or the id of a repository on the Hub.
        names (`Sequence[str]`):
            Names of the files, none of them in a folder.
        revision (`str`, *optional*):
            Branch, tag or commit of the repository.
        token (`str` or `bool`, *optional*):
            Token of the Hub, by default the one that `hf auth login` stored.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Folder to keep downloads in.
        local_files_only (`bool`, *optional*, defaults to `False`):
            Whether to look into the cache only.

    Returns:
        `list[str]`: paths, in the order of `names`.

    Raises:
        `FileNotFoundError`: There is no such folder or repository id, or it lacks a file.
        [`HubError`]: The Hub can't be reached, or refuses.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from forge_hf.hub import find_files

    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "config.json").write_text("{}")
    >>> find_files(folder, ["config.json"]) == [str(folder / "config.json")]
    True
    ```
    """
    if os.path.isdir(source):
        finish_interrupted(source)
        paths = [os.path.join(source, name) for name in names]
        if missing := [name for name, path in zip(names, paths, strict=True) if not os.path.isfile(path)]:
            raise FileNotFoundError(f"{source} has no {' and no '.join(missing)}.")
        return paths
    check_token(token)
    repo_id = str(source)
    try:
        with explain_hub_errors(repo_id, revision=revision):
            offline = local_files_only or not hub_answers(repo_id, revision, token)
            options = {"token": token, "cache_dir": cache_dir, "local_files_only": offline}
            first = hf_hub_download(repo_id, names[0], revision=revision, **options)
            commit = Path(first).parent.name  # the cache has a folder a commit
            return [first, *(hf_hub_download(repo_id, name, revision=commit, **options) for name in names[1:])]
    except HFValidationError:
        raise FileNotFoundError(f"{repo_id} is neither a folder nor the id of a repository on the Hub.") from None


def check_token(token: str | bool | None) -> None:
    """Refuses a token that can't be sent, which the client would quote in its error."""
    if isinstance(token, str) and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ValueError("`token` holds a line end, a space or a character that no token has. Strip it.")


def hub_answers(repo_id: str, revision: str | None, token: str | bool | None) -> bool:
    """Whether the Hub can be reached: asked once, where a download would try for half a minute."""
    try:
        HfApi(token=token).repo_info(repo_id, revision=revision, timeout=TIMEOUT)
    except HfHubHTTPError:
        raise
    except (_HTTPError, ConnectionError):  # also OfflineModeIsEnabled
        return False
    return True


@contextmanager
def explain_hub_errors(repo_id: str, repo_type: str = "model", revision: str | None = None) -> Iterator[None]:
    """
    Turns errors of huggingface_hub into one line that says what to do.

    Args:
        repo_id (`str`):
            Id of the repository that is asked for.
        repo_type (`str`, *optional*, defaults to `"model"`):
            Type of the repository.
        revision (`str`, *optional*):
            Revision that is asked for.

    Raises:
        [`HubError`]: The Hub can't be reached, or refuses.
        `FileNotFoundError`: The repository lacks a file.
    """
    try:
        yield
    except Exception as error:
        # The upload of a large file fails with a RuntimeError, whose cause says why.
        cause = error.__cause__ if type(error) is RuntimeError else error
        explained = _explain(cause, repo_id, repo_type, revision)
        if explained is None:
            raise
        raise explained from error


def _explain(
    error: BaseException | None, repo_id: str, repo_type: str, revision: str | None
) -> HubError | FileNotFoundError | None:
    if isinstance(error, LocalEntryNotFoundError):
        return HubError(
            f"The Hub at {ENDPOINT} can't be reached, and {repo_id} isn't in the cache. Check the network, "
            "HF_ENDPOINT and HF_HUB_OFFLINE, or give a folder."
        )
    if isinstance(error, EntryNotFoundError):
        name = str(error.response.url).rsplit("/", 1)[-1]
        return FileNotFoundError(f"The repository {repo_id} has no {name}.")
    if isinstance(error, GatedRepoError):
        return HubError(f"Access to {repo_id} is gated: ask for it at {ENDPOINT}/{repo_id}, and log in.")
    if isinstance(error, RepositoryNotFoundError):
        return HubError(
            f"There is no {repo_type} repository {repo_id} at {ENDPOINT}, or it is private and the token doesn't open "
            "it. Check the id; for a private one, give `token` or run `hf auth login`."
        )
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"The repository {repo_id} has no revision {revision!r}.")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        reasons = {
            401: "the token is missing or not valid. Give `token`, or run `hf auth login`.",
            403: "the token may not do this. Take one with write access, of an account that may write to "
            f"{repo_id.split('/')[0]}.",
            412: "the repository was changed meanwhile. Try again.",
        }
        answer = (error.server_message or "no reason given").splitlines()[0]
        return HubError(f"The Hub refused {repo_id} ({status}): {reasons.get(status, answer)}")
    if isinstance(error, OfflineModeIsEnabled):
        return HubError(f"{repo_id} needs the Hub, but HF_HUB_OFFLINE is set. Unset it.")
    if isinstance(error, _HTTPError | ConnectionError):
        return HubError(f"The Hub at {ENDPOINT} can't be reached ({error}). Check the network and HF_ENDPOINT.")
    return None
