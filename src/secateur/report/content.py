"""What a report says, before anyone draws it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from secateur.allocation import Sensitivity
    from secateur.profiling.latency import Timing
    from secateur.recover import History
    from secateur.report.section import Section

__all__ = [
    "Check",
    "CoupledGroup",
    "Histogram",
    "MaskedWeight",
    "Milestone",
    "Point",
    "Report",
    "Stage",
    "Width",
]


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
    """Output channels of one layer, and entries of its weight that are not zero.

    Attributes
    ----------
    layer : str
    before, after : int
    weights_before, weights_after : int
        0 where nobody counted them.
    """

    layer: str
    before: int
    after: int
    weights_before: int = 0
    weights_after: int = 0


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How the values of one weight spread, before and after, over shared bins.

    Attributes
    ----------
    edges : ndarray, shape [bins + 1]
    before, after : ndarray, shape [bins]
        Numbers of weights that are not zero.
    zeros_before, zeros_after : float
        The share of all entries that are exactly zero.
    """

    name: str
    edges: np.ndarray
    before: np.ndarray
    after: np.ndarray
    zeros_before: float = 0.0
    zeros_after: float = 0.0


@dataclasses.dataclass(frozen=True)
class Point:
    """What a model costs and how good it is at one moment of a run.

    Attributes
    ----------
    label : str
    macs : int
    accuracy : float
        0 to 1.
    int8 : bool
        Whether it computes in 8-bit integers, in which a MAC is cheaper.
    """

    label: str
    macs: int
    accuracy: float
    int8: bool = False


@dataclasses.dataclass(frozen=True)
class MaskedWeight:
    """A weight with zeros, and how much of it is to be seen.

    Attributes
    ----------
    name : str
    weight : ndarray, shape [outputs, inputs, *kernel]
    corner : (int, int)
        How many outputs and inputs of it to draw.
    """

    name: str
    weight: np.ndarray
    corner: tuple[int, int]


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
    points : sequence of Point
        Accuracy and MACs after every step of a run.
    masks : sequence of MaskedWeight
    scan : Sensitivity or None
        What every group, or weight, costs alone.
    recipe : str
        As YAML.
    sections : sequence of Section
        Further tables.
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
    points: Sequence[Point] = ()
    masks: Sequence[MaskedWeight] = ()
    scan: Sensitivity | None = None
    recipe: str = ""
    sections: Sequence[Section] = ()
