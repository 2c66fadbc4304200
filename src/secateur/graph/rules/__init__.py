"""How each ATen operation carries index identities; importing this registers every rule."""

from secateur.graph.rules import (  # noqa: F401
    attention,
    contraction,
    elementwise,
    factories,
    indexing,
    joining,
    normalisation,
    recurrent,
    reduction,
    reshaping,
    spatial,
)
