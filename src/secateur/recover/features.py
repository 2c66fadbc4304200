"""Features of a student and a teacher, layer by layer: caught, paired and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.inputs import Inputs, named_tensors
from secateur.recover.kept import Removed, kept_features

__all__ = ["Features"]

# A map that starts from nothing needs a larger rate than weights that are fine-tuned.
PROJECTION_RATE = 1e-3


class Features:
    """What named modules of two models put out, and how far the two are apart.

    Parameters
    ----------
    student, teacher : torch.nn.Module
    pairs : mapping
        Module of the student -> module of the teacher.
    removed : mapping or None
        What the student lacks of the teacher; None where nobody knows.

    Raises
    ------
    UnknownNameError
        For a module that is not there.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        pairs: Mapping[str, str],
        removed: Removed | None,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.pairs, self.removed = dict(pairs), removed
        for model, names, whose in (
            (student, self.pairs.keys(), "model"),
            (teacher, self.pairs.values(), "teacher"),
        ):
            known = dict(model.named_modules())
            for name in names:
                if name not in known:
                    near = suggestion(name, filter(None, known))
                    raise UnknownNameError(f"the {whose} has no module {name!r}{near}")
        self._seen: dict[str, list[Tensor]] = {}
        self._wanted: dict[str, list[Tensor]] = {}
        self._kept: dict[str, dict[int, list[int]]] | None = None
        self.projections = nn.ModuleDict()
        self.optimizer: torch.optim.Optimizer | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch what the modules put out in the forward passes inside, until the end of it."""
        handles = []
        for ours, theirs in self.pairs.items():
            for model, name, into in (
                (self.student, ours, self._seen),
                (self.teacher, theirs, self._wanted),
            ):
                handles.append(model.get_submodule(name).register_forward_hook(_into(into, name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._seen.clear()
            self._wanted.clear()

    def distance(self, inputs: Inputs) -> Tensor:
        """Mean over the pairs of ``‖f_s − f_t‖² / ‖f_t‖²``, of what was caught.

        Parameters
        ----------
        inputs : Inputs
            The batch, by which the kept channels are found when they are first needed.

        Raises
        ------
        InputError
            When features differ in more than the number of channels.
        """
        parts = []
        # Copies: finding out what was kept runs the teacher again.
        caught = {name: list(self._seen.get(name, ())) for name in self.pairs}
        caught_there = {name: list(self._wanted.get(name, ())) for name in self.pairs.values()}
        for ours, theirs in self.pairs.items():
            seen, wanted = caught[ours], caught_there[theirs]
            if not seen or len(seen) != len(wanted):
                raise InputError(
                    f"module {ours!r} ran {len(seen)} times with a tensor to compare, and the "
                    f"teacher's {theirs!r} {len(wanted)} times; name modules that run alike"
                )
            for one, other in zip(seen, wanted, strict=True):
                parts.append(self._missed(ours, one, other.to(one.device), inputs))
        return torch.stack(parts).mean()

    def step(self) -> None:
        """Let the maps that are learned follow the gradients of one step, and drop those."""
        if not self.projections:
            return
        if self.optimizer is None:
            self._optimize()
        assert self.optimizer is not None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint holds of the maps that are learned; `load` takes it back."""
        if self.optimizer is None:
            return None
        return {
            "sizes": {
                key: (layer.in_features, layer.out_features)
                for key, layer in self.projections.items()
            },
            "weights": self.projections.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        device = next(self.student.parameters()).device
        for key, (inputs, outputs) in state["sizes"].items():
            self.projections[key] = nn.Linear(inputs, outputs, device=device)
        self.projections.load_state_dict(state["weights"])
        self._optimize()
        assert self.optimizer is not None
        self.optimizer.load_state_dict(state["optimizer"])

    def _optimize(self) -> None:
        self.optimizer = torch.optim.Adam(self.projections.parameters(), lr=PROJECTION_RATE)

    def _missed(self, name: str, seen: Tensor, wanted: Tensor, inputs: Inputs) -> Tensor:
        differing = [
            dim
            for dim, sizes in enumerate(zip(seen.shape, wanted.shape, strict=False))
            if sizes[0] != sizes[1]
        ]
        if seen.ndim != wanted.ndim or len(differing) > 1 or 0 in differing:
            raise InputError(
                f"the features of {name!r} are {list(seen.shape)} and the teacher's are "
                f"{list(wanted.shape)}; only the number of channels may differ"
            )
        seen, wanted = seen.float(), wanted.float()
        if differing:
            dim = differing[0]
            kept = self._kept_at(name, dim, inputs)
            if kept is not None and len(kept) == seen.shape[dim]:
                wanted = wanted.index_select(dim, torch.tensor(kept, device=wanted.device))
            else:
                seen = self._projected(name, seen, dim, wanted.shape[dim])
        energy = wanted.square().mean()
        return (seen - wanted).square().mean() / energy.clamp_min(torch.finfo(energy.dtype).tiny)

    def _kept_at(self, name: str, dim: int, inputs: Inputs) -> list[int] | None:
        if self.removed is None:
            return None
        if self._kept is None:
            self._kept = kept_features(
                self.teacher, inputs, self.removed, dict.fromkeys(self.pairs.values())
            )
        return self._kept.get(self.pairs[name], {}).get(dim)

    def _projected(self, name: str, seen: Tensor, dim: int, size: int) -> Tensor:
        # Names of submodules hold dots, which names in a ModuleDict must not.
        key = name.replace(".", "/")
        if key not in self.projections:
            layer = nn.Linear(seen.shape[dim], size, device=seen.device)
            self.projections[key] = layer
        with torch.autocast(seen.device.type, enabled=False):
            return self.projections[key](seen.movedim(dim, -1)).movedim(-1, dim)


def _into(caught: dict[str, list[Tensor]], name: str) -> Callable[..., None]:
    def catch(module: nn.Module, args: object, output: object) -> None:
        for _, tensor in named_tensors(output):
            caught.setdefault(name, []).append(tensor)
            break

    return catch
