"""Watch a model run, and see which weight multiplies what: what went in, and what came out.

The operations that run are watched, not the modules, so a weight that a model uses in code of its
own, computes from others or transposes first is found like any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from secateur.graph.trace import Node, Recorder, Ref
from secateur.inputs import Inputs

__all__ = ["Product", "Watcher"]

# Operation -> the arguments that are its two factors.
FACTORS = {
    "aten::convolution": ("input", "weight"),
    "aten::mm": ("self", "mat2"),
    "aten::addmm": ("mat1", "mat2"),
    # A product with a weight that is expanded along the batch.
    "aten::bmm": ("self", "mat2"),
    "aten::embedding": ("indices", "weight"),
}
TURNING = {"aten::t", "aten::transpose", "aten::permute"}


@dataclasses.dataclass(frozen=True)
class Product:
    """A weight at work.

    Attributes
    ----------
    names : tuple of str
        Parameters that the weight is, or is computed from.
    turned : bool
        Whether the weight takes part transposed: ``[inputs, outputs]`` of ``[outputs, inputs]``.
    weight, given : Tensor
        The two factors.
    first : bool
        Whether the weight is the first factor, as in ``W @ x``.
    result : int
        The value that comes out.
    """

    node: Node
    names: tuple[str, ...]
    turned: bool
    weight: Tensor
    given: Tensor
    first: bool
    result: int

    @property
    def outputs_dim(self) -> int:
        """The dimension of the result that holds the weight's outputs."""
        if self.node.op == "aten::convolution":
            return 1
        return -2 if self.first else -1


class Watcher(Recorder):
    """Records a forward pass and reports every product with a weight, and every operation.

    Parameters
    ----------
    model : nn.Module
    inputs : Inputs
    names : iterable of str
        Parameters to follow.
    product : callable
        ``(Product, result)``.
    operation : callable, optional
        ``(node, result)`` for every other operation.
    stand_ins : mapping, optional
        Tensors that run in place of the parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        names: Iterable[str],
        product: Callable[[Product, Any], None],
        operation: Callable[[Node, Any], None] | None = None,
        stand_ins: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(model, inputs, on_node=self._follow)
        wanted = frozenset(names)
        self._product, self._operation = product, operation
        # Value -> the parameters it is computed from, and whether it is transposed.
        self._weights: dict[int, tuple[frozenset[str], bool]] = {}
        self._called: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        for name, tensor in (stand_ins or {}).items():
            self._define(tensor, "state", name)
        for index, value in enumerate(self.values):
            if value.kind == "state":
                self._weights[index] = (frozenset({value.name}) & wanted, False)

    def execute(self, node: Node, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._called = (args, kwargs)
        return super().execute(node, func, args, kwargs)

    def _follow(self, node: Node, result: Any) -> None:
        factors = FACTORS.get(node.op)
        if factors is not None and self._multiplies(node, factors, result):
            return
        if node.inputs and all(self._fixed(index) for index in node.inputs):
            found = [self._weights.get(index, (frozenset(), False)) for index in node.inputs]
            names = frozenset(name for each, _ in found for name in each)
            turned = any(flag for _, flag in found) != (node.op in TURNING)
            for index in node.outputs:
                self._weights[index] = (names, turned)
        elif self._operation is not None:
            self._operation(node, result)

    def _fixed(self, index: int) -> bool:
        """Whether a value is the same for all data: a weight, or what it is computed from."""
        return index in self._weights or self.values[index].kind == "constant"

    def _multiplies(self, node: Node, factors: tuple[str, str], result: Any) -> bool:
        tensors = []
        for name in factors:
            reference = node.bound[name]
            if not isinstance(reference, Ref):
                return False
            tensors.append((reference.index, self._actual(node, name)))
        (left, a), (right, b) = tensors
        for first, at, weight, given in ((False, right, b, a), (True, left, a, b)):
            other = left if at == right else right
            if at in self._weights and not self._fixed(other):
                names, turned = self._weights[at]
                if names:
                    product = Product(
                        node, tuple(sorted(names)), turned, weight, given, first, node.outputs[0]
                    )
                    self._product(product, result)
                return True
        return False

    def _actual(self, node: Node, name: str) -> Tensor:
        args, kwargs = self._called
        for position, argument in enumerate(node.func._schema.arguments):
            if argument.name == name:
                found: Tensor = args[position] if position < len(args) else kwargs[name]
                return found
        raise AssertionError(name)
