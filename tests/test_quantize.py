"""Models in 8-bit integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import InputError, UnknownNameError
from secateur.export import quantize
from secateur.export.check import OnnxSession

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 3 * 3, 10),
    ).eval()


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(16, 3, 8, 8, generator=generator), torch.zeros(16, dtype=torch.int64))
        for _ in range(4)
    ]


def kinds(path: Path) -> dict[int, int]:
    """How many weights there are of each type."""
    found: dict[int, int] = {}
    for tensor in onnx.load(path).graph.initializer:
        size = 1
        for dim in tensor.dims:
            size *= dim
        found[tensor.data_type] = found.get(tensor.data_type, 0) + size
    return found


@pytest.mark.parametrize("calibration", ["minmax", "entropy", "percentile"])
def test_weights_and_activations_become_integers(calibration: str, tmp_path: Path) -> None:
    model, data = net(), batches()
    made = quantize(
        model, data[0][0][:2], tmp_path / "new" / "q.onnx", data, calibration=calibration
    )
    weights = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert kinds(made.path)[onnx.TensorProto.INT8] >= weights
    assert "DequantizeLinear" in {node.op_type for node in onnx.load(made.path).graph.node}
    assert made.size < 0.6 * made.dense_size and made.size == made.path.stat().st_size
    images = data[0][0]
    with torch.no_grad():
        expected = model(images)
    (actual,) = OnnxSession(made.path)(made.inputs, [images])
    assert actual.shape == expected.shape
    scale = expected.abs().max()
    assert 0 < (actual - expected).abs().max() / scale < 0.1 and 0 < made.error < 0.1


def test_linear_layers_are_quantised_without_data(tmp_path: Path) -> None:
    model, images = net(), batches()[0][0]
    made = quantize(model, images[:2], tmp_path / "q.onnx", method="dynamic")
    assert kinds(made.path)[onnx.TensorProto.INT8] >= model[5].weight.numel()
    with torch.no_grad():
        expected = model(images)
    (actual,) = OnnxSession(made.path)(made.inputs, [images])
    assert 0 < (actual - expected).abs().max() / expected.abs().max() < 0.05


def test_large_activations_do_not_overflow(tmp_path: Path) -> None:
    """Pairs of large products do not fit into 16 bits, where one factor has 8 and is unsigned."""
    model = nn.Sequential(nn.Conv2d(64, 64, 1, bias=False), nn.Flatten()).eval()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    images = torch.full((2, 64, 1, 1), 3.0)
    made = quantize(model, images, tmp_path / "q.onnx", [(images, None)])
    (actual,) = OnnxSession(made.path)(made.inputs, [images])
    torch.testing.assert_close(actual, torch.full((2, 64), 192.0), rtol=0.02, atol=0)


def test_openvino_computes_the_same_integers(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from secateur.export.openvino import OpenVinoSession

    model, data = net(), batches()
    images = data[0][0]
    made = quantize(model, images[:2], tmp_path / "q.xml", data)
    assert {file.name for file in tmp_path.iterdir()} == {"q.xml", "q.bin"}
    session = OpenVinoSession(made.path)
    (actual,) = session(made.inputs, [images])
    with torch.no_grad():
        expected = model(images)
    assert 0 < (actual - expected).abs().max() / expected.abs().max() < 0.1
    # What the plugin says that it runs, layer by layer.
    told = [node.get_rt_info() for node in session.model.get_runtime_model().get_ordered_ops()]
    ran = {each["layerType"].astype(str): each["runtimePrecision"].astype(str) for each in told}
    assert ran["Convolution"] in ("u8", "i8")


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_zeros_of_pruned_weights_are_the_integer_zero(method: str, tmp_path: Path) -> None:
    model, data = net(), batches()
    images = data[0][0]
    sc.prune(
        model, images[:2], granularity="element", allocation="uniform", budget={"sparsity": 0.8}
    )
    made = quantize(model, images[:2], tmp_path / "q.onnx", data, method=method)  # type: ignore[arg-type]
    sizes = {model[5].weight.numel()} | ({model[2].weight.numel()} if method == "static" else set())
    zeros = {5: int((model[5].weight == 0).sum()), 2: int((model[2].weight == 0).sum())}
    arrays = [onnx.numpy_helper.to_array(each) for each in onnx.load(made.path).graph.initializer]
    found = [array for array in arrays if array.dtype == "int8" and array.size in sizes]
    assert len(found) == len(sizes)
    for array in found:
        # Small weights may round to zero as well; none that was pruned may leave it.
        pruned = next(at for at in (2, 5) if model[at].weight.numel() == array.size)
        assert (array == 0).sum() >= zeros[pruned]
        assert (array == 0).mean() < 0.9


def test_what_cannot_be_quantised_is_one_clear_error(tmp_path: Path) -> None:
    model, images = net(), batches()[0][0]
    path = tmp_path / "q.onnx"
    with pytest.raises(InputError, match="pass batches as data="):
        quantize(model, images, path)
    with pytest.raises(UnknownNameError, match="did you mean 'static'"):
        quantize(model, images, path, [], method="statc")
    with pytest.raises(UnknownNameError, match="did you mean 'entropy'"):
        quantize(model, images, path, [], calibration="entropie")
    with pytest.raises(InputError, match="at least one batch"):
        quantize(model, images, path, [])
    assert not list(tmp_path.iterdir())
