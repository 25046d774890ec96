# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Each public entry point with each kind of bad input: refused by name, before work starts, every file as it was."""

import importlib
import resource

import pytest
from huggingface_hub.errors import HFValidationError, StrictDataclassError

import forge_hf
from forge_hf.cli import app

from . import (
    rows_commands,
    rows_data,
    rows_evaluation,
    rows_generation,
    rows_models,
    rows_semantic_ids,
    rows_training,
)
from .world import EXAMPLES, CommandError, raised_by_this_package


ROOMS = ("data", "evaluation", "generation", "hub", "models", "semantic_ids", "tokenization", "training")
TABLES = (
    rows_data,
    rows_models,
    rows_semantic_ids,
    rows_generation,
    rows_evaluation,
    rows_training,
    rows_commands,
)
ROWS = [row for module in TABLES for row in module.ROWS]
# What calls return, what users derive from, and parts whose input another part of the package made: no entry points.
RESULTS = {
    *("BeamSearchOutput", "CatalogRanking", "Children", "DASOutput", "FSQOutput", "FolderFacts"),
    *("ItemTokenizerOutput", "LetterOutput", "MMQOutput", "MMQSoftEncoderOutput"),
    *("RQVAEEncoderOutput", "RQVAEOutput", "RetrievalResult", "Retriever", "SemanticIdQuality"),
    *("UnconstrainedResult", "ForgeError"),
}
BASES = {"Baseline", "ItemTokenizerPreTrainedModel", "NeuralItemTokenizerModel", "RQVAEPreTrainedModel"}
PARTS = {
    *("CausalCollator", "PromptCollator", "RQVAEContrastiveLoss", "Seq2SeqCollator", "describe_hardware"),
    *("describe_scores", "describe_versions", "explain_hub_errors", "is_generated", "write_run"),
    # What writes files has tests of its own, which fail at each call in turn.
    *("Shards", "finish_interrupted", "lock_file", "lock_folder", "write_folder", "write_json", "write_then_rename"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", ROWS, ids=[f"{row.entry}-{row.bad}" for row in ROWS])
def test_bad_input_is_refused(row, world, tally):
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(row.error) as raised:
        row.call(world)
    assert row.names in str(raised.value)
    # By this package, which knows what the argument is called: not by whatever it was handed on to.
    by_others = (CommandError, HFValidationError, StrictDataclassError, SystemExit, OSError)
    assert raised_by_this_package(raised.value) or isinstance(raised.value, by_others)
    assert world.files() == world.expected
    if "2 GiB" in row.bad:
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200 * 1024
    tally["table"]["rows"] += 1
    tally["table"]["entry_points"].add(row.entry)


def test_no_public_name_is_missing_from_the_table():
    modules = [forge_hf, *(importlib.import_module(f"forge_hf.{room}") for room in ROOMS)]
    public = {name for module in modules for name in module.__all__ if callable(getattr(module, name))}
    tried = {row.entry.split(".")[0] for row in ROWS}
    assert public - tried == RESULTS | BASES | PARTS
    assert not tried & (RESULTS | BASES | PARTS)


def test_no_command_and_no_example_of_files_is_missing_from_the_table():
    tried = {row.entry for row in ROWS}
    assert {f"forge-hf {command.callback.__name__}" for command in app.registered_commands} <= tried
    assert {entry for entry in tried if entry.startswith("examples/")} <= {
        f"examples/{path.name}" for path in EXAMPLES.glob("*.py")
    }


def test_no_row_stands_twice():
    seen = [(row.entry, row.bad) for row in ROWS]
    assert len(set(seen)) == len(seen)
