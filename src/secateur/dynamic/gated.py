"""A model with gates: their loss, their two modes, and what they cost."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.dynamic.attach import Attachment
from secateur.dynamic.calibrating import calibrate
from secateur.dynamic.expected import Costs
from secateur.dynamic.gates import Gate
from secateur.dynamic.measured import Measured, measure
from secateur.dynamic.method import DynamicMethod
from secateur.dynamic.sites import Site
from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.inputs import Inputs

__all__ = ["Gated", "checked_density"]


def checked_density(density: object) -> float:
    """A share above 0 and up to 1, or one clear line.

    Examples
    --------
    >>> checked_density(1.5)
    Traceback (most recent call last):
    ...
    secateur.errors.InputError: density is the share that stays open, above 0 and up to 1, not 1.5
    """
    number = isinstance(density, (int, float)) and not isinstance(density, bool)
    if not number or not 0 < density <= 1:  # type: ignore[operator]
        raise InputError(
            f"density is the share that stays open, above 0 and up to 1, not {density!r}"
        )
    return float(density)  # type: ignore[arg-type]


class Gated:
    """A model with gates, as `gate` returns it.

    Attributes
    ----------
    model : torch.nn.Module
        The model that was given, changed in place.
    method : DynamicMethod
    sites : list of Site
        What gates decide about, in the order in which it runs.
    gates : list of Gate
        One for each site.
    skipped : list of (str, str)
        What has no gate, and why.
    costs : Costs
    error : float
        Largest relative difference between skipping and masking, for random decisions over the
        example inputs.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        method: DynamicMethod,
        sites: Sequence[Site],
        gates: Sequence[Gate],
        skipped: list[tuple[str, str]],
        costs: Costs,
        attachment: Attachment,
    ) -> None:
        self.model, self.inputs, self.method = model, inputs, method
        self.sites, self.gates, self.skipped = list(sites), list(gates), skipped
        self.costs, self.attachment = costs, attachment
        self.error = 0.0

    # Training -------------------------------------------------------------------------------------

    @property
    def density(self) -> float:
        """The density that the gates come to: the mean over their targets."""
        return float(torch.stack([gate.pace[1] for gate in self.gates]).mean())

    @density.setter
    def density(self, density: float) -> None:
        self.targets({"*": density})

    def targets(self, densities: Mapping[str, float]) -> None:
        """Give single gates a density of their own.

        Parameters
        ----------
        densities : mapping
            Name of a site, or an fnmatch pattern -> density; later ones win.

        Raises
        ------
        UnknownNameError
            For a pattern that no site has.
        InputError
            For a density outside (0, 1].
        """
        names = [site.name for site in self.sites]
        for pattern, density in densities.items():
            checked_density(density)
            if not fnmatch.filter(names, pattern):
                raise UnknownNameError(f"no gate is at {pattern!r}{suggestion(pattern, names)}")
        for pattern, density in densities.items():
            for name, gate in zip(names, self.gates, strict=True):
                if fnmatch.fnmatch(name, pattern):
                    gate.head_for(checked_density(density))

    def anneal(self, passes: int, start: float = 1.0) -> None:
        """Let the density fall linearly to its target, over so many training passes from now.

        Parameters
        ----------
        passes : int
            Forward passes in training mode with gradients: one for every batch.
        start : float, default 1.0
            The density to begin with.

        Raises
        ------
        InputError
        """
        if not isinstance(passes, int) or passes < 0:
            raise InputError(f"passes is a number of training passes, not {passes!r}")
        checked_density(start)
        for gate in self.gates:
            gate.head_for(float(gate.pace[1]), start=start, over=passes)

    def loss(self) -> Tensor:
        """The gate loss of the batch that the model has just seen, to add to that of the task.

        Raises
        ------
        InputError
            Before the first batch.
        """
        return self.method.loss(self.gates, [site.macs for site in self.sites])

    # Inference ------------------------------------------------------------------------------------

    @property
    def skipping(self) -> bool:
        """Whether closed units are left out in eval mode."""
        return all(gate.skipping for gate in self.gates)

    def skip(self, *, measure: bool = True, batch: int = 8) -> None:
        """Leave out what is closed, in eval mode; training stays masked.

        Parameters
        ----------
        measure : bool, default True
            Time every site's layers on this machine with a quarter, half and three quarters of
            its units open, for one example and for a batch, against computing everything; each
            layer then does whatever is faster for what its gate opened. Without, everything
            closed is left out.
        batch : int, default 8
            Examples in the batch that is timed.
        """
        self.attachment.clear()
        for gate in self.gates:
            gate.skipping = True
        if measure:
            calibrate(self.model, self.inputs, self.sites, self.gates, self.attachment, batch)

    def mask(self) -> None:
        """Compute everything, and multiply what is closed by zero."""
        for gate in self.gates:
            gate.skipping = False
            gate.forget()
        self.attachment.clear()

    def measure(self, batches: Iterable[Any]) -> Measured:
        """What the gates open for data, and what that costs.

        Parameters
        ----------
        batches : iterable
            Pairs ``(inputs, targets)``, dicts, or inputs alone, as `secateur.recover` takes them.

        Returns
        -------
        Measured

        Raises
        ------
        InputError
            When there is no batch, or the model rejects one.
        """
        return measure(self.model, self.sites, self.gates, self.costs, batches)

    def remove(self) -> None:
        """Take the gates off: what is left is the model without them, all units open."""
        for site, gate in zip(self.sites, self.gates, strict=True):
            self.method.restore(site, gate, self.model)
        self.attachment.clear()
        self.attachment.remove()

    def __repr__(self) -> str:
        mode = "skipping" if self.skipping else "masked"
        return (
            f"Gated({self.method.spec!r}, {len(self.sites)} gates, density {self.density:.3g}, "
            f"{mode})"
        )
