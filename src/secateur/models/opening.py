"""A model with weights and inputs that fit it, from names and files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from secateur.errors import InputError
from secateur.inputs import ExampleInputs
from secateur.models.sources import load_model
from secateur.models.weights import load_weights
from secateur.plan import history

__all__ = ["open_model"]


def open_model(
    spec: str,
    *,
    pretrained: bool = False,
    weights: Path | None = None,
    input_shapes: Iterable[tuple[int, ...]] = (),
    seed: int = 0,
) -> tuple[nn.Module, ExampleInputs, bool]:
    """Build the model, load its weights, and find inputs that fit it.

    Parameters
    ----------
    spec, pretrained, input_shapes, seed
        As for `secateur.models.load_model`.
    weights : pathlib.Path, optional
        As for `secateur.models.weights.load_weights`.

    Returns
    -------
    model, example_inputs, random
        The last tells whether the weights are random.

    Raises
    ------
    InputError
        Where nothing tells what its inputs look like.
    """
    loaded = load_model(spec, pretrained=pretrained, input_shapes=input_shapes, seed=seed)
    if loaded.example_inputs is None:
        raise InputError(
            f"{spec} does not tell what its inputs look like; "
            "pass --input-shape, such as --input-shape 1x3x224x224"
        )
    if weights is not None:
        load_weights(loaded.model, weights)
    inputs = loaded.example_inputs
    for plan in history(loaded.model):
        inputs = plan.narrow_inputs(inputs)
    return loaded.model, inputs, loaded.random and weights is None
