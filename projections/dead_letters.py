"""The view `dead_letter_queue`: one row a message that a person has to look at, over all its runs."""

from __future__ import annotations

from msgspec import Struct

from domain import events as ev
from domain.events import Recorded
from projections import schema
from projections.rows import Folds, Needs, Owner, Rows
from projections.schema import maybe_instant, no_nul

BY_MESSAGE = ("business_id", "lead_id", "message_id")


class DeadLetterRow(Struct, gc=False):
    id: str
    message_id: str | None
    lead_id: str | None
    business_id: str | None
    tenant_id: str | None
    original_payload: str
    error_message: str
    error_stack: str | None
    attempt_count: int
    first_attempt_at: str | None
    last_attempt_at: str | None
    status: str
    category: str
    created_at: str
    updated_at: str


class SubjectRow(Struct, gc=False):
    id: str
    business_token: str
    lead_token: str


class DeadLetters:
    """Folds the view, and keeps the two tokens that a command about a dead letter goes to [H13]."""

    def __init__(self) -> None:
        self.rows = Rows(schema.dead_letter_queue, DeadLetterRow)
        self._subjects = Rows(schema.dead_letter_subjects, SubjectRow)
        self.tables = (self.rows, self._subjects)
        #: (business id, lead id, message id) → dead letters of it that were being retried in this batch.
        self._retrying: dict[tuple[str | None, ...], list[str]] = {}
        self.needs: Needs = {
            ev.MessageDeadLettered: self._will_need,
            ev.MessageRejected: self._will_need,
            ev.DeadLetterRetried: self._will_need,
            ev.DeadLetterAmended: self._will_need,
            ev.DeadLetterResolved: self._will_need,
            ev.DeadLetterDiscarded: self._will_need,
            ev.LeadResumed: self._will_need_all,
            ev.MessageReceived: self._will_need_redriven,
            ev.DuplicateDetected: self._will_need_redriven,
            ev.MessageCompleted: self._will_need_of_message,
        }
        self.folds: Folds = {
            ev.MessageDeadLettered: self._dead_lettered,
            ev.MessageRejected: self._rejected,
            ev.DeadLetterRetried: self._retried,
            ev.DeadLetterAmended: self._amended,
            ev.DeadLetterResolved: self._resolved,
            ev.DeadLetterDiscarded: self._discarded,
            ev.LeadResumed: self._resumed,
            ev.MessageReceived: self._redriven,
            ev.DuplicateDetected: self._redriven,
            ev.MessageCompleted: self._completed,
        }

    def begins(self) -> None:
        """What the batch needs is loaded."""
        self._retrying.clear()
        for row in self.rows.known.values():
            if row is not None and row.status == "retrying":
                self._is_retried(row)

    def _will_need(self, event: ev.DeadLetterRetried, owner: Owner) -> None:
        self.rows.will_need(event.dead_letter_id)

    def _will_need_all(self, event: ev.LeadResumed, owner: Owner) -> None:
        for dead_letter_id in event.dead_letter_ids:
            self.rows.will_need(dead_letter_id)

    def _will_need_redriven(self, event: ev.DuplicateDetected, owner: Owner) -> None:
        if event.redrive_of is not None:
            self.rows.will_need(event.redrive_of)

    def _will_need_of_message(self, event: ev.MessageCompleted, owner: Owner) -> None:
        if event.dead_letter_id is not None:
            self.rows.will_need(event.dead_letter_id)
        elif event.run > 1:  # a first run was never retried
            self.rows.will_need_by(BY_MESSAGE, (owner[1], owner[0], event.message_id))

    def _dead_lettered(
        self, recorded: Recorded, event: ev.MessageDeadLettered, owner: Owner, at: str
    ) -> None:
        before = self.rows.get(event.dead_letter_id)
        self.rows.put(
            event.dead_letter_id,
            DeadLetterRow(
                event.dead_letter_id,
                event.message_id,
                owner[0],
                owner[1],
                event.tenant_id,
                no_nul(event.original_payload),
                no_nul(event.error),
                no_nul(event.stack) if event.stack else None,
                event.attempts,
                maybe_instant(event.first_attempt_at),
                maybe_instant(event.last_attempt_at),
                "resolved" if event.settled else "failed",
                event.category,
                before.created_at if before else at,
                at,
            ),
        )
        _, business_token, lead_token = recorded.stream.split(":", 2)
        self._subject(event.dead_letter_id, business_token, lead_token)

    def _rejected(self, recorded: Recorded, event: ev.MessageRejected, _: Owner, at: str) -> None:
        before = self.rows.get(event.dead_letter_id)
        self.rows.put(
            event.dead_letter_id,
            DeadLetterRow(
                event.dead_letter_id,
                event.message_id,
                event.lead_id,
                event.business_id,
                event.tenant_id,
                no_nul(event.payload),
                no_nul(event.reason),
                None,
                0,
                None,
                None,
                "failed",
                event.category,
                before.created_at if before else at,
                at,
            ),
        )
        tokens = event.subject.rsplit(".", 2)
        if len(tokens) == 3:
            self._subject(event.dead_letter_id, no_nul(tokens[1]), no_nul(tokens[2]))

    def _retried(self, recorded: Recorded, event: ev.DeadLetterRetried, _: Owner, at: str) -> None:
        self._becomes(event.dead_letter_id, "retrying", at)

    def _resumed(self, recorded: Recorded, event: ev.LeadResumed, _: Owner, at: str) -> None:
        for dead_letter_id in event.dead_letter_ids:
            self._becomes(dead_letter_id, "retrying", at)

    def _amended(self, recorded: Recorded, event: ev.DeadLetterAmended, _: Owner, at: str) -> None:
        row = self.rows.get(event.dead_letter_id)
        if row is not None:  # the payload stays the original: what was changed stands in the history
            self._becomes(event.dead_letter_id, row.status, at)

    def _resolved(self, recorded: Recorded, event: ev.DeadLetterResolved, _: Owner, at: str) -> None:
        settled = "retrying" if event.outcome == "retried" else "resolved"
        self._becomes(event.dead_letter_id, settled, at)

    def _discarded(self, recorded: Recorded, event: ev.DeadLetterDiscarded, _: Owner, at: str) -> None:
        self._becomes(event.dead_letter_id, "discarded", at)

    def _redriven(
        self, recorded: Recorded, event: ev.MessageReceived | ev.DuplicateDetected, _: Owner, at: str
    ) -> None:
        if event.redrive_of is not None:
            self._becomes(event.redrive_of, "resolved", at)

    def _completed(self, recorded: Recorded, event: ev.MessageCompleted, owner: Owner, at: str) -> None:
        if event.dead_letter_id is not None:
            self._calls_made(event, event.dead_letter_id)
        for dead_letter_id in self._retrying.get((owner[1], owner[0], event.message_id), ()):
            row = self.rows.get(dead_letter_id)
            if row is not None and row.status == "retrying":
                self._becomes(dead_letter_id, "resolved", at)

    def _calls_made(self, event: ev.MessageCompleted, dead_letter_id: str) -> None:
        """One row over all runs: the calls of the run that ended well count too."""
        row = self.rows.get(dead_letter_id)
        if row is not None:
            row.attempt_count = event.attempts
            row.first_attempt_at = maybe_instant(event.first_attempt_at)
            row.last_attempt_at = maybe_instant(event.last_attempt_at)
            self.rows.touch(dead_letter_id, row)

    def _becomes(self, dead_letter_id: str, status: str, at: str) -> None:
        row = self.rows.get(dead_letter_id)
        if row is None:
            return
        row.status = status
        if status == "retrying":
            self._is_retried(row)
        row.updated_at = at
        self.rows.touch(dead_letter_id, row)

    def _is_retried(self, row: DeadLetterRow) -> None:
        self._retrying.setdefault((row.business_id, row.lead_id, row.message_id), []).append(row.id)

    def _subject(self, dead_letter_id: str, business_token: str, lead_token: str) -> None:
        self._subjects.put(dead_letter_id, SubjectRow(dead_letter_id, business_token, lead_token))
