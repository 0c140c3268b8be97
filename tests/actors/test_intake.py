from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.aio.client import Client

from actors.connection import NatsUnreachableError
from actors.intake import IntakeSettings
from actors.protocol import Mail
from domain.commands import CompleteTask, encode_command
from tests.support.eventually import eventually
from tests.support.log import (
    IMPATIENT,
    Reading,
    body,
    ensured,
    published,
    reading,
    subject_of,
    traffic,
    with_client,
)
from tests.support.nats import TestServer, running_server
from tests.support.raw import raw_publisher

COMMAND = encode_command(CompleteTask(command_id="c1", by="ann", task_id="t1"))
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TestServer]:
    with running_server(tmp_path) as one:
        yield one


def test_everything_published_is_handed_on_once_and_in_order(server: TestServer) -> None:
    published(server.url, traffic(2_000))
    with reading(server.url) as one:
        eventually(lambda: one.handed_on(2_000))
        one.assert_each_once_in_order(2_000)
        assert one.intake.gauges()["remade_consumers"] == 0
        assert one.intake.gauges()["pulled"] == 2_000


def test_what_is_published_while_it_reads_is_handed_on_at_once(server: TestServer) -> None:
    with reading(server.url) as one:
        published(server.url, traffic(10))
        eventually(lambda: one.handed_on(10), within=2.0)


def test_a_restart_goes_on_behind_what_was_recorded(server: TestServer) -> None:
    published(server.url, traffic(100))
    with reading(server.url) as first:
        eventually(lambda: first.handed_on(100))
        assert first.intake.drain(5.0)
    published(server.url, traffic(150)[100:])
    with reading(server.url, journal=first.journal) as second:
        eventually(lambda: second.handed_on(50))
        assert sorted(second.message_ids()) == sorted(f"m{n}" for n in range(100, 150))


def test_what_was_taken_and_not_recorded_is_read_again_after_a_crash(server: TestServer) -> None:
    published(server.url, [body(f"m{n}") for n in range(10)])
    with reading(server.url, records=False) as first:
        eventually(lambda: first.handed_on(10))
        first.positions.recorded(first.inlet.places[:4] + first.inlet.places[6:8])
        eventually(lambda: first.inlet.places[3].sequence in first.journal.positions.values())
    with reading(server.url, journal=first.journal) as second:
        eventually(lambda: second.handed_on(6))
        assert second.message_ids() == ["m4", "m5", "m6", "m7", "m8", "m9"]


def test_it_asks_for_no_more_while_enough_is_in_hand_and_goes_on_when_there_is_room(
    server: TestServer,
) -> None:
    published(server.url, [body(f"m{n}") for n in range(3_000)])
    settings = IntakeSettings(url=server.url, max_in_hand=100, pull=IMPATIENT)
    with reading(server.url, records=False, settings=settings) as one:
        eventually(lambda: one.handed_on(1_000))
        with pytest.raises(AssertionError):  # two requests of 500 were under way, and no third
            eventually(lambda: one.handed_on(1_001), within=1.5)
        one.inlet.records = True
        one.inlet.record_all()
        eventually(lambda: one.handed_on(3_000))
        one.assert_each_once_in_order(3_000)
        assert one.intake.gauges()["remade_consumers"] == 0


def test_it_asks_for_no_more_while_many_bytes_are_in_hand(server: TestServer) -> None:
    published(server.url, [body(f"m{n}", text="x" * 100_000) for n in range(200)])
    settings = IntakeSettings(url=server.url, max_bytes_in_hand=1_000_000, pull=IMPATIENT)
    with reading(server.url, records=False, settings=settings) as one:
        eventually(lambda: one.handed_on(40))
        with pytest.raises(AssertionError):  # a request ends with 4 MiB; two were under way
            eventually(lambda: one.handed_on(90), within=1.5)
        one.inlet.records = True
        one.inlet.record_all()
        eventually(lambda: one.handed_on(200))
        one.assert_each_once_in_order(200)


@pytest.mark.parametrize(
    ("subject", "payload", "reason"),
    [
        (subject_of(), b"not json", "not JSON"),
        (subject_of(), b"\xff\xfe", "not UTF-8"),
        (subject_of("lead-2"), body("m1"), "subject and body disagree"),
        (b"leads.in.nobody.lead-1", body("m1", business_id="nobody"), "unknown business"),
        (subject_of(), b"[" * 1_000_000, "larger than"),
        (subject_of(), b'{"x":' + b"[" * 200_000, "nested too deeply"),
        (b"leads.in.acme-foods.caf\xc3\xa9", body("m1"), "not made of tokens"),
        (b"leads.in.acme-foods.\xff\xfe", body("m1"), "not made of tokens"),
        (b"leads.in.acme-foods.a\x0bb", body("m1"), "disagree"),
        (b"leads.cmd.acme-foods.a\x0c\x01", COMMAND, "not a token"),
        (b"leads.cmd.acme-foods.=4a", COMMAND, "not a token"),
        (b"leads.cmd.acme-foods." + b"a" * 500, COMMAND, "longer than"),
        (b"leads.in.acme-foods." + b"a" * 3_000, b"{}", "wrong field"),
        (b"leads.cmd.nobody.lead-1", COMMAND, "unknown business"),
        (b"leads.cmd.acme-foods.lead-1", b"{}", "command cannot be read"),
    ],
)
def test_what_cannot_be_taken_becomes_a_rejection_and_disturbs_nobody(
    server: TestServer, subject: bytes, payload: bytes, reason: str
) -> None:
    ensured(server.url)
    with reading(server.url) as one, raw_publisher(server.url) as publisher:
        publisher.publish(subject, payload)
        publisher.publish(subject_of(), body("m0"))
        publisher.flush()
        eventually(lambda: one.handed_on(2))
        one.assert_each_once_in_order(1)
        (rejection,) = one.inlet.rejections
        assert reason in rejection.reason
        assert rejection.body == payload[: 256 * 1024]
        assert rejection.subject.startswith("leads.")
        assert rejection.subject.isprintable()
        assert one.intake.gauges()["remade_consumers"] == 0


CODES = [b"100", b"400", b"404", b"408", b"409", b"423", b"503"]
HOSTILE_HEADERS = [
    *(b"NATS/1.0\r\nStatus: " + code + b"\r\n\r\n" for code in CODES),
    *(b"NATS/1.0 " + code + b" Idle Heartbeat\r\n\r\n" for code in CODES),
    *(
        b"NATS/1.0 " + code + b"\r\nNats-Pending-Messages: 500\r\nNats-Last-Consumer: 9\r\n\r\n"
        for code in CODES
    ),
    b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    b"NATS/1.0 503 \xff\xfe\r\n\r\n",
    b"NATS/1.0 5\r\n\r\n",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\n: no key\r\n\r\n",
    b"NATS/1.0\r\na\xff: \xfe\r\n\r\n",
    b"NATS/1.0\r\nwithout an end: x",
    b"NATS/1.0",
    b"x",
]


def test_no_header_of_a_publisher_is_taken_for_the_servers_word(server: TestServer) -> None:
    """H5: each is tried between good messages of others, and every one of them arrives."""
    ensured(server.url)
    with reading(server.url) as one, raw_publisher(server.url) as publisher:
        for n, headers in enumerate(HOSTILE_HEADERS):
            publisher.publish(subject_of(), body(f"m{2 * n}"), headers)
            publisher.publish(subject_of(), body(f"m{2 * n + 1}"))
        publisher.flush()
        eventually(lambda: one.handed_on(2 * len(HOSTILE_HEADERS)))
        one.assert_each_once_in_order(2 * len(HOSTILE_HEADERS))
        assert one.intake.gauges()["remade_consumers"] == 0


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (f"traceparent: {TRACE}", TRACE),
        (f"Traceparent:{TRACE}", TRACE),
        (f"traceparent: {TRACE.upper()}", ""),
        (f"traceparent: ff{TRACE[2:]}", ""),
        ("traceparent: 00-" + "0" * 32 + "-00f067aa0ba902b7-01", ""),
        ("traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", ""),
        ("traceparent: anything", ""),
        (f"x-traceparent: {TRACE}", ""),
        (f"other: a\r\ntraceparent: {TRACE}", TRACE),
    ],
)
def test_a_valid_trace_context_is_kept(server: TestServer, header: str, kept: str) -> None:
    ensured(server.url)
    with reading(server.url) as one, raw_publisher(server.url) as publisher:
        publisher.publish(subject_of(), body("m0"), f"NATS/1.0\r\n{header}\r\n\r\n".encode())
        eventually(lambda: one.handed_on(1))
        assert one.inlet.mail[0].trace == kept


def test_a_command_reaches_its_lead_in_the_order_of_the_log(server: TestServer) -> None:
    ensured(server.url)
    command = CompleteTask(command_id="c1", by="ann", task_id="t1")
    with reading(server.url) as one, raw_publisher(server.url) as publisher:
        publisher.publish(subject_of("+49 1"), body("m0", "+49 1"))
        publisher.publish(subject_of("+49 1", kind="cmd"), encode_command(command))
        publisher.publish(subject_of("+49 1"), body("m1", "+49 1"))
        eventually(lambda: one.handed_on(3))
        assert [type(mail.command).__name__ for mail in one.inlet.mail] == [
            "ReceiveMessage",
            "CompleteTask",
            "ReceiveMessage",
        ]
        assert {mail.stream for mail in one.inlet.mail} == {"lead:acme-foods:=2B49=201"}
        assert [place.sequence for place in one.inlet.places] == [1, 2, 3]


def test_outcomes_are_published_to_inboxes_and_to_nothing_else(server: TestServer) -> None:
    """H15: the runner's own rights must not be lent."""
    ensured(server.url)

    async def listen(client: Client) -> list[str]:
        heard = await client.subscribe(">")
        await client.flush()
        for subject in (
            "$JS.API.STREAM.DELETE.LEADS",
            "leads.in.acme-foods.lead-1",
            "_INBOX.*",
            "_INBOX.a b",
            "x",
        ):
            one.intake.publish(subject, b"no")
        one.intake.publish("leads.reply.b", b"first")
        one.intake.publish("_INBOX.a", b"second")
        subjects: list[str] = []
        while "_INBOX.a" not in subjects:
            message = await heard.next_msg(5)
            if message.data in {b"no", b"first", b"second"}:
                subjects.append(message.subject)
        return subjects

    with reading(server.url) as one:
        assert with_client(server.url, listen) == ["leads.reply.b", "_INBOX.a"]


def test_draining_waits_for_what_is_in_hand_and_writes_the_positions(server: TestServer) -> None:
    published(server.url, traffic(50))
    settings = IntakeSettings(url=server.url, checkpoint_every=3600.0, pull=IMPATIENT)
    with reading(server.url, records=False, settings=settings) as one:
        eventually(lambda: one.handed_on(50))
        assert not one.intake.drain(0.1)
        one.inlet.record_all()
        assert one.intake.drain(5.0)
        assert set(one.journal.positions.values()) == {50}


def test_nothing_more_is_taken_once_it_drains(server: TestServer) -> None:
    with reading(server.url) as one:
        assert one.intake.drain(5.0)
        published(server.url, traffic(10))
        with pytest.raises(AssertionError):
            eventually(lambda: one.handed_on(1), within=0.5)


class _BrokenInletError(Exception):
    pass


def test_an_inlet_that_raises_ends_the_intake_and_says_so(server: TestServer) -> None:
    published(server.url, traffic(10))
    one = Reading(server.url)

    def deliver(_mail: Mail) -> None:
        raise _BrokenInletError

    one.inlet.deliver = deliver  # type: ignore[method-assign,assignment]
    one.intake.start()
    eventually(lambda: [type(death) for death in one.deaths] == [_BrokenInletError])
    one.intake.stop()


def test_without_a_server_the_start_fails_with_one_line() -> None:
    one = Reading("nats://127.0.0.1:1")
    with pytest.raises(NatsUnreachableError, match=r"no NATS server can be used at nats://127\.0\.0\.1:1"):
        one.intake.start()


def test_a_message_larger_than_a_request_may_be_is_read_all_the_same(server: TestServer) -> None:
    published(server.url, [body(f"m{n}", text="x" * 50_000) for n in range(5)])
    pull = IMPATIENT.__class__(max_bytes=10_000, expires=2.0, heartbeat=0.25)
    with reading(server.url, pull=pull) as one:
        eventually(lambda: one.handed_on(5))
        one.assert_each_once_in_order(5)


def test_its_start_and_end_leave_no_task_behind(server: TestServer) -> None:
    with reading(server.url) as one:
        loop = one.intake._loop
        assert loop is not None
    assert loop.is_closed()
    assert not asyncio.all_tasks(loop)
