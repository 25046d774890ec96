# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Ends a run on all of its processes at the same step: with a checkpoint when it is asked to end, and without one when
its loss isn't a number.
"""

import math
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from ..errors import CorruptFileError, NonFiniteLossError
from .checkpoints import last_checkpoint


if TYPE_CHECKING:
    from .base_trainer import ForgeTrainer

__all__ = ["TERMINATED_EXIT_CODE", "RunGuard"]

TERMINATED_EXIT_CODE = 128 + signal.SIGTERM  # 143, as of a process that SIGTERM ends
FREE_SECONDS = 0.5  # for a thread that only has to be scheduled


class RunGuard(TrainerCallback):
    """
    Watches a training.

    - On SIGTERM, to whichever process, the step is finished, a checkpoint written, and each process exits with
      [`TERMINATED_EXIT_CODE`]. (`enable_jit_checkpoint` of transformers waits 3 seconds, lets each process save at a
      step of its own, maybe between a forward pass and its update, and exits as if the run had come to its end.)
    - If the loss or the norm of its gradient isn't finite on any process, each raises [`NonFiniteLossError`] before
      the step changes the weights.

    Args:
        trainer ([`ForgeTrainer`]):
            The trainer.
    """

    def __init__(self, trainer: "ForgeTrainer"):
        self._trainer = trainer
        self._is_asked = self._is_ending = self._is_deferred = False
        self._process = os.getpid()
        self._handler_before: Any = None
        self._losses: list[torch.Tensor] = []
        self._inputs: list[dict[str, Any]] = []
        self._grad_norm: torch.Tensor | float | None = None

    def start(self) -> None:
        """Listens for SIGTERM, where this is the main thread: others can't."""
        self._is_asked = self._is_ending = self._is_deferred = False
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._handler_before = signal.signal(signal.SIGTERM, self._ask)

    def stop(self) -> None:
        """Listens no longer."""
        if self._handler_before is not None:
            signal.signal(signal.SIGTERM, self._handler_before)
            self._handler_before = None
        self._inputs.clear()

    def see_batch(self, loss: torch.Tensor, inputs: dict[str, Any]) -> None:
        """Keeps a batch of the step for as long as that lasts."""
        self._losses.append(loss)
        self._inputs.append(inputs)

    def see_gradient(self, norm: torch.Tensor | float | None) -> None:
        """Keeps the norm of the step's gradient."""
        # A gradient that overflows in half precision is what the loss scaler waits for.
        self._grad_norm = None if self._trainer.args.fp16 else norm

    def on_step_begin(self, args, state, control, **kwargs):
        self._losses.clear()
        self._inputs.clear()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        values = list(self._losses)
        if self._grad_norm is not None:
            values.append(torch.as_tensor(self._grad_norm, device=args.device, dtype=values[0].dtype))
        is_bad = not torch.stack(values).isfinite().all().item()
        is_bad, self._is_ending = self._on_any_process(is_bad, self._is_asked)
        if is_bad:
            self._raise(args, state)

    def on_step_end(self, args, state, control, **kwargs):
        if self._is_ending:
            control.should_save = True
        if control.should_save and float(state.epoch).is_integer():
            # Whoever goes on from here begins with the next epoch: what ends this one is to be in the checkpoint.
            control.should_save, self._is_deferred = False, True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self._is_deferred:
            control.should_save, self._is_deferred = True, False

    def on_save(self, args, state, control, **kwargs):
        # Asked again: evaluating and writing may have taken long.
        self.leave_if_asked()

    def leave_if_asked(self) -> None:
        """Ends all processes if one was asked to, and there is nothing more to save."""
        if self._on_any_process(self._is_asked)[0]:
            if self._trainer.args.world_size > 1:
                # A thread of gloo still has to free what was summed up, for which it needs the interpreter: one that
                # asks for it as it goes aborts the process, whose exit code is then another one.
                time.sleep(FREE_SECONDS)
            raise SystemExit(TERMINATED_EXIT_CODE)

    def _ask(self, number: int, frame: Any) -> None:
        self._is_asked = True
        if os.getpid() != self._process:
            # A worker of the DataLoader, which the rest of the step needs. The trainer ends it, or a second SIGTERM.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.alarm(60)

    def _on_any_process(self, *flags: bool) -> list[bool]:
        if self._trainer.args.world_size == 1:
            return list(flags)
        numbers = torch.tensor(flags, dtype=torch.float32, device=self._trainer.args.device)
        return (self._trainer.accelerator.reduce(numbers) > 0).tolist()

    def _raise(self, args, state) -> None:
        losses = [loss.item() for loss in self._losses]
        bad = [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
        norm = math.nan if self._grad_norm is None else float(self._grad_norm)
        texts = [f"the loss is {losses[n]} on {self._trainer.describe_batch(n, self._inputs[n])}" for n in bad[:1]]
        if any(gather_object([bool(bad)])):
            problem = texts
        else:  # the gradient is the same on all, and any batch may have made it so
            batches = (self._trainer.describe_batch(n, inputs) for n, inputs in enumerate(self._inputs))
            problem = [f"the loss is finite, but the norm of its gradient is {norm}, on {'; '.join(batches)}"]
        problems = gather_object([f"{text} (process {args.process_index})" for text in problem])
        try:
            checkpoint = last_checkpoint(args.output_dir)
        except CorruptFileError:
            checkpoint = None
        kept = f"The last good checkpoint is {checkpoint}" if checkpoint else "There is no checkpoint yet"
        raise NonFiniteLossError(
            f"At step {state.global_step + 1}, {'; '.join(problems)}. {kept}; nothing was written after. The same "
            "command would end here again: look at these rows, or begin anew with a lower `learning_rate`, a "
            "`max_grad_norm`, or without `fp16`."
        )
