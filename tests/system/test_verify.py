"""The verification runner, for a minute or two: fixed seeds, each group of faults at least once. `make verify` is the
long one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.verify import __main__ as verify
from tests.verify import faults
from tests.verify.__main__ import main
from tests.verify.round import Plan, Verdict, drawn, play

#: Seed → the groups of that round, chosen so that they share a machine of two cores and some seconds each.
ROUNDS = {
    1: ("runner", "operators", "targets"),
    2: ("nats", "input", "targets"),
    3: ("store", "code", "clock", "targets"),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", ROUNDS)
def test_no_invariant_is_violated_whatever_fails_meanwhile(tmp_path: Path, seed: int) -> None:
    known = faults.discover()
    plan = Plan(seed, [known[name] for name in ROUNDS[seed]], messages=600, faults=4, burst=1000)
    verdict = play(plan, tmp_path / "round")
    assert not verdict.violations, (verdict.violations, (verdict.folder / "round.log").read_text())
    assert verdict.tally["entries of the log"] > 300
    for name in ROUNDS[seed]:
        if known[name].faults:
            assert verdict.tally[f"faults of group {name}"]


def test_every_group_of_faults_is_in_one_of_these_rounds() -> None:
    assert {name for names in ROUNDS.values() for name in names} == set(faults.discover())


def test_a_seed_draws_the_same_faults_again_and_every_group_has_its_turn() -> None:
    groups = list(faults.discover().values())
    plan = Plan(7, groups, faults=12)
    assert drawn(plan) == drawn(plan)
    assert {group.name for group, _ in drawn(plan)} == {group.name for group in groups if group.faults}
    assert drawn(plan) != drawn(plan._replace(seed=8))


@pytest.mark.parametrize("violations", [[], ["no attempt is made twice: k was called 2 times"]])
def test_a_round_that_fails_says_how_to_run_it_again_and_keeps_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, violations: list[str]
) -> None:
    def played(plan: Plan, folder: Path) -> Verdict:
        folder.mkdir()
        return Verdict(plan, folder, violations, Counter({"events": 3}))

    monkeypatch.setattr(verify, "play", played)
    code = main(["--seed", "7", "--faults", "nats,code", "--messages", "9", "--folder", str(tmp_path)])
    said = capsys.readouterr().out
    kept = list(tmp_path.glob("seed-7-*/round"))
    again = "again: python -m tests.verify --seed 7 --minutes 0 --faults nats,code --messages 9 --number 10"
    if violations:
        assert (code, [str(folder) in said for folder in kept]) == (1, [True])
        assert violations[0] in said
        assert again in said
    else:
        assert (code, kept) == (0, [])
        assert "3 events" in said
        assert "again" not in said


def test_what_there_is_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    for words in ("nats: ", "kill between a call and its event", "disk full", "no attempt is made twice"):
        assert words in listed
    with pytest.raises(SystemExit):
        main(["--faults", "weather"])
    assert "weather: there are clock, code," in capsys.readouterr().err
