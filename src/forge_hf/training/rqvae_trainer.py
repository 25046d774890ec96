# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Training of RQ-VAEs and their like: transformers' Trainer with k-means, pairs of items and metrics of the codes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_utils import EvalPrediction, TrainOutput

from ..checks import check_integer
from ..data.embeddings import ItemEmbeddings
from ..data.interactions import UserItemPairs
from ..data.pairs import ItemPairs
from ..errors import InvalidEmbeddingsError
from ..models import NeuralItemTokenizerModel
from ..models.clustering import POINTS_PER_CENTROID, kmeans
from ..models.fitting import mean_and_std, read_rows, sample_rows
from ..semantic_ids.quality import (
    codebook_perplexity,
    codebook_utilization,
    collision_rate,
    prefix_collision_rates,
)
from .base_trainer import ForgeTrainer, ForgeTrainingArguments, name_rows
from .codebook_usage import CodebookUsage
from .fingerprints import fingerprint, fingerprint_items
from .pair_batches import ItemsAndPairs, ItemsAndPairsSampler


__all__ = ["RQVAETrainer", "RQVAETrainingArguments"]


@dataclass(repr=False)
class RQVAETrainingArguments(ForgeTrainingArguments):
    """
    `transformers.TrainingArguments`, with what an RQ-VAE needs besides.

    > Parameters that control the initialization from data

    Args:
        kmeans_init (`bool`, *optional*, defaults to `True`):
            Whether codebooks start from a k-means. Otherwise they start from noise, as in FORGE.
        kmeans_sample_size (`int`, *optional*):
            Number of training items, drawn at random, that the k-means sees. Defaults to 256 for each code of the
            largest level.
        kmeans_iterations (`int`, *optional*, defaults to 20):
            Number of k-means iterations.

    > Parameters that control the batches and their watch

    Args:
        pair_batch_ratio (`float`, *optional*):
            Number of batches of pairs for each batch of items, where the trainer has `pairs`. Defaults to what takes
            each pair once an epoch, as in FORGE.
        min_codebook_utilization (`float`, *optional*, defaults to 0.2):
            Share of a level's codes below which, after the warm-up, a warning says once that a codebook has collapsed.
            Looked at when the loss is logged, on the codes of the batches since. 0 turns it off.

    Defaults that differ from `TrainingArguments`: `learning_rate=1e-3`, `lr_scheduler_type="cosine"`,
    `warmup_steps=100`, `per_device_train_batch_size=1024`, `per_device_eval_batch_size=1024`,
    `num_train_epochs=150`, `remove_unused_columns=False` (items come in ready batches),
    `ddp_find_unused_parameters=False`.
    """

    learning_rate: float = 1e-3
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 100
    per_device_train_batch_size: int = 1024
    per_device_eval_batch_size: int = 1024
    num_train_epochs: float = 150
    remove_unused_columns: bool = False
    ddp_find_unused_parameters: bool | None = False
    kmeans_init: bool = field(default=True, metadata={"help": "Whether codebooks start from a k-means."})
    kmeans_sample_size: int | None = field(default=None, metadata={"help": "Number of items that the k-means sees."})
    kmeans_iterations: int = field(default=20, metadata={"help": "Number of k-means iterations."})
    pair_batch_ratio: float | None = field(
        default=None, metadata={"help": "Number of batches of pairs for each batch of items."}
    )
    min_codebook_utilization: float = field(
        default=0.2, metadata={"help": "Share of codes in use below which to warn of a collapse. 0: never."}
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.min_codebook_utilization <= 1:
            raise ValueError(
                f"`min_codebook_utilization` is a share and must be in [0, 1], got {self.min_codebook_utilization}."
            )


class RQVAETrainer(ForgeTrainer):
    r"""
    Trains an [`RQVAEModel`], or another item tokenizer that is trained ([`VQVAEModel`], [`FSQModel`]: whatever follows
    [`NeuralItemTokenizerModel`]), on item embeddings.

    Before the first step, and unless the model has been through it (as after a resume), it measures the input
    statistics on all training items and initializes each codebook, where there are codebooks, with a k-means (faiss)
    of what the level is given of the encoder's latents: of an RQ-VAE what the levels before left over. Under
    distributed training the first process does this for all.

    A model that learns from further vectors of the items, such as the collaborative vectors of a [`LetterModel`],
    needs items with a table of them: `items.join(collaborative=vectors)`.

    With `pairs`, batches of items to reconstruct and batches of pairs to contrast take turns; what doesn't fill a
    batch is left out. Each term of the loss is logged, as the mean over the batches that have it.

    Evaluation reports, beside `eval_loss`, its terms, such as `eval_reconstruction_loss`, and of the codes of the
    evaluation items: `eval_utilization_{level}`, `eval_perplexity_{level}`, `eval_prefix_collision_rate_{level}` (of
    the levels up to this one) and `eval_collision_rate`.

    Args:
        model ([`NeuralItemTokenizerModel`]):
            The model: an [`RQVAEModel`], say.
        args ([`RQVAETrainingArguments`]):
            Settings.
        train_dataset ([`ItemEmbeddings`], *optional*):
            The items to learn from.
        eval_dataset ([`ItemEmbeddings`], *optional*):
            The items to evaluate on. Collisions are counted among these, so it is usual to give all items.
        pairs ([`ItemPairs`] or [`UserItemPairs`], *optional*):
            Pairs of items that the contrastive loss brings together, of a model with `contrastive_loss_weight` above
            0; or of users and items, of a [`DASModel`]. Their items need not be those of `train_dataset`.
        kwargs (*optional*):
            Further arguments of `transformers.Trainer`.

    Raises:
        `TypeError`: if `model` is not a [`NeuralItemTokenizerModel`], a dataset is not [`ItemEmbeddings`], or `pairs`
            not pairs of the model's kind.
        `ValueError`: if `args` would round the weights in evaluation.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.data import ItemEmbeddings
    >>> from forge_hf.models import RQVAEConfig, RQVAEModel
    >>> from forge_hf.training import RQVAETrainer, RQVAETrainingArguments

    >>> items = ItemEmbeddings(torch.randn(200, 16))
    >>> model = RQVAEModel(RQVAEConfig(input_dim=16, hidden_sizes=[8], codebook_dim=4, codebook_sizes=[8, 8]))
    >>> args = RQVAETrainingArguments("runs/rqvae", num_train_epochs=2)
    >>> trainer = RQVAETrainer(model, args, train_dataset=items, eval_dataset=items)
    >>> trainer.train()  # doctest: +SKIP
    >>> trainer.evaluate()["eval_collision_rate"]  # doctest: +SKIP
    ```
    """

    task = "item-tokenization"
    argument_names = ("kmeans_init", "kmeans_iterations", "pair_batch_ratio")

    def __init__(
        self,
        model: NeuralItemTokenizerModel,
        args: RQVAETrainingArguments,
        train_dataset: ItemEmbeddings | None = None,
        eval_dataset: ItemEmbeddings | None = None,
        *,
        pairs: ItemPairs | UserItemPairs | None = None,
        **kwargs: Any,
    ):
        if not isinstance(model, NeuralItemTokenizerModel):
            raise TypeError(
                f"`model` must be an RQVAEModel, VQVAEModel or FSQModel, say, but is {type(model).__name__}. "
                "Item tokenizers with a `fit` need no trainer."
            )
        for name, dataset in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
            if dataset is not None and not isinstance(dataset, ItemEmbeddings):
                raise TypeError(
                    f"`{name}` must be ItemEmbeddings, but is {type(dataset).__name__}. "
                    "Use ItemEmbeddings.from_dataset or ItemEmbeddings.from_file."
                )
        kind = UserItemPairs if model.takes_users else ItemPairs
        if pairs is not None and not isinstance(pairs, kind):
            name = kind.__name__
            raise TypeError(f"`pairs` must be {name}, but is {type(pairs).__name__}. Use {name}.from_sequences, say.")
        if args.fp16_full_eval or args.bf16_full_eval:
            raise ValueError("`fp16_full_eval` and `bf16_full_eval` round the weights and change codes: unset them.")
        if pairs is not None:
            args.ddp_find_unused_parameters = True  # the temperatures have no part in a batch of items
        self.pairs = pairs
        self._code_facts: dict[int, dict[str, Any]] = {}
        self._loss_terms: dict[str, tuple[torch.Tensor, int]] = {}  # sums, and of how many batches, since the last log
        super().__init__(
            model=model,
            args=args,
            data_collator=ItemEmbeddings.collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_metrics=self._code_metrics,
            **kwargs,
        )
        self.add_callback(_InitializeFromData(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """
        Trains, or goes on from a checkpoint.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint folder, or `True` for the last one in `output_dir`.

        Raises:
            [`InvalidEmbeddingsError`]: before any work, if the embeddings are empty, of another width, not finite, or
                fewer than a codebook has codes.
            [`DuplicateItemError`]: if an item id occurs twice.
            `ValueError`: if items lack a table that the model takes, or have one that it doesn't take or of another
                width, `kmeans_sample_size` is too small, a Sinkhorn assignment would meet a short last batch, or
                there are pairs without a contrastive loss, a contrastive loss without pairs, or too few for a batch.
        """
        if self.train_dataset is None:
            raise ValueError("`train_dataset` is needed to train.")
        self._check_tables()
        self._check_pairs()
        config, largest = self.model.config, max(self.model.config.codebook_sizes)
        if self._needs_kmeans:
            check_integer("kmeans_iterations", self.args.kmeans_iterations)
            if 0 < len(self.train_dataset) < largest:
                raise InvalidEmbeddingsError(
                    f"`train_dataset` has {len(self.train_dataset)} items, but the k-means of a codebook of {largest} "
                    "codes needs at least as many. Use smaller `codebook_sizes`."
                )
            if self.args.kmeans_sample_size is not None and self.args.kmeans_sample_size < largest:
                raise ValueError(
                    f"`kmeans_sample_size` must be at least the largest of `codebook_sizes`, {largest}, "
                    f"but is {self.args.kmeans_sample_size}."
                )
            _import_faiss()
        if self.pairs is not None:
            self._get_train_sampler()  # refuses what is too little
        elif self.model.needs_full_batches and not self.args.dataloader_drop_last:
            raise ValueError(
                "`training_assignment='sinkhorn'` spreads each batch over all codes, which a short last batch can't "
                "fill. Set `dataloader_drop_last=True`."
            )
        datasets = [self.train_dataset, self.eval_dataset, None if self.pairs is None else self.pairs.items]
        for dataset in {id(dataset): dataset for dataset in datasets if dataset is not None}.values():
            dataset.validate(expected_dim=config.input_dim)
        if self.model.takes_users:
            self.pairs.users.validate(expected_dim=self.model.user_tokenizer.config.input_dim)
        self._code_facts.clear()
        self._loss_terms.clear()
        threshold, num_items = self.args.min_codebook_utilization, len(self.train_dataset)
        self._codebook_usage = CodebookUsage(config.codebook_sizes, threshold, num_items)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _check_tables(self) -> None:
        wanted = self.model.takes_tables
        for name, dataset in (("train_dataset", self.train_dataset), ("eval_dataset", self.eval_dataset)):
            given = {} if dataset is None else dataset.tables
            missing = [table for table in wanted if table not in given]
            if missing and name == "train_dataset":
                raise ValueError(
                    f"`{name}` must have the tables {list(wanted)} that this {type(self.model).__name__} learns from, "
                    f"but lacks {missing}. Join them: `items.join({missing[0]}=...)`."
                )
            for table, vectors in given.items():
                if table not in wanted:
                    raise ValueError(f"`{name}` has a table {table!r}, which this {type(self.model).__name__} lacks.")
                if vectors.dim != wanted[table]:
                    raise ValueError(
                        f"Table {table!r} of `{name}` must have width {wanted[table]}, but has width {vectors.dim}. "
                        f"Set `{table}_dim` of the model to this width."
                    )

    def _check_pairs(self) -> None:
        config, takes_users = self.model.config, self.model.takes_users
        if (self.pairs is None) == self.model.takes_pairs:
            if takes_users:
                raise ValueError(f"`pairs` of users and items are missing, which {type(self.model).__name__} needs.")
            raise ValueError(
                "`pairs` and a model with a contrastive loss (`contrastive_loss_weight` above 0) go together, but "
                f"`pairs` {'is missing and the model has one' if self.pairs is None else 'are given and it has none'}."
            )
        if takes_users:
            users, largest = self.pairs.users, max(config.user_codebook_sizes)
            if self._needs_kmeans and 0 < len(users) < largest:
                raise InvalidEmbeddingsError(
                    f"`pairs` has {len(users)} users, but the k-means of a codebook of {largest} codes needs at least "
                    "as many. Use smaller `user_codebook_sizes`."
                )
            if (width := users.tables["collaborative"].dim) != config.collaborative_dim:
                raise ValueError(
                    f"Collaborative vectors of `pairs` must have width {config.collaborative_dim}, but have width "
                    f"{width}. Set `collaborative_dim` of the model to this width."
                )

    @property
    def _needs_kmeans(self) -> bool:
        return self.model.has_codebooks and self.args.kmeans_init and not self.model.is_initialized

    @torch.no_grad()
    def initialize_from_data(self) -> None:
        """
        Sets the input statistics and the codebooks from `train_dataset`, unless the codebooks have been set. The first
        process does it for all.
        """
        if self.model.is_initialized:
            return
        if self.args.process_index == 0:
            sides = [(self.model, self.train_dataset)]
            if self.model.takes_users:
                sides.append((self.model.user_tokenizer, self.pairs.users))
            needs_kmeans = self._needs_kmeans
            for model, items in sides:
                if model.config.input_normalization == "none":
                    statistics = torch.zeros(items.dim), torch.ones(items.dim)
                else:
                    statistics = mean_and_std(items)
                model.set_input_statistics(*statistics)
                if needs_kmeans:
                    self._kmeans_codebooks(model, items)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for tensor in self.model.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)

    def get_train_dataloader(self) -> DataLoader:
        """As `transformers.Trainer.get_train_dataloader`: of items, and of `pairs` if there are."""
        if self.pairs is None:
            return super().get_train_dataloader()
        return self._get_dataloader(
            dataset=ItemsAndPairs(self.train_dataset, self.pairs),
            description="Training",
            batch_size=self._train_batch_size,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def _get_train_sampler(self, train_dataset: ItemEmbeddings | ItemsAndPairs | None = None) -> Sampler | None:
        if self.pairs is None:
            return super()._get_train_sampler(train_dataset)
        dataset = ItemsAndPairs(self.train_dataset, self.pairs) if train_dataset is None else train_dataset
        # Batches are dealt out to the processes in turn: as many of a kind follow each other as there are processes.
        batch_size = self._train_batch_size * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return ItemsAndPairsSampler(dataset, batch_size, self.args.pair_batch_ratio, seed)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """As `transformers.Trainer.get_decay_parameter_names`, without the temperatures."""
        return [name for name in super().get_decay_parameter_names(model) if "logit_scale" not in name]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As `transformers.Trainer.compute_loss`, and keeps the terms of the loss for the next log."""
        loss, output = super().compute_loss(model, inputs, True, num_items_in_batch)
        terms = {name: value for name, value in output.items() if name.endswith("_loss")}
        if "contrastive_terms" in output:
            names = [f"contrastive_loss_{term}" for term in self.model.contrastive_loss.terms]
            terms |= dict(zip(names, output["contrastive_terms"], strict=True))
        for name, value in terms.items():
            total, number = self._loss_terms.get(name, (0, 0))
            self._loss_terms[name] = (total + value.detach().mean(), number + 1)
        if self.state.global_step >= self.args.get_warmup_steps(self.state.max_steps):
            self._codebook_usage.add(output.codes)
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `transformers.Trainer.log`, with the terms of the loss beside the loss."""
        if "loss" in logs and self._loss_terms:
            # The same on every process: all have batches of the same kinds.
            means = torch.stack([total / number for total, number in self._loss_terms.values()])
            means = self.accelerator.reduce(means, "mean").tolist()
            logs = logs | dict(zip(self._loss_terms, means, strict=True))
            if self.pairs is not None and not self.model.takes_users:
                contrastive_loss = self.model.contrastive_loss
                scales = dict(zip(contrastive_loss.terms, contrastive_loss.logit_scales, strict=True))
                logs |= {f"temperature_{term}": (-scale).exp().item() for term, scale in scales.items()}
            self._loss_terms.clear()
            self._codebook_usage.check(self.accelerator.reduce, self.is_world_process_zero())
        super().log(logs, start_time)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """As `transformers.Trainer.evaluate`."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        items = self.eval_dataset if eval_dataset is None else eval_dataset
        names = {key.removeprefix(f"{metric_key_prefix}_"): key for key in metrics}
        scores = {name: metrics[key] for name, key in names.items() if name.endswith("loss")}
        scores["collision_rate"] = metrics[names["collision_rate"]]
        self.keep_scores(
            "items" if metric_key_prefix == "eval" else metric_key_prefix, scores, len(items), "all items"
        )
        levels = range(self.model.config.num_levels)
        self._code_facts[self.weights_step] = {
            "num_items": len(items),
            "collision_rate": scores["collision_rate"],
            **{
                name: [metrics[f"{metric_key_prefix}_{name}_{level}"] for level in levels]
                for name in ("utilization", "perplexity")
            },
        }
        return metrics

    def describe_data(self) -> dict[str, int]:
        """Facts of the training data."""
        if self.train_dataset is None:
            return {}
        facts = {"num_items": len(self.train_dataset), "embedding_dim": self.train_dataset.dim}
        if self.model.takes_users and self.pairs is not None:
            facts["num_users"] = len(self.pairs.users)
        return facts if self.pairs is None else facts | {"num_pairs": len(self.pairs)}

    def fingerprint_data(self) -> dict[str, str]:
        """A hash of each of the trainer's datasets, which tells a resume whether they are the same."""
        items = {"train_dataset": self.train_dataset, "eval_dataset": self.eval_dataset}
        hashes = {name: fingerprint_items(part) for name, part in items.items() if part is not None}
        if self.pairs is None:
            return hashes
        hashes |= {"pairs": fingerprint(self.pairs.rows), "items of pairs": fingerprint_items(self.pairs.items)}
        return hashes | ({"users of pairs": fingerprint_items(self.pairs.users)} if self.model.takes_users else {})

    def describe_rows(self, rows: Sequence[int]) -> str:
        """Rows of a batch in words: the ids of their items, or of their users and items."""
        number = len(self.train_dataset)
        if rows[0] < number:
            return name_rows("items", [self.train_dataset.item_ids[row] for row in rows])
        right = self.pairs.items.item_ids
        left = self.pairs.users.item_ids if self.model.takes_users else right
        pairs = (self.pairs.rows[row - number] for row in rows)
        return name_rows("pairs", [(left[a], right[b]) for a, b in pairs])

    def _get_progress(self) -> dict[str, Any]:
        terms = {name: [total.item(), number] for name, (total, number) in self._loss_terms.items()}
        return super()._get_progress() | {"loss_terms": terms}

    def _set_progress(self, progress: dict[str, Any]) -> None:
        super()._set_progress(progress)
        terms = progress["loss_terms"].items()
        self._loss_terms = {name: (torch.tensor(total, device=self.args.device), n) for name, (total, n) in terms}

    def describe_run(self) -> dict[str, Any]:
        """Everything that `run.json` holds."""
        sizes = {"codebook_sizes": list(self.model.config.codebook_sizes)}
        return super().describe_run() | {"semantic_ids": sizes | self._code_facts.get(self.weights_step, {})}

    def _kmeans_codebooks(self, model: NeuralItemTokenizerModel, items: ItemEmbeddings) -> None:
        sizes = model.config.codebook_sizes
        sample_size = self.args.kmeans_sample_size or POINTS_PER_CENTROID * max(sizes)
        parts = read_rows(items, sample_rows(len(items), sample_size, self.args.seed))
        latents = torch.cat([model.get_latents(part.to(self.args.device)).cpu() for part in parts])
        with tqdm(total=len(sizes), desc="Initializing codebooks", disable=self.args.disable_tqdm) as progress:

            def cluster(points: torch.Tensor, size: int, level: int) -> torch.Tensor:
                progress.update()
                return kmeans(points, size, seed=self.args.seed + level, num_iterations=self.args.kmeans_iterations)

            model.initialize_codebooks(latents, cluster)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Keeps of the outputs what the metrics need: the codes (as labels) and terms of the loss."""
        with torch.no_grad():
            output = model(**self._prepare_inputs(inputs))
        # In evaluation the codebook loss is the commitment loss.
        names = [name for name in output if name.endswith("_loss") and name != "codebook_loss"]
        terms = {name: output[name].repeat(len(output.codes)) for name in names}
        return output.loss, terms, output.codes

    def _code_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        codes = torch.as_tensor(prediction.label_ids)
        sizes = self.model.config.codebook_sizes
        by_level = {
            "utilization": codebook_utilization(codes, sizes),
            "perplexity": codebook_perplexity(codes, sizes),
            "prefix_collision_rate": prefix_collision_rates(codes),
        }
        return {
            **{name: float(values.mean()) for name, values in prediction.predictions.items()},
            "collision_rate": float(collision_rate(codes)),
            **{f"{name}_{level}": float(v) for name, values in by_level.items() for level, v in enumerate(values)},
        }


class _InitializeFromData(TrainerCallback):
    """Runs where a resumed model has its weights and no step has been taken."""

    def __init__(self, trainer: RQVAETrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.initialize_from_data()


def _import_faiss():
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "The k-means initialization of codebooks needs faiss. Run `pip install faiss-cpu`, "
            "or pass `kmeans_init=False`."
        ) from error
    return faiss
