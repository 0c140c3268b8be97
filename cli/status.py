"""`status`: how far everything is, asked from outside; `--wait-idle` asks until nothing is left to do.

Nothing is believed that a runner says of itself: the log's sequences come from NATS, the positions and
the last event from the store, the rest from the views; in this order, so that idle once seen was idle. The outbox's
position comes before all of them: what it has passed, it has put into the log that is looked at then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Annotated, Any

import typer
from msgspec import Struct
from rich.text import Text

import runner
import wiring
from actors import log_status
from actors.connection import NatsUnreachableError
from actors.log_status import LogStatus
from actors.ownership import Owner, owner_of
from cli import options
from cli.output import console, note, printable, say, show_json
from cli.queries import views_of
from cli.shell import FAILED, settings_of
from domain.errors import LeadlineError
from domain.events import MessagesLost
from outbox.position import OutboxPosition, read_position
from projections.queries import Row
from projections.store import ViewsPosition
from projections.unfinished import ITS_TURN, WAITS_FOR_PERSON, waits_for_person
from settings import PARTITIONS, Settings

ASK_AGAIN_SECONDS = 0.2


class OutboxStatus(Struct, frozen=True):
    """How far results and replies are out."""

    position: int
    #: Events that are recorded and not looked at.
    lag: int
    #: What stops them, in one line.
    stopped: str | None


class Status(Struct, frozen=True):
    """One look at everything."""

    log: LogStatus
    last_position: int
    views: ViewsPosition
    unfinished: list[Row]
    #: Dead letters that nobody has settled.
    dead_letters: int
    #: None where nothing goes out.
    outbox: OutboxStatus | None = None
    #: What the runner on this folder says of itself; None where there is none.
    owner: Owner | None = None

    @property
    def waiting_for_person(self) -> list[Row]:
        """What only a person can move, and what stands behind it in its lead's queue."""
        # What stands behind a dead letter says so itself; the dead letter in front may be back at work.
        held = {_lead(row) for row in self.unfinished if row["waiting_for"] in WAITS_FOR_PERSON}
        return [
            row
            for row in self.unfinished
            if waits_for_person(row["waiting_for"]) or (row["waiting_for"] == ITS_TURN and _lead(row) in held)
        ]

    @property
    def open(self) -> list[str]:
        """What is still to do, a clause each; empty is idle."""
        behind = [part for part in self.log.partitions if part.behind]
        at_work = len(self.unfinished) - len(self.waiting_for_person)
        lag = self.last_position - self.views.position
        out = self.outbox
        said = {
            f"{len(behind)} partitions are not read to their end": behind,
            "the stream ends below a position, and no runner has noticed yet": self.log.rewound,
            f"the views are {lag} events behind": lag > 0,
            f"the views have stopped: {self.views.stopped_error}": self.views.stopped_error,
            f"results and replies are {out.lag if out else 0} events behind": out and out.lag > 0,
            f"results and replies have stopped: {out.stopped if out else ''}": out and out.stopped,
            f"{at_work} message{' is' if at_work == 1 else 's are'} at work": at_work,
        }
        return [clause for clause, holds in said.items() if holds]


def status(
    ctx: typer.Context,
    *,
    wait_idle: Annotated[
        bool, typer.Option("--wait-idle", help="Return when nothing is left to do.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, max=options.LONG, help="Seconds to wait for that.")
    ] = 60.0,
    as_json: options.Json = False,
) -> None:
    """How far everything is. With --wait-idle: 1 if something is still open after the timeout."""
    settings = settings_of(ctx)
    try:
        seen = wait_until_idle(settings, timeout) if wait_idle else look(settings)
    except NatsUnreachableError as error:
        if owner_of(settings.data) is not None:
            raise
        hint = f"no runner works on {settings.data} either: `leadline up` starts both"
        raise LeadlineError(f"{error}; {hint}, `leadline doctor` looks without") from None
    if as_json:
        show_json(document(seen))
    else:
        show(seen)
    if wait_idle and seen.open:
        after = f"after {timeout:g} s" if has_stopped(seen) is None else "and will not be by waiting"
        note(f"not idle {after}: {'; '.join(seen.open)}", "red")
        raise typer.Exit(FAILED)


def _lead(row: Row) -> tuple[str, str]:
    return row["business_id"], row["lead_id"]


def look(settings: Settings) -> Status:
    """One look. Raises `LeadlineError` or OSError where something cannot be asked."""
    views = views_of(settings)
    out = read_position(wiring.outbox_path(settings)) if settings.outbox.on else None
    with closing(runner.open_event_log(settings)) as log:
        read = asyncio.run(log_status.read_status_at(settings.nats.url, log.read_position, log.stream))
        last_position = log.last_position()
    standing = views.position()
    failed = len(views.dead_letters(status="failed"))
    sent = _outbox_status(settings, out, last_position)
    return Status(read, last_position, standing, views.unfinished(), failed, sent, owner_of(settings.data))


def _outbox_status(
    settings: Settings, standing: OutboxPosition | None, last_position: int
) -> OutboxStatus | None:
    """Without a position, a runner has not begun yet: all is still to do."""
    if not settings.outbox.on:
        return None
    position = standing.position if standing else 0
    return OutboxStatus(position, max(0, last_position - position), standing.stopped if standing else None)


def wait_until_idle(settings: Settings, timeout: float) -> Status:
    """Look until nothing is open, or the time is up, or the views or the outbox have stopped at an event.

    What cannot be asked is asked again: a runner may only be starting. Raises the last error at the end.
    """
    until = time.monotonic() + timeout
    while True:
        try:
            seen = look(settings)
            if not seen.open or has_stopped(seen) or time.monotonic() > until:
                return seen
        except (LeadlineError, OSError):
            if time.monotonic() > until:
                raise
        time.sleep(ASK_AGAIN_SECONDS)


def has_stopped(seen: Status) -> str | None:
    """What will not go on by itself, in words."""
    if seen.views.stopped_error:
        return f"the views have stopped: {seen.views.stopped_error}"
    if seen.outbox is not None and seen.outbox.stopped:
        return f"results and replies have stopped: {seen.outbox.stopped}"
    return None


def document(seen: Status) -> dict[str, Any]:
    """The look as `--json` prints it."""
    return {
        "idle": not seen.open,
        "open": seen.open,
        "log": seen.log,
        "events": seen.last_position,
        "views": seen.views,
        "outbox": seen.outbox,
        "unfinished": seen.unfinished,
        "waiting_for_person": seen.waiting_for_person,
        "dead_letters": seen.dead_letters,
        "runner": seen.owner,
    }


def show_runner(owner: Owner | None) -> None:
    """Nothing, where one works as it should."""
    if owner is None:
        say("no runner works on this folder", "yellow")
    elif owner.state == "draining":
        waited = "; ".join(owner.waiting_for) or "its last checkpoint"
        limit = f", until {owner.until:%H:%M:%S} UTC at the latest" if owner.until else ""
        say(f"process {owner.pid} drains{limit}, and waits for: {waited}", "yellow")
    elif owner.hanging:
        say(f"code that does not come back: {'; '.join(owner.hanging)}", "bold red")


def show(seen: Status) -> None:
    """The look in a few lines; red is what a person has to mend."""
    show_runner(seen.owner)
    say("idle: nothing is left to do" if not seen.open else f"not idle: {'; '.join(seen.open)}", "bold")
    behind = [f"{part.partition} (by {part.behind})" for part in seen.log.partitions if part.behind]
    say(f"  log         {seen.log.messages:,} messages, last sequence {seen.log.last_sequence:,}")
    say(f"  partitions  {'all read to their end' if not behind else 'behind: ' + ', '.join(behind)}")
    say(f"  events      {seen.last_position:,}")
    lag = seen.last_position - seen.views.position
    say(f"  views       {'at the last event' if not lag else f'{lag:,} events behind'}")
    if seen.views.stopped_error:
        say(f"  views have stopped: {seen.views.stopped_error}", "bold red")
    show_outbox(seen.outbox)
    for (first, last), partitions in gaps(seen.log.lost).items():
        say(f"  lost        {first} to {last}, what was of {_of(partitions)}", "bold red")
    for row in seen.waiting_for_person:
        line = f"  waits for a person: {row['business_id']}/{row['lead_id']} {row['message_id']}: {row['waiting_for']}"
        console().print(Text(printable(line), style="yellow"), soft_wrap=True)
    if seen.dead_letters:
        say(f"  {seen.dead_letters} dead letters wait for a person: leadline dlq --status failed", "yellow")


def gaps(lost: Iterable[MessagesLost]) -> dict[tuple[int, int], list[int]]:
    """First and last sequence of each gap → the partitions that had not read it."""
    found: dict[tuple[int, int], list[int]] = {}
    for loss in lost:
        found.setdefault((loss.from_sequence, loss.to_sequence), []).append(loss.partition)
    return found


def _of(partitions: Sequence[int]) -> str:
    if len(partitions) == PARTITIONS:
        return "any partition"
    return f"partition{'s' * (len(partitions) > 1)} {', '.join(map(str, partitions))}"


def show_outbox(seen: OutboxStatus | None) -> None:
    if seen is None:
        return
    say(f"  outbox      {'all is out' if not seen.lag else f'{seen.lag:,} events behind'}")
    if seen.stopped:
        say(f"  results and replies have stopped: {seen.stopped}", "bold red")
