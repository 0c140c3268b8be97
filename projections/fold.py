"""All seven views as one pure fold: events and prior rows in, changed rows out. No SQL, no clock.

`collect` asks each view what it will need, so that it can be loaded in one statement a table; `apply`
hands each event, in order, to the views that listen to its type. Whatever the borders of the batches,
the rows come out the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from domain import events as ev
from domain.events import Event, Recorded
from domain.tokens import lead_of_stream
from projections.breakers import Breakers
from projections.dead_letters import DeadLetters
from projections.leads import Leads
from projections.metrics import Metrics
from projections.processed_messages import ProcessedMessages
from projections.rows import Folding, Folds, Need, Needs, Owner, Rows
from projections.schema import instant
from projections.tasks import Tasks
from projections.unfinished import Unfinished

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
        #: Event type → what its views need, and what they do, in the order of the views.
        self._handlers = _by_type([view.needs for view in views], [view.folds for view in views])
        #: What has to be read; None where it is everything.
        self.kinds = frozenset(self._handlers) if part == "work" else None
        #: Loaded first: what else is needed hangs on them.
        self.first_tables: Sequence[Rows[Any]] = self._dead_letters.tables if part != "work" else ()
        self.other_tables: Sequence[Rows[Any]] = tuple(
            rows for view in views if view is not self._dead_letters for rows in view.tables
        )
        self._owners: dict[str, Owner] = {}
        self._settled: list[ev.DeadLetterResolved] = []
        #: The batch's events that some view listens to, with what is known of them.
        self._heard: list[tuple[tuple[Folding, ...], Recorded, Event, Owner]] = []

    @property
    def tables(self) -> Sequence[Rows[Any]]:
        return (*self.first_tables, *self.other_tables)

    def collect(self, batch: Sequence[Recorded]) -> None:
        """Ask for the rows that the batch needs as they stand."""
        handlers, owners, heard = self._handlers, self._owners, self._heard
        last, owner = None, NOBODY
        for recorded in batch:
            event = recorded.event
            handled = handlers.get(type(event))
            if handled is None:
                continue
            stream = recorded.stream
            if stream != last:  # what one decision records stands together
                last = stream
                owner = owners.get(stream) or owners.setdefault(stream, _owner_of(stream))
            needs, folds = handled
            for need in needs:
                need(event, owner)
            heard.append((folds, recorded, event, owner))
            if owner is NOBODY and type(event) is ev.DeadLetterResolved:
                self._settled.append(event)

    def collect_more(self) -> None:
        """Ask for the rows that only the loaded dead letters could name."""
        for event in self._settled:
            self._processed.needs_of_dead_letter(event)

    def apply(self) -> None:
        """Fold the collected batch. What it needs is loaded."""
        self._dead_letters.begins()
        self._metrics.begins()
        self._unfinished.begins()
        last, at = None, ""
        for folds, recorded, event, owner in self._heard:
            if recorded.at != last:  # what one decision records shares its time
                last = recorded.at
                at = instant(last)
            for fold in folds:
                fold(recorded, event, owner, at)
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
        self._heard.clear()


def _by_type(
    needs: Sequence[Needs], folds: Sequence[Folds]
) -> dict[type[Event], tuple[tuple[Need, ...], tuple[Folding, ...]]]:
    types = {kind for handlers in (*needs, *folds) for kind in handlers}
    return {
        kind: (
            tuple(view[kind] for view in needs if kind in view),
            tuple(view[kind] for view in folds if kind in view),
        )
        for kind in types
    }


def _owner_of(stream: str) -> Owner:
    if not stream.startswith("lead:"):
        return NOBODY
    business_id, lead_id = lead_of_stream(stream)
    return lead_id, business_id
