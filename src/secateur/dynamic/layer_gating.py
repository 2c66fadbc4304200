"""Residual branches under gates: examples for which one is closed are left out of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.dynamic.gates import Gate
from secateur.dynamic.lanes import along
from secateur.dynamic.sites import LayerSite
from secateur.errors import InputError

__all__ = ["Branch"]


class Branch:
    """The hooks of one residual branch.

    In masked mode its result is multiplied by the gate. In skipping mode only the examples that
    the gate lets in go through the branch, however its code is written, and the others get zeros.

    Parameters
    ----------
    model : torch.nn.Module
    site : LayerSite
    gate : Gate
    """

    def __init__(self, model: nn.Module, site: LayerSite, gate: Gate) -> None:
        self.gate, self.site = gate, site
        self._rows: Tensor | None = None
        self._count, self._none = 0, False
        entries = [model.get_submodule(path) for path in site.entries]
        self._first = entries[0]
        entries[0].add_module("gate", gate)
        self._handles = [
            entry.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True)
            for entry in entries
        ]
        self._handles.append(model.get_submodule(site.exit).register_forward_hook(self._leave))

    def remove(self) -> None:
        """Take the hooks and the gate off."""
        for handle in self._handles:
            handle.remove()
        del self._first._modules["gate"]

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        found = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        if module is self._first:
            x = found[0]
            opened = self.gate(x).open
            self._rows, self._count = None, len(x)
            if self.gate.skips:
                inside = torch.nonzero(opened[:, 0] > 0)[:, 0]
                self._rows = None if len(inside) == len(x) else inside
                self._none = not len(inside)
                if self._none and not self.gate.narrow:
                    # Some code cannot run on an empty batch: one example goes along for nothing.
                    self._rows = torch.zeros(1, dtype=torch.int64, device=x.device)
        rows = self._rows
        if rows is None:
            return None
        chosen: Tensor = rows
        if any(len(each) != self._count for each in found):
            raise InputError(f"{self.site.name} is given something that is not by example")

        def part(value: Any) -> Any:
            return value[chosen] if isinstance(value, Tensor) else value

        return tuple(part(each) for each in args), {key: part(v) for key, v in kwargs.items()}

    def _leave(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if self._rows is not None:
            full = output.new_zeros(self._count, *output.shape[1:])
            return full if self._none else full.index_copy_(0, self._rows, output)
        if self.gate.skips:
            return output
        decision = self.gate.decision
        assert decision is not None
        return output * along(decision.open.to(output.dtype), output, 1)
