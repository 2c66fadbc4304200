"""Scaling factors: one learnable number per channel, where no norm has one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.attached import Computed, Target, as_units
from secateur.criteria import score_classes
from secateur.graph import trace
from secateur.inputs import ExampleInputs
from secateur.regularizers.base import REGULARIZERS
from secateur.regularizers.computing import Computing
from secateur.regularizers.proximal import Proximal, soft_threshold
from secateur.weights import Weight

__all__ = ["Scaling"]


class _Scaled(nn.Module):
    """A tensor times the factor of each of its channels."""

    def __init__(self, scale: nn.Parameter, dim: int) -> None:
        super().__init__()
        self.scale, self.dim = scale, dim

    def forward(self, plain: Tensor) -> Tensor:
        return plain * self.scale.reshape([-1 if axis == self.dim else 1
                                           for axis in range(plain.dim())])  # fmt: skip


@REGULARIZERS.register("scaling")
class Scaling(Proximal, Computing):
    r"""L1 on a factor of every channel, λ Σ \|s\|, in nets without norms (arXiv:1707.01213).

    Huang and Wang 2018 scale the output of every structure by a factor that is trained with it.
    Here each channel that convolutions and linear layers make, and that could be removed, is
    multiplied by an s that starts at one: its weights and its bias are computed as s · w and
    s · b. Layers whose channels a norm scales already are left alone. Prune with the criterion
    ``scale``; `finish` multiplies s into weights and biases, and the model computes what it did,
    to the bit.

    Parameters
    ----------
    strength : float, default 1e-4
        λ.
    proximal : bool, default False
        Then `after_step` needs the learning rate η, applies s ← sign(s) max(\|s\| − ηλ, 0), which
        reaches exact zeros, and `add_gradients` adds nothing.

    Notes
    -----
    s can shrink while the weights before it grow: train with weight decay.

    Raises
    ------
    InputError, NothingToPruneError

    Examples
    --------
    >>> import secateur as sc
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> reg = Scaling().attach(net, torch.zeros(1, 4))
    >>> with torch.no_grad():
    ...     _ = reg.parameters()[0].copy_(torch.tensor([0.9, 0.1, -0.5]))
    >>> result = sc.prune(net, torch.zeros(1, 4), criterion="scale", budget={"macs": 0.7})
    >>> reg.parameters()[0].tolist()
    [0.9, -0.5]
    >>> reg.finish()
    >>> list(net.state_dict()), net[0].out_features
    (['0.weight', '0.bias', '2.weight', '2.bias'], 2)
    """

    name = "scaling"
    needs_inputs = True
    units = as_units("element")

    def __init__(self, strength: float = 1e-4, proximal: bool = False) -> None:
        super().__init__(strength, proximal)

    def find(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs | None,
        ignore: Sequence[str | nn.Module],
    ) -> None:
        assert example_inputs is not None
        self._removable, self._scaled = _channels(model, example_inputs)
        super().find(model, example_inputs, ignore)
        self._scales = [each.rule.scale for each in self.computed]
        paths = {id(module): path for path, module in model.named_modules()}
        seen: set[int] = set()
        for each, scale in list(zip(self.computed, self._scales, strict=True)):
            for module in each.modules:
                bias = module._parameters.get("bias")
                if bias is None or id(bias) in seen:
                    continue
                seen.add(id(bias))
                name = ".".join(filter(None, (paths[id(module)], "bias")))
                target = Target(Weight(name, tuple(bias.shape)), module, self.units)
                self.computed.append(Computed(model, target, _Scaled(scale, 0)))

    def fits(self, target: Target) -> str | None:
        module = target.module
        if not isinstance(module, (nn.Linear, _ConvNd)):
            return "only convolutions and linear layers take scaling factors"
        if isinstance(module, _ConvTransposeNd) and module.groups > 1:
            return "the outputs of a grouped transposed convolution lie along two dimensions"
        if target.name in self._scaled:
            return "a norm scales its outputs already, which criterion 'scale' ranks by"
        if target.name not in self._removable:
            return "its outputs cannot be removed"
        return None

    def rule(self, target: Target) -> nn.Module:
        dim = 1 if isinstance(target.module, _ConvTransposeNd) else 0
        value = target.value
        scale = torch.ones(value.shape[dim], dtype=value.dtype, device=value.device)
        return _Scaled(nn.Parameter(scale), dim)

    def penalty(self) -> Tensor:
        return self.strength * torch.stack([scale.abs().sum() for scale in self._scales]).sum()

    def shrink(self, step: float) -> None:
        for scale in self._scales:
            scale.copy_(soft_threshold(scale, step))

    def parameters(self) -> list[nn.Parameter]:
        return list(self._scales)

    def finish(self) -> None:
        super().finish()
        self._scales = []


def _channels(model: nn.Module, example_inputs: ExampleInputs) -> tuple[set[str], set[str]]:
    """Weights that make channels which can go, and those whose channels have a factor already."""
    graph = trace(model, example_inputs)
    judged = score_classes(graph, model, "scale").judged
    removable: set[str] = set()
    scaled: set[str] = set()
    for group in graph.groups:
        for member in group.members:
            if member.role == "producer" and not group.protected:
                removable.add(member.name)
                if judged[member.classes].any():
                    scaled.add(member.name)
    return removable, scaled
