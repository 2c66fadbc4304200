"""``text:PATH``: sequences of a text, each token's target the one after it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from secateur.data.options import DataOptions
from secateur.data.parting import files_by_part
from secateur.data.splits import Part, Split
from secateur.errors import FileFormatError, InputError, first_line, require

__all__ = ["read_text"]

# A text is cut where it stands: shuffled sequences would put neighbours into other parts.
_SHARES = {"train": 0.9, "val": 0.05, "test": 0.05}


def read_text(argument: str, options: DataOptions, asked: str | None = None) -> dict[str, Part]:
    """Sequences of ``options.length`` tokens that follow one another, by part.

    One file is cut in three: its first 90 % to train on, then 5 % and 5 %. A folder holds text
    files whose names begin with train, val or test. A part that is asked for by itself is a whole
    file.

    Raises
    ------
    InputError
        When a part is shorter than one sequence, or there is no text.
    FileFormatError, MissingExtraError
        For the tokenizer.
    """
    path = Path(argument).expanduser()
    if path.is_dir():
        files = files_by_part(path.glob("*.txt"))
        if not files:
            raise InputError(f"there is no .txt file in the folder {str(path)!r}")
        read = {
            part: torch.cat([_tokens(file, options) for file in group])
            for part, group in files.items()
        }
        return {part: _split(f"{path} ({part})", tokens, options) for part, tokens in read.items()}
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}")
    tokens = _tokens(path, options)
    if asked is not None:
        return {asked: _split(str(path), tokens, options)}
    parts: dict[str, Part] = {}
    at = 0
    for part, share in _SHARES.items():
        end = len(tokens) if part == "test" else at + round(share * len(tokens))
        parts[part] = _split(f"{path} ({part})", tokens[at:end], options)
        at = end
    return parts


def _split(name: str, tokens: Tensor, options: DataOptions) -> Split:
    length = options.length
    count = (len(tokens) - 1) // length
    if count < 1:
        raise InputError(
            f"{name} must hold at least one sequence of {length} tokens and the token after it; "
            f"it has {len(tokens)} tokens: give a smaller length="
        )
    inputs = tokens[: count * length].view(count, length)
    return Split(inputs, tokens[1 : count * length + 1].view(count, length))


def _tokens(path: Path, options: DataOptions) -> Tensor:
    raw = path.read_bytes()
    if options.tokenizer is None:
        return torch.from_numpy(np.frombuffer(raw, dtype=np.uint8).astype(np.int64))
    tokenizers = require("tokenizers", "hf")
    file = Path(options.tokenizer).expanduser()
    if not file.is_file():
        raise FileFormatError(f"there is no tokenizer file {str(file)!r}")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises plain Exception
        raise FileFormatError(f"{file} is no tokenizer.json ({first_line(error)})") from error
    ids = tokenizer.encode(_decoded(path, raw, options.strict)).ids
    return torch.tensor(ids, dtype=torch.int64)


def _decoded(path: Path, raw: bytes, strict: bool) -> str:
    """The text, without the lines that are not UTF-8."""
    lines, bad = [], []
    for number, line in enumerate(raw.splitlines(keepends=True), 1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            bad.append(number)
            if strict:
                raise InputError(f"{path} line {number} is not UTF-8") from None
    if bad:
        warnings.warn(
            f"left out {len(bad)} lines of {path} that are not UTF-8, the first line {bad[0]}",
            stacklevel=4,
        )
    return "".join(lines)
