"""What a regularizer is: it pulls on a model's weights while the user trains it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from secateur import specs
from secateur.attached import Method, add_to_gradient
from secateur.attached.checks import checked
from secateur.errors import InputError
from secateur.inputs import ExampleInputs
from secateur.registry import Registry

__all__ = ["REGULARIZERS", "Regularizer", "regularizer"]

Self = TypeVar("Self", bound="Regularizer")


class Regularizer(Method):
    """Base of every regularizer: four calls in a training loop, the same for all.

    ::

        reg = sc.regularizer("slimming:strength=1e-4", model)
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            reg.add_gradients()
            optimizer.step()
            reg.after_step(lr)
        reg.finish()

    Instead of `add_gradients`, `penalty` can be added to the loss; the gradients are the same.

    Attributes
    ----------
    name : str
        Its name in the registry.
    model : nn.Module
    steps_done : int
        How often `after_step` was called.
    skipped : list of (str, str)
        Weights it leaves alone, and why.
    """

    needs_inputs: ClassVar[bool] = False

    def attach(
        self: Self,
        model: nn.Module,
        example_inputs: ExampleInputs | None = None,
        ignore: Sequence[str | nn.Module] = (),
    ) -> Self:
        """Find the weights to work on.

        Parameters
        ----------
        model : nn.Module
        example_inputs : tensor, tuple or dict, optional
            For the methods that follow which channels are coupled.
        ignore : sequence of str or Module
            Layers to leave alone: names, patterns or modules.

        Raises
        ------
        InputError
            When example inputs are missing, or a weight cannot be worked on.
        NothingToPruneError
            When nothing of the model is to be regularised.
        UnknownNameError
            For an unknown granularity or layer.
        """
        if self.needs_inputs and example_inputs is None:
            raise InputError(
                f"regularizer {self.name!r} follows which channels are coupled: pass "
                "example_inputs, what the model is called with"
            )
        self.count_from_zero()
        self.find(model, example_inputs, ignore)
        self.model = model
        return self

    @abstractmethod
    def find(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs | None,
        ignore: Sequence[str | nn.Module],
    ) -> None:
        """Look up what to work on; called once, by `attach`."""

    @abstractmethod
    def penalty(self) -> Tensor:
        """The term itself, a scalar that gradients flow through."""

    def add_gradients(self) -> None:
        """Add the term's (sub)gradient to what ``backward`` left; call before ``optimizer.step``.

        At a kink the subgradient is zero.
        """
        wanted = [tensor for tensor in self.model.parameters() if tensor.requires_grad]
        with torch.enable_grad():
            term = self.penalty()
        if not term.requires_grad:
            return
        for tensor, gradient in zip(
            wanted, torch.autograd.grad(term, wanted, allow_unused=True), strict=True
        ):
            if gradient is not None:
                add_to_gradient(tensor, gradient)

    def after_step(self, lr: float | None = None) -> None:
        """Do what follows an update; call after ``optimizer.step``.

        Parameters
        ----------
        lr : float, optional
            The learning rate of the step. Proximal maps need it; the others do not look at it.
        """
        self.steps_done += 1


REGULARIZERS: Registry[type[Regularizer]] = Registry("regularizer")


def regularizer(
    text: str | Regularizer,
    model: nn.Module,
    example_inputs: ExampleInputs | None = None,
    *,
    ignore: Sequence[str | nn.Module] = (),
) -> Any:
    """Attach a regularizer to a model that is being trained.

    Parameters
    ----------
    text : str or Regularizer
        A name with options, ``"group_lasso:granularity=channel,strength=1e-4"``, or an object.
    model : nn.Module
    example_inputs : tensor, tuple or dict, optional
        What the model is called with; for ``group_sparsity`` and ``oto``, which follow the graph.
    ignore : sequence of str or Module
        Layers to leave alone: names, patterns or modules.

    Returns
    -------
    Regularizer

    Raises
    ------
    UnknownNameError
        For an unknown name, option, granularity or layer.
    InputError
        For an option out of range, or missing example inputs.
    NothingToPruneError
        When the model has nothing to regularise.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    >>> reg = regularizer("slimming:strength=0.5", model)
    >>> model(torch.zeros(1, 1, 4, 4)).sum().backward()
    >>> reg.add_gradients()
    >>> model[1].weight.grad
    tensor([0.5000, 0.5000])
    """
    if isinstance(text, str):
        built = specs.build(REGULARIZERS, text)
    elif isinstance(text, Regularizer):
        built = text
    else:
        raise InputError(f"a regularizer is a name or an object, not {type(text).__name__}")
    return built.attach(model, example_inputs, ignore)


def learning_rate(name: str, lr: float | None) -> float:
    """The step's learning rate, or what to do about its absence."""
    if lr is None:
        raise InputError(f"{name}: the proximal map follows the step: call after_step(lr)")
    return checked(name, "lr", lr)
