from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client

from actors import jetstream, stream
from actors.connection import NatsUnreachableError
from actors.nats_server import CONF
from actors.publisher import PublishBrokenOffError, PublishReport, PublishSettings, publish
from domain.messages import message_dedup_id, message_subject
from tests.support.eventually import eventually
from tests.support.log import Reading, body, ensured, published, reading, traffic, with_client
from tests.support.nats import TestServer, running_server
from tests.support.proxy import proxy_before

HASTY = PublishSettings(max_in_flight=100, patience=0.5, reconnect_within=10.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TestServer]:
    with running_server(tmp_path) as one:
        yield one


def stored(server: TestServer) -> list[dict[str, str]]:
    """Every message in the stream, in its order, as Leadline reads it."""
    count = with_client(server.url, stream.read_state).messages
    with reading(server.url) as one:
        eventually(lambda: one.handed_on(count))
    return [json.loads(mail.command.message.payload) for mail in _in_order(one)]


def _in_order(one: Reading) -> list[Any]:
    return sorted(one.inlet.mail, key=lambda mail: mail.place.sequence)


def assert_all_stored_in_order(server: TestServer, count: int) -> None:
    """m0 … are there once each, and each lead's in the order of the file."""
    messages = stored(server)
    assert sorted(message["message_id"] for message in messages) == sorted(f"m{n}" for n in range(count))
    by_lead: dict[str, list[int]] = defaultdict(list)
    for message in messages:
        by_lead[message["lead_id"]].append(int(message["message_id"][1:]))
    assert all(numbers == sorted(numbers) for numbers in by_lead.values())


def test_whoever_publishes_first_makes_the_stream(server: TestServer) -> None:
    """H30."""
    report = publish([body("m0")], server.url)
    assert (report.confirmed, report.reconnects) == (1, 0)
    assert ensured(server.url).messages == 1


def test_each_line_is_confirmed_and_progress_is_shown(server: TestServer) -> None:
    seen: list[int] = []
    report = publish(traffic(2_000), server.url, progress=lambda so_far: seen.append(so_far.done))
    assert (report.confirmed, report.duplicates, report.refused, report.lines) == (2_000, 0, 0, [])
    assert seen[-1] == 2_000
    assert seen == sorted(seen)
    assert_all_stored_in_order(server, 2_000)


def test_a_second_go_is_taken_for_duplicates_and_says_so_line_by_line(server: TestServer) -> None:
    publish(traffic(5), server.url)
    report = publish([*traffic(3), b"", b"  ", body("m9")], server.url)
    assert (report.confirmed, report.duplicates, report.refused) == (1, 3, 0)
    assert [(line.line, line.result, line.message_id) for line in report.lines] == [
        (1, "duplicate", "m0"),
        (2, "duplicate", "m1"),
        (3, "duplicate", "m2"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", "not a JSON object"),
        (b"[1, 2]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"message_id": "m1"', "not a JSON object"),
        (b'{"x":' + b"[" * 200_000, "nested too deeply"),
        (b"{}", "message_id is missing"),
        (body("m1", ""), "lead_id must have 1 to 128 characters"),
        (body("m1", "l", ""), "business_id must have 1 to 128 characters"),
        (body("m" * 257), "message_id must have 1 to 256 characters"),
        (body("m1\r\nNats-Rollup: all"), "message_id holds a control character"),
        (b'{"message_id": 7, "lead_id": "l", "business_id": "b"}', "message_id is missing"),
        (body("m1", "\U0001f600" * 128), "lead_id is longer than"),
        (body("m1", text="x" * 300_000), "Leadline takes at most 262144"),
        (body("m1", text="x" * 3_000_000), "Leadline takes at most 262144"),
    ],
)
def test_a_line_that_cannot_be_published_is_said_with_its_number_and_the_rest_goes_on(
    server: TestServer, line: bytes, reason: str
) -> None:
    """H26 among them: a line over the server's limit would close the connection for good."""
    report = publish([body("before"), line, body("after")], server.url)
    assert (report.confirmed, report.duplicates, report.refused) == (2, 0, 1)
    (refused,) = report.lines
    assert (refused.line, refused.result) == (2, "refused")
    assert reason in refused.reason
    assert report.reconnects == 0


def test_what_only_leadline_can_judge_is_published(server: TestServer) -> None:
    lines = [
        body("m0", confidence="high"),
        b'{"messageId": "m1", "leadId": "+49 1", "businessId": "acme-foods", "intent": "UNKNOWN", "confidence": 1}',
        body("m2", "lead", "nobody knows"),
    ]
    assert publish(lines, server.url).confirmed == 3


def test_a_server_that_takes_less_than_leadline_is_respected(tmp_path: Path) -> None:
    """H26."""
    conf = tmp_path / "small.conf"
    conf.write_text(CONF.read_text().replace("max_payload: 2MB", "max_payload: 4KB"))
    with running_server(tmp_path, conf=conf) as server:
        report = publish([body("m0", text="x" * 5_000), body("m1", text="x" * 3_800), body("m2")], server.url)
    assert (report.confirmed, report.refused, report.reconnects) == (2, 1, 0)
    assert "this server takes 4096" in report.lines[0].reason


def test_one_message_id_of_two_leads_or_businesses_is_two_messages(server: TestServer) -> None:
    """H8; and blanks at an id's end, which a header would lose, are part of it."""
    lines = [
        body("m0", "lead-1"),
        body("m0", "lead-2"),
        body("m0", "lead-1", "acme-deli"),
        body("m0 ", "lead-1"),
        body("m0", "lead-1 "),
    ]
    report = publish(lines, server.url)
    assert (report.confirmed, report.duplicates) == (5, 0)


def test_a_full_stream_is_said_line_by_line(server: TestServer) -> None:
    """H7."""
    with_client(server.url, lambda client: stream.ensure(client, 20_000))
    report = publish(traffic(200), server.url)
    assert report.confirmed > 10
    assert report.refused == 200 - report.confirmed
    assert "maximum bytes exceeded" in report.lines[-1].reason


def test_a_wire_that_is_cut_again_and_again_loses_nothing_and_keeps_each_leads_order(
    server: TestServer,
) -> None:
    with proxy_before(server.port) as proxy:
        proxy.cut_every(20_000)
        report = publish(traffic(3_000), proxy.url, settings=HASTY)
        assert proxy.cuts >= 4
    assert (report.confirmed, report.duplicates, report.refused) == (3_000, 0, 0)
    assert report.reconnects >= 4
    assert_all_stored_in_order(server, 3_000)


def test_a_server_killed_while_it_publishes_loses_nothing_that_was_confirmed(server: TestServer) -> None:
    ensured(server.url)
    reports: list[PublishReport] = []
    sent, go_on = threading.Event(), threading.Event()

    def lines() -> Iterator[bytes]:
        for n, line in enumerate(traffic(1_000)):
            if n == 500:
                sent.set()
                go_on.wait(30)
            yield line

    thread = threading.Thread(target=lambda: reports.append(publish(lines(), server.url, settings=HASTY)))
    thread.start()
    assert sent.wait(30)
    server.restart(kill=True)
    go_on.set()
    thread.join(30)
    assert (reports[0].confirmed, reports[0].duplicates, reports[0].refused) == (1_000, 0, 0)
    assert reports[0].reconnects >= 1
    assert_all_stored_in_order(server, 1_000)


def test_a_server_that_stops_answering_is_left_and_found_again(server: TestServer) -> None:
    reports: list[PublishReport] = []
    sent, go_on = threading.Event(), threading.Event()

    def lines() -> Iterator[bytes]:
        for n, line in enumerate(traffic(300)):
            if n == 150:
                sent.set()
                go_on.wait(30)
            yield line

    reconnecting = PublishSettings(max_in_flight=100, patience=0.3, reconnect_within=30.0)
    thread = threading.Thread(
        target=lambda: reports.append(publish(lines(), server.url, settings=reconnecting))
    )
    thread.start()
    assert sent.wait(30)
    server.pause()
    go_on.set()
    thread.join(1.5)
    assert thread.is_alive()
    server.resume()
    thread.join(30)
    assert (reports[0].confirmed, reports[0].refused) == (300, 0)
    assert_all_stored_in_order(server, 300)


def test_a_server_that_does_not_come_back_is_said_with_how_far_it_got(server: TestServer) -> None:
    def lines() -> Iterator[bytes]:
        yield from traffic(100)
        server.kill()
        yield from traffic(300)[100:]

    brief = PublishSettings(max_in_flight=50, patience=0.2, reconnect_within=0.5)
    with pytest.raises(PublishBrokenOffError, match=r"broken off after \d+ lines: no NATS server") as broken:
        publish(lines(), server.url, settings=brief)
    assert 50 <= broken.value.report.confirmed <= 100


def test_without_a_server_it_says_so_at_once() -> None:
    with pytest.raises(NatsUnreachableError):
        publish([body("m0")], "nats://127.0.0.1:1")


def test_any_client_needs_a_subject_and_one_header_to_publish(server: TestServer) -> None:
    """A foreign publisher in any language: no library of ours, no JetStream API, no stream name."""
    ensured(server.url)

    async def foreign(client: Client) -> list[dict[str, object]]:
        subject = message_subject("acme-foods", "+49 170 1")
        assert subject == "leads.in.acme-foods.=2B49=20170=201"
        dedup_id = message_dedup_id("acme-foods", "+49 170 1", "m0")
        assert dedup_id == "acme-foods/=2B49=20170=201/m0"
        payload = body("m0", "+49 170 1")
        answers = [
            await client.request(subject, payload, timeout=5, headers={"Nats-Msg-Id": dedup_id})
            for _ in range(2)
        ]
        return [json.loads(answer.data) for answer in answers]

    first, again = with_client(server.url, foreign)
    assert first["seq"] == again["seq"] == 1
    assert again["duplicate"] is True
    with reading(server.url) as one:
        eventually(lambda: one.handed_on(1))
        assert one.inlet.mail[0].stream == "lead:acme-foods:=2B49=20170=201"


def test_a_foreign_publisher_that_sends_too_much_harms_itself_alone(server: TestServer) -> None:
    """H26: up to the server's limit it reaches Leadline and becomes a reject; above, its client refuses."""
    ensured(server.url)

    async def foreign(client: Client) -> None:
        await client.request("leads.in.acme-foods.lead-1", b"x" * 1_900_000, timeout=5)
        with pytest.raises(nats.errors.MaxPayloadError):
            await client.request("leads.in.acme-foods.lead-1", b"x" * 2_200_000, timeout=5)

    with reading(server.url) as one:
        with_client(server.url, foreign)
        published(server.url, [body("m0")])
        eventually(lambda: one.handed_on(2))
        assert one.message_ids() == ["m0"]
        assert "larger than" in one.inlet.rejections[0].reason
        assert one.inlet.rejections[0].size == 1_900_000


def test_whatever_a_stream_refuses_names_the_mending(server: TestServer) -> None:
    config = {**stream.configuration(), "discard": "old"}
    with_client(server.url, lambda client: jetstream.call(client, "STREAM.CREATE.LEADS", config))
    with pytest.raises(stream.StreamRefusedError, match="nats stream edit LEADS"):
        publish([body("m0")], server.url)
