"""Gates against their formulas, worked out by hand, and in the company that models keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.gated_nets import images, net
from torch import nn
from torch.nn import functional

import secateur as sc
from secateur.dynamic.proving import forcing

X = images()


def small() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )
    norm = model[1]
    nn.init.uniform_(norm.weight, -1.0, 1.0)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return model.eval()


@pytest.mark.parametrize("density", [1.0, 0.5, 0.3])
def test_fbs_is_its_formula(density: float) -> None:
    model = small()
    conv, norm, last = model[0], model[1], model[3]
    beta = norm.bias.detach().clone()
    gated = sc.dynamic.gate(model, X, "fbs", density)
    gate = gated.gates[0]
    phi, rho = gate.predict.weight.detach(), gate.predict.bias.detach()
    gamma = functional.relu(X.abs().mean((2, 3)) @ phi.T + rho)
    keep = int(np.ceil(density * 8))
    mask = torch.zeros_like(gamma)
    for row, values in enumerate(gamma):
        mask[row, sorted(range(8), key=lambda at: (-float(values[at]), at))[:keep]] = 1
    with torch.no_grad():
        plain = functional.conv2d(X, conv.weight, padding=1)
        spread = (norm.running_var + norm.eps).sqrt()
        normal = (plain - norm.running_mean[:, None, None]) / spread[:, None, None]
        # The norm keeps the signs of its scales.
        normal = normal * norm.weight.sign()[:, None, None]
        inner = functional.relu(
            (mask * gamma)[:, :, None, None] * normal + mask[:, :, None, None] * beta[:, None, None]
        )
        expected = functional.conv2d(inner, last.weight, last.bias)
        assert torch.allclose(gated.model(X), expected, atol=1e-5)
        gated.skip(measure=False)
        assert torch.allclose(gated.model(X), expected, atol=1e-5)


def test_cgnet_is_its_formula() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1)).eval()
    x = torch.randn(3, 4, 9, 9)
    gated = sc.dynamic.gate(model, x, "cgnet:eta=2")
    gate, conv = gated.gates[0], model[0]
    with torch.no_grad():
        gate.threshold.fill_(0.1)
        base = functional.conv2d(x[:, :2], conv.weight[:, :2], conv.bias, 2, 1)
        whole = functional.conv2d(x, conv.weight, conv.bias, 2, 1)
        # Fresh statistics: mean 0, variance 1.
        opened = base.mean(1, keepdim=True) / np.sqrt(1 + gate.normal.eps) >= 0.1
        assert 0.1 < float(opened.float().mean()) < 0.9
        expected = torch.where(opened, whole, base)
        assert torch.allclose(model(x), expected, atol=1e-5)
        gated.skip(measure=False)
        assert torch.allclose(model(x), expected, atol=1e-5)
    measured = gated.measure([x])
    share = opened.float().mean((1, 2, 3)).double()
    dense = 6 * 4 * 9 * 25
    assert torch.allclose(measured.macs, dense * (0.5 + 0.5 * share))


def test_expected_macs_are_counted_by_hand() -> None:
    model = small()
    gated = sc.dynamic.gate(model, X, "channel")
    opened = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 0, 0, 0],
                           [1, 0, 0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0, 0, 0]]) > 0  # fmt: skip
    with forcing(gated.gates, [opened]):
        measured = gated.measure([X])
    gate = 3 * 1 + 1 * 8
    by_unit = 64 * (27 + 2)
    assert measured.macs.tolist() == [8 * by_unit + gate, 2 * by_unit + gate,
                                      by_unit + gate, 4 * by_unit + gate]  # fmt: skip
    assert measured.easiest(2) == [2, 1] and measured.hardest(1) == [0]
    assert measured.ratio == pytest.approx((15 / 4 * by_unit + gate) / (8 * by_unit))
    assert measured.never() == {}
    assert "parameters as before" in str(measured)
    with forcing(gated.gates, [opened[1:3]]):
        assert gated.measure([X[:2]]).never() == {"0": [1, 3, 4, 5, 6, 7]}


def test_heads_are_left_out_whole() -> None:
    """Closed heads are neither projected nor attended with: their tensors are not there."""
    gated = sc.dynamic.gate(net("transformer"), X, "channel")
    seen: list[torch.Size] = []
    block = gated.model.blocks[0]
    block.attn.qkv.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    two = [torch.arange(gate.units) % 3 != 1 for gate in gated.gates]
    gated.skip(measure=False)
    with torch.no_grad(), forcing(gated.gates, two):
        gated.model(X)
    assert seen == [torch.Size([4, 5, 3 * 2 * 8])]
    assert block.attn.num_heads == 3


def test_closed_layers_see_only_who_they_are_open_for() -> None:
    gated = sc.dynamic.gate(net("residual"), X, "aig")
    rows: list[int] = []
    gated.model.stages[0][0].conv2.register_forward_hook(
        lambda module, args, output: rows.append(len(output))
    )
    first = torch.tensor([[True], [False], [False], [True]])
    gated.skip(measure=False)
    with torch.no_grad(), forcing(gated.gates, [first] * len(gated.gates)):
        gated.model(X)
    assert rows == [2]


def test_nested_widths_are_prefixes() -> None:
    gated = sc.dynamic.gate(net("residual"), X, "nested:groups=4")
    with torch.no_grad():
        for gate in gated.gates:
            nn.init.normal_(gate.squeeze.out.weight, std=3.0)
            nn.init.zeros_(gate.squeeze.out.bias)
        gated.model(X)
    for gate in gated.gates:
        opened = gate.decision.open
        assert bool((opened.diff(dim=1) <= 0).all()) and bool((opened[:, 0] == 1).all())


@pytest.mark.parametrize("line", ["channel", "nested", "fbs", "aig", "cgnet"])
def test_the_masked_mode_compiles(line: str) -> None:
    gated = sc.dynamic.gate(net("residual"), X, line)
    with torch.no_grad():
        expected = gated.model(X)
        compiled = torch.compile(gated.model, backend="eager")
        assert torch.allclose(compiled(X), expected, atol=1e-5)
    compiled.train()
    (compiled(X).square().mean() + gated.loss()).backward()
    assert all(any(each.grad is not None for each in gate.parameters()) for gate in gated.gates)
