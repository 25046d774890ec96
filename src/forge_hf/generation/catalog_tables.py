# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The prefix table of a catalog: the one that was saved beside it, or one that is built, once for all callers."""

import logging
import threading
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedTokenizerBase

from ..errors import CorruptCatalogError, FingerprintMismatchError
from ..semantic_ids import SemanticIdCatalog
from ..tokenization.tokenization_semantic_id import semantic_id_token_ids
from .prefix_table import PrefixTable
from .table_file import TABLE_FILE


__all__ = ["table_of"]

logger = logging.getLogger(__name__)


class _Tables:
    """The tables of a catalog for one tokenizer, by device."""

    def __init__(self):
        self.lock = threading.Lock()
        self.by_device: dict[torch.device, PrefixTable] = {}


_tables: WeakKeyDictionary[SemanticIdCatalog, WeakKeyDictionary[PreTrainedTokenizerBase, _Tables]] = (
    WeakKeyDictionary()
)
_lock = threading.Lock()


def table_of(
    catalog: SemanticIdCatalog, tokenizer: PreTrainedTokenizerBase, device: torch.device | str
) -> PrefixTable:
    """
    The prefix table of a catalog, made at the first call and kept as long as catalog and tokenizer are. However many
    threads ask for it at once, it's made once.

    A table that [`~PrefixTable.save_pretrained`] left in the folder of a loaded catalog is mapped into memory, if it
    is of this catalog, items in this order, and in this tokenizer's token ids. If not, it's left alone, with a warning
    in the log, and one is built.

    Args:
        catalog ([`SemanticIdCatalog`]):
            The items.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A tokenizer in which every code is one token.
        device (`torch.device` or `str`):
            Where the table is to be.

    Returns:
        [`PrefixTable`]
    """
    with _lock:
        tables = _tables.setdefault(catalog, WeakKeyDictionary()).setdefault(tokenizer, _Tables())
    device = torch.device(device)
    with tables.lock:
        if device not in tables.by_device:
            table = next(iter(tables.by_device.values()), None) or _saved_table(catalog, tokenizer)
            tables.by_device[device] = (table or PrefixTable.from_catalog(catalog, tokenizer)).to(device)
        return tables.by_device[device]


def _saved_table(catalog: SemanticIdCatalog, tokenizer: PreTrainedTokenizerBase) -> PrefixTable | None:
    if catalog.folder is None or not (catalog.folder / TABLE_FILE).is_file():
        return None
    try:
        table = PrefixTable.from_pretrained(catalog.folder, catalog=catalog)
        if table.codes_checksum is None or table.num_items < len(catalog):
            reason = "It isn't the whole table of a catalog."
        elif not torch.equal(table.token_ids, semantic_id_token_ids(tokenizer, catalog.layout)):
            reason = "It is in the token ids of another tokenizer."
        else:
            return table
    except (CorruptCatalogError, FingerprintMismatchError) as error:
        reason = str(error)
    logger.warning(
        f"The prefix table in {catalog.folder} isn't used, and another is built: {reason} To save the one that "
        "belongs there: `PrefixTable.from_catalog(catalog, tokenizer).save_pretrained(folder)`."
    )
    return None
