"""Sparse layers against dense ones in double precision, on every instruction set here."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sparse_runtime import DENSITIES, HEIGHTS, SEEDS, VARIANTS, masked, threads, using
from torch import Tensor, nn
from torch.nn import functional

from secateur import sparse
from secateur.errors import InputError, UnknownNameError
from secateur.sparse.activations import ACTIVATIONS

RANDOM = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=VARIANTS or ["none"])
def variant(request: pytest.FixtureRequest) -> str:
    if not VARIANTS:
        pytest.skip("no compiler here, so there are no kernels")
    return request.param


def linear(inputs: int, outputs: int, height: int, density: float, seed: int) -> nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(inputs, outputs, bias=seed % 2 == 0)
    with torch.no_grad():
        weight = torch.randn(outputs, inputs, generator=generator)
        layer.weight.copy_(masked(weight, height, density, generator))
        if layer.bias is not None:
            layer.bias.copy_(torch.randn(outputs, generator=generator))
    return layer


def assert_near(found: Tensor, exact: Tensor, terms: int) -> None:
    """To the rounding of a sum of so many terms in single precision."""
    assert found.shape == exact.shape
    scale = max(exact.abs().max().item(), 1.0) if exact.numel() else 1.0
    assert (found.double() - exact).abs().max().item() <= 4e-7 * scale * max(terms, 4) ** 0.5


@RANDOM
@given(
    tokens=st.integers(1, 150), inputs=st.integers(1, 300), outputs=st.integers(1, 70),
    height=HEIGHTS, stored=HEIGHTS, density=DENSITIES, seed=SEEDS,
    activation=st.sampled_from(sorted(ACTIVATIONS)),
)  # fmt: skip
def test_linear_is_the_dense_layer(
    variant: str, tokens: int, inputs: int, outputs: int, height: int, stored: int, density: float,
    seed: int, activation: str,
) -> None:  # fmt: skip
    dense = linear(inputs, outputs, height, density, seed)
    x = torch.randn(tokens, inputs, generator=torch.Generator().manual_seed(seed + 1))
    layer = sparse.SparseLinear.from_dense(dense, stored, activation)
    with using(variant), torch.no_grad():
        found = layer(x)
    exact = ACTIVATIONS[activation][0](dense.double()(x.double()))
    assert_near(found, exact.detach(), inputs)


convolutions = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3), "groups": st.integers(1, 3), "channels": st.integers(1, 9),
        "outputs": st.integers(1, 20), "size": st.tuples(st.integers(1, 19), st.integers(1, 19)),
        "kernel": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "stride": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "padding": st.tuples(st.integers(0, 3), st.integers(0, 3)),
        "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
    }
)  # fmt: skip


def convolution(shape: dict, height: int, density: float, seed: int) -> nn.Conv2d | None:
    reach = [
        shape["size"][i] + 2 * shape["padding"][i] - shape["dilation"][i] * (shape["kernel"][i] - 1)
        for i in (0, 1)
    ]
    if min(reach) < 1:
        return None
    generator = torch.Generator().manual_seed(seed)
    groups = shape["groups"]
    layer = nn.Conv2d(
        groups * shape["channels"], groups * shape["outputs"], shape["kernel"], shape["stride"],
        shape["padding"], shape["dilation"], groups, bias=seed % 2 == 0,
    )  # fmt: skip
    with torch.no_grad():
        weight = torch.randn(layer.weight.shape, generator=generator)
        layer.weight.copy_(masked(weight, height, density, generator))
    return layer


@RANDOM
@given(shape=convolutions, height=HEIGHTS, density=DENSITIES, seed=SEEDS)
def test_convolution_is_the_dense_layer(
    variant: str, shape: dict, height: int, density: float, seed: int
) -> None:
    dense = convolution(shape, height, density, seed)
    if dense is None:
        return
    x = torch.randn(shape["batch"], dense.in_channels, *shape["size"], requires_grad=True)
    with using(variant):
        layer = sparse.SparseConv2d.from_dense(dense, height, "relu")
        found = layer(x)
        slope = torch.randn_like(found)
        (gradient,) = torch.autograd.grad(found, x, slope)
    doubled = x.detach().double().requires_grad_()
    exact = dense.double()(doubled).relu()
    assert_near(found.detach(), exact.detach(), dense.weight[0].numel())
    # At a sum of zero the slope of a relu is anybody's guess.
    sure = (exact.detach().abs() > 1e-5) | (found == 0)
    (expected,) = torch.autograd.grad(exact, doubled, slope.double() * sure)
    (gradient,) = (gradient,) if sure.all() else torch.autograd.grad(layer(x), x, slope * sure)
    assert_near(gradient, expected, dense.weight[:, 0].numel())


@RANDOM
@given(
    tokens=st.integers(1, 90), inputs=st.integers(1, 200), outputs=st.integers(1, 60),
    height=HEIGHTS, density=DENSITIES, seed=SEEDS,
)  # fmt: skip
def test_gradients_reach_the_input(
    variant: str, tokens: int, inputs: int, outputs: int, height: int, density: float, seed: int
) -> None:
    dense = linear(inputs, outputs, height, density, seed)
    x = torch.randn(tokens, inputs, requires_grad=True)
    with using(variant):
        found = sparse.SparseLinear.from_dense(dense, height)(x)
        slope = torch.randn_like(found)
        (gradient,) = torch.autograd.grad(found, x, slope)
    assert_near(gradient, slope.double() @ dense.weight.detach().double(), outputs)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_gradients_through_the_activation(activation: str) -> None:
    dense = linear(40, 30, 1, 0.3, 0)
    layer = sparse.SparseLinear.from_dense(dense, activation=activation)
    x = torch.randn(7, 40, requires_grad=True)
    (found,) = torch.autograd.grad(layer(x).square().sum(), x)
    function = ACTIVATIONS[activation][0]
    (expected,) = torch.autograd.grad(function(dense(x)).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("height", [1, 4, 8, 16])
@pytest.mark.parametrize("tokens", [1, 2, 33, 197])
def test_any_number_of_threads_gives_the_same_bits(variant: str, height: int, tokens: int) -> None:
    layer = sparse.SparseLinear.from_dense(linear(500, 333, height, 0.2, 1), height, "gelu")
    convolved = nn.Conv2d(48, 96, 3, padding=1)
    with torch.no_grad():
        convolved.weight.copy_(masked(convolved.weight, height, 0.2, torch.Generator()))
    sliding = sparse.SparseConv2d.from_dense(convolved, height, "silu")
    x, images = torch.randn(tokens, 500), torch.randn(2, 48, 13, 15)
    with using(variant):
        found = []
        for count in (1, 2, 3, 5):
            with threads(count):
                a, b = x.clone().requires_grad_(), images.clone().requires_grad_()
                y, z = layer(a), sliding(b)
                gradients = torch.autograd.grad(y.sum() + z.square().sum(), (a, b))
                found.append([y.detach(), z.detach(), *gradients])
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "silu"])
def test_what_is_not_finite_reaches_the_outputs_that_read_it(
    variant: str, special: float, tokens: int, activation: str
) -> None:
    dense = linear(130, 60, 1, 0.2, 3)
    x = torch.randn(tokens, 130)
    x[tokens // 2, 77] = special
    layer = sparse.SparseLinear.from_dense(dense, 1, activation)
    with using(variant), torch.no_grad():
        found = layer(x)
    reads = dense.weight[:, 77] != 0
    assert reads.any() and not reads.all()
    function = ACTIVATIONS[activation][0]
    with torch.no_grad():
        # A weight that is not stored is not multiplied: 0 times infinity counts as 0.
        expected = function(dense(x.nan_to_num(0.0, 0.0, 0.0)))
        expected[tokens // 2, reads] = function(dense(x)[tokens // 2, reads])
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-4, atol=1e-4)
    assert not found[tokens // 2, reads].isfinite().all() or special == -float("inf")


def test_extremes_of_activations_are_torchs(variant: str) -> None:
    dense = nn.Linear(1, 1, bias=False)
    nn.init.ones_(dense.weight)
    x = torch.tensor(
        [[float(v)] for v in (-1e30, -200, -89, -88, -87, -20, -3, -0.0, 1e-30, 3, 90)]
    )
    for activation, (function, _) in ACTIVATIONS.items():
        with using(variant):
            found = sparse.SparseLinear.from_dense(dense, 1, activation)(x)
        torch.testing.assert_close(found, function(x), rtol=1e-5, atol=2e-6)


def test_a_layer_of_many_columns_has_wide_indices(variant: str) -> None:
    dense = linear(70000, 5, 4, 0.01, 2)
    layer = sparse.SparseLinear.from_dense(dense, 4)
    assert layer.columns.dtype == torch.int32
    x = torch.randn(3, 70000)
    with using(variant):
        assert_near(layer(x), dense.double()(x.double()).detach(), 700)


def test_empty_batches_and_any_number_of_dimensions() -> None:
    layer = sparse.SparseLinear.from_dense(linear(12, 7, 1, 0.5, 0))
    assert layer(torch.randn(0, 12)).shape == (0, 7)
    assert layer(torch.randn(2, 3, 4, 12)).shape == (2, 3, 4, 7)
    assert layer(torch.randn(12)).shape == (7,)
    assert layer(torch.randn(12, 5).t()).shape == (5, 7)
    sliding = sparse.SparseConv2d.from_dense(nn.Conv2d(3, 5, 3))
    assert sliding(torch.randn(0, 3, 8, 8)).shape == (0, 5, 6, 6)
    assert sliding(torch.randn(3, 8, 8)).shape == (5, 6, 6)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_paddings_by_name(padding: str, kernel: int) -> None:
    dense = nn.Conv2d(4, 6, kernel, padding=padding, dilation=(1, 2))
    x = torch.randn(2, 4, 11, 12)
    torch.testing.assert_close(
        sparse.SparseConv2d.from_dense(dense)(x), dense(x), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("height", [1, 4, 8, 16])
def test_back_to_dense_is_bit_equal(height: int) -> None:
    dense = linear(140, 37, height, 0.3, 4)
    back = sparse.SparseLinear.from_dense(dense, height).to_dense()
    assert torch.equal(back.weight, dense.weight) and torch.equal(back.bias, dense.bias)
    dense = nn.Conv2d(6, 10, 3, (1, 2), (2, 1), (1, 2), 2)
    back = sparse.SparseConv2d.from_dense(dense, height).to_dense()
    assert torch.equal(back.weight, dense.weight)
    x = torch.randn(1, 6, 12, 12)
    assert torch.equal(back(x), dense(x))


def test_copies_and_state_dicts(variant: str) -> None:
    one = sparse.SparseLinear.from_dense(linear(64, 48, 4, 0.2, 0), 4)
    other = sparse.SparseLinear.from_dense(linear(64, 48, 4, 0.5, 2), 4)
    x = torch.randn(9, 64)
    assert torch.equal(copy.deepcopy(one)(x), one(x))
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(x), one(x))


def test_contradicting_buffers_are_refused() -> None:
    layer = sparse.SparseLinear.from_dense(linear(64, 48, 1, 0.2, 0), 1)
    before = layer(torch.ones(64))

    def changed(name: str, at: int, value: int) -> dict[str, Tensor]:
        state = {key: tensor.clone() for key, tensor in layer.state_dict().items()}
        state[name][at] = value
        return state

    last = len(layer.columns)
    for name, at, value in [
        ("columns", 0, 64), ("columns", 5, -1), ("columns", 3, int(layer.columns[2])),
        ("starts", 0, 1), ("starts", -1, last + 1), ("starts", 5, last), ("starts", 7, -3),
    ]:  # fmt: skip
        with pytest.raises(InputError, match="contradict"):
            layer.load_state_dict(changed(name, at, value))
    state = layer.state_dict()
    state["values"] = state["values"].double()
    with pytest.raises(InputError, match="contradict"):
        layer.load_state_dict(state)
    assert torch.equal(layer(torch.ones(64)), before)


def test_refusals_say_what_to_do() -> None:
    layer = sparse.SparseLinear.from_dense(linear(8, 4, 1, 0.5, 0))
    with pytest.raises(InputError, match="float32"):
        layer(torch.randn(2, 8, dtype=torch.float64))
    with pytest.raises(InputError, match="8 features, not 9"):
        layer(torch.randn(2, 9))
    with pytest.raises(InputError, match="to_dense"):
        layer.to(torch.bfloat16)
    assert layer(torch.randn(2, 8)).dtype == torch.float32
    with pytest.raises(InputError, match="reflect"):
        sparse.SparseConv2d.from_dense(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(InputError, match="up to 32"):
        sparse.SparseConv2d.from_dense(nn.Conv2d(1, 1, 40, 40))
    with pytest.raises(InputError, match="height of 5"):
        sparse.pack(torch.ones(8, 8), 5)
    with pytest.raises(InputError, match=r"not torch\.int64"):
        sparse.pack(torch.ones(8, 8, dtype=torch.long))
    with pytest.raises(UnknownNameError, match="relu"):
        sparse.SparseLinear.from_dense(nn.Linear(2, 2), activation="rely")
    with pytest.raises(InputError, match="there are no sparse kernels for 'sse9'"):
        sparse.use_variant("sse9")


def test_operators_keep_torchs_contract() -> None:
    x = torch.randn(5, 40, requires_grad=True)
    layer = sparse.SparseLinear.from_dense(linear(40, 24, 4, 0.3, 0), 4)
    packed = (layer.starts, layer.columns, layer.values)
    torch.library.opcheck(torch.ops.secateur.sparse_linear.default, (x, *packed, layer.bias, 24, 4))
    images = torch.randn(2, 6, 9, 9, requires_grad=True)
    sliding = sparse.SparseConv2d.from_dense(nn.Conv2d(6, 8, 3, 2, 1), 8)
    torch.library.opcheck(
        torch.ops.secateur.sparse_conv2d.default,
        (
            images, sliding.starts, sliding.columns, sliding.values, None, 8,
            [3, 3], [2, 2], [1, 1, 1, 1], [1, 1], 1, 1,
        ),
    )  # fmt: skip


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    dense = nn.Conv2d(3, 8, 3, padding=1)
    return nn.Sequential(
        sparse.SparseConv2d.from_dense(dense, 4, "relu"),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        sparse.SparseLinear.from_dense(linear(128, 10, 1, 0.2, 0)),
    ).eval()


def test_compiled_and_exported_models_compute_the_same(model: nn.Sequential) -> None:
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        expected = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), expected)
        batch = torch.export.Dim("batch", min=1, max=64)
        exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
        assert torch.equal(exported.module()(x), expected)
        other = torch.randn(5, 3, 12, 12)
        assert torch.equal(exported.module()(other), model(other))


def test_gradients_under_compile(model: nn.Sequential) -> None:
    def slope(network: nn.Module) -> Tensor:
        x = torch.linspace(-1, 1, 3 * 144).reshape(1, 3, 12, 12).requires_grad_()
        (found,) = torch.autograd.grad(network(x).square().sum(), x)
        return found

    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(slope(compiled), slope(model))


@pytest.mark.slow
def test_inductor(model: nn.Sequential) -> None:
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model)(x), model(x))


def test_stripes_and_shapes_leave_only_what_lives() -> None:
    torch.manual_seed(0)
    dense = nn.Conv2d(16, 32, 3, padding=1)
    with torch.no_grad():
        dense.weight[:, :, 0] = 0  # stripe-wise: a row of positions is dead
        dense.weight[:, 3] = 0  # and so is a channel, shape-wise
    layer = sparse.SparseConv2d.from_dense(dense)
    assert layer.values.shape == (2 * 15 * 6, 16)
    x = torch.randn(1, 16, 10, 10)
    expected = functional.conv2d(x, dense.weight, dense.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)


def test_whoever_watches_sees_the_operator(model: nn.Sequential) -> None:
    """The way around the dispatcher is for when nobody is there."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.randn(1, 3, 12, 12)
    with torch.no_grad(), Watching():
        model(x)
    assert torch.ops.secateur.sparse_linear.default in seen
    assert torch.ops.secateur.sparse_conv2d.default in seen
    with torch.inference_mode():
        inferred = model(x)
    assert torch.equal(inferred, model(x))
    assert model(x.requires_grad_()).requires_grad
    traced = torch.jit.trace(model, x.detach(), check_trace=False)
    assert torch.equal(traced(x.detach() * 2), model(x.detach() * 2))


@pytest.mark.parametrize("height", [1, 4, 16])
@pytest.mark.parametrize("channels", [300, 700])
def test_tiles_of_unlike_widths_take_their_parts_apart(
    variant: str, channels: int, height: int
) -> None:
    """How many parts are taken at once depends on the width, which differs from tile to tile."""
    generator = torch.Generator().manual_seed(0)
    dense = nn.Conv2d(channels, 40, 1)
    with torch.no_grad():
        dense.weight.copy_(masked(dense.weight, height, 0.3, generator))
    layer = sparse.SparseConv2d.from_dense(dense, height, "relu6")
    for rows in (2, 7, 11, 13, 19):
        x = torch.randn(1, channels, rows, 12, generator=generator)
        with using(variant), torch.no_grad():
            found = layer(x)
        exact = functional.relu6(
            functional.conv2d(x.double(), dense.weight.double(), dense.bias.double())
        )
        assert_near(found, exact.detach(), channels)
