"""The event store cannot be read for a while: whoever wakes meanwhile waits, and is not blamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from domain import events as ev
from tests.support.actors_outside import Poison
from tests.support.actors_system import ActorSystem, Boot, Log, stream_of
from tests.support.eventually import eventually

RESTART = f"restart:{stream_of()}"


@contextmanager
def out_of_reach(system: ActorSystem) -> Iterator[None]:
    """Connections are made anew, and what they find is no store."""
    path, away = system.folder / "events.db", system.folder / "events.db.away"
    datastore = system.recorder.datastore
    datastore.pool.close()
    datastore.pool = type(datastore.pool)(db_name=datastore.pool.db_name)
    path.rename(away)
    path.mkdir()
    yield
    path.rmdir()
    away.rename(path)


def test_a_lead_whose_events_cannot_be_read_waits_and_is_never_stopped_for_it(boot: Boot) -> None:
    log = Log()
    log.message("m1")
    first = boot(log)
    first.settle()
    first.checkpoint()
    first.crash()
    system = boot(log)
    log.message("m2")
    log.message("m3")
    with out_of_reach(system):
        system.read()
        for _ in range(5):  # more often than a lead may fail
            eventually(lambda: (RESTART, "") in system.timers.pending)
            assert system.timers.delay(RESTART) == 1.0
            system.fire(RESTART)
        eventually(lambda: (RESTART, "") in system.timers.pending)
        assert system.directory.stopped() == []
    system.restart_lead()
    completed = [e.message_id for e in system.events() if isinstance(e, ev.MessageCompleted)]
    assert completed == ["m1", "m2", "m3"]
    assert system.position_is_complete()


def test_a_store_that_could_not_be_read_counts_as_no_failure_of_the_lead(boot: Boot) -> None:
    log, poison = Log(), Poison("m1")
    log.message("m1", intent="POISON")
    system = boot(log, read=False, modules=(poison.module(),))
    with out_of_reach(system):
        system.read()
        for _ in range(3):
            eventually(lambda: (RESTART, "") in system.timers.pending)
            system.fire(RESTART)
        eventually(lambda: (RESTART, "") in system.timers.pending)
    system.restart_lead()
    assert poison.tries == 1
    assert system.directory.stopped() == []
    poison.mend()
    system.restart_lead()
    assert system.kinds()[-1] == "MessageCompleted"
