"""The view `leads`: one row a lead, from its first message on."""

from __future__ import annotations

from msgspec import Struct

from domain import events as ev
from domain.events import Event, Recorded
from projections import schema
from projections.rows import Folds, Needs, Owner, Rows

#: Most events are about leads that were just heard of: their rows stay in memory, about 1 KiB each.
KEPT_LEADS = 20_000


class LeadRow(Struct, gc=False):
    lead_id: str
    business_id: str
    tenant_id: str
    messages: int
    last_intent: str
    flagged: bool
    open_tasks: int
    first_seen_at: str
    last_seen_at: str


class FlagsRow(Struct, gc=False):
    lead_id: str
    business_id: str
    flags: int


class Leads:
    """Folds the view. Duplicates count nothing here: the metrics and the lead's history show them."""

    def __init__(self) -> None:
        self.rows = Rows(schema.leads, LeadRow, kept=KEPT_LEADS)
        self._flags = Rows(schema.lead_flags, FlagsRow)
        self.tables = (self.rows, self._flags)
        self.needs: Needs = {
            ev.MessageReceived: self.will_need,
            ev.LeadFlagged: self._will_need_flags,
            ev.LeadUnflagged: self._will_need_flags,
        }
        self.folds: Folds = {
            ev.MessageReceived: self._received,
            ev.LeadFlagged: self._flagged,
            ev.LeadUnflagged: self._unflagged,
        }

    def task_opened(self, owner: Owner) -> None:
        row = self.rows.get(owner)
        if row is not None:
            row.open_tasks += 1
            self.rows.touch(owner, row)

    def task_closed(self, owner: Owner) -> None:
        row = self.rows.get(owner)
        if row is not None:
            row.open_tasks -= 1
            self.rows.touch(owner, row)

    def will_need(self, event: Event, owner: Owner) -> None:
        """The event changes its lead's row."""
        self.rows.will_need(owner)

    def _will_need_flags(self, event: ev.LeadFlagged, owner: Owner) -> None:
        self.rows.will_need(owner)
        self._flags.will_need(owner)

    def _received(self, recorded: Recorded, event: ev.MessageReceived, owner: Owner, at: str) -> None:
        row = self.rows.get(owner)
        if row is None:
            row = LeadRow(*owner, event.tenant_id, 0, event.intent, False, 0, at, at)
        row.tenant_id = event.tenant_id  # a business may have moved
        row.messages += 1
        row.last_intent = event.intent
        row.last_seen_at = at
        self.rows.put(owner, row)

    def _flagged(self, _: Recorded, event: ev.LeadFlagged, owner: Owner, at: str) -> None:
        self._flag(owner, 1)

    def _unflagged(self, _: Recorded, event: ev.LeadUnflagged, owner: Owner, at: str) -> None:
        self._flag(owner, -1)

    def _flag(self, owner: Owner, change: int) -> None:
        flags = self._flags.get(owner) or FlagsRow(*owner, 0)
        flags.flags = max(0, flags.flags + change)
        self._flags.put(owner, flags)
        row = self.rows.get(owner)
        if row is not None:
            row.flagged = flags.flags > 0
            self.rows.touch(owner, row)
