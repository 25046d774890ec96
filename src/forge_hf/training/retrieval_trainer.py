# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Training of generative retrievers over transformers.Trainer."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset, IterableDataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import TrainOutput

from ..data import MalformedRows
from ..evaluation import RetrievalEvaluator, RowEvaluator
from ..generation.retrieval import check_fingerprint, set_trained_setting
from ..hub.folder import hub_id
from ..semantic_ids import SemanticIdCatalog
from ..tokenization import HistoryEncoder, PromptEncoder
from .base_trainer import ForgeTrainer, ForgeTrainingArguments, name_rows
from .collators import IGNORE_INDEX, CausalCollator, PromptCollator, Seq2SeqCollator
from .fingerprints import fingerprint
from .regularization import add_hidden_dropout
from .sequence_windows import LengthGroupedEpochSampler, SequenceWindows
from .text_rows import PromptRows, PromptStream, is_rows


__all__ = ["RetrievalTrainer", "RetrievalTrainingArguments"]


@dataclass(repr=False)
class RetrievalTrainingArguments(ForgeTrainingArguments):
    """
    `transformers.TrainingArguments`, with what a retriever needs besides.

    > Parameters that control the data

    Args:
        max_history (`int`, *optional*, defaults to 20):
            Most items of a history that the model reads in evaluation, and before the target for an encoder-decoder.
        max_train_items (`int`, *optional*, defaults to 50):
            Most items of a window that a decoder-only model trains on at once.
        max_source_length, max_target_length (`int`, *optional*, default to 1024 and 32):
            Most tokens of `user` and `answer`, where the data are rows of text ([`PromptEncoder`]).
        max_malformed_rate (`float`, *optional*, defaults to 0.01):
            Share of malformed rows of text above which the run stops.
        shuffle_buffer_size (`int`, *optional*, defaults to 10000):
            Examples that a stream is shuffled in, on each worker ([`PromptStream`]). 0 leaves it in its order.

    > Parameters that control the training

    Args:
        hidden_dropout (`float`, *optional*, defaults to 0.0):
            Dropout on embeddings, attention and MLP outputs of a decoder-only model ([`add_hidden_dropout`]).

    > Parameters that control the evaluation

    Args:
        eval_num_beams (`int`, *optional*, defaults to 50):
            Beams of the constrained search.
        eval_ks (`list[int]`, *optional*, defaults to `[5, 10]`):
            Lengths of the lists that metrics are computed on.
        exclude_history (`bool`, *optional*, defaults to `True`):
            Whether items of the history are kept out of the lists. If so, metrics with them kept in are reported too,
            as `unmasked_...`.

    Defaults that differ from `TrainingArguments`: `eval_strategy="epoch"`, `save_strategy="epoch"`,
    `save_total_limit=2`, `load_best_model_at_end=True`, `metric_for_best_model="ndcg@10"`, `greater_is_better=True`,
    `remove_unused_columns=False`, `train_sampling_strategy="group_by_length"`.
    """

    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "ndcg@10"
    greater_is_better: bool | None = True
    remove_unused_columns: bool = False
    train_sampling_strategy: str = "group_by_length"
    max_history: int = field(default=20, metadata={"help": "Most items of a history that the model reads."})
    max_train_items: int = field(default=50, metadata={"help": "Most items of a decoder-only training window."})
    max_source_length: int = field(default=1024, metadata={"help": "Most tokens of the `user` text of a row."})
    max_target_length: int = field(default=32, metadata={"help": "Most tokens of the `answer` of a row."})
    max_malformed_rate: float = field(default=0.01, metadata={"help": "Share of malformed rows that stops the run."})
    shuffle_buffer_size: int = field(default=10_000, metadata={"help": "Examples that a stream is shuffled in."})
    hidden_dropout: float = field(default=0.0, metadata={"help": "Dropout added to a decoder-only model."})
    eval_num_beams: int = field(default=50, metadata={"help": "Beams of the constrained search in evaluation."})
    eval_ks: list[int] = field(default_factory=lambda: [5, 10], metadata={"help": "Lengths of the scored lists."})
    exclude_history: bool = field(default=True, metadata={"help": "Whether seen items are kept out of the lists."})


class RetrievalTrainer(ForgeTrainer):
    """
    Trains a stock T5 or decoder-only model to name a user's next item by its semantic ID.

    The loss is the cross-entropy of the codes over the whole vocabulary, averaged over all codes of the global batch:
    gradient accumulation and several processes give the gradient of one large batch (under transformers 5, T5's own
    loss doesn't). Evaluation is retrieval itself, a constrained beam search over the catalog. Checkpoints hold the
    catalog beside model and tokenizer, and `run.json`, the facts of the run. `push_to_hub` makes a card of these.

    It trains on sequences of items, or on FORGE's rows of text, as [`PromptEncoder`] reads them. Rows may be a stream
    ([`PromptStream`]), which needs `max_steps`, and is one epoch for all that is done each epoch: let
    `eval_strategy` and `save_strategy` be `"steps"`. `train(resume_from_checkpoint=True)` goes on in the midst of a
    stream with the very batches that would have come next, if the numbers of processes, of `dataloader_num_workers`
    and of rows in a batch are as before: it reads and passes over those that came.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            As [`create_retriever`] makes it.
        args ([`RetrievalTrainingArguments`]):
            Settings.
        catalog ([`SemanticIdCatalog`]):
            Semantic IDs of the items.
        train_dataset (`datasets.Dataset` or `datasets.IterableDataset`, *optional*):
            One row a user, with the columns `user_id` and `items`; or rows of text, with the columns `user`, `answer`
            and perhaps `system`.
        eval_dataset (`datasets.Dataset`, *optional*):
            One row a question, with the columns `user_id`, `history` and `target`; or rows of text, whose `answer` may
            also be item ids joined by `;` ([`RowEvaluator`]).
        processing_class (`PreTrainedTokenizerBase`):
            The tokenizer.
        kwargs (*optional*):
            Further arguments of `transformers.Trainer`.

    Raises:
        [`FingerprintMismatchError`]: `model` was made for another catalog.
        [`UnknownItemError`]: A sequence names an item that isn't in the catalog.
    """

    task = "generative-retrieval"
    argument_names = ("max_history", "max_train_items", "hidden_dropout", "eval_num_beams")

    def __init__(
        self,
        model: nn.Module,
        args: RetrievalTrainingArguments,
        *,
        catalog: SemanticIdCatalog,
        processing_class: PreTrainedTokenizerBase,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        **kwargs,
    ):
        check_fingerprint(model, catalog)
        reads_rows = train_dataset is not None and is_rows(train_dataset)
        max_history = (args.max_source_length - 1) // catalog.layout.num_levels if reads_rows else args.max_history
        set_trained_setting(model, "semantic_id_max_history", max_history)  # what it reads later, too
        self.catalog = catalog
        is_encoder_decoder = model.config.is_encoder_decoder
        if reads_rows:
            train_dataset, collator = self._read_rows(train_dataset, model, processing_class, args)
        else:
            encoder = HistoryEncoder(catalog, processing_class, is_encoder_decoder, max_items=args.max_history)
            if is_encoder_decoder:
                collator = Seq2SeqCollator(encoder, model.config.decoder_start_token_id)
            else:
                collator = CausalCollator(encoder)
            if train_dataset is not None:
                max_items = args.max_history if is_encoder_decoder else args.max_train_items
                train_dataset = SequenceWindows(train_dataset, catalog, max_items, every_prefix=is_encoder_decoder)
        if args.hidden_dropout and is_encoder_decoder:
            raise ValueError(
                "`hidden_dropout` is for decoder-only models; T5 has a dropout of its own: set `dropout_rate` in its "
                "config."
            )
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=collator,
            processing_class=processing_class,
            compute_loss_func=self._next_code_loss,
            **kwargs,
        )
        # The loss is ours: nothing of it is to be computed, or scaled, inside the model.
        self.model_accepts_loss_kwargs = False
        # Made now, so that a bad question is refused before training and not after an epoch of it.
        self._evaluator = None if eval_dataset is None else self._make_evaluator(eval_dataset)

    def _read_rows(
        self,
        rows: Dataset | IterableDataset,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        args: RetrievalTrainingArguments,
    ) -> tuple[PromptRows | PromptStream, PromptCollator]:
        """Examples of text rows, and what makes batches of them."""
        encoder = PromptEncoder(
            tokenizer,
            self.catalog.layout,
            model.config.is_encoder_decoder,
            max_source_length=args.max_source_length,
            max_target_length=args.max_target_length,
        )
        malformed = MalformedRows(max_rate=args.max_malformed_rate, source="`train_dataset`")
        if isinstance(rows, IterableDataset):
            if args.max_steps <= 0:
                raise ValueError(
                    "`max_steps` must say how long to train on a stream, whose length isn't known. Set it in `args`."
                )
            examples = PromptStream(
                rows,
                encoder,
                buffer_size=args.shuffle_buffer_size,
                seed=args.seed if args.data_seed is None else args.data_seed,
                process_index=args.process_index,
                num_processes=args.world_size,
                malformed=malformed,
            )
        else:
            examples = PromptRows(rows, encoder, malformed, show_progress=not args.disable_tqdm)
        if model.config.is_encoder_decoder:
            return examples, PromptCollator(tokenizer.pad_token_id, model.config.decoder_start_token_id)
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        keeps_logits = "logits_to_keep" in inspect.signature(base.forward).parameters
        return examples, PromptCollator(tokenizer.pad_token_id, keeps_logits=keeps_logits)

    def _make_evaluator(self, dataset: Dataset) -> RetrievalEvaluator:
        options = {
            "ks": tuple(self.args.eval_ks),
            "num_beams": self.args.eval_num_beams,
            "batch_size": self.args.eval_batch_size,
            "show_progress": not self.args.disable_tqdm,
        }
        if is_rows(dataset):
            options["malformed"] = MalformedRows(max_rate=self.args.max_malformed_rate, source="`eval_dataset`")
            return RowEvaluator(dataset, self.catalog, max_source_length=self.args.max_source_length, **options)
        return RetrievalEvaluator(
            dataset,
            self.catalog,
            exclude_history=self.args.exclude_history,
            max_history=self.args.max_history,
            **options,
        )

    def get_train_dataloader(self) -> DataLoader:
        """As `transformers.Trainer.get_train_dataloader`; a stream is divided over processes already."""
        if not isinstance(self.train_dataset, PromptStream):
            return super().get_train_dataloader()
        loader = DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        # One process, as far as accelerate is concerned: it would have the first one read for all, and cut batches of
        # different widths apart, or give the last rows twice.
        return prepare_data_loader(
            loader,
            self.accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            dispatch_batches=False,
        )

    def train(self, *args, **kwargs) -> TrainOutput:
        """As `transformers.Trainer.train`, with `hidden_dropout` on the model for as long as it lasts."""
        metric = self.args.metric_for_best_model
        if self.args.load_best_model_at_end and metric is not None and "@" in metric:
            if metric.rsplit("@", 1)[1] not in map(str, self.args.eval_ks):
                raise ValueError(
                    f"`metric_for_best_model` is {metric!r}, but `eval_ks` is {self.args.eval_ks}. Make them agree."
                )
        handles = add_hidden_dropout(self.model, self.args.hidden_dropout) if self.args.hidden_dropout else []
        try:
            return super().train(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    def _next_code_loss(self, outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None):
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        if not self.model.config.is_encoder_decoder:
            labels = labels[:, -logits.shape[1] :]  # `logits_to_keep`: the last ones
            logits, labels = logits[:, :-1], labels[:, 1:]
        kept = labels != IGNORE_INDEX
        loss = nn.functional.cross_entropy(
            logits[kept].float(), labels[kept], label_smoothing=self.args.label_smoothing_factor, reduction="sum"
        )
        return loss / (kept.sum() if num_items_in_batch is None else num_items_in_batch)

    def _get_train_sampler(
        self, train_dataset: SequenceWindows | PromptRows | None = None
    ) -> LengthGroupedEpochSampler:
        train_dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        # The batch of a step: however it is divided, over processes or in time, the same windows make a step.
        batch_size = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGroupedEpochSampler(train_dataset.lengths, batch_size, seed)

    def evaluate(
        self, eval_dataset: Dataset | None = None, ignore_keys=None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """
        Retrieves for every row of the dataset, and scores the lists.

        Args:
            eval_dataset (`datasets.Dataset`, *optional*):
                Rows with `user_id`, `history` and `target`. By default the trainer's own.
            ignore_keys (*optional*):
                Without effect. Named for `transformers.Trainer`.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`):
                Put before the name of every metric.

        Returns:
            `dict[str, float]`: the metrics of [`RetrievalEvaluator`].
        """
        evaluator = self._evaluator if eval_dataset is None else self._make_evaluator(eval_dataset)
        if evaluator is None:
            raise ValueError("`eval_dataset` must be given, here or to the trainer.")
        model = self.accelerator.unwrap_model(self.model)
        with self.compute_loss_context_manager():
            metrics = evaluator(model, self.processing_class)
        split = metric_key_prefix
        if metric_key_prefix == "eval":  # another dataset may be any split: give a prefix that names it
            split = "validation" if eval_dataset is None else "evaluation"
        num_examples = len(self.eval_dataset if eval_dataset is None else eval_dataset)
        self.keep_scores(split, metrics, num_examples, evaluator.protocol)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def describe_data(self) -> dict[str, int]:
        """Facts of the training data."""
        facts = {"num_items": len(self.catalog)}
        if isinstance(self.train_dataset, SequenceWindows):
            facts["num_users"] = self.train_dataset.num_sequences
            facts["num_interactions"] = len(self.train_dataset.rows)
        elif isinstance(self.train_dataset, PromptRows):
            facts["num_rows"] = len(self.train_dataset)
        return facts

    def fingerprint_data(self) -> dict[str, str]:
        """A hash of each of the trainer's datasets, which tells a resume whether they are the same."""
        hashes = {} if self.train_dataset is None else {"train_dataset": self.train_dataset.fingerprint()}
        return hashes if self.eval_dataset is None else hashes | {"eval_dataset": fingerprint(self.eval_dataset)}

    def describe_rows(self, rows: Sequence[int]) -> str:
        """Rows of a batch in words: the ids of their users, or the numbers of rows of text, from 1."""
        names = self.train_dataset.names(rows)
        return name_rows("users" if isinstance(self.train_dataset, SequenceWindows) else "rows", names)

    def describe_run(self) -> dict[str, Any]:
        """Everything that `run.json` holds."""
        base_model = hub_id(self.accelerator.unwrap_model(self.model).config._name_or_path)
        return super().describe_run() | ({"base_model": base_model} if base_model else {})

    def _save_facts(self, folder: Path) -> None:
        super()._save_facts(folder)
        self.catalog.save_pretrained(folder)
