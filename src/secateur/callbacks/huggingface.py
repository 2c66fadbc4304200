"""Hugging Face: a ``TrainerCallback``."""

from __future__ import annotations

from typing import Any

from secateur.callbacks.plain import Followers, Part, rate
from secateur.errors import require

__all__ = ["huggingface_callback"]


def huggingface_callback(*parts: Part) -> Any:
    """A ``transformers.TrainerCallback`` that calls methods around every update.

    Parameters
    ----------
    parts : Regularizer, Dynamic or Rewind
        Attached to the model that the trainer trains.

    Returns
    -------
    transformers.TrainerCallback
        For ``Trainer(callbacks=[...])``. At the end of training it finishes the methods.

    Raises
    ------
    MissingExtraError
        When transformers is not installed: ``pip install 'secateur[hf]'``.
    InputError

    Notes
    -----
    The parameters that a method brings, such as gates, have to be in the trainer's optimizer:
    attach the method before the trainer makes it.
    """
    base = require("transformers", "hf").TrainerCallback
    followers = Followers(*parts)

    def before(self: Any, args: Any, state: Any, control: Any, **given: Any) -> None:
        followers.before()

    def after(self: Any, args: Any, state: Any, control: Any, **given: Any) -> None:
        followers.after(rate(given.get("optimizer")))

    def end(self: Any, args: Any, state: Any, control: Any, **given: Any) -> None:
        followers.finish()

    # The base class is known only now that transformers is imported.
    events = {"on_pre_optimizer_step": before, "on_optimizer_step": after, "on_train_end": end}
    return type("SecateurCallback", (base,), {"__doc__": "Calls Secateur's methods.", **events})()
