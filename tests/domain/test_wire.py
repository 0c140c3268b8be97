"""The wire contract: every field, both spellings, the limits at their edges, and all that is hostile."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import tokens
from domain.errors import Rejected
from domain.messages import (
    MAX_MESSAGE_BYTES,
    Ai,
    IncomingMessage,
    decode_message,
    message_dedup_id,
    message_subject,
    printable_payload,
)
from tests.support.domain_rules import TENANTS

SMALLEST: dict[str, Any] = {
    "message_id": "wamid.1",
    "lead_id": "lead-1",
    "business_id": "acme-foods",
    "intent": "PRICING_INQUIRY",
    "confidence": 0.5,
}
CAMEL = {
    "message_id": "messageId",
    "lead_id": "leadId",
    "business_id": "businessId",
    "tenant_id": "tenantId",
    "suggested_response": "suggestedResponse",
    "received_at": "receivedAt",
}


def decode(body: bytes, lead_token: str = "lead-1", business: str = "acme-foods") -> IncomingMessage:
    return decode_message(body, business, lead_token, TENANTS)


def body(**changes: Any) -> bytes:
    fields = {**SMALLEST, **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def refusal(raw: bytes, lead_token: str = "lead-1", business: str = "acme-foods") -> Rejected:
    with pytest.raises(Rejected) as rejected:
        decode(raw, lead_token, business)
    return rejected.value


def test_the_smallest_message_has_everything_else_absent() -> None:
    got = decode(body())
    assert got == IncomingMessage(
        message_id="wamid.1",
        lead_id="lead-1",
        business_id="acme-foods",
        tenant_id="acme",
        intent="PRICING_INQUIRY",
        confidence=0.5,
        payload=body().decode(),
    )


def test_every_field_is_read() -> None:
    got = decode(
        body(
            entities={"product": "laptop", "orderId": "7"},
            text="Hello,\n\tyou",
            suggested_response="Hi",
            received_at="2026-11-02T09:00:00.5+01:00",
            tenant_id="acme",
            ai={"model": "gpt", "latency_ms": 129},
        )
    )
    assert got.entities == {"product": "laptop", "orderId": "7"}
    assert got.text == "Hello,\n\tyou"
    assert got.suggested_response == "Hi"
    assert got.received_at == datetime(2026, 11, 2, 8, 0, 0, 500_000, tzinfo=UTC)
    assert got.received_at is not None
    assert got.received_at.tzinfo is UTC
    assert got.tenant_id == "acme"
    assert got.ai == Ai("gpt", 129.0)


def test_both_spellings_mean_the_same() -> None:
    extra: dict[str, Any] = {
        "tenant_id": "acme",
        "suggested_response": "Hi",
        "received_at": "2026-11-02T08:00:00Z",
    }
    snake = {**SMALLEST, **extra}
    camel = {CAMEL.get(name, name): value for name, value in snake.items()}
    camel["ai"] = {"latencyMs": 7}
    snake["ai"] = {"latency_ms": 7}
    one, other = decode(json.dumps(snake).encode()), decode(json.dumps(camel).encode())
    for name in IncomingMessage.__struct_fields__:
        if name != "payload":
            assert getattr(one, name) == getattr(other, name), name


@pytest.mark.parametrize("snake", sorted(CAMEL))
def test_both_spellings_of_one_field_at_once_are_refused(snake: str) -> None:
    value = {
        **SMALLEST,
        "tenant_id": "acme",
        "suggested_response": "x",
        "received_at": "2026-11-02T08:00:00Z",
    }
    refused = refusal(body(**{snake: value[snake], CAMEL[snake]: value[snake]}))
    assert refused.reason == f"{snake} is given in both spellings"


def test_both_spellings_of_the_latency_are_refused() -> None:
    assert "both spellings" in refusal(body(ai={"latency_ms": 1, "latencyMs": 1})).reason


def test_unknown_fields_are_ignored_whatever_is_in_them() -> None:
    got = decode(body(nobody={"knows": [1, None, 10**30]}, Intent="other"))
    assert got.intent == "PRICING_INQUIRY"


def test_entity_keys_are_never_renamed_and_empty_ones_are_absent() -> None:
    entities = {"productName": "a", "product_name": "b", "messageId": "c", "quantity": ""}
    assert decode(body(entities=entities)).entities == {
        "productName": "a",
        "product_name": "b",
        "messageId": "c",
    }


@pytest.mark.parametrize("name", ["entities", "text", "suggested_response", "received_at", "tenant_id", "ai"])
def test_null_in_an_optional_field_is_its_absence(name: str) -> None:
    assert decode(body(**{name: None})) == IncomingMessage(
        **{**SMALLEST, "tenant_id": "acme", "payload": body(**{name: None}).decode()}
    )


def test_empty_text_is_absent() -> None:
    got = decode(body(text="", suggested_response=""))
    assert (got.text, got.suggested_response) == (None, None)


@pytest.mark.parametrize(("name", "limit"), [("message_id", 256), ("lead_id", 128), ("intent", 64)])
def test_ids_and_intent_are_bounded_at_both_edges(name: str, limit: int) -> None:
    longest = "x" * limit
    lead_token = longest if name == "lead_id" else "lead-1"
    assert getattr(decode(body(**{name: longest}), lead_token), name) == longest
    for wrong in ("", longest + "x"):
        reason = refusal(body(**{name: wrong}), lead_token).reason
        assert f"{name} must have 1 to {limit} characters" in reason


def test_limits_count_characters_not_bytes() -> None:
    assert decode(body(message_id="é" * 256)).message_id == "é" * 256
    refusal(body(message_id="é" * 257))


@pytest.mark.parametrize("name", ["message_id", "lead_id", "business_id", "intent", "confidence"])
def test_a_missing_field_is_named(name: str) -> None:
    assert name in refusal(body(**{name: ...})).reason
    assert refusal(body(**{name: None})).reason


@pytest.mark.parametrize("character", ["\x00", "\x1f", "\x7f", "\x85", "\n"])
@pytest.mark.parametrize("name", ["message_id", "lead_id", "intent"])
def test_no_control_characters_in_ids(name: str, character: str) -> None:
    reason = refusal(body(**{name: f"a{character}b"})).reason
    assert reason == f"{name} holds a control character"


def test_control_characters_in_text_are_replaced() -> None:
    got = decode(
        body(
            text="a\0b\r\n\tc\x1b",
            suggested_response="\x07",
            entities={"k\0": "v\x9f"},
            ai={"model": "m\0"},
        )
    )
    assert got.text == "a\ufffdb\r\n\tc\ufffd"
    assert got.suggested_response == "\ufffd"
    assert got.entities == {"k\ufffd": "v\ufffd"}
    assert got.ai == Ai("m\ufffd", None)


@pytest.mark.parametrize("confidence", ["-1", "2", '"0.9"', "NaN", "Infinity", "1e400", "true", "[]", "null"])
def test_a_confidence_that_is_no_number_from_0_to_1_is_refused(confidence: str) -> None:
    raw = body().replace(b"0.5", confidence.encode())
    assert refusal(raw).reason


@pytest.mark.parametrize("confidence", ["0", "1", "0.0", "1.0", "1e-300"])
def test_the_edges_of_confidence_are_taken(confidence: str) -> None:
    assert decode(body().replace(b"0.5", confidence.encode())).confidence == float(confidence)


@pytest.mark.parametrize("latency", ["-1", "9007199254740994", "9999999999999999999", "1e309", '"5"'])
def test_a_latency_beyond_2_to_the_53_is_refused(latency: str) -> None:
    raw = body(ai={"latency_ms": 12345}).replace(b"12345", latency.encode())
    assert refusal(raw).reason


def test_the_largest_latency_is_taken() -> None:
    assert decode(body(ai={"latency_ms": 2**53})).ai == Ai(None, float(2**53))


@pytest.mark.parametrize(
    "instant",
    ["yesterday", "2026-11-02T08:00:00", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+23:59", 1762070400],
)
def test_an_instant_that_is_none_is_refused(instant: object) -> None:
    assert refusal(body(received_at=instant)).reason


@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-00:01"])
def test_an_instant_outside_of_a_calendars_years_in_utc_is_refused_by_its_name(instant: str) -> None:
    for name in ("received_at", "receivedAt"):
        refused = refusal(body(**{name: instant}))
        assert refused.reason == f"received_at must be in the years 1 to 9999 in UTC, is {instant}"
        assert refused.message_id == "wamid.1"


@pytest.mark.parametrize("instant", ["0001-01-01T14:00:00+14:00", "9999-12-31T23:58:59-00:01"])
def test_the_first_and_the_last_instant_are_taken(instant: str) -> None:
    got = decode(body(received_at=instant)).received_at
    assert got == datetime.fromisoformat(instant)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (body()[:-9], "not JSON"),
        (b"\xef\xbb\xbf" + body(), "not JSON"),
        (body().replace(b"lead-1", b"a\x01b"), "not JSON"),
        (b'{"text":"\\ud800",' + body()[1:], "not JSON"),
        (b"\xff\xfe" + body(), "not UTF-8 at byte 0"),
        (body().replace(b"lead-1", b"\xed\xa0\x80"), "not UTF-8"),
        (b"[]", "wrong field"),
        (b"null", "wrong field"),
        (b"17", "wrong field"),
        (b"[" * 200_000, "wrong field"),
        (body()[:-1] + b',"x":' + b"[" * 200_000 + b"}", "nested too deeply"),
        (b'{"a":' * 50_000, "nested too deeply"),
        (b"[" * 1_000_000, "larger than 262144 bytes"),
        (body(text="x" * 1_000_000), "larger than 262144 bytes"),
        (body(intent=7), "wrong field"),
        (body(lead_id=["lead-1"]), "wrong field"),
        (body(entities=[]), "wrong field"),
        (body(entities={"product": 7}), "wrong field"),
        (body(entities={"product": None}), "wrong field"),
        (body(text={}), "wrong field"),
        (body(ai="gpt"), "wrong field"),
    ],
)
def test_hostile_bytes_are_refused_with_a_reason_for_a_person(raw: bytes, said: str) -> None:
    refused = refusal(raw)
    assert said in refused.reason
    assert refused.tenant_id == "acme"
    assert len(refused.reason) < 400
    refused.reason.encode()


def test_a_million_brackets_within_the_limit_of_a_message_are_refused() -> None:
    assert refusal(b"[" * MAX_MESSAGE_BYTES).reason


def test_the_largest_message_is_taken_and_one_byte_more_is_not() -> None:
    filled = body(text="x" * (MAX_MESSAGE_BYTES - len(body(text=""))))
    assert len(filled) == MAX_MESSAGE_BYTES
    assert decode(filled).message_id == "wamid.1"
    assert refusal(filled + b" ").reason == f"larger than {MAX_MESSAGE_BYTES} bytes: {MAX_MESSAGE_BYTES + 1}"


def test_an_unknown_business_is_refused_by_name() -> None:
    refused = refusal(body(business_id="nobody"), business="nobody")
    assert "unknown business 'nobody'" in refused.reason
    assert refused.tenant_id is None


@pytest.mark.parametrize("business", ["a.b", "ACME-FOODS", "acme foods", "x" * 129])
def test_a_business_id_is_one_of_the_settings_byte_for_byte(business: str) -> None:
    assert refusal(body(business_id=business), business=business).reason


@pytest.mark.parametrize("tenant", ["globex", "", "ACME", "x" * 100_000, "\0"])
def test_someone_elses_tenant_is_refused(tenant: str) -> None:
    reason = refusal(body(tenant_id=tenant)).reason
    assert "is not the tenant of business" in reason
    assert len(reason) < 400


@pytest.mark.parametrize(
    ("lead_token", "business"),
    [
        ("lead-2", "acme-foods"),
        ("lead-1", "acme-deli"),
        ("lead-1", "globex-bank"),
        ("=6Cead-1", "acme-foods"),
        ("lead-1=", "acme-foods"),
        ("Lead-1", "acme-foods"),
    ],
)
def test_subject_and_body_must_agree_byte_for_byte(lead_token: str, business: str) -> None:
    assert "subject and body disagree" in refusal(body(), lead_token, business).reason


def test_a_lower_case_escape_in_the_subject_is_another_subject() -> None:
    assert decode(body(lead_id="+49"), "=2B49").lead_id == "+49"
    assert "disagree" in refusal(body(lead_id="+49"), "=2b49").reason


def test_a_lead_whose_token_is_longer_than_a_subject_may_bear_is_refused() -> None:
    longest = "+" * 128
    assert decode(body(lead_id=longest), tokens.encode(longest)).lead_id == longest
    too_long = "é" * 65
    assert "when written as a token" in refusal(body(lead_id=too_long), tokens.encode(too_long)).reason


def test_what_can_be_read_of_a_refused_body_is_kept() -> None:
    refused = refusal(body(confidence=2))
    assert (refused.message_id, refused.tenant_id) == ("wamid.1", "acme")
    assert refusal(body(message_id=..., messageId="camel", confidence=2)).message_id == "camel"
    assert refusal(body(message_id="a\0")).message_id is None
    assert refusal(body(message_id=7)).message_id is None
    assert refusal(body()[:-1]).message_id is None


def test_subject_and_dedup_id_keep_leads_and_tenants_apart() -> None:
    assert message_subject("acme-foods", "+49.1") == "leads.in.acme-foods.=2B49=2E1"
    ids = {
        message_dedup_id(business, lead, "wamid.1")
        for business in ("acme-foods", "globex-bank")
        for lead in ("a", "a/b", "a=2Fb")
    }
    assert len(ids) == 6


def test_a_payload_is_kept_as_text_or_as_its_bytes() -> None:
    assert printable_payload('{"text":"é"}'.encode()) == '{"text":"é"}'
    assert printable_payload(b"\xff\x00") == "base64:/wA="
    assert printable_payload(b"a\0b") == "base64:YQBi"


@given(st.binary(max_size=300))
def test_any_bytes_give_a_message_or_a_reject_and_nothing_else(raw: bytes) -> None:
    assert refusal(raw).reason


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([*SMALLEST, *CAMEL.values(), "entities", "text", "ai", "received_at"]), _JSON)
def test_any_value_in_any_field_gives_a_message_or_a_reject_and_nothing_else(name: str, value: Any) -> None:
    raw = json.dumps({**SMALLEST, name: value}).encode()
    try:
        got = decode(raw)
    except Rejected:
        return
    assert (got.lead_id, got.business_id, got.tenant_id) == ("lead-1", "acme-foods", "acme")
    assert 0 <= got.confidence <= 1
