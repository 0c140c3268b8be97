"""The view `processed_messages`: one row per business, lead and message id, and how it ended.

`expires_at` is a column, not an action: nothing here is changed by the wall clock.
"""

from __future__ import annotations

from datetime import timedelta

from msgspec import Struct

from domain import events as ev
from domain.events import Recorded
from projections import schema
from projections.dead_letters import DeadLetters
from projections.rows import Folds, Needs, Owner, Rows
from projections.schema import instant

#: For how long a message id is promised to take effect once, from its recorded receipt [G3].
EXPIRY = timedelta(days=8)

#: So many rows of messages at work stay in memory: each changes once more, when it ends.
KEPT = 20_000


class ProcessedRow(Struct, gc=False):
    message_id: str
    lead_id: str
    business_id: str
    processing_status: str
    disposition: str
    processed_at: str | None
    expires_at: str
    created_at: str


class ProcessedMessages:
    """Folds the view. Asks the dead letters whose a rejected message was."""

    def __init__(self, dead_letters: DeadLetters) -> None:
        self._dead_letters = dead_letters
        self._rows = Rows(schema.processed_messages, ProcessedRow, kept=KEPT, worth=_is_open)
        self.tables = (self._rows,)
        self.needs: Needs = {
            ev.MessageReceived: self._will_make,
            ev.MessageCompleted: self._will_need,
            ev.MessageDeadLettered: self._will_need,
            ev.MessageRejected: self._will_need_rejected,
            ev.DeadLetterRetried: self._will_need,
            ev.DeadLetterResolved: self._will_need,
        }
        self.folds: Folds = {
            ev.MessageReceived: self._received,
            ev.MessageCompleted: self._completed,
            ev.MessageDeadLettered: self._dead_lettered,
            ev.MessageRejected: self._rejected,
            ev.DeadLetterRetried: self._retried,
            ev.DeadLetterResolved: self._resolved,
        }

    def needs_of_dead_letter(self, event: ev.DeadLetterResolved) -> None:
        """A rejected message was settled: its row is known by its dead letter, which is loaded by now."""
        key = self._key_of_dead_letter(event.dead_letter_id)
        if key is not None:
            self._rows.will_need(key)

    def _will_make(self, event: ev.MessageReceived, owner: Owner) -> None:
        self._rows.will_make((event.message_id, *owner))

    def _will_need(self, event: ev.MessageCompleted, owner: Owner) -> None:
        self._rows.will_need((event.message_id, *owner))

    def _will_need_rejected(self, event: ev.MessageRejected, owner: Owner) -> None:
        key = (event.message_id, event.lead_id, event.business_id)
        if None not in key:
            self._rows.will_need(key)

    def _received(self, recorded: Recorded, event: ev.MessageReceived, owner: Owner, at: str) -> None:
        """Takes over the row of the id's earlier life [H23], or of its rejection."""
        key = (event.message_id, *owner)
        expires_at = instant(recorded.at + EXPIRY)
        self._rows.put(key, ProcessedRow(*key, "retrying", "in_progress", None, expires_at, at))

    def _completed(self, recorded: Recorded, event: ev.MessageCompleted, owner: Owner, at: str) -> None:
        self._ends((event.message_id, *owner), "success", "completed", at)

    def _dead_lettered(
        self, recorded: Recorded, event: ev.MessageDeadLettered, owner: Owner, at: str
    ) -> None:
        self._ends((event.message_id, *owner), "failed", "dead_lettered", at)

    def _rejected(self, recorded: Recorded, event: ev.MessageRejected, _: Owner, at: str) -> None:
        if event.message_id is None or event.lead_id is None or event.business_id is None:
            return
        key = (event.message_id, event.lead_id, event.business_id)
        if self._rows.get(key) is not None:
            return
        self._rows.put(key, ProcessedRow(*key, "failed", "rejected", at, instant(recorded.at + EXPIRY), at))

    def _retried(self, _: Recorded, event: ev.DeadLetterRetried, owner: Owner, at: str) -> None:
        if event.message_id is not None:
            self._is_at_work((event.message_id, *owner))

    def _resolved(self, recorded: Recorded, event: ev.DeadLetterResolved, owner: Owner, at: str) -> None:
        if event.outcome == "undone" or (event.outcome == "skipped" and not event.requeued):
            return
        if not owner[0]:
            self._resolved_reject(event, at)
        elif event.message_id is not None and event.requeued:
            self._is_at_work((event.message_id, *owner))
        elif event.message_id is not None:
            self._ends((event.message_id, *owner), "success", "completed", at)

    def _resolved_reject(self, event: ev.DeadLetterResolved, at: str) -> None:
        """Completes a message that was only ever rejected: one that its lead has taken under this id ends by itself."""
        key = self._key_of_dead_letter(event.dead_letter_id)
        row = self._rows.get(key) if key is not None else None
        if key is not None and row is not None and row.disposition == "rejected":
            self._ends(key, "success", "completed", at)

    def _is_at_work(self, key: tuple[str, ...]) -> None:
        row = self._rows.get(key)
        if row is None:
            return
        row.processing_status = "retrying"
        row.disposition = "in_progress"
        row.processed_at = None
        self._rows.touch(key, row)

    def _ends(self, key: tuple[str, ...], status: str, disposition: str, at: str) -> None:
        row = self._rows.get(key)
        if row is None:
            return
        row.processing_status = status
        row.disposition = disposition
        row.processed_at = at
        self._rows.touch(key, row)

    def _key_of_dead_letter(self, dead_letter_id: str) -> tuple[str, str, str] | None:
        row = self._dead_letters.rows.get(dead_letter_id)
        if row is None or row.message_id is None or row.lead_id is None or row.business_id is None:
            return None
        return row.message_id, row.lead_id, row.business_id


def _is_open(row: ProcessedRow) -> bool:
    return row.disposition == "in_progress"
