"""The wire contract against real input, where it lies beside the project."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from domain.errors import Rejected
from domain.events import ActionExecuted, MessageCompleted
from domain.messages import decode_message, message_dedup_id
from domain.tenants import Tenants
from domain.tokens import encode
from tests.support.domain_given import Story
from tests.support.domain_rules import playbook

CORPUS = Path(__file__).parents[2].parent / "shared" / "corpus" / "messages.jsonl"
TENANTS = Tenants.of(
    {
        "acme": ["acme-foods", "acme-deli"],
        "globex": ["globex-bank", "globex-cards"],
        "initech": ["initech-hotels", "initech-air"],
        "umbrella": ["umbrella-shop"],
    }
)

needs_corpus = pytest.mark.skipif(not CORPUS.is_file(), reason=f"no corpus at {CORPUS}")


class _Ids(msgspec.Struct):
    message_id: str
    lead_id: str
    business_id: str


def lines() -> list[bytes]:
    return CORPUS.read_bytes().splitlines()


@needs_corpus
def test_every_message_of_the_corpus_is_taken_and_says_who_it_is() -> None:
    dedup_ids = set()
    for line in lines():
        ids = msgspec.json.decode(line, type=_Ids)
        got = decode_message(line, encode(ids.business_id), encode(ids.lead_id), TENANTS)
        assert (got.message_id, got.lead_id, got.business_id) == (
            ids.message_id,
            ids.lead_id,
            ids.business_id,
        )
        assert got.payload == line.decode()
        dedup_ids.add(message_dedup_id(got.business_id, got.lead_id, got.message_id))
    assert len(dedup_ids) == 6896


@needs_corpus
def test_every_message_of_the_corpus_completes_under_keys_of_its_own() -> None:
    owners: dict[str, str] = {}
    completed = 0
    rules = playbook()
    for line in lines():
        ids = msgspec.json.decode(line, type=_Ids)
        message = decode_message(line, encode(ids.business_id), encode(ids.lead_id), TENANTS)
        story = Story(rules, rebuilds=False)
        story.receive(message)
        completed += len(story.all(MessageCompleted))
        owner = f"{ids.business_id} {ids.lead_id} {ids.message_id}"
        for executed in story.all(ActionExecuted):
            assert owners.setdefault(executed.task.task_id, owner) == owner
    assert completed == len(lines())


@needs_corpus
def test_a_message_of_the_corpus_on_another_leads_subject_is_refused() -> None:
    for line in lines()[:500]:
        ids = msgspec.json.decode(line, type=_Ids)
        with pytest.raises(Rejected, match="disagree"):
            decode_message(line, encode(ids.business_id), encode(ids.lead_id + "x"), TENANTS)
