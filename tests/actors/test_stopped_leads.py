"""Commands to a lead that is stopped: refused for good, but for those that it has answered before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from domain import events as ev
from domain.commands import StartTask
from tests.support.actors_outside import Poison
from tests.support.actors_people import obey, resume, stop_lead
from tests.support.actors_system import ActorSystem, Boot, Log, booting, rejects_of


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    with booting(tmp_path) as start:
        yield start


def told_of(system: ActorSystem, command_id: str) -> list[str]:
    """Streams with an event of a command."""
    return [r.stream for r in system.everything() if getattr(r.event, "command_id", None) == command_id]


def with_a_task(boot: Boot, log: Log, poison: Poison) -> tuple[ActorSystem, StartTask, StartTask]:
    """A lead that is stopped, a command that it has carried out, and one that it has refused."""
    system = boot(log, modules=(poison.module(),))
    log.message("m0")
    system.read()
    system.settle()
    executed = next(e for e in system.events() if isinstance(e, ev.ActionExecuted))
    good = StartTask(command_id="good", by="ann", task_id=executed.task.task_id)
    bad = StartTask(command_id="bad", by="ann", task_id="none")
    assert obey(system, good).done
    assert not obey(system, bad).done
    return system, good, bad


def test_what_a_lead_has_answered_is_answered_alike_while_it_is_stopped(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system, good, bad = with_a_task(boot, log, poison)
    before = [obey(system, good), obey(system, bad)]
    stop_lead(system, log, poison)
    for _ in range(2):
        assert [obey(system, good), obey(system, bad)] == before
    system.checkpoint()
    system.crash()

    system = boot(log, modules=(poison.module(),))
    assert [obey(system, good), obey(system, bad)] == before
    poison.mend()
    resume(system, log)
    assert [obey(system, good), obey(system, bad)] == before
    assert len(told_of(system, "good")) == len(told_of(system, "bad")) == 1
    assert system.position_is_complete()


def test_what_a_stopped_lead_has_not_answered_is_refused_for_good(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system, good, _ = with_a_task(boot, log, poison)
    stop_lead(system, log, poison)
    new = msgspec.structs.replace(good, command_id="new")
    refused = obey(system, new)
    assert "stopped" in refused.reason
    system.checkpoint()
    system.crash()
    system = boot(log, modules=(poison.module(),))
    poison.mend()
    resume(system, log)
    assert obey(system, new) == refused
    assert told_of(system, "new") == [rejects_of()]
    assert system.position_is_complete()
