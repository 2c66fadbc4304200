"""Whether a model fits the data."""

from __future__ import annotations

from secateur.data.splits import Data
from secateur.errors import InputError

__all__ = ["check_labels"]


def check_labels(data: Data, outputs: int) -> None:
    """Refuse labels that the model has no output for.

    Parameters
    ----------
    data : Data
    outputs : int
        Classes (or tokens) that the model scores.

    Raises
    ------
    InputError
        When a part's labels, where they are known without reading it, do not lie in
        ``[0, outputs)``.

    Examples
    --------
    >>> import torch
    >>> from secateur.data import Split
    >>> part = Split(torch.zeros(2, 3), torch.tensor([0, 7]))
    >>> check_labels(Data("tiny", part, part, part), 2)
    Traceback (most recent call last):
    ...
    secateur.errors.InputError: labels of tiny (train) go from 0 to 7, and the model has 2...
    """
    for name, part in (("train", data.train), ("val", data.val), ("test", data.test)):
        known = part.label_range()
        if known is not None and not 0 <= known[0] <= known[1] < outputs:
            raise InputError(
                f"labels of {data.name} ({name}) go from {known[0]} to {known[1]}, and the model "
                f"has {outputs} outputs, for labels 0 to {outputs - 1}; build it with as many as "
                "the data has classes"
            )
