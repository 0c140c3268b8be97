"""Which of the leads that wake have no events yet: asked for all at once that wait for their first read.

A lead's own read is short, but gives the interpreter away and has to get it back, and most of a flood of new leads
find nothing. An answer that is stale by the time it is used is harmless: the first append of a lead that took itself
for new meets what is there, and the lead reads then [H12].
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Protocol

from domain.events import Recorded

#: Asked about at once.
_MOST = 256


class Store(Protocol):
    """Where events are."""

    def without_events(self, streams: Collection[str]) -> Collection[str]:
        """Those of the streams that have none."""
        ...

    def stream(self, stream: str, *, after: int = 0, limit: int = -1) -> Sequence[Recorded]: ...


class Arrivals:
    """Reads streams for the leads' actors; any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        #: Woken and not asked about, in order; and those of which it is known that they have no events. A stream is
        #: in neither once its actor has read it.
        self._woken: dict[str, None] = {}
        self._new: set[str] = set()

    def woken(self, stream: str) -> None:
        """Its actor is going to read it."""
        with self._lock:
            self._new.discard(stream)
            self._woken[stream] = None

    def load(self, stream: str, *, after: int = 0, limit: int = -1) -> Sequence[Recorded]:
        """As `EventStore.stream`."""
        if not after and self._is_new(stream):
            return ()
        return self._store.stream(stream, after=after, limit=limit)

    def _is_new(self, stream: str) -> bool:
        with self._lock:
            if stream in self._woken and len(self._woken) > 1:
                del self._woken[stream]
                asked = (stream, *islice(self._woken, _MOST))
                self._new.update(self._store.without_events(asked))
                for other in asked[1:]:
                    del self._woken[other]
            self._woken.pop(stream, None)
            known = stream in self._new
            self._new.discard(stream)
            return known
