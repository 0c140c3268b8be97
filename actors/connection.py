"""A NATS connection for the intake: nats-py's client with a parser that hands over raw bytes.

nats-py decodes the headers of whatever comes, and takes some of them for its own: a publisher's
`Status: 503` makes it drop others' messages, a header block `NATS/1.0 503 …` or bytes that are not UTF-8
raise inside its read loop, which then ends without a word [H5]. Here a message of a *raw* subscription
is four byte strings, and nothing of it is looked at. Nothing is queued either, so no limit drops it [H1].

Everything runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.client import Client

from domain.errors import LeadlineError

#: For those who pass a connection on and need nothing else of the library.
Connection = Client
#: (subject, reply, headers, body). Must not raise: it would end the read loop.
OnRaw = Callable[[bytes, bytes, bytes, bytes], None]


#: Up to the last @: a password that is not percent-encoded may hold one too, or a slash.
_USER_AND_PASSWORD = re.compile(r"^([a-z+]*://)?.*@", re.DOTALL)


class NatsUnreachableError(LeadlineError):
    """No server answers under this address, or it does not let us in."""


def shown(url: str) -> str:
    """A server's url as people and logs may see it: without user, password and token."""
    return _USER_AND_PASSWORD.sub(r"\1", url)


class RawClient(Client):
    """nats-py's client, with raw subscriptions, and without an error that closes it for good."""

    def __init__(self) -> None:
        super().__init__()
        self._ps: Any = _Parser(self)
        self.raw: dict[int, OnRaw] = {}

    async def subscribe_raw(self, subject: str, on_raw: OnRaw) -> None:
        """Everything that comes for `subject` goes to `on_raw`, as bytes. Renewed at each reconnect."""
        self.raw[self._sid + 1] = on_raw
        await self.subscribe(subject)

    def publish_now(self, subject: str, reply: str, body: bytes) -> None:
        """Publish without waiting and without buffering: while there is no connection, nothing is sent."""
        self.write_now(f"PUB {subject} {reply} {len(body)}\r\n".encode() + body + b"\r\n")

    def write_now(self, commands: bytes) -> bool:
        """The same for whole commands of the protocol, of which nothing is looked at. False: nothing was sent."""
        transport = self._transport
        if not self.is_connected or transport is None:
            return False
        transport.write(commands)
        return True

    async def _process_op_err(self, e: Exception) -> None:
        """The wire is cut: requests that wait for an answer over it end now, not when their time is up."""
        await super()._process_op_err(e)
        for answer in list(self._resp_map.values()):
            if not answer.done():
                answer.set_exception(nats.errors.ConnectionClosedError())

    async def _process_err(self, err_msg: str) -> None:
        """nats-py closes for good on most `-ERR`; whatever the server complains of, come back instead."""
        error = nats.errors.Error(f"nats: {err_msg.strip(chr(39))}")
        if "permissions violation" in err_msg:
            await self._error_cb(error)
        else:
            self._err = error
            await self._process_op_err(error)


async def connect(
    url: str,
    *,
    name: str,
    client: Client | None = None,
    reconnect: bool = True,
    within: float = 5.0,
    **callbacks: Callable[..., Awaitable[None]],
) -> Client:
    """A connected client; with `reconnect` it comes back for ever. Raises `NatsUnreachableError`."""
    client = client or Client()
    last: list[Exception] = []

    async def on_error(error: Exception) -> None:
        last.append(error)
        del last[:-1]

    callbacks.setdefault("error_cb", on_error)
    try:
        async with asyncio.timeout(within):
            await client.connect(
                url,
                name=name,
                allow_reconnect=reconnect,
                max_reconnect_attempts=-1 if reconnect else 0,
                reconnect_time_wait=0.25,  # type: ignore[arg-type]
                ping_interval=5,
                max_outstanding_pings=2,
                connect_timeout=2,
                **callbacks,  # type: ignore[arg-type]
            )
    except (nats.errors.Error, OSError, TimeoutError) as error:
        why = last[-1] if last else error
        await _hang_up(client)
        raise NatsUnreachableError(
            f"no NATS server can be used at {shown(url)}: {str(why) or 'no answer'}"
        ) from None
    return client


async def _hang_up(client: Client) -> None:
    """nats-py leaves the wire open where the server does not let it in."""
    wire: Any = client._transport  # noqa: SLF001
    if wire is not None:
        wire.close()
        await asyncio.sleep(0)  # it is closed by the loop, which may be about to end


_HMSG = ord("H")
_MESSAGE = (_HMSG, ord("M"))


class _Parser:
    """In the place of `nats.protocol.parser.Parser`: same protocol, no regular expressions.

    Splits at spaces only: a subject may hold other bytes that a regular expression takes for white space.
    """

    def __init__(self, client: RawClient) -> None:
        self._client = client
        self._life = 0
        self.reset()

    def reset(self) -> None:
        """A new connection begins: what is left of the old one is dropped, also by a `parse` under way."""
        self._life += 1
        self._buffer = bytearray()
        self._needed = 0

    async def parse(self, chunk: bytes = b"") -> None:
        self._buffer += chunk
        if len(self._buffer) < self._needed:
            return
        life, data = self._life, bytes(self._buffer)
        at, end, needed = 0, len(data), 0
        raw = self._client.raw
        while True:
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                break
            first = data[at]
            if first in _MESSAGE:
                parts = data[at:line_end].split(b" ")
                body_end = line_end + 2 + int(parts[-1])
                if body_end + 2 > end:
                    needed = body_end + 2 - at
                    break
                headed = first == _HMSG
                body_at = line_end + 2 + (int(parts[-2]) if headed else 0)
                reply = parts[3] if len(parts) == 5 + headed else b""
                on_raw = raw.get(int(parts[2]))
                headers, body = data[line_end + 2 : body_at], data[body_at:body_end]
                if on_raw is None:
                    await self._client._process_msg(int(parts[2]), parts[1], reply, body, headers)  # noqa: SLF001
                else:
                    on_raw(parts[1], reply, headers, body)
                at = body_end + 2
            else:
                await self._control(data[at:line_end])
                at = line_end + 2
            if life != self._life:
                return
        del self._buffer[:at]
        self._needed = needed

    async def _control(self, line: bytes) -> None:
        client = self._client
        if line.startswith(b"PING"):
            await client._process_ping()  # noqa: SLF001
        elif line.startswith(b"PONG"):
            await client._process_pong()  # noqa: SLF001
        elif line.startswith(b"-ERR"):
            await client._process_err(line[4:].decode(errors="replace").strip().lower())  # noqa: SLF001
        elif line.startswith(b"INFO"):
            await client._process_info(json.loads(line[4:]))  # noqa: SLF001
        elif not line.startswith(b"+OK"):
            raise nats.errors.ProtocolError(f"nats: unknown protocol: {line[:80]!r}")
