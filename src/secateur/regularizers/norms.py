"""L1 and L2: every weight towards zero."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.attached import as_units, find_targets
from secateur.attached.targets import wide
from secateur.inputs import ExampleInputs
from secateur.regularizers.base import REGULARIZERS
from secateur.regularizers.proximal import Proximal, soft_threshold

__all__ = ["L1", "L2"]


class _Norm(Proximal):
    """A sum of one term per weight."""

    def find(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs | None,
        ignore: Sequence[str | nn.Module],
    ) -> None:
        self.targets, self.skipped = find_targets(model, as_units("element"), ignore)
        if self.proximal:
            for target in self.targets:
                target.parameter()

    def penalty(self) -> Tensor:
        terms = [self.term(wide(target.value)) for target in self.targets]
        return self.strength * torch.stack(terms).sum()

    def shrink(self, step: float) -> None:
        for target in self.targets:
            weight = target.parameter()
            weight.copy_(self.shrunk(weight, step))

    @abstractmethod
    def term(self, weight: Tensor) -> Tensor:
        """What one weight adds, before λ."""

    @abstractmethod
    def shrunk(self, weight: Tensor, step: float) -> Tensor:
        """One weight after the map of a step ηλ."""


@REGULARIZERS.register("l1")
class L1(_Norm):
    r"""L1 on weights, λ Σ \|w\| (lasso; Han et al. 2015, arXiv:1506.02626).

    The subgradient λ sign(w) makes weights small but never exactly zero; `proximal` does, by
    soft thresholding after every step, w ← sign(w) max(\|w\| − ηλ, 0).

    Parameters
    ----------
    strength : float, default 1e-5
        λ.
    proximal : bool, default False
        Then `after_step` needs the learning rate η, and `add_gradients` adds nothing.

    Raises
    ------
    InputError, NothingToPruneError

    Examples
    --------
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[0.3, -0.01]]))
    >>> L1(strength=1.0, proximal=True).attach(layer).after_step(lr=0.1)
    >>> layer.weight.tolist()
    [[0.2, 0.0]]
    """

    name = "l1"

    def __init__(self, strength: float = 1e-5, proximal: bool = False) -> None:
        super().__init__(strength, proximal)

    def term(self, weight: Tensor) -> Tensor:
        return weight.abs().sum()

    def shrunk(self, weight: Tensor, step: float) -> Tensor:
        return soft_threshold(weight, step)


@REGULARIZERS.register("l2")
class L2(_Norm):
    """L2 on weights, λ Σ w², gradient 2λw (ridge; Han et al. 2015, arXiv:1506.02626).

    An optimizer's ``weight_decay`` of d is λ = d / 2, on every parameter; this one is on weights
    alone. The proximal map is w ← w / (1 + 2ηλ).

    Parameters
    ----------
    strength : float, default 1e-4
        λ.
    proximal : bool, default False
        Then `after_step` needs the learning rate η, and `add_gradients` adds nothing.

    Raises
    ------
    InputError, NothingToPruneError

    Examples
    --------
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(layer.weight, 3.0)
    >>> L2(strength=1.0, proximal=True).attach(layer).after_step(lr=0.5)
    >>> layer.weight.item()
    1.5
    """

    name = "l2"

    def __init__(self, strength: float = 1e-4, proximal: bool = False) -> None:
        super().__init__(strength, proximal)

    def term(self, weight: Tensor) -> Tensor:
        return weight.square().sum()

    def shrunk(self, weight: Tensor, step: float) -> Tensor:
        return weight / (1.0 + 2.0 * step)
