"""What the documents show is what happens."""

from __future__ import annotations

import re
import types

from actors.executors import registry as executors
from domain.events import MessageReceived
from domain.intents import registry as intents
from projections import schema
from tests.support.docs import ROOT, blocks


def florist() -> types.ModuleType:
    module = types.ModuleType("florist")
    exec(compile(blocks("docs/extending.md", "python")[0], "florist.py", "exec"), module.__dict__)
    return module


def test_the_florists_intent_and_action_are_found_and_planned() -> None:
    module = florist()
    handler = intents.discover([module])["DELIVERY_REQUEST"]
    message = MessageReceived(
        message_id="m", key="k", lead_id="l", business_id="b", tenant_id="t",
        intent="DELIVERY_REQUEST", confidence=0.9, payload="{}", entities={"address": "1 Main St"},
    )  # fmt: skip
    assert handler.plan(message, "high").actions == ("book_courier", "notify_sales")
    assert handler.plan(message, "medium").escalate
    known = executors.discover([module])
    assert known["book_courier"].spec.task_type == "courier_booking"
    assert set(handler.plan(message, "high").actions) <= set(known)


def test_every_link_between_the_documents_leads_somewhere() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for document in documents:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_views_have_the_columns_that_their_document_names() -> None:
    text = (ROOT / "docs" / "views.md").read_text(encoding="utf-8")
    named = {
        part.split("`")[0]: set(
            re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.*?) \|", part, re.MULTILINE)))
        )
        for part in text.split("\n## `")[1:]
    }
    assert named == {str(view.name): {str(column.name) for column in view.columns} for view in schema.VIEWS}


def test_every_test_that_the_guarantees_name_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")))
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named
    assert named <= defined, named - defined


def test_every_target_that_readme_names_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {"demo", "test", "check", "bench"} <= named & targets
    assert blocks("README.md", "sh")[0].startswith("make demo ")
    assert "\nmake test " in blocks("README.md", "sh")[0]
