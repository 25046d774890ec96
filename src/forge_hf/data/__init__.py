# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
In: files and datasets. Out: item embeddings in slices, pairs of items, interaction sequences and their splits, or a
whole market. Doesn't know what a semantic ID is.
"""

from .embeddings import ItemEmbeddings
from .pairs import ItemPairs
from .sequences import leave_one_out, read_sequences
from .synthetic import SyntheticMarket


__all__ = ["ItemEmbeddings", "ItemPairs", "SyntheticMarket", "leave_one_out", "read_sequences"]
