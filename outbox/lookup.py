"""The result that a message already has, for whoever asks again: from its lead's events, of a reject from the views."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from domain.errors import LeadlineError
from domain.ports import EventLog
from domain.results import Result, result_of
from domain.tokens import decode, lead_stream
from projections.queries import Row, Views


class Lookup:
    """`service.FindResult`. Any thread; each call reads one lead's events."""

    def __init__(self, log: EventLog, views: Path) -> None:
        self._log = log
        self._views = Views(views)

    def __call__(self, business_token: str, lead_token: str, message_id: str) -> bytes | None:
        stream = lead_stream(business_token, lead_token)
        result = result_of(self._log, stream, message_id)
        if result is None:
            result = self._of_reject(decode(business_token), decode(lead_token), message_id)
        return None if result is None else msgspec.json.encode(result)

    def _of_reject(self, business_id: str, lead_id: str, message_id: str) -> Result | None:
        try:
            [row] = self._views.processed(business_id, lead_id, message=message_id)
            letters = self._views.dead_letters(business_id, lead_id)
        except (LeadlineError, ValueError):  # no views yet, or no such message in them
            return None
        mine: list[dict[str, Any]] = [letter for letter in letters if letter["message_id"] == message_id]
        if row["disposition"] != "rejected" or not mine:
            return None
        return _rejected(mine[-1], row)


def _rejected(letter: Row, row: Row) -> Result:
    return Result(
        row["message_id"],
        row["lead_id"],
        row["business_id"],
        letter["tenant_id"],
        success=False,
        disposition="rejected",
        at=datetime.fromisoformat(letter["updated_at"]),
        should_escalate=True,
        dead_letter_id=letter["id"],
        category=letter["category"],
        error=letter["error_message"],
    )
