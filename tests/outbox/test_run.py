"""The outbox as a whole, as its host runs it: one at a time over a folder, and none in the way of its own end."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from actors import jetstream
from actors.ownership import DataFolderLock
from actors.stream import OUT_STREAM, OutLimits
from outbox import run as run_module
from outbox.host import start_outbox
from outbox.position import PositionFile, read_position, settle
from outbox.relay import RelaySettings
from outbox.run import OutboxParts, run_outbox
from projections.host import as_it_is
from tests.support.eventually import eventually
from tests.support.log import with_client
from tests.support.nats import TestServer, running_server
from tests.support.outbox import make_streams, out, wait_for_a_duplicate_window
from tests.support.projections_log import MemoryLog
from tests.support.projections_story import LeadStory, Story


@pytest.fixture
def log(tmp_path: Path) -> MemoryLog:
    """Three messages that are done, none of them out."""
    story = Story()
    for n in range(3):
        LeadStory(story).whole(f"m{n}")
    empty = MemoryLog()
    settle(tmp_path / "outbox.db", empty, print)
    return MemoryLog(story.recorded)


def parts(folder: Path, log: MemoryLog, url: str) -> OutboxParts:
    path = folder / "outbox.db"
    settings = RelaySettings(replies=False, linger=0.01, retry=0.01)
    return OutboxParts(lambda: log, path, folder / "views.db", url, OutLimits(), settings, service=True)


@contextmanager
def working(made: OutboxParts) -> Iterator[None]:
    """The outbox on a thread; it ends when it is told to."""
    stop = threading.Event()
    thread = threading.Thread(target=run_outbox, args=(made, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TestServer]:
    with running_server(tmp_path / "nats") as started:
        yield started


def test_it_makes_its_stream_and_what_was_recorded_before_it_came_is_out(
    tmp_path: Path, log: MemoryLog, server: TestServer
) -> None:
    made = parts(tmp_path, log, server.url)
    with working(made):
        eventually(lambda: read_position(made.position).position == 15)  # type: ignore[union-attr]
    assert [one.message_id for one in out(server.url, "results")] == ["m0", "m1", "m2"]
    assert log.closed


def test_a_stream_of_before_there_were_batches_is_opened_for_them(
    tmp_path: Path, log: MemoryLog, server: TestServer
) -> None:
    make_streams(server.url, batches=False)
    made = parts(tmp_path, log, server.url)
    backlog = Story()
    for n in range(3, 50):
        LeadStory(backlog, lead=f"+{n}").whole(f"m{n}")
    log.append(*backlog.recorded)
    with working(made):
        eventually(lambda: read_position(made.position).position == 250)  # type: ignore[union-attr]
    found = out(server.url, "results")
    assert [one.message_id for one in found] == [f"m{n}" for n in range(50)]
    assert all(one.batch for one in found)


def test_a_stream_deleted_under_it_is_made_again_and_nothing_is_left_out(
    tmp_path: Path, log: MemoryLog, server: TestServer
) -> None:
    made = parts(tmp_path, log, server.url)
    later = Story()
    LeadStory(later, lead="later").whole("m3")
    with working(made):
        eventually(lambda: len(out(server.url, "results")) == 3)
        with_client(server.url, lambda client: jetstream.call(client, f"STREAM.DELETE.{OUT_STREAM}"))
        eventually(lambda: all(OUT_STREAM not in folders for _, folders, _ in os.walk(server.store)))
        log.append(*later.recorded)
        eventually(lambda: [one.message_id for one in out(server.url, "results")] == ["m3"])


def test_a_position_that_is_removed_under_it_is_written_again(
    tmp_path: Path, log: MemoryLog, server: TestServer
) -> None:
    made = parts(tmp_path, log, server.url)
    later = Story()
    LeadStory(later, lead="later").whole("m3")
    with working(made):
        eventually(lambda: len(out(server.url, "results")) == 3)
        made.position.unlink()
        eventually(lambda: read_position(made.position) is not None)
        log.append(*later.recorded)
        eventually(lambda: read_position(made.position).position == 20)  # type: ignore[union-attr]
    assert [one.message_id for one in out(server.url, "results")] == ["m0", "m1", "m2", "m3"]


def test_two_over_one_folder_work_one_after_the_other(
    tmp_path: Path, log: MemoryLog, server: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_LOCK_SECONDS", 0.01)
    monkeypatch.setattr(run_module, "_RETRY_SECONDS", 0.01)
    earlier = DataFolderLock(tmp_path, "outbox.lock")
    assert earlier.acquire()
    made = parts(tmp_path, log, server.url)
    with capture_logs() as logged:
        with working(made):
            eventually(lambda: any("earlier runner" in line["event"] for line in logged))
            assert out(server.url) == []
            earlier.release()
            eventually(lambda: len(out(server.url, "results")) == 3)
        assert earlier.acquire()
        with working(made):
            pass  # told to end while it waits
    earlier.release()


def test_without_a_server_it_says_so_once_and_ends_when_it_is_told(tmp_path: Path, log: MemoryLog) -> None:
    with capture_logs() as logged, working(parts(tmp_path, log, "nats://bob:s3cret@127.0.0.1:1")):
        eventually(lambda: bool(logged), within=30)
    lines = [line["event"] for line in logged]
    assert len(lines) == 1
    assert "held up" in lines[0]
    assert "nats://127.0.0.1:1" in lines[0], "and neither user nor password"


def test_what_is_recorded_while_it_is_switched_off_is_not_out_when_it_is_switched_on(
    tmp_path: Path, log: MemoryLog
) -> None:
    made = parts(tmp_path, log, "nats://127.0.0.1:1")
    off = msgspec.structs.replace(made, relay=RelaySettings(results=False, replies=False))

    def died(error: BaseException) -> None:
        raise error

    assert start_outbox(off, log, "thread", set_up=as_it_is, on_death=died) is None
    assert settle(made.position, log, print).position == log.last_position()


def test_replies_that_an_earlier_process_sent_are_looked_for_first(tmp_path: Path) -> None:
    """It died before its position was written, and JetStream has forgotten their ids."""
    story = Story()
    story.now = datetime.now(UTC)
    LeadStory(story).whole("m0")
    log, path = MemoryLog(), tmp_path / "outbox.db"
    before = settle(path, log, print)
    log.append(*story.recorded)
    with running_server(tmp_path / "nats") as server:
        make_streams(server.url, duplicate_window=0.1)
        made = msgspec.structs.replace(parts(tmp_path, log, server.url), service=False)
        made = msgspec.structs.replace(made, relay=RelaySettings(linger=0.01, retry=0.01))
        for _ in range(2):
            with closing(PositionFile(path)) as file:
                file.write(before)
            with working(made):
                eventually(lambda: read_position(path).position == 5)  # type: ignore[union-attr]
            wait_for_a_duplicate_window(server.url)
        assert len(out(server.url, "results")) == 2
        assert len(out(server.url, "replies")) == 1
