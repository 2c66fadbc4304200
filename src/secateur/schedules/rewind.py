"""Lottery tickets: put what survived pruning back to where it was early in training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.attached.checks import checked
from secateur.errors import InputError, PlanError
from secateur.masks import keeper_of, masks_of
from secateur.plan import Plan

__all__ = ["Rewind"]


class Rewind:
    """Remember the weights of an early step, and go back to them or to its learning rate.

    Frankle and Carbin 2019 (arXiv:1803.03635) reset the survivors of magnitude pruning to their
    values at step 0, 1912.05671 to those of an early step k; Renda et al. 2020 (2003.02389) keep
    the trained weights and only replay the learning rate from there.

    Parameters
    ----------
    model : nn.Module
    optimizer : torch.optim.Optimizer, optional
        Its state is cleared whenever it is gone back: momentum belongs to other weights.
    scheduler : torch.optim.lr_scheduler.LRScheduler, optional
        Goes back too.
    at : int, default 0
        k, the step to remember. 0 remembers at once; else `step` counts.

    Raises
    ------
    InputError
        When it is to go back before step k came.
    PlanError
        When masks do not fit the model.

    Examples
    --------
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> rewind = Rewind(layer)
    >>> start = layer.weight.detach().clone()
    >>> _ = nn.init.constant_(layer.weight, 7.0)  # what training might do
    >>> rewind.weights({"weight": torch.tensor([[True, False]])})
    >>> bool(layer.weight[0, 0] == start[0, 0]), layer.weight[0, 1].item()
    (True, 0.0)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        at: int = 0,
    ) -> None:
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.at = int(checked("rewind", "at", at))
        self.steps_done = 0
        self._saved: dict[str, Any] | None = None
        if self.at == 0:
            self.remember()

    def step(self) -> None:
        """Count a training step; call after ``optimizer.step`` and ``scheduler.step``."""
        self.steps_done += 1
        if self.steps_done == self.at:
            self.remember()

    def remember(self) -> None:
        """Take the present state as the one to go back to."""
        groups = self.optimizer.param_groups if self.optimizer is not None else []
        self._saved = {
            "tensors": {key: value.detach().clone() for key, value in self._tensors().items()},
            "rates": [group["lr"] for group in groups],
            "scheduler": None
            if self.scheduler is None
            else copy.deepcopy(self.scheduler.state_dict()),
        }

    @torch.no_grad()
    def weights(self, masks: Plan | Mapping[str, Tensor] | None = None) -> None:
        """Set survivors to what they were, bit by bit, and the others to zero.

        Masks that are on the model stay on it, and what they hold at zero stays zero; should
        they be removed, those entries are what they were at step k as well.

        Parameters
        ----------
        masks : Plan or dict, optional
            Parameter name -> True where it survives, beside the masks that are on the model. What
            has no mask survives as a whole, and so do buffers.

        Raises
        ------
        InputError
            When step k has not come yet.
        PlanError
            When a mask, or what was remembered, does not fit the model. It is then as it was.
        """
        saved = self._known()["tensors"]
        chosen = dict(masks.masks if isinstance(masks, Plan) else masks or {})
        tensors, on = self._tensors(), masks_of(self.model)
        for name, mask in chosen.items():
            # A weight that is computed from others is masked where it is computed.
            if name in on and name not in tensors and mask.shape == on[name].shape:
                continue
            if name not in tensors or tensors[name].shape != mask.shape:
                raise PlanError(f"the mask {name!r} does not fit the model that was remembered")
        for name, tensor in tensors.items():
            if name not in saved or saved[name].shape != tensor.shape:
                raise PlanError(
                    f"{name!r} has changed its shape since it was remembered; rewinding is for "
                    "masks, before surgery"
                )
        for name, tensor in tensors.items():
            before = saved[name].to(tensor.device)
            tensor.copy_(before)
            keeper = keeper_of(tensor)
            if keeper is not None:
                keeper.put_dense(before)
            if name in chosen:
                tensor.masked_fill_(~chosen[name].to(tensor.device), 0.0)
        self.learning_rate()

    def learning_rate(self) -> None:
        """Go back in the learning rate alone, and clear the optimizer's state."""
        saved = self._known()
        if self.scheduler is not None:
            self.scheduler.load_state_dict(copy.deepcopy(saved["scheduler"]))
        if self.optimizer is not None:
            self.optimizer.state.clear()
            for group, rate in zip(self.optimizer.param_groups, saved["rates"], strict=True):
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on after an interruption."""
        return {"steps": self.steps_done, "saved": copy.deepcopy(self._saved)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.steps_done, self._saved = int(state["steps"]), copy.deepcopy(state["saved"])

    def _known(self) -> dict[str, Any]:
        if self._saved is None:
            raise InputError(
                f"rewind: step {self.at} has not come yet ({self.steps_done} were counted); call "
                "step() after every training step"
            )
        return self._saved

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters, and the buffers that a checkpoint holds; what masks are held in is not."""
        kept = self.model.state_dict(keep_vars=True)
        buffers = {name: value for name, value in self.model.named_buffers() if name in kept}
        return {**dict(self.model.named_parameters()), **buffers}
