"""The view `unfinished`: each message that is received and has not ended, and what it waits for.

A start finds the leads to wake in it; `status --wait-idle` reads from it what only a person can move.
"""

from __future__ import annotations

from msgspec import Struct

from domain import events as ev
from domain.events import Place, Recorded
from domain.tokens import lead_of_stream
from projections import schema
from projections.rows import Folds, Needs, Owner, Rows

BY_LEAD = ("lead_id", "business_id")

ITS_TURN = "its turn"
RETRY = "retry"
TARGET_CONFIGURATION = "target configuration"
LEAD_RESUME = "lead resume"

DEAD_LETTER = "dead letter "

#: What is at work is heard of again soon: so many rows stay in memory, less than 1 KiB each.
KEPT = 20_000

#: What moves on only when a person does something, besides what waits behind a dead letter.
WAITS_FOR_PERSON = frozenset({TARGET_CONFIGURATION, LEAD_RESUME})


def waits_for_person(waiting_for: str) -> bool:
    """Whether a message moves on only when a person does something."""
    return waiting_for in WAITS_FOR_PERSON or waiting_for.startswith(DEAD_LETTER)


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
        self.rows = Rows(schema.unfinished, UnfinishedRow, kept=KEPT)
        self.tables = (self.rows,)
        #: Lead → its rows that are known, removed ones among them; made when a batch first asks for it.
        self._by_lead: dict[Owner, set[tuple[str, str, str]]] | None = None
        self.needs: Needs = {
            ev.MessageReceived: self._will_make,
            ev.ActionStarted: self._will_need,
            ev.ActionDeferred: self._will_need,
            ev.MessageCompleted: self._will_need_if_held,
            ev.MessageDeadLettered: self._will_need_mates,
            ev.DeadLetterRetried: self._will_need,
            ev.DeadLetterResolved: self._will_need_mates,
            ev.DeadLetterDiscarded: self._will_need_mates,
            ev.LeadStopped: self._will_need_lead,
            ev.LeadResumed: self._will_need_lead,
        }
        self.folds: Folds = {
            ev.MessageReceived: self._received,
            ev.ActionStarted: self._started,
            ev.ActionDeferred: self._deferred,
            ev.MessageCompleted: self._ended,
            ev.MessageDeadLettered: self._dead_lettered,
            ev.DeadLetterRetried: self._retried,
            ev.DeadLetterResolved: self._resolved,
            ev.DeadLetterDiscarded: self._discarded,
            ev.LeadStopped: self._stopped,
            ev.LeadResumed: self._resumed,
        }

    def begins(self) -> None:
        """What the batch needs is loaded."""
        self._by_lead = None

    def _will_make(self, event: ev.MessageReceived, owner: Owner) -> None:
        self.rows.will_make((*owner, event.message_id))

    def _will_need(self, event: ev.ActionStarted, owner: Owner) -> None:
        self.rows.will_need((*owner, event.message_id))

    def _will_need_lead(self, event: ev.LeadStopped, owner: Owner) -> None:
        self.rows.will_need_by(BY_LEAD, _owner_of(event.lead_stream))

    def _will_need_if_held(self, event: ev.MessageCompleted, owner: Owner) -> None:
        if event.dead_letter_id is not None:
            self.rows.will_need_by(BY_LEAD, owner)

    def _will_need_mates(self, event: ev.DeadLetterResolved, owner: Owner) -> None:
        """Other messages of the lead may wait behind this one, or will."""
        if owner[0]:
            self.rows.will_need_by(BY_LEAD, owner)

    def _received(self, recorded: Recorded, event: ev.MessageReceived, owner: Owner, at: str) -> None:
        self._begins(recorded.place, event.message_id, owner, event.behind, at)

    def _started(self, _: Recorded, event: ev.ActionStarted, owner: Owner, at: str) -> None:
        undoing = "undoing " if event.undo else ""
        self._waits((*owner, event.message_id), f"outcome of {undoing}{event.action}")

    def _deferred(self, _: Recorded, event: ev.ActionDeferred, owner: Owner, at: str) -> None:
        target = event.target or event.action
        reasons = {"breaker": f"breaker {target}", "busy": f"a turn at {target}", "retry": RETRY}
        reason = reasons.get(event.reason, TARGET_CONFIGURATION)
        self._waits((*owner, event.message_id), reason)

    def _ended(self, _: Recorded, event: ev.MessageCompleted, owner: Owner, at: str) -> None:
        self.rows.remove((*owner, event.message_id))
        if event.dead_letter_id is not None:
            self._let_go(event.dead_letter_id, owner)

    def _dead_lettered(self, _: Recorded, event: ev.MessageDeadLettered, owner: Owner, at: str) -> None:
        self.rows.remove((*owner, event.message_id))
        if event.parks:
            self._all_wait(owner, f"{DEAD_LETTER}{event.dead_letter_id}")
        else:
            self._let_go(event.dead_letter_id, owner)

    def _retried(self, recorded: Recorded, event: ev.DeadLetterRetried, owner: Owner, at: str) -> None:
        """A message joins the end of its lead's queue; a reject only when it is received."""
        if owner[0] and event.message_id is not None:
            self._begins(recorded.place, event.message_id, owner, event.behind, at)

    def _resolved(self, recorded: Recorded, event: ev.DeadLetterResolved, owner: Owner, at: str) -> None:
        if not event.requeued:
            self._let_go(event.dead_letter_id, owner)
        elif owner[0] and event.message_id is not None:
            self._begins(recorded.place, event.message_id, owner, event.behind, at)

    def _discarded(self, _: Recorded, event: ev.DeadLetterDiscarded, owner: Owner, at: str) -> None:
        self._let_go(event.dead_letter_id, owner)

    def _stopped(self, _: Recorded, event: ev.LeadStopped, owner: Owner, at: str) -> None:
        self._all_wait(_owner_of(event.lead_stream), LEAD_RESUME)

    def _resumed(self, _: Recorded, event: ev.LeadResumed, owner: Owner, at: str) -> None:
        self._all_wait(_owner_of(event.lead_stream), ITS_TURN)

    def _all_wait(self, owner: Owner, what: str) -> None:
        """All of a lead's, but for those that wait behind a dead letter, whatever else happens to the lead."""
        for key, row in self._of_lead(owner):
            if not row.waiting_for.startswith(DEAD_LETTER):
                self._waits(key, what)

    def _let_go(self, dead_letter_id: str, owner: Owner) -> None:
        """What has waited behind this dead letter waits for its turn."""
        for key, row in self._of_lead(owner):
            if row.waiting_for == f"{DEAD_LETTER}{dead_letter_id}":
                self._waits(key, ITS_TURN)

    def _of_lead(self, owner: Owner) -> list[tuple[tuple[str, str, str], UnfinishedRow]]:
        if self._by_lead is None:
            self._by_lead = {}
            for key in self.rows.known:
                self._by_lead.setdefault(key[:2], set()).add(key)
        found = ((key, self.rows.get(key)) for key in self._by_lead.get(owner, ()))
        return [(key, row) for key, row in found if row is not None]

    def _begins(
        self, place: Place | None, message_id: str, owner: Owner, behind: str | None, at: str
    ) -> None:
        if self._by_lead is not None:
            self._by_lead.setdefault(owner, set()).add((*owner, message_id))
        waiting_for = ITS_TURN if behind is None else f"{DEAD_LETTER}{behind}"
        partition = place.partition if place is not None else None
        self.rows.put(
            (*owner, message_id),
            UnfinishedRow(*owner, partition, message_id, at, waiting_for),
        )

    def _waits(self, key: tuple[str, str, str], what: str) -> None:
        row = self.rows.get(key)
        if row is not None:
            row.waiting_for = what
            self.rows.touch(key, row)


def _owner_of(lead_stream: str) -> Owner:
    business_id, lead_id = lead_of_stream(lead_stream)
    return lead_id, business_id
