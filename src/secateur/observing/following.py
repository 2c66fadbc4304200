"""Follow what a weight computes to the activation behind it, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from secateur.graph.trace import Node
from secateur.inputs import Inputs
from secateur.observing.watching import Product, Watcher

__all__ = ["Follower", "Found"]

ACTIVATIONS = frozenset(
    f"aten::{name}"
    for name in "relu gelu silu hardswish hardtanh leaky_relu sigmoid hardsigmoid tanh elu celu "
    "selu mish softplus threshold clamp clamp_min prelu _prelu_kernel log_sigmoid_forward "
    "rrelu_with_noise".split()
)
# They leave every channel in its place.
CARRYING = frozenset(
    f"aten::{name}"
    for name in "native_batch_norm cudnn_batch_norm miopen_batch_norm _batch_norm_impl_index "
    "_native_batch_norm_legit_no_training native_layer_norm native_group_norm _fused_rms_norm "
    "add sub mul div clone alias detach _to_copy contiguous dropout native_dropout".split()
)
RESHAPING = frozenset({"aten::view", "aten::_unsafe_view", "aten::reshape"})

Found = Callable[[str, Tensor, int, bool], None]
"""``(parameter, values, dimension of the channels, whether this is behind an activation)``."""


class Follower(Watcher):
    """Reports the output of every weight, and what it is behind the first activation.

    From a product on, values are followed through normalisations, sums and other operations that
    leave channels in their place, until an activation (ReLU, GELU and their like) is met. Other
    operations end the search: such a weight has only its own output.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        names: Iterable[str],
        found: Found,
        stand_ins: Mapping[str, Tensor],
    ) -> None:
        super().__init__(model, inputs, names, self._begin, self._go_on, stand_ins)
        self._found = found
        # Value -> the weights whose channels it holds, and along which dimension.
        self._held: dict[int, tuple[frozenset[str], int]] = {}
        self._behind: dict[int, frozenset[str]] = {}
        # Weights whose activation was written over before the pass ended.
        self.spoiled: set[str] = set()

    def _begin(self, product: Product, result: Any) -> None:
        dim = product.outputs_dim % result.ndim
        for name in product.names:
            self._found(name, result, dim, False)
        self._held[product.result] = (frozenset(product.names), dim)

    def _go_on(self, node: Node, result: Any) -> None:
        if node.in_place and node.outputs:
            self.spoiled |= self._behind.get(node.outputs[0], frozenset())
        sources = [index for index in node.inputs if index in self._held]
        if not sources or not node.outputs:
            return
        names = frozenset(name for index in sources for name in self._held[index][0])
        dims = {self._held[index][1] for index in sources}
        first = result[0] if isinstance(result, (tuple, list)) else result
        shapes = {self.values[index].shape for index in sources}
        out = node.outputs[0]
        # What is written in place is no longer what was followed.
        self._held.pop(out, None)
        if len(dims) > 1 or len(shapes) > 1 or not isinstance(first, Tensor):
            return
        (dim,), (shape,) = dims, shapes
        op = node.op
        if op in ACTIVATIONS and tuple(first.shape) == shape:
            for name in sorted(names):
                self._found(name, first, dim, True)
            self._behind[out] = names
        elif op in CARRYING and tuple(first.shape) == shape:
            self._held[out] = (names, dim)
        elif op in RESHAPING and dim == len(shape) - 1 and first.shape[-1:] == shape[-1:]:
            # Tokens are folded into the batch and unfolded; features stay last.
            self._held[out] = (names, first.ndim - 1)
        elif op == "aten::permute":
            order = [axis % len(shape) for axis in node.bound["dims"]]
            self._held[out] = (names, order.index(dim))
        elif op == "aten::transpose":
            pair = [node.bound[key] % len(shape) for key in ("dim0", "dim1")]
            self._held[out] = (names, pair[1 - pair.index(dim)] if dim in pair else dim)
