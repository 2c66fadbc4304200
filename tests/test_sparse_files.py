"""Files without zeros: the same model comes back, dense or masked, or one clear error."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

import secateur as sc
from secateur import container
from secateur.errors import FileFormatError, InputError, PlanError, SecateurError, UnknownNameError


def state_bits(model: nn.Module) -> dict[str, bytes]:
    return {
        name: tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, tensor in model.state_dict().items()
    }


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, bias=False),
        nn.Flatten(),
        nn.Linear(64 * 64, 32),
    )


EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(9))


def sparse(granularity: str = "element", sparsity: float | None = 0.9) -> nn.Sequential:
    model = net()
    budget = None if sparsity is None else {"sparsity": sparsity}
    sc.prune(model, EXAMPLE, granularity=granularity, budget=budget, ignore=["0"])
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sparse.safetensors"


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.parametrize("huffman", [False, True])
@pytest.mark.parametrize(
    ("granularity", "sparsity"),
    [("element", 0.9), ("2:4", None), ("vector:16", 0.8), ("block:16x32", 0.8), ("kernel", 0.8)],
)
def test_a_sparse_model_comes_back_with_its_masks(path, granularity, sparsity, huffman) -> None:
    model = sparse(granularity, sparsity)
    size = sc.save(model, path, format="sparse", huffman=huffman).stat().st_size
    dense = sc.save(model, path.with_name("dense.safetensors")).stat().st_size
    assert size < dense * (1 - model[5].weight.eq(0).float().mean() * 0.7)
    loaded = sc.load(net(1), path)
    assert same(loaded, model)
    masks, expected = sc.masks_of(loaded), sc.masks_of(model)
    assert masks.keys() == expected.keys() and masks
    assert all(torch.equal(masks[name], expected[name]) for name in masks)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(EXAMPLE), model.eval()(EXAMPLE))
    # And once more, from what was loaded.
    content = path.read_bytes()
    sc.save(loaded, path, format="sparse", huffman=huffman)
    assert sc.load(net(2), path) is not None and len(path.read_bytes()) == len(content)


def test_the_masks_stay_when_training_goes_on_and_not_without(path) -> None:
    model = sparse()
    sc.save(model, path, format="sparse")
    for masked in (True, False):
        loaded = sc.load(net(1), path, masked=masked)
        assert same(loaded, model) and bool(sc.masks_of(loaded)) == masked
        assert any(plan.masks for plan in sc.history(loaded)) == masked
        optimizer = torch.optim.SGD(loaded.parameters(), lr=0.1)
        loaded.train()(EXAMPLE).square().mean().backward()
        optimizer.step()
        zeros = model[5].weight == 0
        assert bool((loaded[5].weight[zeros] == 0).all()) == masked


@pytest.mark.parametrize("masked", [True, False])
def test_a_dense_file_loads_without_its_masks_too(path, masked) -> None:
    model = sparse()
    sc.save(model, path)
    loaded = sc.load(net(1), path, masked=masked)
    assert same(loaded, model) and bool(sc.masks_of(loaded)) == masked


def test_a_mask_is_its_own_and_not_the_zeros(path) -> None:
    """A weight that is zero by itself is not masked, and a mask that keeps a zero says so."""
    model = sparse()
    kept = sc.masks_of(model)["5.weight"].nonzero()[:7]
    with torch.no_grad():
        model[5].weight[kept[:, 0], kept[:, 1]] = 0
        model[0].weight[:16] = 0
    sc.save(model, path, format="sparse")
    loaded = sc.load(net(1), path)
    assert same(loaded, model)
    assert torch.equal(sc.masks_of(loaded)["5.weight"], sc.masks_of(model)["5.weight"])
    assert "0.weight" not in sc.masks_of(loaded)


def test_channels_that_are_gone_and_weights_that_are_zero(path) -> None:
    model = net()
    sc.prune(model, EXAMPLE, budget={"macs": 0.6})
    sc.prune(model, EXAMPLE, granularity="element", budget={"sparsity": 0.8})
    sc.save(model, path, format="sparse")
    loaded = sc.load(net(3), path)
    assert same(loaded, model) and loaded[3].out_channels == model[3].out_channels < 64
    assert sc.masks_of(loaded).keys() == sc.masks_of(model).keys()


class Odd(nn.Module):
    """Names, dtypes and shapes that a layout could trip over."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("a:values", nn.Parameter(torch.zeros(300)))
        self.a = nn.Parameter(torch.zeros(300))
        self.halves = nn.Parameter(torch.zeros(64, 64, dtype=torch.bfloat16), requires_grad=False)
        self.register_buffer("phases", torch.zeros(200, dtype=torch.complex64))
        self.register_buffer("flags", torch.zeros(4000, dtype=torch.bool))
        self.register_buffer("whole", torch.zeros(400, dtype=torch.int64))
        self.register_buffer("none", torch.zeros(0, 5))
        self.register_buffer("one", torch.tensor(0.0))
        self.nhwc = nn.Conv2d(16, 16, 3).to(memory_format=torch.channels_last)
        self.tied = nn.Linear(64, 64, bias=False)
        self.tied.weight = nn.Parameter(torch.zeros(64, 64))
        self.again = nn.Linear(64, 64, bias=False)
        self.again.weight = self.tied.weight


def test_names_dtypes_and_layouts(path) -> None:
    model = Odd()
    with torch.no_grad():
        model.halves[0, :5] = 1.5
        model.phases[3] = 1 + 2j
        model.flags[17] = True
        model.whole[5] = -(2**60)
        model.nhwc.weight.masked_fill_(torch.rand(16, 16, 3, 3) < 0.9, 0)
        model.tied.weight[7] = torch.linspace(-1, 1, 64)
    sc.save(model, path, format="sparse")
    loaded = sc.load(Odd(), path)
    assert same(loaded, model)
    assert loaded.nhwc.weight.stride() == model.nhwc.weight.stride()
    assert loaded.again.weight is loaded.tied.weight and not loaded.halves.requires_grad
    assert {name: t.dtype for name, t in loaded.state_dict().items()} == {
        name: t.dtype for name, t in model.state_dict().items()
    }


@pytest.mark.parametrize("format", ["dense", "sparse"])
def test_the_same_model_gives_the_same_bytes(path, format) -> None:
    """What safetensors itself does not promise: it orders metadata anew in every file."""
    model, digests = sparse(), set()
    for _ in range(8):
        sc.save(copy.deepcopy(model), path, format=format)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_any_reader_of_safetensors_finds_the_documented_parts(path) -> None:
    """Read with nothing of Secateur: the layouts are what docs/reference/sparse-files.md says."""
    import numpy as np
    from safetensors.numpy import load_file

    model = sparse()
    sc.save(model, path, format="sparse")
    with safe_open(path, framework="np") as file:
        packed = json.loads(file.metadata()["secateur"])["packed"]
    parts, told = load_file(path), packed["5.weight"]
    assert told["index"] == "delta" and told["tile"] == [1, 1]
    width, data = told["bits"], parts["5.weight:index"].tobytes()
    stream = int.from_bytes(data, "little")
    codes = [stream >> width * at & 2**width - 1 for at in range(told["codes"])]
    flat, at = np.zeros(math.prod(told["shape"]), np.float32), -1
    values = iter(parts["5.weight:values"])
    for code in codes:
        at += code
        if code < 2**width - 1:
            at += 1
            flat[at] = next(values)
    assert (flat.reshape(told["shape"]) == model[5].weight.detach().numpy()).all()


def test_what_save_does_not_take(path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'sparse'"):
        sc.save(net(), path, format="sparce")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="huffman"):
        sc.save(net(), path, huffman=True)
    assert not path.exists()


def resealed(path: Path, change) -> Path:
    """The file with its header or parts changed, and a checksum that fits."""
    text, tensors = container.unseal(path, container.HEADER, "the test")
    header = json.loads(text)
    change(header, tensors)
    other = path.with_name("changed.safetensors")
    container.seal(other, container.HEADER, json.dumps(header), tensors)
    return other


def untouched(model: nn.Module, path: Path, match: str) -> None:
    before = state_bits(model)
    with pytest.raises((FileFormatError, PlanError), match=match) as caught:
        sc.load(model, path)
    assert "\n" not in str(caught.value)
    assert state_bits(model) == before and not sc.masks_of(model) and not sc.history(model)


def test_a_truncated_or_changed_file_is_one_clear_error(path) -> None:
    sc.save(sparse(), path, format="sparse")
    content = path.read_bytes()
    for damaged in (content[:-1], content[: len(content) // 2], content[:9], b""):
        path.write_bytes(damaged)
        untouched(net(1), path, "truncated or is not")
    path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    untouched(net(1), path, "changed after it was written")


def test_a_file_that_claims_more_than_the_model_holds_allocates_nothing(path) -> None:
    sc.save(sparse(), path, format="sparse")

    def claim(header, tensors) -> None:
        header["packed"]["5.weight"]["shape"] = [2**20, 2**27]

    untouched(net(1), resealed(path, claim), "is for another model: '5.weight' is")

    def lie(header, tensors) -> None:
        tensors["5.weight:index"] = tensors["5.weight:index"][:-1]

    untouched(net(1), resealed(path, lie), "holds '5.weight' in a way that cannot be")


def test_another_model_is_refused(path) -> None:
    sc.save(sparse(), path, format="sparse")
    untouched(nn.Sequential(nn.Linear(4, 4)), path, "is for another model")


def test_names_that_are_given_twice_are_refused(path) -> None:
    sc.save(sparse(), path, format="sparse")

    def twice(header, tensors) -> None:
        tensors["5.weight"] = torch.zeros(32, 64 * 64)

    untouched(net(1), resealed(path, twice), "malformed header")

    def bare(header, tensors) -> None:
        header["masked"].append("0.bias")

    untouched(net(1), resealed(path, bare), "malformed header")


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70),
    st.sampled_from([2**40, 2**63, 10**25, -1]),
    st.text(max_size=3),
    st.lists(st.integers(-1, 2**33), max_size=4),
    st.just({}),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_hostile_headers_leave_the_model_as_it_was(path, data) -> None:
    """Anything in the header replaced, with a checksum that fits: an error, or a whole model."""
    if not path.exists():
        sc.save(sparse(), path, format="sparse")

    def change(header, tensors) -> None:
        place, key = header, data.draw(st.sampled_from(sorted(header)))
        while isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place, key = place[key], data.draw(st.sampled_from(sorted(place[key])))
        if data.draw(st.booleans()):
            place[key] = data.draw(JUNK)
        else:
            del place[key]

    model = net(1)
    before = state_bits(model)
    try:
        sc.load(model, resealed(path, change))
    except SecateurError as error:
        assert "\n" not in str(error)
        assert state_bits(model) == before and not sc.masks_of(model)
        return
    with torch.no_grad():
        assert model.eval()(EXAMPLE).shape == (2, 32)
