"""Every target computes what the model computes, or one clear error and no file."""

from __future__ import annotations

import shlex
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import ExportError, InputError, MissingExtraError, UnknownNameError
from secateur.export import TARGETS, trtexec_line
from secateur.export.check import random_like, worst_difference

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


class Net(nn.Module):
    """Two inputs by name, two outputs, norms and a number that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(8, 5)

    def forward(self, image, scale=1.0, *, shift):
        y = self.norm(self.conv(image)).relu().mean((2, 3)) * scale + shift
        return {"logits": self.out(y), "features": y}


def net() -> Net:
    model = Net()
    model.norm.running_var.uniform_(0.5, 2)
    model.norm.running_mean.uniform_(-1, 1)
    return model.train()


INPUTS = {"image": torch.randn(2, 3, 8, 8), "scale": 2.0, "shift": torch.randn(2, 8)}


def of(values: dict, batch: int) -> dict:
    torch.manual_seed(batch)
    return {**values, "image": torch.randn(batch, 3, 8, 8), "shift": torch.randn(batch, 8)}


def test_an_openvino_file_runs_at_any_batch(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model = net()
    made = sc.export(model, INPUTS, tmp_path / "new" / "m.xml")
    files = sorted(tmp_path.joinpath("new").iterdir())
    assert [file.name for file in files] == ["m.bin", "m.xml"]
    assert (
        made.target == "openvino"
        and made.dynamic
        and made.size == sum(file.stat().st_size for file in files)
    )
    assert made.error is not None and made.error < 1e-5 and model.training
    from secateur.latency.runtimes import openvino_core

    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core().compile_model(str(made.path), "CPU", hints)
    given = of(INPUTS, 5)
    output = compiled({"image": given["image"].numpy(), "shift": given["shift"].numpy()})
    expected = model.eval()(**given)
    for name in ("logits", "features"):
        assert torch.allclose(torch.from_numpy(output[name]), expected[name], atol=1e-4)
    assert openvino.__version__


def test_a_program_of_pytorch_is_called_as_the_model_is(tmp_path: Path) -> None:
    model = net()
    made = sc.export(model, INPUTS, tmp_path / "m.pt2")
    assert made.target == "torch" and made.dynamic and made.opset is None
    assert made.error is not None and made.error < 1e-5 and model.training
    assert made.inputs == ("image", "shift") and made.outputs == ("logits", "features")
    program = torch.export.load(made.path).module()
    given = of(INPUTS, 7)
    expected = model.eval()(**given)
    output = program(**given)
    assert all(torch.allclose(output[name], expected[name], atol=1e-5) for name in expected)


def test_a_pruned_model_with_one_example_keeps_a_free_batch(tmp_path: Path) -> None:
    from secateur.models import small_resnet

    model = small_resnet()
    x = torch.randn(1, 1, 16, 16)
    sc.prune(model, x, budget={"macs": 0.5})
    made = sc.export(model, x, tmp_path / "m.pt2")
    many = torch.randn(9, 1, 16, 16)
    assert made.dynamic
    found = torch.export.load(made.path).module()(many)
    assert torch.allclose(found, model.eval()(many), atol=1e-4)


@pytest.mark.slow
def test_a_compiled_program_runs_without_the_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    made = sc.export(model, torch.randn(2, 8), tmp_path / "m.pt2", target="aoti")
    assert made.target == "aoti" and made.error is not None and made.error < 1e-5
    from torch._inductor import aoti_load_package

    x = torch.randn(5, 8)
    assert torch.allclose(aoti_load_package(str(made.path))(x), model(x), atol=1e-5)


def test_a_batch_that_code_fixes_stays_fixed_with_a_warning(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, 4).sum(1)

    with pytest.warns(UserWarning, match="the batch size is fixed at 2"):
        made = sc.export(Fixed(), torch.randn(2, 4), tmp_path / "m.pt2")
    assert not made.dynamic and made.error == 0


def test_what_differs_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def module(self):
            return lambda x: torch.zeros(len(x), 3)

    monkeypatch.setattr(torch.export, "load", lambda path: Wrong())
    with pytest.raises(ExportError, match="PyTorch's outputs differ from the model's by 1"):
        sc.export(nn.Linear(8, 3), torch.randn(2, 8), tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_random_inputs_are_like_the_given_ones_and_are_compared() -> None:
    x, tokens = 3 + 5 * torch.randn(400, 10), torch.randint(9, (40,))
    wide, shuffled = random_like([x, tokens])
    assert abs(float(wide.mean()) - 3) < 0.5 and abs(float(wide.std()) - 5) < 0.5
    assert not torch.equal(wide, x) and torch.equal(shuffled.sort()[0], tokens.sort()[0])
    # Right on the examples alone is not enough.
    known = torch.ones(4, 2)
    cases = [[known], random_like([torch.randn(4, 2)])]
    with pytest.raises(ExportError, match="differ"):
        worst_difference(lambda t: [t * 2], lambda t: [t[0] + 1], cases, 1e-4, "it")
    assert worst_difference(lambda t: [t * 2], lambda t: [t[0] + t[0]], cases, 1e-4, "it") == 0


def test_tensorrt_leaves_the_onnx_file_and_the_exact_command(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    if "tensorrt" in sys.modules:
        pytest.skip("tensorrt is installed: it builds an engine")
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
    x = torch.randn(4, 64)
    sc.prune(model, x, granularity="2:4")
    with pytest.warns(UserWarning, match="tensorrt is not installed"):
        made = sc.export(model, x, tmp_path / "m.engine")
    assert made.path == tmp_path / "m.onnx" and made.target == "tensorrt"
    assert shlex.split(made.command or "") == [
        "trtexec", f"--onnx={made.path}", f"--saveEngine={tmp_path / 'm.engine'}", "--fp16",
        "--sparsity=enable", "--minShapes=input:1x64", "--optShapes=input:4x64",
        "--maxShapes=input:32x64",
    ]  # fmt: skip
    # What the flag looks for: two of four along what is summed over, in every weight.
    graph = onnx.load(made.path).graph
    to_array = onnx.numpy_helper.to_array
    weights = {each.name: torch.tensor(to_array(each)) for each in graph.initializer}
    summed = {}
    for node in graph.node:
        if node.op_type in ("Gemm", "MatMul"):
            flags = {each.name: each.i for each in node.attribute}
            weight = weights[node.input[1]]
            summed[node.input[1]] = weight if flags.get("transB") else weight.T
    assert len(summed) == 2
    for weight in summed.values():
        assert bool((weight.reshape(-1, 4) != 0).sum(1).eq(2).all())


def test_convolutions_keep_two_of_four_in_the_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = nn.Sequential(nn.Conv2d(16, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    model[1].running_var.uniform_(0.5, 2)
    x = torch.randn(1, 16, 8, 8)
    sc.prune(model, x, granularity="2:4")
    made = sc.export(model, x, tmp_path / "m.onnx")
    arrays = [onnx.numpy_helper.to_array(each) for each in onnx.load(made.path).graph.initializer]
    (weight,) = [torch.tensor(array) for array in arrays if array.ndim == 4]
    runs = weight.permute(0, 2, 3, 1).reshape(-1, 4)
    assert bool((runs != 0).sum(1).le(2).all())


def fake_tensorrt(noted: dict, parses: bool = True) -> types.ModuleType:
    """What this package calls of TensorRT, noting it: no engine can be built without a GPU."""
    module = types.ModuleType("tensorrt")
    module.__spec__ = types.SimpleNamespace(name="tensorrt")  # type: ignore[assignment]

    class Settings:
        def set_flag(self, flag):
            noted["flags"].append(flag)

        def add_optimization_profile(self, profile):
            noted["profile"] = profile

    class Profile(dict):
        def set_shape(self, name, *shapes):
            self[name] = shapes

    class Builder:
        def __init__(self, log):
            pass

        def create_network(self, flags):
            return "network"

        def create_builder_config(self):
            return Settings()

        def create_optimization_profile(self):
            return Profile()

        def build_serialized_network(self, network, settings):
            return memoryview(b"an engine")

    class OnnxParser:
        def __init__(self, network, log):
            pass

        def parse_from_file(self, path):
            noted["read"] = Path(path).read_bytes()
            return parses

        def get_error(self, number):
            return "no such operation"

    module.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    module.BuilderFlag = types.SimpleNamespace(FP16="half", SPARSE_WEIGHTS="sparse")
    module.Builder, module.OnnxParser = Builder, OnnxParser
    return module


@pytest.mark.parametrize("parses", [True, False])
def test_where_tensorrt_is_installed_it_builds_the_engine(tmp_path, monkeypatch, parses) -> None:
    noted: dict = {"flags": []}
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(noted, parses))
    model, x = nn.Linear(8, 4), torch.randn(2, 8)
    if not parses:
        with pytest.raises(ExportError, match="no such operation"):
            sc.export(model, x, tmp_path / "m.engine")
        assert not (tmp_path / "m.engine").exists()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = sc.export(model, x, tmp_path / "m.engine")
    assert made.path.read_bytes() == b"an engine" and made.size == 9
    assert noted["flags"] == ["half", "sparse"]
    assert noted["profile"] == {"input": ([1, 8], [2, 8], [16, 8])}
    assert noted["read"] == (tmp_path / "m.onnx").read_bytes()
    assert trtexec_line(Path("a b.onnx"), Path("c")).startswith("trtexec '--onnx=a b.onnx'")


def test_an_executorch_program_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("executorch.runtime")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    made = sc.export(model, torch.randn(2, 3, 8, 8), tmp_path / "m.pte")
    assert made.target == "executorch" and not made.dynamic and made.path.stat().st_size > 0
    assert made.error is not None and made.error < 1e-4


def test_what_cannot_be_is_one_clear_error(tmp_path: Path, monkeypatch) -> None:
    model, x = nn.Linear(8, 4), torch.randn(2, 8)
    with pytest.raises(UnknownNameError, match="did you mean 'openvino'"):
        sc.export(model, x, tmp_path / "m", target="openvno")
    with pytest.raises(InputError, match="no ONNX operator set"):
        sc.export(model, x, tmp_path / "m.pt2", opset=18)
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(MissingExtraError, match=r"secateur\[executorch\]"):
        sc.export(model, x, tmp_path / "m.pte")

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    with pytest.warns(UserWarning), pytest.raises(ExportError, match=r"torch\.export cannot"):
        sc.export(Branching(), x, tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir()) and set(TARGETS) == {
        "onnx", "openvino", "torch", "aoti", "executorch", "tensorrt"
    }  # fmt: skip
