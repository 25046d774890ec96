# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""LETTER: an RQ-VAE with a collaborative and a diversity loss. Importing this registers it."""

from transformers import AutoConfig, AutoModel

from .configuration_letter import LetterConfig
from .modeling_letter import LetterModel, LetterOutput


AutoConfig.register(LetterConfig.model_type, LetterConfig, exist_ok=True)
AutoModel.register(LetterConfig, LetterModel, exist_ok=True)

__all__ = ["LetterConfig", "LetterModel", "LetterOutput"]
