"""Learning from a teacher: scores, features, and the teacher itself left alone."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from recovering import images, net, same, state
from secateur.errors import InputError, UnknownNameError
from secateur.inputs import Inputs
from secateur.recover.features import Features
from secateur.recover.kept import kept_features, removed_by
from secateur.recover.scores import divergence


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def by_hand(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """T² KL(p_t ‖ p_s) over the last dimension, averaged over the others."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return float(temperature**2 * (p * np.log(p / q)).sum(-1).mean())


class Wrapped(nn.Module):
    """A linear layer whose output is dressed up."""

    def __init__(self, inner: nn.Module, dress) -> None:
        super().__init__()
        self.inner, self.dress = inner, dress

    def forward(self, x: Tensor):
        return self.dress(self.inner(x))


DRESSES = {
    "tensor": lambda scores: scores,
    "logits": lambda scores: SimpleNamespace(logits=scores),
    "dict of logits": lambda scores: {"logits": scores, "hidden": torch.ones(1, 9)},
    "dict": lambda scores: {"a": scores, "b": scores * 2, "loss": scores.sum()},
    "tuple": lambda scores: (scores, scores * 2),
}


@pytest.mark.parametrize("kind", DRESSES)
@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 1.0), (4.0, 0.3), (2.0, 0.9)])
def test_the_loss_is_that_of_the_paper(kind: str, temperature: float, alpha: float) -> None:
    torch.manual_seed(0)
    student, teacher = nn.Linear(5, 4).double(), nn.Linear(5, 4).double()
    x, y = torch.randn(6, 5).double(), torch.arange(6) % 4
    s, t = student(x).detach().numpy(), teacher(x).detach().numpy()
    soft = [by_hand(s, t, temperature)]
    if kind in ("dict", "tuple"):
        soft.append(by_hand(2 * s, 2 * t, temperature))
    hard = -np.log(softmax(s)[np.arange(6), y.numpy()]).mean()
    expected = (1 - alpha) * hard + alpha * np.mean(soft)

    def loss(output, targets):
        while not isinstance(output, Tensor):
            if isinstance(output, SimpleNamespace):
                output = output.logits
            elif isinstance(output, dict):
                output = output.get("logits", output.get("a"))
            else:
                output = output[0]
        return nn.functional.cross_entropy(output, targets)

    dress = DRESSES[kind]
    history = sc.recover(
        Wrapped(student, dress), [(x, y)], loss, epochs=1, lr=1e-9,
        teacher=Wrapped(teacher, dress), distill={"temperature": temperature, "alpha": alpha},
    )  # fmt: skip
    assert history[0].loss == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_the_soft_part_is_the_known_one() -> None:
    """d(T² KL)/ds = T (q − p) / n."""
    s, t = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    divergence(s, t, None, 3.0).backward()
    expected = 3.0 * ((s / 3).softmax(1) - (t / 3).softmax(1)).detach() / 3
    torch.testing.assert_close(s.grad, expected)


def test_classes_that_both_rule_out_count_nothing() -> None:
    s = torch.tensor([[1.0, 0.0, -torch.inf]], requires_grad=True)
    t = torch.tensor([[0.0, 1.0, -torch.inf]])
    value = divergence(s, t, None, 2.0)
    expected = by_hand(s.detach().numpy()[:, :2], t.numpy()[:, :2], 2.0)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert s.grad is not None and s.grad.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "labels", "dim"),
    [
        ((2, 5), None, 1),
        ((2, 5, 3, 3), None, 1),
        ((2, 5, 3, 3), (2, 3, 3), 1),
        ((2, 7, 5), None, 2),
        ((2, 7, 5), (2, 7), 2),
        ((2, 5, 7), (2, 7), 1),
    ],
)
def test_classes_are_found_by_the_labels(shape, labels, dim: int) -> None:
    s, t = torch.randn(shape).double(), torch.randn(shape).double()
    targets = None if labels is None else torch.zeros(labels).long()
    expected = by_hand(s.movedim(dim, -1).numpy(), t.movedim(dim, -1).numpy(), 2.0)
    assert float(divergence(s, t, targets, 2.0)) == pytest.approx(expected, rel=1e-5)


def test_a_student_learns_without_labels_what_its_teacher_knows() -> None:
    teacher = net()
    sc.recover(teacher, images(), epochs=6, lr=0.05)
    student = net(1)
    unlabelled = [(x, None) for x, _ in images()]
    sc.recover(student, unlabelled, epochs=20, lr=0.05, teacher=teacher, distill={"alpha": 1.0})
    test = images(seed=3)
    agreed = [(x, teacher.eval()(x).argmax(1)) for x, _ in test]
    assert sc.accuracy(student, agreed) > 0.8


@pytest.mark.parametrize("options", [{}, {"features": ["3", "1"]}, {"dtype": "bfloat16"}])
def test_the_teacher_is_left_bit_for_bit(options) -> None:
    class Caching(nn.Sequential):
        """A model whose code keeps things on itself, and counts in a buffer, in eval mode too."""

        def __init__(self) -> None:
            super().__init__(*net())
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.latest = x
            return super().forward(x)

    teacher = Caching()
    teacher[1].eval()
    teacher[7].weight.grad = torch.ones_like(teacher[7].weight)
    before, modes = state(teacher), [module.training for module in teacher.modules()]
    attributes = {name: set(vars(module)) for name, module in teacher.named_modules()}
    sc.recover(net(1), images(), epochs=2, teacher=teacher, distill=options)
    assert same(state(teacher), before)
    assert [module.training for module in teacher.modules()] == modes
    assert {name: set(vars(module)) for name, module in teacher.named_modules()} == attributes
    assert torch.equal(teacher[7].weight.grad, torch.ones_like(teacher[7].weight))
    assert all(p.grad is None for n, p in teacher.named_parameters() if n != "7.weight")
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    assert not any(module._forward_hooks for module in teacher.modules())


def test_the_teacher_runs_in_eval_mode_and_in_the_dtype_that_was_asked_for() -> None:
    teacher, seen = net(), []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((x.dtype, self.training, torch.is_grad_enabled()))
            return x

    teacher.insert(0, Spy())
    sc.recover(net(1), images(), epochs=1, teacher=teacher, distill={"dtype": torch.bfloat16})
    assert seen == [(torch.bfloat16, False, False)] * 4
    seen.clear()
    sc.recover(net(1), images(), epochs=1, teacher=teacher)
    assert seen == [(torch.float32, False, False)] * 4


def pruned() -> tuple[nn.Module, nn.Module, sc.Result]:
    dense = net()
    sc.recalibrate_batchnorm(dense, images())
    model = copy.deepcopy(dense)
    return dense, model, sc.prune(model, images()[0][0], budget={"macs": 0.5})


def test_kept_features_are_those_that_surgery_left() -> None:
    """A numbered channel tells which it is: through a sum, a concatenation and a pool."""
    dense, model, result = pruned()
    x = images()[0][0][:2]
    names = ["0", "1", "2", "3", "3.first", "3.norm", "5", "6"]
    kept = kept_features(dense, Inputs((x,)), result.plan.removed, names)
    found = {}
    for which, one in (("dense", dense.eval()), ("model", model.eval())):
        for name in names:
            one.get_submodule(name).register_forward_hook(
                lambda module, args, output, at=(which, name): found.__setitem__(at, output.shape)
            )
        one(x)
    for name in names:
        small, large = found["model", name], found["dense", name]
        for dim in range(1, len(large)):
            left = kept.get(name, {}).get(dim, range(large[dim]))
            assert len(left) == small[dim], (name, dim)
    # The concatenation holds the same channels twice.
    assert kept["3"][1][len(kept["3"][1]) // 2 :] == [8 + at for at in kept["0"][1]]
    assert kept["0"] == kept["1"] == kept["2"]
    assert kept["0"][1] == sorted(set(range(8)) - set(result.plan.removed["0.weight"][0]))
    assert kept["6"][1] == [4 * at + place for at in kept["3"][1] for place in range(4)]


def test_features_are_compared_with_the_kept_channels_of_the_teacher() -> None:
    dense, model, result = pruned()
    plan = sc.Plan.from_json(result.plan.to_json())
    x, y = images()[0]
    kept = sorted(set(range(8)) - set(plan.removed["0.weight"][0]))
    with torch.no_grad():
        theirs = dense.eval()[:2](x)[:, kept]
        ours = model.train()[0](x)
        ours = nn.functional.batch_norm(ours, None, None, model[1].weight, model[1].bias, True)
        expected = ((ours - theirs) ** 2).mean() / (theirs**2).mean()
    losses = {}
    for weight in (1.0, 3.0):
        for given in (plan, None):
            student = copy.deepcopy(model)
            student[4].p = 0.0
            history = sc.recover(
                student, [(x, y)], lambda out, target: out.sum() * 0.0, epochs=1, lr=1e-9,
                recalibrate=False, teacher=dense,
                distill=sc.Distillation(
                    features={"1": "1"}, alpha=0.0, feature_weight=weight, plan=given
                ),
            )  # fmt: skip
            losses[weight, given is None] = history[0].loss
    assert losses[1.0, False] == pytest.approx(float(expected), rel=1e-4)
    assert losses[3.0, False] == pytest.approx(3 * float(expected), rel=1e-4)
    # The model remembers its plan.
    assert losses[1.0, True] == losses[1.0, False] and losses[3.0, True] == losses[3.0, False]


def test_feature_distillation_brings_the_features_nearer() -> None:
    dense, model, _ = pruned()
    pairs, x = {"3": "3"}, images(seed=2)[0][0]
    removed = removed_by(sc.history(model), dense)

    def distance() -> float:
        features = Features(model.eval(), dense.eval(), pairs, removed)
        with torch.no_grad(), features.caught():
            model(x), dense(x)
            missed = features.distance(Inputs((x,)))
        assert not features.projections
        return float(missed)

    with torch.no_grad():
        model[0].weight += 0.2 * torch.randn_like(model[0].weight)
    before = distance()
    unlabelled = [(x, None) for x, _ in images()]
    distill = {"features": ["3"], "alpha": 1.0}
    sc.recover(model, unlabelled, epochs=15, lr=0.05, teacher=dense, distill=distill)
    assert distance() < 0.2 * before


def test_a_learned_projection_stands_in_where_no_plan_tells() -> None:
    torch.manual_seed(0)
    narrow = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    wide = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 2))
    x = torch.randn(64, 4)
    keys = set(narrow.state_dict())
    history = sc.recover(
        narrow, [(x, None)] * 10, epochs=40, lr=0.05, teacher=wide,
        distill={"features": ["1"], "alpha": 0.5}, loss=lambda out, target: out.sum() * 0,
    )  # fmt: skip
    assert history[-1].loss < 0.7 * history[0].loss
    # Three units linearly explain part of nine; the projection is not left in the model.
    assert set(narrow.state_dict()) == keys


def test_plans_one_after_the_other_count_on_what_the_one_before_left() -> None:
    dense = net()
    model = copy.deepcopy(dense)
    for fraction in (0.8, 0.5):
        sc.prune(model, images()[0][0], budget={"macs": fraction / 0.8 if fraction < 0.8 else 0.8})
    plans = sc.history(model)
    assert len(plans) == 2
    removed = removed_by(plans, dense)
    assert removed is not None
    for name, parameter in model.named_parameters():
        rest = dense.get_parameter(name).detach()
        for dim, gone in removed.get(name, {}).items():
            stay = [at for at in range(dense.get_parameter(name).shape[dim]) if at not in gone]
            rest = rest.index_select(dim, torch.tensor(stay))
        assert torch.equal(rest, parameter), name
    assert removed_by(plans, nn.Linear(2, 2)) is None
    assert removed_by(plans, model) is None


class Half(nn.Module):
    """Gives an image model other outputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[:, :2]


@pytest.mark.parametrize(
    ("teacher", "distill", "error", "message"),
    [
        (Half(net()), {}, InputError, r"output is of shape \[12, 2\], and the model's of shape"),
        (Wrapped(net(), DRESSES["logits"]), {}, InputError, "teacher's output is missing"),
        (nn.Linear(5, 3), {}, InputError, "the teacher rejects"),
        ("model", {}, InputError, "it is the model itself"),
        ("shared", {}, InputError, r"it shares '0\.weight'"),
        ("resnet18", {}, InputError, "must be a torch.nn.Module"),
        (net(), {"features": ["4x"]}, UnknownNameError, "the model has no module '4x'"),
        (net(), {"features": {"3": "8"}}, UnknownNameError, "the teacher has no module '8'"),
        (net(), {"features": {"0": "7"}}, InputError, "only the number of channels may differ"),
        (net(), {"temprature": 2}, UnknownNameError, "did you mean 'temperature'"),
        (net(), {"temperature": 0}, InputError, "temperature"),
        (net(), {"alpha": 1.5}, InputError, "alpha"),
        (net(), {"alpha": 0}, InputError, "learns nothing"),
        (net(), {"feature_weight": math.nan}, InputError, "feature_weight"),
        (net(), {"dtype": "bfloat"}, InputError, "no dtype"),
        (net(), {"dtype": torch.int8}, InputError, "floating-point"),
        (net(), {"plan": "p.json"}, InputError, "must be a Plan"),
        (net(), ["3"], InputError, "must be a Distillation or a dict"),
    ],
)
def test_a_teacher_that_does_not_fit_is_one_clear_error(
    teacher, distill, error, message, tmp_path
) -> None:
    model = net()
    if isinstance(teacher, str):
        teacher = {"model": model, "shared": nn.Sequential(*model[:3])}.get(teacher, teacher)
    before = state(model)
    with pytest.raises(error, match=message) as caught:
        sc.recover(model, images(), epochs=1, teacher=teacher, distill=distill, checkpoint=tmp_path)
    assert "\n" not in str(caught.value)
    assert same(state(model), before)
    assert not list(tmp_path.iterdir()), "a checkpoint of it would refuse the right teacher"
    assert not any(module._forward_hooks for module in model.modules())


def test_modules_that_run_more_than_once_are_compared_call_by_call() -> None:
    class Twice(nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.inner, self.times = nn.Linear(4, 4), times

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.times):
                x = torch.tanh(self.inner(x))
            return x

    batches = [(torch.randn(8, 4), torch.arange(8) % 4)]
    options = {"epochs": 1, "distill": {"features": ["inner"]}}
    sc.recover(Twice(2), batches, teacher=Twice(2), **options)
    with pytest.raises(InputError, match="ran 2 times with a tensor to compare"):
        sc.recover(Twice(2), batches, teacher=Twice(3), **options)


def test_hugging_face_outputs_and_dict_batches_are_distilled() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    dense = transformers.BertForSequenceClassification(config)
    model = copy.deepcopy(dense)
    ids = torch.randint(0, 32, (6, 8))
    sc.prune(model, {"input_ids": ids}, budget={"macs": 0.7})
    batches = [{"input_ids": ids, "labels": torch.arange(6) % 3}]
    layer = "bert.encoder.layer.0.intermediate"
    history = sc.recover(
        model, batches, epochs=10, lr=1e-3, optimizer="adamw", teacher=dense,
        distill={"features": [layer]},
    )  # fmt: skip
    assert history[-1].loss < history[0].loss
