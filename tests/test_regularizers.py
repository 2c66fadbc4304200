"""Regularizers: a contract that every registered one is held to."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from tests.training_nets import X, Y, net
from torch import Tensor, nn

import secateur as sc
from secateur.errors import InputError, NothingToPruneError, SecateurError, UnknownNameError
from secateur.regularizers import L1, REGULARIZERS, regularizer
from secateur.specs import catalogue

NAMES = [entry.names[0] for entry in catalogue(REGULARIZERS)]
LINES = [
    *NAMES,
    "slimming:proximal=True",
    "scaling:proximal=True",
    "l1:proximal=True",
    "l2:proximal=True",
    "group_lasso:proximal=True,granularity=channel",
    "group_lasso:granularity=block:2x2",
    "greg1:granularity=element,every=1,delta=0.1",
    "greg2:every=1,pick_delta=0.01,granularity=shape",
    "l0:granularity=vector:2",
    "sr_ste:keep=1,of=2",
]


def net_for(line: str, seed: int = 0) -> nn.Sequential:
    return net(seed, norms=not line.startswith("scaling"))


def train(model: nn.Module, reg: Any, steps: int, lr: float = 0.05) -> torch.optim.Optimizer:
    known = {id(tensor): tensor for tensor in [*model.parameters(), *reg.parameters()]}
    optimizer = torch.optim.SGD(known.values(), lr=lr, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        reg.add_gradients()
        optimizer.step()
        reg.after_step(lr)
    return optimizer


@pytest.mark.parametrize("line", LINES)
class TestContract:
    def test_a_mask_that_is_put_on_meanwhile_survives(self, line: str) -> None:
        model = net_for(line)
        reg = regularizer(line, model, X)
        train(model, reg, 2)
        mask = torch.ones(model[0].weight.shape, dtype=torch.bool)
        mask[1, 2], mask[5] = False, False
        sc.apply_masks(model, {"0.weight": mask})
        optimizer = train(model, reg, 2)
        model.eval()
        before = model(X)
        reg.finish()
        assert torch.allclose(model(X), before, atol=1e-5)
        assert torch.equal(sc.masks_of(model)["0.weight"], mask)
        optimizer.step()
        assert not model[0].weight[~mask].any()

    def test_names_come_back_in_order_and_outputs_stay(self, line: str) -> None:
        model = net_for(line)
        keys = list(model.state_dict())
        held = dict(model.named_parameters())
        types = [type(module) for module in model.modules()]
        reg = regularizer(line, model, X)
        train(model, reg, 3)
        model.eval()
        before = model(X)
        reg.finish()
        assert list(model.state_dict()) == keys
        assert all(parameter is held[name] for name, parameter in model.named_parameters())
        assert [type(module) for module in model.modules()] == types
        assert torch.equal(model(X), before)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())

    def test_the_gradient_is_that_of_the_penalty(self, line: str) -> None:
        model = net_for(line)
        reg = regularizer(line, model, X)
        if getattr(reg, "proximal", False):
            reg.add_gradients()
            assert all(parameter.grad is None for parameter in model.parameters())
            return
        twin = copy.deepcopy([parameter.detach() for parameter in model.parameters()])
        reg.add_gradients()
        added = [parameter.grad for parameter in model.parameters()]
        model.zero_grad()
        term = reg.penalty()
        assert term.dim() == 0
        if term.requires_grad:
            term.backward()
        for mine, parameter, value in zip(added, model.parameters(), twin, strict=True):
            assert (mine is None) == (parameter.grad is None)
            assert mine is None or torch.equal(mine, parameter.grad)
            assert torch.equal(parameter, value)

    def test_it_goes_on_where_it_was_interrupted(self, line: str) -> None:
        torch.manual_seed(1)
        model = net_for(line)
        reg = regularizer(line, model, X)
        first = train(model, reg, 3)
        buffer = io.BytesIO()
        torch.save((model.state_dict(), reg.state_dict()), buffer)
        buffer.seek(0)
        weights, state = torch.load(buffer, weights_only=True)
        other = net_for(line, 5)
        again = regularizer(line, other, X)
        other.load_state_dict(weights)
        again.load_state_dict(state)
        del first
        results = []
        for each, method in ((model, reg), (other, again)):
            torch.manual_seed(2)
            train(each, method, 3)
            results.append(each.state_dict())
        assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())
        assert again.steps_done == 6

    def test_frozen_parameters_stay(self, line: str) -> None:
        model = net_for(line)
        frozen = [*model[0].parameters(), *model[1].parameters()]
        for parameter in frozen:
            parameter.requires_grad_(False)
        before = [parameter.clone() for parameter in frozen]
        reg = regularizer(line, model, X)
        train(model, reg, 2)
        reg.finish()
        after = [*model[0].parameters(), *model[1].parameters()]
        assert all(torch.equal(*pair) for pair in zip(after, before, strict=True))

    def test_a_tied_weight_counts_once_and_stays_tied(self, line: str) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3)
                self.second.weight = self.first.weight
                self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.norm(self.second(self.first(x).relu())).mean((2, 3)))

        torch.manual_seed(0)
        model = Tied()
        ignore = () if line.startswith(("slimming", "polarization")) else ("head",)
        try:
            reg = regularizer(line, model, X, ignore=ignore)
        except NothingToPruneError:
            # What is tied to the input cannot go.
            assert line.partition(":")[0] in ("group_sparsity", "oto", "scaling")
            return
        train(model, reg, 2)
        model.eval()
        before = model(X)
        reg.finish()
        assert model.second.weight is model.first.weight
        assert torch.equal(model(X), before)

    def test_ignored_layers_stay_and_are_listed(self, line: str) -> None:
        model = net_for(line)
        reg = regularizer(line, model, X, ignore=["0", "1"])
        reg.add_gradients()
        ignored = [*model[0].parameters(), *model[1].parameters()]
        assert all(parameter.grad is None for parameter in ignored)
        assert any("ignored" in reason for _, reason in reg.skipped)

    def test_it_says_how_to_build_it_again(self, line: str) -> None:
        reg = regularizer(line, net_for(line), X)
        assert regularizer(reg.spec, net_for(line), X).spec == reg.spec

    def test_a_model_with_nothing_for_it_is_one_clear_line(self, line: str) -> None:
        with pytest.raises(NothingToPruneError) as caught:
            regularizer(line, nn.Sequential(nn.ReLU()), X)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("slimmin", "did you mean 'slimming'"),
        ("l1:strength=-1", "strength must be a number of at least 0, not -1"),
        ("l1:strength=big", "not 'big'"),
        ("l1:strenght=1", "did you mean 'strength'"),
        ("group_lasso:granularity=filtre", "did you mean 'filter'"),
        ("group_lasso:granularity=block:0x4", "write its size as block:NxN"),
        ("greg1:sparsity=2", "from 0 to 1"),
        ("sr_ste:keep=5,of=4", "cannot keep 5 of 4"),
        ("oto", "pass example_inputs"),
    ],
)
def test_errors_are_one_clear_line(line: str, words: str) -> None:
    with pytest.raises(SecateurError) as caught:
        regularizer(line, net())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_misuse_is_told() -> None:
    reg = regularizer("l1:proximal=True", net())
    with pytest.raises(InputError, match=r"call after_step\(lr\)"):
        reg.after_step()
    with pytest.raises(InputError, match="attached already"):
        reg.attach(net())
    with pytest.raises(InputError, match="not of 'l1'"):
        reg.load_state_dict({"name": "l2", "steps": 1})
    with pytest.raises(InputError, match="a name or an object"):
        regularizer(3, net())  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="matches no module"):
        regularizer(L1(), net(), ignore=["nothing"])
    with pytest.raises(InputError, match=r"add_gradients\(\) before"):
        regularizer("oto", net(), X).after_step()
    model = net()
    nn.utils.parametrizations.weight_norm(model[8])
    with pytest.raises(InputError, match="remove its parametrisation"):
        regularizer("sr_ste", model)


@pytest.mark.parametrize("name", ["l0", "stripe", "sr_ste", "scaling"])
def test_a_copy_outlives_the_method_on_the_original(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    method = regularizer(name, net, torch.randn(1, 4, 8, 8))
    average = copy.deepcopy(net)
    x = torch.randn(2, 4, 8, 8)
    before = average.eval()(x)
    method.finish()
    assert torch.equal(average(x), before)
    assert [*net.state_dict()] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_masks_by_any_name_of_a_weight_that_is_computed_survive() -> None:
    """A tied weight under its second name; and the tensor that it is computed from."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.c(self.b(self.a(x)))
            return result

    model = Tied()
    masks = {name: torch.ones(4, 4, dtype=torch.bool) for name in "abc"}
    for at, mask in enumerate(masks.values()):
        mask[at] = False
    sc.apply_masks(model, {"a.weight": masks["a"]})
    held = model.a.weight.detach().clone()
    reg = regularizer("l0", model, torch.randn(2, 4))
    sc.apply_masks(model, {"b.weight": masks["b"]})
    sc.apply_masks(model, {"c.parametrizations.weight.original": masks["c"]})
    reg.finish()
    found = sc.masks_of(model)
    assert set(found) == {"a.weight", "c.weight"}
    assert torch.equal(found["a.weight"], masks["a"] & masks["b"])
    assert torch.equal(found["c.weight"], masks["c"])
    assert model.a.weight is model.b.weight
    assert not model.b.weight[:2].any() and held[1].all()
    plans = [sorted(plan.masks) for plan in sc.history(model)]
    assert plans == [["a.weight"], ["b.weight"], ["c.weight"]]
