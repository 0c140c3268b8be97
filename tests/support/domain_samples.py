"""Samples and strategies for anything the domain's types can hold, made from the types themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Struct

from domain.events import STORED_NAMES, Event, Place, Recorded

AT = datetime(2026, 11, 2, 8, 0, 0, 123456, tzinfo=UTC)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(-(2**53), 2**53)
INSTANTS = st.datetimes(timezones=st.just(UTC))
JSON: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | INTEGERS | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
_SCALARS: dict[Any, SearchStrategy[Any]] = {
    str: TEXT,
    int: INTEGERS,
    float: NUMBERS,
    bool: st.booleans(),
    datetime: INSTANTS,
    NoneType: st.none(),
    Any: JSON,
}


def sample(kind: Any, name: str = "") -> Any:
    """One value of a type that says its field's name, with nothing left at its default."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        return sample(args[0], name)
    if origin is Literal:
        return args[-1]
    if origin is tuple:
        return (sample(args[0], name),)
    if origin is dict:
        return {f"{name} key": sample(args[1], f"{name} value")}
    if issubclass(kind, Struct) or kind is Place:
        return kind(**{field: sample(hint, field) for field, hint in get_type_hints(kind).items()})
    values = {str: f"the {name}", int: 7, float: 0.25, bool: True, datetime: AT, Any: f"any {name}"}
    return values[kind]


def sample_of(event: type[Event]) -> Recorded:
    """A recorded sample of an event, every field of event and envelope filled."""
    return Recorded(
        stream="lead:acme-foods:lead-1",
        version=3,
        event=sample(event),
        event_id="5f0c5d3e-0000-5000-8000-000000000001",
        at=AT + timedelta(seconds=1),
        cause="in:17",
        correlation="wamid.1",
        trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        place=Place("2026-11-02T08:00:00Z.0", 3, 17),
        position=11,
    )


def any_of(kind: Any) -> SearchStrategy[Any]:
    """Every value that a type can hold."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    origin, args = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        return st.one_of([any_of(arg) for arg in args])
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple:
        return st.lists(any_of(args[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(TEXT, any_of(args[1]), max_size=3)
    return st.fixed_dictionaries({field: any_of(hint) for field, hint in get_type_hints(kind).items()}).map(
        lambda fields: kind(**fields)
    )


def any_recorded() -> SearchStrategy[Recorded]:
    """Any event in any envelope."""
    return st.builds(
        Recorded,
        stream=st.just("lead:acme-foods:lead-1"),
        version=st.integers(1, 1000),
        event=st.one_of([any_of(kind) for kind in STORED_NAMES]),
        event_id=st.uuids().map(str),
        at=INSTANTS,
        cause=TEXT,
        correlation=TEXT,
        trace=TEXT,
        place=st.none() | any_of(Place),
        position=st.integers(0, 2**40),
    )
