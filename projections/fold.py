"""All seven views as one pure fold: events and prior rows in, changed rows out. No SQL, no clock.

`collect` asks each view what it will need, so that it can be loaded in one statement a table; `apply`
hands each event, in order, to the views that listen to its type. Whatever the borders of the batches,
the rows come out the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

from domain import events as ev
from domain.events import Event, Recorded
from domain.tokens import lead_of_stream
from projections.breakers import Breakers
from projections.dead_letters import DeadLetters
from projections.leads import Leads
from projections.metrics import Metrics
from projections.processed_messages import ProcessedMessages
from projections.rows import Owner, Rows
from projections.schema import instant
from projections.tasks import Tasks
from projections.unfinished import Unfinished

H = TypeVar("H")

NOBODY: Owner = ("", "")

#: Views that need nothing of each other's: who has what to do, and what became of each message.
Part: TypeAlias = Literal["all", "work", "outcomes"]

#: Streams whose ids stay decoded from batch to batch.
KEPT_OWNERS = 50_000


class Fold:
    """The rows of one batch, of all views or of one part of them. Belongs to one thread."""

    def __init__(self, part: Part = "all") -> None:
        self._leads = Leads()
        self._tasks = Tasks(self._leads)
        self._dead_letters = DeadLetters()
        self._processed = ProcessedMessages(self._dead_letters)
        self._metrics = Metrics()
        self._breakers = Breakers()
        self._unfinished = Unfinished()
        work = (self._leads, self._tasks)
        outcomes = (
            self._dead_letters,
            self._processed,
            self._metrics,
            self._breakers,
            self._unfinished,
        )
        views = {"all": (*work, *outcomes), "work": work, "outcomes": outcomes}[part]
        self._needs = _by_type([view.needs for view in views])
        self._folds = _by_type([view.folds for view in views])
        #: What has to be read; None where it is everything.
        self.kinds = frozenset((*self._needs, *self._folds)) if part == "work" else None
        #: Loaded first: what else is needed hangs on them.
        self.first_tables: Sequence[Rows[Any]] = self._dead_letters.tables if part != "work" else ()
        self.other_tables: Sequence[Rows[Any]] = tuple(
            rows for view in views if view is not self._dead_letters for rows in view.tables
        )
        self._owners: dict[str, Owner] = {}
        self._settled: list[ev.DeadLetterResolved] = []

    @property
    def tables(self) -> Sequence[Rows[Any]]:
        return (*self.first_tables, *self.other_tables)

    def collect(self, batch: Sequence[Recorded]) -> None:
        """Ask for the rows that the batch needs as they stand."""
        needs = self._needs
        owners = self._owners
        for recorded in batch:
            stream = recorded.stream
            if stream not in owners:
                owners[stream] = _owner_of(stream)
            event = recorded.event
            handlers = needs.get(type(event))
            if handlers is None:
                continue
            owner = owners[stream]
            for handler in handlers:
                handler(event, owner)
            if owner is NOBODY and type(event) is ev.DeadLetterResolved:
                self._settled.append(event)

    def collect_more(self) -> None:
        """Ask for the rows that only the loaded dead letters could name."""
        for event in self._settled:
            self._processed.needs_of_dead_letter(event)

    def apply(self, batch: Sequence[Recorded]) -> None:
        """Fold the batch. What it needs is loaded."""
        self._dead_letters.begins()
        self._metrics.begins()
        self._unfinished.begins()
        folds = self._folds
        owners = self._owners
        last, at = None, ""
        for recorded in batch:
            event = recorded.event
            handlers = folds.get(type(event))
            if handlers is None:
                continue
            owner = owners[recorded.stream]
            if recorded.at != last:  # what one decision records shares its time
                last = recorded.at
                at = instant(last)
            for handler in handlers:
                handler(recorded, event, owner, at)
        self._metrics.ends()

    def done(self) -> None:
        """The batch is written."""
        self._between_batches()
        for rows in self.tables:
            rows.done()

    def forget(self) -> None:
        """The batch is not written, or somebody else has written: trust nothing that is known."""
        self._between_batches()
        for rows in self.tables:
            rows.forget()

    def _between_batches(self) -> None:
        if len(self._owners) > KEPT_OWNERS:
            self._owners.clear()
        self._settled.clear()


def _by_type(views: Sequence[Mapping[type[Event], H]]) -> dict[type[Event], tuple[H, ...]]:
    """Event type → its handlers, in the order of the views."""
    types = {kind for handlers in views for kind in handlers}
    return {kind: tuple(view[kind] for view in views if kind in view) for kind in types}


def _owner_of(stream: str) -> Owner:
    if not stream.startswith("lead:"):
        return NOBODY
    business_id, lead_id = lead_of_stream(stream)
    return lead_id, business_id
