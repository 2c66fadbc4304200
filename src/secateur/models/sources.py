"""From the name of a model, as written on a command line or in a recipe, to the model."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from secateur.errors import InputError, MissingExtraError, UnknownNameError, first_line, suggestion
from secateur.inputs import ExampleInputs
from secateur.locate import locate
from secateur.models.operators import declare_torchvision_operators
from secateur.registry import Registry

__all__ = ["SOURCES", "Loaded", "Source", "import_library", "load_model", "model_names"]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model and what to call it with.

    Attributes
    ----------
    name : str
        As it was asked for.
    model : torch.nn.Module
        In eval mode.
    example_inputs : tensor, tuple, dict or None
        One example that the model accepts; None where its source does not tell.
    random : bool
        Whether the weights are random.
    """

    name: str
    model: nn.Module
    example_inputs: ExampleInputs | None
    random: bool


@dataclasses.dataclass(frozen=True)
class Source:
    """Where models come from.

    Attributes
    ----------
    form : str
        How a model of it is written.
    summary : str
    build : callable
        ``build(name, pretrained, options)`` returns the `Loaded` model.
    names : callable or None
        All names that it knows, where there is such a list.
    """

    form: str
    summary: str
    build: Callable[[str, bool, Mapping[str, Any]], Loaded]
    names: Callable[[], Iterable[str]] | None = None


SOURCES: Registry[Source] = Registry("model source")

Shape: TypeAlias = tuple[int, ...]


def load_model(
    spec: str,
    *,
    pretrained: bool = False,
    input_shapes: Iterable[Shape] = (),
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Loaded:
    """Build the model that a short specification names, with inputs that fit it.

    Parameters
    ----------
    spec : str
        ``torchvision:NAME``, ``timm:NAME``, ``hf:CONFIG-OR-FOLDER`` (a ``config.json`` or a
        folder with one, and with weights where there are safetensors files), or
        ``package.module:callable`` for a function without arguments that returns a module, or
        a module and its example inputs (or a module with an ``example_input_array``).
    pretrained : bool
        Download the library's weights; otherwise weights are random, but for those of a
        folder or a callable.
    input_shapes : iterable of tuple of int
        Shapes of positional inputs, in place of those that the source tells.
    seed : int
        Of random weights and random inputs; the global generator is left alone.
    options : mapping, optional
        Keyword arguments for what builds the model: the library's function, the callable, or, of
        a Hugging Face model, its configuration.

    Returns
    -------
    Loaded

    Raises
    ------
    UnknownNameError
        For a source or a model that does not exist; the message suggests the nearest.
    InputError
        When the model cannot be built.
    MissingExtraError
        When the library is not installed.

    Examples
    --------
    >>> loaded = load_model("secateur.models:small_resnet", input_shapes=[(1, 1, 16, 16)])
    >>> loaded.model(loaded.example_inputs).shape
    torch.Size([1, 10])
    """
    prefix, colon, rest = spec.partition(":")
    if prefix in SOURCES:
        if not rest:
            raise InputError(f"model {spec!r} lacks a name; write {SOURCES[prefix].form}")
        build = SOURCES[prefix].build
    elif not colon or difflib.get_close_matches(prefix, SOURCES, n=1):
        forms = ", ".join([*(SOURCES[name].form for name in SOURCES), "package.module:callable"])
        near = difflib.get_close_matches(prefix, SOURCES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near and colon else f"; write {forms}"
        raise UnknownNameError(f"unknown model {spec!r}{hint}")
    else:
        build, rest = _from_callable, spec
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loaded = build(rest, pretrained, options or {})
        inputs = _shaped(list(input_shapes), loaded.example_inputs)
    loaded.model.eval()
    return dataclasses.replace(loaded, name=spec, example_inputs=inputs)


def model_names(prefix: str, pattern: str = "*") -> list[str]:
    """Models that a source knows by name, sorted.

    Raises
    ------
    UnknownNameError
        For an unknown source.
    InputError
        For a source without a list of names.
    """
    import fnmatch

    source = SOURCES[prefix]
    if source.names is None:
        raise InputError(f"{prefix} has no list of models; write {source.form}")
    return sorted(fnmatch.filter(source.names(), pattern))


def import_library(name: str, extra: str | None = None) -> ModuleType:
    """Import a library of models; a broken installation is one clear error.

    Raises
    ------
    MissingExtraError
        When it is not installed.
    InputError
        When it is installed but cannot be imported.
    """
    declare_torchvision_operators()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        install = f"secateur[{extra}]" if extra else name
        raise MissingExtraError(
            f"this needs {error.name!r}, which is not installed: pip install '{install}'"
        ) from error
    except Exception as error:  # an import runs a library's code
        raise unusable(f"{name} cannot be imported", error) from error


def unusable(what: str, error: BaseException) -> InputError:
    """Say in one line why a library failed, from the error at the bottom of it.

    Libraries import their parts late and wrap what fails, so the first error is the telling one.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    line = first_line(error).rstrip(".")
    reason = f"{type(error).__name__}: {line}" if line else type(error).__name__
    advice = (
        f"; install the torchvision that was built for PyTorch {torch.__version__}"
        if "operator torchvision::" in line
        else ""
    )
    return InputError(f"{what} ({reason}){advice}")


def _from_callable(spec: str, pretrained: bool, options: Mapping[str, Any]) -> Loaded:
    """``package.module:callable``."""
    function = locate(spec, "model")
    try:
        value: Any = function(**options)
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"{spec} raised {type(error).__name__}: {error}") from error
    if isinstance(value, nn.Module):
        # The attribute is Lightning's way to tell.
        return Loaded(spec, value, getattr(value, "example_input_array", None), random=False)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], nn.Module):
        return Loaded(spec, value[0], value[1], random=False)
    raise InputError(
        f"{spec} must return a torch.nn.Module, or one and its example inputs, "
        f"not {type(value).__name__}"
    )


def _shaped(shapes: list[Shape], known: ExampleInputs | None) -> ExampleInputs | None:
    """Inputs of the given shapes, with the types and names of those that are known."""
    if not shapes:
        return known
    if isinstance(known, dict):
        names = list(known)
        if len(shapes) > len(names):
            raise InputError(
                f"{len(shapes)} input shapes for a model with the inputs {', '.join(names)}"
            )
        return {**known, **{n: _like(known[n], s) for n, s in zip(names, shapes, strict=False)}}
    made = tuple(_like(known if isinstance(known, Tensor) else None, shape) for shape in shapes)
    return made[0] if len(made) == 1 else made


def _like(known: Any, shape: Shape) -> Tensor:
    if isinstance(known, Tensor) and not known.is_floating_point():
        return torch.randint(int(known.max()) + 1, shape, dtype=known.dtype)
    return torch.randn(shape)


def unknown_model(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that a library does not have."""
    return UnknownNameError(f"unknown {kind} model {name!r}{suggestion(name, known)}")
