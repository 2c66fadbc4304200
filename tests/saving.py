"""A net to save, and everything that it consists of."""

from __future__ import annotations

import torch
from torch import nn

from secateur import Plan


class Net(nn.Module):
    """Convolutions, batch norm, tied linear layers, buffers of both kinds."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8, 6)
        self.again = nn.Linear(8, 6, bias=False)
        self.again.weight = self.hidden.weight
        self.register_buffer("offset", torch.arange(8.0))
        self.register_buffer("scale", torch.linspace(1, 2, 8), persistent=False)

    def forward(self, x):
        y = self.norm(self.conv(x)).relu().mean((2, 3)) * self.scale + self.offset
        return self.hidden(y) - self.again(y.sin())


def channels(removed: list[int], size: int = 8) -> Plan:
    """Remove output channels of `conv` from everything that they are coupled to."""
    rows = ["conv.weight", "conv.bias", "offset", "scale"]
    rows += [f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    shapes = {name: [size] for name in rows}
    shapes["conv.weight"] = [size, 3, 3, 3]
    shapes["hidden.weight"] = [6, size]
    left = size - len(removed)
    return Plan(
        removed={**{name: {0: removed} for name in rows}, "hidden.weight": {1: removed}},
        shapes=shapes,
        attributes={
            "conv": {"out_channels": left},
            "norm": {"num_features": left},
            "hidden": {"in_features": left},
            "again": {"in_features": left},
        },
        settings={"criterion": "by hand"},
    )


def pruned(seed: int = 1) -> Net:
    model = Net(seed)
    randomise(model)
    channels([1, 4, 5]).apply(model)
    return model


def randomise(model: nn.Module) -> None:
    """Fresh norms and zeros would hide wrong indices."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point() and tensor.shape != (8,):
            tensor.data.uniform_(0.5, 1.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5)


def outputs(model: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    if not inputs:
        inputs = (torch.linspace(-1, 1, 2 * 3 * 36).reshape(2, 3, 6, 6),)
        inputs = (inputs[0].to(next(model.parameters()).dtype),)
    training = model.training
    with torch.no_grad():
        result = model.eval()(*inputs)
    model.train(training)
    return result


def fingerprint(model: nn.Module) -> list:
    """Everything of a model that loading could disturb: objects, values, memory, attributes."""
    marks = []
    for path, module in model.named_modules(remove_duplicate=False):
        for key, value in sorted(vars(module).items()):
            if key in ("_parameters", "_buffers"):
                for name, tensor in value.items():
                    if tensor is None:
                        marks.append((path, name, None))
                        continue
                    bits = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
                    grad = tensor.grad
                    marks.append(
                        (path, name, id(tensor), tensor.data_ptr(), tuple(tensor.stride()))
                    )
                    marks.append((tensor.requires_grad, str(tensor.dtype), bits.tobytes()))
                    marks.append(None if grad is None else (id(grad), grad.tolist()))
            else:
                marks.append((path, key, repr(value)))
    return marks
