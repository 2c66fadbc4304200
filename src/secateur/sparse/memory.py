"""Keeping the memory of large results, instead of fetching it from the system for every one."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_memory"]

# glibc's malloc.h
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
WHOLE = (1 << 31) - 1
PAD = 64 << 20


def keep_memory() -> bool:
    """Let freed memory stay with this process, so that the next large result finds it there.

    PyTorch's CPU allocator gives the memory of large tensors back to the system and fetches it anew
    for the next one, page by page: that can take longer than a sparse layer computes. It helps
    dense layers as well, and lasts until the process ends; memory that was used once is not given
    back to others.

    Returns
    -------
    bool
        Whether it could be set: it is a setting of glibc, and so of Linux.

    Notes
    -----
    ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647`` in the environment do the same.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.sparse.keep_memory() in (True, False)
    True
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    kept = mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, WHOLE) and mallopt(TOP_PAD, PAD)
    return bool(kept)
