"""A person's commands over the log, and the wait for what became of each."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import msgspec

from actors import connection, stream
from domain.commands import CommandOutcome, PersonsCommand, encode_command
from domain.errors import LeadlineError
from domain.messages import command_subject


class NoAnswerError(LeadlineError):
    """Nobody has said what became of a command; the text says what that means."""


class Conversation:
    """Commands over one connection, one after the other."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def ask(self, tokens: tuple[str, str], command: PersonsCommand, timeout: float) -> CommandOutcome:
        """Publish `command` to the lead of the two tokens and wait for its outcome. Raises `NoAnswerError`.

        The same `command_id` may be asked again: a lead that knows it answers from its record.
        """
        client, subject = self._client, command_subject(*tokens)
        inbox = client.new_inbox()
        try:
            answers = await client.subscribe(inbox)
        except Exception as error:  # whatever the client raises, nothing was published yet
            raise LeadlineError(
                f"the connection to NATS is lost: {str(error) or type(error).__name__}"
            ) from None
        try:
            body = encode_command(msgspec.structs.replace(command, reply_to=inbox))
            confirmed = await _publish(client, subject, body, {"Nats-Msg-Id": f"cmd/{command.command_id}"})
            if confirmed.get("duplicate"):
                # JetStream has dropped the repeat, and with it our inbox; the lead itself knows a command twice given.
                await _publish(client, subject, body, {})
            answer = await answers.next_msg(timeout)
            return msgspec.json.decode(answer.data, type=CommandOutcome)
        except TimeoutError:
            raise NoAnswerError(
                f"no answer within {timeout:g} s: command {command.command_id} is in the log and will be carried"
                " out when a runner reads it (is one running? see `leadline status`);"
                f" ask for its outcome with --command-id {command.command_id}"
            ) from None
        finally:
            with suppress(Exception):  # of a connection that is lost there is nothing to take back
                await answers.unsubscribe()


@asynccontextmanager
async def conversation(url: str) -> AsyncIterator[Conversation]:
    """A connection for many commands. Raises `LeadlineError` where there is no server."""
    client = await connection.connect(url, name="leadline command", reconnect=False)
    try:
        await stream.ensure(client)
        yield Conversation(client)
    finally:
        await client.close()


def ask(url: str, tokens: tuple[str, str], command: PersonsCommand, timeout: float) -> CommandOutcome:
    """One command over a connection of its own: `Conversation.ask`."""
    return asyncio.run(_ask(url, tokens, command, timeout))


def new_command_id() -> str:
    """An id for a command that was given none."""
    return str(uuid4())


def whoever() -> str:
    """Who gives a command, where they do not say it: the account's name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        return "operator"


async def _ask(url: str, tokens: tuple[str, str], command: PersonsCommand, timeout: float) -> CommandOutcome:
    async with conversation(url) as talk:
        return await talk.ask(tokens, command, timeout)


async def _publish(client: Any, subject: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    """JetStream's confirmation of one publish. Raises `LeadlineError` without one."""
    try:
        answer = await client.request(subject, body, timeout=5, headers=headers or None)
    except Exception as error:  # whatever the client raises, the command is not confirmed
        raise LeadlineError(
            f"NATS did not confirm the command: {str(error) or type(error).__name__}"
        ) from None
    confirmed: dict[str, Any] = msgspec.json.decode(answer.data)
    if "error" in confirmed:
        reason = confirmed["error"].get("description", "no reason given")
        raise LeadlineError(f"JetStream refused the command: {reason}")
    return confirmed
