"""Weight sharing: the weights of a layer take a few values only, which train as one each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from secateur.attached import as_units, find_targets
from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.masks import masks_of

__all__ = ["SharedWeights", "share_weights"]

GRADIENTS = ("mean", "sum")
ROUNDS = 100


class SharedWeights:
    """What `share_weights` returns: follows the training of the shared values.

    Attributes
    ----------
    values : dict of str to Tensor
        Name of the weight -> its shared values in ascending order, without the zero.
    error : dict of str to float
        Name of the weight -> root of the mean squared change, over that of its weights.
    skipped : list of (str, str)
        Weights that are left alone, and why.
    """

    def __init__(self, gradients: str) -> None:
        self.gradients = gradients
        self.values: dict[str, Tensor] = {}
        self.error: dict[str, float] = {}
        self.skipped: list[tuple[str, str]] = []
        self._shared: list[tuple[str, nn.Parameter, Tensor]] = []
        self._hooks: list[Any] = []

    def add(self, name: str, weight: nn.Parameter, values: Tensor, labels: Tensor) -> None:
        """Share a weight: ``labels`` say which value an entry has, 0 for zero."""
        before = weight.detach().double()
        with torch.no_grad():
            weight.copy_(_spread(values, labels))
        change = (weight.detach().double() - before).square().mean().sqrt()
        self.error[name] = float(change / before.square().mean().sqrt().clamp_min(1e-300))
        self.values[name] = values
        self._shared.append((name, weight, labels))

        def tie(parameter: Tensor) -> None:
            assert parameter.grad is not None
            _check(name, parameter, labels)
            totals = _totals(parameter.grad, labels, len(values), self.gradients)
            parameter.grad.copy_(_spread(totals, labels))

        self._hooks.append(weight.register_post_accumulate_grad_hook(tie))

    def project(self) -> None:
        """Make weights that belong together equal again, to the mean of what they are.

        Optimizers of PyTorch move them alike, up to the rounding of the instructions that their
        kernels use at the ends of a tensor.
        """
        for name, weight, labels in self._shared:
            _check(name, weight, labels)
            values = _totals(weight.detach(), labels, len(self.values[name]), "mean")
            self.values[name] = values.to(weight.dtype)
            with torch.no_grad():
                weight.copy_(_spread(values, labels))

    def finish(self) -> None:
        """Project once more, and let the model go: it stays as it is, and trains freely again."""
        self.project()
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def share_weights(
    model: nn.Module,
    bits: int | Mapping[str, int] = 5,
    *,
    ignore: Sequence[str | nn.Module] = (),
    gradients: Literal["mean", "sum"] = "mean",
) -> SharedWeights:
    """Let the weights of every layer share ``2 ** bits`` values, found by k-means.

    Han, Mao and Dally 2016, "Deep Compression", arXiv 1510.00149: of every layer's weights that are
    not zero the 2ᵇ centroids with the least squared distance, started at equal steps between the
    least and the largest weight, which keeps the large ones, few and important, well represented.
    Training then moves the centroids: the gradients of all weights with one value become one. Zeros
    stay zeros and take no value. `secateur.save` with ``format="sparse"`` stores shared weights as
    codes of ``bits`` bits.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place: weights of convolutions, linear and embedding layers take their values.
    bits : int or mapping
        1 to 8; or for patterns of layer names, the first that matches counts, as in
        ``{"conv*": 8, "*": 5}``, which is the paper's choice (8 and 5).
    ignore : sequence of str or Module
        Names, patterns or modules that are left alone.
    gradients : {"mean", "sum"}
        What the gradients of the weights with one value become. The mean is the projection of the
        gradient on what shared weights can do, and goes with the learning rate that the weights
        were trained with; the sum is the derivative by the centroid, as the paper has it, larger by
        the number of its weights.

    Returns
    -------
    SharedWeights
        Call its ``finish()`` after training, before saving.

    Raises
    ------
    InputError
        For bits out of range, or weights that are not finite.
    NothingToPruneError
        Where there is no weight to share.

    Examples
    --------
    >>> layer = nn.Linear(3, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[1.0, 1.1, -2.0], [0.0, 0.9, -2.2]]))
    >>> shared = share_weights(layer, bits=1)
    >>> shared.values["weight"]
    tensor([-2.1000,  1.0000])
    >>> layer(torch.tensor([[1.0, 2.0, 3.0]])).sum().backward()
    >>> layer.weight.grad
    tensor([[1.6667, 1.6667, 3.0000],
            [0.0000, 1.6667, 3.0000]])
    >>> shared.finish()
    """
    if gradients not in GRADIENTS:
        raise UnknownNameError(f"unknown gradients {gradients!r}{suggestion(gradients, GRADIENTS)}")
    targets, skipped = find_targets(model, as_units("element"), ignore)
    masks = masks_of(model)
    chosen: list[tuple[str, nn.Parameter, Tensor, Tensor]] = []
    for target in targets:
        width = _bits_for(target.name, bits)
        if width is None:
            skipped.append((target.name, "no pattern of bits matches it"))
            continue
        weight = target.parameter()
        there = weight.detach() != 0
        if target.name in masks:
            there &= masks[target.name]
        if not bool(weight.detach().isfinite().all()):
            raise InputError(f"{target.name!r} holds values that are not finite")
        values, labels = _cluster(weight.detach(), there, 2**width)
        chosen.append((target.name, weight, values, labels))
    made = SharedWeights(gradients)
    made.skipped = skipped
    for name, weight, values, labels in chosen:
        made.add(name, weight, values, labels)
    return made


def _bits_for(name: str, bits: int | Mapping[str, int]) -> int | None:
    layer = name.rpartition(".")[0]
    rules = bits if isinstance(bits, Mapping) else {"*": bits}
    for pattern, width in rules.items():
        if not isinstance(width, int) or isinstance(width, bool) or not 1 <= width <= 8:
            raise InputError(f"bits are a whole number from 1 to 8, not {width!r}")
        if fnmatchcase(layer, pattern) or fnmatchcase(name, pattern):
            return width
    return None


def _cluster(weight: Tensor, there: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values, and for every entry the number of its value from 1 on; 0 where nothing is."""
    labels = torch.zeros(weight.shape, dtype=torch.int64, device=weight.device)
    entries = weight[there].double().cpu().numpy()
    if not len(entries):
        return weight.new_zeros(0), labels
    centres = nearest_means(entries, count)
    values = torch.as_tensor(centres).to(weight.dtype).unique()
    # By what the values are in the weight's own dtype, in which neighbours may have become one.
    between = (values.double()[1:] + values.double()[:-1]) / 2
    found = torch.searchsorted(between, torch.as_tensor(entries), right=True)
    labels[there] = found.to(weight.device) + 1
    return values.to(weight.device), labels


def nearest_means(
    entries: np.ndarray[Any, Any], count: int, rounds: int = ROUNDS
) -> np.ndarray[Any, Any]:
    """Means of the entries nearest to each of them: k-means on a line (Lloyd's algorithm).

    Parameters
    ----------
    entries : ndarray of float64, shape [n]
    count : int
        The most means; there are fewer where some would have no entries.

    Returns
    -------
    ndarray of float64, shape [at most count]
        Ascending.

    Examples
    --------
    >>> nearest_means(np.array([0.0, 0.2, 5.0, 5.2, 9.0]), 3).tolist()
    [0.1, 5.1, 9.0]
    """
    ordered = np.sort(entries)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.linspace(ordered[0], ordered[-1], count)
    ends = np.zeros(count + 1, int)
    for _ in range(rounds):
        # On a line the entries of a mean lie side by side, between the middles to its neighbours.
        middles = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2, side="right")
        now = np.concatenate([[0], middles, [len(ordered)]])
        if (now == ends).all():
            break
        held, ends = np.diff(now), now
        # One without entries stays where it is: others may move away and leave it some.
        centres = np.where(held > 0, np.diff(sums[now]) / np.maximum(held, 1), centres)
    centres = centres[np.diff(ends) > 0]
    return centres


def _totals(values: Tensor, labels: Tensor, count: int, kind: str) -> Tensor:
    """The mean or the sum over the entries of each value."""
    flat, at = values.reshape(-1).double(), labels.reshape(-1)
    totals = torch.zeros(count + 1, dtype=torch.float64, device=values.device).index_add_(
        0, at, flat
    )
    if kind == "mean":
        totals /= torch.bincount(at, minlength=count + 1).clamp_min(1)
    return totals[1:]


def _spread(values: Tensor, labels: Tensor) -> Tensor:
    """Every entry's value; 0 where there is none."""
    return torch.cat([values.new_zeros(1), values])[labels]


def _check(name: str, weight: Tensor, labels: Tensor) -> None:
    if weight.shape != labels.shape:
        raise InputError(
            f"{name!r} is {list(weight.shape)} now, and {list(labels.shape)} when its weights were "
            "shared; call finish() before pruning, and share again"
        )
