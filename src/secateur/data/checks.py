"""Whether a model fits the data."""

from __future__ import annotations

from secateur.data.splits import Data
from secateur.observing.labels import check_range

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
        check_range(f"labels of {data.name} ({name})", part.label_range(), outputs)
