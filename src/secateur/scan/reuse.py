"""Copies judged from where they differ: what comes before is computed once, for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.candidates import measured
from secateur.graph.trace import Node, Ref
from secateur.inputs import Inputs, evaluating, named_tensors
from secateur.observing import seeded
from secateur.observing.batches import read_batch
from secateur.plan import Plan
from secateur.recover.batches import device_of, forward
from secateur.scan.evaluation import Evaluation
from secateur.scan.recipe import Recipe, prepare, tensors_in

__all__ = ["FromTheMiddle"]

State = dict[int, Tensor]


class FromTheMiddle:
    """Judges by an `Evaluation`, each batch from the first operation that a plan changes.

    The dense model computes what comes before, once for all plans that start at the same
    operation, and goes on from there to the next: a scan in the order of the layers runs it once
    from end to end. A copy then runs its own code from the start, but the operations before are
    left out: those whose results are needed later hand over the dense ones, the others stand-ins
    that nobody reads. Where that cannot be exact, the copy runs as a whole.

    Parameters
    ----------
    model : nn.Module
        Dense, in eval mode, and nobody else's.
    evaluation : Evaluation
    seed : int
    """

    def __init__(self, model: nn.Module, evaluation: Evaluation, seed: int) -> None:
        self._model, self._evaluation, self._seed = model, evaluation, seed
        device = device_of(model)
        self._batches = [(batch, device) for batch in evaluation.batches]
        self._recipes: dict[tuple[Any, ...], Recipe | None] = {}
        self._states: list[tuple[int, State]] = [(0, {}) for _ in self._batches]

    def __call__(self, candidate: nn.Module, plan: Plan) -> float:
        """How good the copy is: what the evaluation says, bit for bit."""

        def evaluate(model: nn.Module) -> float:
            starts: dict[int, int] = {}
            with evaluating(model):
                return self._evaluation.over(self._outputs(model, plan, starts))

        return measured(evaluate, candidate, self._seed)

    def _outputs(
        self, candidate: nn.Module, plan: Plan, starts: dict[int, int]
    ) -> Iterator[tuple[Any, Any]]:
        for at, (batch, device) in enumerate(self._batches):
            inputs, targets = read_batch(batch, device)
            recipe = self._recipe(inputs)
            if recipe is not None and id(recipe) not in starts:
                starts[id(recipe)] = recipe.first_touched(plan)
            start = 0 if recipe is None else starts[id(recipe)]
            yield self._output(candidate, recipe, start, at, inputs), targets

    def _output(
        self, candidate: nn.Module, recipe: Recipe | None, start: int, at: int, inputs: Inputs
    ) -> Any:
        if recipe is None or start == 0 or not self._advance(recipe, at, inputs, start):
            return forward(candidate, inputs)
        try:
            with _Skipping(recipe, start, self._states[at][1]):
                return forward(candidate, inputs)
        except _Differs:
            return forward(candidate, inputs)

    def _advance(self, recipe: Recipe, at: int, inputs: Inputs, start: int) -> bool:
        """Bring the state of a batch to an operation; whether that is possible."""
        here, state = self._states[at]
        if here == start:
            return True
        if start < here:
            here, state = 0, {}
        # Random numbers are for the copies.
        with seeded(self._seed):
            reached = _reach(self._model, recipe, inputs, here, state, start)
        if reached is None:
            return False
        self._states[at] = (start, reached)
        return True

    def _recipe(self, inputs: Inputs) -> Recipe | None:
        """What a pass on inputs of this shape runs; None where starts in the middle go wrong."""
        key = tuple((name, tuple(x.shape), x.dtype) for name, x in inputs.tensors())
        if key not in self._recipes:
            with seeded(self._seed):
                recipe = prepare(self._model, inputs)
                self._recipes[key] = recipe if _holds(self._model, recipe, inputs) else None
        return self._recipes[key]


def _holds(model: nn.Module, recipe: Recipe, inputs: Inputs) -> bool:
    """Whether the dense model gives the same from its last possible start as from the first.

    Code that looks at numbers behind PyTorch's back would meet a stand-in here: whatever is one
    at an earlier start is one at this too.
    """
    start = recipe.deepest()
    if start == 0:
        return True
    state = _reach(model, recipe, inputs, 0, {}, start)
    if state is None:
        return True
    with evaluating(model):
        whole = forward(model, inputs)
        try:
            with _Skipping(recipe, start, state):
                part = forward(model, inputs)
        except (_Differs, Exception):
            return False
    pairs = zip(named_tensors(whole), named_tensors(part), strict=True)
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for (_, a), (_, b) in pairs)


def _reach(
    model: nn.Module, recipe: Recipe, inputs: Inputs, here: int, state: State, start: int
) -> State | None:
    """Run the dense model from one operation up to another; the results that are needed then."""
    live = recipe.live(start)
    if live is None:
        return None
    skipping = _Skipping(recipe, here, state, until=start, wanted=live)
    with evaluating(model):
        try:
            with skipping:
                forward(model, inputs)
        except _Reached:
            return skipping.found if skipping.found.keys() == live else None
        except _Differs:
            return None
    return None


class _Reached(BaseException):
    """The operation to stop before; no error, so that no code takes it for one."""


class _Differs(BaseException):
    """The code runs other operations than it did."""


class _Skipping(TorchDispatchMode):
    """Leaves out the operations before a start, and stops before another on request."""

    def __init__(
        self,
        recipe: Recipe,
        start: int,
        state: State,
        until: int | None = None,
        wanted: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__()
        self._recipe, self._start, self._state, self._until = recipe, start, state, until
        self._wanted = wanted
        self._next = 0
        self.found: State = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        at, self._next = self._next, self._next + 1
        if at >= self._start and self._until is None:
            return func(*args, **kwargs)
        if at == self._until:
            raise _Reached
        node = self._recipe.nodes[at]
        if func is not node.func or not _same(node.args, args) or not _same(node.kwargs, kwargs):
            raise _Differs
        if at < self._start:
            result = self._handed_over(node, args, kwargs)
        else:
            result = func(*args, **kwargs)
        for index, tensor in zip(node.outputs, tensors_in(result), strict=True):
            if index in self._wanted:
                self.found[index] = tensor
        return result

    def _handed_over(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = dict(zip(node.inputs, (*tensors_in(args), *tensors_in(kwargs)), strict=True))
        made = []
        for index in node.outputs:
            if index in given:
                made.append(given[index])
            elif index in self._state:
                # What follows may write into it.
                made.append(self._state[index].clone())
            else:
                made.append(self._recipe.layouts[index].standin())
        returns = node.func._schema.returns
        if len(returns) == 1:
            listed = str(returns[0].type).startswith("List")
            return made if listed else made[0]
        return tuple(made)


def _same(recorded: Any, actual: Any) -> bool:
    """Whether arguments are those that were recorded, apart from what tensors hold."""
    if isinstance(recorded, Ref):
        return isinstance(actual, Tensor)
    if isinstance(recorded, dict):
        return recorded.keys() == actual.keys() and all(
            _same(value, actual[key]) for key, value in recorded.items()
        )
    if isinstance(recorded, (list, tuple)):
        return len(recorded) == len(actual) and all(map(_same, recorded, actual))
    return bool(recorded == actual)
