"""Hostile messages: each a dead letter with its reason and its bytes, and nothing else disturbed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support.nats import running_server
from tests.support.system_leadline import SHORT_WAITS, TENANTS, Leadline, leadline
from tests.support.system_sql import Row, events, metric, view
from tests.support.system_wire import Entry, message, publish_raw, to_own_subject

#: Of a larger message so many bytes are kept.
KEPT = 256 * 1024
SUBJECT = "leads.in.acme-foods.=2B49=20151=2F1"


class Hostile(NamedTuple):
    """A publish that must end as a reject, and a part of the reason that it is told with."""

    name: str
    entry: Entry
    reason: str


def changed(**fields: object) -> bytes:
    """A good message but for these fields; `...` takes one away."""
    document = json.loads(message("m-bad")) | fields
    return json.dumps({name: value for name, value in document.items() if value is not ...}).encode()


def at_home(name: str, body: bytes, reason: str) -> Hostile:
    return Hostile(name, Entry(SUBJECT, body), reason)


HOSTILE = [
    at_home("not JSON", b"hello", "JSON"),
    at_home("an empty body", b"", "JSON"),
    at_home("not UTF-8", b'{"message_id": "\xff\xfe"}', "UTF-8"),
    at_home("UTF-16", message("m-bad").decode().encode("utf-16"), "UTF-8"),
    at_home("truncated", message("m-bad")[:-7], "JSON"),
    at_home("two documents", message("m-bad") * 2, "JSON"),
    at_home("a list", b"[" + message("m-bad") + b"]", "object"),
    at_home("null", b"null", "object"),
    at_home("a number as the message id", changed(message_id=7), "message_id"),
    at_home("null as the lead id", changed(lead_id=None), "lead_id"),
    at_home("a list as entities", changed(entities=["flour"]), "entities"),
    at_home("a number among the entities", changed(entities={"amount": 3}), "entities"),
    at_home("a number as the text", changed(text=5), "text"),
    at_home("no message id", changed(message_id=...), "message_id"),
    at_home("no lead id", changed(lead_id=...), "lead_id"),
    at_home("no business id", changed(business_id=...), "business_id"),
    at_home("no intent", changed(intent=...), "intent"),
    at_home("no confidence", changed(confidence=...), "confidence"),
    at_home("an empty message id", changed(message_id=""), "message_id"),
    at_home("an empty lead id", changed(lead_id=""), "lead_id"),
    at_home("an overlong message id", changed(message_id="m" * 257), "message_id"),
    at_home("an overlong lead id", changed(lead_id="4" * 129), "lead_id"),
    at_home("an overlong intent", changed(intent="X" * 65), "intent"),
    at_home("confidence NaN", changed(confidence=float("nan")), "JSON"),
    at_home("confidence -1", changed(confidence=-1), "confidence"),
    at_home("confidence 2", changed(confidence=2), "confidence"),
    at_home('confidence "0.9"', changed(confidence="0.9"), "confidence"),
    at_home("a million brackets", b"[" * 1_000_000, "larger than 262144"),
    at_home("brackets inside a message", b'{"entities": ' + b"[" * 200_000, "entities"),
    at_home("a megabyte", changed(text="x" * 1_000_000), "larger than 262144"),
    at_home("a control character in an id", changed(message_id="m\x07"), "control character"),
    at_home("NUL in an id", changed(message_id="m\0"), "control character"),
    at_home("a raw control character", message("m-bad").replace(b"m-bad", b"m-\x01bad"), "JSON"),
    at_home("a 19-digit integer", changed(ai={"latency_ms": 2**63}), "latency_ms"),
    at_home("both spellings", changed(messageId="m-bad"), "both spellings"),
    at_home("a date without its zone", changed(received_at="2026-11-02T08:00:00"), "received_at"),
    at_home("somebody else's tenant", changed(tenant_id="globex"), "tenant"),
    at_home("another lead in the body", changed(lead_id="+49 151/2"), "disagree"),
    at_home("another business in the body", changed(business_id="globex-bank"), "disagree"),
    Hostile(
        "an unknown business",
        Entry("leads.in.nobody.=2B49=20151=2F1", changed(business_id="nobody", message_id="m-nobody")),
        "unknown business",
    ),
    Hostile(
        "a lead token not canonical", Entry("leads.in.acme-foods.=2b49", message("m-bad", "+49")), "disagree"
    ),
    Hostile("an empty command", Entry("leads.cmd.acme-foods.=2B49=20151=2F1", b"{}"), "command"),
    Hostile("a command not JSON", Entry("leads.cmd.acme-foods.=2B49=20151=2F1", b"stop"), "command"),
]


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leadline]:
    """Every hostile message between good ones of the same lead and of another; all handled, the runner lives."""
    folder = tmp_path_factory.mktemp("hostile")
    with (
        running_server(folder / "nats") as server,
        leadline(folder / "house", url=server.url, settings=TENANTS + SHORT_WAITS) as house,
    ):
        house.run()
        house.publish([message("m-before"), message("m-other", "+1")])
        publish_raw(house.url, [hostile.entry for hostile in HOSTILE])
        house.publish([message("m-after"), message("m-other-after", "+1")])
        house.wait_idle()
        yield house


@pytest.fixture(scope="module")
def letters(flooded: Leadline) -> list[Row]:
    """The dead letters, in the order in which JetStream took their messages."""
    rows = {row["id"]: row for row in view(flooded.data, "dead_letter_queue")}
    return list(rows.values())


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_message_is_a_dead_letter_with_a_reason_and_its_bytes(
    letters: list[Row], hostile: Hostile
) -> None:
    body = hostile.entry.body
    kept = body[:KEPT]
    [row] = [row for row in letters if kept_bytes(row) == kept and hostile.reason in row["error_message"]]
    assert (row["category"], row["status"], row["attempt_count"]) == ("rejected", "failed", 0)
    assert 0 < len(row["error_message"]) < 400
    assert "\n" not in row["error_message"]
    assert "Error" not in row["error_message"]


def test_there_is_one_dead_letter_for_each_hostile_message_and_no_other(
    flooded: Leadline, letters: list[Row]
) -> None:
    assert len(letters) == len(HOSTILE)
    assert metric(flooded.data, "message_dlq_total", category="rejected") == len(HOSTILE)


def test_good_messages_before_and_after_are_not_disturbed(flooded: Leadline) -> None:
    completed = [
        row["message_id"]
        for row in view(flooded.data, "processed_messages")
        if row["disposition"] == "completed"
    ]
    assert sorted(completed) == ["m-after", "m-before", "m-other", "m-other-after"]
    received = [
        event["message_id"]
        for event in events(flooded.data, "message_received.v1", "lead:acme-foods:=2B49=%")
    ]
    assert received == ["m-before", "m-after"]
    assert len(view(flooded.data, "tasks")) == 4


def test_rejects_are_the_same_after_a_restart_and_a_rebuild(flooded: Leadline, letters: list[Row]) -> None:
    flooded.end_all()
    flooded.run()
    flooded.wait_idle()
    assert view(flooded.data, "dead_letter_queue") == letters
    assert flooded.cli("rebuild", "--verify").code == 0


def test_publishers_status_headers_harm_nobody(house: Leadline) -> None:
    """A header `Status` is what the server itself speaks in [H5]."""
    house.run()
    codes = ["100", "404", "408", "409", "503"]
    sent = [to_own_subject(message(f"m-{code}"), {"Status": code, "Description": "no"}) for code in codes]
    publish_raw(house.url, [entry for pair in zip(sent, good(len(sent)), strict=True) for entry in pair])
    house.wait_idle()
    assert len(view(house.data, "processed_messages")) == 2 * len(codes)


def test_an_unknown_business_is_redriven_once_it_is_known_and_a_bad_body_once_it_is_amended(
    house: Leadline,
) -> None:
    runner = house.run()
    stranger = message("m-1", "+1", "acme-bakery")
    publish_raw(house.url, [to_own_subject(stranger), Entry(SUBJECT, b"hello")])
    house.wait_idle()
    by_reason = {row["error_message"][:7]: row["id"] for row in view(house.data, "dead_letter_queue")}
    unknown, broken = by_reason.pop("unknown"), by_reason.popitem()[1]
    refused = house.cli("dlq", "retry", unknown)
    assert refused.code == 1
    assert "unknown business" in refused.err
    amend = ("dlq", "amend", broken, "--payload", "-", "--why", "by hand")
    assert house.cli(*amend, stdin=message("m-2")).code == 0
    assert runner.terminate() == 0
    house.set(TENANTS.replace('"acme-foods"', '"acme-foods", "acme-bakery"'))
    house.run()
    answer = house.cli("dlq", "retry", unknown, broken, "--why", "mended")
    assert answer.code == 0, answer
    house.wait_idle()
    rows = view(house.data, "processed_messages")
    assert {(row["message_id"], row["disposition"]) for row in rows} == {
        ("m-1", "completed"),
        ("m-2", "completed"),
    }
    assert [row["status"] for row in view(house.data, "dead_letter_queue")] == ["resolved", "resolved"]
    assert house.cli("rebuild", "--verify").code == 0


def good(number: int) -> list[Entry]:
    return [to_own_subject(message(f"m-good-{n}")) for n in range(number)]


def kept_bytes(row: Row) -> bytes:
    """The body as a dead letter keeps it."""
    payload: str = row["original_payload"]
    if payload.startswith("base64:"):
        return base64.b64decode(payload.removeprefix("base64:"))
    return payload.encode()
