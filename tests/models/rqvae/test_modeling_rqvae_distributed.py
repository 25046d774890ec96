# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Running statistics of RQVAEModel on two processes (gloo): codebooks stay equal, and equal to one process's."""

import os
import socket
import subprocess
import sys

import torch
import torch.multiprocessing as mp

from forge_hf.models.rqvae import RQVAEConfig, RQVAEModel
from forge_hf.models.rqvae.code_assignment import sinkhorn_assignment


def train(rank=0, world_size=1, **kwargs):
    """A few training-mode passes over this process's share of each batch."""
    torch.manual_seed(0)
    config = RQVAEConfig(
        input_dim=12,
        hidden_sizes=[10],
        codebook_dim=6,
        codebook_sizes=[9, 7, 5],
        initializer_range=0.5,
        codebook_update="ema",
        ema_decay=0.8,
        **kwargs,
    )
    model = RQVAEModel(config).train()
    torch.manual_seed(rank)  # processes draw different random numbers
    for step in range(4):
        batch = torch.randn(60, 12, generator=torch.Generator().manual_seed(step))
        model(batch.chunk(world_size)[rank])
    return model.state_dict()


def sinkhorn(rank=0, world_size=1):
    """Sinkhorn's codes of this process's share of items, by scaling and where only logarithms do."""
    distances = torch.rand(120, 9, generator=torch.Generator().manual_seed(0))
    far = (torch.linspace(0, 1, 60)[:, None] - torch.linspace(3, 4, 40)).square()
    return {
        "scaling": sinkhorn_assignment(distances.chunk(world_size)[rank], 0.1, 5),
        "logarithms": sinkhorn_assignment(far.chunk(world_size)[rank], 0.002, 100),
    }


def train_as_process(rank, folder, port):
    """One of the two processes of the test below, which runs this file."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    states = {"ema": train(rank, 2), "restart": train(rank, 2, dead_code_threshold=0.7)}
    states["sinkhorn"] = sinkhorn(rank, 2)
    torch.save(states, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_keep_equal_codebooks(tmp_path):
    # From a fresh process: forking this one would copy its threads' locks.
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True, timeout=600)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in ("ema", "restart"):
        assert all(torch.equal(tensor, second[name][key]) for key, tensor in first[name].items())
    alone = train()
    # Two halves of a batch are one whole batch.
    assert all(torch.allclose(first["ema"][key], tensor, atol=1e-5) for key, tensor in alone.items())
    # And codes were restarted in the second run: without that, the first two assertions would say nothing about it.
    assert not all(torch.equal(first["restart"][key], first["ema"][key]) for key in alone)
    for name, codes in sinkhorn().items():
        assert torch.equal(torch.cat([first["sinkhorn"][name], second["sinkhorn"][name]]), codes), name


if __name__ == "__main__":
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        free_port = server.getsockname()[1]
    mp.start_processes(train_as_process, args=(sys.argv[1], free_port), nprocs=2, start_method="fork")
