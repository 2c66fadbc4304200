"""The file format: tensors, what they do not say themselves, and a checksum over both.

Equal contents give equal bytes.

The checksum finds damage and stray edits. It is no signature: whoever can write the file can
write a checksum that fits.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.errors import FileFormatError
from secateur.files import replacing
from secateur.packing import Packed

__all__ = ["Header", "is_dense", "read", "seal", "unseal", "write"]

PLAIN, SPARSE = 1, 2
HEADER, CHECKSUM = "secateur", "sha256"


@dataclass
class Header:
    """What the tensors in the file do not say themselves.

    Attributes
    ----------
    version : int
        Version of this format: 2 where tensors are packed, which version 1 did not know.
    plans : list of str
        The plans that were applied, as JSON, oldest first.
    tied : dict
        Another name of a tensor -> the name that it is stored under.
    frozen : list of str
        Parameters that do not require gradients.
    strides : dict
        Name -> strides of a tensor whose layout is not row-major; layouts choose kernels, and
        kernels differ in their roundings.
    complex : list of str
        Tensors stored as pairs of real numbers, which every version of safetensors knows.
    unsaved : dict
        Name -> dtype of the buffers that are not stored.
    packed : dict
        Name -> layout of a tensor of which only some entries are stored. Its parts are the tensors
        ``NAME:PART`` of the file.
    masked : list of str
        Packed tensors that are masked: what is stored is what the mask keeps.
    """

    version: int = PLAIN
    plans: list[str] = field(default_factory=list)
    tied: dict[str, str] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    strides: dict[str, list[int]] = field(default_factory=dict)
    complex: list[str] = field(default_factory=list)
    unsaved: dict[str, str] = field(default_factory=dict)
    packed: dict[str, Any] = field(default_factory=dict)
    masked: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """As text."""
        values = asdict(self)
        if not self.packed:
            del values["packed"], values["masked"]
        return json.dumps(values, sort_keys=True)


def write(
    path: str | os.PathLike[str], header: Header, tensors: Mapping[str, Tensor | Packed]
) -> None:
    """Write a file, whole or not at all; the tensors are contiguous, real and on the CPU."""
    flat: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Packed):
            header.packed[name] = tensor.describe()
            flat |= {_part(name, part): values for part, values in tensor.parts.items()}
        else:
            flat[name] = tensor
    header.version = SPARSE if header.packed else PLAIN
    seal(path, HEADER, header.to_json(), flat)


def read(path: Path) -> tuple[Header, dict[str, Tensor | Packed]]:
    """Read a file and check it.

    Packed tensors are checked, and left as they are: what a small file claims to unpack to is for
    the model to say.

    Raises
    ------
    FileFormatError
        Where it is missing, truncated, changed, or not one of these.
    """
    text, stored = unseal(path, HEADER, "secateur.save")
    try:
        data = json.loads(text)
        if data["version"] not in (PLAIN, SPARSE):
            raise FileFormatError(
                f"{path} has format version {data['version']}, this version of secateur reads "
                f"{PLAIN} and {SPARSE}; update secateur"
            )
        header = Header(**data)
        for name in header.complex:
            stored[name] = torch.view_as_complex(stored[name])
        packed = {name: _packed(path, name, header.packed[name], stored) for name in header.packed}
        if stored.keys() & packed.keys() or not set(header.masked) <= packed.keys():
            raise ValueError("tensors are named twice, or masked and not packed")
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, FileFormatError):
            raise
        reason = " ".join(str(error).split())
        raise FileFormatError(f"{path} has a malformed header ({reason})") from error
    return header, {**stored, **packed}


def _part(name: str, part: str) -> str:
    return f"{name}:{part}"


def _packed(path: Path, name: str, described: Any, stored: dict[str, Tensor]) -> Packed:
    """A packed tensor, whose parts are taken out of those that are stored."""
    parts = {part: stored.pop(_part(name, part)) for part in Packed.part_names(described)}
    try:
        return Packed.of(described, parts)
    except FileFormatError as error:
        raise FileFormatError(f"{path} holds {name!r} in a way that cannot be: {error}") from error


def seal(path: str | os.PathLike[str], kind: str, text: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors and a text with a checksum over both, whole or not at all.

    Parameters
    ----------
    path : path-like
    kind : str
        What the text is, by which `unseal` finds it.
    text : str
    tensors : mapping
        Contiguous, real, on the CPU, sharing no memory.
    """
    metadata = {"format": "pt", kind: text, CHECKSUM: _checksum(text, tensors)}
    with replacing(path) as draft:
        save_file(dict(tensors), draft, metadata)
        _put_in_order(draft)


def _put_in_order(path: Path) -> None:
    """Sort the metadata in a file's header, which safetensors writes in any order."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
        entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def unseal(path: Path, kind: str, writer: str) -> tuple[str, dict[str, Tensor]]:
    """Read back what `seal` wrote, and check it.

    Parameters
    ----------
    path : pathlib.Path
    kind : str
    writer : str
        Who writes such files, for messages.

    Raises
    ------
    FileFormatError
        Where the file is missing, truncated, changed, or not of this kind.
    """
    if not path.is_file():
        raise FileFormatError(f"there is no file {str(path)!r}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            # Copied: what was checked must not change under the model with the file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise FileFormatError(
            f"{path} is truncated or is not a safetensors file ({error})"
        ) from error
    if kind not in metadata or CHECKSUM not in metadata:
        raise FileFormatError(f"{path} is a safetensors file, but {writer} did not write it")
    if _checksum(metadata[kind], tensors) != metadata[CHECKSUM]:
        raise FileFormatError(
            f"{path} was changed after it was written: its checksum does not match its content"
        )
    return metadata[kind], tensors


def is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the elements fill their memory, in whatever order of dimensions.

    Examples
    --------
    >>> is_dense((2, 3, 4), (12, 1, 3)), is_dense((2, 3), (0, 1))
    (True, False)
    """
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True


def _checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        described = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
        digest.update(described.encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
