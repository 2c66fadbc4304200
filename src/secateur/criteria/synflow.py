"""SynFlow: how much flow passes through a weight, without any data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.criteria.base import CRITERIA, View
from secateur.criteria.gradient_based import GradientCriterion, hand_over
from secateur.errors import CriterionError, InputError
from secateur.inputs import Inputs, named_tensors
from secateur.observing.reading import Reading, Receive
from secateur.observing.standins import forward, standing_in

__all__ = ["SynFlow"]


@CRITERIA.register("synflow")
class SynFlow(GradientCriterion):
    r"""Synaptic flow \|w · ∂R/∂w\|, without data.

    Tanaka et al. 2020 (arXiv:2006.05467). R is the sum of all outputs of the model with every
    parameter replaced by its absolute value, for an input of ones of the example inputs' shape
    (integer inputs, such as tokens, stay as they are). Running means count as zero, so that no
    path is cut off by statistics of data. A unit's score is the sum over its parameters.

    The paper prunes in 100 rounds, scoring anew after each, which is what keeps layers from
    being emptied; one round at a high sparsity is not its method. Rounds are a schedule's
    business: prune step by step with this criterion.

    Parameters
    ----------
    view : {"group", "producer", "consumer"}, default "group"
        Which parameters count.

    Examples
    --------
    Every path through a linear chain carries the product of its weights:

    >>> import secateur as sc
    >>> from secateur.criteria import score_classes
    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.copy_(torch.tensor([[-2.0], [3.0]]))
    ...     _ = net[1].weight.copy_(torch.tensor([[5.0, 1.0]]))
    >>> graph = sc.trace(net, torch.zeros(1, 1))
    >>> criterion = SynFlow(view="producer")
    >>> scores = score_classes(graph, net, criterion, inputs=torch.zeros(1, 1))
    >>> scores.values[graph.groups[0].classes]
    array([10.,  3.])
    """

    name = "synflow"
    needs_data: ClassVar[bool] = False
    needs_inputs: ClassVar[bool] = True

    def __init__(self, view: View = "group") -> None:
        super().__init__(view)
        del self.max_batches

    def stream(
        self,
        reading: Reading,
        names: Iterable[str],
        receive: Receive,
        after_batch: Callable[[], None],
    ) -> int:
        names = list(names)
        assert reading.inputs is not None
        ones = reading.inputs.replaced(
            lambda _, tensor: torch.ones_like(tensor) if tensor.is_floating_point() else tensor
        )
        with standing_in(reading.model, reading.seed) as stand_ins:
            positive = {name: tensor.abs() for name, tensor in stand_ins.items()}
            leaves = [positive[name].requires_grad_() for name in names]
            outputs = forward(reading.model, positive | _without_means(reading.model), fresh(ones))
            flow = sum(
                (t.sum() for _, t in named_tensors(outputs) if t.is_floating_point()),
                start=torch.zeros(()),
            )
            if not flow.requires_grad:
                raise InputError(
                    "the model's outputs do not depend on its parameters; remove detach() or "
                    "torch.no_grad() from its forward pass"
                )
            found = torch.autograd.grad(flow, leaves, allow_unused=True)
        signals = {
            name: gradient
            for name, gradient in zip(names, found, strict=True)
            if gradient is not None
        }
        if not torch.isfinite(flow) or not all(bool(g.isfinite().all()) for g in signals.values()):
            raise CriterionError(
                "the flow of criterion 'synflow' is NaN or infinity in "
                f"{flow.dtype}; check the weights, or score the model in double precision"
            )
        if reading.progress is not None:
            reading.progress(1, 1)
        return hand_over(reading, names, signals, receive, after_batch)

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        return super().elements(weight, grad).abs_()


def fresh(inputs: Inputs) -> Inputs:
    """Copies that autograd takes, whatever mode the inputs were made in."""
    return inputs.replaced(lambda _, tensor: tensor.clone())


def _without_means(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(buffer)
        for name, buffer in model.named_buffers()
        if name.rpartition(".")[2] == "running_mean"
    }
