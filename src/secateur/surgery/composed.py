"""Which masks a row of plans leaves on a model."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from secateur.masks import places
from secateur.plan import Plan
from secateur.surgery.apply import cut

__all__ = ["composed_masks"]


def composed_masks(plans: Iterable[Plan], model: nn.Module) -> dict[str, Tensor] | None:
    """The masks that are on once plans have been applied, one after the other.

    Parameters
    ----------
    plans : iterable of Plan
    model : torch.nn.Module
        The model that they were applied to, for the names of tied weights.

    Returns
    -------
    dict or None
        First name of the weight -> mask; None where the plans do not tell, as where what a weight
        is computed from was cut.
    """
    first: dict[tuple[int, str], str] = {}
    names = {place.name: first.setdefault(place.key, place.name) for place in places(model)}
    masks: dict[str, Tensor] = {}
    for plan in plans:
        for name, mask in plan.masks.items():
            known = masks.get(names.get(name, name), mask)
            if known.shape != mask.shape:
                return None
            masks[names.get(name, name)] = known & mask
        for name, dims in plan.removed.items():
            if names.get(name, name) in masks:
                masks[names.get(name, name)] = cut(masks[names.get(name, name)], dims)
    return masks
