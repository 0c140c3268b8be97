"""The questions: what the views and the events hold, as tables or as JSON. Nothing here needs NATS or a runner."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any

import typer
from rich.text import Text

import runner
import wiring
from cli import options, story
from cli.output import console, note, printable, short, show_json, show_rows
from cli.shell import settings_of
from domain.errors import LeadlineError
from domain.tokens import encode, lead_stream
from projections.queries import Row, Views, history
from settings import Settings

#: Rows of a table on a terminal, where nobody says how many.
ROWS_SHOWN = 50


def views_of(settings: Settings) -> Views:
    """The views beside the events."""
    return Views(wiring.views_path(settings))


def tasks(
    ctx: typer.Context,
    *,
    business: options.Business = None,
    lead: options.Lead = None,
    status: options.TaskStatus = None,
    task_type: Annotated[str | None, typer.Option("--type", help="Such as sales_notification.")] = None,
    assigned_to: Annotated[str | None, typer.Option("--assigned-to", help="Team, role or user.")] = None,
    limit: options.Limit = None,
    as_json: options.Json = False,
) -> None:
    """What people have to do and have done, oldest first; `--status pending` leaves only what nobody has begun."""
    rows = views_of(settings_of(ctx)).tasks(
        business,
        lead,
        status=status,
        task_type=task_type,
        assigned_to=assigned_to,
        limit=asked(limit, as_json),
    )
    columns = (
        "task_id",
        "task_type",
        "status",
        "priority",
        "assigned_to_id",
        "due_date",
        "business_id",
        "lead_id",
    )
    show_some("tasks", rows, columns, limit=limit, as_json=as_json)


def dead_letters(
    ctx: typer.Context,
    *,
    business: options.Business = None,
    lead: options.Lead = None,
    status: options.DeadLetterStatus = None,
    category: options.DeadLetterCategory = None,
    limit: options.Limit = None,
    as_json: options.Json = False,
) -> None:
    """What a person has to look at or has settled, oldest first; `--status failed` leaves only what is open."""
    rows = views_of(settings_of(ctx)).dead_letters(
        business, lead, status=status, category=category, limit=asked(limit, as_json)
    )
    columns = ("id", "category", "status", "attempt_count", "business_id", "lead_id", "error_message")
    show_some("dead letters", rows, columns, limit=limit, as_json=as_json)


def dead_letter(
    ctx: typer.Context,
    dead_letter_id: Annotated[str, typer.Argument(metavar="ID")],
    *,
    as_json: options.Json = False,
) -> None:
    """One dead letter with all that is kept of it."""
    row = views_of(settings_of(ctx)).dead_letter(dead_letter_id)
    if row is None:
        raise LeadlineError(f"there is no dead letter {dead_letter_id}; `leadline dlq` lists them")
    if as_json:
        show_json(row)
        return
    for column, value in row.items():
        if value not in (None, ""):
            console().print(Text.assemble((f"{column:<17} ", "dim"), printable(str(value))), soft_wrap=True)


def leads(
    ctx: typer.Context,
    *,
    business: options.Business = None,
    flagged: Annotated[bool | None, typer.Option("--flagged/--not-flagged", help="For review.")] = None,
    limit: options.Limit = None,
    as_json: options.Json = False,
) -> None:
    """Who has written, the one last seen first."""
    rows = views_of(settings_of(ctx)).leads(business, flagged=flagged, limit=asked(limit, as_json))
    columns = ("business_id", "lead_id", "messages", "last_intent", "flagged", "open_tasks", "last_seen_at")
    show_some("leads", rows, columns, limit=limit, as_json=as_json)


def lead(
    ctx: typer.Context,
    business: Annotated[str, typer.Argument(metavar="BUSINESS")],
    lead_id: Annotated[str, typer.Argument(metavar="LEAD")],
    *,
    as_json: options.Json = False,
) -> None:
    """One lead's events, told as a story."""
    settings = settings_of(ctx)
    stream = lead_stream(business, encode(lead_id))
    refused = views_of(settings).dead_letters(business, lead_id)
    with closing(runner.open_event_log(settings)) as log:
        events = history(log, stream) if as_json else []
        told = [] if as_json else list(story.lines(log.stream(stream)))
    if as_json:
        show_json({"stream": stream, "events": events, "dead_letters": refused})
    if not events and not told and not refused:
        raise LeadlineError(f"{business} has no lead {lead_id!r}; `leadline leads` lists them")
    if as_json:
        return
    tell(
        f"{business}, lead {lead_id}",
        told,
        [row for row in refused if row["category"] in story.NOT_IN_A_STREAM],
    )


def tell(title: str, told: list[tuple[str, str, str]], refused: list[Row]) -> None:
    """A story, and what was refused before it could become part of it."""
    out = console()
    out.print(Text(printable(title), style="bold"))
    for when, style, sentence in told:
        out.print(
            Text.assemble((f"{when:>19}  ", "dim"), (printable(short(sentence, 400)), style)), soft_wrap=True
        )
    for row in refused:
        line = f"{row['created_at'][:19]:>19}  refused ({row['status']}): {row['error_message']}"
        out.print(Text(printable(line), style="red"), soft_wrap=True)


def metrics(
    ctx: typer.Context,
    *,
    name: Annotated[str | None, typer.Option(help="This metric only.")] = None,
    as_json: options.Json = False,
) -> None:
    """What has been counted since the first event; sums of histograms are in millionths."""
    rows = views_of(settings_of(ctx)).metrics(name)
    if as_json:
        show_json(rows)
        return
    flat = [row | {"labels": ", ".join(f"{k}={v}" for k, v in row["labels"].items())} for row in rows]
    show_rows("metrics", flat, ("name", "labels", "value"))


def breakers(ctx: typer.Context, *, as_json: options.Json = False) -> None:
    """Which targets are called just now."""
    rows = views_of(settings_of(ctx)).breakers()
    columns = ("name", "state", "failures", "opened_at", "retry_at", "updated_at")
    show_rows("breakers", rows, columns, as_json=as_json, empty="none has opened")


def asked(limit: int | None, as_json: bool) -> int | None:
    """How many rows to ask for: on a terminal one more than is shown, to know whether there are more."""
    return limit if limit or as_json else ROWS_SHOWN + 1


def show_some(
    title: str, rows: list[Row], columns: tuple[str, ...], *, limit: int | None, as_json: bool
) -> None:
    """Rows; on a terminal the first of them, and a note that there are more."""
    more = not as_json and limit is None and len(rows) > ROWS_SHOWN
    shown: list[dict[str, Any]] = rows[:ROWS_SHOWN] if more else rows
    show_rows(title, shown, columns, as_json=as_json)
    if more:
        note(f"… and more: --limit N shows N of them, filters show others, --json shows all {title}")
