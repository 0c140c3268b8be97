"""Publishing with confirmation: in batches or singly, in order, and what is not confirmed is still to be sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from actors import jetstream, stream
from actors.connection import RawClient, connect
from actors.stream import OutLimits
from outbox import sending
from outbox.sending import (
    MAX_AT_ONCE,
    WORTH_A_BATCH,
    NotConfirmedError,
    Publication,
    Sender,
    TooLargeError,
    header_block,
)
from tests.support.eventually import eventually
from tests.support.nats import TestServer, running_server
from tests.support.outbox import commands, make_streams, out
from tests.support.proxy import proxy_before


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TestServer]:
    with running_server(tmp_path / "nats") as started:
        make_streams(started.url)
        yield started


def publications(
    count: int, subject: str = "leads.out.b.l.results", *, of: int = 1
) -> dict[int, Publication]:
    """Numbered; `of` several leads, in turn."""
    return {
        n: publication(f"m{n}", subject.replace(".l.", f".l{n % of}.") if of > 1 else subject)
        for n in range(count)
    }


def publication(message_id: str, subject: str = "leads.out.b.l.results", **headers: str) -> Publication:
    """Headers are written `Nats_Expected_Stream=…`."""
    more = [(name.replace("_", "-"), value) for name, value in headers.items()]
    block = header_block([("Nats-Msg-Id", f"of-{message_id}"), *more])
    return Publication(subject, block, f'{{"message_id":"{message_id}"}}'.encode())


def with_sender(url: str, work: Callable[[Sender, RawClient], Awaitable[None]]) -> None:
    async def run() -> None:
        client = RawClient()
        sender = Sender(client)

        async def cut() -> None:
            sender.cut("the connection was cut")

        await connect(url, name="a sender", client=client, disconnected_cb=cut)
        try:
            await sender.open()
            sender.batches = await stream.ensure_out(client, OutLimits())
            await work(sender, client)
        finally:
            await client.close()

    asyncio.run(run())


def ids(server: TestServer) -> list[str]:
    return [one.message_id for one in out(server.url)]


async def sent(sender: Sender, left: dict[int, Publication]) -> None:
    """All of it, through whatever trouble."""
    while left:
        try:
            await sender.send(left)
        except NotConfirmedError:
            await asyncio.sleep(0.01)


def test_what_is_too_much_for_one_batch_goes_out_in_several_and_in_order(server: TestServer) -> None:
    count = 2 * MAX_AT_ONCE + 7
    left = publications(count)
    with_sender(server.url, lambda sender, _: sender.send(left))
    assert left == {}
    found = out(server.url)
    assert [one.message_id for one in found] == [f"m{n}" for n in range(count)]
    first, second, rest = found[0].batch, found[MAX_AT_ONCE].batch, None
    assert first != second
    assert [one.batch for one in found] == [first] * MAX_AT_ONCE + [second] * MAX_AT_ONCE + [rest] * 7


@pytest.mark.parametrize(("count", "batches"), [(WORTH_A_BATCH - 1, 0), (WORTH_A_BATCH, 1)])
def test_a_few_go_out_singly(server: TestServer, count: int, batches: int) -> None:
    with_sender(server.url, lambda sender, _: sender.send(publications(count)))
    found = out(server.url)
    assert [one.message_id for one in found] == [f"m{n}" for n in range(count)]
    assert len({one.batch for one in found if one.batch}) == batches


def test_a_batch_of_which_some_is_out_already_goes_out_singly_and_each_is_there_once(
    server: TestServer,
) -> None:
    """As after a process that died before its position was written."""
    count = 3 * WORTH_A_BATCH
    left = publications(count, of=3)

    async def send(sender: Sender, _: RawClient) -> None:
        await sender.send({n: left[n] for n in range(10)})
        await sender.send(left)

    with_sender(server.url, send)
    assert left == {}
    in_order(server, count, of=3)


def in_order(server: TestServer, count: int, *, of: int) -> None:
    """Everything is there once, in order for each lead."""
    found = out(server.url)
    assert len(found) == count
    for lead in range(of):
        mine = [one.message_id for one in found if one.subject == f"leads.out.b.l{lead}.results"]
        assert mine == [f"m{n}" for n in range(lead, count, of)]


def test_of_a_batch_that_is_cut_nothing_is_out_and_the_next_has_all_of_it_in_order(
    server: TestServer,
) -> None:
    count = 1500
    left = publications(count)

    async def send(sender: Sender, _: RawClient) -> None:
        proxy.cut_after_sending(100_000)
        with pytest.raises(NotConfirmedError, match="cut"):
            await sender.send(left)
        assert len(left) == count
        assert await asyncio.to_thread(out, server.url) == []
        await sent(sender, left)

    with proxy_before(server.port) as proxy:
        with_sender(proxy.url, send)
    assert ids(server) == [f"m{n}" for n in range(count)]
    assert len({one.batch for one in out(server.url)}) == 2


def test_a_batch_whose_answer_is_lost_is_recognised_when_it_comes_again(server: TestServer) -> None:
    count = 1500
    left = publications(count, of=500)

    async def send(sender: Sender, _: RawClient) -> None:
        proxy.cut_every(1)
        with pytest.raises(NotConfirmedError, match="cut"):
            await sender.send(left)
        proxy.cut_every(None)
        assert len(left) == count
        await asyncio.to_thread(eventually, lambda: len(out(server.url)) == MAX_AT_ONCE)
        await sent(sender, left)

    with proxy_before(server.port) as proxy:
        with_sender(proxy.url, send)
    in_order(server, count, of=500)


def test_singly_what_is_left_after_a_cut_is_sent_again_and_order_holds(server: TestServer) -> None:
    count = 1500
    left = publications(count, of=500)

    async def send(sender: Sender, _: RawClient) -> None:
        sender.batches = False
        proxy.cut_every(20_000)
        with pytest.raises(NotConfirmedError, match="cut"):
            await sender.send(left)
        assert 0 < len(left) < count
        proxy.cut_every(10**9)
        await sent(sender, left)

    with proxy_before(server.port) as proxy:
        with_sender(proxy.url, send)
    in_order(server, count, of=500)


@pytest.mark.parametrize("known", [True, False])
def test_a_stream_that_takes_no_batches_gets_all_singly(tmp_path: Path, known: bool) -> None:  # noqa: FBT001
    """Also where somebody has made it so under a sender that knows it otherwise."""
    count = 2 * WORTH_A_BATCH

    async def send(sender: Sender, client: RawClient) -> None:
        config = stream.out_configuration(OutLimits()) | {"allow_atomic": False}
        await jetstream.call(client, "STREAM.UPDATE.LEADS_OUT", config)
        sender.batches = not known
        await sender.send(left)

    left = publications(count)
    with running_server(tmp_path / "nats") as server:
        make_streams(server.url)
        with_sender(server.url, send)
        assert left == {}
        assert [(one.message_id, one.batch) for one in out(server.url)] == [
            (f"m{n}", None) for n in range(count)
        ]


def test_commands_go_into_no_batch_and_keep_nothing_from_one(server: TestServer) -> None:
    """They go to another stream."""
    count = 2 * WORTH_A_BATCH
    left = publications(count)
    for n in range(count):
        command = publication(f"c{n}", "leads.cmd.b.l")
        left[count + n] = msgspec.structs.replace(command, body=f'{{"command":"c{n}"}}'.encode())

    with_sender(server.url, lambda sender, _: sender.send(left))
    assert left == {}
    assert len({one.batch for one in out(server.url)} - {None}) == 1
    assert [one["command"] for one in commands(server.url)] == [f"c{n}" for n in range(count)]


@pytest.mark.parametrize("count", [5, 3 * WORTH_A_BATCH])
def test_where_jetstream_refuses_one_amidst_others_what_follows_on_its_subject_is_not_sent(
    server: TestServer, count: int
) -> None:
    """The last one that is out says so that those before it are."""
    left = publications(count)
    left[3] = publication("m3", Nats_Expected_Stream="ANOTHER")

    async def send(sender: Sender, _: RawClient) -> None:
        with pytest.raises(NotConfirmedError, match="does not match"):
            await sender.send(left)
        assert list(left) == list(range(3, count))

    with_sender(server.url, send)
    assert ids(server) == ["m0", "m1", "m2"]


def test_what_jetstream_refuses_or_nobody_takes_is_said_and_stays(server: TestServer) -> None:
    async def send(sender: Sender, _: RawClient) -> None:
        nowhere = publications(1, "leads.nowhere")
        with pytest.raises(NotConfirmedError, match="JetStream is not ready"):
            await sender.send(nowhere)
        assert len(nowhere) == 1
        refused = {0: publication("m0", Nats_Expected_Stream="ANOTHER")}
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
