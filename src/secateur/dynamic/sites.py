"""What a gate can decide about: coupled channels, a layer, positions of a convolution."""

from __future__ import annotations

import dataclasses

from secateur.graph.lanes import Ids

__all__ = ["ChannelSite", "LayerSite", "Site", "SpatialSite"]


@dataclasses.dataclass(eq=False)
class Site:
    """A place of a model that a gate can open and close for every input.

    Attributes
    ----------
    name : str
        Dotted path of the layer whose input the gate looks at.
    units : int
        How many things are opened and closed, each for itself.
    features : int
        Features of what the gate looks at.
    features_dim : int
        Where they stand: 1 for images, -1 for tokens.
    macs : int
        Multiply-accumulates of one example that go with all units closed.
    """

    name: str
    units: int
    features: int
    features_dim: int
    macs: int = 0

    @property
    def touched(self) -> list[str]:
        """Paths of the layers that it has to do with."""
        return [self.name]


@dataclasses.dataclass(eq=False)
class ChannelSite(Site):
    """Coupled channels, neurons or heads that are closed together.

    Attributes
    ----------
    makes, carries, reads : dict of str to ndarray
        Path of a layer -> the unit of every index of its output, or of its input; -1 where an index
        belongs to none. ``makes`` computes units from others, ``carries`` handles each by itself
        (a norm, a depthwise convolution), ``reads`` mixes them.
    between : tuple of int
        Recorded operations that multiply units without weights: attention between its heads.
    norm : str or None
        The batch norm right behind the one layer that makes the units.
    heads : tuple of (str, str)
        Module and attribute that count the units: ``("blocks.0.attn", "num_heads")``.
    """

    makes: dict[str, Ids] = dataclasses.field(default_factory=dict)
    carries: dict[str, Ids] = dataclasses.field(default_factory=dict)
    reads: dict[str, Ids] = dataclasses.field(default_factory=dict)
    between: tuple[int, ...] = ()
    norm: str | None = None
    heads: tuple[tuple[str, str], ...] = ()

    @property
    def touched(self) -> list[str]:
        return list(dict.fromkeys([*self.makes, *self.carries, *self.reads]))


@dataclasses.dataclass(eq=False)
class LayerSite(Site):
    """The branch of a residual connection, which keeps the shape of what it is added to.

    Attributes
    ----------
    entries : tuple of str
        Modules that read the input of the branch, the first of them the site's name.
    exit : str
        The module whose result is added.
    nodes : tuple of int
        The recorded operations of the branch.
    """

    entries: tuple[str, ...] = ()
    exit: str = ""
    nodes: tuple[int, ...] = ()

    @property
    def touched(self) -> list[str]:
        return [*self.entries, self.exit]


@dataclasses.dataclass(eq=False)
class SpatialSite(Site):
    """A convolution whose full sum is computed only where a part of it is large.

    Attributes
    ----------
    norm : str or None
        The batch norm right behind it.
    node : int
        The recorded convolution.
    outputs : int
        Its output channels.
    base : float
        The share of its multiply-accumulates that is computed everywhere.
    """

    norm: str | None = None
    node: int = -1
    outputs: int = 0
    base: float = 0.0
