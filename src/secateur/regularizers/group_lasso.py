"""Group lasso: whole units of weights to exact zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.attached import Target, as_units, find_targets
from secateur.attached.targets import wide
from secateur.inputs import ExampleInputs
from secateur.regularizers.base import REGULARIZERS
from secateur.regularizers.proximal import Proximal

__all__ = ["GroupLasso"]


@REGULARIZERS.register("group_lasso", "ssl")
class GroupLasso(Proximal):
    """Norms of units, λ Σ √|g| ‖w_g‖₂ (structured sparsity learning, arXiv:1608.03665).

    Wen et al. 2016 take filters, channels and shapes as groups; any granularity does. The
    proximal map w_g ← max(0, 1 − ηλ√|g| / ‖w_g‖) w_g sets whole units to zero at once.

    Parameters
    ----------
    granularity : str, default "filter"
        ``"filter"``, ``"channel"`` or any sparse granularity: ``"shape"``, ``"block:4x4"``.
    strength : float, default 1e-4
        λ.
    proximal : bool, default False
        Then `after_step` needs the learning rate η, and `add_gradients` adds nothing.

    Raises
    ------
    InputError, UnknownNameError, NothingToPruneError

    Examples
    --------
    >>> layer = nn.Linear(4, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[1.0] * 4, [0.1] * 4]))
    >>> reg = GroupLasso(strength=1.0, proximal=True).attach(layer)
    >>> reg.penalty().item()
    4.4
    >>> reg.after_step(lr=0.25)
    >>> layer.weight[:, 0].tolist()
    [0.75, 0.0]
    """

    name = "group_lasso"

    def __init__(
        self, granularity: str = "filter", strength: float = 1e-4, proximal: bool = False
    ) -> None:
        super().__init__(strength, proximal)
        self.granularity, self._units = granularity, as_units(granularity)

    def find(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs | None,
        ignore: Sequence[str | nn.Module],
    ) -> None:
        self.targets, self.skipped = find_targets(model, self._units, ignore)
        if self.proximal:
            for target in self.targets:
                target.parameter()

    def penalty(self) -> Tensor:
        terms = []
        for target in self.targets:
            norms, roots = _norms(target)
            terms.append((roots * norms).sum())
        return self.strength * torch.stack(terms).sum()

    def shrink(self, step: float) -> None:
        for target in self.targets:
            norms, roots = _norms(target)
            # A unit of norm zero stays zero whatever it is multiplied by.
            factor = (1.0 - step * roots / norms.clamp_min(1e-38)).clamp_min(0.0)
            weight = target.parameter()
            weight.copy_(weight * target.each(factor) + 0.0)


def _norms(target: Target) -> tuple[Tensor, Tensor]:
    """Norm of every unit, and the square root of its size; a zero unit has gradient zero."""
    tiling, values = target.tiling, target.canonical()
    squares = tiling.sums(wide(values).square())
    some = squares > 0
    norms = torch.where(some, squares, 1.0).sqrt() * some
    return norms, tiling.sizes().to(values.device).sqrt()
