"""`publish`: JSON lines to NATS, each confirmed by JetStream; what was refused is said with its line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from actors import publisher
from actors.publisher import PublishReport
from cli import options
from cli.output import note, notes, say, show_json
from cli.shell import FAILED, settings_of, stdin_bytes
from settings import Settings

#: Refused lines told one by one; the others are counted (`--json` has all of them).
TOLD = 20


def publish(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="One message a line, as JSON; - for stdin.")],
    *,
    as_json: options.Json = False,
) -> None:
    """Publish a file of messages, in its order. 1 if a line was refused."""
    with lines_of(file) as (lines, count):
        report = publish_lines(settings_of(ctx), lines, count)
    if as_json:
        show_json(report)
    else:
        tell(report)
    if report.refused:
        raise typer.Exit(FAILED)


def publish_lines(settings: Settings, lines: Iterable[bytes], count: int | None) -> PublishReport:
    """Publish with a progress bar on stderr, where that is a terminal."""
    bar = Progress(
        TextColumn("publishing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=notes(),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("", total=count)
        return publisher.publish(
            lines,
            settings.nats.url,
            max_bytes=settings.stream.max_bytes,
            progress=lambda report: bar.update(task, completed=report.done),
        )


def tell(report: PublishReport) -> None:
    """The counts on stdout, what was refused beside them."""
    refused = [line for line in report.lines if line.result == "refused"]
    for line in refused[:TOLD]:
        note(f"line {line.line}: {line.reason}", "red")
    if len(refused) > TOLD:
        note(f"… and {len(refused) - TOLD} more; --json names them all", "red")
    say(
        f"{report.confirmed:,} confirmed, {report.duplicates:,} duplicates (JetStream has them already),"
        f" {report.refused:,} refused"
    )


@contextmanager
def lines_of(file: Path) -> Iterator[tuple[Iterable[bytes], int | None]]:
    """A file's lines, and how many there are where that can be known."""
    if str(file) == "-":
        yield stdin_bytes(), None
        return
    with file.open("rb") as opened:
        count = sum(1 for line in opened if line.strip())
        opened.seek(0)
        yield opened, count
