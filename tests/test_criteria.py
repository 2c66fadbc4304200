"""Criteria: the contract that every registered one is held to."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import torch
from tests.hand_graph import (
    HIDDEN,
    OPEN,
    WIDE,
    Largest,
    Member,
    draws,
    make_data,
    make_graph,
    make_net,
    permuted,
    score,
    variants,
)

from secateur.criteria import (
    Scorer,
    as_criterion,
    score_units,
)
from secateur.criteria import elementwise as elementwise_module
from secateur.errors import CriterionError, InputError
from secateur.graph import trace
from secateur.specs import options


@pytest.mark.parametrize("criterion", variants())
class TestContract:
    def test_one_finite_score_for_every_open_class(self, criterion: str) -> None:
        scores = score(criterion)
        assert scores.values.shape == scores.judged.shape == (make_graph().n_classes,)
        assert scores.values.dtype == np.float64
        assert scores.judged.dtype == bool
        assert np.isfinite(scores.values).all()
        assert scores.judged[:WIDE].all()
        assert not scores.judged[OPEN:].any()
        assert (scores.values[~scores.judged] == 0).all()

    def test_the_same_seed_gives_the_same_scores(self, criterion: str) -> None:
        first, second = score(criterion, seed=3), score(criterion, seed=3)
        assert (first.values == second.values).all()

    def test_the_global_random_state_is_left_alone(self, criterion: str) -> None:
        net, data = make_net(), make_data()
        state, other = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        score(criterion, net, data=data)
        assert torch.equal(state, torch.get_rng_state())
        assert (other == np.random.get_state()[1]).all()  # noqa: NPY002

    def test_permuting_channels_permutes_scores(self, criterion: str) -> None:
        if draws(criterion):
            pytest.skip("random numbers belong to places, not to weights")
        if as_criterion(criterion).ordered:
            pytest.skip("goes by the order of the entries")
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        net = make_net(dtype=torch.float64)
        before = score(criterion, net).values
        after = score(criterion, permuted(net, order)).values
        np.testing.assert_allclose(after[:WIDE], before[:WIDE][order.numpy()], rtol=1e-9)
        np.testing.assert_allclose(after[WIDE:], before[WIDE:], rtol=1e-9)

    def test_class_ids_carry_no_meaning(self, criterion: str) -> None:
        if draws(criterion):
            pytest.skip("random numbers belong to places, not to weights")
        order = np.array([3, 0, 5, 1, 4, 2])
        net = make_net(dtype=torch.float64)
        plain, renamed = score(criterion, net), score(criterion, net, make_graph(order))
        np.testing.assert_allclose(renamed.values[order], plain.values[:WIDE], rtol=1e-9)

    def test_signs_do_not_matter(self, criterion: str) -> None:
        made = as_criterion(criterion)
        if made.streams and not made.reads_weights:
            pytest.skip("reads no weights")
        if made.pairwise:
            pytest.skip("adds up pairs of inputs, which have the sign of neither")
        torch.manual_seed(0)
        weight, grad = torch.randn(7, 9), torch.randn(7, 9)
        member = Member("conv.weight", 0, "producer", np.arange(7))
        plus = made.member_scores(member, weight, grad, "conv")
        minus = made.member_scores(member, -weight, -grad, "conv")
        assert torch.allclose(plus, minus)

    def test_constant_weights_tie(self, criterion: str) -> None:
        if draws(criterion):
            pytest.skip("random numbers do not tie")
        made = as_criterion(criterion)
        if made.ordered or made.pairwise:
            pytest.skip("what goes first makes its twins dearer")
        net = make_net(dtype=torch.float64)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.fill_(0.01)
            for module in (net.bn1, net.bn2):
                module.running_mean.zero_()
                module.running_var.fill_(1)
        values = score(criterion, net).values
        for group in make_graph().groups[:2]:
            spread = np.ptp(values[group.classes])
            assert spread <= 1e-12 * max(1.0, np.abs(values[group.classes]).max())

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_other_precisions(self, criterion: str, dtype: torch.dtype) -> None:
        exact = score(criterion, make_net(dtype=dtype).double())
        scores = score(criterion, make_net(dtype=dtype))
        loose = as_criterion(criterion).streams and dtype != torch.float64
        np.testing.assert_allclose(
            scores.values, exact.values, rtol=0.5 if loose else 1e-5, atol=0.05 if loose else 1e-7
        )

    @pytest.mark.parametrize("training", [True, False])
    def test_the_model_is_not_touched(self, criterion: str, training: bool) -> None:
        net = make_net().train(training)
        net.bn2.eval()
        fired = []
        net.conv1.weight.register_post_accumulate_grad_hook(lambda p: fired.append(p))
        net(make_data()[0][0]).sum().backward()
        fired.clear()
        net.conv2.requires_grad_(False)
        net.conv2.weight.grad = None
        before = {
            n: (t, t.data_ptr(), t.clone()) for n, t in net.state_dict(keep_vars=True).items()
        }
        grads = {
            n: (p.grad, p.grad if p.grad is None else p.grad.clone(), p.requires_grad)
            for n, p in net.named_parameters()
        }
        modes = [module.training for module in net.modules()]
        score(criterion, net)
        for name, tensor in net.state_dict(keep_vars=True).items():
            same, pointer, value = before[name]
            assert tensor is same and tensor.data_ptr() == pointer and torch.equal(tensor, value)
        for name, parameter in net.named_parameters():
            grad, value, requires = grads[name]
            assert parameter.grad is grad and parameter.requires_grad is requires
            assert grad is None or torch.equal(grad, value)
        assert modes == [module.training for module in net.modules()]
        assert not fired

    def test_frozen_models_score_the_same(self, criterion: str) -> None:
        frozen = make_net().requires_grad_(False)
        assert (score(criterion, frozen).values == score(criterion).values).all()
        assert all(not p.requires_grad and p.grad is None for p in frozen.parameters())

    def test_nan_weights_are_one_clear_error(self, criterion: str) -> None:
        if not as_criterion(criterion).reads_weights:
            pytest.skip("does not read weights")
        net = make_net()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.view(-1)[0] = float("nan")
        with pytest.raises((InputError, CriterionError), match=r"NaN|nan") as caught:
            score(criterion, net)
        assert "\n" not in str(caught.value)

    def test_works_without_gradients_and_in_inference_mode(self, criterion: str) -> None:
        expected = score(criterion).values
        net = make_net()
        with torch.no_grad():
            assert (score(criterion, net).values == expected).all()
        with torch.inference_mode():
            assert (score(criterion, net).values == expected).all()
            assert (score(criterion, make_net()).values == expected).all()

    def test_the_spec_builds_it_again(self, criterion: str) -> None:
        made = as_criterion(criterion)
        again = as_criterion(made.spec)
        assert type(again) is type(made)
        assert vars(again) == vars(made)

    def test_layouts_do_not_matter(self, criterion: str) -> None:
        net = make_net(dtype=torch.float64)
        last = copy.deepcopy(net).to(memory_format=torch.channels_last)
        with torch.no_grad():
            strided = torch.empty(24, HIDDEN, dtype=torch.float64).T
            last.fc1.weight.data = strided.copy_(net.fc1.weight)
        np.testing.assert_allclose(
            score(criterion, last).values, score(criterion, net).values, rtol=1e-9
        )

    def test_chunks_do_not_matter(self, criterion: str, monkeypatch: pytest.MonkeyPatch) -> None:
        net = make_net(dtype=torch.float64)
        expected = score(criterion, net).values
        monkeypatch.setattr(elementwise_module, "CHUNK_CPU", 7)
        monkeypatch.setattr("secateur.criteria.fpgm.CHUNK", 7)
        np.testing.assert_allclose(score(criterion, net).values, expected, rtol=1e-9)

    def test_no_units_at_all(self, criterion: str) -> None:
        if as_criterion(criterion).streams:
            pytest.skip("nothing to differentiate")
        scores = score_units(make_graph(), make_net(), criterion, [])
        assert scores.values.shape == scores.judged.shape == (0,)

    def test_traced_graphs_give_the_same_scores(self, criterion: str) -> None:
        if criterion == "random":
            pytest.skip("random numbers belong to places, not to weights")
        net = make_net(dtype=torch.float64)
        traced = trace(net, make_data(dtype=torch.float64)[0][0])
        found, expected = score(criterion, net, traced), score(criterion, net)
        groups = {group.name: np.sort(group.classes) for group in traced.groups}
        for name, classes in (("conv1.weight", slice(WIDE)), ("fc1.weight", slice(WIDE, OPEN))):
            np.testing.assert_allclose(found.values[groups[name]], expected.values[classes])
            assert (found.judged[groups[name]] == expected.judged[classes]).all()

    def test_documented(self, criterion: str) -> None:
        made = type(as_criterion(criterion))
        text = inspect.getdoc(made) or ""
        assert len(text.splitlines()[0]) > 10
        assert all(option in text for option in options(made))


@pytest.mark.parametrize("criterion", variants())
def test_an_amended_graph_is_scored_without_reading_again(criterion: str) -> None:
    net, data, graph = make_net(), make_data(), make_graph()
    again = criterion.startswith("grasp")
    scorer = Scorer(net, criterion, data if again else iter(data), inputs=data[0][0])
    first = scorer.classes(graph)
    graph.groups[1].protected = True
    with Largest() as largest:
        second = scorer.classes(graph)
    assert largest.elements <= sum(len(member.classes) for member in graph.members)
    assert (second.values[:WIDE] == first.values[:WIDE]).all() or criterion == "random"
    assert not second.judged[WIDE:].any()
    joined = copy.deepcopy(graph)
    for member in joined.members:
        member.classes = np.where(member.classes == 1, 0, member.classes)
    joined.groups[0].classes = np.array([0, 2, 3, 4, 5])
    fresh = score(criterion, net, joined, data=data)
    np.testing.assert_allclose(scorer.classes(joined).values, fresh.values)
