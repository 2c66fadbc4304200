"""What a report says, before anyone draws it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from secateur.profiling.latency import Timing
    from secateur.recover import History

__all__ = ["Check", "CoupledGroup", "Histogram", "Milestone", "Report", "Stage", "Width"]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One side of the comparison: everything measured on one model.

    Attributes
    ----------
    macs, params, nonzero, bytes : int
        As in `secateur.profiling.Profile`; MACs are those of one forward pass over the batch
        that was profiled.
    accuracy : float or None
        Fraction of the test examples, 0 to 1.
    file_bytes, onnx_bytes : int or None
        Sizes of the saved and of the exported file.
    torch_latency, onnx_latency : Timing or None
        Interleaved with the same measurement of the other side.
    """

    macs: int
    params: int
    nonzero: int
    bytes: int
    accuracy: float | None = None
    file_bytes: int | None = None
    onnx_bytes: int | None = None
    torch_latency: Timing | None = None
    onnx_latency: Timing | None = None


@dataclasses.dataclass(frozen=True)
class Milestone:
    """Accuracy, 0 to 1, at one moment of the way."""

    label: str
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Check:
    """Something that was verified, and what came out."""

    label: str
    outcome: str
    passed: bool = True


@dataclasses.dataclass(frozen=True)
class Width:
    """Output channels of one layer."""

    layer: str
    before: int
    after: int


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How the values of one weight spread, before and after, over shared bins.

    Attributes
    ----------
    edges : ndarray, shape [bins + 1]
    before, after : ndarray, shape [bins]
        Numbers of weights.
    """

    name: str
    edges: np.ndarray
    before: np.ndarray
    after: np.ndarray


@dataclasses.dataclass(frozen=True)
class CoupledGroup:
    """Layers whose channels can only go together.

    Attributes
    ----------
    name : str
        The first parameter that makes these channels.
    before, after : int
        Units in it.
    makers, readers : tuple of str
        Layers that have these channels as outputs, and as inputs.
    others : int
        How many further tensors (norms, biases, statistics) shrink with them.
    """

    name: str
    before: int
    after: int
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    others: int = 0


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that one report shows. Parts that are empty are left out of the page.

    Attributes
    ----------
    title, lead : str
        Heading, and one or two sentences under it.
    before, after : Stage
        The dense and the final model.
    milestones : sequence of Milestone
        The accuracy on the way from one to the other.
    checks : sequence of Check
        What was verified.
    widths : sequence of Width
        In the order of the network.
    histograms : sequence of Histogram
    groups : sequence of CoupledGroup
    histories : mapping of str to History
        Training runs by name, in order.
    skipped : sequence of (str, str)
        What was protected, and why.
    settings : mapping
        How the plan was decided.
    environment : mapping
        Versions and machine.
    notes : sequence of str
        Remarks under the comparison.
    """

    title: str
    lead: str
    before: Stage
    after: Stage
    milestones: Sequence[Milestone] = ()
    checks: Sequence[Check] = ()
    widths: Sequence[Width] = ()
    histograms: Sequence[Histogram] = ()
    groups: Sequence[CoupledGroup] = ()
    histories: Mapping[str, History] = dataclasses.field(default_factory=dict)
    skipped: Sequence[tuple[str, str]] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
