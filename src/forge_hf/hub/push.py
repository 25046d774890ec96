# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Writing to the Hub: one folder, one commit, with a card."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from ..errors import FingerprintMismatchError
from .cards import is_generated, render_card
from .client import TIMEOUT, check_token, explain_hub_errors
from .data_files import describe_data_files
from .folder import CARD_FILE, FolderFacts, read_folder, read_json, trained_fingerprint
from .writing import write_then_rename


__all__ = ["push_folder", "write_card"]

logger = logging.getLogger(__name__)

_MODEL_CONFIGS = {"config.json", "adapter_config.json"}
# Files of a model that are read before others, or beside them, whoever pushed them.
_OF_A_MODEL = re.compile(
    r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|adapter_(model\.safetensors|config\.json)"
    r"|(generation_)?config\.json|run\.json"
)


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
    repository as it was. Weights, configs and facts of a model that was there before go with the same commit.

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
    # Before anything is asked of the Hub, so that what is wrong with the card or its metadata leaves no trace there.
    own = _card_of_folder(folder)
    card = render_card(facts, repo_id, metadata=card_metadata) if own is None else own
    api = HfApi(token=token)
    with explain_hub_errors(repo_id, repo_type, revision):
        there = _look_at(api, repo_id, repo_type, revision)
        if there is None:
            repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(repo_id, repo_type=repo_type, branch=revision, exist_ok=True)
            there = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
        present = {sibling.rfilename for sibling in there.siblings or []}
        source = {"repo_type": repo_type, "revision": there.sha}
        if facts.kind == "catalog":
            _refuse_foreign_catalog(api, repo_id, present, source, facts)
        previous = None
        if CARD_FILE in present:
            previous = Path(api.hf_hub_download(repo_id, CARD_FILE, **source)).read_text(encoding="utf-8")
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in facts.files]
        if previous is None or overwrite_card or is_generated(previous):
            # A catalog may be added to a model's repository: the card is the model's.
            if facts.kind != "catalog" or previous is None or not present & _MODEL_CONFIGS:
                if own is None and previous is not None:
                    metadata = _given_metadata(previous) | (card_metadata or {})
                    card = render_card(facts, repo_id, metadata=metadata)
                operations.append(CommitOperationAdd(path_in_repo=CARD_FILE, path_or_fileobj=card.encode("utf-8")))
        elif previous != card:
            logger.warning(
                f"The card of {repo_id} was written by hand and stays: no other is uploaded without `overwrite_card`."
            )
        if facts.kind not in ("catalog", "dataset"):
            # What an earlier push of another kind or number of files left would be loaded in place of this one.
            stale = [name for name in present - set(facts.files) if _OF_A_MODEL.fullmatch(name)]
            operations += [CommitOperationDelete(path_in_repo=name) for name in sorted(stale)]
        return api.create_commit(
            repo_id,
            operations,
            repo_type=repo_type,
            revision=revision,
            parent_commit=there.sha,
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


def _look_at(api: HfApi, repo_id: str, repo_type: str, revision: str | None):
    """What the Hub says of a revision, asked with a time limit, which uploads don't have; `None` if there is none."""
    try:
        return api.repo_info(repo_id, repo_type=repo_type, revision=revision, timeout=TIMEOUT)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None


def _refuse_foreign_catalog(
    api: HfApi, repo_id: str, present: set[str], source: dict[str, Any], facts: FolderFacts
) -> None:
    """Refuses to put a catalog beside a model that was trained on another."""
    configs = [
        read_json(api.hf_hub_download(repo_id, name, **source)) if name in present else {}
        for name in ("config.json", "adapter_config.json")
    ]
    trained, given = trained_fingerprint(*configs), facts.semantic_ids.get("fingerprint")
    if trained not in (None, given):
        raise FingerprintMismatchError(
            f"The model in {repo_id} was trained on the catalog {trained}, and this one is {given}: nobody could load "
            "the model any more. Push the catalog to a repository of its own, or with the model that goes with it."
        )


def _given_metadata(card: str) -> dict[str, Any]:
    """What somebody gave for the head of a card that is written anew."""
    data = ModelCard(card).data.to_dict()
    return {name: data[name] for name in ("license", "license_name", "license_link", "language") if name in data}
