# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The task "generative-retrieval" of `transformers.pipeline`: item ids in, item ids out."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from ..errors import InvalidSequencesError, UnknownItemError
from ..semantic_ids import SemanticIdCatalog
from .prefix_table import PrefixTable
from .retrieval import RetrievalResult, retrieve


__all__ = ["GenerativeRetrievalPipeline"]

TASK = "generative-retrieval"


class GenerativeRetrievalPipeline(Pipeline):
    """
    Recommends items to a user whose history of items is given.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            An encoder-decoder or decoder-only retriever.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        catalog ([`SemanticIdCatalog`], *optional*):
            The items. By default the one that lies beside the model, in its folder or repository.
        batch_size (`int`, *optional*, defaults to 64):
            Number of histories searched at once.
        kwargs:
            What other pipelines take (`device`, `task`), and what a call takes, as defaults.

    Raises:
        `FileNotFoundError`: No `catalog` is given, and there is none beside the model.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> import forge_hf  # registers the task

    >>> recommend = pipeline("generative-retrieval", model="forge/tiger-beauty")  # doctest: +SKIP
    >>> recommend(["12", "55", "801"], top_k=2)  # doctest: +SKIP
    [{'item_id': '1021', 'score': -3.1, 'semantic_id': 'C12C300C699C768'}, {...}]
    ```
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __init__(self, *args, catalog: SemanticIdCatalog | None = None, batch_size: int | None = 64, **kwargs):
        super().__init__(*args, batch_size=batch_size, **kwargs)
        self.catalog = _find_catalog(self.model.config) if catalog is None else catalog
        self.prefix_table = PrefixTable.from_catalog(self.catalog, self.tokenizer).to(self.device)

    def __call__(self, inputs, **kwargs) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """
        Recommends items.

        Args:
            inputs (`list[str]`, `list[int]`, or a `list`, iterator or `Dataset` of those):
                Item ids of a user, from the oldest to the most recent, or of several users. A catalog of integer ids
                also takes them as `str`, and the other way round.
            top_k (`int`, *optional*, defaults to 10):
                Number of items.
            exclude_history (`bool`, *optional*, defaults to `True`):
                Whether to leave out items of the history.
            num_beams (`int`, *optional*):
                Width of the beam search. Defaults to 50, or `top_k` if that is more.
            max_history (`int`, *optional*, defaults to 20):
                Number of most recent items that the model reads.
            user_ids (`str`, `int` or a `list` of those, *optional*):
                The user, or one for each history, for a model that was trained with user tokens.
            batch_size (`int`, *optional*):
                Number of histories searched at once.

        Returns:
            `list[dict]` for one history, a list of those for several, an iterator over those for an iterator or a
            `Dataset`. Each dict has the `item_id`, its `score` (log-probability of the semantic ID) and the
            `semantic_id` as text.

        Raises:
            As [`retrieve`].
        """
        if isinstance(inputs, str | int):
            raise InvalidSequencesError(f"`inputs` must be a list of item ids, got the single id {inputs!r}.")
        if isinstance(inputs, list | tuple):
            if len(inputs) == 0:
                raise InvalidSequencesError("`inputs` is an empty history. Recommend what is popular instead.")
            if all(isinstance(item, str | int) for item in inputs):
                if "user_ids" in kwargs:
                    kwargs["user_ids"] = [kwargs["user_ids"]]
                return super().__call__([list(inputs)], **kwargs)[0]
            inputs = list(inputs)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, **parameters):
        allowed = {"top_k", "exclude_history", "num_beams", "max_history", "user_ids"}
        if unknown := parameters.keys() - allowed:
            raise TypeError(f"The pipeline {TASK!r} doesn't take {sorted(unknown)}; it takes {sorted(allowed)}.")
        return {}, parameters, {}

    def get_iterator(
        self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params
    ) -> Iterator[list[dict[str, Any]]]:
        # Histories are encoded, sorted by length and padded together by `retrieve`: no data loader is needed.
        if isinstance(inputs, list):
            chunks = [inputs]
        elif "user_ids" in forward_params:
            raise ValueError("`user_ids` can't be given for an iterator or a Dataset; give lists.")
        else:
            chunks = _chunks(inputs, batch_size)
        for chunk in chunks:
            histories = self.preprocess(chunk, **preprocess_params)
            result = self.forward(histories, batch_size=batch_size, **forward_params)
            yield from self.postprocess(result, **postprocess_params)

    def preprocess(self, histories: Sequence[Sequence[str | int]]) -> dict[str, Any]:
        """Brings item ids to the catalog's type."""
        to_catalog_id = _as_int if isinstance(self.catalog.item_ids[0], int) else str
        return {"histories": [[to_catalog_id(item) for item in history] for history in histories]}

    def _forward(self, model_inputs: dict[str, Any], **parameters) -> dict[str, RetrievalResult]:
        result = retrieve(
            self.model,
            self.tokenizer,
            self.catalog,
            model_inputs["histories"],
            prefix_table=self.prefix_table,
            **parameters,
        )
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

    def save_pretrained(self, save_directory, **kwargs):
        """
        Saves the model, the tokenizer and the catalog to a folder that `pipeline` loads again.

        Args:
            save_directory (`str` or `os.PathLike`): Folder to write to.
            kwargs: Passed on to the model's `save_pretrained`.
        """
        # The inherited method would declare this class as code of the folder, and loading it would ask for trust.
        self.model.save_pretrained(save_directory, **kwargs)
        self.tokenizer.save_pretrained(save_directory)
        self.catalog.save_pretrained(save_directory)


def _find_catalog(config) -> SemanticIdCatalog:
    source = config._name_or_path
    if not source:
        raise FileNotFoundError(
            "The model wasn't loaded from a folder or repository, so its catalog can't be found. Give `catalog=`."
        )
    try:
        return SemanticIdCatalog.from_pretrained(source, revision=getattr(config, "_commit_hash", None))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There is no catalog of semantic IDs beside the model: {error} Save it there with "
            "`catalog.save_pretrained(folder)`, or give `catalog=`."
        ) from error


def _as_int(item: str | int) -> int:
    if isinstance(item, int):
        return item
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
    pt_model=(AutoModelForSeq2SeqLM, AutoModelForCausalLM),
    type="text",
)
