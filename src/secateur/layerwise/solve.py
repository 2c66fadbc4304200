"""Least squares from second moments: the best weights left, given which are gone."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.errors import CriterionError
from secateur.observing.moments import Moments

__all__ = [
    "contributions",
    "damped",
    "factored",
    "inverse",
    "inverse_factor",
    "refit_scales",
    "refit_weights",
]


def damped(moments: Moments, damp: float) -> Tensor:
    """The mean of x xᵀ with a share of its mean diagonal added to the diagonal.

    Inputs that are always zero would make it singular, as would fewer rows than inputs.

    Returns
    -------
    Tensor of float64, shape [groups, d, d]
    """
    mean = moments.inputs.double() / max(moments.rows, 1)
    diagonal = mean.diagonal(dim1=1, dim2=2)
    level = diagonal.mean(dim=1, keepdim=True)
    added = torch.where(level > 0, damp * level, torch.ones_like(level))
    diagonal += added.expand_as(diagonal)
    return mean


def factored(matrix: Tensor) -> Tensor:
    """Lower Cholesky factors of symmetric matrices ``[..., d, d]``.

    Raises
    ------
    CriterionError
        When one is not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed.any()):
        raise CriterionError(
            "what a layer is given does not determine its weights: pass more data, or a larger damp"
        )
    return factor


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of symmetric positive definite matrices ``[..., d, d]``.

    Raises
    ------
    CriterionError
        When one is not positive definite.
    """
    return torch.cholesky_inverse(factored(matrix))


def inverse_factor(matrix: Tensor) -> Tensor:
    """Upper triangular U with ``UᵀU`` the inverse of symmetric matrices ``[..., d, d]``.

    Factored from the last row up, ``matrix = R Rᵀ`` with R upper triangular, and U is R⁻¹: half the
    work of inverting first, and fewer digits lost.

    Raises
    ------
    CriterionError
        When one is not positive definite.

    Examples
    --------
    >>> inverse_factor(torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double())[1, 1].square()
    tensor(0.5000, dtype=torch.float64)
    """
    upper = factored(matrix.flip(-2, -1)).flip(-2, -1)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve_triangular(upper, identity.expand_as(upper), upper=True)


def refit_weights(
    moments: Moments, weight: Tensor, mask: Tensor | None = None, ridge: float = 0.01
) -> Tensor:
    r"""The weights that give the wanted outputs best, zero where they are masked.

    Minimises ``E‖y − W x‖² + λ‖W − W₀‖²`` row by row, with λ a share `ridge` of the inputs' mean
    square: with few rows of data it stays near the weights as they are. Where y is what W₀ gives on
    the same inputs, this is the optimal brain surgeon's update for all masked weights at once,
    ``δw = −H⁻¹[:, M] (H⁻¹[M, M])⁻¹ w[M]`` (Hassibi and Stork 1993) with the damped Hessian
    ``H = E[x xᵀ] + λ``.

    Parameters
    ----------
    moments : Moments
        With `cross`; without it, y is what the weight gives.
    weight : Tensor, shape [groups, outputs of a group, d]
    mask : Tensor of bool, of the weight's shape, optional
        True where kept.
    ridge : float, default 0.01

    Returns
    -------
    Tensor
        Of the weight's shape and dtype.

    Examples
    --------
    The second input equals the first, so it can take over from it:

    >>> x = torch.tensor([[[1.0, 1.0]], [[2.0, 2.0]]])
    >>> moments = Moments.of(x)
    >>> moments.add(x)
    >>> mask = torch.tensor([[[False, True]]])
    >>> refit_weights(moments, torch.tensor([[[1.0, 1.0]]]), mask, ridge=1e-9)
    tensor([[[0., 2.]]])
    """
    hessian = damped(moments, ridge)
    start = weight.double()
    if moments.cross is None:
        wanted = hessian @ start.transpose(1, 2)
    else:
        added = hessian - moments.inputs.double() / max(moments.rows, 1)
        wanted = moments.cross.double() / max(moments.rows, 1) + added @ start.transpose(1, 2)
    refitted = torch.zeros_like(start)
    for group in range(len(start)):
        kept = torch.ones_like(start[group], dtype=torch.bool) if mask is None else mask[group]
        # Outputs with one mask share one factorisation.
        patterns, which = torch.unique(kept, dim=0, return_inverse=True)
        for index, pattern in enumerate(patterns):
            columns = pattern.nonzero()[:, 0]
            rows = (which == index).nonzero()[:, 0]
            if not len(columns):
                continue
            factor = factored(hessian[group][columns][:, columns])
            solved = torch.cholesky_solve(wanted[group][columns][:, rows], factor)
            refitted[group, rows[:, None], columns] = solved.T
    return refitted.to(weight.dtype)


def refit_scales(moments: Moments, weight: Tensor, inputs: int, ridge: float = 0.01) -> Tensor:
    """One scale per input so that the scaled weights give the wanted outputs best.

    Minimises ``E‖y − Σ_i s_i W_i x_i‖² + λ‖s − 1‖²``, with λ a share `ridge` of the mean energy
    that an input contributes (Luo et al. 2017, arXiv:1707.06342, without the ridge).

    Parameters
    ----------
    moments : Moments
        With `cross`.
    weight : Tensor, shape [groups, outputs of a group, kernel positions * inputs]
    inputs : int
        Of a group.

    Returns
    -------
    Tensor
        The scaled weight.
    """
    assert moments.cross is not None
    start = weight.double()
    count = max(moments.rows, 1)
    gram = contributions(moments, start, inputs) / count
    given = (start.transpose(1, 2) * moments.cross.double() / count).sum(2)
    wanted = given.view(len(start), -1, inputs).sum(1)
    level = gram.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
    added = torch.where(level > 0, ridge * level, torch.ones_like(level))
    gram.diagonal(dim1=1, dim2=2).add_(added)
    scales = torch.linalg.solve(gram, (wanted + added)[..., None])[..., 0]
    return (start * scales.repeat(1, start.shape[2] // inputs)[:, None]).to(weight.dtype)


def contributions(moments: Moments, weight: Tensor, inputs: int) -> Tensor:
    """How what the inputs contribute to the output goes together.

    Entry (i, j) is the sum over rows and outputs of what input i adds times what input j adds, so
    the energy of a set of inputs' joint contribution is the sum over its block.

    Parameters
    ----------
    moments : Moments
    weight : Tensor, shape [groups, outputs of a group, kernel positions * inputs]
    inputs : int
        Of a group.

    Returns
    -------
    Tensor of float64, shape [groups, inputs, inputs]
    """
    weight = weight.double()
    joint = moments.inputs.double() * (weight.transpose(1, 2) @ weight)
    places = weight.shape[2] // inputs
    return joint.view(len(weight), places, inputs, places, inputs).sum((1, 3))
