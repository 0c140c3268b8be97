"""Views built in a temporary folder from a story: what most tests of the projections ask."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from projections.queries import Views
from projections.rebuild import rebuild
from tests.support.projections_log import MemoryLog
from tests.support.projections_story import Story


@contextmanager
def views_of(story: Story, *, batch: int = 1) -> Iterator[Views]:
    """The views of all that was recorded; one event a batch, so that each row is loaded again each time."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "views.db"
        rebuild(MemoryLog(story.recorded), path, batch=batch)
        yield Views(path)
