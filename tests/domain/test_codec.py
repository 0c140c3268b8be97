"""Events as bytes: pinned names, pinned encodings, and old shapes that can still be read."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given

from domain import codec, events
from domain.errors import UnknownEventError
from domain.events import STORED_NAMES, Event, IntentDetected, Recorded
from domain.tenants import Thresholds
from tests.support.domain_samples import any_recorded, sample_of

GOLDEN = Path(__file__).parents[1] / "contracts" / "golden"
STREAM = "lead:acme-foods:lead-1"


class Row(msgspec.Struct):
    """A line of a golden file: a stored name, and the stored JSON byte for byte."""

    name: str
    row: msgspec.Raw


def rows(file: str) -> Iterable[Row]:
    return (msgspec.json.decode(line, type=Row) for line in (GOLDEN / file).read_bytes().splitlines())


def line_of(kind: type[Event]) -> str:
    name, row = codec.encode(sample_of(kind))
    return msgspec.json.encode(Row(name, msgspec.Raw(row))).decode()


@pytest.fixture(scope="module")
def golden() -> dict[str, bytes]:
    return {row.name: bytes(row.row) for row in rows("events.v1.jsonl")}


@pytest.mark.parametrize("kind", STORED_NAMES, ids=lambda kind: kind.__name__)
def test_every_event_has_a_sample_in_the_golden_file(kind: type[Event], golden: dict[str, bytes]) -> None:
    assert STORED_NAMES[kind] in golden, f"add to {GOLDEN / 'events.v1.jsonl'}:\n{line_of(kind)}"


@pytest.mark.parametrize("kind", STORED_NAMES, ids=lambda kind: kind.__name__)
def test_no_encoding_ever_changes_under_its_name(kind: type[Event], golden: dict[str, bytes]) -> None:
    name, row = codec.encode(sample_of(kind))
    assert row.decode() == golden[name].decode(), (
        f"{name} is stored in other bytes than before: a new shape needs a new version and an upcaster,"
        f" or (for a new field with a default) a new sample:\n{line_of(kind)}"
    )


def test_no_stored_name_is_ever_taken_away(golden: dict[str, bytes]) -> None:
    assert set(golden) <= set(STORED_NAMES.values()) | set(codec.UPCASTERS)
    assert len(set(STORED_NAMES.values())) == len(STORED_NAMES)


def test_every_golden_sample_is_read_as_what_it_was(golden: dict[str, bytes]) -> None:
    samples = {STORED_NAMES[kind]: sample_of(kind) for kind in STORED_NAMES}
    for name, row in golden.items():
        assert codec.decode(name, row, STREAM, 3, 11) == samples[name]


def test_every_event_has_a_stored_name() -> None:
    kinds = {
        kind
        for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
    }
    assert kinds == set(STORED_NAMES)


@pytest.mark.parametrize("kind", STORED_NAMES, ids=lambda kind: kind.__name__)
def test_a_stored_name_says_the_event_and_its_version(kind: type[Event]) -> None:
    words, _, version = STORED_NAMES[kind].partition(".v")
    assert words.replace("_", "") == kind.__name__.lower()
    assert version.isdecimal()


@given(any_recorded())
def test_every_event_comes_back_as_it_was_recorded(recorded: Recorded) -> None:
    name, row = codec.encode(recorded)
    back = codec.decode(name, row, recorded.stream, recorded.version, recorded.position)
    assert back == recorded
    assert type(back.event) is type(recorded.event)
    assert codec.encode(back) == (name, row)
    assert codec.event_id_of(row) == recorded.event_id


def test_a_row_is_json_that_an_analyst_can_read() -> None:
    _, row = codec.encode(sample_of(IntentDetected))
    document = msgspec.json.decode(row)
    assert document["event"]["intent"] == "the intent"
    assert document["at"] == "2026-11-02T08:00:01.123456Z"


def test_fields_of_a_newer_version_are_ignored() -> None:
    name, row = codec.encode(sample_of(IntentDetected))
    newer = row.replace(b'"band"', b'"of_tomorrow":[1],"band"')
    assert codec.decode(name, newer, STREAM, 3, 11) == sample_of(IntentDetected)


# rows that cannot be read


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("intent_guessed.v1", b"{}"),
        ("intent_guessed.v1", b'{"id":"x","at":"2026-11-02T08:00:00Z","event":{}}'),
        ("intent_detected.v1", b""),
        ("intent_detected.v1", b"\xff\xfe"),
        ("intent_detected.v1", b"{}"),
        ("intent_detected.v1", b'{"id":"x","at":"2026-11-02T08:00:00Z","event":{"message_id":7}}'),
        ("intent_detected.v1", b"[" * 100_000),
        ("", b""),
    ],
)
def test_a_row_that_cannot_be_read_is_named(name: str, row: bytes) -> None:
    with pytest.raises(UnknownEventError) as failure:
        codec.decode(name, row, STREAM, 42, 4711)
    said = str(failure.value)
    assert "event 4711" in said
    assert "version 42" in said
    assert STREAM in said
    assert name in said


def test_any_flipped_byte_gives_an_event_or_the_one_error() -> None:
    name, row = codec.encode(sample_of(IntentDetected))
    for place in range(len(row)):
        flipped = bytes([*row[:place], row[place] ^ 0x80, *row[place + 1 :]])
        with suppress(UnknownEventError):
            assert isinstance(codec.decode(name, flipped, STREAM, 1), Recorded)


# old shapes


def _intent_detected_v0(event: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Before bands were recorded: `score` instead of `confidence`, and the band followed from it."""
    score = event.pop("score")
    limits = Thresholds()
    band = "high" if score >= limits.high else "medium" if score >= limits.low else "low"
    return "intent_detected.v1", {**event, "confidence": score, "band": band}


def _intent_guessed_v1(event: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name before that one, with the handler unsaid."""
    return "intent_detected.v0", {**event, "handler": event["intent"]}


UPCASTERS = {"intent_detected.v0": _intent_detected_v0, "intent_guessed.v1": _intent_guessed_v1}


def test_an_old_sample_is_read_through_its_upcaster() -> None:
    got = [
        codec.decode(row.name, bytes(row.row), STREAM, 2, 9, upcasters=UPCASTERS) for row in rows("old.jsonl")
    ]
    assert [recorded.event for recorded in got] == [
        IntentDetected("wamid.1", "COMPLAINT", "COMPLAINT", 0.91, "high"),
        IntentDetected("wamid.2", "ORDER_REQUEST", "ORDER_REQUEST", 0.62, "medium"),
        IntentDetected("wamid.3", "PRAISE", "PRAISE", 0.31, "low"),
    ]
    assert [(recorded.version, recorded.position, recorded.cause) for recorded in got] == [
        (2, 9, "in:1"),
        (2, 9, "in:2"),
        (2, 9, "in:3"),
    ]


def test_what_was_upcast_is_stored_under_the_new_name_when_it_is_stored_again() -> None:
    old = next(iter(rows("old.jsonl")))
    recorded = codec.decode(old.name, bytes(old.row), STREAM, 2, upcasters=UPCASTERS)
    name, row = codec.encode(recorded)
    assert name == "intent_detected.v1"
    assert codec.decode(name, row, STREAM, 2) == recorded


def test_an_old_sample_without_its_upcaster_is_an_error_that_names_the_row() -> None:
    old = next(iter(rows("old.jsonl")))
    with pytest.raises(UnknownEventError, match=r"event 9 \(intent_detected\.v0, version 2 of lead:"):
        codec.decode(old.name, bytes(old.row), STREAM, 2, 9)


def test_an_upcaster_that_raises_is_an_error_that_names_the_row() -> None:
    old = next(iter(rows("old.jsonl")))
    with pytest.raises(UnknownEventError, match="event 9"):
        codec.decode(
            old.name, bytes(old.row), STREAM, 2, 9, upcasters={old.name: lambda event: event["nobody"]}
        )
