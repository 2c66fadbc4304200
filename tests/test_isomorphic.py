"""Which groups are of one structure, and rankings within such sets."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.allocation import GroupScores, as_allocation
from secateur.graph import trace
from secateur.graph.kinds import kinds


class Block(nn.Module):
    def __init__(self, channels: int, out: int, inner: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.second = nn.Conv2d(inner, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.short: nn.Module = nn.Identity()
        if channels != out:
            self.short = nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.second(torch.relu(self.bn1(self.first(x)))))
        return torch.relu(y + self.short(x))


class Residual(nn.Module):
    """Two stages of two blocks, of which no two have the same width inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.stage1 = nn.Sequential(Block(8, 8, 6, 1), Block(8, 8, 10, 1))
        self.stage2 = nn.Sequential(Block(8, 16, 12, 2), Block(16, 16, 14, 1))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.stage1(torch.relu(self.bn(self.stem(x)))))
        return self.head(x.mean((2, 3)))


X = torch.zeros(1, 3, 8, 8)
INNER = {f"stage{s}.{b}.first.weight" for s in (1, 2) for b in (0, 1)}


def sets(model: nn.Module, x: Tensor) -> list[set[str]]:
    graph = trace(model, x)
    found = defaultdict(set)
    for group, kind in zip(graph.groups, kinds(graph), strict=True):
        found[kind].add(group.name)
    return list(found.values())


def test_inner_convolutions_pool_and_residual_streams_stand_apart() -> None:
    found = sets(Residual(), X)
    assert INNER in found
    assert sorted(len(each) for each in found) == [1, 1, 4]


def test_what_reads_a_group_counts() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 6)
            self.a2, self.b2, self.c2, self.c3 = (nn.Linear(6, 2) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            c = torch.relu(self.c(x))
            a = self.a2(torch.relu(self.a(x))) + self.b2(torch.relu(self.b(x)))
            return a + self.c2(c) * self.c3(c)

    assert sorted(map(sorted, sets(Read(), torch.zeros(1, 4)))) == [
        ["a.weight", "b.weight"],
        ["c.weight"],
    ]


def test_the_operations_between_count() -> None:
    def net(between: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), between, nn.Linear(6, 2))

    assert len(sets(net(nn.ReLU()), torch.zeros(1, 4))) == 1
    assert len(sets(net(nn.Tanh()), torch.zeros(1, 4))) == 2
    assert len(sets(net(nn.LayerNorm(6)), torch.zeros(1, 4))) == 2


def test_the_order_in_which_operations_follow_counts() -> None:
    def net(first: nn.Module, second: nn.Module) -> nn.Module:
        return nn.Sequential(
            nn.Linear(4, 6), nn.ReLU(), nn.Tanh(), nn.Linear(6, 6), first, second, nn.Linear(6, 2)
        )

    assert len(sets(net(nn.ReLU(), nn.Tanh()), torch.zeros(1, 4))) == 1
    assert len(sets(net(nn.Tanh(), nn.ReLU()), torch.zeros(1, 4))) == 2


def test_a_model_gives_the_same_kinds_whatever_its_sizes() -> None:
    def signature(width: int) -> list[str]:
        net = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 2 * width, 1))
        return kinds(trace(net, X))

    assert signature(4) == signature(9)


def groups(*spread: tuple[str, list[float]]) -> list[GroupScores]:
    return [
        GroupScores(str(index), np.array(scores), kind=kind)
        for index, (kind, scores) in enumerate(spread)
    ]


def test_one_set_is_the_raw_global_ranking() -> None:
    given = groups(("s", [5.0, 1.0, 3.0]), ("s", [2.0, 4.0]), ("s", [0.5]))
    order = as_allocation("isomorphic").order(given)
    assert order == as_allocation("global:normalize=raw").order(given)


def test_sets_of_single_groups_are_uniform() -> None:
    given = groups(("s", [5.0, 1.0, 3.0]), ("t", [2.0, 4.0]), ("u", [0.5, 7.0, 8.0, 9.0]))
    assert as_allocation("isomorphic").order(given) == as_allocation("uniform").order(given)


def test_at_every_point_all_sets_have_lost_the_same_share() -> None:
    rng = np.random.default_rng(3)
    given = groups(*(("ab"[i % 2], (rng.random(5 + i) * 10**i).tolist()) for i in range(6)))
    order = as_allocation("isomorphic").order(given)
    sizes = {kind: sum(len(g.scores) for g in given if g.kind == kind) for kind in "ab"}
    lost = dict.fromkeys("ab", 0)
    for owner, _ in order:
        lost[given[owner].kind] += 1
        assert abs(lost["a"] / sizes["a"] - lost["b"] / sizes["b"]) <= 1.01 / min(sizes.values())


def test_heavy_units_count_more_towards_the_share() -> None:
    heavy = GroupScores("heavy", np.array([1.0, 2.0]), weights=np.array([3, 1]), kind="h")
    plain = GroupScores("plain", np.arange(4.0), kind="p")
    # Middles of the shares: heavy 0.375, 0.875; plain 0.125, 0.375, 0.625, 0.875.
    order = as_allocation("isomorphic").order([heavy, plain])
    assert order == [(1, 0), (0, 0), (1, 1), (1, 2), (0, 1), (1, 3)]


def test_pruning_ranks_within_sets() -> None:
    torch.manual_seed(0)
    net = Residual()
    with torch.no_grad():
        # The weakest block of the set of inner convolutions; streams are weaker still.
        net.stage1[1].first.weight.mul_(1e-3)
        net.stem.weight.mul_(1e-6)
        net.stage2[0].second.weight.mul_(1e-6)
    result = sc.prune(
        net, X, criterion="l2:view=producer", allocation="isomorphic", budget={"macs": 0.7}
    )
    kept = {group.name: (group.before, group.after) for group in result.groups}
    lost = {name: before - after for name, (before, after) in kept.items()}
    assert 1 < lost["stage1.1.first.weight"] < 10
    assert not any(lost[name] for name in INNER - {"stage1.1.first.weight"})
    inner = sum(lost[name] for name in INNER) / sum(kept[name][0] for name in INNER)
    for name in kept.keys() - INNER:
        assert abs(lost[name] / kept[name][0] - inner) <= 1.01 / 8
    assert result.after.macs <= 0.7 * result.before.macs
