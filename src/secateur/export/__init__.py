"""Ship a model in the form that a runtime reads."""

from __future__ import annotations

import sys
from types import ModuleType

from secateur.export.onnx import Exported, export

__all__ = ["Exported", "export"]


class _CallableModule(ModuleType):
    __call__ = staticmethod(export)


# Importing this package binds it to `secateur.export`, where users find the function.
sys.modules[__name__].__class__ = _CallableModule
