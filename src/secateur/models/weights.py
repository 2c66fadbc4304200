"""Weights from a file: one that `secateur.save` wrote, or a plain safetensors state dict."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from secateur.errors import FileFormatError, PlanError

__all__ = ["load_weights"]

_MOST_NAMED = 3


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into a dense model, in place.

    Parameters
    ----------
    model : torch.nn.Module
    path : pathlib.Path
        What `secateur.save` wrote, whose plans are replayed; or the model's state dict.

    Raises
    ------
    FileFormatError
        Where the file is missing, truncated or changed.
    PlanError
        Where it is for another model.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    from secateur.container import HEADER
    from secateur.persist import load

    if not path.is_file():
        raise FileFormatError(f"there is no file {str(path)!r}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            ours = HEADER in (file.metadata() or {})
        state = {} if ours else load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise FileFormatError(
            f"{path} is truncated or is not a safetensors file ({error})"
        ) from error
    if ours:
        load(model, path)
        return
    expected = model.state_dict()
    # Weights from before PyTorch 0.4.1 do not count batches; PyTorch lets that pass as well.
    uncounted = [n for n in expected if n.endswith(".num_batches_tracked") and n not in state]
    state |= {name: expected[name] for name in uncounted}
    wrong = [
        f"{name} is {list(value.shape)} in the model and "
        + (f"{list(state[name].shape)} in the file" if name in state else "absent from the file")
        for name, value in expected.items()
        if name not in state or state[name].shape != value.shape
    ]
    wrong += [f"{name} is not in the model" for name in state if name not in expected]
    if wrong:
        more = f" and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        raise PlanError(f"{path} does not fit this model: {'; '.join(wrong[:_MOST_NAMED])}{more}")
    model.load_state_dict(state)
