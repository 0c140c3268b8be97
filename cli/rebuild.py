"""`rebuild`: the views again from the first event; `--verify` builds them beside the live ones and compares."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import runner
import wiring
from actors.event_store import EventStore
from cli import options
from cli.output import note, notes, say, show_json
from cli.shell import FAILED, settings_of
from projections import rebuild as views_rebuild
from projections.compare import Difference
from projections.rebuild import Verification
from projections.store import ViewsPosition
from settings import Settings

#: Differing rows told one by one; `--json` has all of them.
TOLD = 20


def rebuild(
    ctx: typer.Context,
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Compare only; 1 if a row differs.")] = False,
    as_json: options.Json = False,
) -> None:
    """Build the views anew from the events. Also beside a live runner."""
    settings = settings_of(ctx)
    if verify:
        compared = verified(settings)
        show_json(compared) if as_json else tell_differences(compared)
        stopped, failed = compared.stopped_error, bool(compared.differences)
    else:
        built = rebuilt(settings)
        show_json(built) if as_json else say(f"built anew up to event {built.position:,}", "green")
        stopped, failed = built.stopped_error, False
    if stopped:
        note(f"stopped there: {stopped}", "bold red")
    if failed or stopped:
        raise typer.Exit(FAILED)


def rebuilt(settings: Settings) -> ViewsPosition:
    with closing(runner.open_event_log(settings)) as log, building() as on_built:
        return views_rebuild.rebuild(
            log, wiring.views_path(settings), on_built=on_built, open_log=_opens(settings)
        )


def verified(settings: Settings) -> Verification:
    with closing(runner.open_event_log(settings)) as log, building() as on_built:
        return views_rebuild.verify(
            log, wiring.views_path(settings), on_built=on_built, open_log=_opens(settings)
        )


def _opens(settings: Settings) -> Callable[[], EventStore]:
    """For the process beside, which is handed the path and nothing else."""
    return partial(EventStore.open, wiring.events_path(settings))


def tell_differences(compared: Verification) -> None:
    """How many rows were compared, and each that differs."""
    if not compared.differences:
        say(f"{compared.rows:,} rows are the same as rebuilt, up to event {compared.position:,}", "green")
        return
    for difference in compared.differences[:TOLD]:
        say(described(difference), "red")
    if len(compared.differences) > TOLD:
        note(f"… and {len(compared.differences) - TOLD} more; --json has them all", "red")
    say(
        f"{len(compared.differences):,} of {compared.rows:,} rows differ at event {compared.position:,};"
        " `leadline rebuild` puts the views right",
        "bold red",
    )


def described(difference: Difference) -> str:
    """Which value, and both of what it is."""
    key = ", ".join(f"{name} {value}" for name, value in difference.key.items())
    return f"{difference.table} {key}: {difference.column} is {difference.live}, rebuilt {difference.rebuilt}"


@contextmanager
def building() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, where that is a terminal."""
    columns = TextColumn("building"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=notes(), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None)
        yield lambda at, last: bar.update(task, completed=at, total=last)
