"""The decoder against a second reading of the contract, over messages bent by a seed."""

from __future__ import annotations

from collections import Counter

import pytest

from domain.errors import Rejected
from domain.messages import decode_message
from domain.tenants import Tenants
from tests.support.fuzz_contract import BUSINESSES
from tests.support.fuzz_messages import Made, made_up

TENANTS = Tenants.of({"acme": ["acme-foods", "acme-deli"], "globex": ["globex-bank"]})


def is_taken(made: Made) -> bool:
    """Whether the decoder takes it; what it refuses has a reason that a person can read."""
    kind, business, token = made.entry.subject.split(".", 3)[1:]
    if kind != "in":
        return False
    try:
        message = decode_message(made.entry.body, business, token, TENANTS)
    except Rejected as rejected:
        reason = rejected.reason
    else:
        assert message.tenant_id == BUSINESSES[message.business_id]
        assert message.payload.encode() == made.entry.body
        return True
    assert reason
    assert reason.isprintable()
    return False


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_decoder_and_the_contract_agree_on_every_message(seed: int) -> None:
    verdicts: Counter[bool | None] = Counter()
    for made in made_up(seed, 4000):
        taken = is_taken(made)
        assert made.valid is None or taken is made.valid, (made, taken)
        verdicts[made.valid] += 1
    assert verdicts[True] > 400, verdicts
    assert verdicts[False] > 2000, verdicts
    assert verdicts[None] < 1000, verdicts
