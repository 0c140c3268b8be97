"""Stop 2 of 7: the directory, from an id to the living actor that it means.

Wakes a lead when mail comes, puts idle ones to sleep, and replaces one whose code raised, keeping its mail
in order meanwhile. What may not live here: what mail means. Everything told by id comes through `tell`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import structlog
from msgspec import Struct
from pykka._envelope import Envelope

from actors.lead import LeadActor, LeadParts
from actors.pool import PooledActor, Runnable
from actors.protocol import Mail, Rejection, Wake
from actors.rejects import StopLead
from domain import replies
from domain.commands import (
    ExpireReply,
    PersonsCommand,
    ReceiveMessage,
    RedriveReply,
    ResumeLead,
    encode_command,
)
from domain.errors import StoreUnreadableError
from domain.messages import command_subject, message_subject
from domain.rejects import is_about_reject
from domain.saga import describe, stack_of
from domain.tokens import lead_of_stream, partition_of, rejects_stream

log = structlog.get_logger(__name__)

#: Idle leads looked at to make room for one that wakes.
_TRIES = 8
#: The pause after which a lead whose events could not be read tries again.
_READ_AGAIN_SECONDS = 1.0
#: Prefix of the timer's address for a lead that is tried again.
_RESTART = "restart:"


class LeadLimits(Struct, frozen=True):
    """How many leads live, how long an idle one stays, and how often a failing one is tried again."""

    max_living: int = 20_000
    #: Sweeps without mail after which a lead sleeps.
    idle_sweeps: int = 2
    restart_delays: tuple[float, ...] = (1.0, 5.0)


class Gate(Struct):
    """A lead that takes no mail itself: what comes meanwhile is held, or rejected."""

    #: restarting: will be tried again; stopped: its mail goes to the rejects; resuming: on its way back.
    state: Literal["restarting", "stopped", "resuming"]
    held: list[Any]
    #: Why it is stopped.
    why: str = "its code failed"


class Directory:
    """Any thread. Implements `protocol.Inlet`. Crash-only: its own failure is the process's."""

    def __init__(self, limits: LeadLimits, arm: Callable[[str, Any, float], None]) -> None:
        self._limits = limits
        self._arm = arm
        self._lock = threading.Lock()
        self._leads: dict[str, LeadActor] = {}
        self._residents: dict[str, PooledActor] = {}
        self._gates: dict[str, Gate] = {}
        self._failures: dict[str, int] = {}
        self._parts: LeadParts | None = None
        #: Commands that the rejects have answered, one way or the other: they answer them again [H14].
        self.answered: set[str] = set()

    def open(self, parts: LeadParts, stopped: Iterable[str], resuming: Iterable[str]) -> None:
        """Ready for mail. `stopped` leads stay so until they are resumed; `resuming` ones were, in a command
        that the log will bring again."""
        self._parts = parts
        for stream in stopped:
            self._gates[stream] = Gate("stopped", [])
        for stream in resuming:
            self._gates[stream] = Gate("resuming", [])

    def install(self, actor: PooledActor) -> None:
        """An actor that always lives, under its URN."""
        self._residents[actor.actor_urn] = actor

    def tell(self, address: str, message: Any) -> None:
        """To whoever lives at a stream id; a lead that sleeps is woken."""
        actor = self._leads.get(address) or self._residents.get(address)
        if actor is not None and actor.actor_inbox.put(Envelope(message)):
            return
        if address.startswith("lead:"):
            with self._lock:
                self._tell_lead(address, (message,))
        elif address.startswith(_RESTART):
            self._restart(address.removeprefix(_RESTART))
        elif actor is None:
            log.error("nobody lives there", address=address, message=type(message).__name__)

    def deliver(self, mail: Mail) -> None:
        """An entry of the log: to its lead, or to the rejects where it is about one of those."""
        command = mail.command
        if type(command) is not ReceiveMessage and isinstance(command, PersonsCommand):
            if isinstance(command, ResumeLead):
                self._resume(mail)
                return
            if is_about_reject(command) or command.command_id in self.answered:
                self.tell(rejects_stream(mail.place.partition), mail)
                return
        self.tell(mail.stream, mail)

    def reject(self, rejection: Rejection) -> None:
        self.tell(rejects_stream(rejection.place.partition), rejection)

    def wake(self, streams: Iterable[str]) -> None:
        """Leads with unfinished work: each reads its events and goes on."""
        for stream in streams:
            self.tell(stream, Wake())

    def resumed(self, stream: str, mail: Sequence[Mail]) -> None:
        """The rejects have let a lead go: its kept mail first, then what was held meanwhile, then its work that
        was under way. One that waits for a restart, or was stopped again meanwhile, stays behind its gate."""
        with self._lock:
            messages: list[Any] = list(mail)
            gate = self._gates.get(stream)
            if gate is not None and gate.state == "resuming":
                del self._gates[stream]
                self._failures.pop(stream, None)
                messages += (*gate.held, Wake())
            self._tell_lead(stream, messages)

    def still_stopped(self, stream: str) -> None:
        """The lead was not let go: what was held meanwhile is rejected like the mail before."""
        with self._lock:
            gate = self._gates.get(stream)
            if gate is None:
                return
            gate.state, held = "stopped", gate.held
            gate.held = []
            self._tell_lead(stream, held)

    def crashed(self, actor: LeadActor, error: BaseException, _current: Any) -> None:
        """A lead's code raised: keep its mail in order, and try again or stop it. That the store cannot be read is
        no failure of the lead: it is tried until it can."""
        stream = actor.actor_urn
        with self._lock:
            if self._leads.get(stream) is not actor:
                return  # given up before it came back
            gate, failures = self._close(actor, counts=not isinstance(error, StoreUnreadableError))
            log.error("lead failed", lead=stream, error=describe(error), failures=failures)
            if isinstance(error, StoreUnreadableError):
                self._arm(f"{_RESTART}{stream}", None, _READ_AGAIN_SECONDS)
            elif failures <= len(self._limits.restart_delays):
                self._arm(f"{_RESTART}{stream}", None, self._limits.restart_delays[failures - 1])
            else:
                self._stop(gate, StopLead(stream, describe(error), stack_of(error), failures))

    def give_up(self, actor: Runnable, seconds: float) -> None:
        """A lead's code has not come back for so long: it is stopped, at once, and whatever its turn may still lead to
        is forgotten. Nothing, where it has come back just now, was given up before, or is no lead."""
        stream = actor.actor_urn
        with self._lock:
            if self._leads.get(stream) is not actor or not isinstance(actor, LeadActor):
                return
            stack = actor.stack()
            if not actor.break_off():
                return
            gate, failures = self._close(actor, counts=True)
            error = f"its code did not come back within {seconds:.3g} s"
            log.error("lead given up", lead=stream, error=error)
            self._stop(gate, StopLead(stream, error, stack, failures))

    def _close(self, actor: LeadActor, *, counts: bool) -> tuple[Gate, int]:
        """Under the lock: a gate in the actor's place, which holds what is not recorded; how often it has failed."""
        stream = actor.actor_urn
        left = [envelope.message for envelope in actor.actor_inbox.retire()]
        del self._leads[stream]
        gate = self._gates[stream] = Gate("restarting", [*actor.unrecorded(), *left])
        failures = self._failures[stream] = self._failures.get(stream, 0) + counts
        return gate, failures

    def _restart(self, stream: str) -> None:
        """The pause after a failure is over."""
        with self._lock:
            gate = self._gates.get(stream)
            if gate is None or gate.state != "restarting":
                return
            del self._gates[stream]
            self._tell_lead(stream, (*gate.held, Wake()))

    def recovered(self, stream: str) -> None:
        """A lead has recorded what it had: failures before are forgiven."""
        if stream in self._failures:
            with self._lock:
                self._failures.pop(stream, None)

    def sweep(self) -> int:
        """Put to sleep every lead without mail since the sweeps the settings allow; how many."""
        asleep = 0
        with self._lock:
            for stream, actor in list(self._leads.items()):
                actor.unused += 1
                if actor.unused > self._limits.idle_sweeps and self._put_to_sleep(stream, actor):
                    asleep += 1
        return asleep

    def gauges(self) -> dict[str, float]:
        """Living, stopped and restarting leads, and mail in living leads' boxes."""
        depth = sum(len(actor.actor_inbox.mail) for actor in list(self._leads.values()))
        states = [gate.state for gate in list(self._gates.values())]
        return {
            "leads_living": len(self._leads),
            "leads_stopped": states.count("stopped"),
            "leads_restarting": states.count("restarting"),
            "mailbox_depth": depth,
        }

    def stopped(self) -> list[str]:
        """Streams of the leads that take no mail until they are resumed."""
        return sorted(s for s, gate in list(self._gates.items()) if gate.state == "stopped")

    def _tell_lead(self, stream: str, messages: Sequence[Any]) -> None:
        """Under the lock: to the gate where one stands, else to the living or newly woken lead."""
        gate = self._gates.get(stream)
        if gate is None:
            mail = [Envelope(message) for message in messages]
            actor = self._leads.get(stream)
            if mail and (actor is None or not actor.actor_inbox.put_all(mail)):
                self._wake(stream, mail)
        elif gate.state == "stopped":
            for message in messages:
                self._turn_away(stream, message, gate.why)
        else:
            gate.held += messages

    def _wake(self, stream: str, mail: Sequence[Envelope[Any]]) -> None:
        """Its first mail is in the box before anyone can find the lead: what comes then comes behind."""
        assert self._parts is not None  # opened before anything is told
        self._make_room()
        self._parts.woken(stream)
        actor = LeadActor(stream, self._parts)
        actor.actor_inbox.put_all(mail)
        self._leads[stream] = actor

    def _make_room(self) -> None:
        """At the cap the longest-living idle ones go; those in use move to the end and live on."""
        tries = 0
        while len(self._leads) >= self._limits.max_living and tries < _TRIES:
            stream = next(iter(self._leads))
            actor = self._leads[stream]
            if not self._put_to_sleep(stream, actor):
                del self._leads[stream]
                self._leads[stream] = actor
            tries += 1

    def _put_to_sleep(self, stream: str, actor: LeadActor) -> bool:
        if not actor.actor_inbox.retire_if(actor.at_rest):
            return False
        del self._leads[stream]
        return True

    def _stop(self, gate: Gate, stop: StopLead) -> None:
        stream = stop.lead_stream
        self.tell(rejects_stream(_partition(stream)), stop)
        gate.state, gate.why, held = "stopped", stop.error, gate.held
        gate.held = []
        for message in held:
            self._turn_away(stream, message, gate.why)

    def _turn_away(self, stream: str, message: Any, why: str) -> None:
        """A stopped lead's mail becomes a reject; outcomes and timers are dropped, its events tell later."""
        if isinstance(message, Mail):
            rejection = _rejection(stream, message, why)
            if rejection.command is not None:
                self.answered.add(rejection.command.command_id)
            self.reject(rejection)

    def _resume(self, mail: Mail) -> None:
        """From here on the lead's mail is held, until the rejects say what becomes of it."""
        with self._lock:
            gate = self._gates.get(mail.stream)
            if gate is not None and gate.state == "stopped":
                gate.state = "resuming"
        self.tell(rejects_stream(mail.place.partition), mail)


def _partition(stream: str) -> int:
    _, business, token = stream.split(":", 2)
    return partition_of(business, token)


def _rejection(stream: str, mail: Mail, why: str) -> Rejection:
    """Messages are kept, and replies that came too late: nobody would give these again. Other commands are refused."""
    command = mail.command
    business, lead_id = lead_of_stream(stream)
    if isinstance(command, ReceiveMessage):
        message = command.message
        return Rejection(
            mail.place,
            message_subject(business, lead_id),
            message.payload.encode(),
            f"the lead is stopped ({why}); `leadline lead resume` delivers this again",
            "lead_stopped",
            message_id=message.message_id,
            tenant_id=message.tenant_id,
            trace=mail.trace,
            redrive_of=command.redrive_of,
            reports=mail.reports,
        )
    _, _, token = stream.split(":", 2)
    subject = command_subject(business, token)
    if isinstance(command, ExpireReply | RedriveReply):
        reply = command.reply if isinstance(command, RedriveReply) else command
        return Rejection(
            mail.place,
            subject,
            replies.kept(reply),
            f"the reply to {reply.message_id!r} came too late, and the lead is stopped ({why});"
            " `leadline lead resume` makes its task",
            "lead_stopped",
            trace=mail.trace,
            redrive_of=command.redrive_of if isinstance(command, RedriveReply) else None,
            reports=mail.reports,
        )
    return Rejection(
        mail.place,
        subject,
        encode_command(command),
        "the lead is stopped; give the command again once it is resumed",
        trace=mail.trace,
        command=command,
    )
