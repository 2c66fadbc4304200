"""A run of training in one file, from which it goes on to the same result."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from secateur.container import seal, unseal
from secateur.errors import FileFormatError, InputError, first_line
from secateur.files import no_room
from secateur.masks import masks_of
from secateur.plan import history
from secateur.recover.contents import contents
from secateur.recover.storing import decode, encode

__all__ = ["Checkpoint", "described_model", "fitting"]

KIND = "secateur checkpoint"
FILE = "checkpoint.safetensors"
FORMAT = 1


class Checkpoint:
    """The last complete epoch of one run, in a folder of its own.

    The file is written under another name and then takes its own, so that it is whole at any
    moment. It is safetensors, with what is not a tensor as JSON in the metadata.

    Parameters
    ----------
    folder : path-like
        Created. What a process that was killed left half-written in it is deleted.
    about : dict
        What the run is, in JSON values; a checkpoint of another is refused.

    Raises
    ------
    InputError
        When the folder cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
        self.path = Path(folder) / FILE
        self._about = json.loads(json.dumps(about))
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for draft in Path(folder).glob(".secateur-*"):
                shutil.rmtree(draft, ignore_errors=True)
        except OSError as error:
            raise InputError(
                f"checkpoint {str(folder)!r} cannot be a folder ({_why(error)}); "
                "name one that can be written to"
            ) from error

    def exists(self) -> bool:
        """Whether there is something to go on from."""
        return self.path.is_file()

    def discard(self) -> None:
        """Take it away, as if there had been none."""
        self.path.unlink(missing_ok=True)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a state of nested values and tensors.

        Raises
        ------
        InputError
            When the disk is full, or the state holds what cannot be stored without pickle.
        """
        tensors: dict[str, Tensor] = {}
        body = {"format": FORMAT, "about": self._about, "state": encode(state, "run", tensors)}
        try:
            seal(self.path, KIND, json.dumps(body), tensors)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"the checkpoint {str(self.path)!r} cannot be written ({_why(error)}); make "
                "room and call this again, to go on from the last one that was"
            ) from error

    def load(self) -> dict[str, Any]:
        """Read the state back.

        Raises
        ------
        InputError
            When it is of another run.
        FileFormatError
            When the file is damaged.
        """
        text, tensors = unseal(self.path, KIND, "secateur.recover")
        try:
            body = json.loads(text)
            known, about = body["format"] == FORMAT, body["about"]
            state = decode(body["state"], tensors)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise FileFormatError(f"{self.path} is a malformed checkpoint ({error})") from error
        if not known:
            raise FileFormatError(f"{self.path} is a checkpoint of another version of secateur")
        for name in sorted({*self._about, *about}):
            there, here = about.get(name), self._about.get(name)
            if there != here:
                raise InputError(
                    f"the checkpoint in {str(self.path.parent)!r} is of another {name} "
                    f"({_brief(there)}, not {_brief(here)}); name another folder, or delete it"
                )
        return state


def described_model(model: nn.Module) -> str:
    """A digest of everything about a model but its values: those are the checkpoint's to give.

    Its class, the names, shapes and types of its tensors, which of them are trained, what is
    masked, and what the plans that made it removed.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in contents(model).items():
        described = [name, list(tensor.shape), str(tensor.dtype), name in trained]
        digest.update(json.dumps(described).encode())
    for name, mask in masks_of(model).items():
        digest.update(name.encode())
        digest.update(mask.cpu().contiguous().numpy().tobytes())
    removed = [plan.removed for plan in history(model) if plan.removed]
    digest.update(json.dumps(removed, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def fitting(what: str, load: Callable[[Any], None], state: Any) -> None:
    """Load a part of a state; what it cannot take is one clear error.

    Raises
    ------
    FileFormatError
    """
    try:
        load(state)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise FileFormatError(
            f"the checkpoint does not fit the {what} ({first_line(error)}); name another folder"
        ) from error


def _why(error: BaseException) -> str:
    return no_room(error) or first_line(error)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
