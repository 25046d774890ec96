# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Retrievers to train: small ones from scratch, or any checkpoint extended by the codes of a catalog."""

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ..checks import check_type
from ..generation.loading import save_adapter_alone
from ..generation.retrieval import check_fingerprint, set_trained_setting
from ..models.rqvae import RQVAEModel
from ..semantic_ids import SemanticIdCatalog
from ..tokenization import SemanticIdTokenizer, extend_tokenizer, resize_and_init, semantic_id_token_ids


__all__ = ["RETRIEVER_PRESETS", "add_lora", "create_retriever"]

# Sizes of models trained from scratch over a closed vocabulary of codes.
RETRIEVER_PRESETS: dict[str, dict] = {
    # TIGER, section 4 of https://huggingface.co/papers/2305.05065. The inner width 6 x 64 isn't d_model, as published.
    "t5-tiger": {
        "model_type": "t5",
        "d_model": 128,
        "d_kv": 64,
        "d_ff": 1024,
        "num_heads": 6,
        "num_layers": 4,
        "num_decoder_layers": 4,
        "dropout_rate": 0.1,
        "feed_forward_proj": "relu",
    },
    # 1.3 M parameters with 4 x 256 codes.
    "qwen2-small": {
        "model_type": "qwen2",
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    },
}


def create_retriever(
    name_or_path: str,
    catalog: SemanticIdCatalog,
    *,
    num_user_buckets: int = 0,
    rqvae: RQVAEModel | None = None,
    **config_overrides,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Makes a retriever and its tokenizer for a catalog.

    Args:
        name_or_path (`str`):
            `"t5-tiger"` or `"qwen2-small"` for a small model with random weights over a closed vocabulary of codes;
            else a checkpoint of a T5 or causal language model, whose tokenizer and embeddings the codes are added to.
        catalog ([`SemanticIdCatalog`]):
            Semantic IDs of the items. Its fingerprint is written into the model's config.
        num_user_buckets (`int`, *optional*, defaults to 0):
            Number of tokens that user ids are hashed to (2,000 in TIGER). Presets only.
        rqvae ([`RQVAEModel`], *optional*):
            Initialises the new rows of a checkpoint's embedding from its codebooks, instead of noise. Not for presets.
        config_overrides (*optional*):
            Fields of the model's config to set.

    Returns:
        `tuple` of a stock `PreTrainedModel` in float32 and its tokenizer.

    Raises:
        `ValueError`: An argument doesn't go with the kind of model.

    Example:

    ```python
    >>> from forge_hf.semantic_ids import SemanticIdCatalog
    >>> from forge_hf.training import create_retriever

    >>> catalog = SemanticIdCatalog.from_codes([7, 8], [[0, 1], [1, 1]], codebook_sizes=[2, 2], on_collision="keep")
    >>> model, tokenizer = create_retriever("qwen2-small", catalog, num_hidden_layers=1)
    >>> type(model).__name__, len(tokenizer)
    ('Qwen2ForCausalLM', 8)
    ```
    """
    check_type("catalog", catalog, SemanticIdCatalog)
    if name_or_path in RETRIEVER_PRESETS:
        if rqvae is not None:
            raise ValueError(
                f"`rqvae` initialises the new rows of a checkpoint, and {name_or_path!r} has no old ones."
            )
        tokenizer = SemanticIdTokenizer(layout=catalog.layout, num_user_buckets=num_user_buckets)
        model = _from_preset(RETRIEVER_PRESETS[name_or_path] | config_overrides, tokenizer)
    else:
        if num_user_buckets:
            raise ValueError(
                f"`num_user_buckets` needs one of the presets {sorted(RETRIEVER_PRESETS)}, got {name_or_path!r}."
            )
        config = AutoConfig.from_pretrained(name_or_path, **config_overrides)
        auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        tokenizer = extend_tokenizer(AutoTokenizer.from_pretrained(name_or_path), catalog.layout)
        model = auto_class.from_pretrained(name_or_path, config=config, dtype=torch.float32)
        resize_and_init(model, tokenizer, catalog.layout, rqvae=rqvae)
    model.config.semantic_id_fingerprint = catalog.fingerprint
    return model, tokenizer


def _from_preset(settings: dict, tokenizer: SemanticIdTokenizer) -> PreTrainedModel:
    tokens = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    settings = dict(settings)
    if settings.pop("model_type") == "t5":
        # transformers 5 has no default for the start token: without it, generate and labels fail.
        return T5ForConditionalGeneration(
            T5Config(**tokens, decoder_start_token_id=tokenizer.pad_token_id, **settings)
        )
    return Qwen2ForCausalLM(Qwen2Config(**tokens, bos_token_id=tokenizer.sep_token_id, **settings))


def add_lora(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, catalog: SemanticIdCatalog, *, rank: int = 16, **kwargs
):
    """
    Puts a LoRA adapter on a retriever, that also trains the embedding (and head) rows of the codes, and of no other
    token.

    Args:
        model (`PreTrainedModel`):
            As [`create_retriever`] makes it from a checkpoint.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        catalog ([`SemanticIdCatalog`]):
            Semantic IDs of the items. Its fingerprint is written into the adapter's config.
        rank (`int`, *optional*, defaults to 16):
            Rank of the adapter.
        kwargs (*optional*):
            Further fields of `peft.LoraConfig`.

    Returns:
        `PeftModel`. Its `save_pretrained` writes the adapter alone; with the tokenizer and the catalog beside it,
        [`load_retriever`] and `pipeline` load it together with its base. For a checkpoint that needs no base, merge it
        first: `trainer.model = trainer.model.merge_and_unload()`, then `trainer.save_model(folder)`.

    Raises:
        [`FingerprintMismatchError`]: `model` was made for another catalog.
    """
    from peft import LoraConfig, get_peft_model

    check_fingerprint(model, catalog)
    rows = semantic_id_token_ids(tokenizer, catalog.layout).tolist()
    names = {module: name for name, module in model.named_modules()}
    embeddings = [model.get_input_embeddings()]
    # Tied weights are one matrix: peft trains it once and keeps the head tied.
    if not model.config.tie_word_embeddings:
        embeddings.append(model.get_output_embeddings())
    defaults = {
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": "all-linear",
        "task_type": "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
        "trainable_token_indices": {names[module].split(".")[-1]: rows for module in embeddings},
    }
    model = get_peft_model(model, LoraConfig(**defaults | kwargs))
    set_trained_setting(model, "semantic_id_fingerprint", catalog.fingerprint)
    return save_adapter_alone(model)
