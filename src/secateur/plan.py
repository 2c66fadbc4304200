"""The plan: what goes, from which tensor, at which index. Everything produces or consumes one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import PlanError

__all__ = ["Plan", "Rescale", "history"]

FORMAT = 1


@dataclasses.dataclass
class Rescale:
    """Rows of a weight multiplied by a factor, so that the code's new scale gives the old result.

    Attributes
    ----------
    name : str
        Parameter name.
    dim : int
    indices : list of int or None
        Dense indices along ``dim``; None for the whole parameter.
    factor : float
    """

    name: str
    dim: int
    indices: list[int] | None
    factor: float


@dataclasses.dataclass
class Plan:
    """A decision: serialisable, comparable, and replayable on a fresh model.

    Attributes
    ----------
    removed : dict
        Parameter or buffer name -> dimension -> sorted dense indices that are removed.
    masks : dict
        Parameter name -> boolean mask, True where kept (sparse granularities).
    renumbered : dict
        Index buffer name -> sorted removed positions of the dimension that it indexes; its
        values are lowered by the number of removed positions before them.
    rescaled : list of Rescale
    attributes : dict
        Module path -> attribute name -> new value, for sizes that the module's code holds.
    shapes : dict
        Name -> dense shape of every tensor that the plan touches: whom it is for.
    settings : dict
        How it was decided, as JSON values.

    Examples
    --------
    >>> plan = Plan(removed={"0.weight": {0: [1]}}, shapes={"0.weight": [2, 3]})
    >>> layer = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False))
    >>> plan.apply(layer)
    >>> layer[0].weight.shape
    torch.Size([1, 3])
    >>> Plan.from_json(plan.to_json()) == plan
    True
    """

    removed: dict[str, dict[int, list[int]]] = dataclasses.field(default_factory=dict)
    masks: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    renumbered: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    rescaled: list[Rescale] = dataclasses.field(default_factory=list)
    attributes: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    shapes: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        """The plan as one line of JSON; indices as they are, masks as indices of zeros."""
        zeros = {
            name: {"shape": list(mask.shape), "zeros": (~mask.flatten()).nonzero()[:, 0].tolist()}
            for name, mask in self.masks.items()
        }
        return json.dumps(
            {
                "format": FORMAT,
                "removed": {
                    name: {str(dim): indices for dim, indices in dims.items()}
                    for name, dims in self.removed.items()
                },
                "masks": zeros,
                "renumbered": self.renumbered,
                "rescaled": [dataclasses.asdict(entry) for entry in self.rescaled],
                "attributes": {
                    path: {key: _plain(value) for key, value in values.items()}
                    for path, values in self.attributes.items()
                },
                "shapes": self.shapes,
                "settings": self.settings,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan back.

        Raises
        ------
        PlanError
            When the text is not a plan of this format.
        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise PlanError(
                    f"the plan has format {data['format']!r}, this version reads {FORMAT}"
                )
            return cls(
                removed={
                    str(name): {int(dim): _indices(indices) for dim, indices in dims.items()}
                    for name, dims in data["removed"].items()
                },
                masks={name: _mask(entry) for name, entry in data["masks"].items()},
                renumbered={name: _indices(at) for name, at in data["renumbered"].items()},
                rescaled=[Rescale(**entry) for entry in data["rescaled"]],
                attributes={
                    path: {key: _unplain(value) for key, value in values.items()}
                    for path, values in data["attributes"].items()
                },
                shapes={name: [int(n) for n in shape] for name, shape in data["shapes"].items()},
                settings=dict(data["settings"]),
            )
        except PlanError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PlanError(f"this is not a plan: {error}") from error

    def apply(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        ema: nn.Module | None = None,
    ) -> None:
        """Remove what the plan says, in place.

        Parameters
        ----------
        model : torch.nn.Module
            A model of the architecture that the plan was made for.
        optimizer : torch.optim.Optimizer, optional
            Its state follows: momentum and the like lose the same indices.
        ema : torch.nn.Module, optional
            A copy of the model that averages its weights; it is cut alike.

        Raises
        ------
        PlanError
            When the model is not the one that the plan is for; nothing was changed.
        """
        from secateur.surgery.apply import apply_plan

        apply_plan(self, model, optimizer, ema)

    def diff(self, other: Plan) -> list[str]:
        """What the other plan removes and this one keeps, and the reverse; a line a difference.

        Examples
        --------
        >>> Plan(removed={"w": {0: [1, 2]}}).diff(Plan(removed={"w": {0: [2, 5]}}))
        ['w dim 0: only here [1]; only there [5]']
        """
        lines = []
        for name in sorted({*self.removed, *other.removed}):
            mine, theirs = self.removed.get(name, {}), other.removed.get(name, {})
            for dim in sorted({*mine, *theirs}):
                here, there = set(mine.get(dim, [])), set(theirs.get(dim, []))
                if here != there:
                    lines.append(
                        f"{name} dim {dim}: only here {sorted(here - there)}; "
                        f"only there {sorted(there - here)}"
                    )
        for name in sorted({*self.masks, *other.masks}):
            a, b = self.masks.get(name), other.masks.get(name)
            if a is None or b is None or a.shape != b.shape or not torch.equal(a, b):
                lines.append(f"{name}: masks differ")
        for what in ("renumbered", "rescaled", "attributes"):
            if getattr(self, what) != getattr(other, what):
                lines.append(f"{what} differ")
        return lines

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        return not self.diff(other) and self.shapes == other.shapes

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        tensors = len(self.removed) + len(self.masks)
        return f"Plan({tensors} tensors, {self.settings})"


def history(model: nn.Module) -> list[Plan]:
    """The plans applied to this model so far, oldest first; they survive deepcopy."""
    return list(model.__dict__.get("_secateur_history", ()))


def remember(model: nn.Module, plan: Plan) -> None:
    """Append to the model's history, leaving copies of the model their own."""
    model.__dict__["_secateur_history"] = (*history(model), plan)


def _indices(values: Iterable[Any]) -> list[int]:
    return [int(value) for value in values]


def _mask(entry: dict[str, Any]) -> Tensor:
    mask = torch.ones(entry["shape"], dtype=torch.bool)
    mask.view(-1)[torch.tensor(entry["zeros"], dtype=torch.long)] = False
    return mask


def _plain(value: Any) -> Any:
    return {"tuple": list(value)} if isinstance(value, tuple) else value


def _unplain(value: Any) -> Any:
    return tuple(value["tuple"]) if isinstance(value, dict) and "tuple" in value else value
