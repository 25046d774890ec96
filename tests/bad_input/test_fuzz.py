# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Files that were changed at random: each is read, or refused by an error of this package.

In the suite a few of each, always the same ones. `make fuzz` tries many, and writes results/bad_input.json.
"""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from forge_hf.errors import ForgeError

from .parsers import make_parsers
from .world import raised_by_this_package


NAMES = [
    *("layout text", "rows of text", "AL-GR text rows", "AL-GR origin_behavior", "AL-GR Item-SID", "AL-GR Item-EMB"),
    *("reconstruction archive", "contrastive archive", "pickled dictionary", "catalog: safetensors"),
    *("catalog: header", "catalog: JSON", "catalog: bytes of JSON", "prefix table: safetensors"),
    *("prefix table: header", "prefix table: metadata", "predictions: bytes", "predictions: JSON", "sequences: text"),
    *("sequences: JSON lines", "embeddings: npy", "pairs: npy", "embeddings: safetensors"),
    *("embeddings: arrow", "embeddings: parquet", "run.json"),
    *("run.json: bytes", "config.json of a retriever", "config.json of an item tokenizer", "adapter_config.json"),
    *("cards", "data files: CSV", "data files: Parquet", "data files: JSON lines", "categories"),
]


@pytest.fixture(scope="module")
def parsers(parts, saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        yield {parser.name: parser for parser in make_parsers(parts, saved, folder)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_what_was_changed_at_random_is_read_or_refused(name, parsers, tally, request):
    parser, counts = parsers[name], {"tried": 0, "refused": 0}
    wanted = request.config.getoption("--fuzz-examples")
    budget = settings(
        max_examples=max((wanted or 40) // parser.cost, 3),
        derandomize=wanted is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )

    @budget
    @given(parser.inputs)
    def try_one(content):
        counts["tried"] += 1
        try:
            parser.read(content)
        except ForgeError:
            counts["refused"] += 1
        except (ValueError, TypeError, FileNotFoundError) as error:
            # Of an argument or a folder, by this package: what a library raises is a crash.
            if not raised_by_this_package(error):
                raise
            counts["refused"] += 1

    try_one()
    tally["fuzz"][name] = counts


def test_every_parser_is_tried(parsers):
    assert NAMES == list(parsers)
