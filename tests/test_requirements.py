# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What tests and benchmarks import is named in pyproject.toml, or comes with what is."""

import ast
import re
import sys
import tomllib
from pathlib import Path


ROOT = Path(__file__).parents[1]
# Of packages that are named: datasets needs fsspec and pyarrow, transformers needs tokenizers and yaml. STATIC's code,
# which a benchmark compares with where it is at hand, is no package.
COME_ALONG = {"fsspec", "pyarrow", "tokenizers", "yaml", "static_decoding"}
OTHER_NAMES = {"faiss_cpu": "faiss", "scikit_learn": "sklearn"}


def test_imports_are_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    named = {re.match(r"[\w-]+", requirement)[0].replace("-", "_") for requirement in named}
    known = {OTHER_NAMES.get(name, name) for name in named} | COME_ALONG | sys.stdlib_module_names
    for folder in ("src", "tests", "benchmarks", "examples"):
        files = sorted((ROOT / folder).rglob("*.py"))
        known_here = known | {"forge_hf", *(file.stem for file in files if folder in ("benchmarks", "tests"))}
        for file in files:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module]
                unknown = {name.split(".")[0] for name in names} - known_here
                assert not unknown, f"{file.relative_to(ROOT)} imports {unknown}, which pyproject.toml doesn't name."
