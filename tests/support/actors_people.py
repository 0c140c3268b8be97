"""What people do to a system: a command and its outcome; a lead that is stopped, and let go again."""

from __future__ import annotations

import msgspec

from domain.commands import CommandOutcome, PersonsCommand, ResumeLead
from tests.support.actors_outside import Poison
from tests.support.actors_system import ActorSystem, Log, stream_of
from tests.support.eventually import eventually


def obey(system: ActorSystem, command: PersonsCommand) -> CommandOutcome:
    """The command's outcome, once everything that follows from it is settled."""
    before = len(system.replies.published)
    system.log.command(msgspec.structs.replace(command, reply_to="_INBOX.ann"))
    system.read()
    system.settle()
    [(_, body)] = system.replies.published[before:]
    return msgspec.json.decode(body, type=CommandOutcome)


def stop_lead(system: ActorSystem, log: Log, poison: Poison) -> None:
    """m1 is well, m2 is poison, m3 waits behind it; three failures."""
    log.message("m1")
    system.read()
    system.settle()
    log.message("m2", intent="POISON")
    log.message("m3")
    system.read()
    system.restart_lead()
    system.restart_lead()
    eventually(lambda: system.directory.stopped() == [stream_of()])
    system.settle()
    assert poison.tries == 3


def resume(system: ActorSystem, log: Log, command_id: str = "resume") -> None:
    log.command(ResumeLead(command_id=command_id, by="ann", reply_to="_INBOX.ann"))
    system.read()
    system.settle()
