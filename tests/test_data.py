from __future__ import annotations

import sys
import types

import pytest
import torch

from secateur.data import Batches, Data, Split, load_data, load_digits
from secateur.data.splits import held_out
from secateur.errors import InputError, MissingExtraError, UnknownNameError


def test_digits_parts_are_disjoint_stratified_and_complete() -> None:
    data = load_digits(size=8)
    parts = (data.train, data.val, data.test)
    assert sum(len(part) for part in parts) == 1797
    rows = [{row.numpy().tobytes() for row in part.inputs} for part in parts]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]
    for part, fraction in zip(parts, (0.70, 0.15, 0.15), strict=True):
        counts = torch.bincount(part.labels, minlength=10)
        total = torch.bincount(torch.cat([each.labels for each in parts]))
        assert ((counts / total - fraction).abs() < 0.005).all()


def test_digits_follow_the_seed_and_the_size() -> None:
    first, again, other = load_digits(), load_digits(), load_digits(seed=1)
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.train.labels, other.train.labels)
    assert first.train.inputs.shape[1:] == (1, 16, 16)
    assert load_digits(size=8).example_inputs.shape == (1, 1, 8, 8)


def test_digits_are_standardised_on_the_training_part_only() -> None:
    data = load_digits()
    assert float(data.train.inputs.mean()) == pytest.approx(0, abs=1e-5)
    assert float(data.train.inputs.std()) == pytest.approx(1, abs=1e-5)
    assert abs(float(data.test.inputs.mean())) > 1e-5


def test_batches_cover_every_example_and_reshuffle_every_pass() -> None:
    inputs = torch.arange(10)
    batches = Batches(inputs, inputs, batch_size=4, shuffle=True, seed=3)
    passes = [torch.cat([labels for _, labels in batches]) for _ in range(2)]
    assert not torch.equal(passes[0], passes[1])
    for order in passes:
        assert torch.equal(order.sort().values, inputs)
    same = Batches(inputs, inputs, batch_size=4, shuffle=True, seed=3)
    assert torch.equal(torch.cat([labels for _, labels in same]), passes[0])
    assert len(list(Batches(inputs, inputs, batch_size=4, drop_last=True))) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "did you mean 'digits'"),
        ("digits:big", "size in pixels"),
        ("digts:8", "did you mean 'digits'"),
        ("no_such_module_here:make", "cannot import"),
        ("math:no_such", "has no 'no_such'"),
        ("math:pi", "must be something to call"),
        ("builtins:dict", "must return secateur.data.Data"),
    ],
)
def test_a_wrong_specification_is_one_clear_error(spec: str, message: str) -> None:
    with pytest.raises((InputError, UnknownNameError), match=message) as caught:
        load_data(spec)
    assert "\n" not in str(caught.value)


def test_data_from_a_function_in_the_working_directory(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_own_data.py").write_text(
        "import torch\n"
        "def make():\n"
        "    part = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])\n"
        "    return {'train': part, 'test': part, 'classes': ['a', 'b']}\n"
        "def wrong():\n"
        "    return {'train': torch.zeros(4, 3)}\n"
        "def broken():\n"
        "    raise OSError('no disk')\n"
    )
    monkeypatch.chdir(tmp_path)
    data = load_data("my_own_data:make")
    assert (len(data.train), len(data.val), len(data.test)) == (3, 1, 4)
    assert data.classes == ("a", "b")
    with pytest.raises(InputError, match="pair of inputs and labels"):
        load_data("my_own_data:wrong")
    with pytest.raises(InputError, match="OSError: no disk"):
        load_data("my_own_data:broken")
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("parts", ["train", "train test", "train val", "train val test"])
def test_no_part_that_is_missing_is_taken_from_the_test_part(parts: str, monkeypatch) -> None:
    given = {
        name: (torch.arange(50.0) + 100 * at, torch.arange(50))
        for at, name in enumerate(parts.split())
    }
    module = types.ModuleType("my_parts")
    module.make = lambda: given  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_parts", module)
    data = load_data("my_parts:make", seed=1)
    train, val, test = (set(part.inputs.tolist()) for part in (data.train, data.val, data.test))
    assert not train & val and not train & test
    if "test" in given:
        assert not val & test
        assert test == set(given["test"][0].tolist())
    else:
        assert test == val
    if "val" not in given:
        assert (len(train), len(val)) == (40, 10)
        assert train | val == set(given["train"][0].tolist())
        again = load_data("my_parts:make", seed=1).val
        assert set(again.inputs.tolist()) == val
        assert torch.equal(data.val.inputs, data.val.labels.float()), "labels go along"


def test_splits_refuse_what_does_not_match() -> None:
    with pytest.raises(InputError, match="one label for every input"):
        Split(torch.zeros(2, 1), torch.zeros(3))
    with pytest.raises(InputError, match="at least one"):
        Split(torch.zeros(0, 1), torch.zeros(0))
    with pytest.raises(InputError, match="batch_size"):
        Batches(torch.zeros(2), torch.zeros(2), batch_size=0)
    with pytest.raises(InputError, match="one length"):
        Batches(torch.zeros(2), torch.zeros(3))
    with pytest.raises(InputError, match="size"):
        load_digits(size=0)
    with pytest.raises(InputError, match="leave none for validation"):
        held_out(Split(torch.zeros(1, 1), torch.zeros(1)))


def test_without_scikit_learn_the_message_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"secateur\[demo\]"):
        load_digits()


def test_a_function_may_return_data_itself(monkeypatch) -> None:
    part = Split(torch.zeros(2, 3), torch.tensor([0, 1]))
    monkeypatch.setattr("secateur.data.made", lambda: Data("x", part, part, part), raising=False)
    assert load_data("secateur.data:made").name == "x"
