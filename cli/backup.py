"""`backup` and `restore`: the event store copied while all runs, and put back where nothing runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import runner
import wiring
from actors import backup as copies
from actors.backup import Backup, OnStep
from cli import options
from cli.output import note, notes, say, show_json
from cli.shell import WrongUseError, settings_of
from domain.errors import LeadlineError
from projections.build import remove_database
from settings import Settings

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The backup's folder.")]


def backup(ctx: typer.Context, folder: Folder, *, as_json: options.Json = False) -> None:
    """Copy the event store into a new folder, beside a live runner, and check the copy."""
    settings = settings_of(ctx)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise WrongUseError(f"{folder} is there already and not empty: name a new folder for each backup")
    with working() as on_step:
        made = copies.back_up(wiring.events_path(settings), folder, on_step)
    if as_json:
        show_json({"folder": str(folder), "backup": made})
        return
    say(f"{made.events:,} events in {folder}, {made.size:,} bytes, checked", "green")
    say("not in it: views.db, which is built again, and jetstream/, which NATS keeps (docs/operating.md)")
    tell_unreadable(made)


def restore(
    ctx: typer.Context,
    folder: Folder,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also where a store stands; it is kept under another name.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Put a backup's event store into the data folder. Nothing may run on it; the views are built again."""
    settings = settings_of(ctx)
    events = wiring.events_path(settings)
    with working() as on_step:
        held = copies.check(folder, on_step)
    owner = runner.own_data_folder(settings)
    try:
        if events.exists() and not force:
            raise LeadlineError(
                f"{events} is there already; --force restores nevertheless, and keeps it beside the restored one"
            )
        aside = copies.put_in_place(folder, events, datetime.now(UTC))
        remove_database(wiring.views_path(settings))  # they may know what the restored events do not
    finally:
        owner.release()
    if as_json:
        show_json({"backup": held, "set_aside": aside and str(aside), "follows": follows(held, settings)})
        return
    say(f"{held.events:,} events are back in {events}, the last of {when(held.last_event_at)}", "green")
    if aside is not None:
        say(f"the store that stood there is {aside}")
    for sentence in follows(held, settings):
        say(f"- {sentence}")
    tell_unreadable(held)


def follows(held: Backup, settings: Settings) -> list[str]:
    """What the next start will do, a sentence each."""
    kept = timedelta(hours=settings.stream.keep_hours)
    said = [
        "the next start (`leadline up`, `leadline run`) builds the views again",
        "it reads from the stream again what was confirmed since: messages and people's commands, in order",
        "targets are asked again, under the same keys, for what they did since: keyed ones recognise it",
        "others do it a second time: what that means for each class stands in docs/operating.md",
    ]
    if datetime.now(UTC) - held.made_at > kept:
        said.append(
            f"this backup is older than the {kept.total_seconds() / 3600:g} h that the stream keeps what is"
            " recorded: what it holds no more is recorded as MessagesLost, see `leadline status`"
        )
    return said


def tell_unreadable(held: Backup) -> None:
    for complaint in held.unreadable:
        note(f"as in the store itself, {complaint}", "yellow")


def when(at: datetime | None) -> str:
    return "unknown date" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


@contextmanager
def working() -> Iterator[OnStep]:
    """A progress bar on stderr, where that is a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=notes(), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, at, last: bar.update(task, description=what, completed=at, total=last)
