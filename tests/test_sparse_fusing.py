"""Batch norms and activations are computed along only where nothing else reads what is between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur.inputs import as_inputs
from secateur.sparse.fusing import Fusion, fold, watch

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Parts(nn.Module):
    def __init__(self, code: Callable[[Parts, Tensor], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.act = nn.ReLU6(inplace=True)
        self.linear = nn.Linear(8, 8)
        self.gelu = nn.GELU()
        self.code = code
        with torch.no_grad():
            self.bn.running_mean.normal_()
            self.bn.running_var.uniform_(0.5, 2)
            self.bn.weight.normal_()
            self.bn.bias.normal_()

    def forward(self, x: Tensor) -> object:
        return self.code(self, x)


CASES: dict[str, tuple[Callable[[Parts, Tensor], object], dict[str, Fusion]]] = {
    "a chain": (
        lambda m, x: m.gelu(m.linear(m.act(m.bn(m.conv(x))))),
        {"conv": Fusion("bn", "act"), "linear": Fusion(None, "gelu")},
    ),
    "no norm": (lambda m, x: m.act(m.conv(x)), {"conv": Fusion(None, "act")}),
    "no activation module": (lambda m, x: m.bn(m.conv(x)).tanh(), {"conv": Fusion("bn")}),
    "read after it was changed in place": (
        lambda m, x: (lambda y: m.act(y) + y)(m.bn(m.conv(x))),
        {"conv": Fusion("bn", "act")},
    ),
    "something between": (lambda m, x: m.bn(m.conv(x) + 1), {}),
    "read twice": (lambda m, x: (lambda y: m.bn(y) + y)(m.conv(x)), {}),
    "read twice, behind the norm": (
        lambda m, x: (lambda y: m.act(y + 0) + y)(m.bn(m.conv(x))),
        {"conv": Fusion("bn")},
    ),
    "read twice by modules": (lambda m, x: (lambda y: m.act(y.clone()) + m.gelu(y))(m.conv(x)), {}),
    "given out as well": (lambda m, x: (lambda y: (y, m.gelu(y)))(m.conv(x)), {}),
    "given out behind the norm": (
        lambda m, x: (lambda y: {"y": y, "z": m.gelu(y)})(m.bn(m.conv(x))),
        {"conv": Fusion("bn")},
    ),
    "called twice": (
        lambda m, x: m.act(m.bn(m.conv(m.conv(x)[:, :3]))),
        {},
    ),
    "a norm called twice": (lambda m, x: m.bn(m.bn(m.conv(x))), {}),
    "an activation called twice": (
        lambda m, x: m.gelu(m.linear(m.gelu(m.bn(m.conv(x))))),
        {"conv": Fusion("bn")},
    ),
    "a view of it is read": (lambda m, x: m.act(m.conv(x).view(2, 6, 64)), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_only_what_is_alone_is_fused(case: str) -> None:
    torch.manual_seed(0)
    code, expected = CASES[case]
    model = Parts(code).eval()
    layers = {"conv": model.conv, "linear": model.linear}
    watched = watch(model, layers, as_inputs(IMAGES))
    assert watched.fusions == expected
    assert not any(module._forward_hooks for module in model.modules())
    before = torch.utils._pytree.tree_leaves(watched.output)
    fold(model, watched.fusions)
    assert isinstance(model.bn, nn.Identity) == any(f.norm for f in expected.values())
    with torch.no_grad():
        after = torch.utils._pytree.tree_leaves(model(IMAGES))
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("where", ["conv", "bn", "act"])
def test_hooks_keep_things_apart(where: str) -> None:
    model = Parts(CASES["a chain"][0]).eval()
    getattr(model, where).register_forward_hook(lambda *_: None)
    found = watch(model, {"conv": model.conv}, as_inputs(IMAGES)).fusions
    assert found == ({"conv": Fusion("bn")} if where == "act" else {})


def test_a_norm_without_statistics_stays() -> None:
    model = Parts(CASES["a chain"][0]).eval()
    model.bn = nn.BatchNorm2d(6, track_running_stats=False)
    found = watch(model, {"conv": model.conv}, as_inputs(IMAGES)).fusions
    assert found == {}
