# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""A little world for training: 40 items in a ring, users who walk along it."""

import pytest
from datasets import Dataset

from forge_hf.data import leave_one_out
from forge_hf.semantic_ids import SemanticIdCatalog


@pytest.fixture(scope="session")
def ring_catalog():
    codes = [[i // 8, i % 8] for i in range(40)]
    return SemanticIdCatalog.from_codes(list(range(100, 140)), codes, codebook_sizes=[5, 8], on_collision="keep")


@pytest.fixture(scope="session")
def ring_splits():
    walks = [[100 + (start + step) % 40 for step in range(4 + start % 5)] for start in range(80)]
    return leave_one_out(Dataset.from_dict({"user_id": list(range(80)), "items": walks}))
