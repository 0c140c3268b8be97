"""Which reply goes out: once, and only while the lead may be written to. What is too late becomes a task for sales.

JetStream recognises a repeat for two minutes. A reply that may have been sent before that (by a process that died
before its position was durable, or over a connection that was cut) is therefore looked for in LEADS_OUT first: the
last reply of the lead says which event it was made from, and what is there of a lead's replies is a beginning
(`outbox/sending.py`).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime

from msgspec import Struct, field

from actors import jetstream
from actors.connection import Connection
from actors.jetstream import JetStreamError
from actors.stream import OUT_STREAM
from domain.events import MessageReceived
from domain.ports import EventLog
from domain.replies import MAX_TEXT, WINDOW, wrote_at
from domain.results import Ended
from domain.tokens import lead_stream
from outbox.sending import Publication
from outbox.wire import event_of, expiry_publication, replies_subject, reply_publication

#: (life, position) of the event that a subject's last message was made from, None where there is none.
LastOn = Callable[[str], Awaitable[tuple[str, int] | None]]

_AT_ONCE = 100

#: Of a business and its lead.
_Tokens = tuple[str, str]


class _Message(Struct):
    """What a task for sales says of a message."""

    intent: str = ""
    text: str = ""
    #: Its window was over before it came: an old backlog, in which nobody waits for an answer any more.
    old: bool = False


class _Known(Struct):
    """When a lead last wrote, and the messages asked for."""

    wrote: datetime | None = None
    messages: dict[str, _Message] = field(default_factory=dict)


class Replies:
    """Decides, at the moment of sending. One event loop's thread."""

    def __init__(
        self,
        log: EventLog,
        last_on: LastOn,
        clock: Callable[[], datetime],
        *,
        life: str,
        doubtful_to: int,
    ) -> None:
        """`doubtful_to`: an earlier process may have sent the replies of events up to this position."""
        self._log = log
        self._last_on = last_on
        self._clock = clock
        self._life = life
        self._doubtful_to = doubtful_to

    def doubt(self, ended: Iterable[Ended]) -> None:
        """These may have been sent, and were not confirmed."""
        self._doubtful_to = max([self._doubtful_to, *(one.position for one in ended)])

    async def due(self, ended: Mapping[int, Ended]) -> dict[int, Publication]:
        """What is to be published for these now: the reply, or the command that makes its task; nothing where
        the reply is out already, or the message was too old for one when it came. Raises `LeadlineError` where
        nobody can be asked."""
        out = await self._out([one for one in ended.values() if one.position <= self._doubtful_to])
        left = {n: one for n, one in ended.items() if one.event_id not in out}
        now = self._clock()
        open_since = now - WINDOW
        late: dict[_Tokens, set[str]] = {}
        for one in left.values():
            if one.wrote is None or one.wrote <= open_since:
                late.setdefault(one.tokens, set()).add(one.result.message_id)
        known = {tokens: self._known(lead_stream(*tokens), wanted) for tokens, wanted in late.items()}
        found = {n: self._publication(one, known.get(one.tokens), now) for n, one in left.items()}
        return {n: publication for n, publication in found.items() if publication is not None}

    def _publication(self, one: Ended, known: _Known | None, now: datetime) -> Publication | None:
        ends = one.wrote + WINDOW if one.wrote else None
        if known is not None and known.wrote is not None:
            ends = known.wrote + WINDOW
        if ends is not None and now < ends:
            return reply_publication(one, self._life, ends)
        message = (known.messages.get(one.result.message_id) if known else None) or _Message()
        return None if message.old else expiry_publication(one, ends or now, (message.intent, message.text))

    async def _out(self, doubtful: list[Ended]) -> set[str]:
        """Event ids of those whose reply is in LEADS_OUT."""
        subjects = list({replies_subject(one.tokens) for one in doubtful})
        last: dict[str, tuple[str, int] | None] = {}
        for start in range(0, len(subjects), _AT_ONCE):
            some = subjects[start : start + _AT_ONCE]
            last |= zip(some, await asyncio.gather(*map(self._last_on, some)), strict=True)
        return {one.event_id for one in doubtful if self._is_out(one, last[replies_subject(one.tokens)])}

    def _is_out(self, one: Ended, last: tuple[str, int] | None) -> bool:
        return last is not None and last[0] == self._life and last[1] >= one.position

    def _known(self, stream: str, wanted: Collection[str]) -> _Known:
        """From a lead's events, also those after the one in hand: no older message says that it wrote later than
        it was recorded, so that not all of them are read."""
        known, missing = _Known(), set(wanted)
        for recorded in self._log.backwards(stream):
            if known.wrote is not None and recorded.at <= known.wrote and not missing:
                break
            event = recorded.event
            if isinstance(event, MessageReceived):
                at = wrote_at(event.received_at, recorded.at)
                known.wrote = max(known.wrote, at) if known.wrote else at
                if event.message_id in missing:
                    missing.remove(event.message_id)
                    text = (event.text or "")[:MAX_TEXT]
                    known.messages[event.message_id] = _Message(
                        event.intent, text, at + WINDOW <= recorded.at
                    )
        return known


async def last_on(client: Connection, subject: str) -> tuple[str, int] | None:
    """(life, position) of the event that the last message on a subject was made from."""
    try:
        answer = await jetstream.call(client, f"STREAM.MSG.GET.{OUT_STREAM}", {"last_by_subj": subject})
    except JetStreamError as error:
        if error.code == jetstream.NO_MESSAGE_FOUND:
            return None
        raise
    block = base64.b64decode(answer["message"].get("hdrs", ""))
    lines = block.decode(errors="replace").split("\r\n")
    return event_of(dict(line.split(": ", 1) for line in lines if ": " in line))
