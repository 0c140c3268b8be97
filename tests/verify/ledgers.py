"""What the targets themselves say of the calls that they got: scripted ones, and the servers."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from domain.tokens import decode, derived_id
from tests.verify.servers import OWN

_REFUSED = "refused: "


class Line(NamedTuple):
    """A call that a target has answered, from its ledger."""

    file: str
    key: str
    business_id: str
    lead_id: str
    #: None where a server cannot know it.
    attempt: int | None
    #: By a server: `done` wherever the deed was done, whatever it answered; else what it answered.
    said: str
    outcome: str
    repeated: bool

    @property
    def effect(self) -> bool:
        """Something happened in the outside world; `unknown` is done with its answer lost."""
        return self.said in {"done", "unknown"} and not self.repeated

    @property
    def misconfigured(self) -> bool:
        """Refused for the settings' sake: the attempt is given back."""
        of_slack = self.file.startswith("slack.") and self.said == "404"
        return self.outcome == "Misconfigured" or self.said in {"401", "403", "410"} or of_slack


def read_ledgers(folder: Path) -> list[Line]:
    """Every line of every `*.ledger.jsonl`. A line that a kill cut short was no answer."""
    lines: list[Line] = []
    for file in sorted(folder.glob("*.ledger.jsonl")):
        for raw in file.read_bytes().splitlines():
            try:
                written: dict[str, Any] = json.loads(raw)
            except ValueError:
                continue
            values = (written[name] for name in Line._fields if name != "file")
            lines.append(Line(file.name, *values))
    return lines


def read_servers(folder: Path, started: Iterable[str]) -> list[Line]:
    """What the servers did and refused: each knows a key by the UUID that is derived from it, and names it so itself
    where nobody started it."""
    keys: dict[str, str] = {}
    for key in started:
        keys[derived_id(key)] = key
        # A mail is named after its action, and what corrects it says so.
        if key.endswith("/undo"):
            keys[f"{derived_id(key.removesuffix('/undo'))}.undo"] = key
    lines: list[Line] = []
    for name, own in OWN.items():
        path = folder / f"{name}.jsonl"
        file = f"{name}.jsonl@{own.business}"
        written = path.read_bytes().splitlines() if path.exists() else ()
        lines += [_line(name, file, json.loads(raw), keys) for raw in written]
    return lines


def _line(server: str, file: str, written: dict[str, Any], keys: dict[str, str]) -> Line:
    if server == "mails":
        named = written["Message-ID"].strip("<>").partition("@")[0]
        key = keys.get(named, named)
        business, _, lead_id = written["Subject"].partition("|")
        said = "done" if written["taken"] else written["fault"]
        return _of(file, key, (business, lead_id), said)
    key = keys.get(written["key"], written["key"])
    refused = written["what"].removeprefix(_REFUSED)
    said = "done" if refused == written["what"] else refused
    return _of(file, key, _addressed(key, written["body"]), said, repeated=written["repeated"])


def _of(file: str, key: str, addressed: tuple[str, str], said: str, *, repeated: bool = False) -> Line:
    outcome = "Done" if said == "done" else "refused"
    return Line(file, key, *addressed, None, said, outcome, repeated)


def _addressed(key: str, body: Any) -> tuple[str, str]:
    """For whom the request says that it is; of one that does not say it, whom its key names."""
    said = body.get("data", body) if isinstance(body, dict) else {}
    if "business_id" in said:
        return said["business_id"], said["lead_id"]
    if "blocks" in said:
        _, business, lead_id, _ = html.unescape(said["text"]).split("|", 3)
        return business, lead_id
    business, _, rest = key.partition("/")
    return business, decode(rest.partition("/")[0]) if rest else ""
