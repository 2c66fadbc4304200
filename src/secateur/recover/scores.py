"""The scores that two models give for the same batch, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from secateur.errors import InputError
from secateur.inputs import named_tensors

__all__ = ["divergence", "scores_of"]


def scores_of(output: Any) -> dict[str, Tensor]:
    """The class scores in a model's output, by name.

    Parameters
    ----------
    output : Tensor, object with ``.logits``, mapping, or nested tuples of tensors
        A tensor is the scores; so is what is called ``logits``. Of anything else, every
        floating-point tensor of two dimensions or more counts.

    Examples
    --------
    >>> list(scores_of({"out": torch.zeros(2, 3), "loss": torch.tensor(1.0)}))
    ['output.out']
    """
    if isinstance(output, Tensor):
        return {"output": output}
    own = output.get("logits") if isinstance(output, Mapping) else None
    own = getattr(output, "logits", None) if own is None else own
    if isinstance(own, Tensor):
        return {"output.logits": own}
    return {
        name: tensor
        for name, tensor in named_tensors(output)
        if tensor.is_floating_point() and tensor.ndim >= 2
    }


def divergence(student: Any, teacher: Any, targets: Any, temperature: float) -> Tensor:
    """``T² KL(p_t ‖ p_s)``: the mean over scores and places, summed over classes.

    Parameters
    ----------
    student, teacher : outputs of two models
    targets : Any
        Class labels, where there are some, say which dimension of three holds the classes: they
        have all others. Otherwise it is the last of three, and the second of two, four or five.
    temperature : float

    Raises
    ------
    InputError
        When the outputs hold no scores, or those of the teacher have another shape.

    Examples
    --------
    >>> divergence(torch.zeros(1, 2), torch.tensor([[0.0, torch.inf]]).nan_to_num(posinf=99),
    ...            None, 1.0)
    tensor(0.6931)
    """
    ours, theirs = scores_of(student), scores_of(teacher)
    if not ours:
        raise InputError(
            f"an output of type {type(student).__name__} holds no scores to learn from a teacher; "
            "return a tensor, a dict, or an object with .logits"
        )
    total: Tensor | None = None
    for name, scores in ours.items():
        wanted = theirs.get(name)
        if wanted is None or wanted.shape != scores.shape:
            found = "missing" if wanted is None else f"of shape {list(wanted.shape)}"
            raise InputError(
                f"the teacher's {name} is {found}, and the model's of shape "
                f"{list(scores.shape)}; a teacher needs the outputs of the model"
            )
        one = _divergence(scores, wanted.to(scores.device), targets, temperature)
        total = one if total is None else total + one
    assert total is not None
    return total / len(ours)


def _divergence(scores: Tensor, wanted: Tensor, targets: Any, temperature: float) -> Tensor:
    dim = _class_dim(scores, targets)
    # Half precision is too coarse for differences of logarithms.
    ours = functional.log_softmax(scores.float() / temperature, dim)
    theirs = functional.log_softmax(wanted.float() / temperature, dim)
    apart = functional.kl_div(ours, theirs, reduction="none", log_target=True)
    # Classes that the teacher rules out altogether count nothing: 0 log 0 is 0 here.
    summed = torch.where(theirs.isneginf(), 0.0, apart).sum(dim)
    return summed.mean() * temperature**2


def _class_dim(scores: Tensor, targets: Any) -> int:
    labels = targets.get("labels") if isinstance(targets, Mapping) else targets
    if isinstance(labels, Tensor) and not labels.is_floating_point():
        if scores.shape[:1] + scores.shape[2:] == labels.shape:
            return 1
        if scores.shape[:-1] == labels.shape:
            return scores.ndim - 1
    return 2 if scores.ndim == 3 else min(1, scores.ndim - 1)
