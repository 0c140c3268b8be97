"""What `doctor` says of the streams, over a real server: how full, how old, and what was lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from actors import jetstream, stream
from cli import stream_health
from cli.finding import Finding
from domain import events as ev
from settings import load
from tests.support.cli_data import write_data
from tests.support.log import body, published, with_client
from tests.support.nats import TestServer, running_server
from tests.support.projections_story import Story

MEBIBYTE = 1_048_576


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TestServer]:
    with running_server(tmp_path / "nats") as one:
        yield one


def findings(server: TestServer, data: Path, **more: object) -> list[Finding]:
    said = {"data": str(data), "nats.url": server.url, "stream.max_bytes": MEBIBYTE}
    return list(stream_health.look_at_streams(load(env={}, overrides={**said, **more})))


def made(server: TestServer) -> None:
    with_client(server.url, lambda client: stream.ensure(client, MEBIBYTE))


def not_good(found: list[Finding]) -> list[Finding]:
    return [one for one in found if one.state != "good" and "LEADS_OUT is not there" not in one.found]


@pytest.mark.parametrize(
    ("messages", "size", "state"), [(4, 200_000, None), (4, 220_000, "warning"), (5, 205_000, "bad")]
)
def test_a_stream_that_is_nearly_full_is_said_before_it_refuses(
    server: TestServer, tmp_path: Path, messages: int, size: int, state: str | None
) -> None:
    made(server)
    published(server.url, [body(f"m{n}", text="x" * size) for n in range(messages)])
    said = not_good(findings(server, tmp_path))
    assert [one.state for one in said] == ([state] if state else [])
    assert all("refuses publishers" in one.found for one in said)


def test_a_log_that_is_not_purged_is_said(
    server: TestServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(server)
    published(server.url, [body("m1")])
    assert not_good(findings(server, tmp_path, **{"stream.keep_hours": 0})) == []
    monkeypatch.setattr(stream_health, "PURGE_SLACK", timedelta(0))
    [found] = not_good(findings(server, tmp_path, **{"stream.keep_hours": 0}))
    assert (found.state, "LEADS goes back" in found.found) == ("warning", True)


def test_results_that_go_before_their_time_are_said(server: TestServer, tmp_path: Path) -> None:
    made(server)
    config = stream.out_configuration(stream.OutLimits(max_bytes=MEBIBYTE))
    with_client(server.url, lambda client: jetstream.call(client, "STREAM.CREATE.LEADS_OUT", config))
    assert not_good(findings(server, tmp_path)) == []
    for _ in range(10):
        with_client(
            server.url, lambda c: c.request("leads.out.acme.x.results", json.dumps("x" * 200_000).encode())
        )
    [found] = not_good(findings(server, tmp_path))
    assert (found.state, "it drops the oldest" in found.found) == ("warning", True)


def test_a_stream_of_results_that_takes_no_batches_is_said(server: TestServer, tmp_path: Path) -> None:
    made(server)
    older = stream.out_configuration(stream.OutLimits()) | {"allow_atomic": False}
    with_client(server.url, lambda client: jetstream.call(client, "STREAM.CREATE.LEADS_OUT", older))
    [found] = not_good(findings(server, tmp_path))
    assert (found.state, "LEADS_OUT takes no batches" in found.found) == ("warning", True)
    assert "a runner sets allow_atomic" in found.mend


def test_what_was_lost_unread_and_a_log_that_ends_below_a_position_are_said(
    server: TestServer, tmp_path: Path
) -> None:
    made(server)
    story = Story()
    created = with_client(server.url, stream.read_state).created
    story.add("intake:3", ev.MessagesLost(3, f"{created}.0", 1, 12))
    data = write_data(tmp_path, story.recorded)
    rewound, lost = not_good(findings(server, data))
    assert "ends below a position" in rewound.found
    assert lost.found.startswith("up to 12 entries of LEADS were gone before they were read")


def test_the_servers_time_is_had_without_its_monitoring_port(server: TestServer, tmp_path: Path) -> None:
    settings = load(env={}, overrides={"data": str(tmp_path), "nats.url": server.url})
    assert stream_health.server_time(settings) is None, "there is no stream to ask about"
    made(server)
    told = stream_health.server_time(settings)
    assert told is not None
    assert abs(told - datetime.now(UTC)) < timedelta(seconds=5)
