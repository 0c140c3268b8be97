"""Made-up publishes by a seed: messages as publishers send them, bent where a decoder can be caught out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

from tests.support.fuzz_contract import BUSINESSES, is_valid, token_of
from tests.support.system_wire import Entry

_TEXTS = [
    "", " ", "ok", "é", "\u202ertl", "\U0001f600", "a\0b", "\x1b[31m", "\x85", "\u2028", "x" * 65, "x" * 129,
    "x" * 257,
    "ü" * 128, "=2B", "=2b", "../..", "a.b", "a b", "*", ">", "$JS", "'; DROP TABLE tasks; --", "{{7*7}}", "NaN",
    "null", "0.9", "-0", "\\ud800", "\ufeff", "\uffff", "%s%n",
]  # fmt: skip
_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e-320, 1e308, 2**53, 2**53 + 1, 2**63, -(2**63), 10**400, [], {},
    [[]], {"a": {}}, [1], {"": ""}, {"a": 1}, {"a": "b"}, {"\0": "\0"}, {"model": 1}, {"latency_ms": -1},
    {"latency_ms": 1, "latencyMs": 1}, {"latencyMs": 2**53}, "2026-11-02T08:00:00Z",
]  # fmt: skip
_BYTES = [b"\0", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"[" * 3000, b'"', b",", b" ", b"\xef\xbb\xbf"]
_CAMEL = {
    "message_id": "messageId",
    "lead_id": "leadId",
    "business_id": "businessId",
    "received_at": "receivedAt",
    "suggested_response": "suggestedResponse",
}


class Made(NamedTuple):
    """A publish; `valid` as the contract has it, None where it does not say."""

    entry: Entry
    valid: bool | None


def made_up(seed: int, count: int, *, hostile: float = 0.9) -> Iterator[Made]:
    """Publishes with ids that no other number has, as far as they are left whole; about `hostile` of them bent."""
    random = Random(seed)
    for number in range(count):
        document = _message(random, number)
        subject = f"leads.in.{document['business_id']}.{token_of(document['lead_id'])}"
        bends = random.choice((1, 1, 1, 2, 3)) if random.random() < hostile else 0
        for _ in range(bends):
            random.choice(_OF_DOCUMENT)(document, random)
        body = json.dumps(document, ensure_ascii=random.random() < 0.5, allow_nan=True).encode(
            errors="replace"
        )
        if bends and random.random() < 0.5:
            body = random.choice(_OF_BYTES)(body, random)
        if bends and random.random() < 0.1:
            subject = _other_subject(subject, random)
        yield Made(Entry(subject, body), is_valid(subject, body))


def _message(random: Random, number: int) -> dict[str, Any]:
    document: dict[str, Any] = {
        "message_id": f"wamid.{number:07d}=/+",
        "lead_id": f"+49 151/{random.randrange(50)}",
        "business_id": random.choice(sorted(BUSINESSES)),
        "intent": random.choice(["ORDER_REQUEST", "COMPLAINT", "PRICING_INQUIRY", "UNKNOWN", "Grüße"]),
        "confidence": random.choice([0, 1, 0.93, 0.6, 0.2]),
    }
    if random.random() < 0.5:
        document |= {
            "entities": {"product": "tea"},
            "text": "two bags",
            "ai": {"model": "m", "latency_ms": 12},
        }
    return document


def _bend_value(document: dict[str, Any], random: Random) -> None:
    document[random.choice([*document, "entities", "text", "ai", "received_at"])] = random.choice(_VALUES)


def _bend_text(document: dict[str, Any], random: Random) -> None:
    document[random.choice(list(document))] = random.choice(_TEXTS)


def _take_away(document: dict[str, Any], random: Random) -> None:
    if document:
        del document[random.choice(list(document))]


def _respell(document: dict[str, Any], random: Random) -> None:
    name = random.choice(list(_CAMEL))
    if name in document:
        document[_CAMEL[name]] = document[name]
        if random.random() < 0.7:
            del document[name]


def _add(document: dict[str, Any], random: Random) -> None:
    document[random.choice(_TEXTS)] = random.choice(_VALUES)


def _truncate(body: bytes, random: Random) -> bytes:
    return body[: random.randrange(len(body) + 1)]


def _flip(body: bytes, random: Random) -> bytes:
    if not body:
        return b"\xff"
    place = random.randrange(len(body))
    return body[:place] + bytes([body[place] ^ (1 << random.randrange(8))]) + body[place + 1 :]


def _insert(body: bytes, random: Random) -> bytes:
    place = random.randrange(len(body) + 1)
    added = random.choice(
        [b"\0", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"[" * 3000, b'"', b",", b" ", b"\xef\xbb\xbf"]
    )
    return body[:place] + added + body[place:]


def _twice(body: bytes, _: Random) -> bytes:
    return body + body


def _repeat_a_key(body: bytes, random: Random) -> bytes:
    return (
        b'{"intent": "COMPLAINT", ' + body[1:]
        if random.random() < 0.5
        else body[:-1] + b', "confidence": 0.1}'
    )


def _other_subject(subject: str, random: Random) -> str:
    return random.choice(
        [f"{subject}x", subject.replace("=2B", "=2b"), subject.replace("leads.in.", "leads.cmd.")]
    )


_OF_DOCUMENT: list[Callable[[dict[str, Any], Random], None]] = [
    _bend_value,
    _bend_text,
    _take_away,
    _respell,
    _add,
]
_OF_BYTES: list[Callable[[bytes, Random], bytes]] = [_truncate, _flip, _insert, _twice, _repeat_a_key]
