"""The tables of docs/targets.md, row by row: which faults of the servers are the answer that a row speaks of."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.docs import table_rows

#: A table's first heading.
HTTP_TABLE = "what comes back by HTTP"
MAIL_TABLE = "what comes back by SMTP"

#: Row of the table for HTTP → the faults that are it.
HTTP_ROWS: Mapping[str, tuple[str, ...]] = {
    "2xx": ("",),
    "2xx, but without what the undo needs": ("broken", "reset_within", "huge"),
    "401, 403": ("401", "403"),
    "410": ("410",),
    "429": ("429", "429_date", "429_bare"),
    "503 with `Retry-After`": ("503_pause",),
    "any other 5xx, and 408, 425": ("500", "502", "503", "500_after", "408", "425"),
    "3xx": ("302",),
    "409": ("409",),
    "any other 4xx": ("422",),
    "no connection: refused, no such name, no TLS": ("refused",),
    "no answer, or half a one, after something was sent": (
        "silent_before",
        "silent_after",
        "reset_before",
        "reset_after",
        "drip",
    ),
}
MAIL_ROWS: Mapping[str, tuple[str, ...]] = {
    "250 after the mail": ("",),
    "4xx before 354": ("450_rcpt", "454_auth"),
    "5xx before 354": ("550_rcpt",),
    "5xx to the login, 530": ("wrong password", "535_auth", "530_mail"),
    "no connection: refused, no such name, no TLS": ("refused",),
    "the connection breaks, or the time is over, before 354": ("silent_before", "reset_before"),
    "4xx after the mail": ("451_data", "451_after"),
    "5xx after the mail": ("554_data",),
    "the connection breaks, or the time is over, after 354": ("silent_after", "reset_after", "drip"),
}
#: After these the deed was done, whatever the answer said.
DEEDS = {
    "",
    "broken",
    "reset_within",
    "huge",
    "500_after",
    "451_after",
    "silent_after",
    "reset_after",
    "drip",
}


def said_of(table: str) -> dict[str, list[str]]:
    """Row of the document's table → its other cells."""
    return {row[0]: row[1:] for row in table_rows("docs/targets.md", table)}
