"""SparseGPT: one sweep over the columns, each making up for those before."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from secateur.criteria.base import CRITERIA, View
from secateur.criteria.gradient_based import check_count
from secateur.criteria.layerwise_based import LayerwiseCriterion, columns_as
from secateur.criteria.moment_based import POSITIONS
from secateur.layerwise import Refit, Survivors, damped, factored, inverse, sweep
from secateur.observing.moments import Moments
from secateur.weights import Weight

__all__ = ["SparseGPT"]


@CRITERIA.register("sparsegpt")
class SparseGPT(LayerwiseCriterion):
    """Error of a column of weights that those to its right make up for, w² / U_jj².

    Frantar and Alistarh 2023 (arXiv:2301.00774). H = E[x xᵀ] of the layer's inputs, damped; U is
    the upper Cholesky factor of H⁻¹, so U_jj² is entry j of the inverse once the columns before it
    are settled. Under granularities ``element`` and ``N:M`` a layer's zeros are chosen during one
    sweep from left to right: among blocks of 128 columns, or run by run, by what the weights have
    become by then. The allocation says how many, by these scores on the dense weights. Under
    others the scores choose, and what survives is fitted by least squares.

    Layers are pruned in the order in which they run, each on what the pruned layers before it
    produce.

    Parameters
    ----------
    block : int, default 128
        Columns among which entries compete.
    damp : float, default 0.01
        Share of the mean diagonal added to the Hessian's diagonal.
    update : bool, default True
        Sweep. Without it the scores on the dense weights choose, and nothing else changes.
    sequential : bool, default True
        Prune each layer on what the pruned layers before it produce; reads the data once per layer.
    view : {"group", "producer", "consumer"}, default "group"
        Which weights count where whole channels go.
    positions : int or None, default 100
        Output positions of a convolution that count, of every sample, drawn at random; None takes
        all of them.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.

    Examples
    --------
    >>> SparseGPT(block=64)
    SparseGPT('sparsegpt:block=64')
    """

    name = "sparsegpt"
    ordered: ClassVar[bool] = True

    def __init__(
        self,
        block: int = 128,
        damp: float = 0.01,
        update: bool = True,
        sequential: bool = True,
        positions: int | None = POSITIONS,
        view: View = "group",
        max_batches: int | None = None,
    ) -> None:
        super().__init__(damp, update, sequential, positions, view, max_batches)
        check_count(self.name, "block", block)
        self.block = block

    def signal(self, weight: Weight, matrix: Tensor, moments: Moments) -> Tensor:
        factor = factored(inverse(damped(moments, self.damp)))
        return columns_as(weight, matrix, factor.diagonal(dim1=1, dim2=2).square().reciprocal())

    def refit(self, survivors: Survivors) -> list[Refit]:
        amounts = survivors.amounts
        if not amounts:
            return super().refit(survivors)

        def solve(
            weight: Weight, moments: Moments, matrix: Tensor, held: Tensor | None
        ) -> tuple[Tensor, Tensor | None]:
            return sweep(
                moments,
                matrix,
                amounts[weight.name],
                weight.canonical_shape[1],
                held=held,
                block=self.block,
                damp=self.damp,
            )

        return survivors.reconstruct(
            solve,
            sequential=self.sequential,
            positions=self.positions,
            names=amounts,
            unconditional=True,
        )
