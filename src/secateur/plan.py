"""The plan: what goes, from which tensor, at which index. Everything produces or consumes one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.bits import pack, unpack
from secateur.errors import InputError, PlanError
from secateur.inputs import ExampleInputs, Inputs, as_inputs, replace_tensors

__all__ = ["Plan", "Rescale", "forget_masks", "history", "remember", "rewrite"]

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
    dropped : list of str
        Paths of modules that are left out whole, what they are given going on in their place.
        They go last: everything else bears the names of the dense model.
    biased : list of str
        Paths of modules without a bias that are given one, of zeros.
    config : dict
        Dotted names of entries of the configuration that the model carries -> new values.
    inputs, outputs : dict
        Name of an input (``args.0``, ``kwargs.x``) or output (``output``, ``output.logits``)
        -> dimension -> sorted dense indices that it loses; empty unless that was asked for.
    sizes : dict
        Name of an input or output -> dimension -> its dense size.
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
    dropped: list[str] = dataclasses.field(default_factory=list)
    biased: list[str] = dataclasses.field(default_factory=list)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    inputs: dict[str, dict[int, list[int]]] = dataclasses.field(default_factory=dict)
    outputs: dict[str, dict[int, list[int]]] = dataclasses.field(default_factory=dict)
    sizes: dict[str, dict[int, int]] = dataclasses.field(default_factory=dict)
    shapes: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        """The plan as one line of JSON; indices as they are, masks compressed."""
        masks = {
            name: {"shape": list(mask.shape), "bits": pack(mask)}
            for name, mask in self.masks.items()
        }
        return json.dumps(
            {
                "format": FORMAT,
                "removed": _dims_to_json(self.removed),
                "inputs": _dims_to_json(self.inputs),
                "outputs": _dims_to_json(self.outputs),
                "sizes": {
                    name: {str(dim): size for dim, size in dims.items()}
                    for name, dims in self.sizes.items()
                },
                "masks": masks,
                "renumbered": self.renumbered,
                "rescaled": [dataclasses.asdict(entry) for entry in self.rescaled],
                "attributes": {
                    path: {key: _plain(value) for key, value in values.items()}
                    for path, values in self.attributes.items()
                },
                "dropped": self.dropped,
                "biased": self.biased,
                "config": {key: _plain(value) for key, value in self.config.items()},
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
                removed=_dims_from_json(data["removed"]),
                inputs=_dims_from_json(data["inputs"]),
                outputs=_dims_from_json(data["outputs"]),
                sizes={
                    str(name): {int(dim): int(size) for dim, size in dims.items()}
                    for name, dims in data["sizes"].items()
                },
                masks={
                    name: unpack(entry["bits"], _indices(entry["shape"]))
                    for name, entry in data["masks"].items()
                },
                renumbered={name: _indices(at) for name, at in data["renumbered"].items()},
                rescaled=[Rescale(**entry) for entry in data["rescaled"]],
                attributes={
                    path: {key: _unplain(value) for key, value in values.items()}
                    for path, values in data["attributes"].items()
                },
                # Plans of before have none of these.
                dropped=[str(path) for path in data.get("dropped", ())],
                biased=[str(path) for path in data.get("biased", ())],
                config={key: _unplain(value) for key, value in data.get("config", {}).items()},
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

    def narrow_inputs(self, example_inputs: ExampleInputs) -> Inputs:
        """Inputs of the dense model, without what the smaller model no longer takes.

        Raises
        ------
        InputError
            When an input is not as wide as the dense model takes it.

        Examples
        --------
        >>> plan = Plan(inputs={"args.0": {1: [0]}}, sizes={"args.0": {1: 2}})
        >>> plan.narrow_inputs(torch.tensor([[1.0, 2.0]])).args
        (tensor([[2.]]),)
        """
        inputs = as_inputs(example_inputs)
        return inputs.replaced(self._narrowing(self.inputs)) if self.inputs else inputs

    def narrow_outputs(self, output: Any) -> Any:
        """What the dense model returned, without what the smaller model no longer makes.

        Raises
        ------
        InputError
            When an output is not as wide as the dense model makes it.

        Examples
        --------
        >>> plan = Plan(outputs={"output": {1: [0]}}, sizes={"output": {1: 2}})
        >>> plan.narrow_outputs(torch.tensor([[1.0, 2.0]]))
        tensor([[2.]])
        """
        if not self.outputs:
            return output
        return replace_tensors(output, self._narrowing(self.outputs), "output")

    def _narrowing(
        self, removed: dict[str, dict[int, list[int]]]
    ) -> Callable[[str, Tensor], Tensor]:
        def narrow(name: str, tensor: Tensor) -> Tensor:
            for dim, indices in removed.get(name, {}).items():
                dense = self.sizes[name][dim]
                found = tensor.shape[dim] if dim < tensor.dim() else None
                if found != dense:
                    raise InputError(
                        f"{name} has size {found} along dimension {dim}, and the dense model's "
                        f"has {dense}; only what fits the dense model can be narrowed"
                    )
                stay = sorted(set(range(dense)) - set(indices))
                tensor = tensor.index_select(dim, torch.tensor(stay, device=tensor.device))
            return tensor

        return narrow

    def diff(self, other: Plan) -> list[str]:
        """What the other plan removes and this one keeps, and the reverse; a line a difference.

        Examples
        --------
        >>> Plan(removed={"w": {0: [1, 2]}}).diff(Plan(removed={"w": {0: [2, 5]}}))
        ['w dim 0: only here [1]; only there [5]']
        """
        lines = []
        ours = {**self.removed, **self.inputs, **self.outputs}
        others = {**other.removed, **other.inputs, **other.outputs}
        for name in sorted({*ours, *others}):
            mine, theirs = ours.get(name, {}), others.get(name, {})
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
        for what in ("renumbered", "rescaled", "attributes", "dropped", "biased", "config"):
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
    rewrite(model, (*history(model), plan))


def forget_masks(model: nn.Module, *, undone: bool) -> None:
    """Take masks out of the model's history: nothing that replays it is to mask anything.

    Parameters
    ----------
    model : torch.nn.Module
    undone : bool
        Whether the masks were taken off, so that plans of nothing else go altogether; where they
        were made final the plans stay, with how they were decided.
    """
    plans = [
        dataclasses.replace(plan, masks={}) if plan.masks else plan
        for plan in history(model)
        if not (undone and plan.masks and not plan.removed and not plan.attributes)
    ]
    if "_secateur_history" in model.__dict__:
        rewrite(model, plans)


def rewrite(model: nn.Module, plans: Iterable[Plan]) -> None:
    """Give the model another history."""
    model.__dict__["_secateur_history"] = tuple(plans)


def _indices(values: Iterable[Any]) -> list[int]:
    return [int(value) for value in values]


def _dims_to_json(removed: dict[str, dict[int, list[int]]]) -> dict[str, dict[str, list[int]]]:
    return {name: {str(dim): at for dim, at in dims.items()} for name, dims in removed.items()}


def _dims_from_json(data: Any) -> dict[str, dict[int, list[int]]]:
    return {
        str(name): {int(dim): _indices(at) for dim, at in dims.items()}
        for name, dims in data.items()
    }


def _plain(value: Any) -> Any:
    return {"tuple": list(value)} if isinstance(value, tuple) else value


def _unplain(value: Any) -> Any:
    return tuple(value["tuple"]) if isinstance(value, dict) and "tuple" in value else value
