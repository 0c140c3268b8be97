"""What a lead can be told: by people over the log (`leads.cmd.…`), and by Leadline's own parts.

Imperative, frozen. A person's command carries who gives it and why, and is idempotent by `command_id`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct

from domain.errors import Rejected
from domain.messages import IncomingMessage, check_id, clean, in_utc
from domain.outcomes import Outcome

MAX_WHY = 2000


class Command(Struct, frozen=True, gc=False):
    """Base of all commands."""


class PersonsCommand(Struct, frozen=True, gc=False, tag_field="command", kw_only=True):
    """Base of what comes over the log."""

    command_id: str
    by: str
    why: str = ""
    #: Where the outcome is published; `_INBOX.` or `leads.reply.` only [H15].
    reply_to: str | None = None


class RetryDeadLetter(PersonsCommand, frozen=True, tag="retry_dead_letter", kw_only=True):
    dead_letter_id: str


class AmendDeadLetter(PersonsCommand, frozen=True, tag="amend_dead_letter", kw_only=True):
    """`changes`: intent, confidence, entities, text, suggested_response; for a rejected body, `payload`."""

    dead_letter_id: str
    changes: dict[str, Any]


class ResolveDeadLetter(PersonsCommand, frozen=True, tag="resolve_dead_letter", kw_only=True):
    """`outcome` must be given where a person has to say what became of a step: it is done, it is undone, it is
    to be tried again, or the rest goes on without it."""

    dead_letter_id: str
    outcome: Literal["done", "undone", "retry", "skip"] | None = None


class DiscardDeadLetter(PersonsCommand, frozen=True, tag="discard_dead_letter", kw_only=True):
    dead_letter_id: str


class ResumeLead(PersonsCommand, frozen=True, tag="resume_lead", kw_only=True):
    pass


class StartTask(PersonsCommand, frozen=True, tag="start_task", kw_only=True):
    task_id: str


class CompleteTask(PersonsCommand, frozen=True, tag="complete_task", kw_only=True):
    task_id: str


class CancelTask(PersonsCommand, frozen=True, tag="cancel_task", kw_only=True):
    task_id: str


class ReassignTask(PersonsCommand, frozen=True, tag="reassign_task", kw_only=True):
    task_id: str
    assigned_to_type: Literal["team", "role", "user"]
    assigned_to_id: str


class ExpireReply(PersonsCommand, frozen=True, tag="expire_reply", kw_only=True):
    """Leadline's own: a message's response came after WhatsApp's window, so that sales get a task instead."""

    message_id: str
    window_ended_at: Annotated[datetime, msgspec.Meta(tz=True)]
    response: str
    intent: str = ""
    #: What the lead wrote.
    text: str = ""


AnyPersonsCommand = (
    RetryDeadLetter
    | AmendDeadLetter
    | ResolveDeadLetter
    | DiscardDeadLetter
    | ResumeLead
    | StartTask
    | CompleteTask
    | CancelTask
    | ReassignTask
    | ExpireReply
)


class ReceiveMessage(Command, frozen=True):
    """A message has come for the lead; `redrive_of` names the dead letter that it was."""

    message: IncomingMessage
    redrive_of: str | None = None


class RedriveReply(Command, frozen=True):
    """A reply that came too late while its lead was stopped; `redrive_of` names the dead letter that it was."""

    reply: ExpireReply
    redrive_of: str


class RecordOutcome(Command, frozen=True):
    """A call has ended. Addressed by (key, attempt), so that a stale one finds nobody waiting [H4]."""

    key: str
    attempt: int
    outcome: Outcome


class InterruptAction(Command, frozen=True):
    """The started call is not in flight in this process, and its outcome is not on its way."""

    key: str
    attempt: int


class EndWait(Command, frozen=True):
    """The timer of a deferred action has run out, or its breaker lets it go."""

    key: str
    attempt: int


_decoder = msgspec.json.Decoder(AnyPersonsCommand)
_REPLY_PREFIXES = ("_INBOX.", "leads.reply.")


def decode_command(body: bytes) -> AnyPersonsCommand:
    """The command in a body from the log. Raises `Rejected`, whatever the bytes."""
    try:
        command: AnyPersonsCommand = _decoder.decode(body.decode())
        check_id("command_id", command.command_id, 128)
        check_id("by", command.by, 128)
        if len(command.why) > MAX_WHY:
            raise Rejected(f"why is longer than {MAX_WHY} characters")
        if command.reply_to is not None:
            check_reply_to(command.reply_to)
        if isinstance(command, ReassignTask):
            check_id("assigned_to_id", command.assigned_to_id, 128)
        if isinstance(command, ExpireReply):
            check_id("message_id", command.message_id, 256)
            ended = in_utc("window_ended_at", command.window_ended_at)
            command = msgspec.structs.replace(command, window_ended_at=ended)
    except Rejected as rejected:
        raise Rejected(f"command: {rejected.reason}") from None
    except Exception as error:  # any exception around decoding is a reject [H17]
        raise Rejected(f"command cannot be read: {clean(str(error))[:300]}") from None
    return msgspec.structs.replace(command, why=clean(command.why))


class _Asker(Struct):
    command_id: str
    reply_to: str


def asker_of(body: bytes) -> tuple[str, str] | None:
    """(command id, reply subject) of a command that cannot be taken, where whoever gave it can be told."""
    try:
        asker = msgspec.json.decode(body, type=_Asker)
        check_id("command_id", asker.command_id, 128)
        check_reply_to(asker.reply_to)
    except Exception:  # unreadable is the answer here: the reject itself is recorded either way
        return None
    return asker.command_id, asker.reply_to


def encode_command(command: PersonsCommand) -> bytes:
    """The body to publish on `leads.cmd.<business>.<lead>`."""
    return msgspec.json.encode(command)


def command_name(command: PersonsCommand) -> str:
    """The command's name on the wire."""
    return str(type(command).__struct_config__.tag)


def check_reply_to(subject: str) -> None:
    """Raises `Rejected` for a subject that the runner must not publish to with its own rights [H15]."""
    check_id("reply_to", subject, 256)
    if (
        not subject.startswith(_REPLY_PREFIXES)
        or any(c in subject for c in " *>")
        or "" in subject.split(".")
    ):
        raise Rejected("reply_to must begin with _INBOX. or leads.reply. and name one subject")


class CommandOutcome(Struct, frozen=True, omit_defaults=True):
    """What is published to `reply_to`: done, or refused with a reason."""

    command_id: str
    done: bool
    reason: str = ""
    at: datetime | None = None
