"""Leaving whole modules out of a model: taken out of their list, or replaced by an identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["Passed", "drop", "dropped_parameters", "listed"]


class Passed(nn.Module):
    """What stands where a module was left out: returns the first thing that it is given.

    Examples
    --------
    >>> Passed()(3, mask=None)
    3
    """

    def forward(self, first: Any, *others: Any, **options: Any) -> Any:
        return first


def listed(model: nn.Module, path: str) -> nn.ModuleList | nn.Sequential | None:
    """The list that a module is an entry of, in which others move up when it goes."""
    above, _, key = path.rpartition(".")
    parent = model.get_submodule(above)
    return parent if isinstance(parent, (nn.ModuleList, nn.Sequential)) and key else None


def drop(model: nn.Module, paths: Sequence[str]) -> None:
    """Leave modules out, in place.

    An entry of a list is taken out, and the numbers that entries hold of themselves (a layer's
    place in the key-value cache) follow. Anything else is replaced by `Passed`.

    Parameters
    ----------
    model : nn.Module
    paths : sequence of str

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Tanh())
    >>> drop(net, ["1"])
    >>> net
    Sequential(
      (0): Linear(in_features=2, out_features=2, bias=True)
      (1): Tanh()
    )
    """
    lists: dict[str, list[str]] = {}
    for path in paths:
        above, _, key = path.rpartition(".")
        if listed(model, path) is not None:
            lists.setdefault(above, []).append(key)
        else:
            model.get_submodule(above)._modules[key] = Passed()
    for above, keys in lists.items():
        _take_out(model.get_submodule(above), keys)


def _take_out(parent: nn.Module, keys: list[str]) -> None:
    table = parent._modules
    numbered = list(table) == [str(index) for index in range(len(table))]
    entries = list(table.items())
    places = _own_places([entry for _, entry in entries if entry is not None])
    stay = [(key, entry) for key, entry in entries if key not in keys]
    table.clear()
    for at, (key, entry) in enumerate(stay):
        table[str(at) if numbered else key] = entry
        for inner, attribute in places:
            if entry is not None:
                setattr(entry.get_submodule(inner), attribute, at)


def _own_places(entries: list[nn.Module]) -> list[tuple[str, str]]:
    """(path inside an entry, attribute) of every number that is the entry's place, in all."""
    if len(entries) < 2:
        return []
    common: set[tuple[str, str]] | None = None
    for at, entry in enumerate(entries):
        found = {
            (path, key)
            for path, module in entry.named_modules()
            for key, value in vars(module).items()
            if type(value) is int and value == at and not key.startswith("_")
        }
        common = found if common is None else common & found
    return sorted(common or ())


def dropped_parameters(model: nn.Module, paths: Sequence[str]) -> list[Tensor]:
    """Parameters that nothing holds any more once some modules are left out."""
    inside = [p for path in paths for p in model.get_submodule(path).parameters()]
    numbers = {id(p) for p in inside}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not any(name.startswith(f"{path}.") for path in paths):
            numbers.discard(id(parameter))
    return [p for p in {id(p): p for p in inside}.values() if id(p) in numbers]
