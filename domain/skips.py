"""Events that a person has decided to go on without: which they are, and what stands in their place.

Decisions are events of `operator:events`, a stream that no actor owns. One holds for the row as it was when it was
taken: a row that is mended since is read like any other.
"""

from __future__ import annotations

from hashlib import sha256

from domain.events import Event, EventSkipped, Recorded

#: The stream of the decisions.
SKIPS_STREAM = "operator:events"


class Missing(Event, frozen=True):
    """In a stream's history: an event that cannot be read, and that a person has skipped. It changes nothing but
    the version. Never stored."""


class Skips:
    """The decisions so far. `learn` them in the order of their stream."""

    def __init__(self) -> None:
        #: Of the last decision that is known.
        self.version = 0
        self._digests: dict[int, set[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._digests)

    def learn(self, recorded: Recorded) -> None:
        self.version = recorded.version
        if isinstance(recorded.event, EventSkipped):
            self._digests.setdefault(recorded.event.skipped, set()).add(recorded.event.digest)

    def cover(self, position: int, stream: str, name: str, state: object) -> bool:
        """Whether the row at a position is skipped, as it is now."""
        digests = self._digests.get(position)
        return digests is not None and digest(stream, name, state) in digests


def digest(stream: str, name: str, state: object) -> str:
    """What tells a row from the same row mended. `state` is its bytes, or whatever a damaged store holds there."""
    kept = state if isinstance(state, bytes) else repr(state).encode()
    return sha256(b"\0".join((stream.encode(), name.encode(), kept))).hexdigest()
