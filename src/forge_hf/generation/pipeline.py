# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The task "generative-retrieval" of `transformers.pipeline`: item ids in, item ids out."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from numbers import Integral
from tempfile import TemporaryDirectory
from types import NoneType
from typing import Any

from huggingface_hub import CommitInfo
from torch import nn
from transformers import AutoTokenizer, Pipeline, PreTrainedConfig
from transformers.pipelines import PIPELINE_REGISTRY

from ..checks import check_integer, shorten
from ..errors import InvalidSequencesError, UnknownItemError
from ..hub import push_folder, write_folder
from ..semantic_ids import SemanticIdCatalog
from ..semantic_ids.serialization import MIN_INDEXED_ITEMS
from .catalog_tables import table_of
from .loading import load_retriever
from .retrieval import RetrievalResult, check_fingerprint, get_trained_setting, retrieve


__all__ = ["GenerativeRetrievalPipeline"]

TASK = "generative-retrieval"
# Of a call; those that name items are brought to the type of the catalog's ids.
ITEM_PARAMETERS = ("exclude", "candidates", "unseen_items")
PARAMETERS = {
    *("top_k", "exclude_history", "num_beams", "max_history", "user_ids", "temperature", "seed", "unseen_fraction"),
    *("timings", *ITEM_PARAMETERS),
}


class _RetrieverName:
    """
    What `transformers.pipeline` takes for the model until the pipeline itself loads it.

    A class that loads would be asked for the model alone, and whatever it refuses, `pipeline` would try again with the
    next class that may fit.
    """

    config = PreTrainedConfig()  # transformers 5.17 looks for a commit in it

    def __init__(self, name: str, options: dict[str, Any]):
        self.name = name
        self.options = options

    @classmethod
    def from_pretrained(cls, name: str, revision: str | None = None, **options) -> "_RetrieverName":
        for internal in ("_commit_hash", "_from_pipeline", "code_revision", "trust_remote_code"):
            options.pop(internal, None)
        # `str`: of an adapter, `pipeline` gives the revision together with the commit that it means for the base.
        return cls(name, options | {"revision": None if revision is None else str(revision)})


class GenerativeRetrievalPipeline(Pipeline):
    """
    Recommends items to a user whose history of items is given.

    Made by `transformers.pipeline`, with `model` the name of a folder or a repository, a LoRA adapter's too: model,
    tokenizer and catalog are loaded as by [`load_retriever`], from one commit. Or of parts that are loaded already,
    such as `pipeline("generative-retrieval", **load_retriever(name)._asdict())`. That is also the way to load a
    `revision` of an adapter that its base doesn't have: `pipeline` looks for it there too.

    Args:
        model ([`~transformers.PreTrainedModel`] or `PeftModel`):
            An encoder-decoder or decoder-only retriever.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`] or `str`, *optional*):
            Its tokenizer. By default, and only if the model is given by name, the one that lies beside it.
        catalog ([`SemanticIdCatalog`], *optional*):
            The items. By default the one that lies beside the model, in its folder or repository.
        batch_size (`int`, *optional*, defaults to 64):
            Number of histories searched at once.
        kwargs:
            What other pipelines take (`device`, `task`), and what a call takes, as defaults.

    Attributes:
        timings (`dict[str, float]` or `None`):
            Milliseconds of each stage in the last call with `timings=True`, as in [`RetrievalResult`]; of an iterator,
            in the last batch; of several threads, in whichever call ended last.

    Raises:
        `FileNotFoundError`: No `catalog` is given, and there is none beside the model.
        [`FingerprintMismatchError`]: The model was trained on another catalog, or doesn't say.
        `ValueError`: The model is given, and its `tokenizer` isn't.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> import forge_hf  # registers the task

    >>> recommend = pipeline("generative-retrieval", model="forge/tiger-beauty")  # doctest: +SKIP
    >>> recommend(["12", "55", "801"], top_k=2)  # doctest: +SKIP
    [{'item_id': '1021', 'score': -3.1, 'semantic_id': 'C12C300C699C768'}, {...}]
    ```
    """

    # All of a retriever is loaded in `__init__`. `pipeline` would take the tokenizer of an adapter's base.
    _load_tokenizer = False
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __init__(
        self,
        model,
        tokenizer=None,
        *args,
        catalog: SemanticIdCatalog | None = None,
        batch_size: int | None = 64,
        **kwargs,
    ):
        kwargs.pop("local_files_only", None)  # `pipeline` has given it to the model's name, too
        options = model.options if isinstance(model, _RetrieverName) else {}
        if isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer, token=options.get("token"), trust_remote_code=False)
        if isinstance(model, _RetrieverName):
            model, tokenizer, catalog = load_retriever(model.name, tokenizer=tokenizer, catalog=catalog, **options)
        if tokenizer is None:
            raise ValueError("Give `tokenizer=` with a `model` that is loaded already, or give the model by name.")
        if catalog is None:
            catalog = _find_catalog(model)
        check_fingerprint(model, catalog)
        super().__init__(model, tokenizer, *args, batch_size=batch_size, **kwargs)
        self.catalog = catalog
        self.prefix_table = table_of(catalog, tokenizer, self.device)
        self.timings = None

    def __call__(self, inputs, **kwargs) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """
        Recommends items.

        Args:
            inputs (`list[str]`, `list[int]`, or a `list`, iterator or `Dataset` of those):
                Item ids of a user, from the oldest to the most recent, or of several users. A catalog of integer ids
                also takes them as `str`, and the other way round. Of a `datasets.Dataset`, give the column.
            top_k (`int`, *optional*, defaults to 10):
                Number of items.
            exclude_history (`bool`, *optional*, defaults to `True`):
                Whether to leave out items of the history.
            num_beams (`int`, `list[int]` or `str`, *optional*):
                Width of the beam search, one for each level, or `"all"`. Defaults to 50, or `top_k` if that is more or
                a `temperature` is given.
            max_history (`int`, *optional*):
                Number of most recent items that the model reads. Defaults to what it was trained with, if it says so
                in `config.semantic_id_max_history`, or else to 20.
            user_ids (`str`, `int` or a `list` of those, *optional*):
                The user, or one for each history, for a model that was trained with user tokens.
            batch_size (`int`, *optional*):
                Number of histories searched at once.
            exclude (`list`, *optional*):
                Items to leave out: item ids for all histories, or a list of them for each.
            candidates (`list[str]` or `list[int]`, *optional*):
                The only items to choose from.
            temperature, seed (*optional*):
                Draw items instead of taking the best ones, as in [`retrieve`].
            unseen_items, unseen_fraction (*optional*):
                Items that the model never saw in training, and their share of a list, as in [`retrieve`].
            timings (`bool`, *optional*):
                Whether to measure how long each stage takes: see the attribute `timings`.

        Returns:
            `list[dict]` for one history, a list of those for several, an iterator over those for an iterator or a
            `Dataset`. Each dict has the `item_id`, its `score` (log-probability of the semantic ID) and the
            `semantic_id` as text.

        Raises:
            As [`retrieve`].
        """
        if isinstance(inputs, str | Integral):
            raise InvalidSequencesError(f"`inputs` must be a list of item ids, got the single id {shorten(inputs)}.")
        if isinstance(inputs, Mapping) or not (isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")):
            raise InvalidSequencesError(
                f"`inputs` must be a list of item ids or of such lists, got {shorten(inputs)}."
            )
        if isinstance(inputs, Sequence):
            inputs = list(inputs)
            if len(inputs) == 0:
                raise InvalidSequencesError("`inputs` is an empty history. Recommend what is popular instead.")
            if all(isinstance(item, str | Integral) for item in inputs):
                if "user_ids" in kwargs:
                    kwargs["user_ids"] = [kwargs["user_ids"]]
                return super().__call__([inputs], **kwargs)[0]
        else:
            # A generator, which is read as it is needed. A torch dataset may have a length, and no end.
            rows = inputs if isinstance(inputs, Iterable) else map(inputs.__getitem__, range(len(inputs)))
            inputs = (history for history in rows)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, **parameters):
        if unknown := parameters.keys() - PARAMETERS:
            raise TypeError(f"The pipeline {TASK!r} doesn't take {sorted(unknown)}; it takes {sorted(PARAMETERS)}.")
        return {}, parameters, {}

    def get_iterator(
        self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params
    ) -> Iterator[list[dict[str, Any]]]:
        # Histories are encoded, sorted by length and padded together by `retrieve`: no data loader is needed.
        if isinstance(inputs, list):
            chunks = [inputs]
        elif "user_ids" in forward_params:
            raise ValueError("`user_ids` can't be given for an iterator or a Dataset; give lists.")
        elif not all(isinstance(item, str | Integral) for item in forward_params.get("exclude") or ()):
            raise ValueError("`exclude` can't hold a list for each history of an iterator or a Dataset; give lists.")
        else:
            check_integer("batch_size", batch_size)
            chunks = _chunks(inputs, batch_size)
        for chunk in chunks:
            histories = self.preprocess(chunk, **preprocess_params)
            result = self.forward(histories, batch_size=batch_size, **forward_params)
            yield from self.postprocess(result, **postprocess_params)

    def preprocess(self, histories: Sequence[Sequence[str | int]]) -> dict[str, Any]:
        """Brings item ids to the catalog's type."""
        row = next((history for history in histories if isinstance(history, Mapping)), None)
        if row is not None:
            raise InvalidSequencesError(
                f"`inputs` must hold a list of item ids for each user, got a row with the columns {list(row)}. Give "
                "the column of histories alone, such as `dataset['history']`."
            )
        return {"histories": self._catalog_ids(histories)}

    def _catalog_ids(self, items: Sequence) -> list:
        """Item ids, or lists of them, with every id of the catalog's type."""
        to_catalog_id = _as_int if isinstance(self.catalog.item_ids_at([0])[0], int) else str
        if not isinstance(items, Iterable):
            raise UnknownItemError(f"Item ids must be `str` or `int`, got {shorten(items)}.")
        return [to_catalog_id(item) if isinstance(item, str | Integral) else self._catalog_ids(item) for item in items]

    def _forward(self, model_inputs: dict[str, Any], **parameters) -> dict[str, RetrievalResult]:
        for name in ITEM_PARAMETERS:
            # A single id is left to `retrieve` to refuse.
            if not isinstance(parameters.get(name), NoneType | str | Integral):
                parameters[name] = self._catalog_ids(parameters[name])
        result = retrieve(
            self.model,
            self.tokenizer,
            self.catalog,
            model_inputs["histories"],
            prefix_table=self.prefix_table,
            **parameters,
        )
        if result.timings is not None:
            self.timings = result.timings
        return {"result": result}

    def postprocess(self, model_outputs: dict[str, RetrievalResult]) -> list[list[dict[str, Any]]]:
        """Writes results as dicts."""
        result = model_outputs["result"]
        return [
            [
                {"item_id": item_id, "score": score, "semantic_id": semantic_id}
                for item_id, score, semantic_id in zip(
                    item_ids, scores, self.catalog.layout.to_text(self.catalog.codes_for(item_ids)), strict=True
                )
            ]
            for item_ids, scores in zip(result.item_ids, result.scores, strict=True)
        ]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """
        Saves the model, or its adapter alone, the tokenizer and the catalog to a folder that `pipeline` loads again:
        all of them or, if it fails or is killed, none. Of a large catalog also the prefix table, which takes longer to
        build than to load.

        Args:
            save_directory (`str` or `os.PathLike`):
                Folder to write to.
            kwargs (*optional*):
                Passed on to the model's `save_pretrained`.

        Raises:
            [`OutputInUseError`]: Another process is writing to the folder.
            [`StorageError`]: The disk is full, over quota, or fails. What was there stays.
        """
        # The inherited method would declare this class as code of the folder, and loading it would ask for trust.
        with write_folder(save_directory) as folder:
            self.model.save_pretrained(folder, **kwargs)
            self.tokenizer.save_pretrained(folder)
            self.catalog.save_pretrained(folder)
            if len(self.catalog) >= MIN_INDEXED_ITEMS:
                self.prefix_table.save_pretrained(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        overwrite_card: bool = False,
    ) -> CommitInfo:
        """
        Uploads what [`~GenerativeRetrievalPipeline.save_pretrained`] writes to the Hub, in one commit, with a card.

        Args:
            repo_id (`str`):
                Id of the repository, made if there is none.
            private (`bool`, *optional*):
                Whether a repository that has to be made is private. By default as the organization has it.
            token (`str` or `bool`, *optional*):
                Token of the Hub, by default the one that `hf auth login` stored.
            revision (`str`, *optional*):
                Branch to commit to, made if there is none.
            commit_message (`str`, *optional*):
                Message of the commit.
            overwrite_card (`bool`, *optional*, defaults to `False`):
                Whether to replace a card that somebody wrote in the repository.

        Returns:
            `huggingface_hub.CommitInfo`

        Raises:
            [`HubError`]: The Hub can't be reached, or refuses.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(
                folder,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message,
                overwrite_card=overwrite_card,
            )


def _find_catalog(model: nn.Module) -> SemanticIdCatalog:
    """The catalog beside a model that was loaded already."""
    source = model.config._name_or_path
    if not source:
        raise FileNotFoundError(
            "The model wasn't loaded from a folder or repository, so its catalog can't be found. Give `catalog=`."
        )
    try:
        return SemanticIdCatalog.from_pretrained(source, revision=getattr(model.config, "_commit_hash", None))
    except FileNotFoundError as error:
        fingerprint = get_trained_setting(model, "semantic_id_fingerprint")
        raise FileNotFoundError(
            f"There is no catalog of semantic IDs beside the model: {error} The model says that it was trained on the "
            f"one with the fingerprint {fingerprint!r}. Give it as `catalog=`."
        ) from error


def _as_int(item: str | Integral) -> int:
    if isinstance(item, Integral):
        return int(item)
    try:
        number = int(item)
    except ValueError:
        number = None
    if str(number) != item:  # also refuses "007", which could be meant as another item than 7
        raise UnknownItemError(f"Item ids of this catalog are integers, and {item!r} isn't written as one.")
    return number


def _chunks(inputs: Iterable, size: int) -> Iterator[list]:
    iterator = iter(inputs)
    while chunk := list(islice(iterator, size)):
        yield chunk


PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=GenerativeRetrievalPipeline,
    pt_model=_RetrieverName,
    type="text",
)
