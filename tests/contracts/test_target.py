"""The port `Target`: what every implementation keeps, the ones that tests use included."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from actors.performer import answer_of
from actors.targets.scripted import ScriptedTarget
from domain.events import Idempotency
from domain.outcomes import Done, Failed, FailedForGood, Misconfigured, Outcome, Unknown
from tests.support.actors_outside import HeldTarget
from tests.support.target_kinds import KINDS, Kind, request_of

OUTCOMES: dict[str, type] = {
    "done": Done,
    "fail": Failed,
    "throttle": Failed,
    "fail_for_good": FailedForGood,
    "unknown": Unknown,
}
#: What a real server does where a scripted target is told to say something.
FAULTS = {
    "done": "",
    "fail": "429",
    "throttle": "429",
    "fail_for_good": "422",
    "unknown": "reset_after",
}
MAIL_FAULTS = FAULTS | {"fail": "450_rcpt", "throttle": "450_rcpt", "fail_for_good": "550_rcpt"}


class Scripted:
    """A target without a server."""

    def __init__(
        self, make: Callable[..., ScriptedTarget], idempotency: Idempotency, script: list[str]
    ) -> None:
        self.target = make(idempotency, script)

    def effects(self) -> int:
        return len(self.target._done)

    def call(self, **changes: Any) -> Outcome:
        return self.target.call(request_of(**changes))


Make = Callable[..., Scripted | Kind]
PARAMETERS: dict[str, tuple[Any, Idempotency]] = {
    "scripted, none": (ScriptedTarget, "none"),
    "scripted, keyed": (ScriptedTarget, "keyed"),
    "scripted, once": (ScriptedTarget, "once"),
    "held, keyed": (HeldTarget, "keyed"),
    **{name: (kind, kind.idempotency) for name, kind in KINDS.items()},
}
KEYED = [name for name, (_, idempotency) in PARAMETERS.items() if idempotency == "keyed"]


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path, ca: trustme.CA) -> Iterator[Make]:
    """A target that says in order what it is told to, then `done`."""
    kind, idempotency = PARAMETERS[request.param]
    made: list[Kind] = []

    def maker(*script: str) -> Scripted | Kind:
        if issubclass(kind, ScriptedTarget):
            return Scripted(kind, idempotency, [*script, "done"])
        real: Kind = kind(tmp_path, ca)
        made.append(real)
        faults = MAIL_FAULTS if request.param == "email" else FAULTS
        real.fault(*(faults[said] for said in script))
        return real

    yield maker
    for real in made:
        real.close()


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


every = pytest.mark.parametrize("make", PARAMETERS, indirect=True)
keyed = pytest.mark.parametrize("make", KEYED, indirect=True)


@every
def test_a_target_states_its_idempotency(make: Make, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["make"]
    assert make().target.idempotency == PARAMETERS[name][1]


@every
@pytest.mark.parametrize("said", OUTCOMES)
def test_a_call_ends_in_an_outcome_that_can_be_recorded(make: Make, said: str) -> None:
    outcome = make(said).call()
    assert isinstance(outcome, OUTCOMES[said])
    assert answer_of(outcome) == outcome


@keyed
def test_a_keyed_target_does_a_key_once(make: Make) -> None:
    target = make()
    assert isinstance(target.call(), Done)
    assert isinstance(target.call(attempt=2), Done)
    assert target.effects() == 1
    assert isinstance(target.call(key="another"), Done)
    assert target.effects() == 2


@keyed
def test_a_keyed_target_knows_what_it_did_though_its_answer_was_lost(make: Make) -> None:
    target = make("unknown")
    assert isinstance(target.call(), Unknown)
    assert isinstance(target.call(attempt=2), Done)
    assert target.effects() == 1


@every
@pytest.mark.parametrize("said", ["fail", "throttle", "fail_for_good"])
def test_what_failed_is_proved_not_to_have_happened(make: Make, said: str) -> None:
    target = make(said)
    target.call()
    assert target.effects() == 0
    assert isinstance(target.call(attempt=2), Done)


@every
def test_calls_come_from_many_threads_and_each_is_answered_once(make: Make) -> None:
    target = make(*["done", "fail"] * 40)
    outcomes: list[object] = []

    def caller(first: int) -> None:
        outcomes.extend(target.call(key=f"k{n}") for n in range(first, first + 10))

    callers = [threading.Thread(target=caller, args=(n * 10,)) for n in range(8)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert [type(o) for o in outcomes].count(Done) == [type(o) for o in outcomes].count(Failed) == 40


def test_a_script_ends_in_its_last_word_or_begins_again() -> None:
    last = ScriptedTarget("none", ("fail", "done"))
    again = ScriptedTarget("none", ("fail", "done"), cycle=True)
    assert [type(last.call(request_of())) for _ in range(4)] == [Failed, Done, Done, Done]
    assert [type(again.call(request_of())) for _ in range(4)] == [Failed, Done, Failed, Done]


def test_a_script_can_say_that_the_configuration_is_wrong() -> None:
    target = ScriptedTarget("once", ("misconfigured", "switched_off", "done"))
    refused, gone = target.call(request_of()), target.call(request_of())
    assert isinstance(refused, Misconfigured)
    assert isinstance(gone, Misconfigured)
    assert (refused.switched_off, gone.switched_off) == (False, True)
    assert isinstance(target.call(request_of()), Done)


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
