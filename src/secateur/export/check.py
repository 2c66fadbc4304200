"""Does the ONNX file compute what the model computes? Asked of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from secateur.errors import ExportError, first_line, require

__all__ = ["OnnxSession", "allowed", "difference", "random_like", "worst_difference"]

SEVERITY_FATAL = 4
ROUNDINGS = 16


class OnnxSession:
    """An ONNX file, loaded in ONNX Runtime on the CPU.

    Raises
    ------
    ExportError
        Where ONNX Runtime cannot load the file, or cannot run it on given inputs.
    """

    def __init__(self, path: Path) -> None:
        runtime = require("onnxruntime", "export")
        options = runtime.SessionOptions()
        options.log_severity_level = SEVERITY_FATAL
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ExportError(
                f"ONNX Runtime cannot load the exported model ({first_line(error)}); "
                "export with check=False to keep the file for another runtime"
            ) from error

    def __call__(self, names: Sequence[str], tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run on named inputs; return the outputs in the file's order."""
        wanted = {item.name for item in self._session.get_inputs()}
        try:
            feed = {
                name: tensor.detach().cpu().contiguous().numpy()
                for name, tensor in zip(names, tensors, strict=True)
                if name in wanted
            }
            outputs = self._session.run(None, feed)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ExportError(
                f"ONNX Runtime cannot run the exported model ({first_line(error)}); "
                "export with check=False to keep the file for another runtime"
            ) from error
        return [torch.as_tensor(output) for output in outputs]


def difference(expected: Tensor, actual: Tensor) -> float:
    """Largest difference, relative to the largest expected magnitude; infinite where shapes differ.

    Examples
    --------
    >>> difference(torch.tensor([1.0, 10.0]), torch.tensor([1.0, 10.5]))
    0.05
    >>> difference(torch.zeros(2), torch.zeros(3))
    inf
    """
    if expected.shape != actual.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    wanted, got = (tensor.detach().cpu().double() for tensor in (expected, actual))
    finite = wanted.isfinite()
    same = torch.where(wanted.isnan(), got.isnan(), wanted == got)
    if not bool((same | finite).all()) or not bool(got[finite].isfinite().all()):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    scale = float(wanted[finite].abs().max()) or 1.0
    return float((wanted[finite] - got[finite]).abs().max()) / scale


def allowed(tolerance: float, outputs: Sequence[Tensor]) -> float:
    """Widen the tolerance to sixteen roundings of the least precise output."""
    roundings = [
        ROUNDINGS * torch.finfo(output.dtype).eps
        for output in outputs
        if output.is_floating_point()
    ]
    return max([tolerance, *roundings])


def random_like(tensors: Sequence[Tensor], seed: int = 0) -> list[Tensor]:
    """Random inputs: numbers that spread as the given ones do, whole numbers shuffled.

    Examples
    --------
    >>> random_like([torch.zeros(2), torch.tensor([1, 2, 3])])[1].sort().values
    tensor([1, 2, 3])
    """
    generator = torch.Generator().manual_seed(seed)
    made = []
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.numel() > 1:
            numbers = torch.randn(tensor.shape, generator=generator)
            wide = tensor.detach().float().cpu()
            spread = float(wide.std()) or 1.0
            like = (numbers * spread + float(wide.mean())).to(tensor.dtype)
        else:
            flat = tensor.detach().cpu().reshape(-1)
            like = flat[torch.randperm(len(flat), generator=generator)].reshape(tensor.shape)
        made.append(like.to(tensor.device))
    return made


def worst_difference(
    model: Callable[..., Sequence[Tensor]],
    exported: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    cases: Sequence[Sequence[Tensor]],
    tolerance: float,
    runtime: str,
) -> float:
    """The largest difference of an exported model over several inputs, relative to its outputs.

    Raises
    ------
    ExportError
        Where it is more than the tolerance, or the exported model does not run.
    """
    worst = 0.0
    for tensors in cases:
        expected = model(*tensors)
        try:
            actual = exported(tensors)
        except Exception as error:
            raise ExportError(
                f"{runtime} cannot run the exported model ({first_line(error)}); "
                "export with check=False to keep the file for another version"
            ) from error
        if len(actual) != len(expected):
            raise ExportError(f"{runtime} returns {len(actual)} outputs, the model {len(expected)}")
        found = max(difference(mine, its) for mine, its in zip(expected, actual, strict=True))
        limit = allowed(tolerance, expected)
        if not found <= limit:
            raise ExportError(
                f"{runtime}'s outputs differ from the model's by {found:.2g}, more than the "
                f"tolerance of {limit:.2g}; nothing was written"
            )
        worst = max(worst, found)
    return worst
