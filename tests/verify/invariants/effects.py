"""What happened in the outside world, against what the events say: by idempotency key, from the targets' ledgers.

What can honestly be promised differs by class. *keyed*: every attempt carries the step's key, so that a receiver
can know it again; *once*: a key has one effect at most; *none*: twice harms nobody. For all of them: no call
without its `ActionStarted`, none recorded as done that was not, and no step that stands twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from domain import events as ev
from domain.tokens import encode
from tests.verify.evidence import Evidence, of_type
from tests.verify.ledgers import Line

_EXECUTED = (ev.StepExecuted, ev.ActionExecuted)
_COMPENSATED = (ev.StepCompensated, ev.ActionCompensated)


def every_call_was_recorded_before_it_was_made(evidence: Evidence) -> Iterator[str]:
    started = {(event.key, event.attempt) for _, event in of_type(evidence.events, ev.ActionStarted)}
    keys = {key for key, _ in started}
    for line in evidence.ledger:
        if line.key not in keys or (line.attempt is not None and (line.key, line.attempt) not in started):
            yield f"{line.file}: attempt {line.attempt} of {line.key} was never started"


def no_attempt_is_made_twice(evidence: Evidence) -> Iterator[str]:
    """A target saw no more calls of a key than were started and not given back. A call that it answered with 401 is
    made and given back: no attempt is lost for its settings."""
    allowed: Counter[str] = Counter()
    for_settings: Counter[str] = Counter()
    for _, event in of_type(evidence.events, ev.ActionStarted, ev.ActionDeferred):
        if isinstance(event, ev.ActionStarted):
            allowed[event.key] += 1
        elif event.returned_attempt:
            allowed[event.key] -= 1
            for_settings[event.key] += event.reason == "target_configuration"
    made = Counter(line.key for line in evidence.ledger)
    misconfigured = Counter(line.key for line in evidence.ledger if line.misconfigured)
    for key, calls in made.items():
        if calls - misconfigured[key] > allowed[key] or calls > allowed[key] + for_settings[key]:
            yield f"{key} was called {calls} times, and {allowed[key]} attempts are recorded"


def what_is_recorded_as_done_was_done(evidence: Evidence) -> Iterator[str]:
    """An action that was called, and its compensation, have an answer "done" from their target."""
    done = {line.key for line in evidence.ledger if line.outcome == "Done"}
    for _, event in of_type(evidence.events, *_EXECUTED, *_COMPENSATED):
        if event.attempts and event.settled_by is None and event.key not in done:
            yield f"{event.key} is recorded as done, and no target has done it"


def a_step_stands_at_most_once(evidence: Evidence) -> Iterator[str]:
    """Of the keys that a step had over its runs, at most one has an effect that was not undone."""
    undone = {event.key for _, event in of_type(evidence.events, *_COMPENSATED)}
    undone |= {line.key for line in evidence.ledger if line.effect}
    standing: dict[str, set[str]] = defaultdict(set)
    for line in evidence.ledger:
        if line.effect and not _is_undo(line.key) and f"{line.key}/undo" not in undone:
            standing[line.key.partition("#")[0]].add(line.key)
    for step, keys in standing.items():
        if len(keys) > 1:
            yield f"{step} stands under {sorted(keys)}"


def a_once_target_is_asked_once_for_an_effect(evidence: Evidence) -> Iterator[str]:
    """At a target that may be called once: never two effects of one key."""
    classes = _classes(evidence)
    effects = Counter(line.key for line in evidence.ledger if line.effect)
    for key, times in effects.items():
        if times > 1 and classes.get(key.removesuffix("/undo")) == "once":
            yield f"{key} took effect {times} times at a target that may be called once"


def what_is_proved_not_to_have_happened_did_not(evidence: Evidence) -> Iterator[str]:
    """An action that failed for good, with no attempt that may have happened, has no effect in any ledger."""
    failed: set[str] = set()
    maybe: set[str] = set()
    kinds = (ev.ActionFailed, ev.ActionInterrupted, ev.ActionAttemptFailed, *_EXECUTED)
    for _, event in of_type(evidence.events, *kinds):
        if (
            isinstance(event, ev.ActionFailed)
            and event.category != "outcome_unknown"
            and not event.maybe_done
        ):
            failed.add(event.key)
        elif not isinstance(event, ev.ActionAttemptFailed) or event.kind == "unknown":
            maybe.add(event.key)
    for line in evidence.ledger:
        if line.effect and line.key in failed - maybe:
            yield f"{line.key} is recorded as failed for good, and {line.file} has its effect"


def no_target_sees_another_businesss_calls(evidence: Evidence) -> Iterator[str]:
    """A call's key begins with its business and lead; a business's own target is called for nobody else."""
    for line in evidence.ledger:
        _, _, owner = line.file.removesuffix(".ledger.jsonl").partition("@")
        if owner and line.business_id != owner:
            yield f"{line.file} has a call of {line.business_id}: {line.key}"
        if not line.key.startswith(f"{line.business_id}/{encode(line.lead_id)}/"):
            yield f"{line.file}: {line.key} was sent for {line.business_id}/{line.lead_id}"


def no_deadline_is_set_for_a_configuration(evidence: Evidence) -> Iterator[str]:
    """What waits until its target's settings are mended waits as long as that takes; an attempt that was begun is given
    back."""
    begun: set[str] = set()
    kinds = (ev.ActionStarted, ev.ActionDeferred, ev.ActionFailed, ev.CompensationFailed)
    for recorded, event in of_type(evidence.events, *kinds):
        if isinstance(event, ev.ActionStarted):
            begun.add(event.key)
            continue
        if not isinstance(event, ev.ActionDeferred):
            begun.discard(event.key)  # a run of the message that comes later may have the same key
            continue
        given_back = event.returned_attempt is (event.key in begun)
        if event.reason == "target_configuration" and (event.deadline or not given_back):
            yield f"{recorded.stream}: {event.key} waits for its target's configuration: {event}"
        begun.discard(event.key)


def effect_of(lines: list[Line], key: str) -> bool:
    """Whether a key has an effect: what a person finds who asks the target's own people."""
    return any(line.key == key and line.effect for line in lines)


def _classes(evidence: Evidence) -> dict[str, str | None]:
    """Key → its target's idempotency class when it was planned."""
    plans = (event for _, event in of_type(evidence.events, ev.ActionsPlanned))
    return {step.key: step.idempotency for event in plans for step in event.actions}


def _is_undo(key: str) -> bool:
    return key.endswith("/undo")


ALWAYS = (
    every_call_was_recorded_before_it_was_made,
    no_attempt_is_made_twice,
    what_is_recorded_as_done_was_done,
    a_step_stands_at_most_once,
    a_once_target_is_asked_once_for_an_effect,
    no_target_sees_another_businesss_calls,
    no_deadline_is_set_for_a_configuration,
)
AT_REST = (what_is_proved_not_to_have_happened_did_not,)
