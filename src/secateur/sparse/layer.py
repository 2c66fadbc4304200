"""What sparse layers share: the stored weight in buffers, a bias, an activation."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.sparse import activations
from secateur.sparse.layout import Packed

__all__ = ["SparseLayer", "is_plain"]

BUFFERS = ("starts", "columns", "values")


class SparseLayer(nn.Module):
    """A layer whose weight is stored without its zeros.

    Parameters
    ----------
    packed : Packed
    bias : Tensor or None
        [outputs]; copied.
    activation : str
        One of ``"none"``, ``"relu"``, ``"relu6"``, ``"hardswish"``, ``"silu"``, ``"gelu"`` and
        ``"gelu_tanh"``: computed along with the product.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, packed: Packed, bias: Tensor | None, activation: str = "none") -> None:
        super().__init__()
        self.compute_along(activation)
        self._source: tuple[weakref.ref[Tensor], int, str] | None = None
        self.outputs, self.inputs, self.groups = packed.outputs, packed.inputs, packed.groups
        for name in BUFFERS:
            self.register_buffer(name, getattr(packed, name))
        kept = None if bias is None else bias.detach().float().clone().contiguous()
        self.register_buffer("bias", kept)

    def watch(self, source: Tensor, name: str) -> None:
        """Raise, from now on, where ``source``, of which this was made, has changed since."""
        self._source = (weakref.ref(source), _version(source), name)

    def _check_source(self) -> None:
        if self._source is None or torch.compiler.is_compiling():
            return
        reference, version, name = self._source
        source = reference()
        if source is not None and _version(source) != version:
            raise InputError(
                f"the weight of {name!r} was changed after the model was compiled; "
                "call secateur.sparse.compile again"
            )

    def compute_along(self, activation: str) -> None:
        """Compute another activation from now on."""
        self._code = activations.code_of(activation)
        self.activation = activation

    def packed(self) -> Packed:
        """The weight as the kernels see it; it shares the buffers."""
        return Packed(
            self.starts, self.columns, self.values, self.outputs, self.inputs, self.groups
        )

    @property
    def weight(self) -> Tensor:
        """The dense weight, made anew; some models read its dtype or device."""
        return self.packed().dense()

    @property
    def density(self) -> float:
        """The fraction of the weight that is stored."""
        return self.values.numel() / max(self.outputs * self.inputs, 1)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Another mask has other sizes, and the kernels believe whatever the buffers say.
        there = {name: state_dict.get(prefix + name, getattr(self, name)) for name in BUFFERS}
        Packed(**there, outputs=self.outputs, inputs=self.inputs, groups=self.groups).check()
        for name in BUFFERS:
            if there[name].shape != getattr(self, name).shape:
                setattr(self, name, torch.empty_like(there[name]))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _apply(self, fn: Any, recurse: bool = True) -> SparseLayer:
        before = {name: getattr(self, name) for name in BUFFERS}
        super()._apply(fn, recurse)
        after = {name: getattr(self, name) for name in BUFFERS}
        if any(
            after[name].dtype != before[name].dtype
            or after[name].device.type not in ("cpu", "meta")
            for name in BUFFERS
        ):
            for name in BUFFERS:
                setattr(self, name, before[name])
            if self.bias is not None:
                self.bias = self.bias.to("cpu", torch.float32)
            raise InputError(
                "sparse layers compute in float32 on the CPU; make the model dense again with "
                "`to_dense()` before it moves"
            )
        return self

    def extra_repr(self) -> str:
        """The height of the vectors, how much is stored, and the activation."""
        return (
            f"height={self.values.shape[1]}, density={self.density:.3g}, "
            f"bias={self.bias is not None}, activation={self.activation!r}"
        )


def is_plain(x: Tensor) -> bool:
    """Whether nobody watches and nothing is recorded: then the operator's own way is all detour.

    Dispatching through Python twice costs more than a small product.
    """
    return (
        type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not (x.requires_grad and torch.is_grad_enabled())
        and x.device.type == "cpu"
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._is_torch_function_mode_enabled()
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._get_tracing_state() is None
    )


def _version(weight: Tensor) -> int:
    """Goes up with every change in place."""
    return 0 if weight.is_inference() else weight._version
