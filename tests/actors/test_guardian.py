"""The guardian: what dies is said and ends the process; what hangs is said."""

from __future__ import annotations

import threading
import time

import pytest
from structlog.testing import capture_logs

from actors.guardian import Guardian
from domain.commands import ResumeLead
from domain.events import LeadStopped, MessageCompleted, MessageReceived
from domain.intents.handler import Band, Plan
from tests.support.actors_outside import Poison
from tests.support.actors_system import ActorSystem, Boot, Log, stream_of
from tests.support.eventually import eventually


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
    eventually(lambda: [actor.actor_urn for actor, _ in system.dispatcher.busy()] == [stream_of()])
    with capture_logs() as logs:
        guardian.check({})
        guardian.check({})
    assert guardian.hanging() == [stream_of()]
    said = [entry for entry in logs if entry["log_level"] == "error"]
    assert [entry["actor"] for entry in said] == [stream_of()]
    log.message("m1", "lead-2")
    system.read()
    eventually(lambda: system.kinds("lead-2")[-1:] == ["MessageCompleted"])
    hanging.gate.set()
    system.settle()
    guardian.check({})
    assert guardian.hanging() == []


def test_how_a_part_ended_is_said_as_what_it_was(boot: Boot) -> None:
    dispatcher = boot(Log()).dispatcher
    thread, process = Guardian(dispatcher, 10.0), Guardian(dispatcher, 10.0)
    thread.check({"a part": lambda: False})
    process.check({"a part": lambda: False}, {"a part": lambda: "its process was ended by SIGKILL"})
    assert thread.cause == "a part died: its thread has ended"
    assert process.cause == "a part died: its process was ended by SIGKILL"


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


class Endless(Hanging):
    """A handler that loops for ever for some leads, or blocks where Python cannot reach it, until it is mended."""

    def __init__(self, *, blocks: bool) -> None:
        super().__init__()
        self.blocks = blocks
        self.mended = False

    def plan(self, message: MessageReceived, band: Band) -> Plan:
        if message.lead_id != "lead-9" and not self.mended:
            if self.blocks:
                assert self.gate.wait(20)
            while not self.blocks:
                pass
        return Plan(("notify_sales",), "soon")


def watching(system: ActorSystem) -> Guardian:
    return Guardian(system.dispatcher, 0.02, longest=0.05, give_up=system.directory.give_up)


@pytest.mark.parametrize("blocks", [False, True])
def test_leads_whose_code_does_not_come_back_are_stopped_and_hold_up_nobody(
    boot: Boot, *, blocks: bool
) -> None:
    log, endless = Log(), Endless(blocks=blocks)
    stuck = [f"lead-{n}" for n in range(5)]
    for lead in stuck:
        log.message("m1", lead, intent="POISON")
        log.message("m2", lead)
    system = boot(log, modules=(endless.module(),))
    guardian = watching(system)
    log.message("m1", "lead-9", intent="POISON")
    system.read()

    def given_up() -> bool:
        guardian.check({"the pool": system.dispatcher.alive})
        return len(system.directory.stopped()) == len(stuck)

    eventually(given_up)
    eventually(lambda: system.kinds("lead-9")[-1:] == ["MessageCompleted"])
    eventually(lambda: len(stops_of(system)) == len(stuck))
    stops = stops_of(system)
    assert {stop.lead_stream for stop in stops} == {stream_of(lead) for lead in stuck}
    assert all("did not come back within" in stop.error and "in plan" in stop.stack for stop in stops)
    if blocks:
        assert guardian.hanging() == sorted(stream_of(lead) for lead in stuck)
    endless.gate.set()
    eventually(lambda: not system.dispatcher.busy())
    system.settle()
    assert [system.kinds(lead) for lead in stuck] == [[]] * len(stuck), "what came back late is not recorded"
    assert system.position_is_complete()
    assert not guardian.ended.is_set()
    resume_all(system, log, endless, stuck)


def stops_of(system: ActorSystem) -> list[LeadStopped]:
    return [r.event for r in system.everything() if isinstance(r.event, LeadStopped)]


def resume_all(system: ActorSystem, log: Log, endless: Endless, stuck: list[str]) -> None:
    endless.mended = True
    for lead in stuck:
        log.command(ResumeLead(command_id=f"resume {lead}", by="ann"), lead)
    system.read()
    system.settle()
    for lead in stuck:
        ended = [e.message_id for e in system.events(lead) if isinstance(e, MessageCompleted)]
        assert ended == ["m1", "m2"]


def test_a_process_that_was_stopped_for_long_gives_up_nobody(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, hanging = Log(), Hanging()
    log.message("m1", intent="POISON")
    system = boot(log, modules=(hanging.module(),))
    guardian = Guardian(system.dispatcher, 10.0, longest=20.0, give_up=system.directory.give_up)
    eventually(lambda: bool(system.dispatcher.busy()))
    guardian.check({})
    now = time.monotonic()
    monkeypatch.setattr("actors.guardian.time.monotonic", lambda: now + 3600)
    guardian.check({})
    assert guardian.hanging() == []
    assert system.directory.stopped() == []
    hanging.gate.set()
    system.settle()
    assert system.kinds()[-1] == "MessageCompleted"
