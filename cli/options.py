"""The options that many commands share, said once."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, get_args

import typer

from cli.shell import WrongUseError
from domain.events import Category

#: More rows than there can be, and what SQLite can count; longer than anybody waits (a year).
MANY, LONG = 1_000_000_000, 31_536_000

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, max=MANY, help="Rows at most.")]
Business = Annotated[str | None, typer.Option("--business", help="Of this business only.")]
Lead = Annotated[str | None, typer.Option("--lead", help="Of this lead only.")]


def one_of(name: str, values: tuple[str, ...]) -> Callable[[str | None], str | None]:
    """A check of an option over a closed set: a word outside it would match nothing, which reads like an answer."""

    def checked(value: str | None) -> str | None:
        if value is not None and value not in values:
            raise WrongUseError(f"{name} {value!r}: say {', '.join(values[:-1])} or {values[-1]}")
        return value

    return checked


TASK_STATUSES = ("pending", "in_progress", "completed", "cancelled")
DEAD_LETTER_STATUSES = ("failed", "retrying", "resolved", "discarded")
CATEGORIES: tuple[str, ...] = get_args(Category)

TaskStatus = Annotated[
    str | None,
    typer.Option("--status", help=", ".join(TASK_STATUSES), callback=one_of("--status", TASK_STATUSES)),
]
DeadLetterStatus = Annotated[
    str | None,
    typer.Option(
        "--status", help=", ".join(DEAD_LETTER_STATUSES), callback=one_of("--status", DEAD_LETTER_STATUSES)
    ),
]
DeadLetterCategory = Annotated[
    str | None,
    typer.Option("--category", help=", ".join(CATEGORIES), callback=one_of("--category", CATEGORIES)),
]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def age(text: str) -> timedelta:
    """`90s`, `15m`, `2h` or `3d` as a duration."""
    found = re.fullmatch(r"(\d{1,5})([smhd])", text)
    if found is None:
        raise WrongUseError(f"{text!r} is no age: say 90s, 15m, 2h or 3d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


OlderThan = Annotated[
    timedelta | None,
    typer.Option("--older-than", metavar="AGE", parser=age, help="Last changed so long ago, such as 2h."),
]
NewerThan = Annotated[
    timedelta | None,
    typer.Option("--newer-than", metavar="AGE", parser=age, help="Last changed since then, such as 15m."),
]

By = Annotated[
    str | None, typer.Option("--by", help="Who gives the command; your account's name by default.")
]
Why = Annotated[str, typer.Option("--why", help="The reason; kept with the event.")]
CommandId = Annotated[
    str | None, typer.Option("--command-id", help="Ask again for the outcome of a command given before.")
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0, max=LONG, help="Seconds to wait for the outcome.")
]

UntilIdle = Annotated[bool, typer.Option("--until-idle", help="End when nothing is left to do.")]
HttpPort = Annotated[
    int | None, typer.Option("--http-port", min=0, max=65535, help="Port of /metrics; 0 takes any free one.")
]
NatsPort = Annotated[
    int | None, typer.Option("--nats-port", min=0, max=65535, help="Port of NATS; 0 takes any free one.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")]
