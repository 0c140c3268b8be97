"""The rounds' targets give every answer that docs/targets.md knows, whatever the seed, and note what they did."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest

import target_settings as ts
from domain.outcomes import Done, Failed, Outcome
from settings import load
from target_wiring import make_target
from tests.support.eventually import eventually
from tests.support.target_kinds import request_of
from tests.support.target_rows import HTTP_ROWS, HTTP_TABLE, MAIL_ROWS, MAIL_TABLE, said_of
from tests.verify import conditions, faults
from tests.verify.ledgers import Line, read_servers
from tests.verify.servers import OWN, Targets, target_servers
from tests.verify.target_process import HTTP_WRONGS, WELL, WRONGS

LEAD = "+49 151/é"
SEED = 7


class Called(NamedTuple):
    """Every server's whole deck, dealt to its own target; then one call more, once all is well."""

    dealt: dict[str, Counter[str]]
    refused: dict[str, int]
    last: dict[str, Outcome]
    lines: list[Line]


def key_of(business: str, n: int) -> str:
    return f"{business}/=2B49=20151=2F=C3=A9/m{n}/0.action"


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Called:
    folder = tmp_path_factory.mktemp("house")
    found = Called({}, {}, {}, [])
    with target_servers(folder, SEED, 1.0) as targets, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made = targets_of(folder, targets)
        for name, target in made.items():
            found.refused[name] = 0
            for n in range(1, len(wrongs_of(name)) + 1):
                while is_away(target.call(asked(name, n))):
                    found.refused[name] += 1
        (folder / WELL).touch()
        for name, target in made.items():
            found.last[name] = eventually(lambda name=name, target=target: done(target, name), within=5)  # type: ignore[misc]
        for target in made.values():
            http = getattr(target._target, "_http", None)
            if http is not None:
                http.close()
    found.dealt.update(targets.dealt)
    found.lines.extend(
        read_servers(folder, [key_of(own.business, n) for own in OWN.values() for n in range(99)])
    )
    return found


def targets_of(folder: Path, targets: Targets) -> dict[str, Any]:
    """Server → the target that a round's settings make of it."""
    file = folder / "leadline.toml"
    file.write_text(conditions.settings(SEED, [faults.discover()["targets"]], targets.tables()))
    of = load(file, env={}).businesses
    return {name: make_target(of[own.business].targets[own.action][0]) for name, own in OWN.items()}


def asked(name: str, n: int) -> Any:
    business = OWN[name].business
    return request_of(key_of(business, n), business_id=business, lead_id=LEAD)


def done(target: Any, name: str) -> Outcome:
    outcome: Outcome = target.call(asked(name, 0))
    assert isinstance(outcome, Done), outcome
    return outcome


def is_away(outcome: Outcome) -> bool:
    return isinstance(outcome, Failed) and "refused" in outcome.error.lower()


def wrongs_of(name: str) -> tuple[str, ...]:
    return WRONGS.get(name, HTTP_WRONGS)


@pytest.mark.parametrize("name", OWN)
def test_every_row_of_the_documents_table_is_an_answer_of_the_rounds_servers(
    called: Called, name: str
) -> None:
    """A row of the document that no fault is known for, or that no server deals out, fails here."""
    table, rows = (MAIL_TABLE, MAIL_ROWS) if name == "mails" else (HTTP_TABLE, HTTP_ROWS)
    dealt = {fault for fault, times in called.dealt[name].items() if times}
    for row in said_of(table):
        assert set(rows.get(row, ())) & (dealt | {""}), row
    assert dealt == set(wrongs_of(name))
    assert called.refused[name]
    assert isinstance(called.last[name], Done)


def test_each_kind_of_the_document_and_each_class_of_rest_is_in_the_rounds() -> None:
    tables = tomllib.loads("".join(own.table("0") for own in OWN.values()))["businesses"].values()
    made = [target for business in tables for target in business["targets"].values()]
    kinds = {(target["kind"], target.get("idempotency", "")) for target in made}
    assert kinds == {("rest", "keyed"), ("rest", ""), ("webhook", ""), ("slack", ""), ("email", "")}


def test_every_answer_of_a_scripted_target_is_drawn() -> None:
    known = faults.discover()
    drawn: set[str] = set()
    for seed in range(30):
        text = conditions.settings(seed, [known["targets"]], ())
        for targets in tomllib.loads(text)["targets"].values():
            drawn.update(*(target["script"] for target in targets))
        assert {line for line in conditions.well(text).splitlines() if line.startswith("script")} == {
            'script = ["done"]'
        }
    assert drawn == set(get_args(ts.ScriptedOutcome))


@pytest.mark.parametrize("name", OWN)
def test_a_servers_ledger_names_the_key_the_lead_and_what_happened(called: Called, name: str) -> None:
    lines = [line for line in called.lines if line.file.startswith(f"{name}.jsonl")]
    business = OWN[name].business
    assert {line.business_id for line in lines} == {business}
    assert {line.lead_id for line in lines} == {LEAD}
    effects = Counter(line.key for line in lines if line.effect)
    assert effects[key_of(business, 0)] == 1
    assert set(effects.values()) == {1}
    assert {line.key for line in lines} <= {key_of(business, n) for n in range(99)}
    refused = {line.said for line in lines} - {"done"}
    assert refused >= ({"451_data", "554_data"} if name == "mails" else {"401", "403", "410", "422", "429"})
