"""Compiles the sparse kernels into the wheel, where the machine that builds it has a compiler."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILD = Path(__file__).parent / "src" / "secateur" / "sparse" / "build.py"


class Kernels(BuildHookInterface):
    """A wheel with kernels belongs to one platform; one without compiles them on first use."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # An editable install compiles on first use, so that edits of the sources count.
        if self.target_name != "wheel" or version == "editable":
            return
        build = _load()
        target = build.SOURCES / build.NAME
        try:
            build.build(target)
        except build.BuildError as error:
            self.app.display_warning(f"the wheel comes without sparse kernels: {error}")
            return
        build_data["force_include"][str(target)] = f"secateur/sparse/native/{build.NAME}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        build = _load()
        (build.SOURCES / build.NAME).unlink(missing_ok=True)


def _load() -> Any:
    """The module alone: importing its package would import torch."""
    spec = importlib.util.spec_from_file_location("secateur_sparse_build", BUILD)
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no {BUILD}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _platform() -> str:
    from packaging.tags import platform_tags

    return next(platform_tags())
