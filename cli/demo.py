"""`demo`: the whole story on sample traffic with failures in it, in a folder of its own, in under a minute."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import runner
from actors import connection, stream
from cli import demo_servers, demo_traffic, logs, operate, queries, story
from cli.ask import ask, new_command_id
from cli.demo_servers import Outside
from cli.demo_traffic import BREAKER, STORY, Entry
from cli.output import console, notes, say, show_rows
from cli.status import Status, look
from domain.commands import RetryDeadLetter
from domain.errors import LeadlineError
from domain.tokens import encode, lead_stream
from projections.queries import Views
from settings import Settings, load

#: The demo ends by itself well within; this is for a machine on which something hangs.
PATIENCE_SECONDS = 90.0


def demo(
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the demo's data folder, to look into it.")
    ] = False,
) -> None:
    """See all of it at work: retries, compensation, dead letters, a breaker, a command, and the tables."""
    logs.configure(quiet=True)
    with demo_folder(keep) as folder, demo_servers.outside(folder) as outside:
        settings = demo_settings(folder, outside)
        with operate.started_with_nats(settings) as (system, _server):
            play(system.settings)
            show(system.settings)
            show_outside(outside)
    if keep:
        say(f"the data is kept: leadline --data {folder} tasks", "dim")


def demo_settings(folder: Path, outside: Outside) -> Settings:
    """The demo's own, whatever file or variables there are: it shows the same everywhere."""
    own = {"data": str(folder), "nats.port": 0, "http_port": 0}
    return load(Path("/dev/null"), env={}, overrides={**demo_traffic.SETTINGS, **outside.settings(), **own})


@contextmanager
def demo_folder(keep: bool) -> Iterator[Path]:
    """A new folder, gone afterwards unless it is to be kept."""
    if keep:
        yield Path(tempfile.mkdtemp(prefix="leadline-demo-"))
        return
    with tempfile.TemporaryDirectory(prefix="leadline-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def play(settings: Settings) -> None:
    """Publish, wait until all is done, have a person retry what failed, wait again."""
    entries = list(demo_traffic.entries())
    hostile = sum(entry.hostile for entry in entries)
    say(f"publishing {len(entries)} messages, {hostile} of them hostile")
    asyncio.run(publish(settings, entries))
    say("waiting for retries, a compensation and a breaker")
    say(wait(settings), "dim")
    views = queries.views_of(settings)
    letter = dead_letter_of_story(views)
    say(f"a person looks at dead letter {letter['id']} ({letter['error_message']}) and has it retried")
    command = RetryDeadLetter(
        command_id=new_command_id(), by="anna", why="the sales system is back", dead_letter_id=letter["id"]
    )
    outcome = ask(settings.nats.url, (encode(STORY[0]), encode(STORY[1])), command, timeout=10)
    if not outcome.done:
        raise LeadlineError(f"the retry was refused: {outcome.reason}")
    say(wait(settings), "dim")


async def publish(settings: Settings, entries: list[Entry]) -> None:
    """Every entry as it is, hostile or not, each confirmed by JetStream."""
    client = await connection.connect(settings.nats.url, name="leadline demo", reconnect=False)
    try:
        await stream.ensure(client, settings.stream.max_bytes)
        for entry in entries:
            headers = {"Nats-Msg-Id": entry.dedup_id} if entry.dedup_id else None
            await client.request(entry.subject, entry.body, headers=headers, timeout=5)
    finally:
        await client.close()


def wait(settings: Settings) -> str:
    """Until nothing is left to do, with what is going on in one moving line; the last of them."""
    until = time.monotonic() + PATIENCE_SECONDS
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=notes(), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("starting")
        while True:
            try:
                seen = look(settings)
                progress.update(task, description=in_short(settings, seen))
                if not seen.open:
                    return in_short(settings, seen)
                reason = "; ".join(seen.open)
            except LeadlineError as error:  # the views are only being made
                reason = str(error)
            if time.monotonic() > until:
                raise LeadlineError(f"the demo hangs: {reason}")
            time.sleep(0.1)


def in_short(settings: Settings, seen: Status) -> str:
    """What is going on, in one line."""
    views = queries.views_of(settings)
    broken = ", ".join(
        f"{row['name']} {row['state']}" for row in views.breakers() if row["state"] != "closed"
    )
    return (
        f"{seen.views.position} events, {len(seen.unfinished)} messages at work,"
        f" {seen.dead_letters} dead letters{', breaker ' + broken if broken else ''}"
    )


def dead_letter_of_story(views: Views) -> dict[str, Any]:
    letters = views.dead_letters(*STORY, status="failed")
    if not letters:
        raise LeadlineError("the demo's order did not fail as it should have")
    return letters[0]


def show(settings: Settings) -> None:
    """The tables, and the story of one lead."""
    views = queries.views_of(settings)
    tasks = views.tasks()
    show_rows(
        f"\nTasks ({len(tasks)}, some of them)",
        tasks[:6] + views.tasks(*STORY),
        ("task_type", "status", "priority", "assigned_to_id", "business_id", "lead_id", "description"),
    )
    show_rows(
        "\nDead letters",
        views.dead_letters(),
        ("category", "status", "attempt_count", "business_id", "lead_id", "error_message"),
    )
    show_rows("\nBreakers", views.breakers(), ("name", "state", "failures", "opened_at"))
    counted = [row for row in views.metrics() if not row["name"].endswith(("_bucket", "_sum"))]
    flat = [row | {"labels": ", ".join(f"{k}={v}" for k, v in row["labels"].items())} for row in counted]
    show_rows("\nMetrics (counters; all of them at /metrics)", flat, ("name", "labels", "value"))
    business, lead_id = STORY
    with closing(runner.open_event_log(settings)) as log:
        for title, name in (
            (f"The story of the breaker {BREAKER}", f"breaker:{BREAKER}"),
            (f"The story of one lead: {business}, {lead_id}", lead_stream(business, encode(lead_id))),
        ):
            console().print()
            queries.tell(title, list(story.lines(log.stream(name))), [])


def show_outside(outside: Outside) -> None:
    """The other side: what the systems have that were called for real."""
    orders = [{"id": number, **order} for number, order in outside.shop.orders.items()]
    show_rows("\nIn acme-deli's shop", orders, ("id", "customer", "product", "status"))
    show_rows(
        "\nIn the webhooks' ledger (each signature verified)",
        outside.inbox.ledger,
        ("type", "lead_id", "said", "webhook_id"),
    )
    mails = [
        {"to": str(mail["To"]), "subject": str(mail["Subject"]), "message_id": str(mail["Message-ID"])}
        for mail in outside.mails
    ]
    show_rows(
        f"\nIn the mailbox of acme-foods' sales ({len(mails)} mails, some of them)",
        mails[:4],
        tuple(mails[0]),
    )
