"""Exact zeros, whatever the bits were: by integers on the CPU, as by PyTorch's own filling."""

from __future__ import annotations

import pytest
import torch

from secateur.tensors import without, zero_

DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn,
    torch.complex64, torch.int32, torch.bool,
]  # fmt: skip


def awkward(dtype: torch.dtype) -> torch.Tensor:
    values = torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(0)) * 3
    values.view(-1)[:6] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 1e-40, -1e-40])
    return values.to(dtype)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_entries_become_zero_and_the_others_keep_their_bits(dtype, layout) -> None:
    gone = torch.rand(4, 6, 3, 3, generator=torch.Generator().manual_seed(1)) > 0.5
    tensor = awkward(dtype).contiguous(memory_format=layout)
    expected = torch.where(gone, torch.zeros_like(tensor), tensor)
    copy = without(tensor, gone)
    assert bits(copy) == bits(expected) and copy.stride() == tensor.stride()
    assert bits(tensor) == bits(awkward(dtype))
    version = tensor._version
    zero_(tensor, gone)
    assert bits(tensor) == bits(expected) and tensor._version > version


def test_views_and_scalars_are_zeroed_too() -> None:
    whole = torch.ones(4, 6)
    zero_(whole.T[::2], torch.eye(3, 4).bool())
    expected = torch.ones(4, 6)
    expected.T[::2].masked_fill_(torch.eye(3, 4).bool(), 0)
    assert torch.equal(whole, expected)
    scalar = torch.tensor(torch.nan)
    zero_(scalar, torch.tensor(True))
    assert scalar.item() == 0


def test_what_is_differentiable_stays_so() -> None:
    x = torch.ones(3, requires_grad=True)
    without(x * 2, torch.tensor([True, False, False])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 2.0, 2.0]
