"""What ``secateur prune`` does for language models: texts, tokenizers, pruning block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from secateur.blockwise import Blockwise
    from secateur.data import Data

__all__ = ["blockwise", "check_method", "check_text", "show_blockwise", "text_options"]


def check_method(
    method: str | None,
    sparsity: str | None,
    budget: object,
    data: str | None,
    granularity: str,
) -> None:
    """Refuse options that contradict each other.

    Raises
    ------
    InputError
    """
    if method is None and sparsity is None:
        return
    if method is None or sparsity is None:
        raise InputError("--method and --sparsity go together: --method wanda --sparsity 2:4")
    if budget is not None or granularity != "channel":
        raise InputError(
            "--method makes the weights of blocks sparse by --sparsity; it takes neither --budget "
            "nor --granularity"
        )
    if data is None:
        raise InputError("--method looks at what layers are given: pass --data text:PATH")


def text_options(
    data: str, model: str, tokenizer: Path | None, length: int | None
) -> dict[str, Any]:
    """Options of a text: its tokenizer, which a Hugging Face folder may hold, and its length.

    Examples
    --------
    >>> text_options("digits", "timm:resnet18", None, None)
    {}
    """
    if not data.startswith("text:"):
        if tokenizer is not None or length is not None:
            raise InputError("--tokenizer and --length are for --data text:PATH")
        return {}
    options: dict[str, Any] = {} if length is None else {"length": length}
    own = Path(model.removeprefix("hf:")).expanduser() / "tokenizer.json"
    if tokenizer is None and model.startswith("hf:") and own.is_file():
        tokenizer = own
    if tokenizer is not None:
        options["tokenizer"] = str(tokenizer)
    return options


def check_text(data: str, splits: Data, model: nn.Module) -> None:
    """Refuse a text that another tokenizer wrote.

    Raises
    ------
    InputError
    """
    from secateur.observing.vocabulary import check_tokens, vocabulary_of

    if data.startswith("text:"):
        for inputs, _ in splits.train.batches(256):
            check_tokens(inputs, vocabulary_of(model))


def blockwise(
    model: nn.Module,
    splits: Data,
    method: str,
    sparsity: str,
    samples: int,
    batch_size: int,
    ignore: Sequence[str] | None,
    tick: Callable[..., None],
) -> Blockwise:
    """Prune block by block on the first sequences of the training part."""
    from secateur.blockwise import prune_blockwise

    count = max(1, samples // batch_size)
    batches = list(islice(iter(splits.train.batches(min(batch_size, samples))), count))
    return prune_blockwise(
        model, batches, method=method, sparsity=sparsity, ignore=ignore or (), progress=tick
    )


def show_blockwise(console: Console, done: Blockwise, saved: Path) -> None:
    """Say what became zero, and what was not looked at."""
    console.print(
        f"{done.zeros:,} of {done.weights:,} weights in {len(done.blocks)} blocks are zero "
        f"({done.sparsity:.1%}); embeddings and the output head are neither pruned nor counted"
    )
    console.print(f"saved: [bold]{saved}[/] ({saved.stat().st_size:,} bytes)", soft_wrap=True)
