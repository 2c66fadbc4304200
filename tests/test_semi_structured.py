"""2:4 for sparse tensor cores: which layers fit, and the dense fallback for all others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import InputError
from secateur.packing import pack
from secateur.semi_structured import semi_structured_misfit

GPU = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 30), nn.Linear(30, 4))
    sc.prune(model, torch.randn(2, 128), granularity="2:4")
    return model


def two_of_four(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    weight = torch.zeros(shape)
    weight[..., 1::4], weight[..., 3::4] = 1.0, -2.0
    return weight.to(dtype)


@pytest.mark.parametrize(
    ("weight", "why"),
    [
        (two_of_four(32, 64), None),
        (two_of_four(64, 128, dtype=torch.bfloat16), None),
        (two_of_four(32, 128, dtype=torch.int8), None),
        (torch.zeros(32, 64).half(), None),
        (two_of_four(48, 64), "48 outputs are no multiple of 32"),
        (two_of_four(32, 96), "96 inputs are no multiple of 64"),
        (two_of_four(32, 64, dtype=torch.int8), "64 inputs are no multiple of 128"),
        (two_of_four(32, 64, dtype=torch.float32), "float32 is none of"),
        (two_of_four(32, 64).roll(1, 0).fill_(1), "512 of 512 runs of four inputs hold more"),
    ],
)
def test_shape_rules_of_the_kernels(weight: torch.Tensor, why: str | None) -> None:
    found = semi_structured_misfit(weight)
    assert found is None if why is None else why in (found or "")


def test_one_run_too_full_is_found() -> None:
    weight = two_of_four(32, 64)
    weight[17, 40] = 1
    assert semi_structured_misfit(weight) == (
        "not 2:4: 1 of 512 runs of four inputs hold more than two weights"
    )


def test_off_a_gpu_the_model_stays_dense_and_computes_the_same() -> None:
    model = net()
    x = torch.randn(3, 128)
    made = sc.to_semi_structured(model)
    assert made.layers == [] and [name for name, _ in made.skipped] == [
        "0.weight", "2.weight", "3.weight"
    ]  # fmt: skip
    assert all("it is on the CPU" in why for _, why in made.skipped)
    assert torch.equal(made.model.eval()(x), model.eval()(x))
    assert made.model is not model and sc.masks_of(model) and not sc.masks_of(made.model)
    with pytest.raises(InputError, match="no linear layer"):
        sc.to_semi_structured(nn.ReLU())


def test_the_logical_layout_is_what_the_kernels_are_given() -> None:
    """Values and positions in order; the positions that PyTorch's own reference has."""
    weight = net()[0].weight.detach()
    packed = pack(weight)
    assert packed is not None and packed.layout == "2:4"
    values, positions = packed.table()
    assert values.shape == positions.shape == (64, 32, 2)
    back = torch.zeros(64, 32, 4).scatter_(2, positions.long(), values).reshape(64, 128)
    assert torch.equal(back, weight)
    # Two bits a position, so that a run takes four and a half weight is an eighth of a byte.
    assert len(packed.parts["index"]) == 64 * 32 * 4 // 8


@pytest.mark.skipif(not GPU, reason="needs a GPU with sparse tensor cores")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_a_gpu_layers_that_fit_compute_the_same(dtype: torch.dtype) -> None:
    model = net().to("cuda", dtype).eval()
    x = torch.randn(64, 128, device="cuda", dtype=dtype)
    made = sc.to_semi_structured(model)
    assert made.layers == ["0.weight"]
    assert [name for name, _ in made.skipped] == ["2.weight", "3.weight"]
    with torch.no_grad():
        torch.testing.assert_close(made.model(x), model(x), rtol=2e-2, atol=2e-2)
