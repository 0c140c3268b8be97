"""`events`: the store's rows as they are, and a person's decision to go on without one that stops something.

Needs neither NATS nor a runner, and works beside one: what cannot start because of an event reads no commands.
"""

from __future__ import annotations

import json
import re
import shlex
from contextlib import closing
from typing import Annotated, Any

import msgspec
import typer

import runner
import wiring
from actors.event_store import EventStore, RawEvent
from actors.journal import record_beside
from cli import options
from cli.ask import whoever
from cli.output import note, say, short, show_json, show_rows
from cli.queries import views_of
from cli.shell import FAILED, WrongUseError, is_terminal, settings_of
from domain import codec
from domain.errors import LeadlineError, UnknownEventError
from domain.events import EventSkipped, Recorded
from domain.skips import SKIPS_STREAM, Skips, digest
from domain.tokens import encode, lead_of_stream, lead_stream
from settings import Settings

#: Events shown on each side of the one that is asked about.
AROUND = 5
_BATCH = 10_000

Position = Annotated[
    int, typer.Argument(metavar="POSITION", min=1, max=2**53, help="Of the event in the whole store.")
]


def show(
    ctx: typer.Context,
    position: Annotated[
        int | None,
        typer.Argument(metavar="[POSITION]", min=1, max=2**53, help="Of the event in the whole store."),
    ] = None,
    *,
    lead: Annotated[
        tuple[str, str] | None, typer.Option("--lead", metavar="BUSINESS LEAD", help="All of this lead's.")
    ] = None,
    stream: Annotated[
        str | None, typer.Option("--stream", help="All of this stream's, such as breaker:crm.")
    ] = None,
    around: Annotated[
        int | None,
        typer.Option("--around", metavar="POSITION", min=1, max=2**53, help="This one and its neighbours."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Events as they are stored, and what is wrong with them.

    Without anything: those that cannot be read, and the one at which the views have stopped.
    """
    if sum(value is not None for value in (position, lead, stream, around)) > 1:
        raise WrongUseError("say one of POSITION, --lead, --stream and --around")
    settings = settings_of(ctx)
    stream = lead_stream(lead[0], encode(lead[1])) if lead is not None else stream
    with closing(runner.open_event_log(settings)) as log:
        skips, stop = log.skips(), stopped_at(settings)
        if position is not None:
            rows = [known(log, position)]
        elif stream is not None:
            rows = log.raw_stream(stream)
        elif around is not None:
            rows = log.raw(max(0, around - AROUND - 1), 2 * AROUND + 1)
        else:
            rows = wrong(log, stop)
        found = [examined(row, skips, stop) for row in rows]
    if as_json:
        show_json(found)
    elif position is not None:
        tell_one(found[0])
    elif not found and stream is None:
        say("every event can be read, and none stops the views", "green")
    else:
        tell_some(found)


def skip(
    ctx: typer.Context,
    position: Position,
    *,
    why: Annotated[str, typer.Option("--why", help="The reason; kept with the decision.")],
    by: options.By = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: options.Json = False,
) -> None:
    """Go on without an event that cannot be read, or that the views cannot take. Recorded, with who and why."""
    if not why.strip():
        raise WrongUseError("say --why: whoever finds the gap wants to know why it is there")
    settings = settings_of(ctx)
    with closing(runner.open_event_log(settings)) as log:
        row = known(log, position)
        found = examined(row, log.skips(), stopped_at(settings))
    if found["skipped"]:
        raise LeadlineError(f"event {position} is skipped already")
    if not found["wrong"]:
        raise LeadlineError(
            f"event {position} can be read and stops nothing: only what is in the way is skipped"
        )
    if not yes and is_terminal():
        tell_one(found)
        if not typer.confirm("Go on without it, for good?", err=True):
            raise LeadlineError("nothing was done")
    decided = record_beside(
        wiring.events_path(settings), SKIPS_STREAM, decision(row, found["wrong"], by, why)
    )
    sentences = follows(row, settings)
    if as_json:
        show_json(
            {"skipped": found, "by": by or whoever(), "why": why, "at": decided.at, "follows": sentences}
        )
        return
    say(f"event {position} is skipped", "green")
    for sentence in sentences:
        say(f"- {sentence}")


def decision(row: RawEvent, wrong_with_it: str, by: str | None, why: str) -> EventSkipped:
    kept = digest(row.stream, row.name, row.state)
    return EventSkipped(
        row.position, row.stream, row.version, row.name, kept, short(wrong_with_it, 300), by or whoever(), why
    )


def follows(row: RawEvent, settings: Settings) -> list[str]:
    """What becomes of whoever needs the event, a sentence each."""
    said = []
    try:
        has_it = views_of(settings).position().position >= row.position
    except LeadlineError:
        has_it = False
    if has_it:
        said.append(
            "the views have taken it in before it was damaged: `leadline rebuild` leaves it out of them too"
        )
    else:
        said.append("the views go on without it, as does every rebuild")
    if row.stream.startswith("lead:"):
        said.append(
            f"the lead, if it is stopped, stays so until `leadline lead resume {whose(row.stream)}`: it then goes on"
            " without this event, and does not know what it said; look at its neighbours first"
            f" (`leadline events show --around {row.position}`)"
        )
    else:
        said.append(f"{row.stream} is read without it at the next start")
    return said


def whose(stream: str) -> str:
    """Business and lead of a stream, as the command line takes them."""
    try:
        return shlex.join(lead_of_stream(stream))
    except (LeadlineError, ValueError):
        return "BUSINESS LEAD"


def known(log: EventStore, position: int) -> RawEvent:
    found = log.raw(position - 1, 1)
    if not found or found[0].position != position:
        raise LeadlineError(f"there is no event {position}; the store ends at {log.last_position()}")
    return found[0]


def wrong(log: EventStore, stop: tuple[int, str] | None) -> list[RawEvent]:
    """Every row that cannot be read, and the one that stops the views."""
    found: list[RawEvent] = []
    position = 0
    while rows := log.raw(position, _BATCH):
        position = rows[-1].position
        found += [row for row in rows if complaint(row) or (stop is not None and row.position == stop[0])]
    return found


def stopped_at(settings: Settings) -> tuple[int, str] | None:
    """(position, why) of the event that the views cannot go beyond, None while they go on."""
    try:
        standing = views_of(settings).position()
    except LeadlineError:
        return None  # there are none yet
    named = re.match(r"event (\d+) ", standing.stopped_error or "")
    return None if named is None else (int(named[1]), str(standing.stopped_error))


def complaint(row: RawEvent) -> str:
    """Why a row cannot be read; empty where it can."""
    read = decoded(row)
    return read if isinstance(read, str) else ""


def decoded(row: RawEvent) -> Recorded | str:
    try:
        return codec.decode(row.name, row.state, row.stream, row.version, row.position)
    except UnknownEventError as error:
        return str(error.__cause__ or error)


def examined(row: RawEvent, skips: Skips, stop: tuple[int, str] | None) -> dict[str, Any]:
    """A row as far as it can be made out, and what is wrong with it."""
    read = decoded(row)
    stops_views = stop[1] if stop is not None and stop[0] == row.position else ""
    raw = row.state if isinstance(row.state, bytes) else str(row.state).encode()
    return {
        "position": row.position,
        "stream": row.stream,
        "version": row.version,
        "name": row.name,
        "size": len(raw),
        "wrong": read if isinstance(read, str) else stops_views,
        "stops_views": bool(stops_views),
        "skipped": skips.cover(row.position, row.stream, row.name, row.state),
        "at": None if isinstance(read, str) else read.at,
        "document": document(raw),
        "raw": raw.decode(errors="backslashreplace"),
    }


def document(raw: bytes) -> Any:
    """The row's JSON, whether or not an event can be made of it; None where it is none."""
    try:
        return json.loads(raw.decode())
    except (ValueError, RecursionError):
        return None


def tell_one(found: dict[str, Any]) -> None:
    for name in ("position", "stream", "version", "name", "size", "at"):
        if found[name] is not None:
            say(f"{name:<9} {found[name]}")
    if found["wrong"]:
        say(f"wrong     {found['wrong']}", "bold red")
        say("          " + ("and skipped" if found["skipped"] else "and not skipped"), "yellow")
    if found["document"] is None:
        say(f"raw       {found['raw']}")
    else:
        say(msgspec.json.format(json.dumps(found["document"], ensure_ascii=False), indent=2))


def tell_some(found: list[dict[str, Any]]) -> None:
    if not found:
        note("there are no such events", "red")
        raise typer.Exit(FAILED)
    rows = [
        row | {"wrong": short(row["wrong"], 80), "skipped": "skipped" if row["skipped"] else ""}
        for row in found
    ]
    show_rows("events", rows, ("position", "stream", "version", "name", "at", "skipped", "wrong"))
