"""Templates: `${name}` in a setting's text is replaced by what the request says, once, and never read again.

What a lead wrote cannot leave the place it is put in: a body is filled as data before it is encoded, and
each other place brings its own escape (`html.escape`, percent-encoding, a single line).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import msgspec

from actors.targets.guarded import Ended
from domain.outcomes import FailedForGood, Misconfigured
from domain.ports import TargetRequest
from domain.tokens import derived_id

Escape = Callable[[str], str]

UNDO = "/undo"
#: Bytes of a url with values in it, and of all such headers: what servers take (RFC 9110, 4.1).
MAX_FILLED = 8_000
#: Of names whose values are the settings' own.
_OWN = "secret."
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class _Pattern(string.Template):
    """`$name` and `${name.part}`; a part may be any text, since entities are named by others."""

    idpattern = r"[a-z][a-z0-9_]*"
    braceidpattern = r"[a-z][a-z0-9_]*(?:\.[^{}$]+)?"


class Values(dict[str, Any]):
    """What templates are filled from. An entity that the message does not have is empty."""

    def __missing__(self, name: str) -> str:
        if name.startswith("entities."):
            return ""
        raise Ended(Misconfigured(f"a template names ${{{name}}}, which this action does not give"))


class Template:
    """A text with names in it. Raises ValueError for a `$` that begins no name (write `$$`)."""

    def __init__(self, text: str) -> None:
        self._pattern = _Pattern(text)
        if not self._pattern.is_valid():
            raise ValueError(f"{text!r}: a $ that begins no ${{name}} is written $$")
        self.names = frozenset(self._pattern.get_identifiers())
        self._alone = text[2:-1] if len(self.names) == 1 and text == f"${{{min(self.names)}}}" else None

    def fill(self, values: Values, escape: Escape = str) -> str:
        if not self.names:
            return self._pattern.substitute()
        return self._pattern.substitute({name: escape(as_text(values[name])) for name in self.names})

    def fill_but_values(self, values: Values, escape: Escape = str) -> str:
        """What the settings alone say: their own text and their secrets."""
        return self._pattern.substitute(
            {name: escape(as_text(values[name])) if name.startswith(_OWN) else "" for name in self.names}
        )

    def value(self, values: Values, escape: Escape = str) -> Any:
        """The value itself where the text is one name alone (`"${entities}"`), else the text filled."""
        if self._alone is None:
            return self.fill(values, escape)
        value = values[self._alone]
        return escape(value) if isinstance(value, str) else value


class DataTemplate:
    """JSON data with templates for its texts: filled as data, so that no value can end the text it is in."""

    def __init__(self, shape: Any) -> None:
        self._shape = _compiled(shape)
        self.names = frozenset(_names(self._shape))

    def fill(self, values: Values, escape: Escape = str) -> Any:
        return _filled(self._shape, values, escape)


def values_of(request: TargetRequest, secrets: Mapping[str, str] | None = None) -> Values:
    """Every name that a template may use: the request's own, its fields', `remote.…` and `secret.…`."""
    values = Values(request.fields)
    for name, value in request.fields.items():
        if isinstance(value, Mapping):
            values |= {f"{name}.{part}": inner for part, inner in value.items()}
    values |= {f"remote.{name}": value for name, value in request.remote.items()}
    values |= {f"{_OWN}{name}": value for name, value in (secrets or {}).items()}
    values |= {
        "key": request.key,
        "id": derived_id(request.key),
        "action_id": action_id(request),
        "kind": request.kind,
        "business_id": request.business_id,
        "lead_id": request.lead_id,
        "title": request.title,
        "received": request.received.isoformat(),
    }
    return values


def action_id(request: TargetRequest) -> str:
    """UUID of the action's key: what a compensation names as void."""
    return derived_id(request.key.removesuffix(UNDO) if request.undo else request.key)


def of_message(names: Collection[str]) -> frozenset[str]:
    """Those names whose values are not the settings' own."""
    return frozenset(name for name in names if not name.startswith(_OWN))


def fill_within(
    what: str, templates: Mapping[str, Template], values: Values, escape: Escape
) -> dict[str, str]:
    """Every template filled, within `MAX_FILLED` bytes for all of them, names included, where a value is put in.

    Raises `Ended`: as failed for good where the values make them longer, as misconfigured where the settings' own
    text does.
    """
    filled = {name: template.fill(values, escape) for name, template in templates.items()}
    length = _length(filled)
    put_in = of_message(frozenset().union(*(template.names for template in templates.values())))
    if length <= MAX_FILLED or not put_in:
        return filled
    bare = {name: template.fill_but_values(values, escape) for name, template in templates.items()}
    limit = f"at most {MAX_FILLED} are sent"
    if _length(bare) > MAX_FILLED:
        raise Ended(Misconfigured(f"{what} would have {_length(bare)} bytes without any value, {limit}"))
    lengths = {name: len(escape(as_text(values[name])).encode()) for name in sorted(put_in)}
    longest = max(lengths, key=lengths.__getitem__)
    raise Ended(
        FailedForGood(
            f"{what} would have {length} bytes with this message's values, {limit}:"
            f" ${{{longest}}} alone has {lengths[longest]}"
        )
    )


def _length(filled: Mapping[str, str]) -> int:
    return sum(len(name.encode()) + len(text.encode()) for name, text in filled.items())


@contextmanager
def written(what: str) -> Iterator[None]:
    """Around what is made of values before anything is sent: a value that no encoding takes ends the call."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise Ended(FailedForGood(f"{what} cannot be made of this message: {error}")) from None


def url_part(value: str) -> str:
    """A value as one part of a url. An empty one, or dots alone, would make it another url."""
    if not value.strip("."):
        raise Ended(FailedForGood("a value in the url's template is empty, or dots alone"))
    return quote(value, safe="")


def one_line(value: str) -> str:
    """Text for a header: whatever would end its line is a space, and nothing in it is decoded."""
    return _CONTROL.sub(" ", value).replace("=?", "= ?").strip()


def as_text(value: object) -> str:
    """A value inside a text: text as it is, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _compiled(shape: Any) -> Any:
    match shape:
        case str():
            return Template(shape)
        case dict():
            return {str(name): _compiled(inner) for name, inner in shape.items()}
        case list() | tuple():
            return [_compiled(inner) for inner in shape]
    return shape


def _names(shape: Any) -> list[str]:
    match shape:
        case Template():
            return list(shape.names)
        case dict():
            return [name for inner in shape.values() for name in _names(inner)]
        case list():
            return [name for inner in shape for name in _names(inner)]
    return []


def _filled(shape: Any, values: Values, escape: Escape) -> Any:
    match shape:
        case Template():
            return shape.value(values, escape)
        case dict():
            return {name: _filled(inner, values, escape) for name, inner in shape.items()}
        case list():
            return [_filled(inner, values, escape) for inner in shape]
    return shape
