"""What a dynamic method is: which gates go where, and the loss that closes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from secateur.dynamic.finding import Skipped, Traced
from secateur.dynamic.gates import Gate
from secateur.dynamic.sites import Site
from secateur.errors import InputError
from secateur.registry import Registry
from secateur.specs import Spelled

__all__ = ["GATES", "DynamicMethod", "bounded", "together"]

Kind = Literal["channel", "layer", "spatial", "token"]


class DynamicMethod(Spelled, ABC):
    """Base of every dynamic method.

    A subclass says where gates go (`sites`), makes one for each place (`gate`), and where the
    density is no choice of the gate itself, what pulls it to the target (`loss`).

    Attributes
    ----------
    kind : {"channel", "layer", "spatial", "token"}
        What is opened and closed.
    exact : bool
        Whether a fresh gate leaves the outputs of the model as they were.
    """

    kind: ClassVar[Kind]
    exact: ClassVar[bool] = True
    target: str = "each"

    @abstractmethod
    def sites(self, traced: Traced, *, streams: bool) -> tuple[Sequence[Site], Skipped]:
        """Places that this method can gate, and why it cannot gate others."""

    @abstractmethod
    def gate(self, site: Site) -> Gate:
        """A gate for one place, open."""

    def prepare(self, site: Site, gate: Gate, model: nn.Module) -> None:
        """Fit a fresh gate to the layers that it stands between, and those to it."""

    def restore(self, site: Site, gate: Gate, model: nn.Module) -> None:
        """Undo what `prepare` did to layers, as far as training left it in them."""

    def loss(self, gates: Sequence[Gate], macs: Sequence[int]) -> Tensor:
        """What is added to the loss of the task, of the last batch.

        By default the squared distance between the mean density of the batch and the target:
        summed over gates (``target="each"``), or of all gates together, each counting by the
        multiply-accumulates that it decides about (``target="macs"``). Its gradient for a unit
        does not shrink with the number of units or of gates, so that wide layers close as fast as
        narrow ones.

        Parameters
        ----------
        gates : sequence of Gate
        macs : sequence of int
            Multiply-accumulates of one example that each gate can leave out.

        Returns
        -------
        Tensor
            A scalar.
        """
        rates, targets = self.rates(gates)
        if self.target == "macs":
            return together(rates, targets, macs).square()
        return (rates - targets).square().sum()

    @staticmethod
    def rates(gates: Sequence[Gate]) -> tuple[Tensor, Tensor]:
        """Mean openness of every gate in the last batch, and its target.

        The gradient is that of the sum over what the gate chooses each for itself.
        """
        means, targets = [], []
        for gate in gates:
            if gate.decision is None:
                raise InputError("run the model on a batch first: gates have decided nothing yet")
            means.append(amplified(gate.decision.rate.mean(), gate.choices))
            targets.append(gate.density.to(means[-1]))
        return torch.stack(means), torch.stack(targets)


def amplified(value: Tensor, factor: float) -> Tensor:
    """The same value with so many times its gradient.

    Examples
    --------
    >>> x = torch.tensor(2.0, requires_grad=True)
    >>> y = amplified(x, 5.0)
    >>> y.backward()
    >>> y.item(), x.grad.item()
    (2.0, 5.0)
    """
    return value.detach() + factor * (value - value.detach())


def together(rates: Tensor, targets: Tensor, macs: Sequence[int]) -> Tensor:
    """How far all gates together are from their target, each counting by what it decides about.

    Examples
    --------
    >>> excess = together(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]), [300, 100])
    >>> excess.item()
    0.25
    """
    weights = torch.tensor(macs, dtype=rates.dtype, device=rates.device)
    weights = weights / weights.sum()
    return amplified((weights * rates).sum(), len(rates)) - (weights * targets).sum()


GATES: Registry[type[DynamicMethod]] = Registry("dynamic method")


def bounded(
    method: str, name: str, value: object, low: float, high: float, *, above: bool = False
) -> float:
    """An option within bounds, or one clear line.

    Examples
    --------
    >>> bounded("channel", "temperature", 0, 0.0, 10.0, above=True)
    Traceback (most recent call last):
    ...
    secateur.errors.InputError: channel: temperature must be a number above 0 and up to 10, not 0
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = number and (low < value if above else low <= value) and value <= high  # type: ignore
    if not fits:
        bound = f"above {low:g} and up to {high:g}" if above else f"from {low:g} to {high:g}"
        raise InputError(f"{method}: {name} must be a number {bound}, not {value!r}")
    return float(value)  # type: ignore[arg-type]
