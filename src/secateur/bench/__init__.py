"""Models timed against each other: across runtimes, batch sizes, dtypes and threads."""

from __future__ import annotations

from secateur.bench.measuring import bench
from secateur.bench.model_files import OnnxFile, OpenVinoFile
from secateur.bench.opening import open_subjects
from secateur.bench.picture import draw
from secateur.bench.results import Benchmark, Line, Machine
from secateur.bench.subjects import ModelSubject, Subject

__all__ = [
    "Benchmark",
    "Line",
    "Machine",
    "ModelSubject",
    "OnnxFile",
    "OpenVinoFile",
    "Subject",
    "bench",
    "draw",
    "open_subjects",
]
