"""The configuration that a model carries and is saved with: its entries, and new values."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

__all__ = ["config_of", "entries", "give_config", "with_values"]


def config_of(model: nn.Module) -> Any | None:
    """The configuration object of a model that is built from one, or None."""
    config = getattr(model, "config", None)
    usable = callable(getattr(config, "to_dict", None)) and hasattr(config, "__dict__")
    return config if usable and not isinstance(config, nn.Module) else None


def entries(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every entry, those of configurations inside it included.

    Examples
    --------
    >>> class Config:
    ...     def __init__(self, **values): self.__dict__ |= values
    ...     def to_dict(self): return dict(self.__dict__)
    >>> dict(entries(Config(layers=2, text=Config(heads=4))))
    {'layers': 2, 'text.heads': 4}
    """
    for key, value in vars(config).items():
        if key.startswith("_"):
            continue
        if callable(getattr(value, "to_dict", None)):
            yield from entries(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def with_values(config: Any, values: Mapping[str, Any], memo: dict[int, Any] | None = None) -> Any:
    """A copy of a configuration with some entries changed."""
    changed = copy.deepcopy(config, memo)
    for name, value in values.items():
        *path, key = name.split(".")
        owner = changed
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, key, copy.deepcopy(value))
    return changed


def give_config(model: nn.Module, values: Mapping[str, Any]) -> None:
    """Let a model, and every part that looks into the same configuration, have another one.

    The configuration that it had is left as it was: other models may have it too.
    """
    config = config_of(model)
    if config is None or not values:
        return
    before = dict(entries(config))
    memo: dict[int, Any] = {}
    changed = with_values(config, values, memo)
    model.__dict__["config"] = changed
    for module in model.modules():
        own = module.__dict__.get("config")
        if own is None or own is changed or not callable(getattr(own, "to_dict", None)):
            continue
        if id(own) not in memo:
            # A part with a copy of its own, an encoder's say: what it has in common follows.
            held = dict(entries(own))
            common = {
                name: value
                for name, value in values.items()
                if name in held and held[name] == before.get(name)
            }
            memo[id(own)] = with_values(own, common)
        module.__dict__["config"] = memo[id(own)]
