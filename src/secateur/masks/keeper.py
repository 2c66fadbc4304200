"""What keeps a parameter's masked entries at zero, and remembers what they were."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle, unserializable_hook

from secateur.tensors import swap_data, taken, without, zero_

__all__ = ["KEEPERS", "Keeper", "keeper_of", "keepers", "kept_here", "link", "own", "unlink"]

# By the id of the parameter, which no other tensor can have as long as its keeper holds it. An
# attribute of the parameter itself would be pickled inside it, and pull it in again.
KEEPERS: weakref.WeakValueDictionary[int, Keeper] = weakref.WeakValueDictionary()

HELD = "_secateur_keepers"


class Keeper:
    """Keeps the masked entries of one parameter exactly zero.

    The modules that own the parameter hold it, one for all of them where the parameter is tied,
    so that it is copied and pickled with them. Gradients are masked as they arrive, so that
    clipping sees none of them, and before every optimizer's step; the weights are zeroed after
    it and after `load_state_dict`, whatever momentum or a checkpoint brings back.

    Parameters
    ----------
    parameter : Tensor
        Its masked entries are made zero.
    mask : Tensor of bool
        True where kept; of the parameter's shape.

    Attributes
    ----------
    parameter : Tensor
    gone : Tensor of bool
        True where the parameter is zero; never written into, so that copies share it.
    values : Tensor or None
        What the masked entries were, in memory order of a contiguous tensor; None once forgotten.
    masks_gradients : bool
        Whether gradients are masked as they arrive. Without it they are dense in ``.grad`` until
        the optimizer's step, which dynamic sparse training reads to decide what grows.

    Examples
    --------
    >>> weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    >>> keeper = Keeper(weight, torch.tensor([True, False, True]))
    >>> weight.data, keeper.values
    (tensor([1., 0., 3.]), tensor([2.]))
    >>> optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
    >>> weight.sum().backward()
    >>> weight.grad
    tensor([1., 0., 1.])
    >>> optimizer.step()
    >>> weight.data
    tensor([0., 0., 2.])
    """

    def __init__(self, parameter: Tensor, mask: Tensor) -> None:
        self.parameter = parameter
        nothing = torch.zeros((), dtype=torch.bool, device=parameter.device)
        self.gone = nothing.expand(parameter.shape)
        self.values: Tensor | None = parameter.detach().new_empty(0)
        self.masks_gradients = True
        self._handle: RemovableHandle | None = None
        self.attach()
        self.change(mask)

    @property
    def mask(self) -> Tensor:
        """True where kept; a tensor of its own."""
        return ~self._gone()

    def dense(self) -> Tensor:
        """A copy of the parameter with the old values at masked places."""
        dense = self._dense()
        own = dense.data_ptr() == self.parameter.data_ptr()
        return dense.clone() if own else dense

    def change(self, mask: Tensor, *, restore: bool = False) -> None:
        """Take another mask.

        Parameters
        ----------
        mask : Tensor of bool
            True where kept.
        restore : bool, default False
            Whether entries that come back take their old values; they start from zero otherwise.
        """
        dense = self._dense()
        gone = ~mask.to(dense.device)
        self.values = taken(dense, gone)
        self.gone = gone
        data = dense if restore else self.parameter.detach()
        # Into memory of its own: whoever holds the old data can put it back. And laid out alike,
        # which masked_fill alone is not where the mask is laid out otherwise.
        swap_data(self.parameter, data.clone().masked_fill_(gone, 0))

    def reshape(self, data: Tensor, dense: Tensor, gone: Tensor) -> None:
        """Follow surgery: other contents, what is masked in them, and what that was."""
        self.values = None if self.values is None else taken(dense, gone)
        self.gone = gone
        swap_data(self.parameter, data)

    def put_dense(self, dense: Tensor) -> None:
        """Take other contents: what is kept at once, what is masked when the mask goes."""
        with torch.no_grad():
            self.parameter.copy_(dense)
        if self.values is not None:
            self.values = dense[self._gone()]
        self.rezero()

    def rezero(self) -> None:
        """Make the masked entries zero again."""
        zero_(self.parameter, self._gone())

    def mask_gradient(self) -> None:
        """Make the parameter's gradient zero at masked places."""
        gradient = self.parameter.grad
        if gradient is None:
            return
        if gradient.layout is torch.strided:
            zero_(gradient, self._gone())
        else:
            self.parameter.grad = self.masked(gradient)

    def masked(self, gradient: Tensor) -> Tensor:
        """A gradient with zeros at masked places; infinite and undefined entries go too."""
        if gradient.layout is torch.strided:
            return without(gradient, self._gone())
        gradient = gradient.coalesce()
        indices = gradient.indices()
        values = gradient.values().masked_fill(self._gone()[tuple(indices)], 0)
        return torch.sparse_coo_tensor(
            indices, values, gradient.shape, is_coalesced=True, check_invariants=False
        )

    def attach(self) -> None:
        """Watch the parameter's gradients, and be found by it."""
        KEEPERS[id(self.parameter)] = self
        parameter = self.parameter
        if self._handle is not None or not isinstance(parameter, nn.Parameter):
            return
        if not (parameter.is_floating_point() or parameter.is_complex()):
            return
        if parameter.is_inference():
            return
        # A frozen parameter takes no hook, and may be trained later.
        trained = parameter.requires_grad
        parameter.requires_grad_(True)
        self._handle = parameter.register_hook(_hook(weakref.ref(self)))
        parameter.requires_grad_(trained)

    def detach(self) -> None:
        """Leave the parameter alone from here on."""
        if KEEPERS.get(id(self.parameter)) is self:
            del KEEPERS[id(self.parameter)]
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def moved(self, parameter: Tensor) -> Keeper:
        """A keeper of the same entries of another parameter."""
        return _rebuilt({**self.state(), "parameter": parameter}, type(self))

    def state(self) -> dict[str, Any]:
        """Everything that makes it what it is; `put_state` takes it back."""
        return {key: value for key, value in vars(self).items() if key != "_handle"}

    def put_state(self, state: Mapping[str, Any]) -> None:
        if state["parameter"] is not self.parameter:
            self.detach()
        vars(self).update(state)
        self.attach()

    def _dense(self) -> Tensor:
        """As `dense`, but the parameter's own memory where nothing is masked."""
        data = self.parameter.detach()
        if self.values is None or not self.values.numel():
            return data
        return data.masked_scatter(self._gone(), self.values.to(data.device, data.dtype))

    def _gone(self) -> Tensor:
        if self.gone.device != self.parameter.device:
            self.gone = self.gone.to(self.parameter.device)
        return self.gone

    def __deepcopy__(self, memo: dict[int, Any]) -> Keeper:
        import copy

        result = type(self).__new__(type(self))
        memo[id(self)] = result
        parameter = copy.deepcopy(self.parameter, memo)
        return _rebuilt({**self.state(), "parameter": parameter}, type(self), result)

    def __getstate__(self) -> dict[str, Any]:
        return self.state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        _rebuilt(state, type(self), self)

    def __del__(self) -> None:
        if vars(self).get("_handle") is not None:
            self._handle.remove()  # type: ignore[union-attr]

    def __repr__(self) -> str:
        return f"Keeper({int(self.gone.sum())} of {self.gone.numel()} zero)"


def _rebuilt(state: dict[str, Any], kind: type[Keeper], into: Keeper | None = None) -> Keeper:
    keeper = kind.__new__(kind) if into is None else into
    keeper._handle = None
    vars(keeper).update(state)
    keeper.attach()
    return keeper


def _hook(reference: weakref.ref[Keeper]) -> Callable[[Tensor], Tensor | None]:
    # The parameter must not keep its keeper alive: it goes with the modules that hold it.
    def mask_gradient(gradient: Tensor) -> Tensor | None:
        keeper = reference()
        if keeper is None or not keeper.masks_gradients:
            return None
        return keeper.masked(gradient)

    return unserializable_hook(mask_gradient)


def keeper_of(tensor: Tensor) -> Keeper | None:
    """The keeper of a parameter, if it has one."""
    return KEEPERS.get(id(tensor))


def kept_here(module: nn.Module) -> dict[str, Keeper]:
    """The keepers of a module's own tensors, by their names in it."""
    return module.__dict__.get(HELD, {})


def keepers(modules: Iterable[nn.Module]) -> Iterator[Keeper]:
    """Every keeper that modules hold, each once."""
    seen = set()
    for module in modules:
        for keeper in kept_here(module).values():
            if id(keeper) not in seen:
                seen.add(id(keeper))
                yield keeper


def link(module: nn.Module, leaf: str, keeper: Keeper) -> None:
    """Let a module hold a keeper, and tell it of loaded weights."""
    # A new table each time: whoever holds the old one can put it back.
    module.__dict__[HELD] = {**kept_here(module), leaf: keeper}
    if after_load not in module._load_state_dict_post_hooks.values():
        module.register_load_state_dict_post_hook(after_load)


def unlink(module: nn.Module) -> None:
    """Let a module hold no keeper any more."""
    module.__dict__.pop(HELD, None)
    hooks = module._load_state_dict_post_hooks
    for key in [key for key, hook in hooks.items() if hook is after_load]:
        del hooks[key]


def own(module: nn.Module, leaf: str) -> Tensor | None:
    """A module's parameter or buffer of a name."""
    found = module._parameters.get(leaf)
    return found if found is not None else module._buffers.get(leaf)


def after_load(module: nn.Module, incompatible_keys: Any = None) -> None:
    """Zero what a checkpoint brought back, also where it replaced the parameter itself."""
    for leaf, keeper in kept_here(module).items():
        tensor = own(module, leaf)
        if tensor is not None and tensor is not keeper.parameter:
            keeper = keeper_of(tensor) or keeper.moved(tensor)
            link(module, leaf, keeper)
        keeper.rezero()
