"""From the log to the events: nothing lost, nothing twice, in order, and positions that tell the truth."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta

from domain import events as ev
from domain.rejects import reject_id
from tests.verify.evidence import Entry, Evidence, of_type

#: For how long a message id is promised to take effect once.
PROMISED = timedelta(days=8)

_RECEIPTS = (ev.MessageReceived, ev.DuplicateDetected, ev.MessageRejected)


def what_was_confirmed_is_in_the_log(evidence: Evidence) -> Iterator[str]:
    """A publish that JetStream confirmed stands at its sequence, byte for byte, and nothing says it was lost."""
    log = {entry.sequence: entry for entry in evidence.log}
    for confirmed in evidence.confirmed:
        entry = log.get(confirmed.sequence)
        if entry is None or entry.body != confirmed.body:
            yield f"{confirmed.subject} was confirmed as {confirmed.sequence}, and the log has {entry}"
    for recorded, _ in of_type(evidence.events, ev.MessagesLost, ev.StreamRewound):
        yield f"{recorded.event} is recorded, and nobody took anything from the stream"


def every_entry_has_exactly_one_disposition(evidence: Evidence) -> Iterator[str]:
    """Each message of the log was received, was a duplicate, or was rejected: once, and one of these.

    A lead's own record of an entry may stand beside its rejection as `lead_stopped`: what was in the box of a
    lead that was stopped is read again, and told apart when the lead is resumed.
    """
    received, rejected = _receipts(evidence)
    commands = _command_ids(evidence)
    for entry in evidence.log:
        taken, turned_away = received[entry.sequence], rejected[entry.sequence]
        if entry.kind == "cmd" and not turned_away:
            command_id = _command_id(entry)
            if command_id not in commands:
                yield f"command {entry.sequence} ({command_id}) has left no event"
        elif entry.kind == "in" and not _is_one_disposition(taken, turned_away):
            yield f"entry {entry.sequence} of {entry.subject}: received {taken} times, rejected as {turned_away}"


def no_entry_is_recorded_twice(evidence: Evidence) -> Iterator[str]:
    """At every moment: one receipt an entry at most, and one rejection."""
    received, rejected = _receipts(evidence)
    for sequence, times in received.items():
        if times > 1:
            yield f"entry {sequence} was received {times} times"
    for sequence, categories in rejected.items():
        if len(categories) > 1:
            yield f"entry {sequence} was rejected {len(categories)} times: {categories}"


def every_command_is_answered_once(evidence: Evidence) -> Iterator[str]:
    """A command id has one event of its lead, or of the rejects, which carries it out or refuses it."""
    told: dict[str, list[str]] = defaultdict(list)
    for recorded in evidence.events:
        command_id = getattr(recorded.event, "command_id", None)
        if command_id is not None:
            by = recorded.stream.partition(":")[0]
            told[command_id].append(
                f"refused by {by}" if isinstance(recorded.event, ev.CommandRefused) else by
            )
    for command_id, answers in told.items():
        if len(answers) > 1:
            yield f"command {command_id} has more than one event: {answers}"


def each_lead_takes_its_messages_in_stream_order(evidence: Evidence) -> Iterator[str]:
    """The receipts of a lead are in the order of the log; those that a resume delivered in that of their own."""
    of_reject = _sequences_of_rejects(evidence)
    for stream, history in evidence.streams.items():
        if not stream.startswith("lead:"):
            continue
        last = (0, 0)
        for recorded, event in of_type(history, ev.MessageReceived, ev.DuplicateDetected):
            if recorded.place is None:
                yield f"{stream} version {recorded.version} has no place in the log"
                continue
            here = (recorded.place.sequence, of_reject.get(event.redrive_of or "", 0))
            if here <= last:
                yield f"{stream} took {here} after {last}"
            last = here


def a_stopped_lead_records_nothing_until_it_is_resumed(evidence: Evidence) -> Iterator[str]:
    """Whatever its code was at when it was stopped: what comes of that later is not recorded."""
    stopped: dict[str, int] = {}
    for recorded in evidence.events:
        event = recorded.event
        if isinstance(event, ev.LeadStopped):
            stopped[event.lead_stream] = recorded.position
        elif isinstance(event, ev.LeadResumed):
            stopped.pop(event.lead_stream, None)
        elif recorded.stream in stopped:
            yield f"{recorded.stream} was stopped at {stopped[recorded.stream]}, and recorded {event}"


def no_id_takes_effect_twice_within_eight_days(evidence: Evidence) -> Iterator[str]:
    for stream, history in evidence.streams.items():
        lives: dict[str, datetime] = {}
        keys: set[str] = set()
        for recorded, event in of_type(history, ev.MessageReceived):
            before = lives.get(event.message_id)
            if before is not None and abs(recorded.at - before) < PROMISED:
                yield f"{stream}: {event.message_id} was taken at {before} and again at {recorded.at}"
            if event.key in keys:
                yield f"{stream}: two lives of {event.message_id} have the key {event.key}"
            lives[event.message_id] = recorded.at
            keys.add(event.key)


def a_duplicate_is_of_a_message_that_is_there(evidence: Evidence) -> Iterator[str]:
    for stream, history in evidence.leads.items():
        known: set[str] = set()
        for event in history:
            if isinstance(event, ev.MessageReceived):
                known.add(event.message_id)
            elif isinstance(event, ev.DuplicateDetected) and event.message_id not in known:
                yield f"{stream}: {event.message_id} is a duplicate of nothing"


def no_position_is_ahead_of_what_is_recorded(evidence: Evidence) -> Iterator[str]:
    """Below and at a position everything of its partition has left an event. Positions were read first."""
    received, rejected = _receipts(evidence)
    commands = _command_ids(evidence)
    for entry in evidence.log:
        if entry.sequence > evidence.positions.get(entry.partition, 0):
            continue
        recorded = received[entry.sequence] or rejected[entry.sequence]
        if not recorded and not (entry.kind == "cmd" and _command_id(entry) in commands):
            position = evidence.positions[entry.partition]
            yield f"entry {entry.sequence} is not recorded, and partition {entry.partition} stands at {position}"


def _is_one_disposition(taken: int, turned_away: list[str]) -> bool:
    return (taken, len(turned_away)) in {(1, 0), (0, 1)} or (taken, turned_away) == (1, ["lead_stopped"])


def _receipts(evidence: Evidence) -> tuple[Counter[int], dict[int, list[str]]]:
    """Sequence → how often its own lead took it; sequence → categories under which it was rejected."""
    received: Counter[int] = Counter()
    rejected: dict[int, list[str]] = defaultdict(list)
    for recorded, event in of_type(evidence.events, *_RECEIPTS):
        if recorded.place is None or getattr(event, "redrive_of", None) is not None:
            continue
        if isinstance(event, ev.MessageRejected):
            rejected[recorded.place.sequence].append(event.category)
        else:
            received[recorded.place.sequence] += 1
    return received, rejected


def _command_ids(evidence: Evidence) -> Counter[str]:
    found = (getattr(recorded.event, "command_id", None) for recorded in evidence.events)
    return Counter(command_id for command_id in found if command_id is not None)


def _command_id(entry: Entry) -> str:
    try:
        return str(json.loads(entry.body)["command_id"])
    except (ValueError, KeyError, TypeError):
        return ""


def _sequences_of_rejects(evidence: Evidence) -> dict[str, int]:
    """Id of a rejected message's dead letter → its own sequence in the log."""
    places = (
        recorded.place for recorded, _ in of_type(evidence.events, ev.MessageRejected) if recorded.place
    )
    return {reject_id(place): place.sequence for place in places}


ALWAYS = (
    no_entry_is_recorded_twice,
    every_command_is_answered_once,
    each_lead_takes_its_messages_in_stream_order,
    a_stopped_lead_records_nothing_until_it_is_resumed,
    no_id_takes_effect_twice_within_eight_days,
    a_duplicate_is_of_a_message_that_is_there,
    no_position_is_ahead_of_what_is_recorded,
)
AT_REST = (what_was_confirmed_is_in_the_log, every_entry_has_exactly_one_disposition)
