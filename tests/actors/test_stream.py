from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client

from actors import jetstream, stream
from actors.jetstream import JetStreamError, JetStreamSilentError
from actors.nats_server import find_binary, read_greeting
from actors.stream import StreamRefusedError
from tests.support.eventually import eventually
from tests.support.log import body, ensured, with_client
from tests.support.nats import TestServer, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    with running_server(tmp_path_factory.mktemp("nats")) as one:
        yield one


@pytest.fixture(autouse=True)
def _no_stream(server: TestServer) -> None:
    async def delete(client: Client) -> None:
        with contextlib.suppress(JetStreamError):
            await jetstream.call(client, "STREAM.DELETE.LEADS")
        with contextlib.suppress(JetStreamError):
            await jetstream.call(client, "STREAM.DELETE.LEADS_OUT")

    with_client(server.url, delete)


def make(server: TestServer, **fields: Any) -> None:
    config = {**stream.configuration(), **fields}
    with_client(server.url, lambda client: jetstream.call(client, "STREAM.CREATE.LEADS", config))


async def confirmed(client: Client, subject: str, payload: bytes = b"{}") -> dict[str, Any] | None:
    """JetStream's answer to a publish, None where nobody confirms."""
    try:
        message = await client.request(subject, payload, timeout=2)
    except nats.errors.NoRespondersError:
        return None
    answer: dict[str, Any] = json.loads(message.data)
    return answer


def test_it_is_made_once_and_found_after_that(server: TestServer) -> None:
    assert ensured(server.url).created == ensured(server.url).created


def test_it_is_made_where_the_last_one_is_still_being_removed(tmp_path: Path) -> None:
    """JetStream cannot make its folder while something is in its place; it clears that, and takes the next try."""
    with running_server(tmp_path) as fresh:
        folder = fresh.store / "jetstream" / "$G" / "streams" / stream.STREAM
        folder.parent.mkdir(parents=True)
        folder.write_text("in the way")
        assert ensured(fresh.url).messages == 0


def test_whoever_comes_first_makes_it_also_at_the_same_time(server: TestServer) -> None:
    """H30."""

    async def together(client: Client) -> set[int]:
        return {state.created for state in await asyncio.gather(*(stream.ensure(client) for _ in range(8)))}

    assert len(with_client(server.url, together)) == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"subjects": ["leads.in.>", "leads.cmd.*.*"], "subject_transform": None}, "subjects is"),
        ({"subject_transform": None}, "a lead's messages must meet in one partition"),
        (
            {
                "subject_transform": {
                    "src": "leads.*.*.*",
                    "dest": "partition.{{partition(8,2,3)}}.a.{{wildcard(1)}}",
                }
            },
            "subject_transform is",
        ),
        ({"storage": "memory", "max_bytes": 1_000_000}, "storage is memory and must be file"),
        ({"discard": "old"}, "a full stream must refuse publishers"),
        ({"max_age": 3_600_000_000_000}, "messages must not expire unread"),
        ({"max_msgs": 1000}, "max_msgs is 1000"),
        ({"max_msgs_per_subject": 1}, "max_msgs_per_subject is 1"),
        ({"retention": "workqueue"}, "retention is workqueue"),
        ({"duplicate_window": 1_000_000_000}, "duplicate_window is 1000000000"),
        ({"max_bytes": -1}, "max_bytes is unlimited"),
        ({"max_msg_size": 1000}, "max_msg_size is set"),
        ({"allow_rollup_hdrs": True}, "allow_rollup_hdrs is set and must not be"),
        ({"allow_msg_ttl": True}, "allow_msg_ttl is set and must not be"),
        ({"allow_atomic": True}, "allow_atomic is set and must not be"),
    ],
)
def test_a_configuration_that_breaks_a_promise_is_refused_with_its_reason(
    server: TestServer, fields: dict[str, Any], says: str
) -> None:
    make(server, **fields)
    with pytest.raises(StreamRefusedError) as refused:
        ensured(server.url)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert any(says in line for line in with_client(server.url, stream.check))


def test_another_size_is_refused_only_by_whoever_asks_for_one(server: TestServer) -> None:
    make(server, max_bytes=1_000_000)
    assert ensured(server.url).messages == 0
    with pytest.raises(StreamRefusedError, match="max_bytes is 1000000 and must be 2000000"):
        with_client(server.url, lambda client: stream.ensure(client, 2_000_000))


def test_checking_makes_nothing(server: TestServer) -> None:
    assert "not there yet" in with_client(server.url, stream.check)[0]
    assert "not there yet" in with_client(server.url, stream.check)[0]
    ensured(server.url)
    assert with_client(server.url, stream.check) == []


def test_more_than_the_server_may_store_is_said_in_one_line(server: TestServer) -> None:
    with pytest.raises(StreamRefusedError, match=r"cannot be had: .*storage"):
        with_client(server.url, lambda client: stream.ensure(client, 2**50))


def test_other_streams_on_its_subjects_are_said_in_one_line(server: TestServer) -> None:
    other = {"name": "OTHER", "subjects": ["leads.>"]}
    with_client(server.url, lambda client: jetstream.call(client, "STREAM.CREATE.OTHER", other))
    try:
        with pytest.raises(StreamRefusedError, match="overlap"):
            ensured(server.url)
    finally:
        with_client(server.url, lambda client: jetstream.call(client, "STREAM.DELETE.OTHER"))


def test_only_subjects_that_a_partition_reads_are_confirmed(server: TestServer) -> None:
    """H7."""
    ensured(server.url)
    for subject in ("leads.in.acme", "leads.in.acme.lead.more", "leads.out.acme.lead"):
        assert with_client(server.url, lambda client, subject=subject: confirmed(client, subject)) is None  # type: ignore[misc]
    for subject in ("leads.in.acme.lead", "leads.cmd.acme.lead"):
        assert with_client(server.url, lambda client, subject=subject: confirmed(client, subject))  # type: ignore[misc]


def test_a_lead_s_messages_and_commands_meet_in_one_partition(server: TestServer) -> None:
    ensured(server.url)

    async def partitions(client: Client) -> list[set[int]]:
        found = []
        for lead in range(20):
            sequences = [
                (await confirmed(client, f"leads.{kind}.acme.lead-{lead}") or {})["seq"]
                for kind in ("in", "cmd")
            ]
            stored = [
                (await jetstream.call(client, "STREAM.MSG.GET.LEADS", {"seq": seq}))["message"]["subject"]
                for seq in sequences
            ]
            found.append({int(subject.split(".")[1]) for subject in stored})
        return found

    found = with_client(server.url, partitions)
    assert all(len(one) == 1 for one in found)
    assert len(set.union(*found)) > 5


def test_a_full_stream_refuses_publishers_and_keeps_what_it_has(server: TestServer) -> None:
    """H7."""
    with_client(server.url, lambda client: stream.ensure(client, 20_000))

    async def fill(client: Client) -> list[bool]:
        answers = [
            await confirmed(client, "leads.in.acme.lead", body("m", text="x" * 1000)) for _ in range(40)
        ]
        return ["error" in (answer or {}) for answer in answers]

    refused = with_client(server.url, fill)
    assert not refused[0]
    assert refused[-1]
    assert with_client(server.url, stream.read_state).first_sequence == 1


def test_a_server_without_jetstream_is_said_in_one_line(tmp_path: Path) -> None:
    plain = subprocess.Popen(
        [find_binary(), "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(tmp_path)],
        stderr=subprocess.DEVNULL,
    )
    try:
        url = eventually(lambda: _first_url(tmp_path))
        eventually(lambda: read_greeting(url) is not None)
        with pytest.raises(JetStreamSilentError, match="no JetStream"):
            ensured(url)
        assert "no JetStream" in with_client(url, stream.check)[0]
    finally:
        plain.kill()
        plain.wait()


def _first_url(folder: Path) -> str:
    for ports in folder.glob("*.ports"):
        with contextlib.suppress(ValueError):
            return str(json.loads(ports.read_bytes())["nats"][0])
    raise AssertionError("no ports file yet")


@pytest.mark.parametrize(
    ("instant", "nanoseconds"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T00:00:00.5Z", 500_000_000),
        ("2026-11-22T21:06:30.919017251Z", 1795381590919017251),
    ],
)
def test_times_keep_every_digit(instant: str, nanoseconds: int) -> None:
    assert jetstream.nanoseconds(instant) == nanoseconds


# what goes out


def ensured_out(server: TestServer, limits: stream.OutLimits) -> dict[str, Any]:
    """The stream's configuration, once it is ensured."""

    async def ensure(client: Client) -> dict[str, Any]:
        await stream.ensure_out(client, limits)
        found: dict[str, Any] = (await jetstream.call(client, "STREAM.INFO.LEADS_OUT"))["config"]
        return found

    return with_client(server.url, ensure)


def test_what_goes_out_has_a_stream_that_drops_the_oldest_and_follows_its_settings(
    server: TestServer,
) -> None:
    made = ensured_out(server, stream.OutLimits(2_000_000, timedelta(hours=30)))
    assert made["subjects"] == ["leads.out.*.*.results", "leads.out.*.*.replies"]
    assert (made["discard"], made["max_bytes"], made["max_age"]) == ("old", 2_000_000, 108_000 * 10**9)
    changed = ensured_out(server, stream.OutLimits(1_000_000, timedelta(hours=48)))
    assert (changed["max_bytes"], changed["max_age"]) == (1_000_000, 172_800 * 10**9)
    assert with_client(server.url, stream.check_out) == []


def test_one_of_before_there_were_batches_is_opened_for_them_and_keeps_what_it_has(
    server: TestServer,
) -> None:
    older = stream.out_configuration(stream.OutLimits())
    del older["allow_atomic"]

    async def upgraded(client: Client) -> tuple[list[str], bool, int]:
        await jetstream.call(client, "STREAM.CREATE.LEADS_OUT", older)
        await confirmed(client, "leads.out.acme.lead.results")
        wrong = await stream.check_out(client)
        takes = await stream.ensure_out(client, stream.OutLimits())
        answer = await jetstream.call(client, "STREAM.INFO.LEADS_OUT")
        assert stream.takes_batches(answer)
        return wrong, takes, answer["state"]["messages"]

    assert with_client(server.url, upgraded) == ([], True, 1)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"subjects": ["leads.out.>"]}, "subjects is"),
        ({"discard": "new"}, "discard is new and must be old (a full stream must drop the oldest"),
        ({"storage": "memory", "max_bytes": 1_000_000}, "storage is memory and must be file"),
        ({"max_msgs_per_subject": 1}, "a lead may have any number of them"),
        ({"allow_batched": True}, "allow_batched is set and must not be"),
    ],
)
def test_one_that_breaks_a_promise_is_refused_with_its_reason(
    server: TestServer, fields: dict[str, Any], says: str
) -> None:
    config = {**stream.out_configuration(stream.OutLimits()), **fields}
    with_client(server.url, lambda client: jetstream.call(client, "STREAM.CREATE.LEADS_OUT", config))
    with pytest.raises(StreamRefusedError) as refused:
        ensured_out(server, stream.OutLimits())
    assert "stream LEADS_OUT is not as Leadline needs it" in str(refused.value)
    assert says in str(refused.value)
    assert any(says in line for line in with_client(server.url, stream.check_out))
