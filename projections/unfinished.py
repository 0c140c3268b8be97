"""The view `unfinished`: each message that is received and has not ended, and what it waits for.

A start finds the leads to wake in it; `status --wait-idle` reads from it what only a person can move.
"""

from __future__ import annotations

from msgspec import Struct

from domain import events as ev
from domain.events import Recorded
from domain.tokens import lead_of_stream
from projections import schema
from projections.rows import Handlers, Owner, Rows
from projections.schema import instant

BY_LEAD = ("lead_id", "business_id")

ITS_TURN = "its turn"
RETRY = "retry"
TARGET_CONFIGURATION = "target configuration"
LEAD_RESUME = "lead resume"

#: What moves on only when a person does something.
WAITS_FOR_PERSON = frozenset({TARGET_CONFIGURATION, LEAD_RESUME})


class UnfinishedRow(Struct, gc=False):
    lead_id: str
    business_id: str
    partition: int | None
    message_id: str
    since: str
    waiting_for: str


class Unfinished:
    """Folds the view."""

    def __init__(self) -> None:
        self.rows = Rows(schema.unfinished, UnfinishedRow)
        self.tables = (self.rows,)
        self.needs: Handlers = {
            ev.MessageReceived: self._will_make,
            ev.ActionStarted: self._will_need,
            ev.ActionDeferred: self._will_need,
            ev.DeadLetterRetried: self._will_need,
            ev.DeadLetterResolved: self._will_need,
            ev.LeadStopped: self._will_need_lead,
            ev.LeadResumed: self._will_need_lead,
        }
        self.folds: Handlers = {
            ev.MessageReceived: self._received,
            ev.ActionStarted: self._started,
            ev.ActionDeferred: self._deferred,
            ev.MessageCompleted: self._ended,
            ev.MessageDeadLettered: self._ended,
            ev.DeadLetterRetried: self._retried,
            ev.DeadLetterResolved: self._resolved,
            ev.LeadStopped: self._stopped,
            ev.LeadResumed: self._resumed,
        }

    def _will_make(self, _: Recorded, event: ev.MessageReceived, owner: Owner) -> None:
        self.rows.will_make((*owner, event.message_id))

    def _will_need(self, _: Recorded, event: ev.ActionStarted, owner: Owner) -> None:
        self.rows.will_need((*owner, event.message_id))

    def _will_need_lead(self, _: Recorded, event: ev.LeadStopped, owner: Owner) -> None:
        self.rows.will_need_by(BY_LEAD, _owner_of(event.lead_stream))

    def _received(self, recorded: Recorded, event: ev.MessageReceived, owner: Owner) -> None:
        self._begins(recorded, event.message_id, owner)

    def _started(self, _: Recorded, event: ev.ActionStarted, owner: Owner) -> None:
        undoing = "undoing " if event.undo else ""
        self._waits((*owner, event.message_id), f"outcome of {undoing}{event.action}")

    def _deferred(self, _: Recorded, event: ev.ActionDeferred, owner: Owner) -> None:
        target = event.target or event.action
        reasons = {"breaker": f"breaker {target}", "busy": f"a turn at {target}", "retry": RETRY}
        reason = reasons.get(event.reason, TARGET_CONFIGURATION)
        self._waits((*owner, event.message_id), reason)

    def _ended(self, _: Recorded, event: ev.MessageCompleted | ev.MessageDeadLettered, owner: Owner) -> None:
        self.rows.remove((*owner, event.message_id))

    def _retried(self, recorded: Recorded, event: ev.DeadLetterRetried, owner: Owner) -> None:
        """A message joins the end of its lead's queue; a reject only when it is received."""
        if owner[0] and event.message_id is not None:
            self._begins(recorded, event.message_id, owner)

    def _resolved(self, recorded: Recorded, event: ev.DeadLetterResolved, owner: Owner) -> None:
        if event.requeued and owner[0] and event.message_id is not None:
            self._begins(recorded, event.message_id, owner)

    def _stopped(self, _: Recorded, event: ev.LeadStopped, owner: Owner) -> None:
        self._all_wait(event.lead_stream, LEAD_RESUME)

    def _resumed(self, _: Recorded, event: ev.LeadResumed, owner: Owner) -> None:
        self._all_wait(event.lead_stream, ITS_TURN)

    def _all_wait(self, lead_stream: str, what: str) -> None:
        owner = _owner_of(lead_stream)
        for key in [key for key in self.rows.known if key[:2] == owner]:
            self._waits(key, what)

    def _begins(self, recorded: Recorded, message_id: str, owner: Owner) -> None:
        partition = recorded.place.partition if recorded.place is not None else None
        self.rows.put(
            (*owner, message_id),
            UnfinishedRow(*owner, partition, message_id, instant(recorded.at), ITS_TURN),
        )

    def _waits(self, key: tuple[str, str, str], what: str) -> None:
        row = self.rows.get(key)
        if row is not None:
            row.waiting_for = what
            self.rows.put(key, row)


def _owner_of(lead_stream: str) -> Owner:
    business_id, lead_id = lead_of_stream(lead_stream)
    return lead_id, business_id
