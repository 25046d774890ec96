# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""A Hub a test, and fresh processes that talk to it: clients read HF_ENDPOINT when they're imported."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from .local_hub import LocalHub


# Wraps every finder of modules, so that the process is as one without the package, however it's installed.
HIDE_FORGE_HF = """
import sys


class Hide:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name == "forge_hf" else self.finder.find_spec(name, path, target)


sys.meta_path[:] = [Hide(finder) for finder in sys.meta_path]
"""


@pytest.fixture
def hub(tmp_path):
    """A running, empty `LocalHub`."""
    with LocalHub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def run_command(hub, tmp_path):
    """`run_command(program, *args, token="hf_local", without_forge_hf=False, **env)`: the process, whatever its end.

    It runs with `hub.env(token, **env)`, in a folder that is empty at first and the same for all processes of a test;
    `stdout` and `stderr` are text. Programs such as `hf` and `forge-hf` are those of this environment.
    """
    folder = tmp_path / "work"
    folder.mkdir()
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(HIDE_FORGE_HF)

    def run(program, *args, token="hf_local", without_forge_hf=False, timeout=240, **env):
        if without_forge_hf:
            env["PYTHONPATH"] = str(hidden)
        beside_python = Path(sys.executable).parent / program
        command = [str(beside_python if beside_python.exists() else program), *map(str, args)]
        return subprocess.run(
            command, cwd=folder, env=hub.env(token, **env), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout,
        )  # fmt: skip

    return run


@pytest.fixture
def run_python(run_command, tmp_path):
    """`run_python(source, *args, **options)`: the last line that a Python process printed, parsed as JSON.

    `source` is code or the `Path` of a script, `args` are its `sys.argv[1:]`, and the options are `run_command`'s. If
    the process fails, the test fails with all that it wrote; code that expects an exception catches and prints it.
    """

    def run(source, *args, **options):
        script = source
        if not isinstance(source, Path):
            script = tmp_path / "child.py"
            script.write_text(textwrap.dedent(source))
        # -P: neither the script's folder nor the current one is where modules come from
        process = run_command("python", "-P", script, *args, **options)
        if process.returncode != 0:
            pytest.fail(f"exit code {process.returncode}\n{process.stdout}\n{process.stderr}", pytrace=False)
        lines = process.stdout.splitlines()
        return json.loads(lines[-1]) if lines else None

    return run


@pytest.fixture
def base(tmp_path):
    """The folder of a tiny Qwen2 with a byte-level BPE, as Qwen2.5 has."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["recommend a blue shirt to this user"] * 5, trainer)
    vocab = {**backend.get_vocab(), "<|endoftext|>": backend.get_vocab_size()}
    merges = [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    for part in (Qwen2ForCausalLM(config), tokenizer):
        part.save_pretrained(tmp_path / "base")
    return tmp_path / "base"
