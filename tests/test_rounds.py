"""Code that cannot follow costs a few trial runs, not some for every layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur as sc
from secateur import decide


class Stubborn(nn.Module):
    """Attention that keeps its sizes where nothing finds them."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.names = ("head",) * heads
        self.sizes = {"width": dim // heads * 3}
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.randn(1, heads, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).view(b, -1, len(self.names), self.sizes["width"])
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=3)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return x + self.proj(y.transpose(1, 2).reshape(b, n, -1))


@pytest.mark.parametrize("depth", [3, 24])
def test_depth_costs_few_rounds(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    obstacles = []

    def counted(*args: object) -> bool:
        obstacles.append(args)
        return amend(*args)  # type: ignore[arg-type]

    amend = decide.amend
    monkeypatch.setattr(decide, "amend", counted)
    torch.manual_seed(0)
    blocks = [Stubborn(24, 3 if at < depth // 2 else 6) for at in range(depth)]
    net = nn.Sequential(nn.Linear(10, 24), *blocks, nn.Linear(24, 5)).eval()
    result = sc.prune(net, torch.randn(2, 5, 10), budget={"params": 0.7})
    assert result.after.params <= 0.7 * result.before.params
    assert len(obstacles) <= 10
    reasons = dict(result.skipped)
    assert "fixes its size" in reasons[f"{depth}.qkv.weight"]
