"""Put gates on a model that decide for every input what of it is computed."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from secateur.dynamic.attach import Attachment
from secateur.dynamic.expected import Costs
from secateur.dynamic.finding import Skipped, Traced
from secateur.dynamic.gated import Gated, checked_density
from secateur.dynamic.gates import Gate
from secateur.dynamic.method import GATES, DynamicMethod
from secateur.dynamic.proving import prove
from secateur.dynamic.sites import Site
from secateur.errors import InputError, NothingToPruneError
from secateur.ignored import ignored_tensors
from secateur.inputs import ExampleInputs, as_inputs
from secateur.specs import build

__all__ = ["as_method", "gate"]


def gate(
    model: nn.Module,
    example_inputs: ExampleInputs,
    method: str | DynamicMethod = "channel",
    density: float = 0.5,
    *,
    streams: bool = False,
    ignore: Sequence[str | nn.Module] = (),
    seed: int = 0,
) -> Gated:
    """Attach gates to a model: for every input they decide what of it is computed.

    No parameter goes away, and those of the gates are added; what falls is what an input costs.
    In the masked mode that it starts in, everything is computed and what is closed is multiplied
    by zero: for training. `Gated.skip` leaves it out: for inference.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place: layers follow gates from now on, and the gates are modules of theirs
        (``conv1.gate``), so that optimizers, devices and checkpoints find them.
    example_inputs : tensor, tuple or dict
        A batch that the model accepts, examples along the first dimension.
    method : str or DynamicMethod, default "channel"
        ``"channel"``, ``"nested"``, ``"fbs"``, ``"sparse_gates"``, ``"cgnet"``, ``"skipnet"`` or
        ``"aig"``, with options as in ``"channel:estimator=gumbel"``.
    density : float, default 0.5
        The mean share of units that is to stay open, in (0, 1]. Training the gates brings it
        there; they start open.
    streams : bool, default False
        Whether to gate the channels that residual blocks add to as well: the layer that makes
        them first then decides for all blocks.
    ignore : sequence of str or torch.nn.Module
        Layers to leave alone, by name, fnmatch pattern or module, with all that is inside.
    seed : int, default 0
        Of the gates' first weights; the random state outside stays as it is.

    Returns
    -------
    Gated

    Raises
    ------
    InputError
        For a density outside (0, 1], an empty batch, inputs that the model rejects, or a model
        that has gates already.
    NothingToPruneError
        When nothing can be gated; the message has the first reason.
    ParityError
        When leaving closed units out does not equal masking them. In all of these cases the model
        is as it was.
    UnknownNameError
        For an unknown method, option or layer.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    >>> gated = gate(net, torch.zeros(1, 3, 8, 8), density=0.5)
    >>> [(site.name, site.units) for site in gated.sites]
    [('0', 8)]
    """
    checked_density(density)
    chosen = as_method(method)
    if any(isinstance(module, Gate) for module in model.modules()):
        raise InputError("the model has gates already; take them off with Gated.remove() first")
    inputs = as_inputs(example_inputs)
    left_alone = {name.rpartition(".")[0] for name in ignored_tensors(model, ignore)}
    traced = Traced(model, inputs)
    found, skipped = chosen.sites(traced, streams=streams)
    sites, ignored = _without(found, left_alone)
    skipped = [*skipped, *ignored]
    if not sites:
        first = f" ({skipped[0][0]}: {skipped[0][1]})" if skipped else ""
        raise NothingToPruneError(f"nothing in this model can be gated by {chosen.name!r}{first}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gates = [_placed(chosen.gate(site), model, site) for site in sites]
    before = copy.deepcopy(model.state_dict())
    frozen = {name: each.requires_grad for name, each in model.named_parameters()}
    for site, each in zip(sites, gates, strict=True):
        chosen.prepare(site, each, model)
        each.head_for(float(density))
        each.train(model.get_submodule(site.name).training)
    attachment = Attachment(model, sites, gates)
    costs = Costs(traced, sites, [each.macs for each in gates])
    gated = Gated(model, inputs, chosen, sites, gates, skipped, costs, attachment)
    try:
        gated.error = prove(model, inputs, gates, attachment)
    except BaseException:
        attachment.remove()
        model.load_state_dict(before)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen[name])
        raise
    return gated


def as_method(method: str | DynamicMethod) -> DynamicMethod:
    """A dynamic method by name, or as it is.

    Raises
    ------
    UnknownNameError, InputError

    Examples
    --------
    >>> as_method("fbs:l1=0.001").spec
    'fbs:l1=0.001'
    """
    if isinstance(method, DynamicMethod):
        return method
    if isinstance(method, str):
        return build(GATES, method)
    raise InputError(f"a dynamic method is a name or an object, not {type(method).__name__}")


def _placed(gate: Gate, model: nn.Module, site: Site) -> Gate:
    """The gate on the device and in the precision of the layer that it looks at."""
    like = next(model.get_submodule(site.name).parameters(), None)
    if like is None:
        like = next(model.parameters())
    return gate.to(device=like.device, dtype=like.dtype)


def _without(sites: Sequence[Site], ignored: set[str]) -> tuple[list[Site], Skipped]:
    kept: list[Site] = []
    skipped: Skipped = []
    for site in sites:
        if not ignored.isdisjoint(site.touched):
            skipped.append((site.name, "it is ignored"))
        else:
            kept.append(site)
    return kept, skipped
