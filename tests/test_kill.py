# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Processes that are really killed: by random moments, and by a SIGTERM to one of two under `accelerate launch`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from forge_hf.training import TERMINATED_EXIT_CODE
from forge_hf.training.checkpoints import last_checkpoint


ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")


def test_killed_runs_end_as_undisturbed_ones(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "kill_and_resume.py", "--kills", "1", "--cases",
               "rqvae-ema-2", "--output", tmp_path / "report.json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-4000:]
    (result,) = json.loads((tmp_path / "report.json").read_text())["results"]
    assert result["kills"] == 1
    assert max(result["largest_difference"].values()) <= 1e-6, result


def test_sigterm_to_one_process_ends_both(tmp_path):
    save_file({"embeddings": torch.randn(200, 8)}, tmp_path / "items.safetensors")
    command = [
        Path(sys.executable).with_name("accelerate"), "launch", "--multi_gpu", "--num_processes", "2",
        "--main_process_port", "0", ROOT / "examples" / "train_rqvae.py", "--embeddings",
        tmp_path / "items.safetensors", "--codebook_sizes", "8", "8", "--hidden_sizes", "8", "--batch_size", "20",
        "--num_train_epochs", "100", "--output_dir", tmp_path / "run",
    ]  # fmt: skip
    with open(tmp_path / "log", "w") as log:
        environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
        launcher = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not list((tmp_path / "run").glob("checkpoint-*")):
            assert launcher.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-4000:]
            time.sleep(0.05)
        first, second = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        os.kill(int(second), signal.SIGTERM)
        launcher.wait(120)
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
    text = (tmp_path / "log").read_text()
    codes = set(re.findall(r"exitcode\s*:\s*(-?\d+)", text))  # the launcher may end the other one as it exits
    assert {str(TERMINATED_EXIT_CODE)} <= codes <= {str(TERMINATED_EXIT_CODE), "-15"}, text[-4000:]
    checkpoint = last_checkpoint(tmp_path / "run")
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert 50 <= state["global_step"] < 500 and len(list(checkpoint.glob("rng_state_*.pth"))) == 2
    assert not (tmp_path / "run" / ".incomplete").exists()
