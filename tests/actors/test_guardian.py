"""The guardian: what dies is said and ends the process; what hangs is said."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from actors.guardian import Guardian
from domain.events import MessageReceived
from domain.intents.handler import Band, Plan
from tests.support.actors_outside import Poison
from tests.support.actors_system import Boot, Log, booting, stream_of
from tests.support.eventually import eventually


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    with booting(tmp_path) as start:
        yield start


class Hanging(Poison):
    """A handler that does not come back until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def plan(self, message: MessageReceived, band: Band) -> Plan:
        assert self.gate.wait(20)
        return super().plan(message, band)


def test_a_lead_that_holds_a_pool_thread_is_noticed_said_once_and_holds_up_nobody(boot: Boot) -> None:
    log, hanging = Log(), Hanging()
    log.message("m1", intent="POISON")
    system = boot(log, modules=(hanging.module(),))
    guardian = Guardian(system.dispatcher, busy_warning=0.0)
    eventually(lambda: [urn for urn, _ in system.dispatcher.busy()] == [stream_of()])
    with capture_logs() as logs:
        guardian.check({})
        guardian.check({})
    assert guardian.hanging() == 1
    said = [entry for entry in logs if entry["log_level"] == "error"]
    assert [entry["actor"] for entry in said] == [stream_of()]
    log.message("m1", "lead-2")
    system.read()
    eventually(lambda: system.kinds("lead-2")[-1:] == ["MessageCompleted"])
    hanging.gate.set()
    system.settle()
    guardian.check({})
    assert guardian.hanging() == 0


def test_the_first_death_is_the_cause(boot: Boot) -> None:
    guardian = Guardian(boot(Log()).dispatcher, 10.0)
    guardian.died("the journal", OSError("disk on fire"))
    guardian.died("the intake", OSError("no journal"))
    assert guardian.ended.is_set()
    assert guardian.cause == "the journal died: OSError: disk on fire"


def test_a_part_that_is_not_alive_is_a_death(boot: Boot) -> None:
    guardian = Guardian(boot(Log()).dispatcher, 10.0)
    guardian.check({"the pool": lambda: True})
    assert not guardian.ended.is_set()
    guardian.check({"the scheduler": lambda: False})
    assert guardian.cause is not None
    assert guardian.cause.startswith("the scheduler died")


def test_parts_that_end_because_they_are_told_to_are_no_deaths(boot: Boot) -> None:
    guardian = Guardian(boot(Log()).dispatcher, 10.0)
    guardian.stopping()
    guardian.check({"the scheduler": lambda: False})
    guardian.died("the journal", OSError("closed"))
    assert not guardian.ended.is_set()
