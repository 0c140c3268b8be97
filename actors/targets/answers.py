"""What an HTTP answer means. The table stands in docs/targets.md, and a test holds both together."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from actors.targets.http import Answer
from domain.outcomes import Failed, FailedForGood, Misconfigured, Outcome, Unknown

_EXCERPT = 200
#: Longer pauses are cut to it; how much of one is honoured is a setting of the retries.
_LONGEST_PAUSE_US = 86_400_000_000


def refusal(answer: Answer, *, keyed: bool, now: datetime | None = None) -> Outcome | None:
    """The outcome of an answer that is none of success; None for 2xx.

    A 5xx proves nothing: the error may have come after the deed, or from a gateway in between; neither does a
    redirection, which may well lead to what was made. `keyed` requests are sent again for them, at the time that a
    503 names; 409 says there that the first one is still at work.
    """
    status = answer.status
    what = said(answer)
    pause = retry_after_us(answer.headers, now or datetime.now(UTC))
    if 200 <= status < 300:
        return None
    if status in (401, 403):
        return Misconfigured(what)
    if status == 410:
        return Misconfigured(what, switched_off=True)
    if status == 429:
        return Failed(what, pause, throttled=True)
    if status == 503 and pause is not None and keyed:
        return Failed(what, pause)
    if status >= 500 or status < 400 or status in (408, 425) or (status == 409 and keyed):
        return Unknown(what)
    return FailedForGood(what)


def retry_after_us(headers: Mapping[str, str], now: datetime) -> int | None:
    """`Retry-After` in microseconds, given in seconds or as a date (RFC 9110, 10.2.3); None without one."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return min(int(value[:12]) * 1_000_000, _LONGEST_PAUSE_US)
    try:
        until = parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    pause = (until - now).total_seconds() * 1_000_000
    return min(max(0, round(pause)), _LONGEST_PAUSE_US)


def said(answer: Answer) -> str:
    """The status, and the beginning of what was said with it, in one line."""
    text = answer.body[: _EXCERPT * 4].decode(errors="replace")
    text = " ".join(text.split())[:_EXCERPT]
    return f"the target answered {answer.status}{': ' + text if text else ''}"
