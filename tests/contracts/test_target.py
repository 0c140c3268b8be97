"""The port `Target`: what every implementation keeps, the ones that tests use included."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from actors.performer import answer_of
from actors.targets.scripted import ScriptedTarget
from domain.events import Idempotency
from domain.outcomes import Done, Failed, FailedForGood, Unknown
from domain.ports import Target, TargetRequest
from tests.support.actors_outside import HeldTarget

Make = Callable[..., Target]
OUTCOMES: dict[str, type] = {
    "done": Done,
    "fail": Failed,
    "throttle": Failed,
    "fail_for_good": FailedForGood,
    "unknown": Unknown,
}


@pytest.fixture(params=[ScriptedTarget, HeldTarget])
def make(request: pytest.FixtureRequest) -> Make:
    kind: Make = request.param
    return kind


def request_of(key: str = "acme-foods/lead-1/m1/0.notify_sales", attempt: int = 1) -> TargetRequest:
    return TargetRequest(key, "sales.notify", "acme-foods", "lead-1", {"text": "hi"}, {}, attempt)


@pytest.mark.parametrize("idempotency", ["none", "keyed", "once"])
def test_a_target_states_its_idempotency(make: Make, idempotency: Idempotency) -> None:
    assert make(idempotency, ("done",)).idempotency == idempotency


@pytest.mark.parametrize("said", OUTCOMES)
def test_a_call_ends_in_an_outcome_that_can_be_recorded(make: Make, said: str) -> None:
    outcome = make("keyed", (said,)).call(request_of())
    assert isinstance(outcome, OUTCOMES[said])
    assert answer_of(outcome) == outcome


def test_a_keyed_target_does_a_key_once(make: Make) -> None:
    target = make("keyed", ("done", "fail"))
    assert isinstance(target.call(request_of()), Done)
    assert isinstance(target.call(request_of(attempt=2)), Done)
    assert isinstance(target.call(request_of("another")), Failed)


def test_a_keyed_target_knows_what_it_did_though_its_answer_was_lost(make: Make) -> None:
    target = make("keyed", ("unknown", "fail"))
    assert isinstance(target.call(request_of()), Unknown)
    assert isinstance(target.call(request_of(attempt=2)), Done)


def test_what_failed_is_proved_not_to_have_happened(make: Make) -> None:
    target = make("keyed", ("fail", "done"))
    assert isinstance(target.call(request_of()), Failed)
    assert isinstance(target.call(request_of(attempt=2)), Done)


def test_calls_come_from_many_threads_and_each_is_answered_once(make: Make) -> None:
    target = make("none", ("done", "fail"), cycle=True)
    outcomes: list[object] = []

    def caller(first: int) -> None:
        outcomes.extend(target.call(request_of(f"k{n}")) for n in range(first, first + 100))

    callers = [threading.Thread(target=caller, args=(n * 100,)) for n in range(8)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert [type(o) for o in outcomes].count(Done) == [type(o) for o in outcomes].count(Failed) == 400


def test_a_script_ends_in_its_last_word_or_begins_again() -> None:
    last = ScriptedTarget("none", ("fail", "done"))
    again = ScriptedTarget("none", ("fail", "done"), cycle=True)
    assert [type(last.call(request_of())) for _ in range(4)] == [Failed, Done, Done, Done]
    assert [type(again.call(request_of())) for _ in range(4)] == [Failed, Done, Failed, Done]


def test_a_hanging_call_lasts_longer_than_its_timeout_and_ends_as_unknown() -> None:
    assert isinstance(ScriptedTarget("none", ("hang",), timeout=0.001).call(request_of()), Unknown)


def test_a_ledger_has_a_line_for_each_call_that_was_taken(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    target = ScriptedTarget("keyed", ("fail", "done"), ledger=ledger)
    for attempt in (1, 2, 3):
        target.call(request_of(attempt=attempt))
    lines = [msgspec.json.decode(line) for line in ledger.read_bytes().splitlines()]
    assert [(line["attempt"], line["outcome"], line["repeated"]) for line in lines] == [
        (1, "Failed", False),
        (2, "Done", False),
        (3, "Done", True),
    ]
