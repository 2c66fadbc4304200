"""Saved and loaded is bit for bit what was in memory, or one clear error and an untouched model."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import secateur as sc
from secateur import Plan, container, history, load, save
from secateur.errors import FileFormatError, InputError, PlanError, SecateurError
from secateur.plan import Rescale


class Net(nn.Module):
    """Convolutions, batch norm, tied linear layers, buffers of both kinds."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8, 6)
        self.again = nn.Linear(8, 6, bias=False)
        self.again.weight = self.hidden.weight
        self.register_buffer("offset", torch.arange(8.0))
        self.register_buffer("scale", torch.linspace(1, 2, 8), persistent=False)

    def forward(self, x):
        y = self.norm(self.conv(x)).relu().mean((2, 3)) * self.scale + self.offset
        return self.hidden(y) - self.again(y.sin())


def channels(removed: list[int], size: int = 8) -> Plan:
    """Remove output channels of `conv` from everything that they are coupled to."""
    rows = ["conv.weight", "conv.bias", "offset", "scale"]
    rows += [f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    shapes = {name: [size] for name in rows}
    shapes["conv.weight"] = [size, 3, 3, 3]
    shapes["hidden.weight"] = [6, size]
    left = size - len(removed)
    return Plan(
        removed={**{name: {0: removed} for name in rows}, "hidden.weight": {1: removed}},
        shapes=shapes,
        attributes={
            "conv": {"out_channels": left},
            "norm": {"num_features": left},
            "hidden": {"in_features": left},
            "again": {"in_features": left},
        },
        settings={"criterion": "by hand"},
    )


def pruned(seed: int = 1) -> Net:
    model = Net(seed)
    randomise(model)
    channels([1, 4, 5]).apply(model)
    return model


def randomise(model: nn.Module) -> None:
    """Fresh norms and zeros would hide wrong indices."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point() and tensor.shape != (8,):
            tensor.data.uniform_(0.5, 1.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5)


def outputs(model: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    if not inputs:
        inputs = (torch.linspace(-1, 1, 2 * 3 * 36).reshape(2, 3, 6, 6),)
        inputs = (inputs[0].to(next(model.parameters()).dtype),)
    training = model.training
    with torch.no_grad():
        result = model.eval()(*inputs)
    model.train(training)
    return result


def fingerprint(model: nn.Module) -> list:
    """Everything of a model that loading could disturb: objects, values, memory, attributes."""
    marks = []
    for path, module in model.named_modules(remove_duplicate=False):
        for key, value in sorted(vars(module).items()):
            if key in ("_parameters", "_buffers"):
                for name, tensor in value.items():
                    if tensor is None:
                        marks.append((path, name, None))
                        continue
                    bits = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
                    grad = tensor.grad
                    marks.append(
                        (path, name, id(tensor), tensor.data_ptr(), tuple(tensor.stride()))
                    )
                    marks.append((tensor.requires_grad, str(tensor.dtype), bits.tobytes()))
                    marks.append(None if grad is None else (id(grad), grad.tolist()))
            else:
                marks.append((path, key, repr(value)))
    return marks


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "small.safetensors"


def test_round_trip_is_bit_equal_in_the_same_object(path):
    model = pruned()
    assert save(model, path) == path
    fresh = Net(seed=7)
    weight = fresh.conv.weight
    loaded = load(fresh, path)
    assert loaded is fresh and loaded.conv.weight is weight
    assert loaded.conv.out_channels == 5 and loaded.norm.num_features == 5
    assert loaded.training
    assert torch.equal(outputs(loaded), outputs(model))
    assert loaded.again.weight is loaded.hidden.weight
    assert history(loaded) == history(model) == [channels([1, 4, 5])]
    assert history(loaded)[0].settings == {"criterion": "by hand"}


def test_dense_model(path):
    model = Net(3)
    save(model, path)
    assert torch.equal(outputs(load(Net(4), path)), outputs(model))


def test_several_plans_replay_in_order(path):
    model = pruned()
    second = channels([0, 2], size=5)
    second.apply(model)
    save(model, path)
    loaded = load(Net(7), path)
    assert loaded.conv.out_channels == 3
    assert history(loaded) == [channels([1, 4, 5]), second]
    assert torch.equal(outputs(loaded), outputs(model))
    again = path.with_name("again.safetensors")
    save(loaded, again)
    assert torch.equal(outputs(load(Net(8), again)), outputs(model))


def test_training_goes_on_where_it_was_saved(path):
    model = pruned()
    save(model, path)
    saved = outputs(model)
    with torch.no_grad():
        model.conv.weight.zero_()
    assert torch.equal(outputs(load(model, path)), saved)
    channels([0], size=5).apply(model)
    save(model, path)
    one_step_behind = load(pruned(5), path)
    assert torch.equal(outputs(one_step_behind), outputs(model))


def test_a_copy_of_the_model_saves_as_well(path):
    model = copy.deepcopy(pruned())
    save(model, path)
    assert torch.equal(outputs(load(Net(7), path)), outputs(model))


def test_what_prune_did_comes_back(path):
    def build(seed):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=2),
            nn.Flatten(),
            nn.Linear(8 * 4, 5),
        )

    model, x = build(0), torch.randn(2, 3, 6, 6)
    randomise(model)
    first = sc.prune(model, x, budget={"macs": 0.7})
    second = sc.prune(model, x, budget={"macs": 0.7}, allocation="uniform")
    sc.save(model, path)
    loaded = sc.load(build(1), path)
    assert torch.equal(outputs(loaded, x), outputs(model, x))
    assert sc.history(loaded) == [first.plan, second.plan]
    assert sc.profile(loaded, x).macs == second.after.macs


def test_bit_equal_in_a_fresh_process(path, tmp_path):
    model = pruned()
    save(model, path)
    save_file({"expected": outputs(model)}, tmp_path / "expected.safetensors")
    code = (
        "import sys, torch\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "torch.set_num_threads(1)\n"
        "from test_persist import Net, outputs, load\n"
        "from safetensors.torch import load_file\n"
        f"model = load(Net(99), {str(path)!r})\n"
        f"expected = load_file({str(tmp_path / 'expected.safetensors')!r})['expected']\n"
        "assert torch.equal(outputs(model), expected)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_pickles(path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle was used")

    for module in (pickle, torch.serialization):
        for name in ("load", "loads", "dump", "dumps", "save", "Unpickler", "Pickler"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, refuse)
    model = pruned()
    save(model, path)
    load(Net(7), path)


def test_other_tools_can_read_the_file(path):
    model = pruned()
    save(model, path)
    with safe_open(path, framework="pt") as file:
        assert "hidden.weight" in file.keys() and "again.weight" not in file.keys()  # noqa: SIM118
        assert torch.equal(file.get_tensor("conv.weight"), model.conv.weight)
        header = json.loads(file.metadata()["secateur"])
    assert header["version"] == 1
    assert Plan.from_json(header["plans"][0]) == channels([1, 4, 5])


def test_buffers_that_are_not_stored_are_cut_by_the_plan(path):
    model = pruned()
    save(model, path)
    loaded = load(Net(7), path)
    kept = [0, 2, 3, 6, 7]
    assert torch.equal(loaded.scale, torch.linspace(1, 2, 8)[kept])
    with safe_open(path, framework="pt") as file:
        assert "scale" not in file.keys()  # noqa: SIM118


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_comes_from_the_file(path, dtype):
    model = pruned().to(dtype)
    save(model, path)
    loaded = load(Net(7), path)
    assert loaded.conv.weight.dtype == loaded.scale.dtype == dtype
    assert loaded.norm.num_batches_tracked.dtype == torch.int64
    assert torch.equal(outputs(loaded), outputs(model))
    loaded.train()(torch.randn(2, 3, 6, 6, dtype=dtype)).sum().backward()
    assert loaded.conv.weight.grad.dtype == dtype


def test_mixed_dtypes(path):
    model = Net()
    model.norm.double()
    save(model, path)
    loaded = load(Net(7), path)
    assert loaded.norm.weight.dtype == torch.float64
    assert loaded.conv.weight.dtype == torch.float32


def test_requires_grad_comes_from_the_file(path):
    model = pruned()
    model.conv.weight.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    save(model, path)
    fresh = Net(7)
    fresh.conv.bias.requires_grad_(False)
    loaded = load(fresh, path)
    frozen = {name for name, p in loaded.named_parameters() if not p.requires_grad}
    assert frozen == {"conv.weight", "norm.bias"}


def test_gradients_and_optimizers_work_afterwards(path):
    model = pruned()
    save(model, path)
    fresh = Net(7)
    x = torch.randn(2, 3, 6, 6)
    loss = fresh(x).sum()
    loss.backward()
    loaded = load(fresh, path)
    assert all(p.grad is None for p in loaded.parameters())
    optimizer = torch.optim.SGD(loaded.parameters(), lr=0.1)
    loaded(x).sum().backward()
    optimizer.step()
    assert loaded.conv.weight.grad.shape == (5, 3, 3, 3)


def test_ties_are_made_again(path):
    model = pruned()
    save(model, path)
    untied = Net(7)
    untied.again.weight = nn.Parameter(untied.hidden.weight.detach().clone())
    loaded = load(untied, path)
    assert loaded.again.weight is loaded.hidden.weight
    assert torch.equal(outputs(loaded), outputs(model))


class Blocks(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.first = block
        self.second = block
        self.register_buffer("table", torch.arange(4))
        self.head = nn.Linear(4, 4)
        self.head.register_buffer("table", self.table)

    def forward(self, x):
        return self.head(self.second(self.first(x)))


def test_shared_modules_and_shared_buffers(path):
    model = Blocks(nn.Linear(4, 4))
    save(model, path)
    with safe_open(path, framework="pt") as file:
        names = {"first.weight", "first.bias", "table", "head.weight", "head.bias"}
        assert set(file.keys()) == names
    loaded = load(Blocks(nn.Linear(4, 4)), path)
    assert loaded.head.table is loaded.table
    x = torch.randn(2, 4)
    assert torch.equal(outputs(loaded, x), outputs(model, x))


@pytest.mark.parametrize(
    "normalise",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
    ],
)
def test_parametrised_weights(path, normalise):
    def build():
        return nn.Sequential(normalise(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3))

    model, x = build(), torch.randn(5, 4)
    model(x)
    save(model, path)
    assert torch.equal(outputs(load(build(), path), x), outputs(model, x))


def test_pruned_weight_norm(path):
    def build():
        return nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)
        )

    original = "0.parametrizations.weight.original"
    plan = Plan(
        removed={
            f"{original}0": {0: [2]},
            f"{original}1": {0: [2]},
            "0.bias": {0: [2]},
            "2.weight": {1: [2]},
        },
        shapes={
            f"{original}0": [6, 1],
            f"{original}1": [6, 4],
            "0.bias": [6],
            "2.weight": [3, 6],
        },
    )
    model, x = build(), torch.randn(5, 4)
    plan.apply(model)
    save(model, path)
    loaded = load(build(), path)
    assert loaded[0].weight.shape == (5, 4)
    assert torch.equal(outputs(loaded, x), outputs(model, x))


def test_memory_layout_comes_along(path):
    model = pruned().to(memory_format=torch.channels_last)
    model.hidden.weight.data = model.hidden.weight.data.t().contiguous().t()
    save(model, path)
    loaded = load(Net(7), path)
    assert loaded.conv.weight.stride() == model.conv.weight.stride()
    assert loaded.hidden.weight.stride() == model.hidden.weight.stride()
    assert torch.equal(outputs(loaded), outputs(model))


def test_a_saved_view_does_not_bring_its_base(path):
    model = nn.Linear(4, 4, bias=False)
    base = torch.randn(1000, 4)
    model.weight.data = base[:4]
    save(model, path)
    assert path.stat().st_size < 1500
    assert torch.equal(load(nn.Linear(4, 4, bias=False), path).weight, base[:4])


def test_recurrent_layers(path):
    model, x = nn.LSTM(4, 6, num_layers=2, bidirectional=True), torch.randn(5, 2, 4)
    save(model, path)
    loaded = load(nn.LSTM(4, 6, num_layers=2, bidirectional=True), path)
    assert torch.equal(loaded(x)[0], model(x)[0])


class Odd(nn.Module):
    """Values that few models hold."""

    def __init__(self):
        super().__init__()
        self.phases = nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("scalar", torch.tensor(3))
        self.register_buffer("nothing", torch.zeros(0, 4))
        self.register_buffer("absent", None)
        self.register_buffer("small", torch.randn(4).to(torch.float8_e4m3fn))
        self.register_buffer("spread", torch.randn(3).expand(2, 3))
        self.values = nn.ParameterList([torch.tensor([float("nan"), float("inf"), -0.0])])


def test_odd_tensors(path):
    model = Odd()
    save(model, path)
    loaded = load(Odd(), path)
    for name, tensor in model.state_dict().items():
        mine = loaded.state_dict()[name]
        assert mine.dtype == tensor.dtype and mine.shape == tensor.shape
        a, b = (t.contiguous().reshape(-1).view(torch.uint8) for t in (mine, tensor))
        assert torch.equal(a, b), name


def test_masks_rescaling_and_renumbering_do_not_happen_twice(path):
    model = pruned()
    kept = torch.ones(6, 5, dtype=torch.bool)
    kept[0] = False
    Plan(
        masks={"hidden.weight": kept},
        rescaled=[Rescale("conv.weight", 0, [0], 2.0)],
        shapes={"hidden.weight": [6, 5], "conv.weight": [5, 3, 3, 3]},
    ).apply(model)
    save(model, path)
    loaded = load(Net(7), path)
    assert torch.equal(outputs(loaded), outputs(model))
    assert torch.equal(history(loaded)[1].masks["hidden.weight"], kept)


def test_a_failed_save_leaves_what_was_there(path, monkeypatch):
    model = pruned()
    save(model, path)
    content = path.read_bytes()

    def fail(tensors, draft, metadata):
        Path(draft).write_bytes(b"half of a fi")
        raise OSError("No space left on device")

    monkeypatch.setattr(container, "save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save(Net(), path)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_saving_replaces_a_file_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "model.safetensors"
    save(Net(1), path)
    save(pruned(), str(path))
    assert load(Net(), str(path)).conv.out_channels == 5
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(InputError, match="is a folder"):
        save(Net(), tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_file_has_the_usual_permissions(path, tmp_path):
    save(Net(), path)
    (tmp_path / "other").write_text("")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_saving_leaves_the_model_alone(path):
    model = pruned()
    model(torch.randn(2, 3, 6, 6)).sum().backward()
    before = fingerprint(model)
    save(model, path)
    assert fingerprint(model) == before


def assert_refused(path, model, error, match):
    for tensor in model.parameters():
        tensor.grad = torch.ones_like(tensor)
    before = fingerprint(model)
    with pytest.raises(error, match=match) as caught:
        load(model, path)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SecateurError)
    assert fingerprint(model) == before


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save(Net().state_dict(), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"text", b"\x00" * 64, b"\xff" * 64, pickled()])
def test_what_is_no_safetensors_file(path, content):
    path.write_bytes(content)
    assert_refused(path, Net(), FileFormatError, "truncated or is not a safetensors file")


def test_a_missing_file_and_a_folder(path, tmp_path):
    assert_refused(path, Net(), FileFormatError, "there is no file")
    assert_refused(tmp_path, Net(), FileFormatError, "there is no file")


def test_a_foreign_safetensors_file(path):
    save_file(dict(Net().conv.state_dict()), path)
    assert_refused(path, Net(), FileFormatError, r"secateur\.save did not write it")


@pytest.mark.parametrize("part", [0.0001, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_file(path, part):
    save(pruned(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    assert_refused(path, Net(), FileFormatError, "truncated")
    path.write_bytes(content + b"\x00")
    assert_refused(path, Net(), FileFormatError, "truncated or is not")


def test_every_flipped_bit_is_found(path):
    save(pruned(), path)
    content = path.read_bytes()
    torch.manual_seed(0)
    found = set()
    model = Net()
    before = fingerprint(model)
    # The padding after the header and the key "format", which other tools read, mean nothing.
    spare = content.index(b'"format":"pt"')
    for position in torch.randint(len(content), (150,)).tolist():
        if spare <= position < spare + 14:
            continue
        changed = bytearray(content)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        with pytest.raises(FileFormatError) as caught:
            load(model, path)
        assert "\n" not in str(caught.value)
        found.add(str(caught.value).split(str(path))[1][:12])
    assert fingerprint(model) == before
    assert any("changed" in message for message in found)


def rewritten(path, change):
    """Change the header and give it a checksum that fits, as a later version might."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["secateur"])
    change(header)
    text = json.dumps(header)
    save_file(tensors, path, {"secateur": text, "sha256": container._checksum(text, tensors)})


def test_a_later_version(path):
    save(pruned(), path)
    rewritten(path, lambda header: header.update(version=3, novelty={}))
    assert_refused(path, Net(), FileFormatError, "format version 3.*update secateur")


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda h: h.update(plans=["{"]), FileFormatError, "malformed plan"),
        (lambda h: h.update(plans=[3]), FileFormatError, "malformed plan"),
        (lambda h: h.update(plans=None), FileFormatError, "malformed"),
        (lambda h: h.pop("version"), FileFormatError, "malformed header"),
        (lambda h: h.update(surprise=1), FileFormatError, "malformed header"),
        (lambda h: h.update(complex=["nobody"]), FileFormatError, "malformed header"),
        (lambda h: h.update(strides={"conv.weight": [1, 1, 1, 1]}), FileFormatError, "strides"),
        (lambda h: h.update(tied={"again.weight": "nobody"}), PlanError, "does not fit"),
        (lambda h: h.update(plans=[]), PlanError, "is for another model"),
        (lambda h: h["plans"].append(channels([9], 10).to_json()), PlanError, "does not fit"),
        (lambda h: h["plans"].append(channels([0], 5).to_json()), PlanError, "another model"),
    ],
)
def test_headers_that_do_not_make_sense(path, change, error, match):
    save(pruned(), path)
    rewritten(path, change)
    assert_refused(path, Net(), error, match)


def test_another_architecture(path):
    save(pruned(), path)
    assert_refused(path, nn.Linear(3, 2), PlanError, "is for another model: this one has no")
    more = Net()
    more.extra = nn.Linear(2, 2)
    assert_refused(path, more, PlanError, r"the file has no 'extra\.bias'")
    renamed = Net()
    renamed.norms = renamed.norm
    del renamed.norm
    assert_refused(path, renamed, PlanError, r"no 'norm\.bias'; did you mean 'norms\.bias'")


def test_the_same_names_in_other_shapes(path):
    model = pruned()
    save(model, path)
    wider = Net()
    wider.conv = nn.Conv2d(3, 16, 3)
    assert_refused(path, wider, PlanError, r"'conv\.weight' is \[16, 3, 3, 3\]")
    # A tensor that no plan touches.
    other = Net()
    other.hidden.bias = nn.Parameter(torch.zeros(7))
    assert_refused(path, other, PlanError, r"'hidden\.bias' is \[7\] here and \[6\] there")


def test_a_model_that_other_plans_cut(path):
    save(pruned(), path)
    model = Net()
    channels([0]).apply(model)
    assert_refused(path, model, PlanError, "freshly built dense model")


def test_ties_that_only_the_model_has(path):
    untied = Net()
    untied.again.weight = nn.Parameter(torch.randn(6, 8))
    save(untied, path)
    assert_refused(path, Net(), PlanError, r"'again\.weight' and 'hidden\.weight' are tied here")


def test_ties_that_cannot_be_made(path):
    save(Net(), path)
    other = Net()
    other.again = nn.Linear(8, 7, bias=False)
    assert_refused(path, other, PlanError, "tied there and differ in shape")


def test_models_that_cannot_be_saved(path):
    with pytest.raises(InputError, match="not initialised yet"):
        save(nn.LazyLinear(3), path)
    with pytest.raises(InputError, match=r"'weight' is not a plain dense tensor \(device meta"):
        save(nn.Linear(3, 2, device="meta"), path)
    sparse = nn.Linear(3, 2)
    sparse.register_buffer("pattern", torch.eye(3).to_sparse())
    with pytest.raises(InputError, match=r"'pattern' is not a plain dense"):
        save(sparse, path)

    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

    with pytest.raises(InputError, match="without pickle"):
        save(nn.Sequential(Extra(3, 2)), path)
    assert not path.exists()


def test_loading_needs_a_real_model(path):
    save(nn.Linear(3, 2), path)
    with pytest.raises(InputError, match="meta device"):
        load(nn.Linear(3, 2, device="meta"), path)
