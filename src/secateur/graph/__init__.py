"""The coupling graph: which indices of which tensors can only leave together."""

from secateur.graph.coupling import Cell, Group, Member
from secateur.graph.graph import Graph, trace

__all__ = ["Cell", "Graph", "Group", "Member", "trace"]
