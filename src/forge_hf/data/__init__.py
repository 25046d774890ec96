# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
In: files and datasets. Out: item embeddings in slices, interaction sequences and their splits, or a whole market.
Doesn't know what a semantic ID is.
"""

from .al_gr import (
    behavior_to_lists,
    normalize_text_rows,
    read_origin_behavior,
    read_text_rows,
    write_origin_behavior,
)
from .al_gr_archives import (
    read_contrastive_archive,
    read_reconstruction_archive,
    write_contrastive_archive,
    write_reconstruction_archive,
)
from .al_gr_embeddings import read_item_embeddings, write_item_embeddings
from .al_gr_item_sids import read_item_sids, write_inferred_sids, write_item_sids
from .embeddings import ItemEmbeddings
from .interactions import UserItemPairs
from .malformed import MalformedRows
from .pairs import ItemPairs, read_training_sequences
from .sequences import adjacent_pairs, leave_one_out, read_sequences
from .synthetic import SyntheticMarket


__all__ = [
    "ItemEmbeddings",
    "ItemPairs",
    "MalformedRows",
    "SyntheticMarket",
    "UserItemPairs",
    "adjacent_pairs",
    "behavior_to_lists",
    "leave_one_out",
    "normalize_text_rows",
    "read_contrastive_archive",
    "read_item_embeddings",
    "read_item_sids",
    "read_origin_behavior",
    "read_reconstruction_archive",
    "read_sequences",
    "read_text_rows",
    "read_training_sequences",
    "write_contrastive_archive",
    "write_inferred_sids",
    "write_item_embeddings",
    "write_item_sids",
    "write_origin_behavior",
    "write_reconstruction_archive",
]
