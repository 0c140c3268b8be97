"""rest: a request that creates, and one that undoes, filled from templates.

*keyed* where the settings say that the other side honours the `Idempotency-Key` (or makes its own record
by an id that the template puts in), else *once*.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from actors.targets.answers import refusal, said
from actors.targets.http import Answer, Ask, Http
from actors.targets.secret import Secret
from actors.targets.templates import (
    DataTemplate,
    Template,
    Values,
    fill_within,
    of_message,
    one_line,
    url_part,
    values_of,
    written,
)
from domain.events import Idempotency
from domain.outcomes import Done, FailedForGood, Outcome, Unknown
from domain.ports import TargetRequest
from domain.tokens import derived_id

_GONE = (404, 410)
#: Names in a url that are the same for every message of a business.
_BUSINESS = {"business_id", "kind"}


class AskTemplate(Struct, frozen=True):
    """What is asked for, and how. No body: none is sent."""

    method: str
    url: Template
    headers: Mapping[str, Template]
    body: DataTemplate | None

    @property
    def names(self) -> frozenset[str]:
        """Every name that has to be there."""
        parts = [self.url, *self.headers.values(), *((self.body,) if self.body else ())]
        return frozenset().union(*(part.names for part in parts))


class RestTarget:
    """`remote`: name → where in the create's answer it stands (`data.id`). What `undo` needs must be there."""

    def __init__(
        self,
        http: Http,
        create: AskTemplate,
        undo: AskTemplate | None,
        *,
        remote: Mapping[str, str],
        secrets: Mapping[str, Secret],
        idempotency: Idempotency,
    ) -> None:
        self.idempotency: Idempotency = idempotency
        self._http = http
        self._create = create
        self._undo = undo
        self._remote = remote
        self._secrets = secrets
        self._place_is_the_messages = bool(of_message(create.url.names) - _BUSINESS)
        needed = undo.names if undo else frozenset()
        self._needed = {name for name in remote if f"remote.{name}" in needed}

    def call(self, request: TargetRequest) -> Outcome:
        values = values_of(request, {name: secret.text() for name, secret in self._secrets.items()})
        if request.undo:
            return self._undone(request, values)
        answer = self._http.send(_ask(self._create, request, values))
        if answer.status == 410 and self._place_is_the_messages:
            return FailedForGood(f"{said(answer)}; the url holds this message's values")
        return refusal(answer, keyed=self.idempotency == "keyed") or self._created(answer)

    def _created(self, answer: Answer) -> Outcome:
        """Done with the ids that the answer gives; unknown where it lacks one that the undo would need."""
        found = _ids(answer.body, self._remote) if answer.whole else {}
        missing = sorted(self._needed - found.keys())
        if missing:
            return Unknown(f"the target answered {answer.status}, but its answer has no {', '.join(missing)}")
        return Done(found)

    def _undone(self, request: TargetRequest, values: Values) -> Outcome:
        if self._undo is None:
            return FailedForGood("the settings do not say how this target undoes: it is to be done by hand")
        missing = [name for name in self._needed if f"remote.{name}" not in values]
        if missing:
            return FailedForGood(
                f"nobody knows the target's {', '.join(missing)}: it is to be undone by hand"
            )
        answer = self._http.send(_ask(self._undo, request, values))
        if answer.status in _GONE:
            # What an earlier attempt took away is gone; gone at the first is a wrong url, or somebody's deed.
            what = f"the target answered {answer.status}: it knows nothing that could be undone"
            return Done() if request.attempt > 1 else FailedForGood(what)
        return refusal(answer, keyed=self.idempotency == "keyed") or Done()


def _ask(template: AskTemplate, request: TargetRequest, values: Values) -> Ask:
    """Complete, or `Ended`: whatever a value holds, the url and headers made of it are a request's."""
    body = b""
    with written("a request"):
        url = fill_within("the url", {"": template.url}, values, url_part)[""]
        filled = fill_within("the headers", template.headers, values, one_line)
        if template.body is not None:
            body = msgspec.json.encode(template.body.fill(values))
    # HTTP takes no blank at a header's ends, and an empty value leaves one there.
    headers = {name: text.strip(" \t") for name, text in filled.items()}
    headers["Idempotency-Key"] = derived_id(request.key)
    if template.body is not None:
        headers["Content-Type"] = "application/json"
    return Ask(template.method, url, headers, body)


def _ids(body: bytes, remote: Mapping[str, str]) -> dict[str, str]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    found = {name: _at(document, path) for name, path in remote.items()}
    return {name: value for name, value in found.items() if value}


def _at(document: Any, path: str) -> str:
    """The text or whole number at a path of keys and places, empty where there is none."""
    for part in path.split("."):
        if isinstance(document, dict):
            document = document.get(part)
        elif isinstance(document, list) and part.isdigit() and int(part) < len(document):
            document = document[int(part)]
        else:
            return ""
    if isinstance(document, bool) or not isinstance(document, str | int):
        return ""
    return str(document)
