"""Criteria given or returning what they should not: one clear error each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.hand_graph import (
    OPEN,
    Labelled,
    clear_error,
    labelled_graph,
    make_data,
    make_net,
    score,
)
from torch import Tensor

from secateur.criteria import (
    Criterion,
    as_criterion,
    score_classes,
)
from secateur.errors import CriterionError, InputError, UnknownNameError
from secateur.observing.batches import read_batch


def test_taylor_without_data() -> None:
    with clear_error(InputError, "'taylor' needs gradients", "data=") as caught:
        score("taylor", data=None)
    assert "\n" not in str(caught.value)


def test_data_without_a_batch() -> None:
    with clear_error(InputError, "data has no batch"):
        score("taylor", data=iter([]))


@pytest.mark.parametrize("batch", [torch.zeros(2), (1, 2, 3), "text", None])
def test_batches_of_the_wrong_form(batch: Any) -> None:
    with clear_error(InputError, r"\(inputs, targets\)"):
        read_batch(batch)


def test_a_batch_that_the_model_rejects() -> None:
    with clear_error(InputError, "rejects a batch"):
        score("taylor", data=[(torch.zeros(2, 5, 6, 6), torch.zeros(2).long())])


def test_targets_without_a_default_loss() -> None:
    with clear_error(InputError, "integer targets", "loss="):
        score("taylor", data=[(x, y.float()) for x, y in make_data()])


def test_outputs_without_a_default_loss() -> None:
    with clear_error(InputError, "loss="):
        score_classes(labelled_graph(), Labelled(), "taylor", data=[{"pixels": make_data()[0][0]}])


@pytest.mark.parametrize(
    "loss, words",
    [
        (lambda out, y: out, "one number"),
        (lambda out, y: 3.0, "one number"),
        (lambda out, y: out.detach().sum(), "does not depend"),
    ],
)
def test_losses_that_cannot_be_used(loss: Any, words: str) -> None:
    with clear_error(InputError, words):
        score("taylor", loss=loss)


def test_a_loss_that_is_not_finite() -> None:
    with clear_error(CriterionError, "loss of batch 0 is nan"):
        score("taylor", loss=lambda out, y: out.sum() * float("nan"))


def test_the_model_is_restored_when_a_batch_fails() -> None:
    net = make_net().train()
    with pytest.raises(InputError):
        score("taylor", net, data=[*make_data(1), "nonsense"])
    assert net.training and all(p.grad is None and p.requires_grad for p in net.parameters())


def test_functions_are_criteria() -> None:
    net = make_net()
    values = score(lambda weight: weight.abs().sum(dim=1), net).values
    np.testing.assert_allclose(values, score("l1", net).values, rtol=1e-5)
    values = score(lambda weight: weight.abs().sum(dim=1).numpy(), net).values
    np.testing.assert_allclose(values, score("l1", net).values, rtol=1e-5)


@pytest.mark.parametrize(
    "returned, words",
    [
        (lambda w: w, "shape"),
        (lambda w: w.sum(), "shape"),
        (lambda w: w[:-1, 0], "shape"),
        (lambda w: w[:, 0] * float("nan"), "NaN"),
        (lambda w: w[:, 0] + float("inf"), "infinity"),
    ],
)
def test_functions_that_return_the_wrong_thing(returned: Any, words: str) -> None:
    def odd(weight: Tensor) -> Tensor:
        return returned(weight)

    with clear_error(CriterionError, "'odd'", words, "'conv1.weight'|.*'conv1.weight'"):
        score(odd)


def test_finish_is_checked_too() -> None:
    class Bad(Criterion):
        """Divides by zero."""

        name = "bad"

        def member_scores(self, member: Any, weight: Any, grad: Any, kind: Any) -> Tensor:
            return weight.sum(dim=1)

        def finish(self, sums: Any, counts: Any, rng: Any) -> Any:
            return sums * np.nan

    with clear_error(CriterionError, "'bad'", "NaN"):
        score(Bad())


def test_nan_weights_are_named() -> None:
    net = make_net()
    with torch.no_grad():
        net.conv2.weight[0, 0, 0, 0] = float("nan")
    with clear_error(InputError, "'conv2.weight' contains NaN"):
        score("l1", net)


def test_nan_weights_of_protected_classes_do_not_matter_here() -> None:
    net = make_net()
    with torch.no_grad():
        net.fc2.bias[0] = float("nan")
    assert score("l2", net).judged[:OPEN].all()


@pytest.mark.parametrize(
    "line, words",
    [
        ("magnitud", "did you mean 'magnitude'"),
        ("taylor:reductio=x", "did you mean 'reduction'"),
        ("random:view=group", "takes no options"),
    ],
)
def test_unknown_names_suggest_the_nearest(line: str, words: str) -> None:
    with clear_error(UnknownNameError, words):
        as_criterion(line)


@pytest.mark.parametrize(
    "line, words",
    [
        ("l1:view=producers", "did you mean 'producer'"),
        ("taylor:reduction=sum", "reduction"),
        ("taylor:max_batches=0", "at least 1"),
        ("l1:view", "name=value"),
    ],
)
def test_bad_option_values(line: str, words: str) -> None:
    with clear_error(InputError, words):
        as_criterion(line)


def test_other_things_are_no_criteria() -> None:
    with clear_error(InputError, "must be a name"):
        as_criterion(3)  # type: ignore[arg-type]
