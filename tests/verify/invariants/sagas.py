"""Each lead's history by the rules of the saga, and the state that follows from it: ended, or waiting visibly."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from domain import lead as leads
from domain import rejects
from domain.events import Event, Recorded
from domain.lead import LeadState
from domain.rejects import RejectsState
from domain.snapshots import Snapshots
from domain.tokens import lead_of_stream
from projections.unfinished import TARGET_CONFIGURATION, waits_for_person
from tests.support import domain_invariants as rules
from tests.verify.evidence import Evidence

_of_lead = Snapshots(LeadState, leads.RULES)
_of_rejects = Snapshots(RejectsState, rejects.RULES)

S = TypeVar("S")
Rule = Callable[[Sequence[Event]], None]


def _over_leads(rule: Rule) -> Callable[[Evidence], Iterable[str]]:
    """A rule over one history, which asserts, as an invariant over all of them."""

    def invariant(evidence: Evidence) -> Iterator[str]:
        for stream, history in evidence.leads.items():
            try:
                rule(history)
            except (AssertionError, KeyError) as error:
                yield f"{stream}: {_asserted(error)}"

    invariant.__name__ = rule.__name__
    return invariant


def the_state_accounts_for_every_message(evidence: Evidence) -> Iterator[str]:
    """What follows from a lead's events: each message is at work, with a person or ended; tasks as they are."""
    for stream, state in _states(evidence):
        for rule in rules.OF_STATE:
            try:
                rule(evidence.leads[stream], state)
            except (AssertionError, KeyError) as error:
                yield f"{stream}: {rule.__name__}: {_asserted(error)}"


def what_has_not_ended_is_named_with_what_it_waits_for(evidence: Evidence) -> Iterator[str]:
    """At rest only what a person moves is left, and `unfinished` names each message of it."""
    rows = {(r["business_id"], r["lead_id"], r["message_id"]): r for r in evidence.views["unfinished"]}
    expected = set()
    for stream, state in _states(evidence):
        business, lead_id = lead_of_stream(stream)
        expected |= {(business, lead_id, work.message.message_id) for work in state.queue}
    for key in expected - rows.keys():
        yield f"{key} has not ended, and is nowhere named as unfinished"
    for key in rows.keys() - expected:
        yield f"{key} is named as unfinished ({rows[key]['waiting_for']}), and has ended"
    for business, lead_id in {key[:2] for key in rows}:
        waits = {row["waiting_for"] for key, row in rows.items() if key[:2] == (business, lead_id)}
        if not any(map(waits_for_person, waits)):
            yield f"{business}/{lead_id} waits for {sorted(waits)}, and nothing is at work"


def nothing_waits_for_a_target_that_is_mended(evidence: Evidence) -> Iterator[str]:
    """At rest all targets answer well, and the runner was started since: whoever waited for that has gone on."""
    for row in evidence.views["unfinished"]:
        if row["waiting_for"] == TARGET_CONFIGURATION:
            yield f"{row['business_id']}/{row['lead_id']} {row['message_id']} waits for a {TARGET_CONFIGURATION}"


def what_a_person_must_settle_is_in_the_queue(evidence: Evidence) -> Iterator[str]:
    """Every dead letter that a lead holds open has its row, with a reason, and no open row is of nothing."""
    rows = {row["id"]: row for row in evidence.views["dead_letter_queue"]}
    held = set()
    for stream, state in _states(evidence):
        for letter_id, work in state.letters.items():
            held.add(letter_id)
            row = rows.get(letter_id)
            status = "resolved" if work.resolved else "failed"
            if row is None or row["status"] != status or not row["error_message"]:
                yield f"{stream} holds dead letter {letter_id} ({status}), and its row is {row}"
    for row in rows.values():
        if row["status"] == "failed" and not row["id"].startswith("reject-") and row["id"] not in held:
            yield f"dead letter {row['id']} is open, and no lead holds it"


def a_snapshot_is_what_the_events_give(evidence: Evidence) -> Iterator[str]:
    """A state that was kept is the state that its stream's events lead to, up to its version."""
    for kept in evidence.snapshots:
        history = evidence.streams.get(kept.stream, [])[: kept.version]
        if kept.stream.startswith("lead:"):
            same = _of_lead.decode(kept.state) == _evolved(LeadState(kept.stream), leads.evolve, history)
        else:
            same = _as_kept(
                _of_rejects.decode(kept.state), _evolved(RejectsState(kept.stream), rejects.evolve, history)
            )
        if not same:
            yield f"the snapshot of {kept.stream} at version {kept.version} is not what its events give"


def _as_kept(kept: RejectsState | None, given: RejectsState) -> bool:
    """Whether both are one state, but for what was forgotten since no entry and no command of then comes again."""
    if kept is None:
        return False
    for state in (kept, given):
        rejects.forget(state, kept.passed)
    return kept == given


def _evolved(state: S, evolve: Callable[[S, Recorded], S], history: Sequence[Recorded]) -> S:
    for recorded in history:
        state = evolve(state, recorded)
    return state


def _states(evidence: Evidence) -> Iterator[tuple[str, LeadState]]:
    for stream, history in evidence.streams.items():
        if stream.startswith("lead:"):
            yield stream, _evolved(LeadState(stream), leads.evolve, history)


def _asserted(error: BaseException) -> str:
    """What did not hold, in the words of the line that asserted it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.line} {error}".strip()


ALWAYS = (*(_over_leads(rule) for rule in rules.OF_HISTORY), a_snapshot_is_what_the_events_give)
AT_REST = (
    the_state_accounts_for_every_message,
    what_has_not_ended_is_named_with_what_it_waits_for,
    nothing_waits_for_a_target_that_is_mended,
    what_a_person_must_settle_is_in_the_queue,
)
