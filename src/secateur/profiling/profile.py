"""What a model costs: MACs of the operations that run, parameters, bytes, latency on request."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.errors import InputError
from secateur.inputs import ExampleInputs, as_inputs, evaluating, run
from secateur.profiling.census import census
from secateur.profiling.latency import Timing, compare
from secateur.profiling.macs import COUNTED, node_macs
from secateur.profiling.stored import Storage, storage_of

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["LayerProfile", "Profile", "profile"]

SHOWN_LAYERS = 40
KNOWN_NAMESPACES = ("aten", "prim", "prims")


@dataclass(frozen=True)
class LayerProfile:
    """What one module costs by itself, without the modules inside it.

    Attributes
    ----------
    name : str
        Module path, ``""`` for the model itself.
    kind : str
        Class name.
    macs : int
        Multiply-accumulates of the operations that it runs, over all its calls.
    params : int
        Elements of its own parameters; a shared parameter counts at its first owner.
    """

    name: str
    kind: str
    macs: int
    params: int


@dataclass(frozen=True)
class Profile:
    """What a model costs on its example inputs.

    Attributes
    ----------
    macs : int
        Multiply-accumulates of one forward pass over the whole example batch (FLOPs are twice
        this), counted from the operations that ran.
    params : int
        Parameter elements, shared parameters once.
    nonzero : int
        Parameter elements that are not zero; on the meta device, which holds no values, all.
    bytes : int
        Bytes of parameters and buffers in memory, shared tensors once.
    latency_ms : float or None
        Median wall time of a forward pass in milliseconds; ``None`` unless measured.
    latency : Timing or None
        The measurement behind it: spread, runs, threads, batch.
    layers : dict of str to LayerProfile
        Per module path, in the model's order, those that run MACs or hold parameters. The layers'
        numbers add up to the totals.
    uncounted : tuple of str
        Operations outside PyTorch's own that ran and whose MACs are not known.
    storage : Storage or None
        What every tensor takes in a file of ``format="sparse"``; ``None`` unless asked for.
    """

    macs: int
    params: int
    nonzero: int
    bytes: int
    latency_ms: float | None = None
    latency: Timing | None = field(default=None, repr=False)
    layers: dict[str, LayerProfile] = field(default_factory=dict, repr=False)
    uncounted: tuple[str, ...] = field(default=(), repr=False)
    storage: Storage | None = field(default=None, repr=False)

    @property
    def sparsity(self) -> float:
        """Fraction of the parameters that are zero, between 0 and 1."""
        return 1 - self.nonzero / self.params if self.params else 0.0

    @property
    def summary(self) -> str:
        """The totals in one line, and the latency in another where it was measured."""
        parts = [
            f"{_short(self.macs)} MACs",
            f"{_short(self.params)} parameters",
            _short(self.bytes, "B"),
        ]
        if self.nonzero < self.params:
            parts.append(f"{self.sparsity:.1%} zeros")
        if self.storage is not None:
            parts.append(f"{_short(self.storage.stored, 'B')} in a sparse file")
        timed = "" if self.latency is None else f"\n{self.latency}"
        return ", ".join(parts) + timed

    def table(self, limit: int | None = SHOWN_LAYERS) -> Table:
        """Lay out the layers as a rich table.

        Parameters
        ----------
        limit : int or None, default 40
            At most this many layers, the costliest, in the model's order; ``None`` shows all.
        """
        from rich.table import Table

        layers = list(self.layers.values())
        if limit is not None and len(layers) > limit:
            costly = sorted(layers, key=lambda layer: (-layer.macs, -layer.params))[:limit]
            kept = {layer.name for layer in costly}
            layers = [layer for layer in layers if layer.name in kept]
        hidden = len(self.layers) - len(layers)
        table = Table(
            caption=f"and {hidden} smaller layers" if hidden else None,
            caption_justify="left",
            show_footer=True,
        )
        table.add_column("layer", footer="total", overflow="fold")
        table.add_column("kind")
        table.add_column("MACs", footer=_short(self.macs), justify="right")
        table.add_column("share", footer="", justify="right")
        table.add_column("parameters", footer=_short(self.params), justify="right")
        for layer in layers:
            share = f"{layer.macs / self.macs:.1%}" if self.macs else ""
            table.add_row(
                layer.name or "(model)", layer.kind, _short(layer.macs), share, _short(layer.params)
            )
        return table

    def __rich__(self) -> Any:
        from rich.console import Group

        lines: list[Any] = [self.summary, self.table()]
        if self.storage is not None:
            lines.append(self.storage.table())
        if self.uncounted:
            lines.append(f"not counted: {', '.join(self.uncounted)}")
        return Group(*lines)

    def __str__(self) -> str:
        import io

        from rich.console import Console

        console = Console(
            file=io.StringIO(), width=100, color_system=None, highlight=False, markup=False
        )
        with console.capture() as capture:
            console.print(self)
        return capture.get().rstrip()


def profile(
    model: nn.Module,
    example_inputs: ExampleInputs,
    latency: bool = False,
    storage: bool = False,
    **timing: Any,
) -> Profile:
    """Measure what a model costs on its example inputs.

    The model runs once, in eval mode and without gradients, and is left in the mode it was in.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.
    example_inputs : Tensor, tuple or dict
        One tensor, a tuple of positional inputs or a dict of keyword inputs.
    latency : bool, default False
        Also time it, which takes up to 20 s.
    storage : bool, default False
        Also find the layout in which every tensor takes the fewest bytes; seconds for large models.
    **timing
        With ``latency=True``, options of `secateur.profiling.interleave`: ``warmup``, ``runs``,
        ``seconds``, ``threads``.

    Returns
    -------
    Profile

    Raises
    ------
    InputError
        Where the model rejects the inputs, or has parameters that are not initialised yet.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Flatten(),
    ...                       nn.Linear(8 * 36, 10))
    >>> cost = profile(model, torch.zeros(1, 3, 8, 8))
    >>> cost
    Profile(macs=10656, params=3106, nonzero=3106, bytes=12424, latency_ms=None)
    >>> cost.layers["0"]
    LayerProfile(name='0', kind='Conv2d', macs=7776, params=216)
    """
    if timing and not latency:
        raise InputError(f"{', '.join(sorted(timing))} only applies with latency=True")
    inputs = as_inputs(example_inputs).fresh()
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if nn.parameter.is_lazy(parameter):
            raise InputError(
                f"parameter {name!r} is not initialised yet; run the model once on real inputs"
            )
    with evaluating(model), _MacCounter(model) as counter:
        run(model, inputs)
    measured = compare({"model": model}, inputs, **timing)["model"] if latency else None
    cost = profile_state(
        model, counter.macs, latency=measured, uncounted=tuple(sorted(counter.uncounted))
    )
    return dataclasses.replace(cost, storage=storage_of(model)) if storage else cost


def profile_state(
    model: nn.Module,
    macs: dict[str, int],
    *,
    latency: Timing | None = None,
    uncounted: tuple[str, ...] = (),
    nonzero: dict[str, int] | None = None,
) -> Profile:
    """Complete MACs that were counted per module path with what the model holds.

    Parameters
    ----------
    nonzero : dict, optional
        Non-zero entries of parameters that were counted already.
    """
    known = nonzero or {}
    named = dict(model.named_parameters())
    parameters = list(named.values())
    tensors = [*parameters, *model.buffers()]
    return Profile(
        macs=sum(macs.values()),
        params=sum(parameter.numel() for parameter in parameters),
        nonzero=sum(known[n] if n in known else census(p)[0] for n, p in named.items()),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        latency_ms=None if latency is None else latency.median_ms,
        latency=latency,
        layers=_layers(model, macs),
        uncounted=uncounted,
    )


class _MacCounter(TorchDispatchMode):
    """Add up the MACs of the operations that run, at the innermost module running."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(module): name for name, module in reversed(list(_modules(model)))}
        self.running = [""]
        self.macs: dict[str, int] = {}
        self.uncounted: set[str] = set()
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> _MacCounter:
        before = hooks.register_module_forward_pre_hook(self._enter_module)
        self._hooks.callback(before.remove)
        after = hooks.register_module_forward_hook(self._leave_module, always_call=True)
        self._hooks.callback(after.remove)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.close()
        super().__exit__(*error)

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        self.running.append(self.names.get(id(module), self.running[-1]))

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        self.running.pop()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        schema = getattr(func, "_schema", None)
        if schema is None:
            self.uncounted.add(str(func))
            return func(*args, **kwargs)
        if schema.name not in COUNTED and func is not torch.ops.prim.device.default:
            # In inference mode composite operations arrive whole, with what counts inside them.
            with _reentered(self):
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        if schema.name.partition("::")[0] not in KNOWN_NAMESPACES:
            self.uncounted.add(schema.name)
        macs = node_macs(schema.name, _shapes(args), _shapes(output), args)
        if macs:
            layer = self.running[-1]
            self.macs[layer] = self.macs.get(layer, 0) + macs
        return output


@contextlib.contextmanager
def _reentered(mode: TorchDispatchMode) -> Iterator[None]:
    TorchDispatchMode.__enter__(mode)
    try:
        yield
    finally:
        TorchDispatchMode.__exit__(mode, None, None, None)


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return model.named_modules(remove_duplicate=False)


def _shapes(values: Any) -> list[tuple[int, ...] | None]:
    items = values if isinstance(values, (tuple, list)) else (values,)
    return [tuple(item.shape) if isinstance(item, Tensor) else None for item in items]


def _layers(model: nn.Module, macs: dict[str, int]) -> dict[str, LayerProfile]:
    layers: dict[str, LayerProfile] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen.update(id(parameter) for parameter in own)
        params = sum(parameter.numel() for parameter in own)
        if params or macs.get(name):
            layers[name] = LayerProfile(name, type(module).__name__, macs.get(name, 0), params)
    return layers


def _short(number: int, unit: str = "") -> str:
    """Write a number with three significant digits, its SI prefix and its unit.

    Examples
    --------
    >>> [_short(n) for n in (0, 999, 1000, 1820000000, 999_999)]
    ['0', '999', '1.00 k', '1.82 G', '1.00 M']
    >>> _short(12424, "B"), _short(5, "B")
    ('12.4 kB', '5 B')
    """
    value, prefixes = float(number), iter("kMGTP")
    prefix = ""
    while float(f"{value:.3g}") >= 1000 and prefix != "P":
        value, prefix = value / 1000, next(prefixes)
    if not prefix:
        return f"{number} {unit}".rstrip()
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {prefix}{unit}"
