"""What a message's values can do to a target: end their own call, before anything is sent, and nobody else's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import target_settings as ts
from actors.targets.templates import MAX_FILLED
from domain.breaker import ended_as
from domain.outcomes import Done, FailedForGood, Misconfigured, Outcome
from domain.ports import Target
from target_wiring import make_target
from tests.support.target_kinds import RIGHT, EmailKind, request_of, undo_of
from tests.support.target_servers import App, Ledger, Reply, SlackChannel, TargetServer

#: What a lead or the AI may well send, and what nobody should.
HOSTILE = {
    "70,000 characters": "x" * 70_000,
    "5,500 emoji": "😀" * 5_500,
    "nothing": "",
    "blanks": " \t ",
    "line breaks": "\r\nHost: evil.example\r\n\r\n",
    "control characters": "\0\x01\x1f\x7f\x85\u2028",
    "half a character": "a\ud800",
    "another host": "@evil.example:99999/?#[]\\",
    "no ASCII": "Grüße, 粉",
    "dots": "..",
}


class Taking:
    """Takes everything, wherever it is sent to."""

    def __init__(self, status: int = 200) -> None:
        self.ledger = Ledger()
        self.status = status

    def serve(self, *_: object) -> Reply:
        return Reply(self.status)


@pytest.fixture
def server() -> Iterator[TargetServer]:
    app: App = Taking()
    with TargetServer(app) as made:
        yield made


def rest(base: str, **changes: Any) -> Target:
    return make_target(ts.Rest(**{"url": f"{base}/orders", "timeout_seconds": 5, **changes}))


def called(target: Any, text: str, **entities: str) -> Outcome:
    asked = request_of(text=text)
    fields = {**asked.fields, "entities": {"sku": text, **entities}}
    outcome: Outcome = target.call(msgspec.structs.replace(asked, fields=fields))
    return outcome


def close(target: Any) -> None:
    target._target._http.close()


@pytest.mark.parametrize("place", ["/orders/${entities.sku}", "/orders?q=${entities.sku}"])
@pytest.mark.parametrize(("text", "length"), [("x" * 70_000, 70_000), ("😀" * 5_500, 66_000)])
def test_a_value_too_long_for_a_url_ends_its_own_call_before_anything_is_sent(
    server: TargetServer, place: str, text: str, length: int
) -> None:
    target = rest(server.url, url=server.url + place)
    whole = len(server.url + place) - len("${entities.sku}") + length
    outcome = called(target, text)
    assert outcome == FailedForGood(
        f"the url would have {whole} bytes with this message's values, at most 8000 are sent:"
        f" ${{entities.sku}} alone has {length}"
    )
    assert ended_as(outcome) == "well", "its breaker counts nothing against the target"
    assert server.requests == []
    assert isinstance(called(target, "flour"), Done), "nobody else's call is touched"
    close(target)


def test_values_too_long_for_the_headers_end_their_own_call_too(server: TargetServer) -> None:
    target = rest(server.url, headers={"X-Note": "${text}", "X-Lead": "${lead_id}"})
    assert called(target, "é" * 4_500) == FailedForGood(
        "the headers would have 9026 bytes with this message's values, at most 8000 are sent:"
        " ${text} alone has 9000"
    )
    assert server.requests == []
    assert isinstance(called(target, "flour"), Done)
    close(target)


def test_the_longest_url_and_headers_are_sent_and_one_byte_more_is_not(server: TargetServer) -> None:
    room = MAX_FILLED - len(f"{server.url}/orders/")
    by_url = rest(server.url, url=f"{server.url}/orders/${{text}}")
    by_header = rest(server.url, headers={"X": "${text}"})
    for target, longest in ((by_url, room), (by_header, MAX_FILLED - 1)):
        assert isinstance(called(target, "x" * longest), Done)
        assert isinstance(called(target, "x" * (longest + 1)), FailedForGood)
        close(target)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "http://localhost:1/" + "x" * 9_000 + "/${text}"},
        {"url": "http://localhost:port/${text}"},
        {"headers": {"X": "x" * 9_000 + "${text}"}},
        {"headers": {"No Name": "${text}"}},
        {"headers": {"X": "a\nb ${text}"}},
    ],
    ids=["own url too long", "port", "own headers too long", "name of a header", "line break in a header"],
)
def test_settings_that_make_no_request_whatever_the_values_are_park_their_actions(
    server: TargetServer, changes: dict[str, Any]
) -> None:
    target = rest(server.url, **changes)
    assert isinstance(called(target, "flour"), Misconfigured)
    close(target)
    assert server.requests == []


def test_an_empty_value_at_a_headers_end_leaves_a_header_that_can_be_sent(server: TargetServer) -> None:
    target = rest(server.url, headers={"X-Sku": "sku ${entities.other}", "X-Text": "${entities.other} end"})
    assert isinstance(called(target, "flour"), Done)
    close(target)
    headers = server.requests[0][2]
    assert (headers["x-sku"], headers["x-text"]) == ("sku", "end")


def test_gone_for_a_url_that_a_value_is_part_of_is_that_values_and_switches_nobody_off() -> None:
    with TargetServer(Taking(410)) as server:
        of_value = rest(server.url, url=f"{server.url}/products/${{entities.sku}}/orders")
        of_business = rest(server.url, url=f"{server.url}/${{business_id}}/orders")
        assert called(of_value, "flour") == FailedForGood(
            "the target answered 410; the url holds this message's values"
        )
        assert called(of_business, "flour") == Misconfigured("the target answered 410", switched_off=True)
        close(of_value)
        close(of_business)


def test_what_the_creates_answer_gave_cannot_park_the_compensations_of_others(server: TargetServer) -> None:
    undo = ts.RestUndo(url=f"{server.url}/orders/${{remote.id}}")
    target = rest(server.url, remote={"id": "id"}, undo=undo)
    for number in ("x" * 70_000, "..", "\ud800"):
        assert isinstance(target.call(undo_of(request_of(), {"id": number})), FailedForGood)
    assert server.requests == []
    assert isinstance(target.call(undo_of(request_of(), {"id": "o-1"})), Done)
    close(target)


@pytest.fixture(scope="module")
def everywhere() -> Iterator[dict[str, Target]]:
    """Each kind with the value in every place that a template has, and servers that take everything."""
    os.environ["TARGET_VALUES_WHSEC"] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    with TargetServer(Taking()) as server, TargetServer(SlackChannel(RIGHT)) as slack:
        os.environ["TARGET_VALUES_SLACK"] = f"{slack.url}/services/{RIGHT}"
        sku, both = "${entities.sku}", {"X": "${text}", "Y": "a ${text} ${entities.none}"}
        slack_url = ts.Secret(env="TARGET_VALUES_SLACK")
        blocks = ({"type": "section", "text": {"type": "mrkdwn", "text": "${text}"}},)
        made: dict[str, Target] = {
            "path": rest(server.url, url=f"{server.url}/a/{sku}.json"),
            "query": rest(server.url, url=f"{server.url}?sku={sku}&b=1#{sku}"),
            "headers": rest(server.url, headers=both),
            "body": rest(server.url, body={"all": "${entities}", "note": "<${text}>"}),
            "webhook": make_target(
                ts.Webhook(url=server.url, secrets=(ts.Secret(env="TARGET_VALUES_WHSEC"),))
            ),
            "slack": make_target(ts.Slack(url=slack_url, text="${text}")),
            "blocks": make_target(ts.Slack(url=slack_url, text=sku, blocks=blocks)),
        }
        yield made
        for target in made.values():
            close(target)
    del os.environ["TARGET_VALUES_WHSEC"], os.environ["TARGET_VALUES_SLACK"]


PLACES = ["path", "query", "headers", "body", "webhook", "slack", "blocks"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_value_parks_a_target_and_none_makes_an_outcome_that_nobody_knows(
    everywhere: dict[str, Target], place: str, text: str
) -> None:
    outcome = called(everywhere[place], text)
    assert isinstance(outcome, Done | FailedForGood)
    assert isinstance(outcome, Done) or outcome.error.encode(), "an error is text that a store takes"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(), max_size=60))
def test_no_text_whatever_parks_a_target(everywhere: dict[str, Target], text: str) -> None:
    for place in PLACES:
        assert isinstance(called(everywhere[place], text), Done | FailedForGood), place


@pytest.fixture
def email(tmp_path: Path) -> Iterator[EmailKind]:
    kind = EmailKind(tmp_path, trustme.CA())
    kind.timeout = 5.0
    yield kind
    kind.close()


def test_no_value_parks_a_mail_server(email: EmailKind) -> None:
    mail = email.settings()
    assert isinstance(mail, ts.Email)
    target = make_target(msgspec.structs.replace(mail, subject="${text}", html="<p>${text}</p>"))
    outcomes = {name: called(target, text) for name, text in HOSTILE.items()}
    refused = {name for name, outcome in outcomes.items() if not isinstance(outcome, Done)}
    assert refused == {"half a character"}
    assert isinstance(outcomes["half a character"], FailedForGood)
    assert len(email.server.mails) == len(HOSTILE) - 1


@pytest.mark.parametrize("fault", ["530_data", "534_data", "535_data", "538_data"])
def test_a_mail_that_is_refused_once_it_was_sent_is_refused_for_what_is_in_it(
    email: EmailKind, fault: str
) -> None:
    email.fault(fault)
    assert isinstance(email.target.call(request_of()), FailedForGood)
    assert isinstance(email.target.call(request_of()), Done)
