"""Bad surroundings: one clear line and an exit code, no traceback, nothing lost."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import nats
import pytest

from actors.nats_server import find_binary, read_greeting
from tests.support.eventually import eventually
from tests.support.nats import TestServer
from tests.support.system_leadline import PATIENCE, Leadline, assert_one_line, leadline
from tests.support.system_sql import view
from tests.support.system_wire import message


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Leadline]:
    """A Leadline without any NATS."""
    with leadline(tmp_path / "house", url=f"nats://127.0.0.1:{free_port()}") as made:
        yield made


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("[tenants.acme\n", "not TOML"),
        ("[pool]\ntreads = 3\n", "pool.treads"),
        ('[pool]\nthreads = "many"\n', "pool.threads"),
        ("[thresholds]\nlow = 0.9\nhigh = 0.2\n", "low"),
        ('modules = ["no_such_module"]\n', "no_such_module"),
        ('[tenants.a]\nbusinesses = ["x"]\n[targets.fly]\nkind = "scripted"\n', "targets.fly"),
    ],
)
def test_bad_settings_are_said_with_their_key(alone: Leadline, settings: str, said: str) -> None:
    alone.set(settings)
    assert_one_line(alone.cli("run", "--http-port", "0"), 2, said)


def test_a_settings_file_that_is_not_there_is_said(alone: Leadline) -> None:
    assert_one_line(alone.cli("run", "--config", "elsewhere.toml"), 2, "elsewhere.toml")


@pytest.mark.parametrize(
    "words", [("run", "--http-port", "0"), ("publish", "leadline.toml"), ("status",), ("tasks",)]
)
def test_without_a_server_or_views_it_says_what_is_missing(alone: Leadline, words: tuple[str, ...]) -> None:
    assert_one_line(alone.cli(*words), 1)


def test_a_file_that_cannot_be_published_is_said_and_good_lines_are_published_all_the_same(
    house: Leadline,
) -> None:
    assert_one_line(house.cli("publish", "nowhere.jsonl"), 1, "nowhere.jsonl")
    assert_one_line(house.cli("publish", "."), 1)
    (house.folder / "bad.jsonl").write_bytes(
        b"\n".join([message("m-1"), b"hello", b"\xff\xfe\x00", b"[1]", b'{"lead_id": "+1"}', message("m-2")])
    )
    answer = house.cli("publish", "bad.jsonl", "--json")
    assert answer.code == 1
    assert (answer.json["confirmed"], answer.json["refused"]) == (2, 4)
    assert [line["line"] for line in answer.json["lines"]] == [2, 3, 4, 5]
    assert all(line["reason"] for line in answer.json["lines"])
    assert "Traceback" not in answer.err
    assert house.begin("run", "--until-idle", "--http-port", "0").ended() == 0
    assert len(view(house.data, "tasks")) == 2


def test_a_port_in_use_is_said_for_nats_and_for_the_metrics(alone: Leadline) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_line(alone.cli("up", "--nats-port", port, "--http-port", "0"), 1, port)
        answer = alone.cli("up", "--nats-port", "0", "--http-port", port)
        assert_one_line(answer, 1, port)
    alone.up()


def test_a_data_folder_in_use_is_refused_and_its_owner_goes_on(house: Leadline) -> None:
    owner = house.run()
    assert_one_line(house.cli("run", "--http-port", "0"), 1, "another Leadline")
    assert_one_line(house.cli("up", "--nats-port", "0", "--http-port", "0"), 1, "another Leadline")
    house.publish([message("m-1")])
    house.wait_idle()
    assert len(view(house.data, "tasks")) == 1
    assert owner.terminate() == 0


def test_a_server_without_jetstream_is_refused(alone: Leadline) -> None:
    with plain_server(alone.folder) as alone.url:
        assert_one_line(alone.cli("run", "--http-port", "0"), 1, "JetStream")
        assert_one_line(alone.cli("publish", "-", stdin=message("m-1")), 1, "JetStream")


def test_a_stream_of_another_configuration_is_refused_and_left_alone(
    house: Leadline, server: TestServer
) -> None:
    asyncio.run(make_stream(server.url, ["leads.in.>"]))
    assert_one_line(house.cli("run", "--http-port", "0"), 1, "LEADS", "subjects")
    assert_one_line(house.cli("publish", "-", stdin=message("m-1")), 1, "LEADS")
    assert asyncio.run(subjects_of(server.url)) == ["leads.in.>"]
    assert house.cli("doctor").code == 1


def test_a_database_that_is_none_is_said(house: Leadline) -> None:
    house.data.mkdir()
    (house.data / "events.db").write_bytes(b"this is no database" * 500)
    assert_one_line(house.cli("run", "--http-port", "0"), 1, "events.db")


def test_the_doctor_says_that_the_store_cannot_be_written_while_the_runner_waits(house: Leadline) -> None:
    house.run()
    with closing(sqlite3.connect(house.data / "events.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        house.publish([message("m-1")])
        eventually(lambda: "journal stalled" in house.cli("doctor").out, within=PATIENCE, every=0.5)
    eventually(lambda: "journal stalled" not in house.cli("doctor").out, within=PATIENCE, every=0.5)
    assert len(view(house.data, "tasks")) == 1


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def plain_server(folder: Path) -> Iterator[str]:
    """The address of a NATS server without JetStream."""
    port = free_port()
    process = subprocess.Popen(
        [find_binary(), "-a", "127.0.0.1", "-p", str(port), "-l", str(folder / "plain.log")]
    )
    url = f"nats://127.0.0.1:{port}"
    try:
        eventually(lambda: read_greeting(url) is not None, within=PATIENCE)
        yield url
    finally:
        process.kill()
        process.wait()


async def make_stream(url: str, subjects: list[str]) -> None:
    client = await nats.connect(url)
    await client.jetstream().add_stream(name="LEADS", subjects=subjects)
    await client.close()


async def subjects_of(url: str) -> list[str]:
    client = await nats.connect(url)
    try:
        return list((await client.jetstream().stream_info("LEADS")).config.subjects or [])
    finally:
        await client.close()
