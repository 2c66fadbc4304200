"""The walk through a model's blocks: see, prune, and hand on what the pruned block computes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from secateur.blockwise.calling import Call, calls_of, lent
from secateur.blockwise.methods import METHODS, Seen
from secateur.errors import (
    BudgetError,
    InputError,
    NothingToPruneError,
    UnknownNameError,
    suggestion,
)
from secateur.graph.blocks import Block, blocks
from secateur.graph.trace import record
from secateur.inputs import evaluating
from secateur.masks import apply_masks, forget_values
from secateur.observing import repeatable
from secateur.observing.batches import read_batch
from secateur.observing.vocabulary import check_tokens, vocabulary_of
from secateur.tensors import swap_data
from secateur.weights import Weight, prunable_weights

__all__ = ["Blockwise", "prune_blockwise"]


@dataclasses.dataclass(frozen=True)
class Blockwise:
    """What `prune_blockwise` did.

    Attributes
    ----------
    model : torch.nn.Module
        The same object; its blocks' weights are masked.
    zeros, weights : int
        Entries that are zero now, and entries of the weights that were pruned. Embeddings, the
        output head and all else outside of blocks are not counted.
    blocks : list of str
        In the order in which they were pruned.
    skipped : list of (str, str)
        Weights of blocks that stay dense, and why.
    """

    model: nn.Module
    zeros: int
    weights: int
    blocks: list[str]
    skipped: list[tuple[str, str]]

    @property
    def sparsity(self) -> float:
        """Share of the blocks' weights that is zero."""
        return self.zeros / max(self.weights, 1)


def prune_blockwise(
    model: nn.Module,
    data: Iterable[Any],
    *,
    method: str = "sparsegpt",
    sparsity: float | str = 0.5,
    ignore: Iterable[str] = (),
    masked: bool = True,
    device: str | torch.device | None = None,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> Blockwise:
    """Make the weights inside a model's blocks sparse, one block after the other.

    As the papers of SparseGPT and Wanda do it: the inputs of a block are what the blocks before
    it, pruned already, compute. Memory beyond the model holds what passes between two blocks, for
    all of the data, on the CPU, and what is known of one block's inputs. With `device`, one block
    at a time is moved there, so that a model in CPU memory is pruned on a smaller accelerator.

    Parameters
    ----------
    model : torch.nn.Module
        In any dtype; changed in place.
    data : iterable of batches
        ``(inputs, targets)`` or dicts; targets are not used.
    method : {"sparsegpt", "wanda", "magnitude"}, default "sparsegpt"
    sparsity : float or str, default 0.5
        The share of every weight that becomes zero (of every row, under Wanda), or ``"2:4"``: two
        of four consecutive inputs stay.
    ignore : iterable of str
        Names or fnmatch patterns of modules inside blocks that stay dense.
    masked : bool, default True
        Keep the zeros zero when the model is trained, at the price of a byte an entry; without
        it the weights just hold them.
    device : str or torch.device, optional
        Where blocks are run and pruned, default where they are.
    progress : callable, optional
        ``(done, total, what)`` after every block.

    Returns
    -------
    Blockwise

    Raises
    ------
    NothingToPruneError
        When the model has no repeated block, or no weights in them that are not ignored.
    BudgetError, InputError, UnknownNameError

    Examples
    --------
    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    >>> data = [(torch.randn(4, 5, 8), None)]
    >>> prune_blockwise(net, data, method="wanda", sparsity="2:4").sparsity
    0.5
    """
    if method not in METHODS:
        raise UnknownNameError(f"unknown method {method!r}{suggestion(method, METHODS)}")
    amount = _amount(sparsity)
    batches = list(_batches(data))
    if not batches:
        raise InputError("data has no batch; pass a list or a DataLoader of (inputs, targets)")
    inputs, _ = read_batch(batches[0], _home(model))
    for _, tensor in inputs.tensors():
        if not tensor.is_floating_point():
            check_tokens(tensor, vocabulary_of(model))
    found = blocks(model, record(model, inputs))
    if not found:
        raise NothingToPruneError(
            "the model has no repeated residual block; prune it as a whole with secateur.prune"
        )
    weights = _weights(model, found, list(ignore))
    place = torch.device(device) if device is not None else _home(model)
    masks: dict[str, Tensor] = {}
    skipped: list[tuple[str, str]] = []
    done = zeros = entries = 0
    for _, group in groupby(found, key=lambda block: block.stack):
        calls: list[Call] = []
        previous: Block | None = None
        for block in group:
            module = model.get_submodule(block.path)
            if previous is None or previous.returned != block.given:
                calls = calls_of(model, module, batches, _home(model))
            with evaluating(module), lent(module, place), torch.no_grad():
                for name, mask in _pruned(
                    module, weights[block.path], calls, method, amount, place, skipped
                ):
                    zeros, entries = zeros + int((~mask).sum()), entries + mask.numel()
                    if masked:
                        masks[name] = mask
                for call in calls:
                    call.passing = call.run(module, place).cpu()
            previous = block
            done += 1
            if progress is not None:
                progress(done, len(found), f"pruning {block.path}")
    if masks:
        apply_masks(model, masks)
        # What is masked is zero already: nothing is to be brought back.
        forget_values(model)
    return Blockwise(model, zeros, entries, [block.path for block in found], skipped)


def _amount(sparsity: float | str) -> float | tuple[int, int]:
    if isinstance(sparsity, str):
        match = re.fullmatch(r"(\d+):(\d+)", sparsity.strip())
        if match and 0 < int(match[1]) < int(match[2]):
            return int(match[1]), int(match[2])
        try:
            sparsity = float(sparsity)
        except ValueError:
            raise BudgetError(
                f"sparsity must be a share such as 0.5, or as 2:4, not {sparsity!r}"
            ) from None
    if not 0 <= sparsity < 1:
        raise BudgetError(f"sparsity={sparsity!r} must lie in [0, 1)")
    return float(sparsity)


def _batches(data: Iterable[Any]) -> Iterable[Any]:
    listed = repeatable(data)
    if listed is None:
        raise InputError("pass data=, an iterable of (inputs, targets) batches")
    return listed


def _home(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _weights(
    model: nn.Module, found: list[Block], ignore: list[str]
) -> dict[str, dict[str, Weight]]:
    """Block -> module inside it -> its weight."""
    listed: dict[str, dict[str, Weight]] = {block.path: {} for block in found}
    for weight in prunable_weights(model):
        if len(weight.shape) != 2 or weight.leaf != "weight":
            continue
        if any(fnmatchcase(weight.module, pattern) for pattern in ignore):
            continue
        for path, inside in listed.items():
            if weight.module.startswith(f"{path}."):
                inside[weight.module.removeprefix(f"{path}.")] = weight
    if not any(listed.values()):
        raise NothingToPruneError("the model's blocks hold no linear layer that is not ignored")
    return listed


def _pruned(
    block: nn.Module,
    weights: dict[str, Weight],
    calls: list[Call],
    method: str,
    amount: float | tuple[int, int],
    device: torch.device,
    skipped: list[tuple[str, str]],
) -> Iterator[tuple[str, Tensor]]:
    """See what every weight of a block multiplies, prune them; each one's name and mask."""
    prune, products = METHODS[method]
    seen: dict[str, Seen] = {}
    handles = []
    for path, weight in weights.items():
        known = Seen(weight.canonical_shape[1], products, device)
        seen[path] = known

        def look(module: nn.Module, args: tuple[Any, ...], known: Seen = known) -> None:
            known.add(args[0])

        if method != "magnitude":
            handles.append(block.get_submodule(path).register_forward_pre_hook(look))
    try:
        for call in calls if handles else ():
            call.run(block, device)
    finally:
        for handle in handles:
            handle.remove()
    for path, weight in weights.items():
        known = seen.pop(path)
        if method != "magnitude":
            if not known.rows:
                skipped.append((weight.name, "no batch reaches the layer that holds it"))
                continue
            _check(known, weight.name)
        parameter = block.get_submodule(path).get_parameter("weight")
        new, mask = prune(weight.canonical(parameter.detach()), known, amount)
        swap_data(parameter, weight.stored(new).contiguous())
        yield weight.name, weight.stored(mask).contiguous().cpu()


def _check(known: Seen, name: str) -> None:
    if not bool(torch.isfinite(known.sums).all()):
        raise InputError(f"what {name!r} multiplies holds NaN or infinity; check the data")
