"""Carry out a plan: cut parameters, buffers, gradients and optimizer state; set sizes."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import PlanError, suggestion
from secateur.graph.trace import named_state
from secateur.masks import effective, keeper_of, places, put_masks
from secateur.plan import Plan, remember
from secateur.surgery.configured import give_config
from secateur.surgery.dropping import drop, dropped_parameters
from secateur.surgery.graph_form import check_form
from secateur.surgery.transaction import transaction
from secateur.tensors import INTEGERS, swap_data

__all__ = ["apply_plan", "check_fits", "cut", "kept"]


def kept(size: int, removed: Iterable[int], device: torch.device | None = None) -> Tensor:
    """The indices that stay, ascending.

    Examples
    --------
    >>> kept(5, [1, 3])
    tensor([0, 2, 4])
    """
    mask = torch.ones(size, dtype=torch.bool)
    mask[torch.as_tensor(list(removed), dtype=torch.long)] = False
    return mask.nonzero()[:, 0].to(device)


def cut(tensor: Tensor, removed: dict[int, list[int]]) -> Tensor:
    """A copy of a tensor without the removed indices, in the same memory format."""
    stay = {dim: kept(tensor.shape[dim], indices) for dim, indices in removed.items()}
    plain = INTEGERS.get(tensor.element_size())
    in_order = tensor.is_contiguous() and not tensor.is_quantized
    if tensor.device.type == "cpu" and in_order and plain is not None and stay:
        places = {dim: indices.numpy() for dim, indices in stay.items()}
        return torch.from_numpy(_cut(tensor.detach().view(plain).numpy(), places)).view(
            tensor.dtype
        )
    result = tensor
    # The dimension that loses most goes first: later copies are then small.
    for dim in sorted(stay, key=lambda d: len(stay[d]) / tensor.shape[d]):
        result = result.index_select(dim, stay[dim].to(tensor.device))
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        result = result.contiguous(memory_format=torch.channels_last)
    return result


def _cut(values: np.ndarray, stay: dict[int, np.ndarray]) -> np.ndarray:
    """The kept indices of a contiguous array.

    NumPy is faster at it than PyTorch, and block by block, what lies between the cuts of two
    dimensions stays in cache.
    """
    shape = list(values.shape)
    for dim, indices in stay.items():
        shape[dim] = len(indices)
    result = np.empty(shape, dtype=values.dtype)
    rows = stay.get(0)
    inner = [dim for dim in stay if dim]
    if not inner and rows is not None:
        return values.take(rows, axis=0, out=result, mode="clip")
    tall = max(1, CUT_BLOCK // max(values[0].nbytes, 1))

    def cut_block(top: int) -> None:
        block = slice(top, top + tall)
        part = values[block] if rows is None else values.take(rows[block], axis=0)
        for dim in inner[:-1]:
            part = part.take(stay[dim], axis=dim)
        part.take(stay[inner[-1]], axis=inner[-1], out=result[block], mode="clip")

    tops = range(0, shape[0], tall)
    workers = min(torch.get_num_threads(), len(tops))
    if workers > 1 and result.nbytes >= PARALLEL:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(cut_block, tops))
    else:
        for top in tops:
            cut_block(top)
    return result


# Bytes of dense weight that are cut at once.
CUT_BLOCK = 1 << 18
# Bytes of result from which threads are worth starting; NumPy lets go of the interpreter.
PARALLEL = 1 << 22


def check_fits(plan: Plan, model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors by name, when the plan is for this model.

    Raises
    ------
    PlanError
        Naming the first tensor that is missing or has another shape.
    """
    check_form(plan, model)
    state = dict(named_state(model))
    for key, tensor in (*model.named_parameters(remove_duplicate=False),
                        *model.named_buffers(remove_duplicate=False)):  # fmt: skip
        state.setdefault(key, tensor)
    computed = {*plan.masks, *plan.shapes} - state.keys()
    if computed:
        # A parametrised weight is no tensor of the model, and can be masked all the same.
        for place in places(model):
            if place.name in computed:
                state[place.name] = effective(place.module, place.leaf)
    for name, mask in plan.masks.items():
        if name in state and mask.shape != state[name].shape:
            raise PlanError(
                f"the plan is for another model: {name!r} is {list(state[name].shape)} here and "
                f"its mask {list(mask.shape)}"
            )
    modules = dict(model.named_modules())
    for name, shape in plan.shapes.items():
        if name not in state:
            raise PlanError(
                f"the plan is for another model: this one has no {name!r}{suggestion(name, state)}"
            )
        if list(state[name].shape) != shape:
            raise PlanError(
                f"the plan is for another model: {name!r} is {list(state[name].shape)} here "
                f"and {shape} in the plan"
            )
    for name, dims in plan.removed.items():
        for dim, indices in dims.items():
            if name not in state or not 0 <= dim < state[name].dim():
                raise PlanError(f"the plan removes from {name!r} dim {dim}, which does not exist")
            size = state[name].shape[dim]
            if (
                indices != sorted(set(indices))
                or (indices and not indices[0] >= 0)
                or (indices and indices[-1] >= size)
            ):
                raise PlanError(f"the plan's indices for {name!r} dim {dim} are not in 0..{size}")
            if len(indices) >= size:
                raise PlanError(f"the plan removes all of {name!r} dim {dim}")
    for name in plan.masks:
        if name not in state:
            raise PlanError(
                f"the plan is for another model: this one has no {name!r}{suggestion(name, state)}"
            )
    for path in (*plan.attributes, *plan.dropped, *plan.biased):
        if path not in modules:
            raise PlanError(f"the plan is for another model: this one has no module {path!r}")
    return state


def apply_plan(
    plan: Plan,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    ema: nn.Module | None = None,
) -> None:
    """See :meth:`secateur.plan.Plan.apply`."""
    state = check_fits(plan, model)
    gone = dropped_parameters(model, plan.dropped)
    if ema is not None:
        check_fits(plan, ema)
    with transaction(model):
        _operate(plan, model, state)
        if ema is not None:
            with transaction(ema):
                _operate(plan, ema, check_fits(plan, ema))
        if optimizer is not None:
            _follow(plan, state, optimizer)
            _forget(gone, optimizer)


def _operate(plan: Plan, model: nn.Module, state: dict[str, Tensor]) -> None:
    factors: dict[str, list[tuple[int, list[int] | None, float]]] = {}
    for entry in plan.rescaled:
        factors.setdefault(entry.name, []).append((entry.dim, entry.indices, entry.factor))
    put_masks(model, plan.masks)
    with torch.no_grad():
        for name in dict.fromkeys([*plan.removed, *plan.renumbered, *factors]):
            tensor = state[name]
            dims = plan.removed.get(name, {})

            def changed(data: Tensor, name: str = name, dims: Any = dims) -> Tensor:
                if name in plan.renumbered:
                    data = renumber(data, plan.renumbered[name])
                for dim, indices, factor in factors.get(name, ()):
                    data = rescale(data, dim, indices, factor)
                return cut(data, dims) if dims else data

            gradient = tensor.grad if tensor.is_leaf else None
            if gradient is not None:
                tensor.grad = None
            keeper = keeper_of(tensor)
            if keeper is None:
                swap_data(tensor, changed(tensor.data))
            else:
                gone = cut(keeper.gone, dims) if dims else keeper.gone
                keeper.reshape(changed(tensor.data), changed(keeper.dense()), gone)
            if gradient is not None:
                tensor.grad = cut(gradient, dims) if dims else gradient
    modules = dict(model.named_modules())
    for path, values in plan.attributes.items():
        for key, value in values.items():
            setattr(modules[path], key, value)
    for module in modules.values():
        if isinstance(module, nn.RNNBase) and plan.removed:
            module.flatten_parameters()
    for path in plan.biased:
        modules[path].bias = _zero_bias(modules[path])
    drop(model, plan.dropped)
    give_config(model, plan.config)
    remember(model, plan)


def _zero_bias(module: nn.Module) -> nn.Parameter:
    """A bias that changes nothing, for a linear layer or a convolution without one."""
    weight = module.get_parameter("weight")
    # GPT-2's linear layers store their weight transposed.
    outputs = weight.shape[1 if hasattr(module, "nf") else 0]
    return nn.Parameter(weight.detach().new_zeros(outputs), requires_grad=weight.requires_grad)


def renumber(values: Tensor, removed: list[int]) -> Tensor:
    """Index values after the removal of some of the positions that they point at.

    Examples
    --------
    >>> renumber(torch.tensor([3, 0, 2]), [1])
    tensor([2, 0, 1])
    """
    gone = torch.as_tensor(removed, dtype=values.dtype, device=values.device)
    return values - torch.searchsorted(gone, values.contiguous()).to(values.dtype)


def rescale(data: Tensor, dim: int, indices: list[int] | None, factor: float) -> Tensor:
    """A copy with some indices along a dimension multiplied by a factor."""
    precise = torch.float64 if data.dtype == torch.float64 else torch.float32
    scale = torch.ones(data.shape[dim] if data.dim() else 1, dtype=torch.float64)
    if indices is None:
        scale[:] = factor
    else:
        scale[torch.as_tensor(indices, dtype=torch.long)] = factor
    shape = [1] * data.dim()
    if data.dim():
        shape[dim] = -1
    scaled = data.to(precise) * scale.to(precise).reshape(shape).to(data.device)
    return scaled.to(data.dtype)


def _follow(plan: Plan, state: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Cut every tensor of the optimizer's state that has the shape its parameter had."""
    for name, dims in plan.removed.items():
        parameter = state[name]
        entry = optimizer.state.get(parameter)
        if not entry:
            continue
        dense = plan.shapes[name]
        for key, value in entry.items():
            if isinstance(value, Tensor) and list(value.shape) == dense and value.dim():
                entry[key] = cut(value, dims)


def _forget(gone: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Take parameters of modules that are left out from an optimizer."""
    numbers = {id(parameter) for parameter in gone}
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in numbers]
    for parameter in gone:
        optimizer.state.pop(parameter, None)
