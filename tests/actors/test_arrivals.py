"""A flood of leads that wake: which have no events is asked for many at once, and an answer may be stale."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pykka._envelope import Envelope

from actors.arrivals import Arrivals
from actors.event_store import EventStore
from actors.pool import PooledActor
from domain.errors import StoreUnreadableError
from domain.events import Recorded
from tests.support.actors_system import ActorSystem, Boot, Log, booting, stream_of


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    with booting(tmp_path) as start:
        yield start


class Watched:
    """The store, and what was asked of it."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.asked: list[set[str]] = []
        self.read: list[str] = []
        self.broken = False

    def without_events(self, streams: Collection[str]) -> set[str]:
        if self.broken:
            raise StoreUnreadableError("not now")
        self.asked.append(set(streams))
        return self._store.without_events(streams)

    def stream(self, stream: str, *, after: int = 0, limit: int = -1) -> Sequence[Recorded]:
        self.read.append(stream)
        return self._store.stream(stream, after=after, limit=limit)


def arrivals_of(system: ActorSystem) -> tuple[Arrivals, Watched]:
    watched = Watched(system.store)
    return Arrivals(watched), watched


def with_one_known(boot: Boot) -> ActorSystem:
    log = Log()
    log.message("m1", "known")
    system = boot(log)
    system.settle()
    return system


def test_new_leads_are_found_new_by_one_question(boot: Boot) -> None:
    arrivals, watched = arrivals_of(with_one_known(boot))
    streams = [stream_of(f"new-{n}") for n in range(20)]
    for stream in streams:
        arrivals.woken(stream)
    assert [list(arrivals.load(stream)) for stream in streams] == [[]] * 20
    assert watched.asked == [set(streams)]
    assert watched.read == []


def test_a_known_lead_among_new_ones_reads_its_events(boot: Boot) -> None:
    arrivals, watched = arrivals_of(with_one_known(boot))
    for lead in ("new-1", "known", "new-2"):
        arrivals.woken(stream_of(lead))
    assert not arrivals.load(stream_of("new-1"))
    assert [r.version for r in arrivals.load(stream_of("known"))] == [1, 2, 3, 4, 5]
    assert watched.read == [stream_of("known")]


def test_a_lead_that_wakes_alone_asks_nothing_but_its_events(boot: Boot) -> None:
    arrivals, watched = arrivals_of(with_one_known(boot))
    arrivals.woken(stream_of("new"))
    assert not arrivals.load(stream_of("new"))
    assert (watched.asked, watched.read) == ([], [stream_of("new")])
    later = {stream_of("new-1"), stream_of("new-2")}
    for stream in later:
        arrivals.woken(stream)
    arrivals.load(stream_of("new-1"))
    assert watched.asked == [later]


def test_a_lead_is_taken_for_new_once(boot: Boot) -> None:
    """What reads again does so because something is there."""
    arrivals, watched = arrivals_of(with_one_known(boot))
    for lead in ("new-1", "new-2"):
        arrivals.woken(stream_of(lead))
    for _ in range(2):
        arrivals.load(stream_of("new-1"))
    assert watched.read == [stream_of("new-1")]


def test_the_next_actor_of_a_lead_does_not_go_by_what_was_asked_for_the_last_one(boot: Boot) -> None:
    system = with_one_known(boot)
    arrivals, _ = arrivals_of(system)
    for lead in ("other", "late"):
        arrivals.woken(stream_of(lead))
    arrivals.load(stream_of("other"))  # both are found new; the actor of `late` never comes to read
    system.log.message("m2", "late")
    system.read()
    system.settle()
    arrivals.woken(stream_of("late"))
    assert len(arrivals.load(stream_of("late"))) == 5


def test_reads_that_go_on_are_never_answered_from_memory(boot: Boot) -> None:
    arrivals, watched = arrivals_of(with_one_known(boot))
    for lead in ("known", "new"):
        arrivals.woken(stream_of(lead))
    assert [r.version for r in arrivals.load(stream_of("known"), after=3, limit=1)] == [4]
    assert watched.asked == []


def test_where_the_store_cannot_be_read_nobody_is_taken_for_new(boot: Boot) -> None:
    arrivals, watched = arrivals_of(with_one_known(boot))
    for lead in ("known", "new"):
        arrivals.woken(stream_of(lead))
    watched.broken = True
    with pytest.raises(StoreUnreadableError):
        arrivals.load(stream_of("known"))
    watched.broken = False
    arrivals.woken(stream_of("known"))
    assert len(arrivals.load(stream_of("known"))) == 5
    assert not arrivals.load(stream_of("new"))


class Gate(PooledActor):
    """Keeps the pool's one thread until it is opened."""

    def on_receive(self, message: threading.Event) -> None:
        assert message.wait(10)


def flood(system: ActorSystem) -> None:
    """All of the log is in the leads' boxes before the first of them reads."""
    opened = threading.Event()
    Gate("gate", system.dispatcher).actor_inbox.put(Envelope(opened))
    system.read()
    opened.set()
    system.settle()


def test_a_flood_of_new_leads_is_recorded_whole(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    for n in range(600):
        log.message(f"m{n}", f"lead-{n % 300}")
    system = boot(log, read=False, threads=1)
    reads: list[str] = []
    read = system.store.stream

    def counting(stream: str, **options: Any) -> Sequence[Recorded]:
        reads.append(stream)
        return read(stream, **options)

    monkeypatch.setattr(system.store, "stream", counting)
    flood(system)
    assert not reads
    for n in range(300):
        assert system.kinds(f"lead-{n}").count("MessageCompleted") == 2


def test_a_known_lead_that_is_taken_for_new_reads_when_its_append_meets_its_events(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else may write between the question and the lead's turn [H12]."""
    log = Log()
    log.message("m1", "known")
    boot(log).settle()
    system = boot(log, threads=1)
    monkeypatch.setattr(system.store, "without_events", set)  # all of them, whatever is recorded
    for lead in ("new", "known", "known"):
        log.message("m2" if lead == "known" else "m1", lead)
    log.message("m1", "known")
    flood(system)
    kinds = system.kinds("known")
    assert kinds.count("MessageReceived") == kinds.count("MessageCompleted") == 2
    assert kinds.count("DuplicateDetected") == 2
    assert system.kinds("new").count("MessageCompleted") == 1
    assert system.position_is_complete()
