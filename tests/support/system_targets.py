"""Scripted targets: their settings, and the ledger of what they were asked."""

from __future__ import annotations

import json
from typing import Any

from tests.support.system_leadline import Leadline

LEDGER = "ledger.jsonl"


def target(action: str, *script: str, business: str = "", idempotency: str = "keyed", **more: object) -> str:
    """A `[targets.…]` table; of one business where that is given, and one of several where it has a name."""
    table = f"businesses.{business}.targets.{action}" if business else f"targets.{action}"
    values = {"kind": "scripted", "idempotency": idempotency, "script": script or ("done",), **more}
    head = f"[[{table}]]" if "name" in more else f"[{table}]"
    return f"{head}\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def ledger(house: Leadline, business: str = "") -> list[dict[str, Any]]:
    """The calls that were answered by targets with `ledger=LEDGER`, in order."""
    file = house.folder / LEDGER
    calls = [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []
    return [call for call in calls if business in ("", call["business_id"])]
