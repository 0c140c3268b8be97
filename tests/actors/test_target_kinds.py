"""Every kind of target against everything that its server may do: how each call ends, and what happened."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trustme

from domain.outcomes import Done, Failed, FailedForGood, Misconfigured, Outcome, Unknown
from tests.support.target_kinds import KINDS, RIGHT, WRONG, KeyedRestKind, Kind, request_of, undo_of
from tests.support.target_rows import DEEDS, HTTP_ROWS, HTTP_TABLE, MAIL_ROWS, MAIL_TABLE, said_of

HTTP = ["webhook", "rest (keyed)", "rest (once)", "slack"]
REST = ["rest (keyed)", "rest (once)"]
OUTCOMES = {kind.__name__: kind for kind in (Done, Failed, FailedForGood, Misconfigured, Unknown)}


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def kind(request: pytest.FixtureRequest, tmp_path: Path, ca: trustme.CA) -> Iterator[Kind]:
    made = KINDS[request.param](tmp_path, ca)
    yield made
    made.close()


def of(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", names or KINDS, indirect=True)


def names_of(outcomes: Sequence[Outcome]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def ended_as(kind: Kind, fault: str) -> Outcome:
    """How one call ends where this goes wrong."""
    if fault == "refused":
        return kind.make(f"http://localhost:{free_port()}").call(request_of())
    if fault == "wrong password":
        kind.give(WRONG)
        return kind.make().call(request_of())
    kind.fault(fault)
    return kind.call()


def test_the_documents_tables_name_every_row_that_is_tested_and_no_other() -> None:
    assert list(said_of(HTTP_TABLE)) == list(HTTP_ROWS)
    assert list(said_of(MAIL_TABLE)) == list(MAIL_ROWS)


@of(*HTTP)
@pytest.mark.parametrize("row", HTTP_ROWS)
def test_an_http_answer_means_what_the_document_says(kind: Kind, row: str) -> None:
    cells = said_of(HTTP_TABLE)[row]
    said = OUTCOMES[cells[1 if kind.idempotency == "once" else 0].split("`")[1]]
    if row == "2xx, but without what the undo needs" and not isinstance(kind, KeyedRestKind):
        said = Done  # where nothing is needed, nothing is missed
    if row == "3xx" and not isinstance(kind, KeyedRestKind) and kind.idempotency == "keyed":
        said = Failed  # Standard Webhooks has it so
    for fault in HTTP_ROWS[row]:
        before = kind.effects()
        outcome = ended_as(kind, fault)
        assert isinstance(outcome, said), fault
        first = before == 0 or kind.idempotency == "once"
        assert kind.effects() - before == (fault in DEEDS and first), fault


@of("email")
@pytest.mark.parametrize("row", MAIL_ROWS)
def test_a_mail_servers_answer_means_what_the_document_says(kind: Kind, row: str) -> None:
    cells = said_of(MAIL_TABLE)[row]
    for fault in MAIL_ROWS[row]:
        before = kind.effects()
        assert isinstance(ended_as(kind, fault), OUTCOMES[cells[0].split("`")[1]]), fault
        assert kind.effects() - before == (fault in DEEDS), fault


@of(*HTTP)
def test_500_then_success_is_one_effect_or_a_persons_to_settle(kind: Kind) -> None:
    kind.fault("500_after")
    outcomes = names_of(kind.driven())
    assert outcomes == (["Unknown"] if kind.idempotency == "once" else ["Unknown", "Done"])
    assert kind.effects() == 1


@of()
def test_what_was_throttled_or_could_not_be_reached_is_done_once_at_the_next_try(kind: Kind) -> None:
    kind.fault("450_rcpt" if kind.idempotency == "once" and not hasattr(kind, "app") else "429")
    assert names_of(kind.driven()) == ["Failed", "Done"]
    assert kind.effects() == 1


@of(*HTTP)
@pytest.mark.parametrize(
    ("fault", "least", "most"), [("429", 7, 7), ("429_date", 30, 60), ("503_pause", 3, 3)]
)
def test_a_pause_that_is_asked_for_is_handed_on(kind: Kind, fault: str, least: int, most: int) -> None:
    kind.fault(fault)
    outcome = kind.call()
    if fault == "503_pause" and kind.idempotency == "once":
        assert isinstance(outcome, Unknown)  # it proves nothing: such a target is not called again
        return
    assert isinstance(outcome, Failed)
    assert outcome.throttled == fault.startswith("429")
    assert least * 1_000_000 <= (outcome.retry_after_us or 0) <= most * 1_000_000


@of()
def test_a_wrong_secret_is_mended_in_its_file_and_nothing_was_lost(kind: Kind) -> None:
    kind.give(kind.wrong)
    target = kind.make()
    outcomes = [target.call(request_of(attempt=n)) for n in (1, 2)]
    kind.give(kind.right)
    outcomes.append(target.call(request_of(attempt=3)))
    assert names_of(outcomes) == ["Misconfigured", "Misconfigured", "Done"]
    assert kind.effects() == 1


@of()
def test_a_secret_that_cannot_be_read_is_waited_for(kind: Kind) -> None:
    kind.secret_file.unlink()
    target = kind.make()
    missing = target.call(request_of())
    assert missing == Misconfigured(f"the file {kind.secret_file} cannot be read: No such file or directory")
    kind.give(kind.right)
    assert isinstance(target.call(request_of()), Done)


@of()
def test_only_410_switches_a_target_off(kind: Kind) -> None:
    if hasattr(kind, "app"):
        kind.fault("410", "403")
        assert [getattr(kind.call(), "switched_off", None) for _ in "12"] == [True, False]
    else:
        kind.give(WRONG)
        assert getattr(kind.make().call(request_of()), "switched_off", None) is False


@of()
def test_an_answer_that_is_lost_after_the_deed_is_an_effect_once_where_it_is_keyed(kind: Kind) -> None:
    kind.fault("silent_after", "reset_after")
    outcomes = names_of(kind.driven())
    assert outcomes == (["Unknown"] if kind.idempotency == "once" else ["Unknown", "Unknown", "Done"])
    assert kind.effects() == 1


@of()
def test_no_secret_is_in_what_a_target_says_whatever_goes_wrong(kind: Kind) -> None:
    faults = [f for rows in (HTTP_ROWS, MAIL_ROWS) for row in rows.values() for f in row]
    kind.timeout = 0.2
    kind.target = kind.make()
    said = []
    for fault in dict.fromkeys(faults):
        said += [repr(ended_as(kind, fault)), repr(kind.target)]
        kind.give(kind.right)
    for secret in (RIGHT, WRONG, kind.right, kind.wrong):
        assert secret not in "".join(said)


@of(*REST)
def test_an_order_is_cancelled_under_its_own_key_by_the_id_that_its_answer_gave(kind: Kind) -> None:
    assert isinstance(kind, KeyedRestKind)
    done = kind.call()
    assert done == Done({"id": "o-1", "link": "/orders/o-1"})
    assert kind.target.call(undo_of(request_of(), done.remote)) == Done()
    assert kind.app.standing() == []
    create, undo = kind.server.requests
    assert create[2]["idempotency-key"] != undo[2]["idempotency-key"]
    assert (undo[0], undo[1]) == ("DELETE", "/orders/o-1")


@of(*REST)
def test_what_an_earlier_attempt_has_undone_is_undone_and_what_nobody_knows_is_a_persons(kind: Kind) -> None:
    assert isinstance(kind, KeyedRestKind)
    lost = undo_of(request_of(), {"id": "o-77"})
    assert isinstance(kind.target.call(lost), FailedForGood)
    kind.fault("410")
    assert isinstance(kind.target.call(undo_of(request_of(attempt=2), {"id": "o-77"})), Done)
    assert isinstance(kind.target.call(undo_of(request_of(), {})), FailedForGood)
    assert kind.app.ledger.lines == []
