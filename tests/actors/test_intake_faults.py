"""What can befall the wire, the server and the consumer while the intake reads. Nothing is lost, nothing is
handed over twice, each lead's order stays."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from actors import jetstream
from actors.connection import RawClient, connect
from actors.intake import IntakeSettings
from actors.jetstream import JetStreamSilentError
from actors.pull import Pull, PullSettings
from tests.support.eventually import eventually
from tests.support.log import IMPATIENT, published, reading, traffic, with_client
from tests.support.nats import TestServer, running_server
from tests.support.proxy import Proxy, proxy_before

COUNT = 3_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TestServer]:
    with running_server(tmp_path) as one:
        yield one


@pytest.fixture
def proxy(server: TestServer) -> Iterator[Proxy]:
    with proxy_before(server.port) as one:
        yield one


def consumer_names(url: str) -> list[str]:
    async def names(client: Client) -> list[str]:
        answer: dict[str, Any] = await jetstream.call(client, "CONSUMER.NAMES.LEADS")
        return answer["consumers"] or []

    return with_client(url, names)


def delete_consumer(url: str, name: str) -> None:
    with_client(url, lambda client: jetstream.call(client, f"CONSUMER.DELETE.LEADS.{name}"))


def test_a_wire_that_is_cut_again_and_again_in_the_middle_of_a_batch(
    server: TestServer, proxy: Proxy
) -> None:
    published(server.url, traffic(COUNT))
    proxy.cut_every(150_000)
    with reading(proxy.url) as one:
        eventually(lambda: one.handed_on(COUNT), within=30.0)
        one.assert_each_once_in_order(COUNT)
        assert proxy.cuts >= 4


def test_after_a_reconnect_reading_goes_on_at_once(server: TestServer, proxy: Proxy) -> None:
    """H1: nobody waits until the silence of the old requests is noticed, which takes seven seconds."""
    published(server.url, traffic(10))
    with reading(proxy.url, pull=PullSettings()) as one:
        eventually(lambda: one.handed_on(10))
        proxy.cut()
        published(server.url, traffic(20)[10:])
        eventually(lambda: one.handed_on(20), within=4.0)
        one.assert_each_once_in_order(20)


def test_a_request_whose_answer_went_with_the_wire_ends_with_the_wire(proxy: Proxy) -> None:
    async def ask() -> float:
        client = await connect(proxy.url, name="a test", client=RawClient())
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            asking = asyncio.ensure_future(jetstream.call(client, "INFO", timeout=20.0))
            await loop.run_in_executor(None, lambda: eventually(lambda: bool(lost)))
            proxy.cut()
            with pytest.raises(JetStreamSilentError):
                await asking
        finally:
            await client.close()
        return loop.time() - started

    lost: list[bytes] = []

    def loses(frame: bytes) -> bool:
        if b"MSG _INBOX" in frame[:12]:
            lost.append(frame)
        return bool(lost)

    proxy.loses = loses
    assert asyncio.run(ask()) < 5.0


def test_a_message_lost_on_the_wire_is_noticed_by_the_next_one(server: TestServer, proxy: Proxy) -> None:
    """H1: a gap in the consumer's own count."""
    published(server.url, traffic(COUNT))
    lost: list[bytes] = []

    def loses(frame: bytes) -> bool:
        if b"MSG partition." in frame[:15] and b'"m1500"' in frame and not lost:
            lost.append(frame)
            return True
        return False

    proxy.loses = loses
    with reading(proxy.url) as one:
        eventually(lambda: one.handed_on(COUNT))
        one.assert_each_once_in_order(COUNT)
        assert lost
        assert one.intake.gauges()["remade_consumers"] == 1
        assert proxy.connections == 1


def test_the_last_message_lost_on_the_wire_is_noticed_by_the_servers_heartbeat(
    server: TestServer, proxy: Proxy
) -> None:
    """H1: no message comes after it; only the server's own count of what it delivered tells."""
    published(server.url, traffic(20))
    lost: list[bytes] = []

    def loses(frame: bytes) -> bool:
        if b"MSG partition." in frame[:15] and b'"m19"' in frame and not lost:
            lost.append(frame)
            return True
        return False

    proxy.loses = loses
    with reading(proxy.url) as one:
        eventually(lambda: one.handed_on(20))
        one.assert_each_once_in_order(20)
        assert lost
        assert one.intake.gauges()["remade_consumers"] == 1


def test_heartbeats_that_stop_are_a_dead_consumer_and_heartbeats_that_come_an_idle_one(
    server: TestServer, proxy: Proxy
) -> None:
    """Everything the server says of requests is lost, and the messages too: silence, over a good connection."""
    published(server.url, traffic(20))
    with reading(proxy.url) as one:
        eventually(lambda: one.handed_on(20))
        with pytest.raises(AssertionError):  # idle for many heartbeats: no reason to make anything anew
            eventually(lambda: one.intake.gauges()["remade_consumers"] > 0, within=2.5)
        proxy.loses = lambda frame: b"MSG _INBOX" in frame[:12] or b"MSG partition." in frame[:15]
        published(server.url, traffic(40)[20:])
        eventually(lambda: one.intake.gauges()["remade_consumers"] >= 16)
        proxy.loses = lambda _frame: False
        eventually(lambda: one.handed_on(40), within=20.0)
        one.assert_each_once_in_order(40)


def test_a_process_that_was_held_up_does_not_take_its_own_deafness_for_silence(server: TestServer) -> None:
    published(server.url, traffic(20))
    with reading(server.url) as one:
        eventually(lambda: one.handed_on(20))
        loop, consumers = one.intake._loop, one.intake._consumers
        assert loop is not None
        assert consumers is not None

        async def held_up() -> None:
            time.sleep(3.0)  # noqa: ASYNC251 - longer than the server may be silent, and nobody listens
            await consumers.watch()

        asyncio.run_coroutine_threadsafe(held_up(), loop).result(10)
        published(server.url, traffic(40)[20:])
        eventually(lambda: one.handed_on(40))
        one.assert_each_once_in_order(40)
        assert one.intake.gauges()["remade_consumers"] == 0


def test_a_server_that_is_killed_and_started_again(server: TestServer) -> None:
    published(server.url, traffic(COUNT))
    settings = IntakeSettings(url=server.url, max_in_hand=200, pull=IMPATIENT)
    with reading(server.url, records=False, settings=settings) as one:
        eventually(lambda: one.handed_on(200))
        server.restart(kill=True)
        one.inlet.records = True
        one.inlet.record_all()
        eventually(lambda: one.handed_on(COUNT), within=30.0)
        one.assert_each_once_in_order(COUNT)
        server.restart(kill=True)
        published(server.url, traffic(COUNT + 10)[COUNT:])
        eventually(lambda: one.handed_on(COUNT + 10), within=30.0)
        one.assert_each_once_in_order(COUNT + 10)


@pytest.mark.slow
def test_a_server_that_is_stopped_for_a_while_and_goes_on(server: TestServer) -> None:
    published(server.url, traffic(COUNT))
    settings = IntakeSettings(url=server.url, max_in_hand=200, pull=IMPATIENT)
    with reading(server.url, records=False, settings=settings) as one:
        eventually(lambda: one.handed_on(200))
        server.pause()
        one.inlet.records = True
        one.inlet.record_all()
        eventually(lambda: one.intake.gauges()["remade_consumers"] >= 16)
        server.resume()
        eventually(lambda: one.handed_on(COUNT), within=30.0)
        one.assert_each_once_in_order(COUNT)


def test_consumers_that_are_deleted_are_made_anew(server: TestServer) -> None:
    """H2: by whomever; the server says 409 to the requests under way, long before its silence is noticed."""
    published(server.url, traffic(100))
    with reading(server.url, pull=PullSettings()) as one:
        eventually(lambda: one.handed_on(100))
        names = consumer_names(server.url)
        assert len(names) == 16
        for name in names:
            delete_consumer(server.url, name)
        published(server.url, traffic(200)[100:])
        eventually(lambda: one.handed_on(200), within=4.0)
        one.assert_each_once_in_order(200)
        eventually(lambda: len(consumer_names(server.url)) == 16)
        assert one.intake.gauges()["remade_consumers"] == 16


def test_consumers_that_the_server_removed_for_inactivity_are_made_anew(server: TestServer) -> None:
    """H2: back-pressure asks for nothing, and a consumer that nobody asks is removed; then 503 for ever."""
    published(server.url, traffic(COUNT))
    pull = PullSettings(batch=50, expires=2.0, heartbeat=0.25, inactive_threshold=0.3)
    settings = IntakeSettings(url=server.url, max_in_hand=50, pull=pull)
    with reading(server.url, records=False, settings=settings) as one:
        eventually(lambda: one.handed_on(50))
        eventually(lambda: consumer_names(server.url) == [])
        one.inlet.records = True
        one.inlet.record_all()
        eventually(lambda: one.handed_on(COUNT), within=30.0)
        one.assert_each_once_in_order(COUNT)


def test_the_usual_threshold_outlives_a_pause() -> None:
    assert PullSettings().inactive_threshold == 60.0
    assert f'"inactive_threshold":{60 * 10**9}' in json.dumps(
        Pull(0, PullSettings()).configuration(), separators=(",", ":")
    )


def test_a_consumer_that_cannot_live_is_not_made_anew_without_end(server: TestServer, proxy: Proxy) -> None:
    """Whatever lets consumers fail, they are made at most every two seconds after some failures."""
    proxy.loses = lambda frame: b"MSG partition." in frame[:15] and b'"m0"' in frame
    published(server.url, traffic(40))
    with reading(proxy.url) as one:
        eventually(lambda: one.intake.gauges()["remade_consumers"] >= 3)
        with pytest.raises(AssertionError):
            eventually(lambda: one.intake.gauges()["remade_consumers"] > 20, within=4.0)
        proxy.loses = lambda _frame: False
        eventually(lambda: one.handed_on(40))
        one.assert_each_once_in_order(40)
