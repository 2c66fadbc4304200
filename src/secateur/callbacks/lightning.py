"""Lightning: a ``Callback``."""

from __future__ import annotations

import importlib.util
from typing import Any

from secateur.callbacks.plain import Followers, Part, rate
from secateur.errors import require

__all__ = ["lightning_callback"]


def lightning_callback(*parts: Part) -> Any:
    """A Lightning ``Callback`` that calls methods around every update.

    Parameters
    ----------
    parts : Regularizer, Dynamic or Rewind
        Attached to the module that is trained.

    Returns
    -------
    lightning.pytorch.Callback
        For ``Trainer(callbacks=[...])``. At the end of training it finishes the methods, and
        their state travels in Lightning's checkpoints.

    Raises
    ------
    MissingExtraError
        When Lightning is not installed: ``pip install 'secateur[lightning]'``.
    InputError
    """
    older = not _installed("lightning") and _installed("pytorch_lightning")
    home = require("pytorch_lightning" if older else "lightning.pytorch", "lightning")
    return _made(home.Callback, Followers(*parts))


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _made(base: type, followers: Followers) -> Any:
    """The callback, made when its base class is known."""
    stepped: list[Any] = []

    def before(self: Any, trainer: Any, module: Any, optimizer: Any) -> None:
        followers.before()
        stepped.append(optimizer)

    def after(self: Any, trainer: Any, module: Any, *batch: Any) -> None:
        # Batches that only add up gradients end without an update.
        if stepped:
            followers.after(rate(stepped[-1]))
            stepped.clear()

    def end(self: Any, trainer: Any, module: Any) -> None:
        followers.finish()

    def state(self: Any) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in followers.parts]}

    def load(self: Any, state: dict[str, Any]) -> None:
        for part, held in zip(followers.parts, state["parts"], strict=True):
            part.load_state_dict(held)

    events = {
        "on_before_optimizer_step": before,
        "on_train_batch_end": after,
        "on_train_end": end,
        "state_dict": state,
        "load_state_dict": load,
    }
    return type("SecateurCallback", (base,), {"__doc__": "Calls Secateur's methods.", **events})()
