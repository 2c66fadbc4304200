"""The LASSO's path over inputs: at which penalty each one's coefficient becomes zero."""

from __future__ import annotations

import numpy as np

__all__ = ["vanishing_penalties"]

SWEEPS = 1000
TOLERANCE = 1e-7


def vanishing_penalties(gram: np.ndarray, steps: int = 100, least: float = 1e-4) -> np.ndarray:
    """For every input, the lowest penalty from which on its coefficient is zero.

    Minimises ``½ βᵀ G β − βᵀ G 1 + λ ‖β‖₁``, which is the error of the output with every input's
    contribution scaled by β, along falling λ (He et al. 2017, arXiv:1707.06168), by coordinate
    descent started from the solution before.

    Parameters
    ----------
    gram : ndarray, shape [n, n]
        What input i contributes to the output times what input j does, summed over data.
    steps : int, default 100
        Penalties tried, evenly in their logarithm.
    least : float, default 1e-4
        The lowest of them, as a share of the one at which all coefficients are zero.

    Returns
    -------
    ndarray of float, shape [n]
        As shares of the penalty at which all are zero: 1 for the input that goes last. Inputs that
        part between two of the penalties are told apart by the coefficient they had before;
        those without one at the lowest lie below it, by what they contribute.

    Examples
    --------
    Contributions that have nothing in common go by their energy:

    >>> found = vanishing_penalties(np.diag([4.0, 1.0, 2.0]))
    >>> bool((np.argsort(found) == [1, 2, 0]).all()), float(found[0])
    (True, 1.0)
    """
    gram = gram.astype(np.float64)
    wanted = gram.sum(1)
    energy = gram.diagonal()
    top = np.abs(wanted).max(initial=0.0)
    count = len(gram)
    found = np.zeros(count)
    if top <= 0:
        return found
    coefficients, fitted = np.zeros(count), np.zeros(count)
    penalties = np.geomspace(top, top * least, steps)
    # The share of a step that a coefficient at the next penalty is worth, to order within a step.
    sizes = np.zeros((steps, count))
    for step, penalty in enumerate(penalties):
        _descend(gram, wanted, energy, penalty, coefficients, fitted)
        sizes[step] = coefficients
    sizes = np.abs(sizes)
    live = sizes > 0
    entered = np.where(live.any(0), live.argmax(0), steps)
    for index in range(count):
        step = entered[index]
        if step == steps:
            continue
        # Between the penalty at which it is there and the one before, at which it is not.
        before = penalties[max(step - 1, 0)]
        share = sizes[step, index] / (sizes[step].max() + 1e-300)
        found[index] = (penalties[step] + share * (before - penalties[step])) / top
    never = entered == steps
    if never.any():
        ranked = np.abs(wanted) / top
        found[never] = least * ranked[never] / (1 + ranked[never].max())
    found[np.argmax(np.abs(wanted))] = 1.0
    return found


def _descend(
    gram: np.ndarray,
    wanted: np.ndarray,
    energy: np.ndarray,
    penalty: float,
    coefficients: np.ndarray,
    fitted: np.ndarray,
) -> None:
    """Coordinate descent to the optimum at one penalty; `fitted` is ``G β`` throughout."""
    usable = np.flatnonzero(energy > 0)
    every = usable
    for _ in range(SWEEPS):
        largest = 0.0
        for at in every:
            old = coefficients[at]
            slope = wanted[at] - fitted[at] + energy[at] * old
            new = np.sign(slope) * max(abs(slope) - penalty, 0.0) / energy[at]
            if new != old:
                fitted += gram[at] * (new - old)
                coefficients[at] = new
                largest = max(largest, abs(new - old))
        if largest <= TOLERANCE:
            if every is usable:
                return
            every = usable
        else:
            # Until these settle, the others are left at zero.
            every = np.flatnonzero(coefficients)
