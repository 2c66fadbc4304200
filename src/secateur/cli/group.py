"""Ends as people want them: an error is one line on stderr, Ctrl-C says how to go on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from secateur.errors import SecateurError

__all__ = ["OneLineErrors", "when_stopped"]

EXIT_CODE = 2
STOPPED = 130
"""128 and the number of the signal, as shells have it."""

QUIET = ("--quiet", "-q")

_going_on: list[str] = []

# Typer brings its own copy of click, or uses the one that is installed: this finds either.
_UsageError: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def when_stopped(going_on: str) -> None:
    """What to say after Ctrl-C from now on: how the command goes on where it was."""
    _going_on[:] = [going_on]


class OneLineErrors(TyperGroup):
    """A group of commands whose expected errors are one line each."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and exit the process unless ``standalone_mode`` is off."""
        _going_on.clear()
        try:
            code = super().main(
                args=_quiet_first(sys.argv[1:] if args is None else args),
                prog_name=prog_name,
                complete_var=complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except (SecateurError, OSError) as error:
            if not standalone_mode:
                raise
            _fail(str(error) or type(error).__name__)
        except typer.Abort:
            if not standalone_mode:
                raise
            _fail("aborted")
        except _UsageError as error:
            if not standalone_mode:
                raise
            _fail(f"{error.format_message()} (see {_help(error)})")
        if code == STOPPED:
            typer.echo("; ".join(["stopped", *_going_on]), err=True)
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def _quiet_first(args: Sequence[str]) -> list[str]:
    """An option of the whole program may stand behind the command, too."""
    own = args[: args.index("--")] if "--" in args else args
    asked = [each for each in own if each in QUIET]
    rest = [each for each in own if each not in QUIET]
    return [*asked[:1], *rest, *args[len(own) :]]


def _help(error: Any) -> str:
    """The command line that explains itself."""
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context is not None else "secateur --help"


def _fail(message: str) -> NoReturn:
    typer.secho("error: ", err=True, nl=False, fg=typer.colors.RED, bold=True)
    typer.echo(" ".join(message.split()), err=True)
    sys.exit(EXIT_CODE)
