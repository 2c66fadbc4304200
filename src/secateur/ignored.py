"""What ``ignore=`` names: module names, patterns, or modules."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch import nn

from secateur.errors import UnknownNameError, suggestion
from secateur.graph.trace import named_state

__all__ = ["ignored_tensors"]


def ignored_tensors(model: nn.Module, ignore: Sequence[str | nn.Module]) -> dict[str, str]:
    """Names of the tensors of ignored modules, each with its reason.

    Parameters
    ----------
    ignore : sequence of str or Module
        Module names, fnmatch patterns or modules.

    Raises
    ------
    UnknownNameError
        For an entry that matches nothing.

    Examples
    --------
    >>> ignored_tensors(nn.Sequential(nn.Linear(2, 2, bias=False)), ["0"])
    {'0.weight': "ignored by ignore='0'"}
    """
    if isinstance(ignore, (str, nn.Module)):
        ignore = [ignore]
    modules = dict(model.named_modules())
    paths = {id(module): path for path, module in modules.items()}
    names = {id(tensor): name for name, tensor in named_state(model).items()}
    chosen: dict[str, str] = {}
    for entry in ignore:
        if isinstance(entry, nn.Module):
            if id(entry) not in paths:
                raise UnknownNameError(
                    f"ignore names a {type(entry).__name__} that is not part of the model"
                )
            matched = [paths[id(entry)]]
        else:
            matched = [path for path in modules if path and fnmatch.fnmatch(path, entry)]
            if not matched:
                raise UnknownNameError(
                    f"ignore={entry!r} matches no module{suggestion(entry, filter(None, modules))}"
                )
        for path in matched:
            for tensor in (*modules[path].parameters(), *modules[path].buffers()):
                chosen[names[id(tensor)]] = f"ignored by ignore={path!r}"
    return chosen
