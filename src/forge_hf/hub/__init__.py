# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
The Hub: folders to repositories, with cards, and files of repositories back.

In: a folder that something was saved into, or a repository. Out: one commit with a card that states the folder's own
facts; or paths of files, all of one commit. Also how files are written, and how long jobs go on after a kill. Knows
files, not the classes that wrote them: every other room uses it.
"""

from .cards import is_generated, render_card
from .client import explain_hub_errors, find_files
from .data_files import describe_data_files
from .folder import FolderFacts, read_folder, read_json
from .push import push_folder, write_card
from .run import add_scores, describe_hardware, describe_scores, describe_versions, write_run
from .shards import Shards
from .writing import finish_interrupted, lock_file, lock_folder, write_folder, write_json, write_then_rename


__all__ = [
    "FolderFacts",
    "Shards",
    "add_scores",
    "describe_data_files",
    "describe_hardware",
    "describe_scores",
    "describe_versions",
    "explain_hub_errors",
    "find_files",
    "finish_interrupted",
    "is_generated",
    "lock_file",
    "lock_folder",
    "push_folder",
    "read_folder",
    "read_json",
    "render_card",
    "write_card",
    "write_folder",
    "write_json",
    "write_run",
    "write_then_rename",
]
