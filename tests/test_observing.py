"""What weights multiply: rows and second moments, for every kind of layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.inputs import as_inputs
from secateur.layerwise.pairs import Pairs, watch
from secateur.observing import Product, Reading
from secateur.observing import patches as patches_module
from secateur.observing.moments import Moments, second_moments
from secateur.observing.patches import rows_of, weight_of
from secateur.weights import Weight, prunable_weights

LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(6, 5), (7, 6)),
    (nn.Linear(6, 5, bias=False), (2, 3, 6)),
    (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    (nn.Conv1d(4, 6, 3, dilation=2, groups=2), (2, 4, 9)),
    (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 8)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), dilation=(1, 2), padding=(2, 0)), (2, 4, 7, 8)),
    (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 7, 8)),
    (nn.Conv2d(4, 6, 1, stride=2), (2, 4, 7, 8)),
    (nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), (2, 4, 7, 8)),
    (nn.Conv3d(2, 4, (2, 3, 2), stride=(1, 2, 1), padding=(1, 1, 0)), (2, 2, 4, 5, 4)),
    (nn.Conv3d(4, 4, 2, groups=2, dilation=2), (2, 4, 4, 5, 4)),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (2, 4, 5)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 5, 6)),
    (nn.ConvTranspose2d(4, 6, (2, 3), dilation=2), (2, 4, 5, 6)),
    (nn.ConvTranspose3d(4, 2, 2, groups=2), (1, 4, 3, 3, 2)),
]  # fmt: skip


class First(nn.Module):
    """A weight as the left factor, and one that is stored with inputs first."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(5, 6))
        self.right = nn.Parameter(torch.randn(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.left @ x) @ self.right


def rows_and_weight(net: nn.Module, name: str, x: Tensor) -> tuple[Tensor, Weight]:
    found: list[tuple[Tensor, Weight]] = []

    def product(seen: Product, result: Any) -> None:
        found.append((torch.cat(list(rows_of(seen))), weight_of(seen, name)))

    watch(net, as_inputs(x), 0, [name], product)
    [both] = found
    return both


def outputs_last(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's output without its bias, one row per place."""
    out = layer(x)
    if isinstance(layer, nn.Linear):
        return (out - (0 if layer.bias is None else layer.bias)).reshape(-1, out.shape[-1])
    bias = layer.bias.view(-1, *(1 for _ in out.shape[2:]))  # type: ignore[operator, union-attr]
    return (out - bias).movedim(1, -1).flatten(0, -2)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
class TestRows:
    def test_times_the_matrix_are_the_output(
        self, layer: nn.Module, shape: tuple[int, ...]
    ) -> None:
        x = torch.randn(shape)
        rows, seen = rows_and_weight(nn.Sequential(layer), "0.weight", x)
        [weight] = prunable_weights(nn.Sequential(layer))
        assert (seen.shape, seen.storage, seen.groups) == (
            weight.shape, weight.storage, weight.groups,
        )  # fmt: skip
        matrix = weight.matrix(layer.weight.detach())
        found = torch.einsum("ngd,god->ngo", rows, matrix).flatten(1)
        torch.testing.assert_close(found, outputs_last(layer, x).detach(), rtol=1e-4, atol=1e-5)

    def test_come_in_pieces(
        self, layer: nn.Module, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x = torch.randn(shape)
        whole, _ = rows_and_weight(nn.Sequential(layer), "0.weight", x)
        monkeypatch.setattr(patches_module, "PIECE", 1)
        pieces, _ = rows_and_weight(nn.Sequential(layer), "0.weight", x)
        torch.testing.assert_close(pieces, whole)

    def test_the_matrix_and_back(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        [weight] = prunable_weights(nn.Sequential(layer))
        values = torch.randn(weight.shape)
        assert torch.equal(weight.from_matrix(weight.matrix(values)), values)

    def test_moments_do_not_depend_on_how_data_is_batched(
        self, layer: nn.Module, shape: tuple[int, ...]
    ) -> None:
        net, x = nn.Sequential(layer), torch.randn(4, *shape[1:])
        whole = second_moments(Reading(net, [(x, None)]), ["0.weight"], "test")["0.weight"]
        parts = second_moments(Reading(net, [(x[:1], None), (x[1:], None)]), ["0.weight"], "test")[
            "0.weight"
        ]
        rows, _ = rows_and_weight(net, "0.weight", x)
        expected = torch.einsum("ngd,nge->gde", rows, rows)
        for found in (whole, parts):
            assert found.rows == len(rows)
            torch.testing.assert_close(found.inputs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["left", "right"])
def test_a_weight_that_the_code_multiplies_itself(name: str) -> None:
    net, x = First(), torch.randn(6, 8)
    rows, weight = rows_and_weight(net, name, x)
    found = torch.einsum("ngd,god->ngo", rows, weight.matrix(getattr(net, name).detach()))[:, 0]
    expected = (net.left @ x).T if name == "left" else (net.left @ x) @ net.right
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_sample_without_a_batch_dimension() -> None:
    layer, x = nn.Conv2d(2, 3, 3), torch.randn(2, 5, 5)
    rows, weight = rows_and_weight(nn.Sequential(layer), "0.weight", x)
    found = torch.einsum("ngd,god->ngo", rows, weight.matrix(layer.weight.detach()))[:, 0]
    torch.testing.assert_close(found, outputs_last(layer, x[None]).detach(), rtol=1e-4, atol=1e-5)


def test_a_weight_that_runs_twice_counts_twice() -> None:
    layer = nn.Linear(4, 4, bias=False)
    x = torch.randn(3, 4)
    found = second_moments(Reading(nn.Sequential(layer, layer), [(x, None)]), ["0.weight"], "test")[
        "0.weight"
    ]
    both = torch.cat([x, layer(x).detach()])
    assert found.rows == 6
    torch.testing.assert_close(found.inputs[0], both.T @ both)


def test_a_weight_that_never_multiplies_is_named() -> None:
    net = nn.LayerNorm(3)
    with pytest.raises(InputError, match="'weight'"):
        second_moments(Reading(net, [(torch.randn(2, 3), None)]), ["weight"], "test")


def test_a_sample_of_places_is_the_same_for_both_models() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    data = [(torch.randn(2, 3, 9, 9), None)]
    [weight] = prunable_weights(net)
    pairs = Pairs(net, net, Reading(net, data), {"0.weight": weight}, {}, 0.25, positions=20)
    fitting, judging = pairs.moments()["0.weight"]
    assert (fitting.rows, judging.rows) == (30, 10)
    matrix = weight.matrix(net[0].weight.detach())
    # Were the places others, the weight would not give what is wanted.
    assert fitting.error(matrix) < 1e-6
    assert judging.error(matrix) < 1e-6
    some = second_moments(Reading(net, data), ["0.weight"], "test", positions=20)["0.weight"]
    again = second_moments(Reading(net, data), ["0.weight"], "test", positions=20)["0.weight"]
    assert some.rows == 40
    assert torch.equal(some.inputs, again.inputs)


def test_the_error_is_the_share_of_energy_missed() -> None:
    x, wanted, other = torch.randn(50, 2, 3), torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    y = torch.einsum("ngd,god->ngo", x, wanted)
    moments = Moments.of(x, y)
    moments.add(x[:20], y[:20])
    moments.add(x[20:], y[20:])
    missed = (y - torch.einsum("ngd,god->ngo", x, other)).square().sum() / y.square().sum()
    assert moments.error(other) == pytest.approx(float(missed), rel=1e-4)
    assert moments.error(wanted) == pytest.approx(0, abs=1e-6)
