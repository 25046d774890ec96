# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""No network, no progress bars, one thread: set before anything of Hugging Face is imported."""

import gc
import os
import shutil
import subprocess


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # also of the processes that tests start

import pytest  # noqa: E402
import torch  # noqa: E402


torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--fuzz-examples", type=int, help="mutated files to try of each kind; by default a fixed few")
    parser.addoption("--fuzz-results", help="JSON file to write to how many were tried")


def pytest_collection_finish():
    """`Trainer.train` collects garbage: what is imported by now needn't be looked through each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def small_mount(tmp_path, request):
    """A disk of 256 KiB, or as large as the test's parameter says."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={getattr(request, 'param', '256k')}", "none"]
    if shutil.which("mount") is None or subprocess.run(["mount", *options, folder], capture_output=True).returncode:
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)
