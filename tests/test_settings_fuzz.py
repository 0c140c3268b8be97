"""Settings made up at random: taken, or refused in one line that begins with a key; never anything else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import SettingsError
from settings import Settings, load
from target_settings import Target

_KINDS = st.sampled_from([str(kind.__struct_config__.tag) for kind in get_args(Target)])
_TARGET = st.fixed_dictionaries(
    {"kind": _KINDS},
    optional={
        "url": st.just("https://a.example"),
        "secrets": st.just([{"env": "A"}]),
        "host": st.just("a"),
        "sender": st.just("a@b.example"),
        "to": st.just(["a@b.example"]),
        "class": st.text(max_size=5),
    },
)
_WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | _KINDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def _keys(shape: Any, path: str = "") -> Iterator[str]:
    """Every dotted key that a setting can have; of tables with names of one's own, one made-up name."""
    if get_origin(shape) is dict:
        yield f"{path}acme"
        yield from _keys(get_args(shape)[1], f"{path}acme.")
    elif isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        hints = get_type_hints(shape)
        for field in msgspec.structs.fields(shape):
            yield f"{path}{field.encode_name}"
            yield from _keys(hints[field.name], f"{path}{field.encode_name}.")
        if shape.__struct_config__.tag_field:
            yield f"{path}{shape.__struct_config__.tag_field}"
    elif get_origin(shape) in (tuple, Union, UnionType):
        for inner in get_args(shape):
            yield from _keys(inner, path)


KEYS = sorted(_keys(Settings))


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=10), _WILD, min_size=1, max_size=4),
    st.lists(_TARGET, max_size=2),
)
def test_whatever_stands_in_the_settings_is_taken_or_refused_with_a_key(
    document: dict[str, Any], targets: list[dict[str, Any]]
) -> None:
    document = {"targets.notify_sales": targets, **document} if targets else document
    try:
        found = load(Path(os.devnull), env={}, overrides=document)
    except SettingsError as error:
        said = str(error)
        assert said.splitlines() == [said] or any(not str(key).isprintable() for key in _all_keys(document))
        assert ":" in said
    else:
        found.tenants()
        found.breaker.policy()
        found.retry.policy()


def _all_keys(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for key, inner in document.items():
            yield str(key)
            yield from _all_keys(inner)
    elif isinstance(document, list):
        for inner in document:
            yield from _all_keys(inner)
