"""What can be computed along with a layer: the batch norm and the activation behind it.

Found by watching one pass: a result that exactly one module reads, in exactly one operation, is
that module's alone, whatever the code around them looks like.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from secateur.inputs import Inputs, in_eval_mode, run
from secateur.sparse.activations import name_of

__all__ = ["Fusion", "Watched", "fold", "watch"]


@dataclasses.dataclass(frozen=True)
class Fusion:
    """What follows a layer and nothing else reads.

    Attributes
    ----------
    norm, activation : str or None
        Names of modules.
    """

    norm: str | None = None
    activation: str | None = None


@dataclasses.dataclass(frozen=True)
class Watched:
    """One pass of a model.

    Attributes
    ----------
    output : object
    calls : dict of str to Counter
        Layer -> sizes of its inputs, and how often.
    fusions : dict of str to Fusion
    """

    output: Any
    calls: dict[str, Counter[tuple[int, ...]]]
    fusions: dict[str, Fusion]


class _Reads(TorchDispatchMode):
    """Counts the operations that read the results of modules."""

    def __init__(self) -> None:
        super().__init__()
        # The results are kept, so that no other tensor can take their place in memory meanwhile.
        self.results: dict[int, Tensor] = {}
        self.counts: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for leaf in {id(leaf) for leaf in tree_leaves((args, kwargs))}:
            if leaf in self.results:
                self.counts[leaf] += 1
        return func(*args, **kwargs)


def watch(model: nn.Module, layers: dict[str, nn.Module], inputs: Inputs) -> Watched:
    """Run a model once, and see how its layers are called and what follows them."""
    calls: dict[str, Counter[tuple[int, ...]]] = {name: Counter() for name in layers}
    runs: Counter[str] = Counter()
    made: dict[int, str] = {}
    readers: dict[int, list[str]] = {}
    reads = _Reads()

    alone: dict[str, str] = {}

    def settle(key: int) -> None:
        following = readers.pop(key, [])
        if reads.counts.pop(key, 0) == 1 and len(following) == 1 and key in made:
            alone[made[key]] = following[0]

    def before(name: str) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...]) -> None:
            runs[name] += 1
            if args and isinstance(args[0], Tensor):
                readers.setdefault(id(args[0]), []).append(name)
                if name in calls:
                    calls[name][tuple(args[0].shape)] += 1

        return note

    def after(name: str) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                # Where it worked in place, what is read from here on is its own result.
                settle(id(output))
                made[id(output)] = name
                reads.results[id(output)] = output

        return note

    followed = {
        name: module
        for name, module in model.named_modules()
        if name in layers or type(module) is nn.BatchNorm2d or name_of(module)
    }
    handles = [module.register_forward_pre_hook(before(name)) for name, module in followed.items()]
    handles += [module.register_forward_hook(after(name)) for name, module in followed.items()]
    try:
        with in_eval_mode(model), reads:
            output = run(model, inputs.fresh())
    finally:
        for handle in handles:
            handle.remove()
    for leaf in tree_leaves(output):
        reads.counts[id(leaf)] += 1
    for key in made:
        settle(key)
    return Watched(output, calls, _fusions(model, layers, alone, runs))


def _fusions(
    model: nn.Module, layers: dict[str, nn.Module], alone: dict[str, str], runs: Counter[str]
) -> dict[str, Fusion]:
    found = {}
    for name, layer in layers.items():
        if runs[name] != 1 or _hooked(layer):
            continue
        last, norm = name, None
        following = alone.get(last)
        if following and _foldable(layer, model.get_submodule(following), runs[following]):
            last = norm = following
            following = alone.get(last)
        activation = None
        if following and runs[following] == 1:
            module = model.get_submodule(following)
            activation = following if name_of(module) and not _hooked(module) else None
        if norm or activation:
            found[name] = Fusion(norm, activation)
    return found


def _foldable(layer: nn.Module, norm: nn.Module, runs: int) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and type(norm) is nn.BatchNorm2d
        and runs == 1
        and norm.running_mean is not None
        and layer.weight.dtype == norm.running_mean.dtype
        and not _hooked(norm)
    )


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def fold(model: nn.Module, fusions: dict[str, Fusion]) -> None:
    """Put batch norms into the weights of the convolutions before them; the model is changed."""
    for name, fusion in fusions.items():
        if fusion.norm is None:
            continue
        layer: Any = model.get_submodule(name)
        norm: Any = model.get_submodule(fusion.norm)
        folded = fuse_conv_bn_eval(layer, norm)
        layer.weight, layer.bias = folded.weight, folded.bias
        replace(model, fusion.norm)


def replace(model: nn.Module, name: str) -> None:
    """Put an identity in the place of a module."""
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent)._modules[child] = nn.Identity()
