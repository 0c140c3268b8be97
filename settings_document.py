"""Settings as they are written, made into Structs: read, put together, and checked at every depth.

What is wrong is a `SettingsError` that begins with the setting's key. Which settings there are stands in `settings.py`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from domain.errors import SettingsError
from target_settings import Secret

DEFAULT_FILE = Path("leadline.toml")


def read(file: Path | None) -> dict[str, Any]:
    """The document in a settings file; the default one may be missing."""
    if file is None and not DEFAULT_FILE.exists():
        return {}
    file = file or DEFAULT_FILE
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: not TOML: {error}") from None


def value_of(text: str) -> Any:
    """A variable's value as the file would have it; what is no TOML value is text."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def put(document: dict[str, Any], path: list[str], value: Any, said_by: str) -> None:
    """One value at a path of keys, over what stands there; `said_by` is named where that cannot be."""
    table = document
    for name in path[:-1]:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"{said_by}: {name} is no table of settings")
        table = inner
    table[path[-1]] = value


class _One(list[Any]):
    """A single table where an array of them may stand: a complaint about it needs no number."""


def list_targets(document: dict[str, Any]) -> None:
    """One table of an action's target as an array of one. What is no table is refused later."""
    businesses = document.get("businesses")
    tables = [document, *(businesses.values() if isinstance(businesses, dict) else ())]
    for table in tables:
        targets = table.get("targets") if isinstance(table, dict) else None
        if isinstance(targets, dict):
            targets |= {name: _One([one]) for name, one in targets.items() if not isinstance(one, list)}


def check_keys(document: Any, shape: Any, path: str) -> None:
    """Refuses keys that no setting has, at every depth, and NaN, which no bound stops."""
    if isinstance(document, float) and not isfinite(document):
        raise SettingsError(f"{path[:-1]}: expected a number, got {document}")
    shape = _meant(document, shape, path)
    if isinstance(document, list) and get_origin(shape) is tuple:
        for n, inner in enumerate(document):
            place = path if isinstance(document, _One) else f"{path}{n}."
            if isinstance(inner, dict) or isinstance(document, _One):
                _check_alone(inner, get_args(shape)[0], place)
    elif isinstance(document, dict) and get_origin(shape) is dict:
        for key, inner in document.items():
            _check_alone(inner, get_args(shape)[1], f"{path}{key}.")
    elif isinstance(document, dict) and isinstance(shape, type) and issubclass(shape, Struct):
        _check_table(document, shape, path)


def _check_alone(document: Any, shape: Any, path: str) -> None:
    """Converted for itself too, so that a complaint has its key."""
    check_keys(document, shape, path)
    convert(document, shape, path)


def _check_table(document: dict[str, Any], shape: type[Struct], path: str) -> None:
    hints = get_type_hints(shape)
    known = {f.encode_name: hints[f.name] for f in msgspec.structs.fields(shape)}
    if shape.__struct_config__.tag_field:
        known[shape.__struct_config__.tag_field] = str
    for key, inner in document.items():
        if key not in known:
            raise SettingsError(f"{path}{key}: there is no such setting{did_you_mean(key, known)}")
        check_keys(inner, known[key], f"{path}{key}.")


def _meant(document: Any, shape: Any, path: str) -> Any:
    """Of several shapes the one that the document is meant to have: a table's by its `kind`."""
    if shape in (Secret, Secret | None) and isinstance(document, str):
        raise SettingsError(f'{path[:-1]}: a secret is given as {{ env = "NAME" }} or {{ file = "path" }}')
    if get_origin(shape) not in (Union, UnionType):
        return shape
    tables = [s for s in get_args(shape) if isinstance(s, type) and issubclass(s, Struct)]
    if len(tables) < 2 or not isinstance(document, dict):
        return tables[0] if tables and isinstance(document, dict) else shape
    kinds = {str(table.__struct_config__.tag): table for table in tables}
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        hint = did_you_mean(str(kind), kinds)
        raise SettingsError(f"{path}kind: expected one of {', '.join(kinds)}, got {kind!r}{hint}")
    return kinds[kind]


def did_you_mean(key: str, known: Mapping[str, object]) -> str:
    """The end of a complaint about a name that nothing has."""
    close = get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def convert(document: Any, shape: Any, path: str) -> Any:
    """A document, or what stands in it at `path`, as the shape."""
    try:
        return msgspec.convert(document, shape, dec_hook=_decode)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        key = f"{path}{where.rstrip('`').removeprefix('.')}".rstrip(".")
        raise SettingsError(f"{key}: {what[:1].lower()}{what[1:]}") from None


def _decode(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"expected text, got {value!r}")
