"""Deciding: from a traced model and settings to a plan that is known to run.

Deciding never changes the model. What trial runs find out (a size that the code fixes, two
sizes that it takes from one) goes back into the graph, and the decision is made anew.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor, nn

from secateur.choose import ByBudget, Chooser
from secateur.drop import WithinDrop
from secateur.errors import InputError, NothingToPruneError
from secateur.granularity import Granularity
from secateur.graph.constraints import Fix
from secateur.graph.graph import Graph
from secateur.graph.roles import roles
from secateur.graph.trace import Node, Trace, named_state
from secateur.inputs import Inputs
from secateur.plan import Plan, Rescale
from secateur.request import Request
from secateur.selection import Selection
from secateur.surgery.apply import cut, renumber
from secateur.surgery.attempt import Attempt, ScaleChange
from secateur.surgery.expected import ExpectedSizes
from secateur.surgery.fold import fold
from secateur.surgery.graph_form import GraphForm
from secateur.surgery.graph_sizes import record_graph, sizes_of_nodes
from secateur.surgery.obstacles import Amendments, amend
from secateur.surgery.sizes import sizes_of
from secateur.surgery.trial import attempt
from secateur.whole_heads import whole_heads

__all__ = ["Decision", "decide"]

ROUNDS = 60
CONVOLUTIONS = ("aten::convolution",)
PRODUCTS = ("aten::mm", "aten::addmm")
NORMS = ("aten::native_layer_norm", "aten::native_group_norm", "aten::native_batch_norm",
         "aten::_fused_rms_norm")  # fmt: skip
SIZED = {*CONVOLUTIONS, *PRODUCTS, *NORMS}


@dataclasses.dataclass
class Decision:
    """A plan, the graph that it was made on, and what the trial run saw."""

    plan: Plan
    graph: Graph
    selection: Selection
    skipped: list[tuple[str, str]]
    attempt: Attempt


def decide(
    model: nn.Module,
    inputs: Inputs,
    recorded: Trace,
    request: Request,
    known: Amendments | None = None,
    choose: Chooser | None = None,
) -> Decision:
    """Choose what goes, until the model's code is known to run with it.

    Parameters
    ----------
    known : Amendments, optional
        What is known about the model's code already; grows with what is found out.
    choose : callable, optional
        ``(graph, planner) -> Choice``; by scores and the request's budget if not given.

    Raises
    ------
    NothingToPruneError, BudgetError, CriterionError
    """
    known = Amendments() if known is None else known
    assert isinstance(request.granularity, Granularity)
    if "head" in request.granularity.roles and not known.split_choice:
        known.split_choice.update(whole_heads(model, recorded, request.ignore))
    if choose is None:
        by = WithinDrop if "accuracy_drop" in request.budget else ByBudget
        choose = by(model, inputs, request)
    for _ in range(ROUNDS):
        graph = Graph(
            model,
            recorded,
            split_choice=known.split_choice,
            extra=known.constraints,
            ignore=request.ignore,
            open_inputs=request.prune_inputs,
            open_outputs=request.prune_outputs,
        )
        _restrict(model, graph, request.granularity)
        planned = _Planner(model, inputs, graph, known, request)
        try:
            choice = choose(graph, planned)
            plan, tried = planned.tried(choice.selection.removed)
        except _Amended:
            continue
        plan.settings.update(choice.settings)
        return Decision(plan, graph, choice.selection, choice.skipped, tried)
    raise InputError("the model's code could not be followed; try form='graph'")


class _Amended(Exception):
    """More is known about the model's code now: the graph is another."""


@dataclasses.dataclass
class _Planner:
    """Turns classes that go into a plan that is known to run; what stands in the way is noted."""

    model: nn.Module
    inputs: Inputs
    graph: Graph
    known: Amendments
    request: Request

    def __call__(self, removed: np.ndarray) -> Plan:
        return self.tried(removed)[0]

    def tried(self, removed: np.ndarray) -> tuple[Plan, Attempt]:
        """The plan, and what its trial run saw.

        Raises
        ------
        _Amended
            When the code cannot follow, and the graph has to change for it.
        InputError
            When the code can follow no plan.
        """
        model, inputs, graph = self.model, self.inputs, self.graph
        sizes = ExpectedSizes(graph, removed)
        plan = draft(model, graph, removed, sizes)
        plan.settings = dict(self.request.settings)
        if isinstance(model, GraphForm):
            made = record_graph(model, inputs)
            plan.attributes.setdefault("", {}).update(sizes_of_nodes(model, graph, sizes, made))
            plan.settings["graph_form"] = model.fingerprint()
        tried = _try(model, inputs, graph, sizes, plan)
        if tried.obstacle is not None:
            if not amend(self.known, model, graph, sizes, tried.obstacle):
                raise InputError(
                    f"the code of {tried.obstacle.module or 'the model'} cannot follow any plan: "
                    f"{tried.obstacle.message}; try form='graph'"
                )
            raise _Amended
        for path, values in tried.attributes.items():
            plan.attributes.setdefault(path, {}).update(values)
        stubborn = _fold_scales(graph, plan, tried.scales)
        if stubborn:
            self.known.constraints.extend(stubborn)
            raise _Amended
        return plan, tried


def _restrict(model: nn.Module, graph: Graph, granularity: Granularity) -> None:
    """Leave only groups of the granularity's families and roles."""
    kept = graph.groups
    if granularity.kinds:
        from secateur.criteria.weights import kind_of, owner_of

        modules = dict(model.named_modules(remove_duplicate=False))
        owners = [owner_of(modules, group.name)[0] for group in graph.groups]
        pairs = zip(graph.groups, owners, strict=True)
        kept = [group for group, owner in pairs if kind_of(owner) in granularity.kinds]
    if granularity.roles:
        pairs_of_roles = zip(graph.groups, roles(graph), strict=True)
        kept = [group for group, role in pairs_of_roles if role in granularity.roles]
    if not kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in graph.protected[:3])
        raise NothingToPruneError(
            f"the model has nothing to prune at granularity {granularity.name!r}"
            + (f" (protected: {reasons})" if reasons else "")
        )
    graph.coupling.groups[:] = kept


def draft(model: nn.Module, graph: Graph, removed: np.ndarray, sizes: ExpectedSizes) -> Plan:
    """The plan that removes the marked classes."""
    plan = Plan()
    state = named_state(model)
    for member in graph.members:
        gone = np.flatnonzero(removed[member.classes])
        if len(gone):
            plan.removed.setdefault(member.name, {})[member.dim] = gone.tolist()
            plan.shapes[member.name] = list(state[member.name].shape)
    for name, lane in graph.propagation.renumbered:
        gone = np.flatnonzero(removed[graph.classes_of(lane)])
        if len(gone):
            plan.renumbered[name] = gone.tolist()
            plan.shapes[name] = list(state[name].shape)
    for side, changed in (("input", plan.inputs), ("output", plan.outputs)):
        for name, dim, classes in graph.boundary(side):
            gone = np.flatnonzero(removed[classes])
            if len(gone):
                changed.setdefault(name, {})[dim] = gone.tolist()
                plan.sizes.setdefault(name, {})[dim] = len(classes)
    plan.attributes = _known_sizes(model, graph, plan, sizes)
    return plan


def new_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Shape after the plan of every tensor that it cuts."""
    shapes = {}
    for name, dims in plan.removed.items():
        shape = list(plan.shapes[name])
        for dim, indices in dims.items():
            shape[dim] -= len(indices)
        shapes[name] = tuple(shape)
    return shapes


def _known_sizes(
    model: nn.Module, graph: Graph, plan: Plan, sizes: ExpectedSizes
) -> dict[str, dict[str, object]]:
    """Attributes of PyTorch's own modules after the plan."""
    names = {id(tensor): name for name, tensor in named_state(model).items()}
    shapes = new_shapes(plan)
    ran = _first_operations(graph)
    found = {}
    for path, module in model.named_modules():
        own: dict[str, tuple[int, ...]] = {}
        for prefix, part in (("", module), *((f"{n}.", m) for n, m in module.named_children())):
            for key, tensor in (*part._parameters.items(), *part._buffers.items()):
                if tensor is not None:
                    shape = shapes.get(names.get(id(tensor), ""), tuple(tensor.shape))
                    own[prefix + key] = shape
        convolves = isinstance(module, nn.modules.conv._ConvNd)
        given = graph.trace.module_inputs.get(path)
        if given:
            own["given"] = sizes.shape(given[0])
        others = NORMS if "weight" in own else (*PRODUCTS, *NORMS)
        for op in CONVOLUTIONS if convolves else others:
            node = ran.get((path, op))
            if node is not None:
                own[""], own["out"] = sizes.shape(node.inputs[0]), sizes.shape(node.outputs[0])
                if convolves:
                    own["weight"] = sizes.shape(node.inputs[1])
                elif op in PRODUCTS:
                    own["weight"] = sizes.shape(node.inputs[-1])[::-1]
                split = graph.propagation.splits.get(node.index)
                if op == "aten::native_group_norm" and split is not None and split.choice:
                    dense = graph.trace.values[node.inputs[0]].shape[1]
                    own["groups"] = (node.bound["group"] * own[""][1] // dense,)
        values = sizes_of(module, own)
        if values:
            found[path] = values
    return found


def _first_operations(graph: Graph) -> dict[tuple[str, str], Node]:
    """The first operation of each kind that each module ran."""
    first: dict[tuple[str, str], Node] = {}
    for node in (*graph.trace.nodes, *graph.trace.training_only):
        if node.op in SIZED:
            first.setdefault((node.module, node.op), node)
    return first


def _try(
    model: nn.Module, inputs: Inputs, graph: Graph, sizes: ExpectedSizes, plan: Plan
) -> Attempt:
    state = named_state(model)
    # Where values decide what the code does, it has to run on real ones.
    real = () if graph.trace.hollow else plan.removed
    values = {name: _smaller(state[name].data, plan, name) for name in (*plan.renumbered, *real)}
    inputs = plan.narrow_inputs(inputs)
    return attempt(model, inputs, graph, sizes, new_shapes(plan), plan.attributes, values)


def _smaller(data: Tensor, plan: Plan, name: str) -> Tensor:
    values = renumber(data, plan.renumbered[name]) if name in plan.renumbered else data
    return cut(values, plan.removed[name]) if name in plan.removed else values


def _fold_scales(graph: Graph, plan: Plan, scales: list[ScaleChange]) -> list[Fix]:
    """Fold every changed scale into weights; where that is impossible, fix the sizes."""
    stubborn: list[Fix] = []
    factors: dict[tuple[str, int, str], Rescale] = {}
    for change in scales:
        found = fold(graph, change.node, change.operand, change.factor)
        if found is None:
            reason = (
                f"the code of {change.node.module or 'the model'} scales by its size, and no "
                "weight before it can take the ratio"
            )
            places = _lanes_near(graph, change.operand)
            stubborn += [Fix(value, dim, reason) for value, dim in places]
            continue
        for entry in found:
            key = (entry.name, entry.dim, str(entry.indices))
            if key in factors:
                factors[key].factor *= entry.factor
            else:
                factors[key] = entry
    if not stubborn:
        plan.rescaled = list(factors.values())
        for entry in plan.rescaled:
            for value in graph.trace.values:
                if value.kind == "state" and value.name == entry.name:
                    plan.shapes.setdefault(entry.name, list(value.shape))
    return stubborn


def _lanes_near(graph: Graph, value: int) -> list[tuple[int, int]]:
    """Prunable dimensions of a value, or of what the operation that made it read."""
    makers = (node for node in graph.trace.nodes if value in node.outputs)
    maker = next(makers, None)
    for group in ([value], maker.inputs if maker is not None else []):
        found = [
            (index, dim)
            for index in group
            for dim, lane in enumerate(graph.propagation.layout(index))
            if lane is not None and lane.ids is not None
        ]
        if found:
            return found
    return []
