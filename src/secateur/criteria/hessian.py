"""Products of the Hessian of the loss with vectors, by differentiating twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.errors import CriterionError, first_line
from secateur.observing.batches import batch_loss
from secateur.observing.reading import Reading, finite_loss
from secateur.observing.standins import forward, standing_in

__all__ = ["Product", "each_hessian"]

Product = Callable[[Mapping[str, Tensor]], "dict[str, Tensor]"]


def each_hessian(
    reading: Reading,
    names: Iterable[str],
    visit: Callable[[dict[str, Tensor], Product], None],
) -> int:
    """Offer the gradient and the Hessian of every batch's loss.

    Parameters
    ----------
    reading : Reading
    names : iterable of str
        Parameters to differentiate by.
    visit : callable
        ``(gradients, product)``, once per batch: the gradient of every parameter that the loss
        depends on, and a function from vectors to Hessian times vectors. A name without a vector
        counts as zero; a name without a product has none but zero.

    Returns
    -------
    int
        Number of batches.

    Raises
    ------
    InputError, CriterionError
        As `stream_gradients`; also where an operation cannot be differentiated twice.
    """
    done = 0
    # Fused attention has no second derivative; the plain one has.
    with standing_in(reading.model, reading.seed) as stand_ins, sdpa_kernel(SDPBackend.MATH):
        leaves = {name: stand_ins[name].requires_grad_() for name in names}
        for inputs, targets in reading.batches():
            outputs = forward(reading.model, stand_ins, inputs)
            value = finite_loss(batch_loss(outputs, targets, reading.loss), done)
            del outputs
            found = torch.autograd.grad(
                value, list(leaves.values()), create_graph=True, allow_unused=True
            )
            first = {
                name: gradient
                for name, gradient in zip(leaves, found, strict=True)
                if gradient is not None
            }
            visit(
                {name: gradient.detach() for name, gradient in first.items()},
                _product(leaves, first),
            )
            done += 1
    return done


def _product(leaves: dict[str, Tensor], first: dict[str, Tensor]) -> Product:
    def product(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # The gradient of a loss that is linear in a parameter does not depend on anything.
        used = [name for name, g in first.items() if g.requires_grad and name in vectors]
        if not used:
            return {}
        try:
            second = torch.autograd.grad(
                [first[name] for name in used],
                list(leaves.values()),
                [vectors[name].to(first[name].dtype) for name in used],
                retain_graph=True,
                allow_unused=True,
            )
        except RuntimeError as error:
            reason = first_line(error)
            raise CriterionError(
                f"the model cannot be differentiated twice ({reason}); "
                "use a criterion of first order, such as taylor or obd:curvature=fisher"
            ) from error
        return {
            name: value.detach()
            for name, value in zip(leaves, second, strict=True)
            if value is not None
        }

    return product
