"""Small nets, masks for them, and how they are trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune

import secateur as sc


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def images() -> Tensor:
    return torch.randn(3, 1, 4, 4)


def half(tensor: Tensor, seed: int = 0) -> Tensor:
    return torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed)) > 0.5


def masks_for(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """A random half of every matrix and kernel of a model."""
    return {name: half(p, seed) for name, p in model.named_parameters() if p.dim() > 1}


def masked_net() -> nn.Sequential:
    model = small_net()
    sc.apply_masks(model, masks_for(model))
    return model


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Callable[[], Tensor] = images,
    steps: int = 3,
) -> None:
    for _ in range(steps):

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = model(inputs()).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)


def check(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Zero where masked, and alive elsewhere."""
    for name, mask in masks.items():
        owner, _, leaf = name.rpartition(".")
        weight = getattr(model.get_submodule(owner), leaf).detach()
        assert torch.count_nonzero(weight[~mask]) == 0
        assert torch.count_nonzero(weight[mask]) > 0


PARAMETRISED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "torch's prune": lambda m: torch_prune.l1_unstructured(m, "weight", 2),
}


def computed_net(name: str) -> nn.Sequential:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(PARAMETRISED[name](nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    return model


def rows() -> Tensor:
    return torch.randn(5, 4)
