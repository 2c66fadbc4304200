"""Reorder the channels of a model so that N:M keeps more of it; what it computes stays."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import InputError, ParityError
from secateur.graph import trace
from secateur.graph.coupling import Group, Member
from secateur.graph.trace import named_state
from secateur.inputs import ExampleInputs, Inputs, as_inputs, evaluating, named_tensors, run
from secateur.sparsity.permutation import best_order, ideal, retained
from secateur.surgery.transaction import swap_data, transaction
from secateur.verify import difference
from secateur.weights import Weight, prunable_weights

__all__ = ["Permutation", "PermutedLayer", "permute_for_nm"]

TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class PermutedLayer:
    """What a layer gains.

    Attributes
    ----------
    name : str
        Of the weight.
    default, permuted, ideal : float
        Sum of absolute values that N:M keeps in the order as it was, in the new one, and that
        the same share of every row would keep if it could lie anywhere.
    """

    name: str
    default: float
    permuted: float
    ideal: float

    @property
    def efficacy(self) -> float:
        """``(permuted - default) / (ideal - default)``: the share of the room that was gained.

        Layers that share an order gain together; one of them may lose by it.
        """
        room = self.ideal - self.default
        return (self.permuted - self.default) / room if room > 0 else 0.0


@dataclasses.dataclass(eq=False)
class Permutation:
    """What was permuted.

    Attributes
    ----------
    layers : list of PermutedLayer
    skipped : list of (str, str)
        Groups of channels that keep their order, and why.
    """

    layers: list[PermutedLayer]
    skipped: list[tuple[str, str]]


def permute_for_nm(
    model: nn.Module,
    example_inputs: ExampleInputs,
    keep: int = 2,
    of: int = 4,
    *,
    rounds: int = 100,
    seed: int = 0,
) -> Permutation:
    """Reorder input channels so that an N:M mask retains more, in place.

    Whatever makes those channels is reordered alike (rows, biases, norms), and so is everything
    else that reads them, so the model computes what it did. Layers that read the same channels
    share one order, the best for their sum. Make an optimizer afterwards: its state would not
    follow.

    Parameters
    ----------
    model : torch.nn.Module
    example_inputs : tensor, tuple or dict
    keep, of : int, default 2 and 4
        ``keep`` of ``of`` will stay.
    rounds : int, default 100
        Bound of the search in every group.
    seed : int, default 0

    Returns
    -------
    Permutation
        What every layer gains.

    Raises
    ------
    InputError
        Unless ``1 <= keep < of``.

    References
    ----------
    Pool and Yu 2021, "Channel Permutations for N:M Sparsity".

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
    >>> gained = permute_for_nm(net, torch.randn(1, 4)).layers
    >>> [(layer.name, layer.permuted > layer.default) for layer in gained]
    [('2.weight', True)]
    """
    if of < 2 or not 1 <= keep < of:
        raise InputError(f"{keep}:{of} must keep at least 1 and less than all of 2 or more")
    inputs = as_inputs(example_inputs)
    graph = trace(model, inputs)
    before = _outputs(model, inputs)
    weights = {weight.name: weight for weight in prunable_weights(model)}
    state = dict(named_state(model))
    result = Permutation([], list(graph.protected))
    for group in graph.groups:
        readers = _readers(group, weights)
        reason = _obstacle(model, group, readers, of)
        if reason is None:
            matrices = [_matrix(state[member.name], weights[member.name]) for member in readers]
            order = best_order(torch.cat(matrices), keep, of, rounds, seed)
            try:
                with transaction(model):
                    _reorder(state, group, readers[0].classes, order.numpy())
                    error, relative = difference(_outputs(model, inputs), before)
                    if not relative <= TOLERANCE:
                        raise ParityError(f"the order of its channels matters ({error:.3g})")
            except ParityError as error:
                reason = str(error)
            else:
                for member, matrix in zip(readers, matrices, strict=True):
                    default = retained(matrix, keep, of)
                    after = retained(matrix[:, order.to(matrix.device)], keep, of)
                    result.layers.append(
                        PermutedLayer(member.name, default, after, ideal(matrix, keep, of))
                    )
        if reason is not None:
            result.skipped.append((group.name, reason))
    return result


def _readers(group: Group, weights: dict[str, Weight]) -> list[Member]:
    """Members whose runs of inputs are the group's channels, all in one order."""
    found: list[Member] = []
    for member in group.members:
        weight = weights.get(member.name)
        if member.role != "consumer" or weight is None or weight.groups > 1:
            continue
        along = 1 if weight.storage == "outputs first" else 0
        whole = len(member.classes) == len(group.classes)
        plain = whole and len(np.unique(member.classes)) == len(group.classes)
        alike = not found or np.array_equal(found[0].classes, member.classes)
        if member.dim == along and plain and alike:
            found.append(member)
    return found


def _obstacle(model: nn.Module, group: Group, readers: list[Member], of: int) -> str | None:
    for member in group.members:
        module = model.get_submodule(member.name.rpartition(".")[0])
        groups = getattr(module, "groups", 1)
        if isinstance(groups, int) and groups > 1 and groups != getattr(module, "in_channels", 0):
            return f"{member.name!r} is a grouped convolution"
    if len(group.cells) > 1 or group.cells[0].take > 1:
        return "its channels lie in several rows, such as heads, and cannot change places freely"
    if not readers:
        return "no weight reads exactly these channels as its runs of inputs"
    size = len(group.classes)
    if size % of or size < 2 * of:
        return f"it has {size} channels, and no two full runs of {of}"
    own = set(group.classes.tolist())
    for member in group.members:
        _, counts = np.unique(member.classes, return_counts=True)
        if set(member.classes.tolist()) != own or len(set(counts.tolist())) > 1:
            return f"{member.name!r} dim {member.dim} holds other channels as well"
    return None


def _matrix(tensor: Tensor, weight: Weight) -> Tensor:
    """Absolute values, inputs as columns."""
    canonical = weight.canonical(tensor.detach()).float().abs().cpu()
    return canonical.movedim(1, -1).flatten(0, -2)


def _reorder(
    state: dict[str, Tensor], group: Group, reference: np.ndarray, order: np.ndarray
) -> None:
    """Give every place of a channel to the channel that comes there."""
    successor = {int(old): int(reference[new]) for old, new in zip(reference, order, strict=True)}
    for member in group.members:
        places: dict[int, list[int]] = {}
        for at, label in enumerate(member.classes.tolist()):
            places.setdefault(label, []).append(at)
        source = np.empty(len(member.classes), dtype=np.int64)
        for label, spots in places.items():
            # A channel with several places, as after flattening, keeps their order.
            source[spots] = places[successor[label]]
        tensor = state[member.name]
        index = torch.from_numpy(source).to(tensor.device)
        gradient = tensor.grad if tensor.is_leaf else None
        swap_data(tensor, tensor.data.index_select(member.dim, index))
        if gradient is not None:
            tensor.grad = gradient.index_select(member.dim, index)


def _outputs(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    with evaluating(model):
        return {name: out.clone() for name, out in named_tensors(run(model, inputs.fresh()))}
