"""Perplexity of a language model on a text, with what it was measured on."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.errors import InputError
from secateur.inputs import Inputs, evaluating, named_tensors, run
from secateur.observing.vocabulary import check_tokens, vocabulary_of

__all__ = ["Perplexity", "perplexity"]


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """What `perplexity` measured.

    Attributes
    ----------
    value : float
        exp of the mean negative log likelihood of a token, given those before it in its window.
    context : int
        Tokens in a window. Longer ones give lower values: only equal ones compare.
    tokens : int
        How many tokens were predicted.
    """

    value: float
    context: int
    tokens: int

    def __str__(self) -> str:
        return f"perplexity {self.value:.3f} (context {self.context}, {self.tokens:,} tokens)"


def perplexity(
    model: nn.Module, tokens: Tensor, *, context: int, batch_size: int = 8
) -> Perplexity:
    """How surprised a language model is by a text: lower is better.

    The text is cut into windows that do not overlap, as in the papers of SparseGPT and Wanda. In
    each, every token but the first is predicted from those before it; what is left at the end of
    the text is left out.

    Parameters
    ----------
    model : torch.nn.Module
        Takes ``[batch, length]`` token ids, and returns logits ``[batch, length, vocabulary]``,
        as a tensor, as ``.logits`` or as the first of several. Run in eval mode.
    tokens : Tensor of int64, shape [length]
        The text, as the model's tokenizer writes it.
    context : int
        Tokens in a window.
    batch_size : int, default 8
        Windows that are run at once.

    Returns
    -------
    Perplexity

    Raises
    ------
    InputError
        When the text is shorter than one window, a token is none of the model's vocabulary (the
        tokenizer is another model's), or the model returns no logits.

    Examples
    --------
    A model that knows nothing is as surprised as if it threw a die:

    >>> class Die(nn.Module):
    ...     def forward(self, ids):
    ...         return torch.zeros(*ids.shape, 6)
    >>> print(perplexity(Die(), torch.tensor([1, 5, 2, 0, 3, 4, 1]), context=3))
    perplexity 6.000 (context 3, 4 tokens)
    """
    windows = _windows(tokens, context)
    check_tokens(windows, vocabulary_of(model))
    device = next((p.device for p in model.parameters()), None)
    total, count = 0.0, 0
    with evaluating(model), torch.no_grad():
        for batch in windows.split(batch_size):
            ids = batch.to(device)
            logits = _logits(run(model, Inputs((ids,))))
            if logits.dim() != 3 or logits.shape[:2] != ids.shape:
                raise InputError(
                    f"a language model returns logits [batch, length, vocabulary]; this one gave "
                    f"{list(logits.shape)} for {list(ids.shape)} tokens"
                )
            check_tokens(batch, logits.shape[-1])
            losses = functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="sum"
            )
            total += float(losses.double())
            count += ids[:, 1:].numel()
    mean = total / count
    return Perplexity(math.exp(mean) if mean < 700 else math.inf, context, count)


def _windows(tokens: Tensor, context: int) -> Tensor:
    if context < 2:
        raise InputError(f"context must be at least 2 tokens, not {context}")
    if tokens.dim() != 1 or tokens.is_floating_point():
        raise InputError(
            f"tokens must be one row of integers, not {list(tokens.shape)} of {tokens.dtype}"
        )
    count = len(tokens) // context
    if not count:
        raise InputError(
            f"the text has {len(tokens)} tokens, less than one window of {context}; give a longer "
            "text or a smaller context="
        )
    return tokens[: count * context].long().view(count, context)


def _logits(output: object) -> Tensor:
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        found = [tensor for _, tensor in named_tensors(output)]
        if not found:
            raise InputError("the model returned no tensor of logits")
        logits = found[0]
    return logits
