# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The processes of a launcher, which share a job."""

import os

import torch
import torch.distributed
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


__all__ = ["join_processes", "wait_for_processes"]


def join_processes() -> tuple[int, int]:
    """Number of this process, and how many there are. Joins those of a launcher, if nobody has yet."""
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched > 1 and not torch.distributed.is_initialized():
        on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
        PartialState(cpu=on_cpu)
        if not torch.distributed.is_initialized():  # else each would take itself for the only one
            raise RuntimeError(
                f"This process was launched as one of {launched}, but accelerate was set up for one alone. Create "
                "`accelerate.PartialState()` before anything else, with `cpu=True` on CPUs."
            )
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def wait_for_processes() -> None:
    """Waits until all processes are here."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.barrier()
