"""Training in shards (FSDP): weights, gradients and moments are spread over the processes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate

from secateur.masks import finalize, masks_of
from secateur.ranks import Ranks
from secateur.recover.contents import put_back

__all__ = ["Sharded"]


class Sharded:
    """A copy of a model whose parameters lie in shards, trained in its place.

    The model stays whole in every process: what is decided, evaluated and written is of the whole
    of it. Shards hold what training adds to it, gradients and moments above all.

    Parameters
    ----------
    model : torch.nn.Module
        The same in every process, on its device.
    ranks : Ranks

    Attributes
    ----------
    network : torch.nn.Module
        What is to be trained.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self.model = model
        self._mesh = init_device_mesh(ranks.accelerator.device.type, (ranks.size,))
        masks = masks_of(model)
        self.network: Any = copy.deepcopy(model)
        finalize(self.network)
        for module in (*_blocks(self.network), self.network):
            fully_shard(module, mesh=self._mesh)
        self._parameters: dict[str, Any] = dict(self.network.named_parameters())
        # Zeros are held where the weights are: in each shard, those of its own rows.
        self._gone = {name: ~self._shard(name, mask) for name, mask in masks.items()}

    def push(self) -> None:
        """Take the values of the whole model."""
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                self._parameters[name].to_local().copy_(self._shard(name, value.detach()))
            buffers = dict(self.model.named_buffers())
            for name, buffer in self.network.named_buffers():
                buffer.copy_(buffers[name])

    def pull(self) -> None:
        """Give the whole model what was trained; every process gets all of it."""
        values = {name: value.detach().full_tensor() for name, value in self._parameters.items()}
        put_back(self.model, {**values, **dict(self.network.named_buffers())})

    def mask_gradients(self) -> None:
        """Make gradients zero at masked places."""
        for name, gone in self._gone.items():
            gradient = self._parameters[name].grad
            if gradient is not None:
                gradient.to_local().masked_fill_(gone, 0)

    def mask_weights(self) -> None:
        """Make weights zero at masked places."""
        with torch.no_grad():
            for name, gone in self._gone.items():
                self._parameters[name].to_local().masked_fill_(gone, 0)

    def whole_state(self, engine: torch.optim.Optimizer) -> dict[str, Any]:
        """The state of the optimizer as one process would have it."""
        return _whole(engine.state_dict())

    def load_state(self, engine: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Take such a state back, each process its shards."""
        engine.load_state_dict(state)
        for parameter, values in engine.state.items():
            for key, value in values.items():
                if isinstance(value, Tensor) and value.ndim and value.shape == parameter.shape:
                    values[key] = self._spread(parameter, value)

    def _shard(self, name: str, value: Tensor) -> Tensor:
        return self._spread(self._parameters[name], value).to_local()

    def _spread(self, parameter: Any, value: Tensor) -> DTensor:
        # Every process has the whole of it: nothing needs to be sent.
        whole = DTensor.from_local(value, self._mesh, [Replicate()], run_check=False)
        return whole.redistribute(placements=parameter.placements)


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """What is gathered at a time: the elements of the outermost lists and sequences of modules."""
    shared = {id(tensor) for tensor in _shared(model)}

    def inside(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if isinstance(module, (nn.ModuleList, nn.Sequential)):
                own = list(child.parameters())
                # What is tied has to be gathered together, with the model itself.
                if own and not any(id(tensor) in shared for tensor in own):
                    yield child
            else:
                yield from inside(child)

    return inside(model)


def _shared(model: nn.Module) -> list[Tensor]:
    """Parameters that are in several modules."""
    names = [tensor for _, tensor in model.named_parameters(remove_duplicate=False)]
    counts: dict[int, int] = {}
    for tensor in names:
        counts[id(tensor)] = counts.get(id(tensor), 0) + 1
    return [tensor for tensor in names if counts[id(tensor)] > 1]


def _whole(value: Any) -> Any:
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return value
