"""The command line: rounds, a seed each, until the time is up; says what was done, and how to run a failure again."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.verify import faults, invariants
from tests.verify.faults.group import Group
from tests.verify.round import Plan, Verdict, drawn, play


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every invariant held, 1 where one did not."""
    known = faults.discover()
    options = _options(known).parse_args(arguments)
    if options.list:
        _list(known)
        return 0
    groups = [known[name] for name in options.faults]
    until = time.monotonic() + options.minutes * 60
    tally: Counter[str] = Counter()
    seed, failed = options.seed, False
    options.folder.mkdir(parents=True, exist_ok=True)
    while True:
        plan = Plan(seed, groups, options.messages, options.number, options.burst)
        verdict = _round(plan, options.folder, keep=options.keep)
        tally += verdict.tally
        tally["rounds"] += 1
        failed = failed or bool(verdict.violations)
        seed += 1
        if time.monotonic() >= until or (failed and not options.go_on):
            break
    _report(tally)
    return int(failed)


def _round(plan: Plan, base: Path, *, keep: bool) -> Verdict:
    folder = Path(tempfile.mkdtemp(prefix=f"seed-{plan.seed}-", dir=base)) / "round"
    began = time.monotonic()
    verdict = play(plan, folder)
    took = time.monotonic() - began
    counted = verdict.tally
    print(
        f"seed {plan.seed}: {'FAILED' if verdict.violations else 'ok'} in {took:.0f} s,"
        f" {counted['entries of the log']} entries, {counted['events']} events,"
        f" {counted['starts of the runner']} starts",
        flush=True,
    )
    if verdict.violations:
        _tell(verdict)
    elif not keep:
        shutil.rmtree(folder.parent)
    return verdict


def _tell(verdict: Verdict) -> None:
    """What did not hold, how to run it again, and where everything of it is kept."""
    plan = verdict.plan
    for sentence in verdict.violations:
        print(f"  {sentence}")
    print(f"  faults: {', '.join(f'{group.name}: {fault.name}' for group, fault in drawn(plan))}")
    print(f"  kept in {verdict.folder}")
    print(
        f"  again: python -m tests.verify --seed {plan.seed} --minutes 0"
        f" --faults {','.join(group.name for group in plan.groups)}"
        f" --messages {plan.messages} --number {plan.faults} --burst {plan.burst}",
        flush=True,
    )


def _report(tally: Counter[str]) -> None:
    print("\nwhat was done and counted:")
    for name, number in sorted(tally.items()):
        print(f"  {number:>9,}  {name}")
    print(flush=True)


def _list(known: dict[str, Group]) -> None:
    for group in known.values():
        print(f"{group.name}: {group.says}")
        for fault in group.faults:
            print(f"  {fault.name}")
    print("\ninvariants, at every moment:")
    for invariant in invariants.ALWAYS:
        print(f"  {invariants.name_of(invariant)}")
    print("invariants, at rest:")
    for invariant in invariants.AT_REST:
        print(f"  {invariants.name_of(invariant)}")


def _options(known: dict[str, Group]) -> argparse.ArgumentParser:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name}: there are {', '.join(known)}")
        return chosen

    parser = argparse.ArgumentParser(prog="python -m tests.verify", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first round; each further one has the next"
    )
    parser.add_argument("--minutes", type=float, default=0, help="rounds are begun until then; 0: one round")
    parser.add_argument("--faults", type=names, default=list(known), help=f"groups: {','.join(known)}")
    parser.add_argument("--messages", type=int, default=3000, help="new messages a round, besides bursts")
    parser.add_argument("--number", type=int, default=10, help="faults a round")
    parser.add_argument("--burst", type=int, default=10_000, help="messages in a burst")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "leadline-verify")
    parser.add_argument("--keep", action="store_true", help="folders of rounds that went well, too")
    parser.add_argument("--go-on", action="store_true", help="further rounds also after one that failed")
    parser.add_argument("--list", action="store_true", help="say which faults and invariants there are")
    return parser


if __name__ == "__main__":
    sys.exit(main())
