"""JetStream's JSON API, called by hand: one request, one answer, its errors as exceptions.

By hand, since a stream's `created` must come with all its digits (nats-py cuts nanoseconds), and since
the answers then are the protocol's own: https://docs.nats.io/reference/reference-protocols/nats_api_reference.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client

from domain.errors import LeadlineError

STREAM_NOT_FOUND = 10059
STREAM_NAME_IN_USE = 10058
STREAM_CREATE_FAILED = 10049
STREAM_STORE_FAILED = 10077
NO_MESSAGE_FOUND = 10037
CONSUMER_NOT_FOUND = 10014
NOT_ENABLED_FOR_ACCOUNT = 10039

_INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")


class JetStreamError(LeadlineError):
    """JetStream refused a request; `code` is its `err_code`."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"JetStream: {description} ({code})")
        self.code = code
        self.description = description


class JetStreamSilentError(LeadlineError):
    """Nobody answered: no connection, a server that is starting, or one without JetStream."""


async def call(client: Client, verb: str, request: object = None, *, timeout: float = 5.0) -> dict[str, Any]:
    """The answer to `$JS.API.<verb>`. Raises `JetStreamError`, or `JetStreamSilentError` without one."""
    payload = b"" if request is None else msgspec.json.encode(request)
    try:
        message = await client.request(f"$JS.API.{verb}", payload, timeout=timeout)
    except nats.errors.NoRespondersError:
        raise JetStreamSilentError("the NATS server has no JetStream, or it is not ready") from None
    except (nats.errors.Error, TimeoutError, OSError) as cause:
        raise JetStreamSilentError(
            f"JetStream does not answer {verb}: {str(cause) or type(cause).__name__}"
        ) from None
    answer: dict[str, Any] = msgspec.json.decode(message.data)
    error = answer.get("error")
    if error:
        raise JetStreamError(error.get("err_code", 0), error.get("description", "no reason given"))
    return answer


def nanoseconds(instant: str) -> int:
    """Nanoseconds since 1970 of JetStream's RFC 3339 in UTC, to the last digit."""
    match = _INSTANT.fullmatch(instant)
    if match is None:
        raise JetStreamSilentError(f"JetStream gave {instant!r} for a time")
    seconds, fraction = match.groups()
    whole = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp())
    return whole * 1_000_000_000 + int((fraction or "").ljust(9, "0"))
