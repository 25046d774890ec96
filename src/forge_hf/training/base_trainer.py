# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What both trainers share: the facts of a run, kept beside what it saves, and pushing with a card made of them."""

import logging
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy, TrainOutput
from transformers.utils.hub import PushInProgress

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
from ..hub.folder import CARD_FILE
from ..hub.run import RUN_FILE


__all__ = ["ForgeTrainer", "ForgeTrainingArguments"]

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
    """

    dataset_name: str | None = field(default=None, metadata={"help": "Name of the data, for the card."})


class ForgeTrainer(Trainer):
    """
    `transformers.Trainer`, which keeps the facts of its run (data, settings, time, metrics of the saved weights) in a
    `run.json` beside everything it saves, and pushes with a card made of them. Nothing that it pushes is a pickle, but
    for the state of a checkpoint, where `hub_strategy` asks for that.
    """

    task: str
    argument_names: tuple[str, ...] = ()

    def __init__(self, *args, **kwargs):
        self._seconds = 0.0
        self._started: float | None = None
        self._num_parameters: dict[str, int] = {}
        self._scores: dict[tuple[str, int], dict[str, Any]] = {}
        self._loaded_step: int | None = None  # where the weights come from, once they aren't those of the last step
        super().__init__(*args, **kwargs)

    def train(self, *args, **kwargs) -> TrainOutput:
        """As `transformers.Trainer.train`."""
        self._scores.clear()
        self._loaded_step, self._seconds, self._started = None, 0.0, time.perf_counter()
        parameters = list(self.model.parameters())
        self._num_parameters = {  # as trained: an adapter may be merged before the model is saved
            "num_parameters": sum(parameter.numel() for parameter in parameters),
            "num_trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        }
        try:
            return super().train(*args, **kwargs)
        finally:
            self._seconds, self._started = self.train_seconds, None

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


def _push_copy(folder: str, repo_id: str, **push) -> None:
    """Pushes in the background, where an error would be lost, and removes what it has pushed."""
    try:
        push_folder(folder, repo_id, **push)
    except (OSError, ValueError) as error:
        logger.warning(f"A checkpoint isn't pushed to {repo_id}: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
