"""Figures: what they show is read back from the artists that they are made of."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.allocation import Curve
from secateur.errors import FileFormatError, InputError, MissingExtraError, UnknownNameError
from secateur.models.resnet import SmallResNet
from secateur.report import CoupledGroup
from secateur.report.collect import coupled_groups
from secateur.report.figures.ties import draw_groups

pytest.importorskip("matplotlib")


def net() -> SmallResNet:
    torch.manual_seed(0)
    return SmallResNet(widths=(8, 16), blocks=1)


IMAGE = torch.zeros(1, 1, 8, 8)


def colours_of(figure, size: int) -> dict[tuple[int, ...], np.ndarray]:
    """The picture, read back: how many pixels have each colour."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(size)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].reshape(-1, 3)
    found, counts = np.unique(pixels, axis=0, return_counts=True)
    return {
        tuple(int(part) for part in colour): count
        for colour, count in zip(found, counts, strict=True)
    }


def painted(figure) -> float:
    """Area of all cells that are not zero, in cells."""
    area = 0.0
    for patch in figure.axes[0].patches[1:]:
        x, y = patch.get_path().vertices.reshape(-1, 5, 2)[:, 2].T
        x0, y0 = patch.get_path().vertices.reshape(-1, 5, 2)[:, 0].T
        area += float(((x - x0) * (y - y0)).sum())
    return area


@pytest.mark.parametrize("spec", ["element", "2:4", "kernel", "block:4x4", "vector:4", "filter"])
def test_a_mask_paints_as_many_cells_as_are_kept(spec: str) -> None:
    model = net()
    budget = None if ":4" in spec and spec[0] == "2" else {"sparsity": 0.5}
    if spec == "filter":
        weight = model.stages[0][0].conv1.weight.detach().clone()
        weight[::2] = 0
    else:
        sc.prune(model, IMAGE, granularity=spec, budget=budget)
        weight = model.stages[0][0].conv1.weight
    figure = sc.plot.mask(weight)
    one = painted(sc.plot.mask(torch.ones(1, 1)))
    assert painted(figure) == pytest.approx(one * int((weight != 0).sum()))
    assert (weight == 0).sum() > 0


def test_the_smallest_weight_is_told_apart_from_zero() -> None:
    zero = colours_of(sc.plot.mask(torch.tensor([[1.0, 0.0]]), values=False), 60)
    small = colours_of(sc.plot.mask(torch.tensor([[1.0, 1e-9]]), values=False), 60)
    new = set(small) - set(zero)
    assert new, "a tiny weight looks as a zero does"
    ground = max(
        (colour for colour in zero if colour not in ((255, 255, 255),)),
        key=lambda colour: sum(colour) if zero[colour] > 20 else 0,
    )
    strongest = max(new, key=lambda colour: small[colour])
    assert sum(abs(a - b) for a, b in zip(ground, strongest, strict=True)) > 60


def test_kernels_are_tiles_in_the_order_of_the_weight() -> None:
    weight = torch.zeros(2, 3, 3, 3)
    weight[1, 2, 0, 1] = -0.25
    figure = sc.plot.mask(weight)
    texts = [text for text in figure.axes[0].texts if text.get_text() != "0"]
    assert [text.get_text() for text in texts] == ["−.25"]
    x, y = texts[0].get_position()
    tile = 3.45
    assert int(x - 2 * tile) == 1 and int(y - tile) == 0


def test_values_are_written_only_where_there_is_room() -> None:
    assert len(sc.plot.mask(torch.ones(4, 4)).axes[0].texts) == 16
    assert not sc.plot.mask(torch.ones(64, 64)).axes[0].texts
    assert {text.get_text() for text in sc.plot.mask(torch.eye(3) > 0).axes[0].texts} == {"0", "1"}
    assert "2 × 2 of 64 outputs" in sc.plot.mask(torch.ones(64, 64), corner=(2, 2)).axes[
        0
    ].get_title("left")


def test_a_large_matrix_is_drawn_by_how_much_of_every_block_is_kept() -> None:
    from secateur.report.figures.matrix import as_matrix

    mask = np.random.default_rng(0).random((500, 700)) > 0.7
    drawn = as_matrix(mask)
    expected = [
        [mask[r : r + 3, c : c + 3].mean() for c in range(0, 700, 3)] for r in range(0, 500, 3)
    ]
    np.testing.assert_allclose(drawn.cells, expected)
    assert "3 × 3 entries" in drawn.caption


def test_the_spike_at_zero_is_a_bar_with_its_share() -> None:
    model = net()
    dense = copy.deepcopy(model)
    sc.prune(model, IMAGE, granularity="element", budget={"sparsity": 0.6}, allocation="uniform")
    figure = sc.plot.histogram(dense, model, most=3)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 3
    weights = dict(model.named_parameters())
    for axes in shown:
        weight = weights[axes.get_title("left")]
        share = float((weight == 0).float().mean())
        assert axes.texts[0].get_text() == f"{100 * share:.0f}\u202f% zero"
        assert axes.patches[-1].get_height() > 0
    assert not sc.plot.histogram(dense, dense).axes[0].texts


def test_layers_show_channels_and_weights() -> None:
    result = sc.prune(net(), IMAGE, budget={"macs": 0.5})
    channels, weights = sc.plot.layers(result).axes
    names = [label.get_text() for label in channels.get_yticklabels()]
    modules = dict(result.model.named_modules())
    kept = [bar.get_width() for bar in channels.containers[1]]
    assert kept == [modules[name].weight.shape[0] for name in names]
    assert [bar.get_width() for bar in weights.containers[1]] == [
        modules[name].weight.numel() for name in names
    ]
    dense = dict(net().named_modules())
    assert [bar.get_width() for bar in weights.containers[0]] == [
        dense[name].weight.numel() for name in names
    ]


def ties_in(figure) -> dict[tuple[str, float], tuple[set[str], set[str]]]:
    """What the lines of the graph of groups connect: the layers left and right of every node."""
    axes, across = figure.axes
    names = {}
    for side, at in ((axes, 0.0), (across, 1.0)):
        for tick, label in zip(side.get_yticks(), side.get_yticklabels(), strict=True):
            names[at, tick] = label.get_text()
    nodes = {text.get_position()[1]: text.get_text() for text in axes.texts}
    found = {}
    for line in axes.patches:
        curves = line.get_path().vertices.reshape(-1, 4, 2)
        (node,) = {float(curve[-1][1]) for curve in curves}
        sides: tuple[set[str], set[str]] = (set(), set())
        for curve in curves:
            sides[int(curve[0][0])].add(names[float(curve[0][0]), curve[0][1]])
        found[nodes[node], node] = sides
    assert len(found) == len(nodes) == len(axes.patches)
    return found


def test_the_graph_ties_every_layer_to_its_groups() -> None:
    before, result = sc.trace(net(), IMAGE), sc.prune(net(), IMAGE, budget={"macs": 0.5})
    expected = [
        (f"{group.after} of {group.before}", (set(group.makers), set(group.readers)))
        for group in coupled_groups(result.groups, result.model)
    ]
    assert any(len(makers) > 1 and len(readers) > 1 for _, (makers, readers) in expected)
    after = ties_in(sc.plot.groups(result))
    said = [(text, sides) for (text, _), sides in after.items()]
    assert len(said) == len(expected) and all(tie in said for tie in expected)
    whole = ties_in(sc.plot.groups(before))
    assert {text for text, _ in whole} == {"8 of 8", "16 of 16"}
    for sides in whole.values():
        assert sides in [sides for _, sides in expected]


def test_groups_stand_apart_and_long_names_keep_their_ends() -> None:
    names = [f"encoder.layers.{number}.attention.output" for number in range(9)]
    groups = [
        CoupledGroup(f"{name}.weight", 8, 8 - at % 2, (names[3],), (names[5],))
        for at, name in enumerate(names)
    ]
    figure = draw_groups(groups, names, width=3.9)
    axes, across = figure.axes
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert min(np.diff(heights)) >= 1 and np.mean(heights) == pytest.approx(0.5)
    bottom, top = axes.get_ylim()
    assert top < heights[0] and heights[-1] < bottom
    shown = [label.get_text() for side in (axes, across) for label in side.get_yticklabels()]
    assert all(label.startswith("…") and label.endswith("attention.output") for label in shown)


def test_sensitivity_has_a_panel_for_each_of_the_worst_curves() -> None:
    curves = tuple(
        Curve(f"layer{n}", 10, (2, 5), (0.9 - 0.01 * n, 0.9 - 0.05 * n), 0.9) for n in range(6)
    )
    table = sc.Sensitivity(0.9, curves, (0.2, 0.5), "channel", "l2")
    figure = sc.plot.sensitivity(table, most=4)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in shown] == ["layer2", "layer3", "layer4", "layer5"]
    line = next(line for line in shown[-1].lines if line.get_marker() == "o")
    np.testing.assert_allclose(line.get_xydata(), [[0, 0], [0.2, 0.05], [0.5, 0.25]])


def test_accuracy_reads_the_folder_of_a_run(tmp_path: Path) -> None:
    lines = [
        {"step": "00-start", "macs": 100, "accuracy": 0.9},
        {"step": "01-prune", "macs": 50, "accuracy": 0.6},
        {"step": "02-finetune", "epoch": 1, "loss": 0.1, "accuracy": 0.1},
        {"step": "02-finetune", "macs": 50, "accuracy": 0.85},
        {"step": "03-export", "macs": 50, "accuracy": 0.85},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    axes = sc.plot.accuracy(tmp_path).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[100, 90], [50, 60], [50, 85]])
    both = sc.plot.accuracy({"first": tmp_path, "second": [("a", 80, 0.7)]}).axes[0]
    assert [text.get_text() for text in both.get_legend().get_texts()] == ["first", "second"]


@pytest.mark.parametrize(
    ("draw", "error", "says"),
    [
        (lambda: sc.plot.mask(torch.zeros(0, 3)), InputError, "no entries"),
        (lambda: sc.plot.mask(torch.tensor([[float("nan")]])), InputError, "not finite"),
        (lambda: sc.plot.mask("conv1"), InputError, "not str"),
        (lambda: sc.plot.mask(torch.ones(2, 2), corner=(0, 1)), InputError, "corner"),
        (lambda: sc.plot.mask(torch.ones(2, 2), theme="drak"), UnknownNameError, "'dark'"),
        (lambda: sc.plot.histogram(nn.Linear(2, 2), nn.ReLU()), InputError, "same name"),
        (lambda: sc.plot.training({}), InputError, "no training"),
        (lambda: sc.plot.accuracy([]), InputError, "no accuracy"),
        (lambda: sc.plot.accuracy("/no/such/folder"), FileFormatError, "holds no run"),
        (
            lambda: sc.plot.sensitivity(sc.Sensitivity(0.9, (), (), "", "")),
            InputError,
            "no trial",
        ),
    ],
)
def test_what_cannot_be_drawn_is_one_clear_line(draw, error, says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        draw()
    assert "\n" not in str(caught.value)


def test_without_matplotlib_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"secateur\[report\]"):
        sc.plot.mask(torch.ones(2, 2))


def test_a_figure_keeps_its_looks_whatever_is_set_elsewhere(tmp_path: Path) -> None:
    import matplotlib

    def drawn() -> bytes:
        figure = sc.plot.accuracy([("a", 10, 0.5), ("b", 5, 0.4)], theme="dark")
        figure.savefig(tmp_path / "a.png", metadata={"Software": None})
        return (tmp_path / "a.png").read_bytes()

    plain = drawn()
    with matplotlib.rc_context(
        {"axes.facecolor": "red", "xtick.labelcolor": "red", "font.size": 30}
    ):
        assert drawn() == plain
