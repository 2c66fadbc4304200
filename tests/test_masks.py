"""Masked entries are exactly zero, whatever happens to the model, and come back when asked for."""

from __future__ import annotations

import copy
import gc
import io
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune
from torch.optim import swa_utils

import secateur as sc
from secateur.masks import keeper_of
from secateur.masks.keeper import KEEPERS


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def images() -> Tensor:
    return torch.randn(3, 1, 4, 4)


def half(tensor: Tensor, seed: int = 0) -> Tensor:
    return torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed)) > 0.5


def masks_for(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """A random half of every matrix and kernel of a model."""
    return {name: half(p, seed) for name, p in model.named_parameters() if p.dim() > 1}


def masked_net() -> nn.Sequential:
    model = small_net()
    sc.apply_masks(model, masks_for(model))
    return model


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Callable[[], Tensor] = images,
    steps: int = 3,
) -> None:
    for _ in range(steps):

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = model(inputs()).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)


def check(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Zero where masked, and alive elsewhere."""
    for name, mask in masks.items():
        owner, _, leaf = name.rpartition(".")
        weight = getattr(model.get_submodule(owner), leaf).detach()
        assert torch.count_nonzero(weight[~mask]) == 0
        assert torch.count_nonzero(weight[mask]) > 0


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(
        p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adam one by one": lambda p: torch.optim.Adam(p, lr=0.01, foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.01, max_iter=4),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_entries_stay_zero_under_any_optimizer(name: str) -> None:
    """Also when velocity and moments are from before the mask."""
    torch.manual_seed(0)
    model, x = small_net(), images()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, lambda: x)
    masks = masks_for(model)
    sc.apply_masks(model, masks)
    before = model[4].weight.detach().clone()
    for _ in range(4):
        train(model, optimizer, lambda: x, steps=1)
        check(model, masks)
    assert not torch.equal(before, model[4].weight)


def test_stale_velocity_does_not_move_a_masked_weight() -> None:
    weight = nn.Linear(1, 1, bias=False)
    weight.weight.data.fill_(1.0)
    optimizer = torch.optim.SGD(weight.parameters(), lr=0.1, momentum=0.9)
    weight(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    sc.apply_masks(weight, {"weight": torch.zeros(1, 1, dtype=torch.bool)})
    optimizer.zero_grad()
    weight(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    assert weight.weight.item() == 0.0


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_apply_compose_and_remove_restore_the_bits(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    module = nn.Module()
    module.register_parameter("w", nn.Parameter(torch.randn(shape).to(dtype)))
    if len(shape) == 4 and data.draw(st.booleans()):
        module.w.data = module.w.data.contiguous(memory_format=torch.channels_last)
    dense = module.w.detach().clone()
    seeds = data.draw(st.lists(st.integers(0, 1000), min_size=1, max_size=3))
    expected = torch.ones(shape, dtype=torch.bool)
    for seed in seeds:
        sc.apply_masks(module, {"w": half(dense, seed)})
        expected &= half(dense, seed)
    assert torch.equal(sc.masks_of(module)["w"], expected)
    assert torch.equal(module.w, torch.where(expected, dense, torch.zeros_like(dense)))
    keeper = keeper_of(module.w)
    assert keeper is not None and keeper.values is not None
    assert keeper.values.numel() == int((~expected).sum())
    sc.remove_masks(module)
    assert torch.equal(module.w, dense) and sc.masks_of(module) == {}


def test_removing_after_training_gives_the_old_values_at_masked_places() -> None:
    model = small_net()
    dense = model[4].weight.detach().clone()
    masks = masks_for(model)
    sc.apply_masks(model, masks)
    train(model, torch.optim.SGD(model.parameters(), lr=0.01))
    trained = model[4].weight.detach().clone()
    sc.remove_masks(model)
    mask = masks["4.weight"]
    assert torch.equal(model[4].weight[~mask], dense[~mask])
    assert torch.equal(model[4].weight[mask], trained[mask])
    assert not torch.equal(trained[mask], dense[mask])
    assert not model[4].weight._backward_hooks and not model[4]._load_state_dict_post_hooks
    train(model, torch.optim.SGD(model.parameters(), lr=0.01))
    assert torch.count_nonzero(model[4].weight) == dense.numel()


def test_finalize_leaves_plain_zeros() -> None:
    model = masked_net()
    output = model.eval()(x := images())
    sc.finalize(model)
    assert torch.equal(model(x), output) and sc.masks_of(model) == {}
    assert not model[4].weight._backward_hooks and "_secateur_keepers" not in vars(model[4])
    zeros = int((model[4].weight == 0).sum())
    train(model.train(), torch.optim.SGD(model.parameters(), lr=0.1))
    assert zeros > 0 and int((model[4].weight == 0).sum()) < zeros


def test_gradients_are_masked_as_they_arrive_so_clipping_sees_none() -> None:
    model = masked_net()
    twin = copy.deepcopy(model)
    sc.finalize(twin)
    x = images()
    for net in (model, twin):
        net(x).square().sum().backward()
    masks = sc.masks_of(model)
    for name, parameter in twin.named_parameters():
        if name in masks:
            parameter.grad.masked_fill_(~masks[name], 0)
    norms = [nn.utils.clip_grad_norm_(net.parameters(), 1.0) for net in (model, twin)]
    assert norms[0] == norms[1]


def test_infinite_gradients_of_masked_entries_go() -> None:
    weight = nn.Linear(2, 1, bias=False)
    sc.apply_masks(weight, {"weight": torch.tensor([[True, False]])})
    weight(torch.tensor([[1.0, float("inf")]])).nan_to_num().sum().backward()
    (weight.weight * torch.tensor([[1.0, float("inf")]])).sum().backward()
    assert weight.weight.grad.isfinite().all()


def test_gradients_can_stay_dense_until_the_step() -> None:
    model = masked_net()
    keeper = keeper_of(model[4].weight)
    assert keeper is not None
    keeper.masks_gradients = False
    optimizer = torch.optim.Adam(model.parameters())
    model(images()).square().sum().backward()
    gone = ~keeper.mask
    assert torch.count_nonzero(model[4].weight.grad[gone]) > 0
    optimizer.step()
    assert torch.count_nonzero(optimizer.state[model[4].weight]["exp_avg"][gone]) == 0
    check(model, sc.masks_of(model))
    assert not keeper_of(copy.deepcopy(model)[4].weight).masks_gradients  # type: ignore[union-attr]


def test_a_keeper_takes_another_mask() -> None:
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    sc.apply_masks(layer, {"weight": torch.tensor([[False, False, True, True]])})
    keeper = keeper_of(layer.weight)
    assert keeper is not None
    keeper.change(torch.tensor([[True, False, False, True]]))
    assert layer.weight.tolist() == [[0.0, 0.0, 0.0, 4.0]]
    keeper.change(torch.tensor([[True, True, True, True]]), restore=True)
    assert layer.weight.tolist() == [[0.0, 2.0, 3.0, 4.0]]


def test_frozen_parameters_stay_frozen_and_masked_once_they_train() -> None:
    model = small_net()
    model[4].weight.requires_grad_(False)
    masks = masks_for(model)
    sc.apply_masks(model, masks)
    assert not model[4].weight.requires_grad
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer)
    model[4].weight.requires_grad_(True)
    train(model, optimizer, steps=1)
    assert torch.count_nonzero(model[4].weight.grad[~masks["4.weight"]]) == 0
    check(model, masks)


def test_the_state_dict_keeps_its_keys_and_loading_keeps_the_zeros() -> None:
    dense, model = small_net(), masked_net()
    assert list(model.state_dict()) == list(dense.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in dense.named_parameters()]
    masks = sc.masks_of(model)
    model.load_state_dict(dense.state_dict())
    check(model, masks)
    assert torch.equal(model[4].weight[masks["4.weight"]], dense[4].weight[masks["4.weight"]])
    fresh = small_net()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh[4].weight, model[4].weight)


def test_loading_by_assignment_keeps_the_new_parameters_masked() -> None:
    dense, model = small_net(), masked_net()
    masks = sc.masks_of(model)
    model.load_state_dict(copy.deepcopy(dense.state_dict()), assign=True)
    check(model, masks)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    check(model, masks)


def test_applying_nothing_zeroes_again() -> None:
    model = masked_net()
    masks = sc.masks_of(model)
    with torch.no_grad():
        model[4].weight.add_(1.0)
    sc.apply_masks(model, {})
    check(model, masks)


def pickled(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])
def test_copies_keep_their_own_zeros(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = masked_net()
    masks = sc.masks_of(model)
    dense = keeper_of(model[4].weight).dense()  # type: ignore[union-attr]
    other = copied(model)
    assert keeper_of(other[4].weight) not in (None, keeper_of(model[4].weight))
    for net in (model, other):
        train(net, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1))
        check(net, masks)
    sc.remove_masks(other)
    check(model, masks)
    mask = masks["4.weight"]
    assert torch.equal(other[4].weight[~mask], dense[~mask])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens))


@pytest.mark.parametrize("copied", [lambda m: m, copy.deepcopy, pickled])
@pytest.mark.parametrize("name", ["embedding.weight", "head.weight"])
def test_tied_weights_are_one_masked_weight(
    name: str, copied: Callable[[nn.Module], nn.Module]
) -> None:
    model = Tied()
    mask = half(model.head.weight)
    sc.apply_masks(model, {name: mask})
    model = copied(model)
    assert list(sc.masks_of(model)) == ["embedding.weight"]
    assert model.head.weight is model.embedding.weight
    train(
        model,
        torch.optim.AdamW(model.parameters(), lr=0.1),
        lambda: torch.randint(7, (4, 3)),
    )
    check(model, {"head.weight": mask, "embedding.weight": mask})
    model.head.load_state_dict({"weight": torch.ones(7, 5)})
    check(model, {"embedding.weight": mask})


def test_sparse_gradients_are_masked() -> None:
    model = nn.Embedding(6, 3, sparse=True)
    mask = half(model.weight)
    sc.apply_masks(model, {"weight": mask})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.tensor([1, 1, 4])).square().sum().backward()
    assert model.weight.grad.is_sparse
    assert torch.count_nonzero(model.weight.grad.to_dense()[~mask]) == 0
    optimizer.step()
    check(model, {"weight": mask})


def test_an_average_of_the_weights_stays_zero() -> None:
    model = masked_net()
    masks = sc.masks_of(model)
    ema = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(3):
        train(model, optimizer, steps=1)
        ema.update_parameters(model)
    check(ema.module, masks)
    assert sc.masks_of(ema.module).keys() == masks.keys()


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
def test_an_average_of_buffers_too_stays_zero(name: str) -> None:
    model = computed_net(name)
    masks = {"0.weight": half(torch.empty(4, 4))}
    sc.apply_masks(model, masks)
    ema = swa_utils.AveragedModel(model, use_buffers=True)
    for _ in range(3):
        train(model, torch.optim.SGD(model.parameters(), lr=0.01), rows, steps=1)
        ema.update_parameters(model)
    check(ema.module, masks)


def test_compiled_steps_of_an_optimizer_keep_zeros() -> None:
    torch._dynamo.reset()
    model = masked_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(3):
        optimizer.zero_grad()
        model(images()).square().sum().backward()
        step()
    check(model, sc.masks_of(model))


def test_masks_follow_the_dtype() -> None:
    model = masked_net()
    masks = sc.masks_of(model)
    dense = keeper_of(model[4].weight).dense()  # type: ignore[union-attr]
    model.double()
    train(
        model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), lambda: images().double()
    )
    check(model, masks)
    sc.remove_masks(model)
    mask = masks["4.weight"]
    assert torch.equal(model[4].weight[~mask], dense[~mask].double())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masks_follow_the_device() -> None:
    model = nn.LSTM(3, 4)
    sc.apply_masks(model, masks_for(model))
    masks = {name: mask.cuda() for name, mask in sc.masks_of(model).items()}
    model.cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.randn(2, 3, 3, device="cuda"))[0].sum().backward()
        optimizer.step()
    check(model, masks)
    assert all(mask.is_cuda for mask in sc.masks_of(model).values())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models_train_masked(backend: str) -> None:
    torch._dynamo.reset()
    model = masked_net()
    masks = sc.masks_of(model)
    x = images()
    compiled = torch.compile(model, backend=backend)
    torch.testing.assert_close(compiled(x), model(x))
    train(compiled, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
    check(model, masks)
    sc.apply_masks(model, masks_for(model, seed=1))
    train(compiled, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
    check(model, {name: mask & masks_for(model, 1)[name] for name, mask in masks.items()})


def test_training_under_autocast() -> None:
    model = masked_net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(images()).float().square().sum()
        loss.backward()
        optimizer.step()
    check(model, sc.masks_of(model))


def test_a_recurrent_layer_trains_masked() -> None:
    model = nn.LSTM(3, 4, num_layers=2)
    masks = masks_for(model)
    sc.apply_masks(model, masks)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 3))[0].square().sum().backward()
        optimizer.step()
    check(model, masks)


@pytest.fixture
def group() -> Iterator[None]:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_distributed_training_stays_masked(group: None) -> None:
    model = masked_net()
    parallel = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    train(parallel, optimizer)
    masks = sc.masks_of(model)
    check(model, masks)
    assert torch.count_nonzero(model[4].weight.grad[~masks["4.weight"]]) == 0


PARAMETRISED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "torch's prune": lambda m: torch_prune.l1_unstructured(m, "weight", 2),
}


def computed_net(name: str) -> nn.Sequential:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(PARAMETRISED[name](nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    return model


def rows() -> Tensor:
    return torch.randn(5, 4)


@pytest.mark.parametrize("name", PARAMETRISED)
def test_a_computed_weight_is_masked_in_effect(name: str) -> None:
    model = computed_net(name)
    keys = list(model.state_dict())
    state = copy.deepcopy(model.state_dict())
    x = rows()
    model.eval()
    expected = model(x)
    masks = {"0.weight": half(torch.empty(4, 4)), "2.weight": half(torch.empty(2, 4), 3)}
    dense = model[0].weight.detach().clone()
    model.train()
    sc.apply_masks(model, masks)
    assert list(model.state_dict()) == keys
    model.eval()
    check(model, masks)
    assert torch.equal(model[0].weight, dense * masks["0.weight"])
    assert {n: m.tolist() for n, m in sc.masks_of(model).items()} == {
        n: m.tolist() for n, m in masks.items()
    }
    sc.remove_masks(model)
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)
    assert torch.equal(model(x), expected) and sc.masks_of(model) == {}


@pytest.mark.parametrize("name", PARAMETRISED)
def test_a_computed_weight_trains_masked_and_is_made_final(name: str) -> None:
    model = computed_net(name)
    masks = {"0.weight": half(torch.empty(4, 4))}
    sc.apply_masks(model, masks)
    second = half(torch.empty(4, 4), 5)
    train(model, torch.optim.AdamW(model.parameters(), lr=0.05), rows)
    check(model, masks)
    sc.apply_masks(model, {"0.weight": second})
    both = masks["0.weight"] & second
    if name in ("weight_norm", "spectral_norm", "orthogonal"):
        model = copy.deepcopy(model)
    train(model, torch.optim.AdamW(model.parameters(), lr=0.05), rows)
    check(model, {"0.weight": both})
    x = rows()
    expected = model.eval()(x)
    model.train()
    sc.finalize(model)
    assert list(model.state_dict()) in (
        ["0.weight", "0.bias", "2.weight", "2.bias"],
        ["0.bias", "0.weight", "2.weight", "2.bias"],
    )
    check(model, {"0.weight": both})
    assert torch.equal(model.eval()(x), expected)


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "old weight_norm"])
def test_compiled_computed_weights_are_masked(name: str) -> None:
    torch._dynamo.reset()
    model = computed_net(name).eval()
    sc.apply_masks(model, {"0.weight": half(torch.empty(4, 4))})
    x = rows()
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_masking_does_not_move_a_spectral_norm_in_training() -> None:
    model = computed_net("spectral_norm").train()
    state = copy.deepcopy(model.state_dict())
    sc.apply_masks(model, {"0.weight": half(torch.empty(4, 4))})
    sc.masks_of(model)
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "mask", "error", "message"),
    [
        ("4.wieght", torch.ones(10, 64, dtype=torch.bool), LookupError, "did you mean '4.weight'"),
        ("4.weight", torch.ones(10, 63, dtype=torch.bool), ValueError, r"\[10, 63\], and the weig"),
        ("4.weight", torch.ones(10, 64), ValueError, "must be a bool tensor"),
        ("4.weight", [[True]], ValueError, "must be a bool tensor"),
    ],
)
def test_a_wrong_mask_is_one_error_and_changes_nothing(
    name: str, mask: Any, error: type[Exception], message: str
) -> None:
    model = small_net()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(sc.errors.SecateurError, match=message) as caught:
        sc.apply_masks(model, {"0.weight": half(model[0].weight), name: mask})
    assert isinstance(caught.value, error)
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)
    assert sc.masks_of(model) == {} and sc.history(model) == []


def test_a_model_that_is_let_go_takes_its_keepers_along() -> None:
    model = masked_net()
    weight = model[4].weight
    keeper = weakref.ref(keeper_of(weight))  # type: ignore[arg-type]
    count = len(KEEPERS)
    del model
    gc.collect()
    assert keeper() is None and len(KEEPERS) < count
    # What is left of it is a parameter like any other.
    assert not weight._backward_hooks
    weight.square().sum().backward()


def test_buffers_can_be_masked() -> None:
    model = nn.BatchNorm1d(3)
    mask = torch.tensor([True, False, True])
    sc.apply_masks(model, {"running_var": mask})
    model.load_state_dict(nn.BatchNorm1d(3).state_dict())
    assert model.running_var.tolist() == [1.0, 0.0, 1.0]
    sc.remove_masks(model)
    assert model.running_var.tolist() == [1.0, 1.0, 1.0]


def test_a_copy_outlives_finalizing_a_parametrised_original() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    net = nn.Sequential(layer)
    sc.apply_masks(net, {"0.weight": torch.eye(4, dtype=torch.bool)})
    other = copy.deepcopy(net)
    x = torch.randn(3, 4)
    before = other(x).detach()
    sc.finalize(net)
    assert torch.equal(other(x), before)
    assert torch.equal(net(x), before)
