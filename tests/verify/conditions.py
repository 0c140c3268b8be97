"""A round's settings, drawn from its seed: short waits, small limits, and targets of every class and answer."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable

from tests.verify.faults.group import Group
from tests.verify.servers import OWN
from tests.verify.workload import BUSINESSES, PARKS

ACTIONS = ("create_order", "notify_sales", "create_support_ticket", "flag_for_review")
#: Every answer but "done". After the first of the rare ones no call goes out until the next start; the other costs a
#: worker its time.
ANSWERS = ("fail", "fail_for_good", "throttle", "unknown", "raise", "misconfigured")
RARE_ANSWERS = ("switched_off", "hang")

#: An intent whose plan is long: most of it is undone when its end fails.
LONG_PLAN = "EVERYTHING"
MODULE = "long_plans"
LONG_PLANS = f"""
from domain.intents.handler import IntentHandler, Plan

ACTIONS = {ACTIONS!r}
HANDLERS = [IntentHandler("{LONG_PLAN}", lambda message, band: Plan(ACTIONS, "All of it."))]
"""

_COMMON = """
[retry]
delays_seconds = [0.05, 0.1, 0.15]
retry_after_cap_seconds = 0.3
[breaker]
window_seconds = 5
minimum_calls = 6
failure_rate = 0.6
open_seconds = 0.3
open_cap_seconds = 1
max_wait_seconds = 600
"""


_COURIER = """
[targets.call_courier]
kind = "module"
class = "own_code:Courier"
timeout_seconds = 0.3
workers = 3
"""


def settings(seed: int, groups: Iterable[Group], servers: Iterable[str]) -> str:
    """`leadline.toml`. The same seed and groups give the same; `servers` are the tables of the targets that are
    processes of their own."""
    dice = random.Random(f"{seed}/conditions")
    groups = list(groups)
    own = [group.module for group in groups if group.module]
    modules = [MODULE, *own]
    parts = [f"modules = {json.dumps(modules)}", _tenants(), _COMMON, _limits(dice)]
    faulty = any(group.name == "targets" for group in groups)
    parts += servers
    taken = {(own.action, own.business) for own in OWN.values()}
    actions = (*ACTIONS, "call_courier") if own else ACTIONS
    for action in actions:
        if action == "call_courier" and dice.random() < 0.5:
            parts.append(_COURIER)
            continue
        if action == "call_courier" or dice.random() < 0.75:
            parts.append(_target(dice, action, "", faulty=faulty))
        apart = [b for b in BUSINESSES if dice.random() < 0.25 and (action, b) not in taken]
        parts += [_target(dice, action, business, faulty=faulty) for business in apart]
    return "\n".join(parts)


def well(text: str) -> str:
    """The same settings, in which every scripted target answers well."""
    return re.sub(r"^script = .*$", 'script = ["done"]', text, flags=re.MULTILINE)


def _tenants() -> str:
    tenants: dict[str, list[str]] = {}
    for business, tenant in BUSINESSES.items():
        tenants.setdefault(tenant, []).append(business)
    parks = "\n".join(f'[businesses.{name}]\nafter_dead_letter = "park"' for name in PARKS)
    return parks + "".join(
        f"\n[tenants.{name}]\nbusinesses = {json.dumps(of)}" for name, of in tenants.items()
    )


def _limits(dice: random.Random) -> str:
    """Small, so that a few hundred messages meet every border: sleep, full memory, many commits, many batches."""
    return f"""
[pool]
threads = {dice.choice((1, 1, 2, 3))}
busy_warning_seconds = 1
[leads]
idle_seconds = {dice.choice((0.3, 2, 60))}
max_living = {dice.choice((5, 50, 20_000))}
give_up_seconds = {dice.choice((3, 5))}
restart_delays_seconds = {dice.choice(([0.05, 0.1], [0.5, 0.8]))}
[journal]
max_appends = {dice.choice((5, 50, 1500))}
[intake]
checkpoint_seconds = {dice.choice((0.05, 0.3, 1))}
max_in_hand = {dice.choice((20, 300, 8000))}
pull_batch = {dice.choice((5, 100, 500))}
[projector]
mode = "{dice.choice(("process", "thread"))}"
batch = {dice.choice((20, 500, 8000))}
linger_ms = {dice.choice((5, 50))}
"""


def _target(dice: random.Random, action: str, business: str, *, faulty: bool) -> str:
    """The targets of an action: one, or a second one behind it."""
    table = f"businesses.{business}.targets.{action}" if business else f"targets.{action}"
    names = ("", "second") if dice.random() < 0.3 else ("",)
    return "".join(_one_target(dice, table, action, business, name, faulty=faulty) for name in names)


def _one_target(
    dice: random.Random, table: str, action: str, business: str, name: str, *, faulty: bool
) -> str:
    named = f"{action}.{name}" if name else action
    route = f"{named}@{business}" if business else named
    values = {
        **({"name": name} if name else {}),
        "kind": "scripted",
        "idempotency": dice.choice(("none", "keyed", "once")),
        "script": _script(dice) if faulty else ["done"],
        "repeat": "cycle",
        "timeout_seconds": 0.3,
        "workers": dice.randint(2, 8),
        "delay_ms": dice.choice((0, 1, 5, 20)),
        "ledger": f"{route}.ledger.jsonl",
    }
    return f"[[{table}]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def _script(dice: random.Random) -> list[str]:
    """Mostly done, and of the rest each now and then."""
    length = dice.randint(8, 20)
    answers = ["done"] * length
    for _ in range(dice.randint(1, length // 2)):
        answers[dice.randrange(length)] = dice.choice(ANSWERS)
    if dice.random() < 0.3:
        answers += ["done"] * 20 + [dice.choice(RARE_ANSWERS)]
    return answers
