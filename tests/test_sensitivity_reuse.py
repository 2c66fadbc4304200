"""Scans that start every copy where it differs find what whole passes find, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import secateur as sc
from secateur.inputs import as_inputs
from secateur.models.resnet import SmallResNet
from secateur.plan import Plan
from secateur.scan import FromTheMiddle
from secateur.scan.recipe import prepare

RATIOS = (0.25, 0.5, 0.75)


def closeness(output: Tensor, targets: Tensor) -> float:
    return -float((output - targets[:, None]).double().square().mean())


def held_out(*shape: int) -> sc.Evaluation:
    """Two batches of one size and a smaller last one."""
    batches = [(torch.randn(n, *shape), torch.randn(n)) for n in (4, 4, 3)]
    return sc.Evaluation(batches, closeness)


class InPlace(nn.Module):
    """Activations and sums that overwrite what they read; parts of one tensor that live on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x), inplace=True)
        left, right = x.chunk(2, dim=1)
        left = functional.relu(self.left(left), inplace=True)
        right = self.right(right)
        right += left
        x = torch.cat([left, right], dim=1)
        x = functional.relu_(self.norm(x))
        return self.head(x.mean((2, 3)))


class WritesIntoAPart(nn.Module):
    """A later operation writes into half of a tensor that is read as a whole afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        half = x[:, :4]
        y = self.second(x)
        half.mul_(2.0)
        return self.last(x + y)


class LooksAtNumbers(nn.Module):
    """Takes another way where a result is negative, and reads numbers behind PyTorch's back."""

    def __init__(self, how: Callable[[Tensor], float]) -> None:
        super().__init__()
        self.how = how
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        scale = self.how(x)
        x = torch.relu(self.second(x))
        return self.last(x * scale)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (lambda: SmallResNet(widths=(8, 16), blocks=2, channels=3), (3, 8, 8)),
    "in place": (InPlace, (3, 6, 6)),
    "writes into a part": (WritesIntoAPart, (6,)),
    "looks at a number": (lambda: LooksAtNumbers(lambda x: float(x.mean())), (6,)),
    "reads memory": (lambda: LooksAtNumbers(lambda x: float(x.numpy().mean())), (6,)),
    "attention": (Attention, (5, 6)),
    "random": (lambda: LooksAtNumbers(lambda x: float(torch.rand(()))), (6,)),
}


# Channels of code that fixes sizes or reads numbers cannot go; its weights can be masked.
WHOLE_CHANNELS = ("resnet", "in place", "attention")


@pytest.mark.parametrize(
    ("name", "granularity"),
    [*((name, "element") for name in MODELS), *((name, "channel") for name in WHOLE_CHANNELS)],
)
def test_the_values_are_those_of_whole_passes(name: str, granularity: str) -> None:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model, evaluation = make().eval(), held_out(*shape)
    x = torch.randn(2, *shape)
    options = {"granularity": granularity, "ratios": RATIOS}
    whole = sc.sensitivity(model, x, lambda copy: evaluation(copy), **options)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert sc.sensitivity(model, x, evaluation, **options) == whole
    assert len({value for curve in whole for value in curve.values}) > 3
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])


def convolutions(layers: int) -> nn.Module:
    steps = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(layers)]
    return nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()


@pytest.mark.parametrize("layers", [4, 8, 16])
def test_about_half_of_the_operations_are_left(layers: int) -> None:
    """Of L layers (L + 1) / 2 on average, one pass to get from each start to the next, a check."""
    torch.manual_seed(0)
    model, evaluation = convolutions(layers), held_out(4, 5, 5)
    ran = []
    calls = torch.ops.aten.convolution.default

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is calls and not isinstance(
                args[0], torch._subclasses.FakeTensor
            ) and args[0].shape[0] in (3, 4):  # fmt: skip
                ran.append(func)
            return func(*args, **(kwargs or {}))

    counts = []
    for evaluate in (lambda copy: evaluation(copy), evaluation):
        ran.clear()
        with Counting():
            sc.sensitivity(model, torch.randn(1, 4, 5, 5), evaluate, ratios=RATIOS)
        counts.append(len(ran))
    passes, batches = 2, 3
    assert counts[0] == layers * batches * (layers * len(RATIOS) + passes)
    # The first group starts at the first operation, and two shapes of batches are checked.
    average = sum(range(1, layers + 1)) * batches * len(RATIOS)
    overhead = layers * batches * (passes + 1) + layers * 2 * 3
    assert average <= counts[1] <= average + overhead


def test_the_start_is_the_first_operation_that_reads_what_changes() -> None:
    model = convolutions(4)
    recipe = prepare(model, as_inputs(torch.randn(3, 4, 5, 5)))
    plan = Plan(masks={"2.0.weight": torch.ones(4, 4, 3, 3, dtype=torch.bool)})
    start = recipe.first_touched(plan)
    assert recipe.nodes[start].module == "2.0"
    assert sum(node.op == "aten::convolution" for node in recipe.nodes[:start]) == 2
    live = recipe.live(start)
    assert live is not None and len(live) == 1
    assert recipe.last == len(recipe.nodes)


def test_what_decides_by_values_is_never_left_out() -> None:
    net = LooksAtNumbers(lambda x: float(x.mean())).eval()
    recipe = prepare(net, as_inputs(torch.randn(3, 6)))
    assert recipe.nodes[recipe.last].op in ("aten::_local_scalar_dense", "aten::item")


def test_the_judge_runs_a_copy_that_goes_another_way_as_a_whole() -> None:
    torch.manual_seed(0)
    model, evaluation = convolutions(3), held_out(4, 5, 5)
    judge = FromTheMiddle(model, evaluation, 0)
    other = nn.Sequential(nn.Flatten(), nn.Linear(100, 2)).eval()
    plan = Plan(masks={"1.0.weight": torch.ones(4, 4, 3, 3, dtype=torch.bool)})
    assert judge(other, plan) == evaluation(other)
