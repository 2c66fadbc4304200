"""Budgets: how much of a model remains, or how much of it becomes zero."""

from __future__ import annotations

from secateur.errors import BudgetError, suggestion

__all__ = ["check_budget"]

STRUCTURED = ("macs", "params", "bytes", "activations", "energy", "latency")


def check_budget(budget: object, *, sparse: bool = False) -> dict[str, float]:
    """A budget as given, checked; None stands for the default, a half.

    Parameters
    ----------
    sparse : bool, default False
        Whether units become zeros, so that the budget is their share.

    Raises
    ------
    BudgetError
        For anything but known measures with fractions in (0, 1], or a sparsity in [0, 1).

    Examples
    --------
    >>> check_budget({"macs": 0.3}), check_budget(None), check_budget(None, sparse=True)
    ({'macs': 0.3}, {'macs': 0.5}, {'sparsity': 0.5})
    """
    if budget is None:
        return {"sparsity": 0.5} if sparse else {"macs": 0.5}
    example = '{"sparsity": 0.9}' if sparse else '{"macs": 0.5}'
    if not isinstance(budget, dict) or not budget:
        raise BudgetError(f"budget must be a dict such as {example}")
    known = ("sparsity",) if sparse else STRUCTURED
    for key, value in budget.items():
        if sparse and key in STRUCTURED:
            raise BudgetError(
                f"zeros save no {key} by themselves, so a sparse granularity takes a budget of "
                f"sparsity, such as {example}"
            )
        if not sparse and key == "sparsity":
            raise BudgetError(
                "a budget of sparsity is for sparse granularities; structured ones take "
                f"{', '.join(STRUCTURED[:-1])} or {STRUCTURED[-1]}"
            )
        if key not in known:
            raise BudgetError(f"unknown budget {key!r}{suggestion(str(key), known)}")
        number = not isinstance(value, bool) and isinstance(value, (int, float))
        if sparse and not (number and 0 <= value < 1):
            raise BudgetError(
                f"budget sparsity={value!r} must lie in [0, 1): it is the share of the prunable "
                "weights that becomes zero"
            )
        if not sparse and not (number and 0 < value <= 1):
            raise BudgetError(
                f"budget {key}={value!r} must lie in (0, 1]: it is the fraction of the dense "
                "model that remains"
            )
    return {str(key): float(value) for key, value in budget.items()}
