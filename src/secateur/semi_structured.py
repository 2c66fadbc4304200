"""2:4 on GPUs: linear layers for sparse tensor cores where there are some, dense elsewhere."""

from __future__ import annotations

import copy
import dataclasses
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from secateur.errors import InputError, first_line
from secateur.masks import finalize, masks_of

__all__ = ["SemiStructured", "semi_structured_misfit", "to_semi_structured"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)

# Rows and columns that both of PyTorch's kernels, CUTLASS and cuSPARSELt, take multiples of.
MULTIPLES = {
    torch.float16: (32, 64), torch.bfloat16: (32, 64), torch.int8: (32, 128)
}  # fmt: skip
CAPABILITY = (8, 0)
KEEP, OF = 2, 4


@dataclasses.dataclass(frozen=True)
class SemiStructured(Generic[AnyModule]):
    """What `to_semi_structured` made.

    Attributes
    ----------
    model : torch.nn.Module
        The copy.
    layers : list of str
        Weights that sparse tensor cores multiply now.
    skipped : list of (str, str)
        Weights of linear layers that stayed dense, and why.
    """

    model: AnyModule
    layers: list[str]
    skipped: list[tuple[str, str]]


def semi_structured_misfit(weight: Tensor) -> str | None:
    """Why sparse tensor cores do not take a linear layer's weight; None where they do.

    Where it lies is not looked at.

    Parameters
    ----------
    weight : Tensor, shape [outputs, inputs]

    Examples
    --------
    >>> weight = torch.ones(64, 64, dtype=torch.float16)
    >>> semi_structured_misfit(weight)
    'not 2:4: 1024 of 1024 runs of four inputs hold more than two weights'
    >>> weight[:, ::2] = 0
    >>> semi_structured_misfit(weight), semi_structured_misfit(weight[:20])
    (None, '20 outputs are no multiple of 32, which kernels of float16 take')
    """
    if weight.dtype not in MULTIPLES:
        known = ", ".join(str(each).removeprefix("torch.") for each in MULTIPLES)
        return f"{str(weight.dtype).removeprefix('torch.')} is none of {known}; call .half() first"
    kind = str(weight.dtype).removeprefix("torch.")
    for what, size, multiple in zip(
        ("outputs", "inputs"), weight.shape, MULTIPLES[weight.dtype], strict=True
    ):
        if size % multiple:
            return f"{size} {what} are no multiple of {multiple}, which kernels of {kind} take"
    full = (weight.detach().reshape(-1, OF) != 0).sum(1) > KEEP
    if bool(full.any()):
        return (
            f"not 2:4: {int(full.sum())} of {len(full)} runs of four inputs hold more than two "
            "weights"
        )
    return None


def to_semi_structured(model: AnyModule) -> SemiStructured[AnyModule]:
    """A copy of a model whose 2:4 linear layers run on sparse tensor cores.

    Where the model lies on an NVIDIA GPU since Ampere, every linear layer whose weight is 2:4 along
    its inputs, of half precision or 8-bit integers, and of sizes that the kernels take, gets the
    weight that `torch.sparse.to_sparse_semi_structured` makes: the kept values, and two bits for
    the position of each. Every other layer, and every layer elsewhere, stays dense, and
    ``skipped`` says why; what the model computes is the same either way.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it is. Masks are made final in the copy.

    Returns
    -------
    SemiStructured

    Raises
    ------
    InputError
        Where the model has no linear layer.

    Notes
    -----
    What the GPU holds is in an order of its own. The logical form, values and positions ``[outputs,
    inputs / 4, 2]``, is that of `secateur.packing.Packed.table`, and what files store.

    Sparse tensor cores multiply up to twice as fast; whole models gain less, and small batches may
    lose: time both.

    Examples
    --------
    >>> import secateur as sc
    >>> model = nn.Sequential(nn.Linear(64, 64))
    >>> _ = sc.prune(model, torch.zeros(1, 64), granularity="2:4")
    >>> made = to_semi_structured(model.half())
    >>> made.skipped if not torch.cuda.is_available() else []
    [('0.weight', 'it is on the CPU; sparse tensor cores are of NVIDIA GPUs since Ampere')]
    """
    if not any(isinstance(module, nn.Linear) for module in model.modules()):
        raise InputError("the model has no linear layer; PyTorch has 2:4 kernels for no other")
    made = copy.deepcopy(model)
    if masks_of(made):
        finalize(made)
    layers: list[str] = []
    skipped: list[tuple[str, str]] = []
    done: dict[int, nn.Parameter] = {}
    for name, module in made.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        label = f"{name}.weight" if name else "weight"
        if is_parametrized(module, "weight"):
            skipped.append((label, "it is computed from other tensors"))
            continue
        weight = module.weight
        reason = _misplaced(weight) or semi_structured_misfit(weight)
        if reason is None and id(weight) not in done:
            try:
                sparse = torch.sparse.to_sparse_semi_structured(weight.detach())
                done[id(weight)] = nn.Parameter(sparse, requires_grad=False)
            except Exception as error:
                reason = f"PyTorch cannot ({type(error).__name__}: {first_line(error)})"
        if reason is not None:
            skipped.append((label, reason))
            continue
        module.weight = done[id(weight)]
        layers.append(label)
    return SemiStructured(made, layers, skipped)


def _misplaced(weight: Tensor) -> str | None:
    needed = "sparse tensor cores are of NVIDIA GPUs since Ampere"
    if weight.device.type != "cuda":
        place = "the CPU" if weight.device.type == "cpu" else weight.device.type
        return f"it is on {place}; {needed}"
    old = torch.cuda.get_device_capability(weight.device) < CAPABILITY
    if torch.version.hip is not None or old:
        return f"{torch.cuda.get_device_name(weight.device)} has none: {needed}"
    return None
