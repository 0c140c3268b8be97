"""The log is not always the log that was read: made anew, restored, purged by others, purged by the intake."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from actors import jetstream, stream
from actors.incarnations import (
    Chronicle,
    History,
    JournalRefusedError,
    LogLife,
    incarnation_name,
    intake_stream,
)
from actors.intake import IntakeSettings
from actors.log_status import LogStatus, read_status_at
from actors.positions import position_name
from actors.protocol import Append, Conflict
from actors.pull import PullSettings
from actors.stream import PARTITIONS, StreamState
from domain.events import Event, MessagesLost, Recorded, StreamRewound
from domain.skips import Missing
from tests.support.eventually import eventually
from tests.support.intake_fakes import FakeJournal
from tests.support.log import IMPATIENT, Reading, body, ensured, published, reading, traffic, with_client
from tests.support.nats import TestServer, running_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TestServer]:
    with running_server(tmp_path) as one:
        yield one


def events(journal: FakeJournal) -> list[Event]:
    return [recorded.event for p in range(PARTITIONS) for recorded in journal.read_stream(intake_stream(p))]


def read_all(url: str, count: int, journal: FakeJournal | None = None) -> Reading:
    """An intake that has read so much, drained, and ended."""
    with reading(url, journal=journal) as one:
        eventually(lambda: one.handed_on(count))
        assert one.intake.drain(5.0)
    return one


def restored_after_reading(server: TestServer, backup: Path) -> Reading:
    """60 entries were read; the stream that stands there now holds the first 30 of them."""
    published(server.url, traffic(30))
    server.stop()
    shutil.copytree(server.store, backup)
    server.start()
    published(server.url, traffic(60)[30:])
    first = read_all(server.url, 60)
    server.stop()
    shutil.rmtree(server.store)
    shutil.copytree(backup, server.store)
    server.start()
    return first


def purge(url: str, below: int) -> None:
    with_client(url, lambda client: jetstream.call(client, "STREAM.PURGE.LEADS", {"seq": below}))


def status(url: str, journal: FakeJournal) -> LogStatus:
    return asyncio.run(read_status_at(url, journal.read_position, journal.read_stream))


def settings(url: str, **fields: object) -> IntakeSettings:
    return IntakeSettings(url=url, pull=IMPATIENT, checkpoint_every=0.02, **fields)  # type: ignore[arg-type]


def test_a_restored_stream_hands_out_sequences_again_and_begins_a_new_epoch(
    server: TestServer, tmp_path: Path
) -> None:
    """H6: the same `created`, and 31 where 60 had been handled."""
    first = restored_after_reading(server, tmp_path / "backup")
    assert status(server.url, first.journal).rewound
    assert not status(server.url, first.journal).caught_up
    with reading(server.url, journal=first.journal) as second:
        published(server.url, [body(f"n{n}", f"lead-{n}") for n in range(40)])
        eventually(lambda: second.handed_on(40))
        assert sorted(second.message_ids()) == sorted(f"n{n}" for n in range(40))
        assert {place.incarnation for place in second.inlet.places} == {first.intake.incarnation[:-1] + "1"}
    rewinds = [event for event in events(first.journal) if isinstance(event, StreamRewound)]
    assert {(event.position, event.last_sequence) for event in rewinds} == {(60, 30)}
    assert [event.told for event in rewinds] == [False] + [True] * 15, "it counts once"


def test_a_stream_that_is_restored_while_it_is_read_begins_a_new_epoch_too(
    server: TestServer, tmp_path: Path
) -> None:
    published(server.url, traffic(30))
    server.stop()
    shutil.copytree(server.store, tmp_path / "backup")
    server.start()
    published(server.url, traffic(60)[30:])
    with reading(server.url) as one:
        eventually(lambda: one.handed_on(60))
        server.kill()
        shutil.rmtree(server.store)
        shutil.copytree(tmp_path / "backup", server.store)
        server.start()
        eventually(lambda: one.intake.incarnation.endswith(".1"))
        published(server.url, [body(f"n{n}", f"lead-{n}") for n in range(40)])
        eventually(lambda: {f"n{n}" for n in range(40)} <= set(one.message_ids()))
        assert not one.deaths


def test_a_crash_between_the_rewind_and_its_positions_loses_neither() -> None:
    """The new epoch's positions follow from the event and the positions of the old one."""
    old, new = incarnation_name(7, 0), incarnation_name(7, 1)
    journal = FakeJournal()
    journal.positions = {position_name(0, old): 60, position_name(1, old): 20}
    rewound = StreamRewound(0, old, 60, 30, new)
    journal.streams[intake_stream(0)] = [Recorded(intake_stream(0), 1, rewound, "id", at=None)]  # type: ignore[arg-type]
    history = History(journal.read_position, journal.read_stream)
    assert history.epoch(7) == 1
    assert history.epoch(8) == 0
    assert history.positions(7, 1)[:3] == [30, 20, 0]


def test_a_stream_made_anew_is_another_incarnation_and_read_from_its_beginning(server: TestServer) -> None:
    published(server.url, traffic(20))
    first = read_all(server.url, 20)
    with_client(server.url, lambda client: jetstream.call(client, "STREAM.DELETE.LEADS"))
    published(server.url, [body(f"n{n}", f"lead-{n}") for n in range(5)])
    second = read_all(server.url, 5, first.journal)
    assert sorted(second.message_ids()) == [f"n{n}" for n in range(5)]
    assert second.intake.incarnation != first.intake.incarnation
    assert second.intake.incarnation.endswith(".0")


def test_a_stream_deleted_under_the_intake_is_made_again_and_read_on(server: TestServer) -> None:
    published(server.url, traffic(20))
    with reading(server.url) as one:
        eventually(lambda: one.handed_on(20))
        before = one.intake.incarnation
        deleted = time.time_ns()
        with_client(server.url, lambda client: jetstream.call(client, "STREAM.DELETE.LEADS"))
        eventually(lambda: one.intake.incarnation != before or bool(one.deaths), within=20.0)
        assert not one.deaths
        made = with_client(server.url, stream.read_state).created
        assert made - deleted > stream.REMOVAL * 1e9, "the server still removes the files of the old one"
        published(server.url, [body(f"n{n}", f"lead-{n}") for n in range(5)])
        eventually(lambda: one.handed_on(25))
        assert not one.deaths
        assert events(one.journal)


def test_what_was_purged_unread_is_recorded_as_lost_once_and_reading_goes_on(server: TestServer) -> None:
    """H7."""
    published(server.url, [body(f"m{n}") for n in range(20)])
    ensured(server.url)
    purge(server.url, 11)
    with reading(server.url) as first:
        eventually(lambda: first.handed_on(10))
        assert first.message_ids() == [f"m{n}" for n in range(10, 20)]
        incarnation = first.intake.incarnation
    lost = [event for event in events(first.journal) if isinstance(event, MessagesLost)]
    assert [(one.partition, one.from_sequence, one.to_sequence) for one in lost] == [
        (partition, 1, 10) for partition in range(16)
    ]
    assert sum(one.count for one in lost) == 10, "of an entry that is gone nobody knows the partition"
    assert {one.incarnation for one in lost} == {incarnation}
    assert set(status(server.url, first.journal).lost) == set(lost)
    published(server.url, [body("m20")])
    with reading(server.url, journal=first.journal) as second:
        eventually(lambda: "m20" in second.message_ids())
    assert events(first.journal) == lost


def test_positions_of_partitions_without_traffic_move_with_the_stream(server: TestServer) -> None:
    published(server.url, [body(f"m{n}") for n in range(20)])
    with reading(server.url, settings=settings(server.url, raise_every=0.05)) as one:
        eventually(lambda: one.positions.all() == [20] * 16)
        eventually(lambda: sorted(one.journal.positions.values()) == [20] * 16)


def test_a_partition_with_something_unread_or_in_hand_is_not_raised(server: TestServer) -> None:
    published(server.url, [body("m0"), body("m1", "lead-2"), body("m2", "lead-3")])
    with reading(server.url, records=False, settings=settings(server.url, raise_every=0.05)) as one:
        eventually(lambda: one.handed_on(3))
        positions = {place.partition: place.sequence for place in one.inlet.places}
        assert len(positions) == 3
        eventually(lambda: sorted(set(one.positions.all())) == [0, 1, 2, 3])
        for partition, sequence in positions.items():
            assert one.positions.position(partition) == sequence - 1


def test_a_partition_with_something_still_on_the_server_is_not_raised(server: TestServer) -> None:
    """Back-pressure by one partition leaves another's entries unread, with nothing of it in hand."""
    published(server.url, [body(f"m{n}") for n in range(5)])
    little = PullSettings(batch=5, requests=1, expires=2.0, heartbeat=0.25)
    held = IntakeSettings(url=server.url, pull=little, max_in_hand=5, raise_every=0.02)
    with reading(server.url, records=False, settings=held) as one:
        eventually(lambda: one.handed_on(5))
        published(server.url, [body(f"m{n}", "lead-2") for n in range(5, 50)])
        eventually(lambda: one.handed_on(10))
        other = one.inlet.places[5].partition
        one.positions.recorded(one.inlet.places[5:])
        eventually(lambda: one.positions.all().count(50) == 14)
        assert one.positions.position(other) == 10
        one.inlet.records = True
        one.inlet.record_all()
        eventually(lambda: one.handed_on(50))
        one.assert_each_once_in_order(50)


def test_a_stream_made_anew_is_known_as_such_however_much_it_holds() -> None:
    """H6: sequences alone would not tell."""
    journal = FakeJournal()
    history = History(journal.read_position, journal.read_stream)
    life = LogLife(history, Chronicle(history, journal, lambda: datetime.now(UTC)))
    life.begin(StreamState(created=7, first_sequence=1, last_sequence=60, messages=60))
    read = [60] * PARTITIONS
    assert not life.differs(StreamState(created=7, first_sequence=1, last_sequence=90, messages=90), read)
    assert life.differs(StreamState(created=8, first_sequence=1, last_sequence=90, messages=90), read)


def test_the_intake_purges_what_all_positions_have_passed_and_nobody_calls_it_a_loss(
    server: TestServer,
) -> None:
    published(server.url, traffic(50))
    keep_nothing = settings(server.url, raise_every=0.05, keep=timedelta(0), purge_every=0.05)
    with reading(server.url, settings=keep_nothing) as one:
        eventually(lambda: with_client(server.url, stream.read_state).first_sequence == 51)
        published(server.url, traffic(60)[50:])
        eventually(lambda: one.handed_on(60))
        eventually(lambda: with_client(server.url, stream.read_state).first_sequence == 61)
    published(server.url, traffic(70)[60:])
    second = read_all(server.url, 10, one.journal)
    assert sorted(second.message_ids()) == [f"m{n}" for n in range(60, 70)]
    assert events(one.journal) == []


def test_a_run_shorter_than_the_pause_between_purges_purges_when_it_drains(server: TestServer) -> None:
    published(server.url, traffic(50))
    with reading(server.url, settings=settings(server.url, keep=timedelta(0))) as one:
        eventually(lambda: one.handed_on(50))
        assert one.intake.drain(10.0)
        assert with_client(server.url, stream.read_state).first_sequence == 51
    published(server.url, traffic(60)[50:])
    with reading(
        server.url, journal=one.journal, settings=settings(server.url, keep=timedelta(hours=1))
    ) as two:
        eventually(lambda: two.handed_on(10))
        assert two.intake.drain(10.0)
        assert with_client(server.url, stream.read_state).first_sequence == 51, "younger than an hour"
    assert events(one.journal) == []


def test_what_is_not_recorded_or_young_is_not_purged(server: TestServer) -> None:
    published(server.url, traffic(50))
    keep_nothing = settings(server.url, raise_every=0.05, keep=timedelta(0), purge_every=0.05)
    with reading(server.url, records=False, settings=keep_nothing) as one:
        eventually(lambda: one.handed_on(50))
        recorded = sorted(one.inlet.places, key=lambda place: place.sequence)[:20]
        one.positions.recorded(recorded)
        eventually(lambda: with_client(server.url, stream.read_state).first_sequence == 21)
        assert with_client(server.url, stream.read_state).messages == 30
    keep_an_hour = settings(server.url, raise_every=0.05, keep=timedelta(hours=1), purge_every=0.05)
    with reading(server.url, journal=one.journal, settings=keep_an_hour) as two:
        eventually(lambda: min(two.positions.all()) == 50)
        with pytest.raises(AssertionError):
            eventually(lambda: with_client(server.url, stream.read_state).first_sequence > 21, within=0.5)


class BusyJournal(FakeJournal):
    """Takes positions, and writes none of them until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[dict[str, int], Callable[[], None] | None]] = []
        self.holds = True

    def checkpoint(self, positions: dict[str, int], done: Callable[[], None] | None = None) -> None:
        if self.holds:
            self.held.append((positions, done))
        else:
            super().checkpoint(positions, done)

    def go_on(self) -> None:
        self.holds = False
        for positions, done in self.held:
            super().checkpoint(positions, done)


def test_nothing_is_purged_before_the_positions_above_it_are_durable(server: TestServer) -> None:
    """H7: whoever starts at an older position would find it lost."""
    published(server.url, traffic(20))
    journal = BusyJournal()
    keep_nothing = settings(server.url, raise_every=0.05, keep=timedelta(0), purge_every=0.05)
    with reading(server.url, journal=journal, settings=keep_nothing) as one:
        eventually(lambda: min(one.positions.all()) == 20)
        with pytest.raises(AssertionError):
            eventually(lambda: with_client(server.url, stream.read_state).first_sequence > 1, within=0.5)
        journal.go_on()
        eventually(lambda: with_client(server.url, stream.read_state).messages == 0)


def test_a_rewind_that_another_process_has_recorded_ends_this_one(server: TestServer, tmp_path: Path) -> None:
    """H6: two would go on in one epoch, each with positions of its own."""
    first = restored_after_reading(server, tmp_path / "backup")
    usual = first.journal.append

    def too_late(append: Append) -> None:
        append.reply(Conflict(append.stream, append.append_id))

    first.journal.append = too_late  # type: ignore[method-assign]
    with pytest.raises(JournalRefusedError), reading(server.url, journal=first.journal):
        pass
    assert events(first.journal) == []
    first.journal.append = usual  # type: ignore[method-assign]
    again = read_all(server.url, 0, first.journal)
    assert again.intake.incarnation.endswith(".1")


def test_status_from_another_process_tells_behind_from_caught_up(server: TestServer) -> None:
    published(server.url, traffic(20))
    journal = FakeJournal()
    before = status(server.url, journal)
    assert not before.caught_up
    assert sum(1 for partition in before.partitions if partition.behind) > 5
    one = read_all(server.url, 20)
    after = status(server.url, one.journal)
    assert after.caught_up
    assert {partition.position for partition in after.partitions} == {20}
    assert after.incarnation == one.intake.incarnation
    published(server.url, [body("m20")])
    assert not status(server.url, one.journal).caught_up


def test_where_the_record_of_a_rewind_was_skipped_all_that_the_stream_holds_is_read_again_once(
    server: TestServer, tmp_path: Path
) -> None:
    """60 were read, 30 restored, and 100 are there now: nothing but the record tells 31 to 60 from what they were."""
    first = restored_after_reading(server, tmp_path / "backup")
    with reading(server.url, journal=first.journal) as second:
        published(server.url, [body("n0", "lead-0")])
        eventually(lambda: second.handed_on(1))
    published(server.url, [body(f"n{n}", f"lead-{n}") for n in range(1, 70)])
    journal = first.journal
    for name in [name for name in journal.positions if name.endswith(".1")]:
        del journal.positions[name]  # killed before it was written
    for partition in range(PARTITIONS):
        journal.streams[intake_stream(partition)] = [
            msgspec.structs.replace(recorded, event=Missing())
            for recorded in journal.streams.get(intake_stream(partition), [])
        ]
    with reading(server.url, journal=journal) as third:
        eventually(lambda: third.handed_on(100))
        assert {f"n{n}" for n in range(70)} <= set(third.message_ids())
        incarnation = third.intake.incarnation
        assert third.intake.drain(5.0)
    with reading(server.url, journal=journal) as fourth:
        published(server.url, [body("last", "lead-0")])
        eventually(lambda: fourth.handed_on(1))
        assert fourth.message_ids() == ["last"]
        assert fourth.intake.incarnation == incarnation


def test_the_life_that_follows_skipped_rewinds_has_a_name_that_none_of_them_can_have_had() -> None:
    journal = FakeJournal()
    name = intake_stream(3)
    missing = [Recorded(name, version, Missing(), "", datetime.now(UTC)) for version in (1, 2)]
    journal.streams[name] = missing
    history = History(journal.read_position, journal.read_stream)
    life = LogLife(history, Chronicle(history, journal, lambda: datetime.now(UTC)))
    state = StreamState(created=7, first_sequence=11, last_sequence=60, messages=50)
    life.begin(state)
    assert life.differs(state, [0] * PARTITIONS)
    assert asyncio.run(life.rewound(state, [60] * PARTITIONS, [60] * PARTITIONS)) == [10] * PARTITIONS
    assert life.incarnation == "7.3"
    assert not life.differs(state, [10] * PARTITIONS)
    again = History(journal.read_position, journal.read_stream)
    assert (again.epoch(7), again.doubted) == (3, set())
