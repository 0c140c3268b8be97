"""What the actors say to each other. Values only; nobody's reference crosses an actor's border.

An answer goes to the id of whoever is meant, through the directory, never to a reference that may be dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, Protocol

from msgspec import Struct

from domain.commands import AnyPersonsCommand, PersonsCommand, ReceiveMessage, RedriveReply
from domain.events import Place


class Wake(Struct, frozen=True):
    """Read your events and go on with what is unfinished: the runner has started, or lets you go again."""


class Mail(Struct, frozen=True, gc=False):
    """One entry of the log, decoded: a message or a person's command, for one lead; or what was kept of one."""

    #: The lead's stream id, `lead:<business>:<lead token>`.
    stream: str
    place: Place
    command: ReceiveMessage | RedriveReply | AnyPersonsCommand
    trace: str = ""
    #: Whether recording this reports `place`: of several redriven ones only the last does.
    reports: bool = True


class Rejection(Struct, frozen=True, gc=False):
    """One entry of the log that cannot be taken, with what is kept of it."""

    place: Place
    #: As published, `leads.in.…` or `leads.cmd.…`.
    subject: str
    body: bytes
    reason: str
    category: Literal["rejected", "lead_stopped"] = "rejected"
    message_id: str | None = None
    tenant_id: str | None = None
    trace: str = ""
    #: Bytes of the whole body, of which `body` may be the beginning.
    size: int = 0
    #: The dead letter it was redriven from, and falls back to.
    redrive_of: str | None = None
    reports: bool = True
    #: The command that it is, where it is refused since its lead is stopped.
    command: PersonsCommand | None = None
    #: Command id and reply subject of a command that cannot be taken, where both can be read.
    asker: tuple[str, str] | None = None


class Committed(Struct, frozen=True, gc=False):
    """The append is durable; `version` is that of its last event."""

    stream: str
    version: int
    append_id: int = 0


class Conflict(Struct, frozen=True, gc=False):
    """The stream is ahead of what its writer knew: nothing of the append is recorded. Reload, decide again."""

    stream: str
    append_id: int = 0


class Unwritable(Struct, frozen=True, gc=False):
    """The store cannot take these rows at all, whatever stands beside them."""

    stream: str
    error: str
    append_id: int = 0


AppendResult = Committed | Conflict | Unwritable


class Append(Struct, frozen=True, gc=False):
    """Events of one stream, to be recorded together. One append in flight per stream."""

    stream: str
    #: Version of the stream's last event that the writer knows; 0 for a new stream.
    version: int
    #: (stored name, JSON) of each event, in order; the first gets `version + 1`.
    rows: tuple[tuple[str, bytes], ...]
    #: Called once, on the journal's thread; must only tell.
    reply: Callable[[AppendResult], None]
    #: Places in the log that are recorded once this is: reported to the positions after the commit.
    places: tuple[Place, ...] = ()
    #: Comes back in the result: an answer to an append that nobody remembers is not taken for another's.
    append_id: int = 0


class Snapshot(Struct, frozen=True, gc=False):
    """A stream's state at a version; worth the time that it saves, and nothing else (`domain/snapshots.py`)."""

    stream: str
    version: int
    shape: str
    state: bytes


class Journal(Protocol):
    """The one writer of the event store."""

    def append(self, append: Append) -> None:
        """Queue an append; `append.reply` gets the result. Any thread."""
        ...

    def checkpoint(self, positions: dict[str, int], done: Callable[[], None] | None = None) -> None:
        """Record positions by name, each only if it is higher than what stands there. Any thread.
        `done` is called on the journal's thread once they are durable."""
        ...


class Inlet(Protocol):
    """Where the intake puts what it reads. Every call returns at once; any thread.

    Exactly one call is made for each entry of the log, in the order of each partition; its place is
    reported to `Positions.recorded` once what it led to is durable.
    """

    def deliver(self, mail: Mail) -> None:
        """To the lead, or to the partition's rejects where the mail is about a reject or a stopped lead."""
        ...

    def reject(self, rejection: Rejection) -> None:
        """To the partition's `RejectsActor`."""
        ...


class Recorder(Protocol):
    """Who is told that entries of the log are recorded, so that positions can move."""

    def recorded(self, places: Iterable[Place]) -> None:
        """Any thread."""
        ...


class Replies(Protocol):
    """Publishes outcomes of commands. Any thread; never blocks; what cannot be sent is dropped, since
    the command's event holds the outcome and the asker can ask again."""

    def publish(self, subject: str, body: bytes) -> None: ...
