"""Whether a text's tokens are a model's."""

from __future__ import annotations

from torch import Tensor, nn

from secateur.errors import InputError

__all__ = ["check_tokens", "vocabulary_of"]


def vocabulary_of(model: nn.Module) -> int | None:
    """How many tokens a model looks up, where it says so."""
    getter = getattr(model, "get_input_embeddings", None)
    found = getter() if callable(getter) else None
    return getattr(found, "num_embeddings", None)


def check_tokens(ids: Tensor, size: int | None) -> None:
    """Refuse tokens that a model does not know.

    Parameters
    ----------
    ids : Tensor of int64
    size : int or None
        How many tokens the model knows; None where nobody can say.

    Raises
    ------
    InputError

    Examples
    --------
    >>> import torch
    >>> check_tokens(torch.tensor([3, 70]), 61)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    secateur.errors.InputError: token 70 is none of the 61 that the model knows; the text was ...
    """
    if size is not None and ids.numel() and int(ids.max()) >= size:
        raise InputError(
            f"token {int(ids.max())} is none of the {size} that the model knows; the text was "
            "written by another model's tokenizer: pass this one's tokenizer.json"
        )
