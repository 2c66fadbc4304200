"""Dynamic methods: a contract that every registered one is held to, and the papers' oracles."""

from __future__ import annotations

import io

import pytest
import torch
from tests.training_nets import X, Y, attached, engine, net, train
from torch import nn

import secateur as sc
from secateur.errors import SecateurError
from secateur.schedules import DYNAMICS, dynamic_sparsity
from secateur.specs import catalogue

NAMES = [entry.names[0] for entry in catalogue(DYNAMICS)]
# The same settings as fit in a test.
OPTIONS = {
    "admm": "every=2,rho=0.1",
    "movement": "steps=6",
    "network_surgery": "c=0.2",
    "rigl": "steps=8,every=2",
    "set": "every=2",
    "soft_filter": "every=2,schedule=asfp,rounds=3",
}
LINES = [f"{name}:{OPTIONS.get(name, '')}" for name in NAMES] + [
    "rigl:steps=8,every=1,granularity=block:2x2,start=magnitude",
    "admm:every=1,granularity=filter,sparsity=0.5",
    "movement:steps=6,granularity=kernel",
    "movement:steps=6,granularity=filter,threshold=0.5,warmup=0",
    "soft_filter:granularity=channel,every=1",
    "soft_filter:criterion=fpgm,every=1",
]


@pytest.mark.parametrize("line", LINES)
class TestContract:
    def test_a_mask_that_is_put_on_meanwhile_survives(self, line: str) -> None:
        model = net()
        method, optimizer = attached(line, model)
        train(model, method, optimizer, 2)
        mask = torch.ones(model[0].weight.shape, dtype=torch.bool)
        mask[1, 2], mask[5] = False, False
        sc.apply_masks(model, {"0.weight": mask})
        train(model, method, optimizer, 2)
        assert not model[0].weight[~mask].any()
        method.finish()
        assert not sc.masks_of(model)["0.weight"][~mask].any()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
        assert not model[0].weight[~mask].any()

    @pytest.mark.parametrize("kind", ["sgd", "adam"])
    def test_it_ends_in_plain_weights_with_the_zeros_of_its_plan(
        self, line: str, kind: str
    ) -> None:
        model = net()
        keys, types = list(model.state_dict()), [type(module) for module in model.modules()]
        held = dict(model.named_parameters())
        method, optimizer = attached(line, model, kind)
        train(model, method, optimizer, 6)
        method.finish()
        assert list(model.state_dict()) == keys
        assert [type(module) for module in model.modules()] == types
        assert all(parameter is held[name] for name, parameter in model.named_parameters())
        plan = method.plan()
        assert set(plan.masks) == set(keys) & {target.name for target in method.targets}
        assert {"0.weight", "3.weight"} <= set(plan.masks)
        gone = 0
        for name, mask in plan.masks.items():
            assert not held[name][~mask].any()
            gone += int((~mask).sum())
        assert gone > 0
        assert method.current == pytest.approx(gone / sum(m.numel() for m in plan.masks.values()))

    def test_it_goes_on_where_it_was_interrupted(self, line: str) -> None:
        torch.manual_seed(1)
        model = net()
        method, optimizer = attached(line, model)
        train(model, method, optimizer, 3)
        buffer = io.BytesIO()
        torch.save((model.state_dict(), method.state_dict(), optimizer.state_dict()), buffer)
        buffer.seek(0)
        weights, state, moments = torch.load(buffer, weights_only=True)
        other = net(5)
        again, second = attached(line, other)
        other.load_state_dict(weights)
        second.load_state_dict(moments)
        again.load_state_dict(state)
        train(model, method, optimizer, 3)
        train(other, again, second, 3)
        for key, value in model.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key

    def test_frozen_tied_and_ignored(self, line: str) -> None:
        model = net()
        model[0].weight.requires_grad_(False)
        before = model[0].weight.clone(), model[8].weight.detach().clone()
        method = dynamic_sparsity(line, model, ignore=["8"])
        assert {name for name, _ in method.skipped} == {"0.weight", "8.weight"}
        optimizer = engine(model)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        method.add_gradients()
        method.step()
        assert torch.equal(model[0].weight, before[0])
        assert torch.equal(model[8].weight, before[1])

    def test_it_says_how_to_build_it_again(self, line: str) -> None:
        method = dynamic_sparsity(line, net())
        assert dynamic_sparsity(method.spec, net()).spec == method.spec


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rigle", "did you mean 'rigl'"),
        ("rigl:sparsity=2", "sparsity must be a number from 0 to 1, not 2"),
        ("set:start=best", "unknown start 'best'"),
        ("set:allocation=global", "allocation 'global' follows scores"),
        ("movement:granularity=elemnt", "did you mean 'element'"),
        ("soft_filter:schedule=apg", "did you mean 'agp'"),
        ("network_surgery:low=1", "set both low and high"),
        ("soft_filter:criterion=bn_scale", "does not score weights by their values"),
        ("soft_filter:criterion=random", "does not score weights by their values"),
        ("soft_filter:criterion=fpgm,granularity=kernel", "compares whole filters or channels"),
        ("soft_filter:criterion=fpmg", "did you mean 'fpgm'"),
    ],
)
def test_errors_are_one_clear_line(line: str, words: str) -> None:
    with pytest.raises(SecateurError) as caught:
        dynamic_sparsity(line, net())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
