"""Head importance against gates and autograd, FLAP against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import secateur as sc
from secateur.criteria import Scorer


class Attention(nn.Module):
    """One attention, with a gate on every head."""

    def __init__(self, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = heads
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, width)
        self.v, self.o = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.classify = nn.Linear(width, 2)
        self.gates: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        def cut(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(
            *(cut(f(x)) for f in (self.q, self.k, self.v))
        )
        if self.gates is not None:
            mixed = mixed * self.gates[None, :, None, None]
        return self.classify(x.mean(1) + self.o(mixed.transpose(1, 2).flatten(2)).mean(1))


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(4, 5, 12, generator=generator), torch.randint(2, (4,), generator=generator))
        for _ in range(3)
    ]


def test_head_importance_is_the_gradient_of_a_gate_example_by_example() -> None:
    model = Attention().eval()
    expected = np.zeros(3)
    for images, labels in batches():
        for image, label in zip(images, labels, strict=True):
            model.gates = torch.ones(3, requires_grad=True)
            loss = functional.cross_entropy(model(image[None]), label[None])
            (slope,) = torch.autograd.grad(loss, model.gates)
            expected += slope.abs().numpy() / 12
    model.gates = None
    from secateur.graph.graph import Graph
    from secateur.graph.trace import record
    from secateur.inputs import as_inputs
    from secateur.whole_heads import whole_heads

    recorded = record(model, as_inputs(batches()[0][0]))
    graph = Graph(model, recorded, split_choice=whole_heads(model, recorded, {}))
    (group,) = [each for each in graph.groups if each.name == "q.weight"]
    values = Scorer(model, "head_importance", batches()).classes(graph).values
    np.testing.assert_allclose(values[group.classes], expected, rtol=1e-4)


def test_a_head_whose_gate_is_closed_can_go_without_a_trace() -> None:
    model = Attention().eval()
    with torch.no_grad():
        model.o.weight[:, 4:8] = 0
    x = batches()[0][0]
    before = model(x)
    result = sc.prune(
        model, x, granularity="head", criterion="head_importance", budget={"params": 0.8},
        data=batches(),
    )  # fmt: skip
    assert result.plan.removed["o.weight"] == {1: [4, 5, 6, 7]}
    torch.testing.assert_close(model(x), before)


def test_flap_is_variance_times_the_squared_norm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).eval()
    data = [(torch.randn(9, 5), None), (torch.randn(4, 5), None)]
    with torch.no_grad():
        rows = model[:2](torch.cat([x for x, _ in data])).double().numpy()
    weight = model[2].weight.detach().double().numpy()
    expected = rows.var(axis=0, ddof=1) * (weight**2).sum(axis=0)
    graph = sc.trace(model, data[0][0])
    (group,) = graph.groups
    values = Scorer(model, "flap", data).classes(graph).values[group.classes]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_flap_keeps_the_mean_of_what_a_layer_computes(bias: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)

    def build() -> nn.Sequential:
        return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3, bias=bias)).eval()

    model = build()
    x = torch.randn(64, 5)
    dense = model(x).mean(0)
    result = sc.prune(model, x[:2], criterion="flap", budget={"macs": 0.5}, data=[(x, None)])
    assert model[0].out_features == 8
    torch.testing.assert_close(model(x).mean(0), dense)
    assert result.plan.biased == ([] if bias else ["2"])
    path = sc.save(model, f"{tmp_path}/flap.safetensors")
    assert torch.equal(sc.load(build(), path)(x), model(x))


def test_flap_without_a_bias_to_add_to_leaves_what_survives() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3, bias=False)).eval()
    x = torch.randn(64, 5)
    for option in ("existing", "off"):
        result = sc.prune(
            model, x[:2], criterion=f"flap:bias={option}", budget={"macs": 0.9}, data=[(x, None)]
        )
        assert model[2].bias is None and not result.plan.biased
    with pytest.raises(sc.errors.InputError, match="unknown bias"):
        sc.prune(model, x[:2], criterion="flap:bias=ad", data=[(x, None)])
