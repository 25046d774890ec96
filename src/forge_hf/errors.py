# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Errors of forge_hf. Each is also a builtin, a `ValueError` unless it says otherwise: either name catches it."""

__all__ = [
    "CapacityError",
    "CorruptCatalogError",
    "CorruptFileError",
    "DuplicateItemError",
    "FingerprintMismatchError",
    "ForgeError",
    "HubError",
    "InvalidCodesError",
    "InvalidEmbeddingsError",
    "InvalidSemanticIdError",
    "InvalidSequencesError",
    "MalformedRowsError",
    "NonFiniteLossError",
    "OutputInUseError",
    "RunMismatchError",
    "StorageError",
    "UnknownItemError",
    "UnsatisfiableRequestError",
]


class ForgeError(Exception):
    """Base class of every error that forge_hf raises by its own name."""


class InvalidEmbeddingsError(ForgeError, ValueError):
    """Item embeddings are empty, not finite, of the wrong width, or too few for what was asked."""


class DuplicateItemError(ForgeError, ValueError):
    """An item id occurs more than once where ids must be unique."""


class UnknownItemError(ForgeError, ValueError):
    """An item id is not in the catalog."""


class InvalidSequencesError(ForgeError, ValueError):
    """A history or a set of interaction sequences is empty, malformed or too short."""


class MalformedRowsError(ForgeError, ValueError):
    """More rows of a file or stream are malformed than was allowed."""


class InvalidCodesError(ForgeError, ValueError):
    """Codes have the wrong shape or type, or lie outside their codebook."""


class InvalidSemanticIdError(ForgeError, ValueError):
    """A text is not a semantic ID of the layout."""


class CapacityError(ForgeError, ValueError):
    """Items don't fit: there are more than their codes have room for."""


class CorruptCatalogError(ForgeError, ValueError):
    """A saved catalog is truncated, altered, or of an unknown format."""


class CorruptFileError(ForgeError, ValueError):
    """A saved JSON file is truncated or altered."""


class FingerprintMismatchError(ForgeError, ValueError):
    """A model and a catalog were not made for each other."""


class UnsatisfiableRequestError(ForgeError, ValueError):
    """A request asks for more items than the catalog can give."""


class HubError(ForgeError, OSError):
    """The Hub can't be reached, or refuses. An `OSError`, as the errors of huggingface_hub are."""


class RunMismatchError(ForgeError, ValueError):
    """A checkpoint was begun with other settings, another model or other data."""


class NonFiniteLossError(ForgeError, ArithmeticError):
    """The loss of a training, or its gradient, turned NaN or infinite. An `ArithmeticError`."""


class OutputInUseError(ForgeError, OSError):
    """Another process is writing to the same place. An `OSError`."""


class StorageError(ForgeError, OSError):
    """The disk is full, over quota, or fails. An `OSError`, whose `errno` says which."""
