"""The streams LEADS and LEADS_OUT: the one place that says what they are. Whoever connects ensures them here [H30].

What may live here: their configurations, and what of them is read back. What may not: reading messages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from msgspec import Struct
from nats.aio.client import Client

from actors import jetstream
from actors.jetstream import JetStreamError, JetStreamSilentError
from domain.errors import LeadlineError

STREAM = "LEADS"
PARTITIONS = 16
#: A full stream refuses publishers [H7]; this much disk is reserved for it.
DEFAULT_MAX_BYTES = 8 * 1024**3

#: What goes out: results and replies.
OUT_STREAM = "LEADS_OUT"

_SUBJECTS = ["leads.in.*.*", "leads.cmd.*.*"]
_OUT_SUBJECTS = ["leads.out.*.*.results", "leads.out.*.*.replies"]
_DUPLICATE_WINDOW_NS = 120_000_000_000
#: What JetStream says while it still removes a stream of that name that somebody deleted.
_BEING_REMOVED = (
    jetstream.STREAM_NAME_IN_USE,
    jetstream.STREAM_NOT_FOUND,
    jetstream.STREAM_CREATE_FAILED,
    jetstream.STREAM_STORE_FAILED,
)
#: Seconds for which it may say so, until it is taken for a refusal.
_REMOVED_WITHIN = 5.0
#: Seconds to leave it for that, for whoever learns of the removal at once: nats-server 2.15 may otherwise take
#: the new stream's files away with the old one's, and the new one then confirms nothing until a restart.
REMOVAL = 1.0


class StreamRefusedError(LeadlineError):
    """The server has no such stream to offer, or one that would break a promise; the text says which."""


class StreamState(Struct, frozen=True):
    """What the stream holds now. `created` in nanoseconds since 1970."""

    created: int
    first_sequence: int
    last_sequence: int
    messages: int


class OutLimits(Struct, frozen=True):
    """How much LEADS_OUT keeps for readers who are away; the oldest goes first."""

    max_bytes: int = 2 * 1024**3
    max_age: timedelta = timedelta(days=7)


def configuration(max_bytes: int = DEFAULT_MAX_BYTES) -> dict[str, Any]:
    """The stream as JetStream's API takes it."""
    return {
        "name": STREAM,
        # Exactly these: `leads.in.>` would confirm subjects that no partition reads [H7].
        "subjects": list(_SUBJECTS),
        "subject_transform": {
            "src": "leads.*.*.*",
            "dest": f"partition.{{{{partition({PARTITIONS},2,3)}}}}"
            ".{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}",
        },
        "storage": "file",
        # Full refuses publishers and never drops what is unread; the intake purges what is read [H7].
        "retention": "limits",
        "discard": "new",
        "max_bytes": max_bytes,
        "max_age": 0,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        # For a publisher's own retries; whoever comes later meets the lead's own memory.
        "duplicate_window": _DUPLICATE_WINDOW_NS,
        "num_replicas": 1,
    }


def out_configuration(limits: OutLimits) -> dict[str, Any]:
    """The stream of results and replies as JetStream's API takes it."""
    return {
        "name": OUT_STREAM,
        "subjects": list(_OUT_SUBJECTS),
        "storage": "file",
        # The events are the truth, and this is only told of them: full, it drops the oldest and refuses nobody.
        "retention": "limits",
        "discard": "old",
        "max_bytes": limits.max_bytes,
        "max_age": limits.max_age // timedelta(microseconds=1) * 1000,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "duplicate_window": _DUPLICATE_WINDOW_NS,
        "num_replicas": 1,
        # Many together cost the server a tenth. A server before 2.12 knows nothing of it, and leaves it out.
        "allow_atomic": True,
    }


#: Of LEADS_OUT; set anew where it is another. All else of it is as it was made, or refused.
_OUT_SET = ("max_bytes", "max_age", "allow_atomic")
#: Must be as in `configuration`; the value is why.
_MUST_MATCH = {
    "subjects": "other subjects are confirmed and read by nobody",
    "subject_transform": "a lead's messages must meet in one partition",
    "storage": "messages must survive the server",
    "retention": "messages must stay until the intake has read them",
    "discard": "a full stream must refuse publishers, not drop what is unread",
    "max_age": "messages must not expire unread",
    "max_msgs": "the limit is max_bytes",
    "max_msgs_per_subject": "a lead may have any number of messages",
    "duplicate_window": "publishers rely on it for their retries",
}
#: Must be as in `out_configuration`.
_OUT_MUST_MATCH = {
    "subjects": "results and replies are looked for there",
    "storage": "they must survive the server",
    "retention": "they must stay for whoever is away",
    "discard": "a full stream must drop the oldest, not hold up what is new",
    "max_msgs": "the limits are max_bytes and max_age",
    "max_msgs_per_subject": "a lead may have any number of them",
}
#: Must be off; a publisher's header could otherwise remove what others have published, or hide its own.
_MUST_BE_OFF = (
    "no_ack", "sealed", "deny_purge", "allow_rollup_hdrs", "allow_msg_ttl", "allow_msg_schedules",
    "allow_msg_counter", "allow_atomic", "allow_batched", "mirror", "sources", "discard_new_per_subject",
)  # fmt: skip
#: The same of LEADS_OUT, whose only publisher makes batches of it.
_OUT_MUST_BE_OFF = tuple(name for name in _MUST_BE_OFF if name != "allow_atomic")


def differences(config: dict[str, Any], max_bytes: int | None) -> list[str]:
    """What of a stream's configuration breaks a promise, a clause each. `max_bytes` None takes any limit."""
    found = _differing(config, configuration(max_bytes or DEFAULT_MAX_BYTES), _MUST_MATCH, _MUST_BE_OFF)
    held = config.get("max_bytes", -1)
    if max_bytes is not None and held != max_bytes:
        found.append(f"max_bytes is {held} and must be {max_bytes} (stream.max_bytes in the settings)")
    elif held <= 0:
        found.append("max_bytes is unlimited and must be a limit (a full disk loses what is confirmed)")
    return found


def out_differences(config: dict[str, Any]) -> list[str]:
    """The same of LEADS_OUT. Its limits are nobody's promise: they follow the settings."""
    return _differing(config, out_configuration(OutLimits()), _OUT_MUST_MATCH, _OUT_MUST_BE_OFF)


def _differing(
    config: dict[str, Any], wanted: dict[str, Any], must_match: dict[str, str], must_be_off: Iterable[str]
) -> list[str]:
    found = [
        f"{name} is {_shown(config.get(name))} and must be {_shown(wanted[name])} ({why})"
        for name, why in must_match.items()
        if _comparable(config.get(name)) != _comparable(wanted[name])
    ]
    found += [f"{name} is set and must not be" for name in must_be_off if config.get(name)]
    if config.get("max_msg_size", -1) != -1:
        found.append("max_msg_size is set and must not be (the limit is the server's max_payload)")
    return found


async def ensure(client: Client, max_bytes: int | None = None, *, pause: float = 0.0) -> StreamState:
    """The stream, made if it is not there, after a `pause` in seconds, else checked.

    `max_bytes` None makes it with the default and accepts any limit. Raises `StreamRefusedError` with a sentence.
    """
    answer = await _found_or_made(client, configuration(max_bytes or DEFAULT_MAX_BYTES), pause)
    _refuse_if(STREAM, differences(answer["config"], max_bytes))
    return state_of(answer)


async def ensure_out(client: Client, limits: OutLimits) -> bool:
    """LEADS_OUT, made if it is not there, else checked; its limits are set to these, and it is opened for atomic
    batches. Whether it takes them: a server before 2.12 knows none. Raises as `ensure`."""
    wanted = out_configuration(limits)
    answer = await _found_or_made(client, wanted)
    _refuse_if(OUT_STREAM, out_differences(answer["config"]))
    new = {name: wanted[name] for name in _OUT_SET if answer["config"].get(name) != wanted[name]}
    if new:
        try:
            answer = await jetstream.call(client, f"STREAM.UPDATE.{OUT_STREAM}", answer["config"] | new)
        except JetStreamError as error:
            raise StreamRefusedError(_sentence(OUT_STREAM, error)) from None
    return takes_batches(answer)


async def messages_out(client: Client) -> int:
    """How many results and replies LEADS_OUT holds."""
    answer = await jetstream.call(client, f"STREAM.INFO.{OUT_STREAM}")
    return int(answer["state"]["messages"])


def takes_batches(answer: dict[str, Any]) -> bool:
    """Whether many messages may be published to a stream as one, by the server's word of it."""
    return bool(answer["config"].get("allow_atomic"))


def _refuse_if(name: str, wrong: list[str]) -> None:
    if wrong:
        raise StreamRefusedError(
            f"stream {name} is not as Leadline needs it: {'; '.join(wrong)}."
            f" Mend it with `nats stream edit {name}`, or name another server."
        )


async def check(client: Client, max_bytes: int | None = None) -> list[str]:
    """Like `ensure`, but makes nothing: what is wrong, a sentence each (for `doctor`)."""
    return await _check(client, STREAM, lambda config: differences(config, max_bytes))


async def check_out(client: Client) -> list[str]:
    """The same of LEADS_OUT."""
    return await _check(client, OUT_STREAM, out_differences)


async def _check(client: Client, name: str, compare: Callable[[dict[str, Any]], list[str]]) -> list[str]:
    try:
        answer = await jetstream.call(client, f"STREAM.INFO.{name}")
    except JetStreamError as error:
        if error.code == jetstream.STREAM_NOT_FOUND:
            makers = "`up`, `run` or `publish` makes it" if name == STREAM else "`up` or `run` makes it"
            return [f"stream {name} is not there yet; {makers}"]
        return [_sentence(name, error)]
    except JetStreamSilentError as error:
        return [str(error)]
    return compare(answer["config"])


async def read_state(client: Client) -> StreamState:
    """What the stream holds now."""
    return state_of(await jetstream.call(client, f"STREAM.INFO.{STREAM}"))


async def last_sequence_of(client: Client, partition: int) -> int:
    """Sequence of a partition's last message, 0 if it has none."""
    try:
        answer = await jetstream.call(
            client, f"STREAM.MSG.GET.{STREAM}", {"last_by_subj": f"partition.{partition}.>"}
        )
    except JetStreamError as error:
        if error.code == jetstream.NO_MESSAGE_FOUND:
            return 0
        raise
    return int(answer["message"]["seq"])


def state_of(answer: dict[str, Any]) -> StreamState:
    state = answer["state"]
    return StreamState(
        jetstream.nanoseconds(answer["created"]), state["first_seq"], state["last_seq"], state["messages"]
    )


async def _found_or_made(client: Client, wanted: dict[str, Any], pause: float = 0.0) -> dict[str, Any]:
    """Raises `StreamRefusedError` where there is none and none can be made."""
    name = wanted["name"]
    until = time.monotonic() + _REMOVED_WITHIN
    while True:
        try:
            return await _made_unless_found(client, wanted, pause)
        except JetStreamError as error:
            if error.code not in _BEING_REMOVED or time.monotonic() > until:
                raise StreamRefusedError(_sentence(name, error)) from None
        await asyncio.sleep(0.1)


async def _made_unless_found(client: Client, wanted: dict[str, Any], pause: float) -> dict[str, Any]:
    name = wanted["name"]
    try:
        return await jetstream.call(client, f"STREAM.INFO.{name}")
    except JetStreamError as error:
        if error.code != jetstream.STREAM_NOT_FOUND:
            raise
    await asyncio.sleep(pause)
    try:
        return await jetstream.call(client, f"STREAM.CREATE.{name}", wanted)
    except JetStreamError as error:
        if error.code != jetstream.STREAM_NAME_IN_USE:
            raise
        # Somebody made it in between; what they made is checked like any other.
        return await jetstream.call(client, f"STREAM.INFO.{name}")


def _sentence(name: str, error: JetStreamError) -> str:
    if error.code == jetstream.NOT_ENABLED_FOR_ACCOUNT:
        return (
            "the NATS server has no JetStream for this account; start it with `jetstream {}` (see nats.conf)"
        )
    return f"stream {name} cannot be had: {error.description}"


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)
