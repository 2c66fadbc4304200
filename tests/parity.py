"""The harness: prune a model and check the result without the tool's own verification.

The reference is the dense model with every removed index zeroed in every tensor that lost it,
norms taking their statistics over the kept indices, in float64.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized

import secateur as sc
from secateur.errors import BudgetError, NothingToPruneError
from secateur.inputs import as_inputs, evaluating, named_tensors, run
from secateur.plan import Plan
from zoo import Entry, mask_norms

__all__ = ["assert_same", "check_model", "check_prune", "randomise", "snapshot"]

TOLERANCE = 1e-6
"""Largest difference in float64, relative to the largest output."""

EASIER = (0.55, 0.7, 0.8, 0.9, 0.95, 0.98)
"""Budgets to fall back to where protected layers hold too much of a net."""

Mask = Callable[[nn.Module, Mapping[str, Mapping[int, list[int]]]], None]


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Replace everything that starts constant: fresh ones and zeros hide permuted indices.

    Norm weights, biases, layer scales and zero-initialised parameters become random, running
    variances positive. Scalars and weights that are random already stay.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).mul(0.3).to(tensor)

    def scale(tensor: Tensor) -> Tensor:
        signs = torch.randint(0, 4, tensor.shape, generator=generator).clamp(max=1).mul(2).sub(1)
        size = torch.rand(tensor.shape, generator=generator).add(0.5)
        return (size * signs).to(tensor)

    for parameter in model.parameters():
        if parameter.numel() > 1 and parameter.is_floating_point():
            first = parameter.flatten()[0]
            if bool((parameter == first).all()):
                parameter.copy_(scale(parameter) if first != 0 else normal(parameter))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(normal(buffer))
        elif name.endswith("running_var"):
            buffer.copy_(scale(buffer).abs())
    return model


def to_double(value: Any) -> Any:
    """Cast every float tensor in nested inputs to float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: to_double(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_double(item) for item in value)
    return value


def outputs(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """Run in eval mode and return every output tensor by its path."""
    with evaluating(model):
        result = run(model, as_inputs(copy.deepcopy(inputs)))
    return {name: tensor.clone() for name, tensor in named_tensors(result)}


def tensors(model: nn.Module, plan: Plan | None = None) -> dict[str, Tensor]:
    """Every parameter and buffer under every name it has; plain attributes that a plan names."""
    named = dict(model.named_parameters(remove_duplicate=False))
    named.update(model.named_buffers(remove_duplicate=False))
    for name in plan.removed if plan is not None else ():
        if name not in named:
            path, _, attribute = name.rpartition(".")
            named[name] = getattr(model.get_submodule(path), attribute)
    return named


PLAIN = (int, float, bool, str, type(None))


def _plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_plain(item) for item in value)
    return isinstance(value, PLAIN)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that pruning may only change on purpose."""
    named = tensors(model)
    return {
        "values": {name: tensor.detach().clone() for name, tensor in named.items()},
        "identities": {name: id(tensor) for name, tensor in named.items()},
        "kept": {
            name: (tensor.requires_grad, tensor.dtype, tensor.device, type(tensor))
            for name, tensor in named.items()
        },
        "training": {name: module.training for name, module in model.named_modules()},
        "attributes": {
            (path, key): copy.copy(value)
            for path, module in model.named_modules()
            for key, value in vars(module).items()
            if _plain(value) and not key.startswith("_")
        },
    }


def assert_same(model: nn.Module, before: Mapping[str, Any]) -> None:
    """Assert that a model is bit-identical to its snapshot, Python attributes included."""
    now = snapshot(model)
    for what in ("identities", "kept", "training", "attributes"):
        assert now[what] == before[what], f"{what} changed"
    for name, value in before["values"].items():
        assert torch.equal(now["values"][name], value), f"{name} changed"


def _indices(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


@torch.no_grad()
def silence(
    dense: nn.Module, plan: Plan, masked: Mask | None = None, consumers_only: bool = False
) -> nn.Module:
    """Return a copy of the dense model with every removed index zeroed."""
    model = copy.deepcopy(dense)
    named = tensors(model, plan)
    for name, dims in plan.removed.items():
        if named[name].is_floating_point():
            for dim, indices in dims.items():
                if dim > 0 or not consumers_only:
                    named[name].index_fill_(dim, _indices(indices), 0.0)
    mask_norms(model, plan.removed)
    if masked is not None:
        masked(model, plan.removed)
    return model


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    """Assert that every output agrees, relative to the largest value."""
    assert actual.keys() == expected.keys()
    for name, reference in expected.items():
        value = actual[name]
        assert value.shape == reference.shape, f"{what}: {name} {value.shape} {reference.shape}"
        assert torch.isfinite(reference).all(), f"{what}: the reference is not finite"
        error = float((value.double() - reference.double()).abs().max()) if value.numel() else 0.0
        size = max(float(reference.double().abs().max()), 1e-3)
        assert error <= TOLERANCE * size, f"{what}: {name} is off by {error / size:.1e}"


def assert_slices(dense: nn.Module, model: nn.Module, plan: Plan) -> None:
    """Assert that the pruned tensors are exactly the kept slices of the dense ones."""
    before, after = tensors(dense, plan), tensors(model, plan)
    removed = {id(before[name]): dims for name, dims in plan.removed.items()}
    changed = {id(before[entry.name]) for entry in plan.rescaled}
    changed |= {id(before[name]) for name in plan.renumbered}
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        expected = tensor.detach()
        for dim, indices in removed.get(id(tensor), {}).items():
            assert indices == sorted(set(indices)), f"{name}: unsorted indices"
            gone = set(indices)
            keep = [i for i in range(tensor.shape[dim]) if i not in gone]
            expected = expected.index_select(dim, _indices(keep))
        assert after[name].shape == expected.shape, f"{name}: {tuple(after[name].shape)}"
        if id(tensor) not in changed:
            assert torch.equal(after[name].detach(), expected), f"{name}: wrong slices"


def assert_kept(model: nn.Module, before: Mapping[str, Any]) -> None:
    """Assert that requires_grad, dtype, device, ties and training modes are what they were."""
    now = snapshot(model)
    assert now["kept"] == before["kept"]
    assert now["training"] == before["training"]
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in parameters:
        assert now["identities"][name] == before["identities"][name], f"{name}: another object"


def expected_shape(module: nn.Module) -> tuple[int, ...] | None:
    """The shape that a layer's weight has by the layer's own attributes."""
    if isinstance(module, _ConvTransposeNd):
        return (module.in_channels, module.out_channels // module.groups, *module.kernel_size)
    if isinstance(module, _ConvNd):
        return (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
    if isinstance(module, nn.Linear):
        return (module.out_features, module.in_features)
    if isinstance(module, nn.Bilinear):
        return (module.out_features, module.in1_features, module.in2_features)
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return (module.num_embeddings, module.embedding_dim)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return tuple(module.normalized_shape)
    if isinstance(module, nn.GroupNorm):
        return (module.num_channels,)
    if isinstance(module, _NormBase):
        return (module.num_features,)
    if isinstance(module, nn.PReLU):
        return (module.num_parameters,)
    return None


def assert_sizes_follow(model: nn.Module) -> None:
    """Assert that the attributes of PyTorch's own layers say what their tensors are."""
    for name, module in model.named_modules():
        shape = expected_shape(module)
        weight = getattr(module, "weight", None)
        # What a hook computes before every call is out of date until the next one.
        current = isinstance(weight, nn.Parameter) or is_parametrized(module, "weight")
        if shape is not None and current:
            assert tuple(weight.shape) == shape, f"{name}: {module} holds {tuple(weight.shape)}"
        if isinstance(module, nn.RNNBase):
            gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
            rows, columns = module.weight_ih_l0.shape
            assert (rows, columns) == (gates * module.hidden_size, module.input_size), name
        if isinstance(module, nn.MultiheadAttention):
            assert module.out_proj.in_features == module.num_heads * module.head_dim, name


def assert_real(model: nn.Module) -> None:
    """Assert that no tensor of a trial run was left in the model."""

    def held(value: Any) -> Iterator[Tensor]:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from held(item)
        elif isinstance(value, dict):
            yield from held(list(value.values()))

    for path, module in model.named_modules():
        for tensor in held(vars(module)):
            assert type(tensor) in (Tensor, nn.Parameter), f"{path}: {type(tensor)}"
            assert not tensor.is_meta, path


def assert_silent(dense: nn.Module, model: nn.Module, inputs: Any) -> None:
    """Assert that running the pruned model warns of nothing that the dense one does not."""

    def warned(net: nn.Module) -> set[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            outputs(net, inputs)
        return {str(warning.message) for warning in caught}

    before = warned(dense)
    assert warned(model) <= before


def assert_trains(dense: nn.Module, model: nn.Module, inputs: Any) -> None:
    """Assert that gradients reach what they reached before, in the pruned shapes."""

    def gradients(source: nn.Module) -> dict[str, Tensor]:
        net = copy.deepcopy(source).train()
        torch.manual_seed(0)
        result = run(net, as_inputs(copy.deepcopy(inputs)))
        loss = sum(t.square().mean() for _, t in named_tensors(result) if t.requires_grad)
        if isinstance(loss, Tensor):
            loss.backward()
        return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}

    reached, reaches = gradients(dense), gradients(model)
    assert reaches.keys() == reached.keys()
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, gradient in reaches.items():
        assert gradient.shape == shapes[name], f"{name}: the gradient's shape is off"


def assert_replays(dense: nn.Module, model: nn.Module, plan: Plan, inputs: Any) -> None:
    """Assert that the plan, through JSON, makes the same model from a fresh dense one."""
    again = Plan.from_json(plan.to_json())
    assert again == plan
    fresh = copy.deepcopy(dense)
    again.apply(fresh)
    expected, actual = snapshot(model), snapshot(fresh)
    assert actual["attributes"] == expected["attributes"]
    for name, value in expected["values"].items():
        assert torch.equal(actual["values"][name], value), f"{name}: not as replayed"
    first, second = outputs(model, inputs), outputs(fresh, inputs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def _feasible(
    model: nn.Module, inputs: Any, unit: str, ratio: float, options: Mapping[str, Any]
) -> tuple[sc.Result, float]:
    """Prune to the hardest budget from `ratio` up that the net can meet."""
    before = snapshot(model)
    for budget in (ratio, *(easier for easier in EASIER if easier > ratio)):
        try:
            return sc.prune(model, inputs, budget={unit: budget}, **options), budget
        except BudgetError as error:
            assert_same(model, before)
            last = error
    raise last


def check_model(
    dense: nn.Module,
    inputs: Any,
    ratio: float,
    *,
    unit: str = "params",
    seed: int = 0,
    criterion: Any = "random",
    statistics: bool = False,
    consumers_only: bool = False,
    masked: Mask | None = None,
    **options: Any,
) -> sc.Result:
    """Prune a copy of the model and check everything that must hold; return the result."""
    model, given = copy.deepcopy(dense), copy.deepcopy(inputs)
    before = snapshot(model)
    asked = {"criterion": criterion, "seed": seed, "verify": True, **options}
    result, met = _feasible(model, inputs, unit, ratio, asked)

    assert result.model is model
    leaves = zip(named_tensors(inputs), named_tensors(given), strict=True)
    assert all(torch.equal(now, then) for (_, now), (_, then) in leaves), "the inputs changed"
    assert result.error is not None
    assert result.plan.removed
    assert all(name and reason for name, reason in result.skipped)
    if unit == "params":
        count = sum(parameter.numel() for parameter in model.parameters())
        assert result.after.params == count
        assert count <= met * result.before.params

    assert_slices(dense, model, result.plan)
    assert_kept(model, before)
    assert_sizes_follow(model)
    assert_real(model)
    assert_silent(dense, model, inputs)
    if not statistics:
        reference = silence(dense, result.plan, masked, consumers_only)
        assert_close(outputs(model, inputs), outputs(reference, inputs), "pruned against masked")
    assert_trains(dense, model, inputs)
    assert_replays(dense, model, result.plan, inputs)
    return result


def prepared(entry: Entry, seed: int = 0) -> tuple[nn.Module, Any]:
    """Return an entry's model, randomised, in float64 and in mixed modes, and its inputs."""
    model = randomise(entry.build(), seed).double().train()
    for index, module in enumerate(model.modules()):
        if index % 3 == 2:
            module.training = False
    for index, parameter in enumerate(model.parameters()):
        if index % 4 == 3:
            parameter.requires_grad_(False)
    return model, to_double(entry.inputs())


def check_prune(entry: Entry, ratio: float, seed: int = 0, **options: Any) -> sc.Result | None:
    """Prune a net of the zoo and check it; None where nothing can be pruned and it said so."""
    dense, inputs = prepared(entry, seed)
    if not entry.prunable:
        model = copy.deepcopy(dense)
        before = snapshot(model)
        with refused():
            sc.prune(model, inputs, budget={"params": ratio}, seed=seed, **options)
        assert_same(model, before)
        return None
    return check_model(dense, inputs, ratio, seed=seed, **facts(entry), **options)


def facts(entry: Entry) -> dict[str, Any]:
    """What an entry says about its reference."""
    return {
        "statistics": entry.statistics,
        "consumers_only": entry.consumers_only,
        "masked": entry.masked,
    }


@contextmanager
def refused() -> Iterator[None]:
    """Expect the error that says nothing can be pruned."""
    try:
        yield
    except NothingToPruneError as error:
        assert "\n" not in str(error)
        return
    raise AssertionError("pruned a net that has nothing to prune")
