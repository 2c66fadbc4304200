"""The compiled kernels: found, or built once for this user, and loaded."""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from pathlib import Path

from secateur.sparse import build

__all__ = ["Library", "library", "use_variant", "variant", "variants"]

POINTER, INT = ctypes.c_void_p, ctypes.c_int
WEIGHTS = (POINTER, POINTER, INT, POINTER, INT)  # starts, columns, wide, values, height

_loading = threading.Lock()
_loaded: list[Library | None] = []


class Library:
    """The plain C functions of one compiled library.

    Parameters
    ----------
    path : pathlib.Path

    Raises
    ------
    OSError
        Where it cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        loaded = ctypes.CDLL(str(path))
        self.linear = loaded.secateur_linear
        self.linear.argtypes = (POINTER, POINTER, *WEIGHTS, POINTER, INT, INT, POINTER)
        self.linear_gradient = loaded.secateur_linear_gradient
        self.linear_gradient.argtypes = (POINTER, POINTER, *WEIGHTS, INT, POINTER)
        self.convolution = loaded.secateur_convolution
        self.convolution.argtypes = self.linear.argtypes
        self.convolution_gradient = loaded.secateur_convolution_gradient
        self.convolution_gradient.argtypes = self.linear_gradient.argtypes
        self.variant_name = loaded.secateur_variant_name
        self.variant_name.argtypes, self.variant_name.restype = (INT,), ctypes.c_char_p
        self.variant_in_use = loaded.secateur_variant_in_use
        self.variant_in_use.argtypes, self.variant_in_use.restype = (), ctypes.c_char_p
        self.use_variant = loaded.secateur_use_variant
        self.use_variant.argtypes = (ctypes.c_char_p,)


def library() -> Library | None:
    """Return the kernels; None, after one warning, where they cannot be built.

    A wheel brings them compiled. From the sources they are compiled on first use, which takes some
    seconds, into ``$XDG_CACHE_HOME/secateur`` (``~/.cache/secateur``). ``SECATEUR_NATIVE=0`` in the
    environment leaves them out.
    """
    if not _loaded:
        with _loading:
            # Another thread may have come first.
            if not _loaded:
                _loaded.append(_load())
    return _loaded[0]


def _load() -> Library | None:
    if os.environ.get("SECATEUR_NATIVE") == "0":
        return None
    try:
        return Library(_packaged() or _cached())
    except (build.BuildError, OSError) as error:
        warnings.warn(
            f"the sparse kernels cannot be built here ({error}); sparse layers run through torch's "
            "CSR products, which are slower. Install gcc or clang",
            stacklevel=3,
        )
        return None


def _packaged() -> Path | None:
    path = build.SOURCES / build.NAME
    return path if path.is_file() else None


def _cached() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "secateur"
    path = folder / f"sparse-{build.fingerprint()}.so"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with build.locked(folder / "building.lock"):
            if not path.is_file():
                build.build(path)
    return path


def variants() -> list[str]:
    """The instruction sets that kernels are compiled for and this machine has, the best one last.

    Empty where there are no kernels.
    """
    kernels = library()
    found: list[str] = []
    while kernels is not None:
        name = kernels.variant_name(len(found))
        if name is None:
            break
        found.append(name.decode())
    return found


def variant() -> str | None:
    """The instruction set in use; None where there are no kernels."""
    kernels = library()
    return None if kernels is None else kernels.variant_in_use().decode()


def use_variant(name: str) -> None:
    """Use the kernels for one instruction set from now on, in the whole process.

    Parameters
    ----------
    name : str
        One of `variants`.

    Raises
    ------
    InputError
        Where this machine has no such kernels.
    """
    from secateur.errors import InputError

    kernels = library()
    if kernels is None or not kernels.use_variant(name.encode()):
        raise InputError(
            f"there are no sparse kernels for {name!r} here; this machine has "
            f"{', '.join(variants()) or 'none'}"
        )
