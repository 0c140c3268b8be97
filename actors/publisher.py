"""Publishes JSON lines to the stream LEADS: each line confirmed by JetStream, or said why not.

Lines of one lead take effect in the order of the file, through any number of reconnects: a connection is
a pipe, so what the server has of it is a beginning of what was sent. After a cut, everything without an
answer is sent again, in order, before anything new; what was there already, JetStream knows by its
`Nats-Msg-Id`. nats-py's own reconnect is off, since it would send what it had buffered first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import msgspec
import nats.errors
from msgspec import UNSET, Struct, field
from nats.aio.client import Client
from nats.aio.msg import Msg

from actors import stream
from actors.connection import NatsUnreachableError, connect
from actors.jetstream import JetStreamSilentError
from domain import tokens
from domain.errors import LeadlineError, Rejected
from domain.messages import (
    MAX_MESSAGE_BYTES,
    MAX_TOKEN_BYTES,
    check_id,
    message_dedup_id,
    message_subject,
)

Result = Literal["confirmed", "duplicate", "refused"]


class LineResult(Struct, frozen=True):
    """A line worth a word: refused, or taken by JetStream for a duplicate."""

    line: int
    result: Result
    reason: str
    message_id: str | None = None


class PublishReport(Struct):
    """Every line but the empty ones is in exactly one count. `lines` has the refused and the duplicates."""

    confirmed: int = 0
    duplicates: int = 0
    refused: int = 0
    reconnects: int = 0
    lines: list[LineResult] = field(default_factory=list)

    @property
    def done(self) -> int:
        return self.confirmed + self.duplicates + self.refused


class PublishSettings(Struct, frozen=True):
    """How lines are published. Times in seconds."""

    #: Lines sent and not answered. JetStream writes together what waits, so more are faster, up to a point.
    max_in_flight: int = 1_000
    max_bytes_in_flight: int = 8 * 1024 * 1024
    #: Without any answer for this long, the connection is taken for dead.
    patience: float = 10.0
    #: Without a server for this long, publishing gives up; what was confirmed stays confirmed.
    reconnect_within: float = 60.0


class PublishBrokenOffError(LeadlineError):
    """The server went away and did not come back. `report` says how far it got."""

    def __init__(self, why: str, report: PublishReport) -> None:
        super().__init__(
            f"broken off after {report.done} lines: {why}; publish the file again, it is safe to"
        )
        self.report = report


Progress = Callable[[PublishReport], None]


class _CutError(Exception):
    """The connection is of no more use."""


class Line(Struct):
    number: int
    subject: str
    body: bytes
    message_id: str
    #: None where JetStream is not to look for duplicates.
    dedup_id: str | None
    sent: int = 0


class _Ids(Struct):
    """The fields that a subject is made of, in both spellings; whatever else is wrong is Leadline's to say."""

    message_id: Any = UNSET
    message_id_camel: Any = field(default=UNSET, name="messageId")
    lead_id: Any = UNSET
    lead_id_camel: Any = field(default=UNSET, name="leadId")
    business_id: Any = UNSET
    business_id_camel: Any = field(default=UNSET, name="businessId")


class _Answer(Struct):
    duplicate: bool = False
    error: dict[str, Any] | None = None


_ids = msgspec.json.Decoder(_Ids)
_answers = msgspec.json.Decoder(_Answer)
_TEMPORARILY_UNAVAILABLE = 10008
_DEFAULTS = PublishSettings()


def publish(
    lines: Iterable[bytes],
    url: str,
    *,
    max_bytes: int | None = None,
    settings: PublishSettings = _DEFAULTS,
    progress: Progress | None = None,
) -> PublishReport:
    """Publish every line; returns when each has its answer. Runs its own event loop.

    `max_bytes` as for `stream.ensure`; `progress` is called some twenty times a second, and at the end.
    Raises `NatsUnreachableError`, `StreamRefusedError` or `JetStreamSilentError` before the first line, and
    `PublishBrokenOffError` after it.
    """
    return asyncio.run(Publisher(url, max_bytes, settings, progress).publish(lines))


class Publisher:
    """One run over one file's lines."""

    def __init__(
        self,
        url: str,
        max_bytes: int | None = None,
        settings: PublishSettings = _DEFAULTS,
        progress: Progress | None = None,
    ) -> None:
        self._url = url
        self._max_bytes = max_bytes
        self._settings = settings
        self._progress = progress
        self._shown_at = 0.0
        self._report = PublishReport()
        #: Sent and not answered, in the order of the file.
        self._waiting: dict[int, Line] = {}
        self._bytes_waiting = 0
        #: Dedup id → the first line with it: tells a duplicate from a line that was sent twice.
        self._first: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._cut = ""
        self._answered_at = 0.0

    async def publish(self, lines: Iterable[bytes]) -> PublishReport:
        client = await self._connected()
        try:
            await stream.ensure(client, self._max_bytes)
            self._answered_at = time.monotonic()
            todo = self._readable(lines)
            while not await self._all_answered(client, todo):
                await client.close()
                client = await self._connected_again()
        finally:
            await client.close()
        self._show(at_once=True)
        return self._report

    async def _connected(self) -> Client:
        return await connect(
            self._url, name="leadline publish", reconnect=False, disconnected_cb=self._on_disconnected
        )

    async def _connected_again(self) -> Client:
        """A connection to a server that has the stream. Raises `PublishBrokenOffError` when patience ends."""
        self._report.reconnects += 1
        until = self._answered_at + self._settings.patience + self._settings.reconnect_within
        while True:
            client = None
            try:
                client = await self._connected()
                await stream.ensure(client, self._max_bytes)
                return client
            except (NatsUnreachableError, JetStreamSilentError, nats.errors.Error) as error:
                if client is not None:
                    await client.close()
                if time.monotonic() > until:
                    raise PublishBrokenOffError(str(error), self._report) from None
                await asyncio.sleep(0.25)

    async def _all_answered(self, client: Client, todo: Iterator[Line]) -> bool:
        """Over this connection: first what waits for an answer, then what is to do. False if it was cut."""
        self._cut = ""
        self._max_payload = client.max_payload
        inbox = client.new_inbox()
        try:
            await client.subscribe(f"{inbox}.*", cb=self._on_answer)
            for line in list(self._waiting.values()):
                await self._send(client, inbox, line)
            for line in todo:
                self._waiting[line.number] = line
                self._bytes_waiting += len(line.body)
                await self._send(client, inbox, line)
                while self._full():
                    await self._answer()
            while self._waiting:
                await self._answer()
        except (_CutError, nats.errors.Error, OSError):
            return False
        return True

    async def _send(self, client: Client, inbox: str, line: Line) -> None:
        line.sent += 1
        headers = None if line.dedup_id is None else {"Nats-Msg-Id": line.dedup_id}
        await client.publish(line.subject, line.body, reply=f"{inbox}.{line.number}", headers=headers)

    def _full(self) -> bool:
        settings = self._settings
        return (
            len(self._waiting) >= settings.max_in_flight
            or self._bytes_waiting >= settings.max_bytes_in_flight
        )

    async def _answer(self) -> None:
        """Wait for the next answer, or notice that there will be none."""
        if not self._cut:
            self._changed.clear()
            try:
                async with asyncio.timeout(self._settings.patience):
                    await self._changed.wait()
            except TimeoutError:
                raise _CutError from None
        if self._cut:
            raise _CutError

    async def _on_disconnected(self) -> None:
        self._cut = "disconnected"
        self._changed.set()

    async def _on_answer(self, message: Msg) -> None:
        self._changed.set()
        if message.headers and message.headers.get("Status"):
            self._cut = "nobody takes messages"  # 503: JetStream is not ready
            return
        answer = _answers.decode(message.data)
        if answer.error and answer.error.get("err_code") == _TEMPORARILY_UNAVAILABLE:
            self._cut = "JetStream is temporarily unavailable"
            return
        line = self._waiting.pop(int(message.subject.rpartition(".")[2]), None)
        if line is None:
            return
        self._answered_at = time.monotonic()
        self._bytes_waiting -= len(line.body)
        if answer.error:
            self._note(
                line.number, "refused", f"JetStream: {answer.error.get('description')}", line.message_id
            )
        elif answer.duplicate and not self._own_repeat(line):
            self._note(line.number, "duplicate", "JetStream has this message id already", line.message_id)
        else:
            self._note(line.number, "confirmed", "", line.message_id)

    def _own_repeat(self, line: Line) -> bool:
        """JetStream had it from this very line, whose answer was lost with a connection."""
        return line.sent > 1 and line.dedup_id is not None and self._first.get(line.dedup_id) == line.number

    def _note(self, number: int, result: Result, reason: str, message_id: str | None = None) -> None:
        report = self._report
        if result == "confirmed":
            report.confirmed += 1
        else:
            if result == "duplicate":
                report.duplicates += 1
            else:
                report.refused += 1
            report.lines.append(LineResult(number, result, reason, message_id))
        self._show()

    def _show(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._progress is not None and (at_once or now - self._shown_at > 0.05):
            self._shown_at = now
            self._progress(self._report)

    def _readable(self, lines: Iterable[bytes]) -> Iterator[Line]:
        """The lines that can be published; the others are noted as refused."""
        for number, raw in enumerate(lines, 1):
            body = raw.rstrip(b"\r\n")
            if not body.strip():
                continue
            try:
                line = read_line(number, body, self._max_payload)
            except Rejected as rejected:
                self._note(number, "refused", rejected.reason, rejected.message_id)
                continue
            if line.dedup_id is not None:
                self._first.setdefault(line.dedup_id, number)
            yield line


def read_line(number: int, body: bytes, max_payload: int) -> Line:
    """A line with its subject and dedup id. Raises `Rejected` for one that cannot be sent or has no ids.

    Sizes are checked here: a server closes the connection of a client that sends too much [H26].
    """
    if len(body) > MAX_MESSAGE_BYTES:
        raise Rejected(f"{len(body)} bytes: Leadline takes at most {MAX_MESSAGE_BYTES}")
    try:
        ids = _ids.decode(body)
    except RecursionError:
        raise Rejected("nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Rejected(f"not a JSON object: {error}") from None
    message_id = check_id("message_id", _either(ids.message_id, ids.message_id_camel), 256)
    try:
        lead_id = check_id("lead_id", _either(ids.lead_id, ids.lead_id_camel), 128)
        business_id = check_id("business_id", _either(ids.business_id, ids.business_id_camel), 128)
        if len(tokens.encode(lead_id)) > MAX_TOKEN_BYTES:
            raise Rejected(f"lead_id is longer than {MAX_TOKEN_BYTES} bytes when written as a token")
        dedup_id = message_dedup_id(business_id, lead_id, message_id)
        size = len(body) + len(dedup_id.encode()) + len("NATS/1.0\r\nNats-Msg-Id: \r\n\r\n")
    except UnicodeEncodeError:
        raise Rejected(
            "an id is not text: it holds half of a surrogate pair", message_id=message_id
        ) from None
    except Rejected as rejected:
        raise Rejected(rejected.reason, message_id=message_id) from None
    if size > max_payload:
        raise Rejected(f"{size} bytes with headers: this server takes {max_payload}", message_id=message_id)
    return Line(
        number,
        message_subject(business_id, lead_id),
        body,
        message_id,
        # nats-py cuts blanks off a header, and "m" would then pass for a repeat of "m " [H8].
        dedup_id if dedup_id == dedup_id.strip() else None,
    )


def _either(snake: Any, camel: Any) -> Any:
    return camel if snake is UNSET else snake
