"""The view `breakers`: the state of each circuit breaker that has ever opened."""

from __future__ import annotations

from msgspec import Struct

from domain import events as ev
from domain.events import Recorded
from projections import schema
from projections.rows import Folds, Needs, Owner, Rows
from projections.schema import maybe_instant


class BreakerRow(Struct, gc=False):
    name: str
    state: str
    failures: int
    opened_at: str | None
    retry_at: str | None
    updated_at: str


class Breakers:
    """Folds the view; a breaker that never opened has no row, and is closed."""

    def __init__(self) -> None:
        self._rows = Rows(schema.breakers, BreakerRow, whole=True)
        self.tables = (self._rows,)
        self.needs: Needs = {}
        self.folds: Folds = {
            ev.BreakerOpened: self._opened,
            ev.BreakerHalfOpened: self._half_opened,
            ev.BreakerClosed: self._closed,
        }

    def _opened(self, recorded: Recorded, event: ev.BreakerOpened, _: Owner, at: str) -> None:
        self._rows.put(
            event.name, BreakerRow(event.name, "open", event.failures, at, maybe_instant(event.retry_at), at)
        )

    def _half_opened(self, recorded: Recorded, event: ev.BreakerHalfOpened, _: Owner, at: str) -> None:
        row = self._rows.get(event.name) or BreakerRow(event.name, "half_open", 0, None, None, at)
        row.state = "half_open"
        row.updated_at = at
        self._rows.put(event.name, row)

    def _closed(self, recorded: Recorded, event: ev.BreakerClosed, _: Owner, at: str) -> None:
        self._rows.put(event.name, BreakerRow(event.name, "closed", 0, None, None, at))
