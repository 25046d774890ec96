# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Checkpoints that a run can go on from: whole, and of this very run.

A checkpoint is written in a folder aside and gets its name when all of it is on the disk, with a `resume.json` that
holds the sizes of its files, what the run is of, and what the `Trainer` forgets.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, TrainingArguments

from ..errors import CorruptFileError, OutputInUseError, RunMismatchError
from ..hub.folder import RESUME_FILE, read_json
from ..hub.writing import lock_file, sync
from .fingerprints import fingerprint


__all__ = [
    "describe_model",
    "describe_settings",
    "find_checkpoint",
    "last_checkpoint",
    "only_run",
    "put_in_place",
    "rotate_checkpoints",
]

logger = logging.getLogger(__name__)

# Workers of a DataLoader notice within 5 seconds that their process was killed, and may keep its lock until then.
_ORPHAN_SECONDS = 10
# Settings that change neither weights nor metrics: one may restart with others.
_FREE_PREFIXES = (
    "dataloader_p", "ddp_", "do_", "hub_", "log_", "logging_", "push_to_hub", "report_to", "save_", "trackio_",
)  # fmt: skip
_FREE = {
    "dataset_name", "debug", "disable_tqdm", "enable_jit_checkpoint", "eval_accumulation_steps", "local_rank",
    "min_codebook_utilization", "output_dir", "per_device_eval_batch_size", "project",
    "restore_callback_states_from_checkpoint", "resume_from_checkpoint", "run_name", "skip_memory_metrics",
    "torch_empty_cache_steps",
}  # fmt: skip
_FREE_OF_MODEL = {"architectures", "transformers_version"}


@contextmanager
def only_run(folder: str | os.PathLike, is_first: bool) -> Iterator[None]:
    """
    Keeps other runs from training in a folder, which is made if there is none. All processes of a run come here, and
    the first one has the lock.

    Args:
        folder (`str` or `os.PathLike`):
            Where the checkpoints are.
        is_first (`bool`):
            Whether this is the first process.

    Raises:
        [`OutputInUseError`]: Another run has the folder.
    """
    folder, problem = Path(folder), None
    with ExitStack() as stack:
        if is_first:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(lock_file(folder / "training", timeout=_ORPHAN_SECONDS))
            except OutputInUseError:
                problem = OutputInUseError(
                    f"Another run is training in {folder}. Wait until it has ended, or choose another `output_dir`."
                )
        [problem] = broadcast_object_list([problem])
        if problem is not None:
            raise problem
        yield


def describe_settings(args: TrainingArguments) -> dict[str, Any]:
    """The settings that a run's weights hang on, as JSON holds them."""
    values = {"num_processes": args.world_size, **args.to_dict()}
    return _as_json({k: v for k, v in values.items() if k not in _FREE and not k.startswith(_FREE_PREFIXES)})


def describe_model(model: PreTrainedModel) -> dict[str, Any]:
    """The config of a model, and of its adapter and of the weights under it if it has one, as JSON holds them."""
    config = {
        # The trainer sets the special tokens of the tokenizer.
        name: value
        for name, value in model.config.to_dict().items()
        if name not in _FREE_OF_MODEL and not name.endswith("_token_id")
    }
    adapters = getattr(model, "peft_config", {})
    config["adapters"] = sorted(adapters)
    for name, adapter in adapters.items():
        config |= {f"{name}.{key}": value for key, value in adapter.to_dict().items()}
    if adapters:  # a checkpoint holds all other weights itself
        frozen = [weight.detach().cpu() for weight in model.parameters() if not weight.requires_grad]
        # Of each some thousand numbers: two models differ nearly everywhere.
        parts = [weight.flatten()[:: max(1, weight.numel() // 4096)].float() for weight in frozen]
        config["frozen_weights"] = fingerprint(*parts)
    return _as_json(config)


def put_in_place(written: Path, folder: Path, content: Mapping[str, Any]) -> None:
    """
    Makes a checkpoint whole, and then gives it its name.

    Args:
        written (`Path`):
            The checkpoint as it was written, in a folder that may be removed with all that it holds.
        folder (`Path`):
            What it is to be called. What has that name gives way.
        content (`Mapping`):
            What `resume.json` holds besides the sizes of the files.
    """
    paths = sorted(path for path in written.rglob("*") if path.is_file())
    files = {path.relative_to(written).as_posix(): path.stat().st_size for path in paths}
    text = json.dumps({"format_version": 1, **content, "files": files}, indent=2) + "\n"
    (written / RESUME_FILE).write_text(text, encoding="utf-8")
    for path in [*written.rglob("*"), written]:  # a name must not outlive, in a power failure, what it names
        sync(path)
    if folder.exists():
        os.replace(folder, written.with_name(f"{folder.name}-before"))
    os.replace(written, folder)
    sync(folder.parent)
    shutil.rmtree(written.parent)


def rotate_checkpoints(newest: Path, best: str | None, limit: int | None, aside: Path) -> None:
    """Removes the oldest checkpoints above the limit, never the newest or the best, each as a whole."""
    if limit is None or limit <= 0:
        return
    kept = {newest.name} if best is None else {newest.name, Path(best).name}
    number = int(newest.name.rpartition("-")[2])
    # Those after the newest are of a run before, or broken.
    others = [(step < number, step, path) for step, path in _checkpoints(newest.parent) if path.name not in kept]
    surplus = len(others) - max(limit - len(kept), 0)
    for _, _, path in sorted(others)[: max(surplus, 0)]:
        aside.mkdir(exist_ok=True)
        os.replace(path, aside / path.name)
        shutil.rmtree(aside)


def last_checkpoint(folder: str | os.PathLike) -> Path | None:
    """
    The last whole checkpoint in a folder. Others are named in a warning.

    Raises:
        [`CorruptFileError`]: There are checkpoints, and none of them is whole.
    """
    broken = []
    for _, path in sorted(_checkpoints(Path(folder)), reverse=True):
        problem = _problem(path)
        if problem is None:
            for text in broken:
                logger.warning(f"{text}. It is passed over, for {path}.")
            return path
        broken.append(f"{path} isn't whole: {problem}")
    if broken:
        raise CorruptFileError(
            f"{'; '.join(broken)}. There is none to go on from: remove what is broken, choose another `output_dir`, "
            "or pass the path of a checkpoint as `resume_from_checkpoint`."
        )
    return None


def find_checkpoint(folder: str | os.PathLike, run: Mapping[str, Mapping[str, Any]]) -> Path | None:
    """
    The last whole checkpoint in a folder, if it is of this run.

    Args:
        folder (`str` or `os.PathLike`):
            Where the checkpoints are.
        run (`Mapping`):
            What the run is of: `"settings"`, `"model"` and `"data"`.

    Raises:
        [`CorruptFileError`]: There are checkpoints, and none of them is whole.
        [`RunMismatchError`]: It is of another run.
    """
    path = last_checkpoint(folder)
    if path is None:
        return None
    before, differences = read_json(path / RESUME_FILE)["run"], []
    for part, values in run.items():
        known = before.get(part, {})
        # Of data, each part counts. Of settings and models, what another version doesn't know is left out.
        names = known.keys() | values.keys() if part == "data" else known.keys() & values.keys()
        differences += [
            f"`{name}` was {_short(known.get(name))} and is {_short(values.get(name))}"
            for name in sorted(names)
            if known.get(name) != values.get(name)
        ]
    if differences:
        raise RunMismatchError(
            f"{path} is of a run with other settings or data: {'; '.join(differences[:8])}. Run what began it, or "
            "choose another `output_dir`. To go on from it all the same, pass its path as `resume_from_checkpoint`."
        )
    return path


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    found = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.iterdir() if path.is_dir())
    return [(int(match[1]), path) for match, path in found if match]


def _problem(checkpoint: Path) -> str | None:
    """Why one can't go on from a checkpoint, if so."""
    try:
        content = read_json(checkpoint / RESUME_FILE)
    except CorruptFileError as error:
        return str(error)
    files, run = content.get("files"), content.get("run")
    if isinstance(files, dict) and run is None:
        return "it has the model alone (`save_only_model`)"
    if not isinstance(files, dict) or not isinstance(run, dict):
        return f"it has no {RESUME_FILE} that says what it holds (is it of another trainer?)"
    for name, size in files.items():
        path = checkpoint / name
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            return f"{name} has {'no' if actual is None else actual} bytes, not {size}"
    return None


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    def default(value):
        return sorted(value) if isinstance(value, set) else str(value)

    return json.loads(json.dumps(values, default=default))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
