"""Events as bytes and back: JSON that an analyst can read with SQL, under a pinned name.

One upcaster stands for one old stored name: it takes the decoded JSON of that shape and gives the
next name and shape, until a name in `STORED_NAMES` is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
from msgspec import Struct

from domain.errors import UnknownEventError
from domain.events import STORED_NAMES, Event, Place, Recorded

E = TypeVar("E")


class _Stored(Struct, Generic[E], frozen=True, gc=False, omit_defaults=True):
    """The stored JSON: envelope and event in one document."""

    id: str
    at: datetime
    event: E
    cause: str = ""
    correlation: str = ""
    trace: str = ""
    place: Place | None = None


class _StoredPart(Struct, Generic[E], frozen=True, gc=False):
    """What a follower needs of it, who needs only parts of its events."""

    id: str
    at: datetime
    event: E
    trace: str = ""
    cause: ClassVar[str] = ""
    correlation: ClassVar[str] = ""
    place: ClassVar[Place | None] = None


Upcaster = Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]

#: Old stored name → what makes the next version of it. Takes and gives the `event` part.
UPCASTERS: Mapping[str, Upcaster] = {}

Decoders = Mapping[str, msgspec.json.Decoder[Any]]

_encoder = msgspec.json.Encoder()
_decoders: Decoders = {
    name: msgspec.json.Decoder(_Stored[kind])  # type: ignore[valid-type]
    for kind, name in STORED_NAMES.items()
}


def encode(recorded: Recorded) -> tuple[str, bytes]:
    """(stored name, JSON) of an event; stream, version and position are the store's own columns."""
    event = recorded.event
    return STORED_NAMES[type(event)], _encoder.encode(
        _Stored(
            recorded.event_id,
            recorded.at,
            event,
            recorded.cause,
            recorded.correlation,
            recorded.trace,
            recorded.place,
        )
    )


def decode(
    name: str,
    state: bytes,
    stream: str,
    version: int,
    position: int = 0,
    *,
    upcasters: Mapping[str, Upcaster] = UPCASTERS,
) -> Recorded:
    """The event of a stored row. Raises `UnknownEventError`, saying which row, if it cannot be read."""
    try:
        decoder = _decoders.get(name)
        stored = decoder.decode(state) if decoder else _upcast(name, state, upcasters)
    except Exception as error:  # flipped bytes raise whatever they raise; the row is named either way
        raise UnknownEventError(
            f"event {position} ({name}, version {version} of {stream}) cannot be read: {error}"
            f" (see `leadline events show {position}`)"
        ) from error
    return Recorded(
        stream,
        version,
        stored.event,
        stored.id,
        stored.at,
        stored.cause,
        stored.correlation,
        stored.trace,
        stored.place,
        position,
    )


def decode_rows(rows: Sequence[tuple[Any, ...]], decoders: Decoders = _decoders) -> list[Recorded]:
    """The events of rows (position, stream, version, name, state) up to the first that cannot be read.

    Raises `UnknownEventError` only where that is the very first. In one loop: a call for each takes a quarter more.
    """
    events: list[Recorded] = []
    append = events.append
    try:
        for position, stream, version, name, state in rows:
            s = decoders[name].decode(state)
            append(
                Recorded(
                    stream, version, s.event, s.id, s.at, s.cause, s.correlation, s.trace, s.place, position
                )
            )
    except Exception:  # an old name, or one that cannot be read: `decode` knows, and says which
        _decode_others(rows, events)
    return events


def _decode_others(rows: Sequence[tuple[Any, ...]], events: list[Recorded]) -> None:
    for position, stream, version, name, state in rows[len(events) :]:
        try:
            events.append(decode(name, state, stream, version, position))
        except UnknownEventError:
            if not events:
                raise
            return


def decoders_of(parts: Mapping[type[Event], type[Event]]) -> Decoders:
    """For `decode_rows`: of some kinds only a part, in an envelope without cause, correlation and place. What is left
    out is skipped by the parser, which takes half the time. So an event that is damaged only there is read: what of it
    is missing, of another type or no UTF-8, whoever decodes the whole event finds."""
    some = {STORED_NAMES[kind]: _part_decoder(part) for kind, part in parts.items() if part is not kind}
    return {**_decoders, **some}


@cache
def _part_decoder(part: type[Event]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_StoredPart[part])  # type: ignore[valid-type]


def event_id_of(state: bytes) -> str:
    """The event id of a stored row, without decoding its event."""
    return msgspec.json.decode(state, type=_OnlyId).id


class _OnlyId(Struct):
    id: str


def _upcast(name: str, state: bytes, upcasters: Mapping[str, Upcaster]) -> _Stored[Event]:
    document = msgspec.json.decode(state)
    event = document["event"]
    while name not in _decoders:
        upcaster = upcasters.get(name)
        if upcaster is None:
            raise LookupError(f"no version of this program knows events named {name!r}")
        name, event = upcaster(event)
    document["event"] = event
    stored: _Stored[Event] = _decoders[name].decode(_encoder.encode(document))
    return stored
