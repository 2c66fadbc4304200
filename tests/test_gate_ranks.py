"""Gates in two processes (gloo): the same gradients as in one."""

from __future__ import annotations

import copy
import os
import socket
from pathlib import Path

import pytest
import torch
from tests.gated_nets import images, net
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import secateur as sc

X = images(8)


def plain(line: str) -> sc.dynamic.Gated:
    """Without batch norms, which see one process's examples."""
    model = net("residual")
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent = model.get_submodule(name.rpartition(".")[0]) if "." in name else model
            setattr(parent, name.rpartition(".")[2], nn.Identity())
    return sc.dynamic.gate(model, X[:1], line)


def gradients(gated: sc.dynamic.Gated) -> dict[str, torch.Tensor]:
    return {
        name: each.grad.clone()
        for name, each in gated.model.named_parameters()
        if each.grad is not None
    }


def work(rank: int, port: int, line: str, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    gated = plain(line)
    model = DistributedDataParallel(gated.model)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        # The task's mean over examples is the mean of the processes' means.
        (model(X[rank * 4 : rank * 4 + 4]).square().mean() + 0 * gated.loss()).backward()
        torch.save(gradients(gated), f"{folder}/{rank}.pt")
        optimizer.step()
    distributed.destroy_process_group()


@pytest.mark.parametrize("line", ["channel"])
def test_two_processes_train_as_one(line: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, (port, line, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    gated = copy.deepcopy(plain(line))
    gated.model.train()
    optimizer = torch.optim.SGD(gated.model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        gated.model(X).square().mean().backward()
        known = gradients(gated)
        optimizer.step()
    assert set(known) <= set(first)
    for name, value in known.items():
        assert torch.allclose(first[name], value, atol=1e-4 + 1e-3 * float(value.abs().max())), name
