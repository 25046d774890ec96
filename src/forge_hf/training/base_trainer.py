# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
What both trainers share: the facts of a run, kept beside what it saves, and pushing with a card made of them; and
checkpoints that it goes on from, wherever it was killed.
"""

import logging
import math
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from huggingface_hub import HfApi
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy, TrainOutput
from transformers.utils.hub import PushInProgress

from ..errors import CorruptFileError, RunMismatchError
from ..hub import (
    describe_hardware,
    describe_scores,
    describe_versions,
    explain_hub_errors,
    push_folder,
    read_folder,
    read_json,
    write_card,
    write_folder,
    write_run,
)
from ..hub.client import check_token
from ..hub.folder import CARD_FILE, RESUME_FILE
from ..hub.run import RUN_FILE
from ..hub.writing import explain_storage_errors
from .checkpoints import (
    describe_model,
    describe_settings,
    find_checkpoint,
    only_run,
    put_in_place,
    rotate_checkpoints,
)
from .run_guard import RunGuard


__all__ = ["ForgeTrainer", "ForgeTrainingArguments", "name_rows"]

logger = logging.getLogger(__name__)


_ARGUMENTS = (
    "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
    "lr_scheduler_type", "warmup_steps", "weight_decay", "optim", "bf16", "fp16", "seed",
)  # fmt: skip


# `repr` is inherited: a new one would show the token.
@dataclass(repr=False)
class ForgeTrainingArguments(TrainingArguments):
    """
    `transformers.TrainingArguments`, with what the card of a run states besides.

    Args:
        dataset_name (`str`, *optional*):
            Name of the data, or its id on the Hub, as the card should give it.

    Defaults that differ from `TrainingArguments`: `logging_nan_inf_filter=False` (such a loss stops the run), and
    `restore_callback_states_from_checkpoint=True` (what `EarlyStoppingCallback` has counted isn't lost).
    """

    logging_nan_inf_filter: bool = False
    restore_callback_states_from_checkpoint: bool = True
    dataset_name: str | None = field(default=None, metadata={"help": "Name of the data, for the card."})


class ForgeTrainer(Trainer):
    """
    `transformers.Trainer`, which keeps the facts of its run (data, settings, time, metrics of the saved weights) in a
    `run.json` beside everything it saves, and pushes with a card made of them. Nothing that it pushes is a pickle, but
    for the state of a checkpoint, where `hub_strategy` asks for that.

    A run can be killed anywhere. `train(resume_from_checkpoint=trainer.find_checkpoint())` begins it, or goes on with
    it, and ends as if nothing had happened: with the same weights and log, bit for bit on one process of a CPU. A
    checkpoint has its name only when it's whole. On SIGTERM a checkpoint is written, and all processes exit with
    `TERMINATED_EXIT_CODE` (143). If the loss or its gradient turns NaN or infinite, all raise
    [`NonFiniteLossError`] before it reaches the weights.
    """

    task: str
    argument_names: tuple[str, ...] = ()

    def __init__(self, *args, **kwargs):
        self._seconds = 0.0
        self._started: float | None = None
        self._num_parameters: dict[str, int] = {}
        self._scores: dict[tuple[str, int], dict[str, Any]] = {}
        self._loaded_step: int | None = None  # where the weights come from, once they aren't those of the last step
        self._aside: Path | None = None  # where a checkpoint is being written
        self._identity: dict[str, dict[str, Any]] = {}
        self._resumed_from: str | None = None
        self._first_step = 0  # of those that the mean loss is over
        super().__init__(*args, **kwargs)
        self._guard = RunGuard(self)
        self.add_callback(self._guard)
        self.add_callback(_RestoreProgress(self))

    def find_checkpoint(self) -> str | None:
        """
        The last whole checkpoint of this very run in `output_dir`, for `train(resume_from_checkpoint=...)`.

        Returns:
            `str`, or `None` where there is none yet and the run is to begin.

        Raises:
            [`RunMismatchError`]: The checkpoint is of a run with other settings, another model or other data, which
                the message names.
            [`CorruptFileError`]: There are checkpoints, and none of them is whole.
        """
        found = [None, None]
        if self.is_world_process_zero():
            try:
                found[0] = find_checkpoint(self.args.output_dir, self._describe_identity())
            except (CorruptFileError, RunMismatchError) as error:
                found[1] = error
        checkpoint, error = broadcast_object_list(found)  # so that all go on from the same, or none
        if error is not None:
            raise error
        return None if checkpoint is None else str(checkpoint)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs) -> TrainOutput:
        """
        Trains, or goes on from a checkpoint.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint folder, which is taken as it is, or `True` for what [`~ForgeTrainer.find_checkpoint`]
                finds.
            args, kwargs (*optional*):
                As of `transformers.Trainer.train`.

        Raises:
            `ValueError`: if `resume_from_checkpoint` is `True` and there is none.
            [`OutputInUseError`]: if another run is training in `output_dir`.
            [`NonFiniteLossError`]: if the loss or its gradient turns NaN or infinite.
            `SystemExit`: with `TERMINATED_EXIT_CODE`, on SIGTERM.
        """
        with only_run(self.args.output_dir, self.is_world_process_zero()):
            return self._train(resume_from_checkpoint, *args, **kwargs)

    def _train(self, resume_from_checkpoint: str | bool | None, *args, **kwargs) -> TrainOutput:
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self.find_checkpoint()
            if resume_from_checkpoint is None:
                raise ValueError(f"`resume_from_checkpoint` is True, but {self.args.output_dir} has no checkpoint.")
        self._resumed_from = resume_from_checkpoint or None
        self._identity = self._describe_identity()  # before anything changes the config
        self._scores.clear()
        self._loaded_step, self._seconds, self._started = None, 0.0, time.perf_counter()
        parameters = list(self.model.parameters())
        self._num_parameters = {  # as trained: an adapter may be merged before the model is saved
            "num_parameters": sum(parameter.numel() for parameter in parameters),
            "num_trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        }
        self._guard.start()
        try:
            output = super().train(self._resumed_from, *args, **kwargs)
            self._guard.leave_if_asked()  # while the best model was loaded
        finally:
            self._guard.stop()
            self._seconds, self._started = self.train_seconds, None
        loss = self._mean_loss
        return output._replace(training_loss=loss, metrics=output.metrics | {"train_loss": loss})

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """As `transformers.Trainer.training_step`."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._guard.see_batch(loss, inputs)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `transformers.Trainer.log`."""
        if "train_loss" in logs:  # of the steps since a resume
            logs = logs | {"train_loss": self._mean_loss}
        super().log(logs, start_time)

    @property
    def _mean_loss(self) -> float:
        return self._total_loss_scalar / max(self.state.global_step - self._first_step, 0.001)

    @property
    def train_seconds(self) -> float:
        """Seconds of training up to now, those before a resume included."""
        return self._seconds + (0.0 if self._started is None else time.perf_counter() - self._started)

    @property
    def weights_step(self) -> int:
        """The step that the weights are of: the last one, or that of the best checkpoint once it is loaded."""
        return self.state.global_step if self._loaded_step is None else self._loaded_step

    def describe_data(self) -> dict[str, Any]:
        """Facts of the training data."""
        raise NotImplementedError

    def fingerprint_data(self) -> dict[str, str]:
        """A hash of each of the trainer's datasets, which tells a resume whether they are the same."""
        raise NotImplementedError

    def describe_rows(self, rows: Sequence[int]) -> str:
        """Rows of `train_dataset` in words: the ids of their items or users."""
        raise NotImplementedError

    def describe_batch(self, number: int, inputs: dict[str, Any]) -> str:
        """
        The batch of this process in words.

        Args:
            number (`int`):
                Which of the batches of the current step.
            inputs (`dict`):
                The batch.
        """
        if isinstance(self.train_dataset, IterableDataset):
            text = self.processing_class.decode(inputs["input_ids"][0])
            return f"a batch of the stream, whose first row is {text[:200]!r}"
        # The sampler draws the same again, so that batches needn't carry the numbers of their rows.
        loader, steps = self.callback_handler.train_dataloader, self.args.gradient_accumulation_steps
        epoch, step = divmod(self.state.global_step, max(math.ceil(len(loader) / steps), 1))
        _set_epoch(loader, epoch)
        rows = next(islice(loader.batch_sampler, step * steps + number, None))
        return self.describe_rows(rows)

    def describe_run(self) -> dict[str, Any]:
        """Everything that `run.json` holds."""
        run = {
            "task": self.task,
            "data": {"name": self.args.dataset_name, **self.describe_data()},
            "metrics": [scores for (_, step), scores in self._scores.items() if step == self.weights_step],
            "versions": describe_versions(),
        }
        if self._num_parameters:
            names = (*_ARGUMENTS, *self.argument_names)
            run["training"] = {
                **self._num_parameters,
                "num_processes": self.args.world_size,
                **{name: getattr(value := getattr(self.args, name), "value", value) for name in names},
                "global_step": self.state.global_step,
                "best_step": self._loaded_step,
                "seconds": round(self.train_seconds),
                "hardware": describe_hardware(),
            }
        return run

    def keep_scores(self, split: str, values: dict[str, float], num_examples: int, protocol: str) -> None:
        """Notes the metrics of the weights as they are, for `run.json`."""
        self._scores[split, self.weights_step] = describe_scores(split, values, num_examples, protocol)

    def create_model_card(self, model_name: str | None = None, **metadata) -> None:
        """
        Writes the card of the run into `output_dir`, unless there is one that somebody wrote.

        Args:
            model_name (`str`, *optional*):
                Name that the card gives the repository.
            metadata:
                Metadata for the head of the card, such as `license="mit"`.
        """
        if self.is_world_process_zero():
            folder = re.sub(r"[^\w.-]+", "-", Path(self.args.output_dir).absolute().name).strip("-.")
            name = model_name or self.hub_model_id or folder
            write_card(self.args.output_dir, name, {key: value for key, value in metadata.items() if value})

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As `transformers.Trainer.init_hf_repo`: makes the repository, if there is none."""
        if not self.is_world_process_zero():
            return
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        token = self.args.hub_token if token is None else token
        private = self.args.hub_private_repo if private is None else private
        check_token(token)
        with explain_hub_errors(name):
            self.hub_model_id = HfApi(token=token).create_repo(name, private=private, exist_ok=True).repo_id
        self.push_in_progress = None

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **metadata,
    ):
        """
        Saves the model to `output_dir`, and uploads that to `hub_model_id` in one commit with a card of the run.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`):
                Message of the commit.
            blocking (`bool`, *optional*, defaults to `True`):
                Whether to wait until the upload has ended.
            token, revision, private (*optional*):
                As in [`push_folder`]. By default as in the training arguments.
            metadata:
                Metadata for the head of the card, such as `license="mit"`.

        Returns:
            `huggingface_hub.CommitInfo`, or a `Future` of it if not `blocking`; `None` on all but the first process.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = self.args.hub_token if token is None else token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self._finish_current_push()
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        push = {
            "folder": self.args.output_dir,
            "repo_id": self.hub_model_id,
            "private": private,
            "token": token,
            "revision": self.args.hub_revision if revision is None else revision,
            "commit_message": commit_message,
            "card_metadata": {key: value for key, value in metadata.items() if value},
        }
        return push_folder(**push) if blocking else HfApi().run_as_future(push_folder, **push)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # The inherited method uploads the training arguments as a pickle, which holds the token.
        if self._aside is not None:
            return  # not whole yet
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        in_progress = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if in_progress and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        try:
            files = read_folder(checkpoint_folder).files
        except (OSError, ValueError) as error:
            # Not a reason to stop a training: an adapter of a local model may be merged in the end, say.
            logger.warning(f"The checkpoint of step {self.state.global_step} isn't pushed: {error}")
            return
        # A copy, for the checkpoint may be rotated away before the upload ends; with the card that somebody wrote.
        copy = tempfile.mkdtemp(prefix=".push-", dir=self.args.output_dir)
        for name in files:
            shutil.copy(Path(checkpoint_folder, name), copy)
        if (card := Path(self.args.output_dir, CARD_FILE)).is_file():
            shutil.copy(card, copy)
        message = f"Training in progress, step {self.state.global_step}"
        hub = {"repo_id": self.hub_model_id, "token": self.args.hub_token, "revision": self.args.hub_revision}
        api = HfApi()
        jobs = [api.run_as_future(_push_copy, copy, commit_message=message, **hub)]
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            last = self.args.hub_strategy == HubStrategy.CHECKPOINT
            path = "last-checkpoint" if last else Path(checkpoint_folder).name
            message = f"{message}, checkpoint"
            folder = {"folder_path": checkpoint_folder, "path_in_repo": path, "commit_message": message}
            jobs.append(api.upload_folder(**folder, run_as_future=True, **hub))
        if in_progress:
            self.push_in_progress.jobs.extend(jobs)
        else:
            self.push_in_progress = PushInProgress(jobs)

    def _describe_identity(self) -> dict[str, dict[str, Any]]:
        return {
            "settings": describe_settings(self.args),
            "model": describe_model(self.accelerator.unwrap_model(self.model)),
            "data": {**self.describe_data(), **self.fingerprint_data()},
        }

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._aside is None else str(self._aside)

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self._get_output_dir(trial))
        aside, checkpoint = folder / ".incomplete", folder / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
        self.accelerator.wait_for_everyone()
        self._aside = aside
        try:
            with explain_storage_errors(checkpoint):
                super()._save_checkpoint(model, trial)
        finally:
            self._aside = None
        if self.state.best_model_checkpoint == str(aside / checkpoint.name):
            self.state.best_model_checkpoint = str(checkpoint)
        progress = gather_object([self._get_progress()])
        if self.args.should_save:
            written = aside / checkpoint.name
            run = None if self.args.save_only_model else self._identity  # then there is nothing to go on from
            with explain_storage_errors(checkpoint):
                self.state.save_to_json(str(written / TRAINER_STATE_NAME))
                put_in_place(written, checkpoint, {"run": run, "progress": progress})
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(checkpoint, best, self.args.save_total_limit, aside)

    def _get_progress(self) -> dict[str, Any]:
        """What the trainer has added up since the last log, on this process: a checkpoint of transformers lacks it."""
        return {
            "loss": self._tr_loss.item(),
            "total_loss": self._total_loss_scalar,
            "last_logged_step": self._globalstep_last_logged,
        }

    def _set_progress(self, progress: dict[str, Any]) -> None:
        self._tr_loss += progress["loss"]
        self._total_loss_scalar = progress["total_loss"]
        self._globalstep_last_logged = progress["last_logged_step"]

    def _run_epoch(self, *args, epoch: int, train_dataloader: DataLoader, **kwargs) -> None:
        if self.state.global_step >= self.state.max_steps:  # resumed at its end: one step more would be taken
            self.control.should_training_stop = True
            return
        _set_epoch(train_dataloader, epoch)
        super()._run_epoch(*args, epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def _finalize_training(self, *args, **kwargs) -> TrainOutput:
        # With a limit of 1, the last checkpoint would be removed for the best: it tells that the run has ended.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        self._guard.see_gradient(norm)
        return norm

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        if not self.args.should_save:
            super()._save(output_dir, state_dict)
            return
        with write_folder(self.args.output_dir if output_dir is None else output_dir) as folder:
            super()._save(str(folder), state_dict)
            # A pickle, that nothing reads back: it has no place in a folder that people load and share.
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            self._save_facts(folder)

    def _save_facts(self, folder: Path) -> None:
        """Writes what belongs beside the model."""
        write_run(folder, self.describe_run())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        run = read_json(Path(resume_from_checkpoint, RUN_FILE))
        self._seconds = run.get("training", {}).get("seconds", 0.0)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._loaded_step = self.state.best_global_step
        # Scored before a resume, maybe.
        for scores in read_json(Path(self.state.best_model_checkpoint, RUN_FILE)).get("metrics", []):
            self._scores.setdefault((scores["split"], self._loaded_step), scores)


class _RestoreProgress(TrainerCallback):
    """Runs where a resumed trainer has set all else."""

    def __init__(self, trainer: ForgeTrainer):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self._trainer
        trainer._first_step, progress = state.global_step, None
        if trainer._resumed_from is not None:
            progress = read_json(Path(trainer._resumed_from, RESUME_FILE)).get("progress")
        if progress is not None and len(progress) == args.world_size:
            trainer._first_step = 0
            trainer._set_progress(progress[args.process_index])


def _set_epoch(loader: DataLoader, epoch: int) -> None:
    """
    Tells the sampler of a loader its epoch, however it's wrapped. Of many processes and after a resume, neither
    accelerate nor `Trainer` reaches it, and batches of the first epoch would come again.
    """
    loader.set_epoch(epoch)
    batch_sampler = loader.batch_sampler
    while (inner := getattr(batch_sampler, "batch_sampler", None)) is not None:
        batch_sampler = inner
    if hasattr(getattr(batch_sampler, "sampler", None), "set_epoch"):
        batch_sampler.sampler.set_epoch(epoch)


def name_rows(kind: str, ids: Sequence[Any], most: int = 64) -> str:
    """Rows by their ids, as far as they go into a message."""
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return f"{kind} {', '.join(repr(id) for id in ids[:most])}{more}"


def _push_copy(folder: str, repo_id: str, **push) -> None:
    """Pushes in the background, where an error would be lost, and removes what it has pushed."""
    try:
        push_folder(folder, repo_id, **push)
    except (OSError, ValueError) as error:
        logger.warning(f"A checkpoint isn't pushed to {repo_id}: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
