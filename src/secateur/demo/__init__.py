"""A demonstration of the whole way, on data that comes with a library."""

from __future__ import annotations

from secateur.demo.run import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
