"""What people and scripts are shown: tables on a terminal, one JSON document with `--json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domain.messages import clean

#: Colour of a word that says how something stands.
COLOURS = {
    "completed": "green", "success": "green", "resolved": "green", "closed": "green", "done": "green",
    "pending": "cyan", "in_progress": "cyan", "retrying": "cyan", "half_open": "yellow",
    "cancelled": "dim", "discarded": "dim",
    "failed": "red", "open": "red", "critical": "red", "dead_lettered": "red", "rejected": "red",
    "high": "yellow",
}  # fmt: skip

#: Wide enough for a row when nobody's terminal says how wide: output that is piped is not cut.
PIPED_WIDTH = 320


def console() -> Console:
    """Where results go."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)


def notes() -> Console:
    """Where everything goes that is no result: progress, notes, errors."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else PIPED_WIDTH, highlight=False)


def say(text: str, style: str = "") -> None:
    """One line of result. Whatever the text holds, it is shown and not obeyed."""
    console().print(Text(printable(text), style=style))


def note(text: str, style: str = "") -> None:
    """One line beside the result, on stderr."""
    notes().print(Text(printable(text), style=style))


def say_error(text: str) -> None:
    """One line on stderr, in red where there is colour."""
    notes().print(
        Text.assemble(("leadline: ", "bold red"), printable(text).replace("\n", " ")), soft_wrap=True
    )


def show_json(document: object) -> None:
    """Exactly one JSON document on stdout."""
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # the same document in ASCII
        text = json.dumps(json.loads(text), indent=2)
    sys.stdout.write(text + "\n")


def show_rows(
    title: str,
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    as_json: bool = False,
    empty: str = "none",
) -> None:
    """Rows as a table of some columns, or all of them as JSON. A title without a table says `empty`."""
    rows = list(rows)
    if as_json:
        show_json(rows)
    elif not rows:
        say(f"{title}: {empty}")
    else:
        console().print(table_of(title, rows, columns))


#: Columns whose words go into the next command: on one line however narrow the terminal is.
COPIED = ("id", "task_id")


def table_of(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """A table of the given columns, in their order."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None)
    for column in columns:
        whole = column.endswith("_at") or column in COPIED
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(cell(row.get(column)) for column in columns))
    return table


def cell(value: object) -> Text:
    """A value as a cell's text, coloured where it is a word that says how something stands."""
    text = printable("" if value is None else str(value))
    return Text(text, style=COLOURS.get(text, ""))


def printable(text: str) -> str:
    """Text that cannot move the cursor or colour the terminal: a stranger wrote it."""
    return clean(text)


def short(text: str, length: int = 60) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
