"""ONNX files that compute what the model computes, or one clear error and no file."""

from __future__ import annotations

import importlib
import warnings

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import ExportError, InputError, MissingExtraError
from secateur.export import Exported, export
from secateur.export.check import difference

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def conv_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def randomise(model: nn.Module) -> nn.Module:
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.1, 1)
    return model


def run_file(path, **feed):
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: tensor.numpy() for name, tensor in feed.items()})


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("no_warnings")
def test_exports_with_a_free_batch_quietly(tmp_path, capfd):
    model = randomise(conv_net()).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = tmp_path / "deep" / "net.onnx"
    exported = export(model, torch.randn(2, 3, 8, 8), path)
    assert capfd.readouterr() == ("", "")

    assert isinstance(exported, Exported)
    assert exported.dynamic and exported.error < 1e-5
    assert exported.path == path and exported.size == path.stat().st_size > 0
    assert list(path.parent.iterdir()) == [path]
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    assert proto.opset_import[0].version == exported.opset
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert "5.weight" in {tensor.name for tensor in proto.graph.initializer}
    x = torch.randn(7, 3, 8, 8)
    (output,) = run_file(path, input=x)
    assert torch.allclose(torch.as_tensor(output), model.eval()(x), atol=1e-4)


@pytest.mark.usefixtures("no_warnings")
def test_an_example_batch_of_one_still_frees_the_batch(tmp_path):
    exported = export(conv_net(), torch.randn(1, 3, 8, 8), tmp_path / "one.onnx")
    assert exported.dynamic
    assert run_file(exported.path, input=torch.randn(4, 3, 8, 8))[0].shape == (4, 5)
    assert run_file(exported.path, input=torch.randn(1, 3, 8, 8))[0].shape == (1, 5)


def test_static_batch_on_request(tmp_path):
    exported = export(nn.Linear(3, 2), torch.randn(4, 3), tmp_path / "x.onnx", dynamic_batch=False)
    assert not exported.dynamic
    shape = onnx.load(exported.path).graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [4, 3]


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.out = nn.Linear(4, 11)
        self.out.weight = self.embedding.weight

    def forward(self, tokens, scale=1.0, mask=None, *, shift):
        hidden = self.embedding(tokens) * scale + shift
        if mask is not None:
            hidden = hidden * mask.unsqueeze(-1)
        return {"logits": self.out(hidden), "states": (hidden, hidden.mean(1))}


@pytest.mark.usefixtures("no_warnings")
def test_names_follow_forward_and_the_output(tmp_path):
    model = Named()
    inputs = {
        "tokens": torch.randint(0, 11, (2, 6)),
        "mask": torch.ones(2, 6),
        "scale": 3.0,
        "shift": torch.randn(4),
    }
    exported = export(model, inputs, tmp_path / "named.onnx")
    assert exported.inputs == ("tokens", "mask", "shift")
    assert exported.outputs == ("logits", "output_states_0", "output_states_1")
    tokens = torch.randint(0, 11, (5, 6))
    got = run_file(exported.path, tokens=tokens, mask=torch.ones(5, 6), shift=inputs["shift"])
    expected = model(tokens, 3.0, shift=inputs["shift"])["logits"]
    assert torch.allclose(torch.as_tensor(got[0]), expected, atol=1e-5)


def test_positional_and_variable_inputs_are_named(tmp_path):
    class Sum(nn.Module):
        def forward(self, first, *others, scale=1.0):
            return first + sum(others) * scale

    xs = tuple(torch.randn(3, 2) for _ in range(3))
    exported = export(Sum(), xs, tmp_path / "sum.onnx")
    assert exported.inputs == ("first", "others_0", "others_1")


def test_a_batch_fixed_in_code_becomes_static_with_a_warning(tmp_path):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 2)

        def forward(self, x):
            return self.linear(x.reshape(4, 6))

    with pytest.warns(UserWarning, match=r"batch size is fixed at 4 in fixed\.onnx: .*batch of 5"):
        exported = export(Fixed(), torch.randn(4, 2, 3), tmp_path / "fixed.onnx")
    assert not exported.dynamic and exported.error < 1e-5


def test_a_batch_read_by_python_becomes_static_with_a_warning(tmp_path):
    class Reads(nn.Module):
        def forward(self, x):
            return x * float(int(x.shape[0]))

    with pytest.warns(UserWarning, match="batch size is fixed at 3"):
        exported = export(Reads(), torch.randn(3, 2), tmp_path / "reads.onnx")
    assert not exported.dynamic
    assert run_file(exported.path, x=torch.ones(3, 2))[0].tolist() == [[3, 3]] * 3


def test_a_graph_that_fails_at_another_batch_becomes_static(tmp_path, capfd):
    # Along its first dimension a recurrent layer runs in steps, which torch.export unrolls.
    with pytest.warns(UserWarning, match="batch size is fixed at 3") as caught:
        exported = sc.export(nn.GRU(4, 6), torch.randn(3, 2, 4), tmp_path / "gru.onnx")
    assert not exported.dynamic and exported.error < 1e-5
    assert caught[0].filename == __file__ and len(str(caught[0].message)) < 300
    assert capfd.readouterr() == ("", "")


def test_a_mismatch_is_one_error_and_no_file(tmp_path):
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    path = tmp_path / "noisy.onnx"
    path.write_bytes(b"what was there")
    model = Noisy().train()
    with pytest.raises(ExportError, match="outputs differ from the model's by") as caught:
        export(model, torch.randn(3, 4), path, dynamic_batch=False)
    assert "\n" not in str(caught.value)
    assert model.training
    assert path.read_bytes() == b"what was there" and list(tmp_path.iterdir()) == [path]
    assert export(model, torch.randn(3, 4), path, check=False).error is None
    assert path.read_bytes() != b"what was there"


def test_tolerance_decides(tmp_path):
    model, x = randomise(conv_net()), torch.randn(2, 3, 8, 8)
    with pytest.raises(ExportError, match="more than the tolerance of"):
        export(Shifting(model), x, tmp_path / "a.onnx", tolerance=1e-5, dynamic_batch=False)
    assert export(model, x, tmp_path / "b.onnx", tolerance=1e-5).error < 1e-5


class Shifting(nn.Module):
    """Differs by 1e-3 between tracing and running."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x) * (1 if torch.compiler.is_compiling() else 1.001)


@pytest.mark.parametrize("dynamic", [True, False])
def test_what_onnx_cannot_express_is_one_error(tmp_path, dynamic, capfd):
    class Exotic(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    with pytest.raises(ExportError, match="cannot be expressed in ONNX") as caught:
        export(Exotic(), torch.randn(3, 4), tmp_path / "x.onnx", dynamic_batch=dynamic)
    assert "bessel_j0" in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_control_flow_on_values_is_one_error(tmp_path, capfd):
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match="cannot be expressed in ONNX") as caught:
        export(Branches(), torch.randn(3, 4), tmp_path / "x.onnx")
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_names_the_extra(tmp_path, monkeypatch, missing):
    real = importlib.import_module

    def import_module(name, package=None):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(MissingExtraError, match=rf"'{missing}'.*secateur\[export\]"):
        export(nn.Linear(3, 2), torch.randn(1, 3), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        export(nn.Linear(3, 2), torch.randn(1, 3), tmp_path)
    with pytest.raises(InputError, match="rejects the example inputs"):
        export(nn.Linear(3, 2), torch.randn(1, 4), tmp_path / "x.onnx")
    with pytest.raises(InputError, match="hold no tensor"):
        export(nn.Linear(3, 2), (1, 2), tmp_path / "x.onnx")


def test_opset(tmp_path):
    exported = export(nn.Linear(3, 2), torch.randn(2, 3), tmp_path / "x.onnx", opset=18)
    assert exported.opset == 18


def test_parametrised_and_shared_weights(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))

        def forward(self, x):
            return self.layer(self.layer(x).relu())

    exported = export(randomise(Twice()), torch.randn(2, 4), tmp_path / "x.onnx")
    assert exported.dynamic and exported.error < 1e-5


def test_half_precision_is_allowed_its_roundings(tmp_path):
    model = nn.Linear(64, 8).half()
    exported = export(model, torch.randn(2, 64).half(), tmp_path / "half.onnx")
    assert exported.error < 16 * 2**-10


def test_outputs_that_repeat_or_pass_through(tmp_path):
    class Repeats(nn.Module):
        def forward(self, x):
            y = x * 2
            return y, y, x

    exported = export(Repeats(), torch.randn(2, 3), tmp_path / "x.onnx")
    x = torch.randn(4, 3)
    outputs = [torch.as_tensor(output) for output in run_file(exported.path, x=x)]
    assert [torch.equal(a, b) for a, b in zip(outputs, (2 * x, 2 * x, x), strict=True)] == [
        True
    ] * 3


def test_a_pruned_model(tmp_path):
    model, x = randomise(conv_net()), torch.randn(2, 3, 8, 8)
    dense = sc.export(model, x, tmp_path / "dense.onnx")
    sc.prune(model, x, budget={"params": 0.5})
    small = sc.export(model, x, tmp_path / "small.onnx")
    assert small.dynamic and small.error < 1e-5
    assert small.size < dense.size


def test_difference_is_relative_and_strict_about_infinities():
    one = torch.tensor([1.0, float("inf"), float("nan")])
    assert difference(one, one.clone()) == 0
    assert difference(one, torch.tensor([1.0, 2.0, float("nan")])) == float("inf")
    assert difference(torch.tensor([1.0]), torch.tensor([float("nan")])) == float("inf")
    assert difference(torch.tensor([0.0]), torch.tensor([0.5])) == 0.5
    assert difference(torch.tensor([True]), torch.tensor([False])) == 1
    assert difference(torch.zeros(0), torch.zeros(0)) == 0
