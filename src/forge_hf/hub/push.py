# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Writing to the Hub: one folder, one commit, with a card."""

import logging
import os
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import EntryNotFoundError

from .cards import is_generated, render_card
from .client import check_token, explain_hub_errors
from .data_files import describe_data_files
from .folder import ADAPTER_CONFIG_FILE, CARD_FILE, read_folder, write_then_rename


__all__ = ["push_folder", "write_card"]

logger = logging.getLogger(__name__)


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    card_metadata: dict[str, Any] | None = None,
    overwrite_card: bool = False,
) -> CommitInfo:
    """
    Uploads a saved folder to the Hub in one commit, with a card that states what the folder knows of itself.

    The folder is checked first: weights are there, the catalog is the one that the model was trained on, nothing is a
    pickle or a link out of the folder. A push that changes nothing makes no commit, and one that fails leaves the
    repository as it was.

    A `README.md` that somebody wrote in the folder is the card. One that somebody wrote or edited in the repository
    stays; one that this package wrote is written anew.

    Args:
        folder (`str` or `os.PathLike`):
            What `save_pretrained` or `save_model` wrote: an item tokenizer, a catalog, a retriever with tokenizer and
            catalog, or its LoRA adapter. Or data files, with `repo_type="dataset"`.
        repo_id (`str`):
            Id of the repository, made if there is none.
        repo_type (`str`, *optional*, defaults to `"model"`):
            `"model"` or `"dataset"`.
        private (`bool`, *optional*):
            Whether a repository that has to be made is private. By default as the organization has it.
        token (`str` or `bool`, *optional*):
            Token of the Hub, by default the one that `hf auth login` stored.
        revision (`str`, *optional*):
            Branch to commit to, made if there is none.
        commit_message (`str`, *optional*):
            Message of the commit.
        card_metadata (`dict`, *optional*):
            Metadata for the head of the card, such as `{"license": "mit"}`.
        overwrite_card (`bool`, *optional*, defaults to `False`):
            Whether to replace a card that somebody wrote in the repository.

    Returns:
        `huggingface_hub.CommitInfo`

    Raises:
        `FileNotFoundError`, [`FingerprintMismatchError`], `ValueError`: The folder isn't fit to be shared.
        [`HubError`]: The Hub can't be reached, or refuses.

    Example:

    ```python
    >>> from forge_hf import push_folder

    >>> push_folder("runs/gr", "me/beauty-retriever", private=True)  # doctest: +SKIP
    ```
    """
    check_token(token)
    folder = Path(folder)
    facts = read_folder(folder, repo_type)
    if repo_type == "dataset":
        facts.run = facts.run | {"files": describe_data_files(folder, facts.files)}
    api = HfApi(token=token)
    with explain_hub_errors(repo_id, repo_type, revision):
        repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, repo_type=repo_type, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in facts.files]
        card = _card_of_folder(folder) or render_card(facts, repo_id, metadata=card_metadata)
        if overwrite_card or _card_may_change(api, repo_id, repo_type, revision, facts.kind, card):
            operations.append(CommitOperationAdd(path_in_repo=CARD_FILE, path_or_fileobj=card.encode("utf-8")))
        return api.create_commit(
            repo_id,
            operations,
            repo_type=repo_type,
            revision=revision,
            commit_message=commit_message or f"Upload {facts.kind.replace('_', ' ')} with forge_hf",
        )


def write_card(folder: str | os.PathLike, repo_id: str, metadata: dict[str, Any] | None = None) -> None:
    """
    Writes the card of a saved model's folder into it, unless there is one that somebody wrote.

    Args:
        folder (`str` or `os.PathLike`):
            As in [`push_folder`].
        repo_id (`str`):
            Name that the card gives the repository.
        metadata (`dict`, *optional*):
            Metadata for the head of the card.
    """

    if _card_of_folder(Path(folder)) is None:
        text = render_card(read_folder(folder), repo_id, metadata=metadata)
        write_then_rename(Path(folder, CARD_FILE), lambda path: path.write_text(text, encoding="utf-8"))


def _card_of_folder(folder: Path) -> str | None:
    """The card that somebody wrote into the folder."""
    path = folder / CARD_FILE
    text = path.read_text(encoding="utf-8") if path.is_file() else None
    return None if text is None or is_generated(text) else text


def _card_may_change(api: HfApi, repo_id: str, repo_type: str, revision: str | None, kind: str, card: str) -> bool:
    """Whether `card` may take the place of what the repository has."""
    try:
        path = api.hf_hub_download(repo_id, CARD_FILE, repo_type=repo_type, revision=revision)
    except EntryNotFoundError:
        return True
    there = Path(path).read_text(encoding="utf-8")
    if not is_generated(there):
        if there != card:
            logger.warning(f"The card of {repo_id} was written by hand and stays. `overwrite_card` replaces it.")
        return False
    # A catalog may be added to a model's repository: the card is the model's.
    return kind != "catalog" or not api.get_paths_info(
        repo_id, ["config.json", ADAPTER_CONFIG_FILE], revision=revision
    )
