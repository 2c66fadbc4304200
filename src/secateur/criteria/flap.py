"""FLAP: leave out what hardly changes, for a bias can stand in for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from secateur.criteria.base import CRITERIA, Criterion, Kind
from secateur.criteria.elementwise import ElementwiseCriterion
from secateur.criteria.gradient_based import check_count, hand_over
from secateur.errors import InputError, suggestion
from secateur.layerwise import Refit, Survivors
from secateur.observing.reading import Reading, Receive
from secateur.observing.statistics import input_statistics
from secateur.tensors import swap_data
from secateur.weights import parameter_names, prunable_weights

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["FLAP"]

Bias = Literal["add", "existing", "off"]


@CRITERIA.register("flap")
class FLAP(ElementwiseCriterion):
    """Fluctuation of an input times the squared norm of the weights that read it.

    An et al. 2023 (arXiv:2312.11983). S_j = Var(X_j) · ‖W_:,j‖² over all samples and tokens: what
    an input is on average, a bias can replace. That is done afterwards: the layers that lose
    inputs get W_:,j · E[X_j] of those inputs added to their bias. The paper standardises the
    scores of every layer before it ranks all of them; here the allocation makes layers comparable.

    Parameters
    ----------
    bias : {"add", "existing", "off"}, default "add"
        Which layers are compensated: all that lose inputs, giving a bias to those that have none;
        only those that have one; or none. A bias that is added counts in no budget.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.
    """

    name = "flap"
    needs_data: ClassVar[bool] = True
    asks_for: ClassVar[str] = "the inputs of layers"
    unjudged: ClassVar[str] = "no linear layer or ungrouped convolution reads it"
    additive = True

    def __init__(self, bias: Bias = "add", max_batches: int | None = None) -> None:
        super().__init__("consumer")
        if bias not in get_args(Bias):
            raise InputError(
                f"criterion 'flap': unknown bias {bias!r}" + suggestion(str(bias), get_args(Bias))
            )
        check_count(self.name, "max_batches", max_batches)
        self.bias = bias
        self.max_batches = max_batches

    def looks_at(self, member: Member, shape: Sequence[int], kind: Kind) -> bool:
        return kind in ("linear", "conv") and Criterion.looks_at(self, member, shape, kind)

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        assert grad is not None
        return weight.square_().mul_(grad).abs_()

    def stream(
        self,
        reading: Reading,
        names: Iterable[str],
        receive: Receive,
        after_batch: Callable[[], None],
    ) -> int:
        names = list(names)
        found = input_statistics(reading, names, "criterion 'flap'")
        weights = _inputs_first(reading.model, names)
        signals: dict[str, Tensor | None] = {}
        for name in names:
            parameter = reading.model.get_parameter(name)
            statistics = found.get(name)
            if statistics is None:
                signals[name] = None
                continue
            shape = [1] * parameter.dim()
            shape[0 if weights.get(name) else 1] = -1
            spread = statistics.variance.float().reshape(shape)
            signals[name] = spread.expand(parameter.shape)
        return hand_over(reading, names, signals, receive, after_batch)

    @property
    def updates(self) -> bool:
        return self.bias != "off"

    def refit(self, survivors: Survivors) -> list[Refit]:
        dense = survivors.dense
        first = _inputs_first(dense, list(survivors.removed))
        lost = {
            name: survivors.removed[name][0 if turned else 1]
            for name, turned in first.items()
            if (0 if turned else 1) in survivors.removed[name]
        }
        found = input_statistics(survivors.reading, lost, "criterion 'flap'")
        for name, indices in lost.items():
            if name in found:
                self._compensate(survivors, name, indices, first[name], found[name].mean)
        return []

    def _compensate(
        self, survivors: Survivors, name: str, indices: list[int], turned: bool, mean: Tensor
    ) -> None:
        path, _, _ = name.rpartition(".")
        module = survivors.model.get_submodule(path)
        bias = module._parameters.get("bias")
        if bias is None and (self.bias == "existing" or "bias" not in module._parameters):
            return
        weight = survivors.dense.get_parameter(name).detach().double()
        matrix = weight.T if turned else weight.flatten(2).sum(2) if weight.dim() > 2 else weight
        gone = torch.tensor(indices, device=weight.device)
        added = matrix[:, gone] @ mean[gone].to(weight.device)
        out = survivors.removed[name].get(1 if turned else 0, [])
        stay = torch.ones(len(added), dtype=torch.bool, device=added.device)
        stay[torch.tensor(out, dtype=torch.long)] = False
        added = added[stay]
        if bias is None:
            module.bias = nn.Parameter(added.to(survivors.dense.get_parameter(name)))
        else:
            swap_data(bias, (bias.detach().double() + added).to(bias.dtype))


def _inputs_first(model: nn.Module, names: list[str]) -> dict[str, bool]:
    """Parameters among the names that are weights of layers -> whether inputs come first."""
    weights = list(prunable_weights(model))
    parameters = parameter_names(model, weights)
    wanted = set(names)
    return {
        parameter: weight.storage == "inputs first"
        for weight in weights
        if (parameter := parameters[weight.name]) in wanted and weight.groups == 1
    }
