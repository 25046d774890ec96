# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""LetterModel on two processes (gloo): losses, gradients and groups are those of one process on the whole batch."""

import socket
import subprocess
import sys

import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from forge_hf.models.letter import LetterConfig, LetterModel


def rows(count, dim, seed):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def one_step(rank=0, world_size=1):
    """Losses and gradients of a step on this process's share of a batch."""
    torch.manual_seed(0)
    config = LetterConfig(
        input_dim=12, hidden_sizes=[10], codebook_dim=6, codebook_sizes=[9, 7], collaborative_dim=4,
        diversity_num_clusters=4, diversity_loss_weight=1.0, initializer_range=0.5,
    )  # fmt: skip
    model = LetterModel(config).train()
    wrapped = model if world_size == 1 else DistributedDataParallel(model)
    embeddings, vectors = (part.chunk(world_size)[rank] for part in (rows(40, 12, 3), rows(40, 4, 4)))
    output = wrapped(embeddings, collaborative=vectors)
    output.loss.backward()
    result = {f"gradient.{name}": parameter.grad for name, parameter in model.named_parameters()}
    result |= {name: output[name].detach() for name in ("loss", "collaborative_loss", "diversity_loss")}
    return result | {"groups": model.diversity_loss.groups}


def step_as_process(rank, folder, port):
    """One of the two processes of the test below, which runs this file."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.save(one_step(rank, 2), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    # From a fresh process: forking this one would copy its threads' locks.
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True, timeout=600)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, expected in one_step().items():
        if name.startswith("gradient") or name == "groups":
            torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-6, msg=name)
            assert torch.equal(first[name], second[name])
        else:
            torch.testing.assert_close((first[name] + second[name]) / 2, expected, msg=name)


if __name__ == "__main__":
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        free_port = server.getsockname()[1]
    mp.start_processes(step_as_process, args=(sys.argv[1], free_port), nprocs=2, start_method="fork")
