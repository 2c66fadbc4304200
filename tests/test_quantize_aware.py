"""Training for 8 bits: grids, gradients, masks, and integers that are the ones trained for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import InputError, NothingToPruneError, UnknownNameError
from secateur.export import quantize
from secateur.quantization.grid import activation_steps, on_grid


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 9, 4),
    )


def batches(count: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        x = torch.randn(32, 3, 8, 8, generator=generator)
        made.append((x, x.mean((2, 3)).argmax(1)))
    return made


def steps_of(weight: torch.Tensor, levels: int) -> torch.Tensor:
    rows = weight.detach().reshape(len(weight), -1)
    return (rows / (rows.abs().amax(1, keepdim=True) / levels)).double()


@pytest.mark.parametrize(("reduce_range", "levels"), [(True, 64), (False, 127)])
def test_weights_are_whole_steps_of_their_channel(reduce_range: bool, levels: int) -> None:
    model, plain = net(), net()
    aware = sc.quantize_aware(model, reduce_range=reduce_range)
    assert aware.layers == ["0.weight", "3.weight", "6.weight"]
    for at in (0, 3, 6):
        rounded, given = model[at].weight, plain[at].weight
        steps = steps_of(rounded, levels)
        assert torch.allclose(steps, steps.round(), atol=1e-3)
        assert steps.abs().max() <= levels + 1e-3
        step = given.abs().flatten(1).amax(1) / levels
        assert ((rounded - given).abs().flatten(1) <= step[:, None] * 0.5001).all()
    aware.finish()
    assert list(model.state_dict()) == list(plain.state_dict())
    steps = steps_of(model[3].weight, levels)
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert not model[0]._forward_pre_hooks


def test_gradients_pass_and_stop_at_the_ends_of_the_range() -> None:
    x = torch.linspace(-2, 2, 41, requires_grad=True)
    step, zero = activation_steps(-1.0, 1.0)
    y = on_grid(x, step, -zero, 255 - zero)
    y.sum().backward()
    inside = (x >= -zero * step) & (x <= (255 - zero) * step)
    assert x.grad is not None and torch.equal(x.grad, inside.float())
    assert 0.0 in y.tolist() and float((y - x.clamp(-1.004, 1.0)).abs().max()) <= 0.0041


@pytest.mark.parametrize("values", [(0.0, 0.0), (0.1, 3.0), (-5.0, -1.0), (-1e-30, 1e-30), (-3, 8)])
def test_zero_is_exactly_a_step_of_every_range(values) -> None:
    step, zero = activation_steps(*values)
    assert 0 <= zero <= 255 and step > 0
    found = on_grid(torch.tensor([0.0, values[0], values[1]]), step, -zero, 255 - zero)
    assert found[0] == 0 and (found[1:] - torch.tensor(values)).abs().max() <= step


def test_ranges_move_in_training_only() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    names = list(model.state_dict()), [name for name, _ in model.named_buffers()]
    aware = sc.quantize_aware(model, momentum=0.5)
    model.train()(torch.tensor([[-1.0, 0, 0, 3.0]]))
    assert aware.ranges == {"0": (-1.0, 3.0)}
    model(torch.tensor([[-2.0, 0, 0, 1.0]]))
    assert aware.ranges == {"0": (-1.5, 2.0)}
    model.eval()(torch.tensor([[-9.0, 0, 0, 9.0]]))
    assert aware.ranges == {"0": (-1.5, 2.0)}
    aware.finish()
    assert (list(model.state_dict()), [name for name, _ in model.named_buffers()]) == names


def test_masked_weights_stay_zero_and_the_rest_learns() -> None:
    model, data = net(), batches()
    sc.prune(model, data[0][0][:2], granularity="element", budget={"sparsity": 0.7})
    masks = sc.masks_of(model)
    aware = sc.quantize_aware(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        for x, y in data:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model.train()(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    before = model.eval()(data[0][0])
    for name, mask in masks.items():
        assert not model.get_submodule(name.rpartition(".")[0]).weight[~mask].any()
    aware.finish()
    assert sc.masks_of(model).keys() == masks.keys()
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any() and weight[mask].any()
        assert torch.equal(sc.masks_of(model)[name], mask)
    # Weights are what they were in use; only inputs are not rounded any more.
    assert (model(data[0][0]) - before).abs().max() / before.abs().max() < 0.1


@pytest.mark.parametrize("reduce_range", [True, False])
def test_the_integers_of_the_file_are_those_that_were_trained(tmp_path: Path, reduce_range) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    data = batches()
    sc.prune(model, data[0][0][:2], granularity="element", budget={"sparsity": 0.5})
    aware = sc.quantize_aware(model, reduce_range=reduce_range)
    sc.recover(model, data, epochs=1, lr=0.01)
    aware.finish()
    made = quantize(model, data[0][0][:2], tmp_path / "q.onnx", data, reduce_range=reduce_range)
    arrays = {
        each.name: torch.tensor(onnx.numpy_helper.to_array(each))
        for each in onnx.load(made.path).graph.initializer
    }
    # Same shape, or transposed for a matrix product.
    for weight in (model[0].weight.detach(), model[3].weight.detach()):
        found = 0
        for name, whole in arrays.items():
            if whole.dtype != torch.int8 or whole.numel() != weight.numel():
                continue
            whole = whole if whole.shape == weight.shape else whole.T
            scale = arrays[name.replace("_quantized", "_scale")]
            step = scale.reshape(-1, *[1] * (weight.ndim - 1))
            # Scales were found anew from what is left; every zero is the integer 0.
            assert torch.equal(whole == 0, weight == 0)
            assert torch.allclose(whole * step, weight, atol=1e-3 * float(weight.abs().max()))
            found += 1
        assert found == 1


def test_steps_follow_what_pruning_left(tmp_path: Path) -> None:
    """The largest weight of a channel goes: the steps become finer."""
    weight = torch.tensor([[8.0, 0.3, -0.2], [1.0, 0.5, 0.1]])
    layer = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    sc.apply_masks(layer, {"weight": torch.tensor([[False, True, True], [True, True, True]])})
    aware = sc.quantize_aware(layer, activations=False)
    aware.finish()
    assert layer.weight[0].tolist() == pytest.approx([0.0, 0.3, -43 * 0.3 / 64])


@pytest.mark.parametrize("method", ["weight_only", "dynamic"])
def test_torchao_keeps_the_zeros_of_linear_layers(method) -> None:
    pytest.importorskip("torchao")
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
    x = torch.randn(8, 64)
    sc.prune(model, x, granularity="element", budget={"sparsity": 0.8})
    before = {name: t.clone() for name, t in model.state_dict().items()}
    small = sc.quantize_linear(model, method)
    expected, found = model.eval()(x), small(x)
    assert 0 < (found - expected).abs().max() / expected.abs().max() < 0.05
    for at in (0, 2):
        held = small[at].weight
        plain = (getattr(held, "original_weight_tensor", held)).dequantize()
        assert plain.any() and not plain[model[at].weight == 0].any()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert sc.masks_of(model)


def test_what_cannot_be_quantised_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="momentum"):
        sc.quantize_aware(net(), momentum=1.0)
    with pytest.raises(NothingToPruneError):
        sc.quantize_aware(nn.Sequential(nn.ReLU()))
    skipped = sc.quantize_aware(nn.Sequential(nn.LSTM(5, 3), nn.Linear(3, 2))).skipped
    assert ("0.weight_ih_l0", "LSTM is not computed in integers") in skipped
    with pytest.raises(UnknownNameError, match="did you mean 'dynamic'"):
        sc.quantize_linear(net(), "dynamik")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no linear layer"):
        sc.quantize_linear(nn.Sequential(nn.Conv2d(1, 1, 1)))
