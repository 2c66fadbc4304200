"""What cannot be loaded is one clear error and an untouched model."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from saving import Net, channels, fingerprint, pruned
from secateur import container, load, save
from secateur.errors import FileFormatError, InputError, PlanError, SecateurError


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "small.safetensors"


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
