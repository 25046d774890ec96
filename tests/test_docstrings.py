# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Every public name is documented, and the examples in docstrings run."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import forge_hf


ROOT = Path(__file__).parents[1]
MODULES = [forge_hf.__name__, *(m.name for m in pkgutil.walk_packages(forge_hf.__path__, "forge_hf."))]


class FencedParser(doctest.DocTestParser):
    """Docstrings fence their examples for the web; plain doctest would take the closing fence for output."""

    def parse(self, string, name="<string>"):
        lines = ["" if line.strip().startswith("```") else line for line in string.splitlines()]
        return super().parse("\n".join(lines), name)


@pytest.mark.parametrize("module_name", MODULES)
def test_examples_in_docstrings(module_name):
    module = importlib.import_module(module_name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    report = []
    runner = doctest.DocTestRunner(optionflags=flags, verbose=False)
    for test in doctest.DocTestFinder(parser=FencedParser(), exclude_empty=True).find(module, module_name):
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_public_names_are_sorted_documented_and_complete():
    assert sorted(forge_hf.__all__, key=lambda n: (not n.isupper(), n)) == forge_hf.__all__
    for name in forge_hf.__all__:
        assert inspect.getdoc(getattr(forge_hf, name)), f"{name} has no docstring"
    assert set(forge_hf._LAZY) <= set(forge_hf.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = forge_hf.nonsense


@pytest.mark.parametrize(
    "room", ["data", "evaluation", "generation", "hub", "models", "semantic_ids", "tokenization", "training"]
)
def test_rooms_say_what_they_do_and_export_what_they_name(room):
    module = importlib.import_module(f"forge_hf.{room}")
    assert module.__doc__ and len(module.__doc__) > 100
    for name in module.__all__:
        assert hasattr(module, name)


def test_rooms_import_from_left_to_right_only():
    order = ["errors", "hub", "data", "models", "semantic_ids", "tokenization", "generation", "evaluation", "training"]
    for name in MODULES:
        parts = name.split(".")
        if len(parts) < 2 or parts[1] not in order:
            continue
        source = inspect.getsource(importlib.import_module(name))
        for other in order[order.index(parts[1]) + 1 :]:
            assert f"from ..{other}" not in source and f"from forge_hf.{other}" not in source, f"{name} -> {other}"


def test_readme_snippets_run(tmp_path, monkeypatch):
    """The README's Python, top to bottom, in an empty folder."""
    readme = ROOT.joinpath("README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len(snippets) == 4
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for snippet in snippets:
        lines = snippet.rstrip().splitlines()
        exec(compile("\n".join(lines), "README.md", "exec"), namespace)
    recommended = namespace["recommend"](namespace["splits"]["test"][0]["history"], top_k=5)
    assert len(recommended) == 5 and recommended[0].keys() == {"item_id", "score", "semantic_id"}


def test_docs_snippet_makes_a_catalog_of_all_items(tmp_path, monkeypatch):
    page = ROOT.joinpath("docs", "item_tokenizers.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(compile(snippet, "item_tokenizers.md", "exec"), namespace)
    catalog, items = namespace["catalog"], namespace["items"]
    assert len(catalog) == 400 and len({tuple(catalog.codes_for([item])[0]) for item in items.item_ids}) == 400
