"""Let a model run on other values of its state, each only while the code that reads it runs.

A masked or more precise copy of every weight at once would double the memory; a copy for the
time that its layer runs takes next to none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import _disable_current_modes

from secateur.graph.trace import Trace, named_state

__all__ = ["scoped"]

Transform = Callable[[str, Tensor], Tensor]


@contextlib.contextmanager
def scoped(model: nn.Module, recorded: Trace, transform: Transform) -> Iterator[None]:
    """Replace the data of every tensor while the innermost module around its readers runs.

    Parameters
    ----------
    recorded : Trace
        Which module's code reads which tensor.
    transform : callable
        ``(name, data) -> data``; returning its argument leaves the tensor alone.
    """
    state = named_state(model)
    read_by = _scopes(recorded)
    paths = {id(module): path for path, module in model.named_modules()}
    held: list[list[tuple[Tensor, Tensor, Tensor | None]]] = []

    def enter(module: nn.Module, args: object) -> None:
        changed: list[tuple[Tensor, Tensor, Tensor | None]] = []
        held.append(changed)
        for name in read_by.get(paths.get(id(module), "?"), ()):
            tensor = state[name]
            # What watches the model must not see what is done to its state.
            with _disable_current_modes():
                data = transform(name, tensor.data)
            if data is not tensor.data:
                # A gradient must have its tensor's shape and type at any time.
                gradient = tensor.grad if tensor.is_leaf else None
                changed.append((tensor, tensor.data, gradient))
                if gradient is not None:
                    tensor.grad = None
                tensor.data = data

    def leave(module: nn.Module, args: object, output: object) -> None:
        _put_back(held.pop())

    before = hooks.register_module_forward_pre_hook(enter)
    after = hooks.register_module_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()
        while held:
            _put_back(held.pop())


def _put_back(changed: list[tuple[Tensor, Tensor, Tensor | None]]) -> None:
    for tensor, data, gradient in changed:
        tensor.data = data
        if gradient is not None:
            tensor.grad = gradient


def _scopes(recorded: Trace) -> dict[str, list[str]]:
    """Module path -> the tensors that only its code, or that of modules inside it, reads."""
    around: dict[str, str] = {}
    for node in recorded.nodes:
        for index in node.inputs:
            value = recorded.values[index]
            if value.kind == "state":
                known = around.get(value.name, node.module)
                around[value.name] = _common(known, node.module)
    scopes: dict[str, list[str]] = {}
    for name, path in around.items():
        scopes.setdefault(path, []).append(name)
    return scopes


def _common(a: str, b: str) -> str:
    """The path of the innermost module around two.

    Examples
    --------
    >>> _common("encoder.0.norm", "encoder.0.mlp.up"), _common("embed", "head")
    ('encoder.0', '')
    """
    shared = []
    for left, right in zip(a.split("."), b.split("."), strict=False):
        if left != right:
            break
        shared.append(left)
    return ".".join(shared)
