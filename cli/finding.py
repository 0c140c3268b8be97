"""A finding of `doctor`: what one look saw, and what to do about it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Finding(Struct, frozen=True):
    """What one look found. A `mend` says what to do."""

    subject: str
    #: `bad` makes `doctor` end with 1; a `warning` is for a person to weigh.
    state: Literal["good", "warning", "bad"]
    found: str
    mend: str = ""
