"""How every command behaves: common options anywhere on the line, errors as one line, exit codes.

0 done, 1 failed, 2 wrong use (settings that cannot be used are wrong use). Nobody is shown a traceback.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import typer
from msgspec import Struct
from typer.core import TyperGroup

from actors.connection import NatsUnreachableError
from cli.output import say_error
from domain.errors import LeadlineError, SettingsError
from settings import Settings, chosen_file, load
from settings_document import DEFAULT_FILE

FAILED = 1
WRONG_USE = 2

_LAST_STREAM = 2

#: Options that may stand before and after the command's name; each takes a value.
COMMON = ("--data", "--nats", "--config")


class Common(Struct, frozen=True):
    """The common options as given; None where the settings have the say."""

    data: Path | None = None
    nats: str | None = None
    config: Path | None = None


class WrongUseError(LeadlineError):
    """What was asked makes no sense; the text says what would."""


class Shell(TyperGroup):
    """The group of all commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, common_first(args))

    def invoke(self, ctx: Any) -> Any:
        with errors_in_one_line():
            return super().invoke(ctx)


class DefaultGroup(TyperGroup):
    """A group with a command that is meant where none is named: `dlq` is `dlq list`."""

    default = "list"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def common_first(args: Sequence[str]) -> list[str]:
    """The arguments with the common options moved to the front; those after `--` stay."""
    first: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in COMMON:
            first += [word, *(value for value in [next(words, None)] if value is not None)]
        elif word.startswith(tuple(f"{name}=" for name in COMMON)):
            first.append(word)
        else:
            rest.append(word)
    return first + rest


def settings_of(ctx: typer.Context, **overrides: Any) -> Settings:
    """The settings with what the command line says; `overrides` by key, `__` for its dot, None for unsaid."""
    common = ctx.find_object(Common) or Common()
    _import_from_beside(chosen_file(common.config, os.environ) or DEFAULT_FILE)
    said: dict[str, Any] = {"data": common.data and str(common.data), "nats.url": common.nats}
    said |= {key.replace("__", "."): value for key, value in overrides.items()}
    return load(common.config, overrides={key: value for key, value in said.items() if value is not None})


def _import_from_beside(file: Path) -> None:
    """The user's own modules may lie beside the settings that name them; what is installed goes first."""
    folder = str(file.absolute().parent)
    if folder not in sys.path:
        sys.path.append(folder)


def settle_streams() -> None:
    """Standard streams that take whatever is written. Ends the process with 2 where there is no output to write to.

    Characters that the output's encoding has not are written as escapes. No file of ours may come to stand
    where a closed stream was: others write there.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= _LAST_STREAM:
        os.set_inheritable(handle, True)
    os.close(handle)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # for the process's life
    if sys.stdout is None:
        sys.stdout = sys.stderr
        say_error("standard output is closed: leave it open, or send it to a file or to /dev/null")
        raise SystemExit(WRONG_USE)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def stdin_bytes() -> BinaryIO:
    """What is piped in. Raises `WrongUseError` where nothing can be."""
    if sys.stdin is None:
        raise WrongUseError("standard input is closed: name a file instead of -, or pipe the text in")
    return sys.stdin.buffer


def is_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends the process with the right code and one line on stderr, whatever goes wrong inside."""
    try:
        yield
    except (SettingsError, WrongUseError) as error:
        say_error(str(error))
        raise typer.Exit(WRONG_USE) from None
    except NatsUnreachableError as error:
        say_error(f"{error}; start one with `leadline up`, or name another with --nats")
        raise typer.Exit(FAILED) from None
    except LeadlineError as error:
        say_error(str(error))
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        say_error("interrupted")
        raise typer.Exit(FAILED) from None
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not complain of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except (OSError, Exception) as error:
        if is_typers_own(error):
            raise
        if isinstance(error, UnicodeEncodeError) and (word := word_of(error)) is not None:
            say_error(f"{word!r} is not UTF-8: give ids and texts in UTF-8")
            raise typer.Exit(WRONG_USE) from None
        if is_surroundings(error):
            say_error(sentence(error))
            raise typer.Exit(FAILED) from None
        say_error(f"{sentence(error)} (details: {kept_traceback()})")
        raise typer.Exit(FAILED) from None


def is_typers_own(error: BaseException) -> bool:
    """Typer's own ways of ending: wrong use, exit, abort."""
    return type(error).__module__.startswith("typer.")


def word_of(error: UnicodeEncodeError) -> str | None:
    """The argument that has the bytes that are no text, if one has: names of files may have such, nothing else may."""
    return next((word for word in sys.argv[1:] if error.object[error.start : error.end] in word), None)


def is_surroundings(error: BaseException) -> bool:
    """A person's own file or folder is not as it must be: there is nothing of ours to look into."""
    theirs = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
    ours = type(error) is OSError and error.errno is None  # a sentence of our own, no system call's
    return isinstance(error, theirs) or ours


def sentence(error: BaseException) -> str:
    """An error that nobody foresaw, in words."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if is_surroundings(error):
        return str(error)  # raised by us, in words of ours
    return f"a fault in Leadline: {type(error).__name__}: {error}"


def kept_traceback() -> str:
    """Where the traceback of the error being handled has been written, for a report."""
    handle, name = tempfile.mkstemp(prefix="leadline-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(traceback.format_exc())
    return name
