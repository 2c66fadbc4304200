"""From what stands on a command line to what is timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur.bench.model_files import OnnxFile, OpenVinoFile
from secateur.bench.subjects import Call, ModelSubject, Subject
from secateur.errors import InputError
from secateur.latency.runtimes import Runtime

__all__ = ["open_subjects"]


def open_subjects(
    given: Sequence[str],
    *,
    model: str | None = None,
    pretrained: bool = False,
    input_shapes: Sequence[tuple[int, ...]] = (),
    seed: int = 0,
) -> list[Subject]:
    """Read what stands on a command line.

    Parameters
    ----------
    given : sequence of str
        Each a model as `secateur.models.load_model` takes it, a file that `secateur.save` wrote
        (``.safetensors``), an ONNX file (``.onnx``), an OpenVINO model (``.xml``), or the folder of
        a recipe's run, which stands for the model that it began with and the one that it came to.
    model : str, optional
        The dense model of the safetensors files.
    pretrained, input_shapes, seed
        As for `secateur.models.load_model`.

    Raises
    ------
    InputError
        For something else, or two of one name.

    Examples
    --------
    >>> [each.name for each in open_subjects(["secateur.models:small_resnet"],
    ...                                      input_shapes=[(1, 1, 16, 16)])]
    ['secateur.models:small_resnet']
    """
    from secateur.models import open_model

    options: dict[str, Any] = {
        "pretrained": pretrained, "input_shapes": input_shapes, "seed": seed
    }  # fmt: skip
    found: list[Subject] = []
    for text in given:
        path = Path(text)
        if path.suffix == ".onnx":
            found.append(OnnxFile(_there(path), input_shapes))
        elif path.suffix == ".xml":
            found.append(OpenVinoFile(_there(path), input_shapes))
        elif path.suffix == ".safetensors":
            if model is None:
                raise InputError(f"{text} holds no code; name its dense model with --model")
            net, inputs, _ = open_model(model, weights=_there(path), **options)
            found.append(ModelSubject(path.name, net, inputs))
        elif (path / "recipe.yaml").is_file():
            found += _of_run(path)
        else:
            net, inputs, _ = open_model(text, **options)
            found.append(ModelSubject(text, net, inputs))
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name!r} is given twice; rename one of them")
    return found


def _there(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}")
    return path


def _of_run(folder: Path) -> list[Subject]:
    """The first and the last model of a run, and the ONNX files that it wrote."""
    from secateur.persist import load
    from secateur.recipes.folder import START, RunFolder
    from secateur.recipes.reading import read_recipe
    from secateur.recipes.work import build, inputs_of, model_at

    read, run = read_recipe(folder / "recipe.yaml"), RunFolder(folder)
    if not (folder / "model.safetensors").is_file():
        raise InputError(f"the run in {folder} has not ended; go on with it with --resume")
    dense = model_at(read, run, START)
    final = load(build(read), folder / "model.safetensors")
    inputs = inputs_of(read)
    name = folder.resolve().name
    found: list[Subject] = [
        ModelSubject(f"{name}: start", dense, inputs),
        ModelSubject(f"{name}: end", final, inputs),
    ]
    files = sorted(run.exports.glob("*.onnx")) if run.exports.is_dir() else []
    return [*found, *(_Named(f"{name}: {file.name}", OnnxFile(file)) for file in files)]


@dataclasses.dataclass
class _Named(Subject):
    """Something under another name."""

    name: str
    subject: Subject

    def ready(self, runtime: Runtime, dtype: str, batch: int) -> Call:
        return self.subject.ready(runtime, dtype, batch)
