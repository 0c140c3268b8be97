"""Publishing with confirmation: in order, and what is not confirmed is still to be sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from actors.connection import RawClient, connect
from outbox import sending
from outbox.sending import MAX_IN_FLIGHT, NotConfirmedError, Publication, Sender, TooLargeError, header_block
from tests.support.eventually import eventually
from tests.support.nats import TestServer, running_server
from tests.support.outbox import make_streams, out
from tests.support.proxy import Proxy


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TestServer]:
    with running_server(tmp_path / "nats") as started:
        make_streams(started.url)
        yield started


def publications(count: int, subject: str = "leads.out.b.l.results") -> dict[int, Publication]:
    return {
        n: Publication(subject, header_block([("Nats-Msg-Id", f"e{n}")]), f'{{"message_id":"m{n}"}}'.encode())
        for n in range(count)
    }


def with_sender(url: str, work: Callable[[Sender, RawClient], Awaitable[None]]) -> None:
    async def run() -> None:
        client = RawClient()
        sender = Sender(client)

        async def cut() -> None:
            sender.cut("the connection was cut")

        await connect(url, name="a sender", client=client, disconnected_cb=cut)
        try:
            await sender.open()
            await work(sender, client)
        finally:
            await client.close()

    asyncio.run(run())


def ids(server: TestServer) -> list[str]:
    return [one.message_id for one in out(server.url)]


def test_more_than_is_in_flight_at_once_is_confirmed_in_order(server: TestServer) -> None:
    count = 2 * MAX_IN_FLIGHT + 7
    left = publications(count)

    async def send(sender: Sender, _: RawClient) -> None:
        await sender.send(left)

    with_sender(server.url, send)
    assert left == {}
    assert ids(server) == [f"m{n}" for n in range(count)]


def test_after_a_cut_what_is_left_is_sent_again_and_order_holds(server: TestServer) -> None:
    proxy = Proxy(server.port)
    count = 1500
    left = publications(count)

    async def send(sender: Sender, _: RawClient) -> None:
        proxy.cut_every(20_000)
        with pytest.raises(NotConfirmedError, match="cut"):
            await sender.send(left)
        assert 0 < len(left) < count
        proxy.cut_every(10**9)
        while left:
            try:
                await sender.send(left)
            except NotConfirmedError:
                await asyncio.sleep(0.01)

    with_sender(proxy.url, send)
    proxy.close()
    assert ids(server) == [f"m{n}" for n in range(count)]


def test_what_jetstream_refuses_or_nobody_takes_is_said_and_stays(server: TestServer) -> None:
    async def send(sender: Sender, _: RawClient) -> None:
        nowhere = publications(1, "leads.nowhere")
        with pytest.raises(NotConfirmedError, match="JetStream is not ready"):
            await sender.send(nowhere)
        assert len(nowhere) == 1
        refused = publications(1)
        expects = header_block([("Nats-Expected-Stream", "ANOTHER")])
        refused[0] = Publication(refused[0].subject, expects, b"{}")
        with pytest.raises(NotConfirmedError, match=r"JetStream refuses it: .*does not match"):
            await sender.send(refused)
        assert len(refused) == 1

    with_sender(server.url, send)


def test_what_the_server_would_cut_the_connection_for_is_not_sent(server: TestServer) -> None:
    async def send(sender: Sender, client: RawClient) -> None:
        huge = {0: Publication("leads.out.b.l.results", header_block([]), b"x" * (client.max_payload + 1))}
        with pytest.raises(TooLargeError, match="max_payload"):
            await sender.send(huge)
        left = publications(1)
        await sender.send(left)
        assert left == {}

    with_sender(server.url, send)


def test_a_server_that_says_nothing_is_given_up(server: TestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PATIENCE_SECONDS", 0.1)

    async def send(sender: Sender, _: RawClient) -> None:
        server.pause()
        await asyncio.to_thread(eventually, lambda: is_stopped(server.pid))
        left = publications(1)
        with pytest.raises(NotConfirmedError, match="does not answer"):
            await sender.send(left)
        server.resume()
        await sender.send(left)
        assert left == {}

    with_sender(server.url, send)
    assert ids(server) == ["m0"]


def is_stopped(pid: int) -> bool:
    """Whether the signal has arrived."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
