"""What people may do: each command goes over NATS to its lead, and its outcome is waited for and said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature, signature
from typing import Annotated, Any

import msgspec
import typer

from cli import options
from cli.ask import ask, new_command_id, whoever
from cli.output import say, say_error, show_json
from cli.queries import views_of
from cli.shell import FAILED, WrongUseError, settings_of
from domain import commands as co
from domain.commands import CommandOutcome, PersonsCommand
from domain.errors import LeadlineError
from domain.tokens import encode
from settings import Settings

TaskIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Tasks.")]
TASK_OWNERS = ("team", "role", "user")


class Saying(msgspec.Struct, frozen=True):
    """How a command is given and its outcome shown."""

    by: str | None
    why: str
    timeout: float
    command_id: str | None
    as_json: bool


def shares_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options that all commands share in place of its parameter `saying`."""

    def shared(
        *,
        by: options.By = None,
        why: options.Why = "",
        timeout: options.Timeout = 10.0,
        command_id: options.CommandId = None,
        as_json: options.Json = False,
        **own: Any,
    ) -> None:
        command(saying=Saying(by, why, timeout, command_id, as_json), **own)

    parameters = [
        parameter
        for function in (command, shared)
        for parameter in signature(function, eval_str=True).parameters.values()
        if parameter.name != "saying"
        and parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    ]
    shared.__name__, shared.__doc__ = command.__name__, command.__doc__
    shared.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
    shared.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return shared


@shares_options
def lead_resume(
    ctx: typer.Context,
    business: Annotated[str, typer.Argument(metavar="BUSINESS")],
    lead_id: Annotated[str, typer.Argument(metavar="LEAD")],
    *,
    saying: Saying,
) -> None:
    """Let a stopped lead take mail again; what it was sent meanwhile is delivered in order."""
    tokens = encode(business), encode(lead_id)
    give(settings_of(ctx), [lead_id], lambda _: tokens, saying, lambda _, **who: co.ResumeLead(**who))


@shares_options
def task_start(
    ctx: typer.Context,
    ids: TaskIds,
    *,
    saying: Saying,
) -> None:
    """Somebody is at it."""
    _to_tasks(ctx, ids, saying, lambda i, **who: co.StartTask(task_id=i, **who))


@shares_options
def task_complete(
    ctx: typer.Context,
    ids: TaskIds,
    *,
    saying: Saying,
) -> None:
    """It is done."""
    _to_tasks(ctx, ids, saying, lambda i, **who: co.CompleteTask(task_id=i, **who))


@shares_options
def task_cancel(
    ctx: typer.Context,
    ids: TaskIds,
    *,
    saying: Saying,
) -> None:
    """It will not be done."""
    _to_tasks(ctx, ids, saying, lambda i, **who: co.CancelTask(task_id=i, **who))


@shares_options
def task_reassign(
    ctx: typer.Context,
    ids: TaskIds,
    *,
    to: Annotated[
        str, typer.Option("--to", metavar="team:NAME|role:NAME|user:NAME", help="Whose it is now.")
    ],
    saying: Saying,
) -> None:
    """It is somebody else's now."""
    kind, _, name = to.partition(":")
    if kind not in TASK_OWNERS or not name:
        raise WrongUseError(f"--to {to}: say team:NAME, role:NAME or user:NAME")
    owner: dict[str, Any] = {"assigned_to_type": kind, "assigned_to_id": name}
    _to_tasks(ctx, ids, saying, lambda i, **who: co.ReassignTask(task_id=i, **owner, **who))


Make = Callable[..., PersonsCommand]
#: Business and lead, as the subject has them.
Tokens = tuple[str, str]
#: What the command was given for, and what became of it.
Outcome = tuple[str, CommandOutcome]


def _to_tasks(ctx: typer.Context, ids: list[str], saying: Saying, make: Make) -> None:
    settings = settings_of(ctx)
    views = views_of(settings)

    def tokens_of(task_id: str) -> Tokens:
        task = views.task(task_id)
        if task is None:
            raise LeadlineError(f"there is no task {task_id}; `leadline tasks` lists them")
        return encode(task["business_id"]), encode(task["lead_id"])

    give(settings, ids, tokens_of, saying, make)


def give(
    settings: Settings, ids: list[str], tokens_of: Callable[[str], Tokens], saying: Saying, make: Make
) -> None:
    """The same command to each, one after the other, once all are known to be there; every outcome is shown."""
    show(given(settings, ids, tokens_of, saying, make), saying.as_json)


def given(
    settings: Settings, ids: list[str], tokens_of: Callable[[str], Tokens], saying: Saying, make: Make
) -> list[Outcome]:
    """What became of the same command to each."""
    if saying.command_id and len(ids) > 1:
        raise WrongUseError("--command-id names one command: give one ID with it")
    addressed = [(name, tokens_of(name)) for name in ids]
    return [
        (name, ask(settings.nats.url, tokens, make(name, **who(saying)), saying.timeout))
        for name, tokens in addressed
    ]


def who(saying: Saying) -> dict[str, Any]:
    return {
        "command_id": saying.command_id or new_command_id(),
        "by": saying.by or whoever(),
        "why": saying.why,
    }


def show(outcomes: Sequence[Outcome], as_json: bool) -> None:
    if as_json:
        show_json([{"id": name} | msgspec.to_builtins(outcome) for name, outcome in outcomes])
    for name, outcome in outcomes:
        if not outcome.done:
            say_error(f"{name}: refused: {outcome.reason}")
        elif not as_json:
            say(f"{name}: done", "green")
    if not all(outcome.done for _, outcome in outcomes):
        raise typer.Exit(FAILED)
