"""Masks go along with states, copies, ties, dtypes, devices and processes."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from masking import (
    check,
    half,
    images,
    masked_net,
    masks_for,
    small_net,
    train,
)
from secateur.masks import keeper_of


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
