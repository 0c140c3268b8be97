"""Dead letters by cause: errors that differ only in numbers, ids and quoted parts have one cause."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha1
from typing import Any

#: What stands between quotes is about one message; what is left says the cause.
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|`[^`]*`|(?<!\w)'[^']*'(?!\w)")
#: A word with a digit in it is a number, a time, or somebody's id.
_NUMBERED = re.compile(r"[^\s,;:()\[\]{}<>]*\d[^\s,;()\[\]{}<>]*")
_LENGTH = 160


def cause(error: str) -> str:
    """An error without what is particular to one message."""
    text = _QUOTED.sub("…", error)
    text = _NUMBERED.sub("#", text)
    line = " ".join(text.split())
    return line if len(line) <= _LENGTH else f"{line[: _LENGTH - 1]}…"


def group_key(letter: dict[str, Any]) -> str:
    """What names a dead letter's group on the command line; the same for the same cause, wherever it is asked."""
    named = f"{letter['category']}\0{cause(letter['error_message'])}"
    return sha1(named.encode(), usedforsecurity=False).hexdigest()[:8]


def groups(letters: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a cause, the most frequent first."""
    found: dict[str, dict[str, Any]] = {}
    for letter in letters:
        key = group_key(letter)
        group = found.setdefault(
            key,
            {
                "group": key,
                "category": letter["category"],
                "cause": cause(letter["error_message"]),
                "count": 0,
                "first_at": letter["created_at"],
                "last_at": letter["updated_at"],
                "businesses": set(),
                "example": letter["id"],
            },
        )
        group["count"] += 1
        group["first_at"] = min(group["first_at"], letter["created_at"])
        group["last_at"] = max(group["last_at"], letter["updated_at"])
        if letter["business_id"] is not None:
            group["businesses"].add(letter["business_id"])
    rows = [group | {"businesses": sorted(group["businesses"])} for group in found.values()]
    return sorted(rows, key=lambda row: (-row["count"], row["group"]))
