"""A commented recipe to begin with."""

from __future__ import annotations

import os
from pathlib import Path

from secateur.errors import InputError
from secateur.files import replacing
from secateur.models import load_model
from secateur.models.sources import Shape
from secateur.profiling import profile
from secateur.report import numbers

__all__ = ["write_template"]

_TEMPLATE = """\
# {summary}
# secateur run {file} --dry-run    say what would be done
# secateur run {file}              do it
# secateur run {file} --resume     go on after a stop
# secateur run {file} seed=1       override a key
name: {name}                     # the run's folder is runs/{name}
seed: 0                          # of weights, splits, batches, augmentation and pruning

model:
  source: {source}
  # kwargs: {{num_classes: 10}}    # for what builds the model
  # pretrained: true             # download the library's weights
{shape}
# weights: dense.safetensors     # trained weights, by secateur.save or as a safetensors state dict

data:
  # digits, parquet:PATH, folder:PATH, text:PATH or package.module:callable
  source: {data}
  batch_size: 64
  # options: {{size: 224, crop: resized, flip: true, workers: 4}}

steps:                           # in any order and number
  - prune:
      budget: {{macs: 0.5}}        # at most this fraction of the dense MACs remains
      # criterion: taylor        # secateur list criteria
      # allocation: global       # secateur list allocations
      # ignore: [fc]             # modules left whole
      # round_to: 8              # sizes are multiples of it
      # steps: 5                 # approach the budget in steps, each followed by
      # finetune: {{epochs: 1}}
  - finetune:
      epochs: 10
      lr: 0.01                   # a tenth to a hundredth of the original rate
  # - sparsify: {{granularity: "2:4"}}   # zeros; secateur list granularities
  - export                       # ONNX, in runs/{name}/exports
  # - quantize                   # ONNX in 8-bit integers

# engine: processes:4            # for searches: where pruned copies are tried out
# report: {{latency: false}}
"""


def write_template(
    model: str,
    path: str | os.PathLike[str],
    *,
    data: str = "digits",
    input_shapes: list[Shape] | None = None,
) -> Path:
    """Write a commented recipe for a model.

    Parameters
    ----------
    model : str
        As for `secateur.models.load_model`; it is built, to see that it can be.
    path : path-like
        The file, which must not be there yet.
    data : str
        As for `secateur.data.load_data`.
    input_shapes : list of tuple of int, optional
        Where the model's source does not tell.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputError
        When the file is there already, and where `load_model` raises.
    """
    path = Path(path)
    if path.exists():
        raise InputError(f"{path} is there already; give another name with --out")
    loaded = load_model(model, input_shapes=input_shapes or [])
    summary = f"{model}: {sum(p.numel() for p in loaded.model.parameters()):,} parameters"
    if loaded.example_inputs is not None:
        cost = profile(loaded.model, loaded.example_inputs)
        summary += f", {numbers.count(cost.macs)} MACs"
    shape = "  # input_shape: [1, 3, 224, 224]   # that of the data by default"
    if input_shapes:
        shape = f"  input_shape: {[list(each) for each in input_shapes]}"
    text = _TEMPLATE.format(
        summary=summary,
        file=path,
        name=path.stem,
        source=model,
        shape=shape,
        data=data,
    )
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path
