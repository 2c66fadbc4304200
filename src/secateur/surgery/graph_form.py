"""The traced graph itself as a model, for Python code that can never follow.

A literal in a view, a width that is computed in a closure: no attribute holds them. The exported
graph holds every size as an argument of one of its nodes. Here each becomes an attribute of the
graph module, so that a plan can change it, replay it and save it like any other.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from secateur.errors import InputError, PlanError
from secateur.inputs import ExampleInputs, Inputs, as_inputs, evaluating, run
from secateur.masks import carry_over
from secateur.plan import Plan
from secateur.surgery.capture import Expected, attempts, capture, expected_inputs
from secateur.surgery.lift import PREFIX, lift

__all__ = ["PREFIX", "GraphForm", "check_form", "to_graph"]

# Layers that other parts of the library look for, and whose tensors alone say what they are.
DESCRIBED = (_ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, _NormBase)
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}


class GraphForm(fx.GraphModule):
    """A graph module whose sizes are attributes; it trains, evaluates and exports as usual.

    Its submodules hold the parameters and modes under the model's names. They are not called.
    """

    captured_for: Expected

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphForm:
        # GraphModule copies what its graph refers to, and no more.
        with warnings.catch_warnings():
            # PyTorch copies its own deprecated classes.
            warnings.simplefilter("ignore", FutureWarning)
            copied: GraphForm = super().__deepcopy__(memo)  # type: ignore[assignment]
        for key in self.__dict__.keys() - copied.__dict__.keys():
            copied.__dict__[key] = copy.deepcopy(self.__dict__[key], memo)
        return copied

    def fingerprint(self) -> str:
        """What tells this graph from another: its operations and inputs, not its sizes."""
        lines = [str(self.captured_for)]
        for node in self.graph.nodes:
            called = getattr(node.target, "__name__", None) or str(node.target)
            lines.append(f"{node.op} {node.name} {called}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def to_graph(model: nn.Module, example_inputs: ExampleInputs) -> GraphForm:
    """Capture a model's graph as a trainable module with the same parameter names.

    It is what ``prune(..., form="graph")`` prunes. It computes what the model does on inputs of
    the example inputs' sizes, at any batch size where the model's code allows it. `secateur.save`
    stores it; to load it in a fresh process, capture the dense model again and load into that.

    The graph is that of inference. Batch norm, instance norm, dropout and recurrent layers follow
    ``train()`` and ``eval()``, of the whole or of a submodule. What the model's code does in
    training alone (auxiliary heads, stochastic depth, dropout inside attention) is left out, and
    gradients flow through what it computes under ``torch.no_grad()``. Where its code names a
    device or a dtype, these are the ones at capture.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it is. A graph form is copied.
    example_inputs : tensor, tuple or dict
        One batch that the model accepts.

    Returns
    -------
    GraphForm
        A `torch.fx.GraphModule` with its own copy of the parameters, in the mode of the model.

    Raises
    ------
    InputError
        Where torch.export cannot capture the model, or captures something else than the model
        computes; says why.

    Examples
    --------
    >>> import tempfile
    >>> import secateur as sc
    >>> class Literal(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(32, 2)
    ...     def forward(self, x):
    ...         return self.head(self.conv(x).view(-1, 32))
    >>> x = torch.randn(1, 3, 4, 4)
    >>> small = sc.prune(Literal(), x, form="graph").model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = sc.save(small, f"{folder}/small.safetensors")
    ...     loaded = sc.load(sc.to_graph(Literal(), x), path)
    >>> torch.equal(loaded(x), small(x)), loaded(torch.randn(5, 3, 4, 4)).shape
    (True, torch.Size([5, 2]))
    """
    inputs = as_inputs(example_inputs)
    if isinstance(model, GraphForm):
        return copy.deepcopy(model)
    wanted = _outputs(model, inputs)
    *better, last = attempts(inputs)
    for given, free in better:
        # Where the model's code fixes the batch size, this fails, and the last one does not.
        with contextlib.suppress(InputError):
            return _form(model, inputs, wanted, given, free)
    return _form(model, inputs, wanted, *last)


def _form(
    model: nn.Module, inputs: Inputs, wanted: list[Any], given: Inputs, free: bool
) -> GraphForm:
    with evaluating(model):
        exported = capture(model, given, free)
    source = exported.module()
    expected = expected_inputs(exported)
    lift(model, source, expected)
    form = GraphForm(source, source.graph, type(model).__name__)
    form.captured_for = expected
    _tie(model, form)
    _describe(model, form)
    carry_over(model, form)
    if not _same(wanted, _outputs(form, inputs)):
        raise InputError(
            "what torch.export captures computes something else than the model; "
            "form='python' does not need it"
        )
    modes = {path: module.training for path, module in model.named_modules(remove_duplicate=False)}
    for path, module in form.named_modules(remove_duplicate=False):
        module.training = modes.get(path, model.training)
    return form


def check_form(plan: Plan, model: nn.Module) -> None:
    """A plan for a graph form fits nothing else, and no other plan fits a graph form.

    Raises
    ------
    PlanError
    """
    wanted = plan.settings.get("graph_form")
    if not isinstance(model, GraphForm):
        if wanted is not None:
            raise PlanError(
                "the plan is for the model's graph form; "
                "pass secateur.to_graph(model, example_inputs) instead of the model"
            )
    elif wanted is None:
        if plan.removed:
            raise PlanError("the plan is for the model itself, and this is its graph form")
    elif wanted != model.fingerprint():
        raise PlanError(
            "the plan is for another graph form; capture the same model with the same version of "
            "PyTorch and example inputs of the same size"
        )


def _tie(model: nn.Module, form: nn.Module) -> None:
    """Let the graph hold copies of the model's tensors, tied where the model ties them."""
    first: dict[int, Any] = {}
    for table, originals in (
        ("_parameters", dict(model.named_parameters(remove_duplicate=False))),
        ("_buffers", dict(model.named_buffers(remove_duplicate=False))),
    ):
        held = form.named_parameters if table == "_parameters" else form.named_buffers
        for name, tensor in list(held(remove_duplicate=False)):
            # A constant that the capture made has no original.
            original = originals.get(name, tensor)
            if id(original) not in first:
                data = original.detach().clone()
                trained = isinstance(original, nn.Parameter)
                first[id(original)] = (
                    nn.Parameter(data, original.requires_grad) if trained else data
                )
            path, _, leaf = name.rpartition(".")
            getattr(form.get_submodule(path), table)[leaf] = first[id(original)]


def _describe(model: nn.Module, form: nn.Module) -> None:
    """Make the holders of layers' tensors layers of that kind, for whoever looks for them."""
    originals = dict(model.named_modules(remove_duplicate=False))
    for path, holder in form.named_modules():
        original = originals.get(path)
        if type(holder) is not nn.Module or not isinstance(original, DESCRIBED):
            continue
        if "weight" not in original._parameters:
            continue
        for kind in type(original).__mro__:
            if kind.__module__.startswith("torch.nn.modules."):
                break
        holder.__class__ = kind
        for key, value in original.__dict__.items():
            if key not in holder.__dict__ and isinstance(value, _PLAIN):
                holder.__dict__[key] = value
        for table in ("_parameters", "_buffers"):
            for key, tensor in getattr(original, table).items():
                if tensor is None:
                    getattr(holder, table).setdefault(key, None)


_PLAIN = (bool, int, float, str, tuple, type(None))


def _outputs(model: nn.Module, inputs: Inputs) -> list[Any]:
    """Everything that the model returns in eval mode, flat; with the same random numbers."""
    with evaluating(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return pytree.tree_leaves(run(model, inputs.fresh()))


def _same(wanted: list[Any], found: list[Any]) -> bool:
    """The capture must compute what the model does: it may have taken a value for a constant."""
    return len(wanted) == len(found) and all(map(_close, wanted, found))


def _close(wanted: Any, found: Any) -> bool:
    if not (isinstance(wanted, Tensor) and isinstance(found, Tensor)):
        return isinstance(wanted, Tensor) == isinstance(found, Tensor)
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return False
    if not wanted.is_floating_point():
        return torch.equal(wanted, found)
    tolerance = TOLERANCE.get(wanted.dtype, 5e-2)
    finite = wanted[wanted.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(wanted, found, rtol=0.0, atol=tolerance * scale, equal_nan=True)
