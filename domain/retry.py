"""When an action is tried again: delays with a jitter that a replay finds the same."""

from __future__ import annotations

from datetime import timedelta
from hashlib import blake2b

from msgspec import Struct

#: A wait that somebody ends as a rule (a breaker, a start) ends by itself after so long.
PARKED = timedelta(days=1)
#: Before a target is called again that asked for a pause, where the policy knows no delay.
SOON = timedelta(seconds=1)


class RetryPolicy(Struct, frozen=True):
    """Delays before the second, third, … attempt; their number bounds the attempts."""

    delays: tuple[timedelta, ...] = (timedelta(seconds=1), timedelta(seconds=5), timedelta(seconds=15))
    #: Each delay is stretched or shrunk by at most this share.
    jitter: float = 0.1
    #: A target's `Retry-After` is honoured up to this.
    retry_after_cap: timedelta = timedelta(minutes=5)

    @property
    def attempts(self) -> int:
        """How many calls are made at most."""
        return len(self.delays) + 1


def delay_before(
    policy: RetryPolicy, key: str, attempt: int, *, retry_after_us: int | None = None
) -> timedelta:
    """How long to wait before `attempt` (2 is the first retry); longer if the target asked for it.

    Attempts beyond the policy's wait as the last does: a target may put a call off more often than it may fail.
    """
    base = policy.delays[min(attempt - 2, len(policy.delays) - 1)] if policy.delays else SOON
    delay = base * (1 + policy.jitter * _spread(key, attempt))
    if retry_after_us is None:
        return delay
    cap_us = policy.retry_after_cap // timedelta(microseconds=1)  # a target may say any number of digits
    return max(delay, timedelta(microseconds=max(0, min(retry_after_us, cap_us))))


def _spread(key: str, attempt: int) -> float:
    """-1..1, derived from key and attempt: many actions that fail together do not come back together."""
    digest = blake2b(f"{key}#{attempt}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / (2**31) - 1
