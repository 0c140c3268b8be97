"""One partition's reader: an ephemeral pull consumer without acknowledgement, read as an ordered one.

What may live here: what was asked for, what came, and whether the consumer can still be believed. What
may not: what a message means, and when a consumer is made (both `actors/intake.py`).

The rules come from two pages of NATS's own: how an ordered consumer notices a gap
(https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-17.md) and how pull requests end
(…/adr/ADR-37.md). Everything runs on the intake's event loop.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec
from msgspec import Struct

from actors.stream import STREAM

_PENDING = re.compile(rb"\r\nNats-Pending-Messages: *(\d+)", re.IGNORECASE)
_LAST_CONSUMER = re.compile(rb"\r\nNats-Last-Consumer: *(\d+)", re.IGNORECASE)

#: The server's own bound on `max_payload`.
_LARGEST_PAYLOAD = 64 * 1024 * 1024

#: "ended": a request has ended as it should. "doubt": make the consumer anew.
Verdict = Literal["alive", "ended", "doubt"]


class PullSettings(Struct, frozen=True):
    """How a partition is read."""

    #: Messages a request asks for, and requests under way; fewer wait for the wire, more fill memory.
    batch: int = 500
    requests: int = 2
    #: A request ends with this many bytes; must hold the largest message (`max_payload`) and its headers.
    max_bytes: int = 4 * 1024 * 1024
    #: Seconds after which a request that found nothing ends, and is asked again.
    expires: float = 30.0
    #: Seconds between the server's signs of life; three without one are a dead consumer.
    heartbeat: float = 2.0
    #: Seconds without a request after which the server removes the consumer [H2].
    inactive_threshold: float = 60.0


class Pull:
    """A partition's consumer, as far as this side knows it."""

    __slots__ = (
        "_max_bytes",
        "_settings",
        "consumer",
        "failures",
        "generation",
        "heard_at",
        "last_seen",
        "next_subject",
        "outstanding",
        "partition",
        "pending",
        "sequence",
    )

    def __init__(self, partition: int, settings: PullSettings) -> None:
        self.partition = partition
        self._settings = settings
        self._max_bytes = settings.max_bytes
        #: Stream sequence of the last message handed on.
        self.last_seen = 0
        #: Its place in the consumer's own count, which has no gaps.
        self.sequence = 0
        #: The consumer's name; empty while there is none that is believed.
        self.consumer = b""
        self.next_subject = ""
        #: Counts the consumers: part of the inbox, so that an old one's statuses are known as such.
        self.generation = 0
        #: What the server said was still to come, with the last message; a gauge, never a proof.
        self.pending = b"0"
        #: Messages asked for that have not come.
        self.outstanding = 0
        self.heard_at = 0.0
        #: Consumers made since one last gave a sign of life: the next waits longer.
        self.failures = 0

    def configuration(self) -> dict[str, object]:
        """The consumer to make, from the last seen message on."""
        settings = self._settings
        return {
            "stream_name": STREAM,
            "config": {
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": self.last_seen + 1,
                "filter_subject": f"partition.{self.partition}.>",
                "ack_policy": "none",
                "max_waiting": 4 * settings.requests,
                "inactive_threshold": round(settings.inactive_threshold * 1e9),
                "mem_storage": True,
                "num_replicas": 1,
            },
        }

    def made(self, consumer: str, now: float) -> None:
        """A new consumer stands at the message after `last_seen`."""
        self.consumer = consumer.encode()
        self.next_subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}"
        self.generation += 1
        self.sequence = 0
        self.outstanding = 0
        self.heard_at = now

    def forget(self) -> None:
        """Believe nothing more of this consumer: what still comes from it is dropped."""
        self.consumer = b""
        self.outstanding = 0

    def accept(self, reply: bytes) -> int:
        """The stream sequence of a message, by its `$JS.ACK` subject; 0 to drop it, -1 at a gap.

        `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, or the same with
        domain and account behind ACK and a token at the end.
        """
        fields = reply.split(b".")
        shift = 0 if len(fields) == 9 else 2
        if fields[3 + shift] != self.consumer:
            return 0
        sequence = int(fields[6 + shift])
        if sequence != self.sequence + 1:
            return -1
        self.sequence = sequence
        self.outstanding -= 1
        self.failures = 0
        seen = int(fields[5 + shift])
        if seen <= self.last_seen:
            return -1
        self.last_seen = seen
        self.pending = fields[8 + shift]
        return seen

    def wants(self) -> bool:
        """Another request should be under way."""
        settings = self._settings
        return bool(self.consumer) and self.outstanding <= settings.batch * (settings.requests - 1)

    def asked(self) -> bytes:
        """The body of one more request, which is counted as sent."""
        settings = self._settings
        self.outstanding += settings.batch
        return msgspec.json.encode(
            {
                "batch": settings.batch,
                "max_bytes": self._max_bytes,
                "expires": round(settings.expires * 1e9),
                "idle_heartbeat": round(settings.heartbeat * 1e9),
            }
        )

    def judge(self, headers: bytes) -> Verdict:
        """What a status on this partition's inbox says. Only the server writes there [H5]."""
        code = headers[9:12]
        if code == b"100":
            last = _LAST_CONSUMER.search(headers)
            if last and int(last[1]) > self.sequence:
                return "doubt"  # more was delivered than is held: it was lost on the wire [H1]
            self.failures = 0
            return "alive"
        pending = _PENDING.search(headers)
        if pending and code in (b"408", b"409"):
            left = int(pending[1])
            self.outstanding = max(0, self.outstanding - left)
            if code == b"409" and left >= self._settings.batch:
                # Not one message fitted: the next is larger than a request may be.
                self._max_bytes = min(2 * self._max_bytes, _LARGEST_PAYLOAD)
            return "ended"
        return "doubt"

    def silent(self, now: float) -> bool:
        """Asked, and no sign of life: an idle consumer sends heartbeats, a dead one nothing."""
        if not self.consumer or not self.outstanding:
            return False
        return now - self.heard_at > 3 * self._settings.heartbeat + 1.0
