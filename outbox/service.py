"""Asking and waiting: the NATS service `leads.process` takes a message and answers with its result.

The message goes into the stream LEADS like any other, and is Leadline's once JetStream has confirmed it, whatever
becomes of whoever asked. Several runners share the service as one queue group; so the result is waited for where it
is published, not where it is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import nats.errors
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import Service, ServiceConfig

from actors.publisher import Line, read_line
from domain.errors import LeadlineError, Rejected
from outbox.wire import results_subject

SUBJECT = "leads.process"
#: How long the caller waits, in milliseconds.
TIMEOUT_HEADER = "Timeout-Ms"
DEFAULT_TIMEOUT_MS = 2_000
MAX_TIMEOUT_MS = 60_000
#: Requests that wait at once; who comes then is told so.
MAX_WAITING = 1_000

#: Of the service's contract, as micro shows it.
_VERSION = "1.0.0"
_CONFIRM_SECONDS = 5.0

#: (business token, lead token, message id) → the result that the message has, as published; None where it has none.
FindResult = Callable[[str, str, str], bytes | None]


class RefusedError(LeadlineError):
    """A request that is answered with a service error: `code` as of HTTP."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


class Accepted(Struct, frozen=True):
    """The answer while there is no result: the message is safe, and its result comes on its subject."""

    message_id: str
    results: str
    status: str = "accepted"
    disposition: str = "in_progress"


class _Head(Struct):
    message_id: str
    disposition: str


class _Confirmed(Struct):
    duplicate: bool = False
    error: dict[str, Any] | None = None


class Asking:
    """The service over one connection. The event loop's thread; `find` is called on others."""

    def __init__(self, client: Client, find: FindResult) -> None:
        self._client = client
        self._find = find
        self._service: Service | None = None
        self._waiting: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        config = ServiceConfig("leadline", _VERSION, "Handles a message and answers with its result")
        self._service = await add_service(self._client, config)
        await self._service.add_endpoint(name="process", subject=SUBJECT, handler=self._take)

    async def stop(self) -> None:
        """Who still waits is answered: the message is safe."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        if self._service is not None and self._client.is_connected:
            await self._service.stop()

    async def _take(self, request: Request) -> None:
        """Micro takes one request after the other: the waiting is done beside it."""
        task = asyncio.create_task(self._answer(request))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _answer(self, request: Request) -> None:
        try:
            if len(self._waiting) > MAX_WAITING:
                raise RefusedError("503", f"{MAX_WAITING} requests wait already; publish to leads.in instead")
            body = await self._process(request)
        except (RefusedError, Rejected) as refused:
            code = refused.code if isinstance(refused, RefusedError) else "400"
            await self._respond(request.respond_error(code, _one_line(refused)))
        except Exception as error:  # whoever asks is told, and nobody else is held up
            await self._respond(request.respond_error("500", _one_line(error)))
        else:
            await self._respond(request.respond(body))

    async def _respond(self, answering: Any) -> None:
        try:
            await answering
        except (nats.errors.Error, ValueError):
            return  # whoever asked is gone, or gave no address: the message is safe, and its result published

    async def _process(self, request: Request) -> bytes:
        headers = request.headers or {}
        until = asyncio.get_running_loop().time() + _timeout(headers)
        line = read_line(0, request.data, self._client.max_payload)
        business, lead = line.subject.split(".")[2:]
        results = results_subject((business, lead))
        answers = await self._client.subscribe(
            results
        )  # first: nothing that is published from now on is missed
        try:
            known = await self._publish(line, headers.get("traceparent"))
            async with asyncio.timeout_at(until):
                found = await self._found(business, lead, line.message_id) if known else None
                return found or await self._result(answers, business, lead, line.message_id)
        except (TimeoutError, asyncio.CancelledError):  # cancelled: the service ends, the message does not
            return msgspec.json.encode(Accepted(line.message_id, results))
        finally:
            await _unsubscribe(answers)

    async def _publish(self, line: Line, trace: str | None) -> bool:
        """Whether JetStream has had it already. Raises `RefusedError` where it is not confirmed."""
        headers = {"Nats-Msg-Id": line.dedup_id} if line.dedup_id else {}
        if trace:
            headers["traceparent"] = trace
        try:
            answer = await self._client.request(
                line.subject, line.body, timeout=_CONFIRM_SECONDS, headers=headers or None
            )
        except (nats.errors.Error, OSError, asyncio.CancelledError) as error:
            why = str(error) or type(error).__name__
            raise RefusedError("503", f"the message was not confirmed, send it again: {why}") from None
        confirmed = msgspec.json.decode(answer.data, type=_Confirmed)
        if confirmed.error is not None:
            raise RefusedError(
                "503", f"the message was refused: {confirmed.error.get('description', 'no reason given')}"
            )
        return confirmed.duplicate

    async def _result(self, answers: Subscription, business: str, lead: str, message_id: str) -> bytes:
        """The message's own result; of one that came again, the result that it had, or will have."""
        while True:
            message: Msg = await answers.next_msg(timeout=None)
            head = msgspec.json.decode(message.data, type=_Head)
            if head.message_id != message_id:
                continue
            if head.disposition != "duplicate":
                return message.data
            found = await self._found(business, lead, message_id)
            if found is not None:
                return found

    async def _found(self, business: str, lead: str, message_id: str) -> bytes | None:
        return await asyncio.to_thread(self._find, business, lead, message_id)


def _timeout(headers: dict[str, str]) -> float:
    """Seconds. Raises `RefusedError`."""
    said = headers.get(TIMEOUT_HEADER)
    if said is None:
        return DEFAULT_TIMEOUT_MS / 1000
    if not said.isdecimal():
        raise RefusedError("400", f"{TIMEOUT_HEADER} must be a whole number of milliseconds")
    return min(int(said), MAX_TIMEOUT_MS) / 1000


async def _unsubscribe(answers: Subscription) -> None:
    try:
        await answers.unsubscribe()
    except nats.errors.Error:
        return  # the connection is closed, and the subscription with it


def _one_line(error: BaseException) -> str:
    """As a header can hold it."""
    return " ".join((str(error) or type(error).__name__).split())[:500]
