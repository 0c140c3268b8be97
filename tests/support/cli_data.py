"""A data folder as a runner leaves it: events in their store, the views built from them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from actors.event_store import EventStore
from actors.journal import open_recorder
from domain.codec import encode
from domain.events import Recorded
from projections.rebuild import rebuild


def write_data(folder: Path, recorded: Iterable[Recorded]) -> Path:
    """The folder, with `events.db` and `views.db` of these events."""
    recorder = open_recorder(folder / "events.db")
    recorder.insert_rows([(r.stream, r.version, *encode(r)) for r in recorded])
    recorder.datastore.close()
    build_views(folder)
    return folder


def build_views(folder: Path) -> None:
    with closing(EventStore.open(folder / "events.db")) as log:
        rebuild(log, folder / "views.db")
