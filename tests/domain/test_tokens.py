"""Ids as tokens: canonical both ways, and never two ids under one key [H9]."""

from __future__ import annotations

from itertools import product
from uuid import NAMESPACE_DNS, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import tokens
from domain.tokens import NotATokenError

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("lead-1_A", "lead-1_A"),
        ("+49170", "=2B49170"),
        ("a.b", "a=2Eb"),
        ("a=b", "a=3Db"),
        ("wamid.x/+=", "wamid=2Ex=2F=2B=3D"),
        ("é", "=C3=A9"),
        ("😀 ", "=F0=9F=98=80=20"),
        ("lead:a:b", "lead=3Aa=3Ab"),
    ],
)
def test_a_token_escapes_each_unsafe_byte_in_upper_case(value: str, token: str) -> None:
    assert tokens.encode(value) == token
    assert tokens.decode(token) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "a=",
        "=2",
        "=2b",
        "=61",
        "=2D",
        "a b",
        "a.b",
        "a*",
        ">",
        "=C3",
        "=C3=C3",
        "=ED=A0=80",
        "a\n",
        "=2B\n",
        "é",
    ],
)
def test_any_other_spelling_is_no_token(text: str) -> None:
    with pytest.raises(NotATokenError):
        tokens.decode(text)


@given(IDS)
def test_every_id_comes_back_from_its_token(value: str) -> None:
    token = tokens.encode(value)
    assert tokens.decode(token) == value
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-=")


@given(st.text("=ABab019-_.+", max_size=12))
def test_what_decodes_is_what_encode_gives(text: str) -> None:
    try:
        value = tokens.decode(text)
    except NotATokenError:
        return
    assert tokens.encode(value) == text


def test_ids_that_would_run_together_do_not() -> None:
    parts = ("a", "a/b", "b", "a:b", "a=2Fb", "b/c", "1.x")
    keys = {
        f"acme/{tokens.encode(lead)}/{tokens.encode(message)}/0.notify_sales"
        for lead, message in product(parts, parts)
    }
    assert len(keys) == len(parts) ** 2
    assert len({tokens.derived_id(key) for key in keys}) == len(keys)


@given(IDS)
def test_a_stream_id_gives_its_lead_back(lead_id: str) -> None:
    stream = tokens.lead_stream("acme-foods", tokens.encode(lead_id))
    assert stream.count(":") == 2
    assert tokens.lead_of_stream(stream) == ("acme-foods", lead_id)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_derived_id_is_uuid_version_5(key: str) -> None:
    assert tokens.derived_id(key) == str(uuid5(tokens.NAMESPACE, key))


def test_the_name_space_is_derived_itself() -> None:
    assert uuid5(NAMESPACE_DNS, "leadline") == tokens.NAMESPACE


def test_derived_ids_are_the_same_for_ever() -> None:
    assert tokens.derived_id("acme-foods/lead-1/m1/0.create_order") == "b51b3a56-befb-524a-9e55-18b1e5495079"
