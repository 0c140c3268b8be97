"""`rebuild`: the views again from the first event; `--verify` builds them beside the live ones and compares."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import runner
from cli import options
from cli.output import note, notes, say, show_json
from cli.shell import FAILED, settings_of
from projections import rebuild as views_rebuild

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
    views = runner.views_path(settings)
    with closing(runner.open_event_log(settings)) as log, building() as on_built:
        if verify:
            compared = views_rebuild.verify(log, views, on_built=on_built)
        else:
            built = views_rebuild.rebuild(log, views, on_built=on_built)
    if not verify:
        if as_json:
            show_json(built)
        else:
            say(f"built anew up to event {built.position:,}", "green")
        if built.stopped_error:
            note(f"stopped there: {built.stopped_error}", "bold red")
            raise typer.Exit(FAILED)
        return


@contextmanager
def building() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, where that is a terminal."""
    columns = TextColumn("building"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=notes(), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None)
        yield lambda at, last: bar.update(task, completed=at, total=last)
