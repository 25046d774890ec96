# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""A retriever by name: model, tokenizer and catalog from one folder, or from one commit of a repository."""

import json
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import CorruptFileError, HubError
from ..hub import explain_hub_errors, find_files, finish_interrupted, read_json
from ..hub.client import check_token, hub_answers
from ..hub.facts import as_dict
from ..hub.folder import refuse_two_models
from ..semantic_ids import SemanticIdCatalog
from .retrieval import compare_fingerprints
from .table_file import TABLE_FILE


if TYPE_CHECKING:
    from peft import PeftModel

__all__ = ["Retriever", "load_retriever"]

_TRAINED_SETTINGS = {"semantic_id_fingerprint", "semantic_id_max_history"}


class Retriever(NamedTuple):
    """
    What recommends: the first three arguments of [`retrieve`].

    Attributes:
        model (`PreTrainedModel` or `PeftModel`):
            A stock encoder-decoder or decoder-only model, or the adapter on one.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        catalog ([`SemanticIdCatalog`]):
            The items that it was trained on.
    """

    model: "PreTrainedModel | PeftModel"
    tokenizer: PreTrainedTokenizerBase
    catalog: SemanticIdCatalog


def load_retriever(
    pretrained_model_name_or_path: str | os.PathLike,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    catalog: SemanticIdCatalog | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    **model_kwargs,
) -> Retriever:
    """
    Loads a retriever: a whole checkpoint, or a LoRA adapter and the base model that it names.

    The revision is looked up once, so that model, tokenizer and catalog are of one commit. A catalog that the model
    wasn't trained on is refused before weights are read. Weights are read from safetensors alone, and nothing of a
    repository is executed. A prefix table that lies there is mapped into memory by the first search of the catalog.

    Args:
        pretrained_model_name_or_path (`str` or `os.PathLike`):
            A folder or a repository on the Hub.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            In place of the one that lies there.
        catalog ([`SemanticIdCatalog`], *optional*):
            In place of the one that lies there.
        revision (`str`, *optional*):
            Branch, tag or commit of the repository. The base of an adapter is of the revision that the adapter names.
        token (`str` or `bool`, *optional*):
            Token of the Hub, by default the one that `hf auth login` stored.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Folder to keep downloads in.
        local_files_only (`bool`, *optional*, defaults to `False`):
            Whether to look into the cache only.
        model_kwargs (*optional*):
            What the model's `from_pretrained` takes, such as `dtype` or `device_map`.

    Returns:
        [`Retriever`]: a `tuple` of the model, the tokenizer and the catalog.

    Raises:
        `FileNotFoundError`: There is no model, no catalog, or no base model to an adapter.
        [`FingerprintMismatchError`]: The model was trained on another catalog, or doesn't say.
        [`CorruptCatalogError`]: The catalog is truncated, altered, or of an unknown format.
        [`CorruptFileError`]: The tokenizer, the config or the weights are.
        [`HubError`]: The Hub can't be reached, or refuses.

    Example:

    ```python
    >>> from forge_hf import load_retriever, retrieve

    >>> model, tokenizer, catalog = load_retriever("forge/tiger-beauty", revision="v1")  # doctest: +SKIP
    >>> retrieve(model, tokenizer, catalog, [["12", "55", "801"]], top_k=2).item_ids  # doctest: +SKIP
    [['1021', '44']]
    ```
    """
    source = os.fspath(pretrained_model_name_or_path)
    check_token(token)
    finish_interrupted(source)
    if not (local_files_only or os.path.isdir(source)):
        try:
            with explain_hub_errors(source, revision=revision):
                # Asked once: transformers would try each file for half a minute.
                local_files_only = not hub_answers(source, revision, token)
        except HFValidationError:
            raise FileNotFoundError(f"{source} is neither a folder nor the id of a repository on the Hub.") from None
    refuse_two_models(source)
    hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    config_file, is_adapter = _find_config(source, hub)
    hub = _pin(source, config_file, hub)
    settings = read_json(config_file)
    trained = as_dict(settings.get("auto_mapping")) if is_adapter else settings
    fingerprint = trained.get("semantic_id_fingerprint")

    if catalog is None:
        try:
            catalog = SemanticIdCatalog.from_pretrained(source, **hub)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"There is no catalog of semantic IDs beside the model: {error} The model says that it was trained on "
                f"the one with the fingerprint {fingerprint!r}. Save that one there with "
                "`catalog.save_pretrained(folder)` or `catalog.push_to_hub(repo_id)`, or give `catalog=`."
            ) from error
        _find_table(source, hub)
    compare_fingerprints(fingerprint, catalog.fingerprint)

    try:
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub)
        if is_adapter:
            model = _load_adapter(source, settings, tokenizer, hub, model_kwargs)
            # The config is the base's, and all that is left when the adapter is merged into it.
            for name in _TRAINED_SETTINGS & trained.keys():
                setattr(model.config, name, trained[name])
        else:
            model = _load_model(source, hub, model_kwargs)
    except (SafetensorError, StrictDataclassError, json.JSONDecodeError) as error:
        raise CorruptFileError(
            f"The tokenizer, the config or the weights of {source} are truncated or altered: {error}. Save them "
            "again, or download them anew."
        ) from error
    return Retriever(model, tokenizer, catalog)


def _find_config(source: str, hub: dict[str, Any]) -> tuple[Path, bool]:
    """The file that says what the model is, and whether it is an adapter's."""
    try:
        return Path(*find_files(source, ["adapter_config.json"], **hub)), True
    except (FileNotFoundError, HubError):  # without the Hub, there is only what is in the cache
        return Path(*find_files(source, ["config.json"], **hub)), False


def _find_table(source: str, hub: dict[str, Any]) -> None:
    """Lets the catalog's prefix table, if there is one, lie beside the catalog, where a search looks for it."""
    with suppress(FileNotFoundError, HubError):
        find_files(source, [TABLE_FILE], **hub)


def _pin(source: str, file: Path, hub: dict[str, Any]) -> dict[str, Any]:
    """The same options, for the commit that a file was downloaded from."""
    return hub if os.path.isdir(source) else hub | {"revision": file.parent.name}


def _load_model(source: str, hub: dict[str, Any], model_kwargs: dict[str, Any]) -> PreTrainedModel:
    _refuse_foreign_names(source, hub)
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **hub)
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return auto_class.from_pretrained(
        source, config=config, trust_remote_code=False, use_safetensors=True, **hub, **model_kwargs
    )


def _refuse_foreign_names(source: str, hub: dict[str, Any]) -> None:
    """Refuses the names that transformers would follow elsewhere: of attention kernels, and of weights."""
    [config_file] = find_files(source, ["config.json"], **hub)
    config = read_json(config_file)
    for name in ("attn_implementation", "_attn_implementation"):
        if "/" in str(config.get(name)):
            raise ValueError(
                f"{config_file} asks for `{name}` {config[name]!r}, the code of a repository. Take it out."
            )
    if os.path.isdir(source):  # of a repository, the client refuses such names
        index = read_json(os.path.join(source, "model.safetensors.index.json"))
        for name in set(map(str, as_dict(index.get("weight_map")).values())):
            if os.path.basename(name) != name or name in ("", ".", ".."):
                raise ValueError(f"The index of the weights in {source} names {name!r}, which isn't a file of it.")


def _load_adapter(
    source: str,
    settings: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    hub: dict[str, Any],
    model_kwargs: dict[str, Any],
) -> "PeftModel":
    from peft import PeftModel

    base, base_hub = settings.get("base_model_name_or_path"), hub | {"revision": settings.get("revision")}
    if not base:
        raise FileNotFoundError(
            f"{source} is an adapter that names no base model. Merge it into its base with `merge_and_unload`, and "
            "save that."
        )
    try:
        [base_config] = find_files(base, ["config.json"], **base_hub)
    except (FileNotFoundError, HubError) as error:
        raise type(error)(f"{source} is an adapter of the model {base}, which can't be had: {error}") from error
    base_hub = _pin(base, Path(base_config), base_hub)
    files = find_files(source, ["adapter_config.json", "adapter_model.safetensors"], **hub)

    model = _load_model(base, base_hub, model_kwargs)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        # The adapter has the new rows, so what they start as is of no matter.
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    # From its folder: of a repository, peft would also take weights that are pickled.
    model = PeftModel.from_pretrained(model, str(Path(files[0]).parent))
    return save_adapter_alone(model) if settings.get("trainable_token_indices") else model


def save_adapter_alone(model: "PeftModel") -> "PeftModel":
    """
    Lets `save_pretrained` write the adapter alone, in place. By default peft adds all of an embedding that has grown,
    but the rows that it has grown by are those of the codes, and the adapter has them.
    """
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    return model
