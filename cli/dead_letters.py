"""What people do to dead letters: retry them, amend, resolve and discard them, and see them by cause."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

import runner
from cli import amendments, causes, options
from cli.ask import conversation
from cli.commands import Make, Saying, Tokens, give, given, shares_options, show, who
from cli.output import note, say, say_error, show_json, show_rows
from cli.queries import views_of
from cli.redrive import Pace, Redrive, Result, described
from cli.shell import FAILED, WrongUseError, is_terminal, settings_of, stdin_bytes
from domain import commands as co
from domain.errors import LeadlineError
from projections.queries import Row, Views
from projections.schema import instant
from settings import Settings

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Dead letters.")]

#: What a retry cannot take, and what can be done instead.
SETTLED_OTHERWISE = {
    "outcome_unknown": "dlq resolve",
    "compensation_failed": "dlq resolve",
    "lead_stopped": "lead resume",
}


class Wanted(msgspec.Struct, frozen=True):
    """Which dead letters are meant, where no ids are given."""

    business: str | None
    lead: str | None
    category: str | None
    error: str | None
    group: str | None
    older: datetime | None
    newer: datetime | None

    def takes(self, row: Row) -> bool:
        """Whether a row has what the database is not asked for."""
        error = row["error_message"].casefold()
        return (
            (self.error is None or self.error.casefold() in error)
            and (self.group is None or self.group == causes.group_key(row))
            and (self.older is None or row["updated_at"] <= instant(self.older))
            and (self.newer is None or row["updated_at"] >= instant(self.newer))
        )


@shares_options
def dlq_retry(
    ctx: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Dead letters.")] = None,
    *,
    business: options.Business = None,
    lead: options.Lead = None,
    category: options.DeadLetterCategory = None,
    error: Annotated[str | None, typer.Option("--error", help="Whose error holds this text.")] = None,
    group: Annotated[str | None, typer.Option("--group", help="Of this cause: see `dlq groups`.")] = None,
    older_than: options.OlderThan = None,
    newer_than: options.NewerThan = None,
    everything: Annotated[bool, typer.Option("--all", help="Every one that is open.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    first: Annotated[
        int,
        typer.Option(
            "--first", min=0, max=options.MANY, help="So many alone; the others only if these all complete."
        ),
    ] = 0,
    rate: Annotated[
        float, typer.Option("--rate", min=0, max=options.MANY, help="A second at most; 0 for no limit.")
    ] = 0.0,
    stop_after: Annotated[
        int,
        typer.Option(
            "--stop-after", min=1, max=options.MANY, help="Send no more after so many went wrong in a row."
        ),
    ] = 3,
    wait: Annotated[
        float,
        typer.Option(
            "--wait", min=0, max=options.LONG, help="Seconds to wait for what is still at work; 0: do not."
        ),
    ] = 60.0,
    saying: Saying,
) -> None:
    """Handle messages again: their compensated actions anew, at the end of their leads' queues.

    By id or by filter. Says first how many, waits, and says what became of each; Ctrl-C stops it.
    """
    now = datetime.now(UTC)
    older, newer = (None if age is None else now - age for age in (older_than, newer_than))
    wanted = Wanted(business, lead, category, error, group, older, newer)
    if saying.command_id and len(ids or ()) != 1:
        raise WrongUseError("--command-id names one command: give one ID with it")
    settings = settings_of(ctx)
    letters, left_out = _chosen(views_of(settings), ids or [], wanted, everything=everything)
    if dry_run:
        _tell_choice(letters, left_out, as_json=saying.as_json)
        return
    _agreed(letters, left_out, yes=yes or len(ids or ()) == 1, by_filter=not ids)
    pace = Pace(first, rate, stop_after, wait, saying.timeout)
    _report(_redriven(settings, letters, pace, saying), left_out, as_json=saying.as_json)


@shares_options
def dlq_amend(
    ctx: typer.Context,
    dead_letter_id: Annotated[str, typer.Argument(metavar="ID")],
    *,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="intent, confidence, entities, text, suggested_response"
        ),
    ] = None,
    payload: Annotated[
        Path | None, typer.Option("--payload", help="A rejected message's whole new body; - for stdin.")
    ] = None,
    saying: Saying,
) -> None:
    """Change what the message says, with a reason (--why); `dlq retry` then handles it so."""
    changed = dict(_change(text) for text in changes or ())
    if payload is not None:
        changed["payload"] = _text_of(payload)
    if not changed:
        raise WrongUseError("nothing is changed: say --set FIELD=VALUE, or --payload FILE")
    if not saying.why.strip():
        raise WrongUseError("say --why: whoever reads the history wants to know why a message was changed")
    settings = settings_of(ctx)
    [(name, outcome)] = given(
        settings,
        [dead_letter_id],
        _addresses(settings),
        saying,
        lambda i, **told: co.AmendDeadLetter(dead_letter_id=i, changes=changed, **told),
    )
    if not outcome.done:
        show([(name, outcome)], saying.as_json)
        return
    changed_fields = amendments.difference(settings, name, outcome.command_id)
    if saying.as_json:
        show_json([{"id": name} | msgspec.to_builtins(outcome) | {"difference": changed_fields}])
    else:
        amendments.tell(name, changed_fields)


@shares_options
def dlq_resolve(
    ctx: typer.Context,
    ids: Ids,
    *,
    outcome: Annotated[
        str | None,
        typer.Option("--as", metavar="done|undone|retry|skip", help="Of a step that needs a person's word."),
    ] = None,
    saying: Saying,
) -> None:
    """Say what becomes of a step whose outcome nobody knows, or that could not be undone.

    done: it happened, the rest follows; undone: nothing of it stands; retry: call it again; skip: go on without it.
    """
    settled = _one_of("--as", outcome, ("done", "undone", "retry", "skip"))
    _to_dead_letters(
        ctx, ids, saying, lambda i, **told: co.ResolveDeadLetter(dead_letter_id=i, outcome=settled, **told)
    )


@shares_options
def dlq_discard(ctx: typer.Context, ids: Ids, *, saying: Saying) -> None:
    """Leave it at that; the message stays dead-lettered."""
    _to_dead_letters(ctx, ids, saying, lambda i, **told: co.DiscardDeadLetter(dead_letter_id=i, **told))


def dlq_groups(
    ctx: typer.Context,
    *,
    business: options.Business = None,
    category: options.DeadLetterCategory = None,
    status: options.DeadLetterStatus = "failed",
    as_json: options.Json = False,
) -> None:
    """Dead letters by cause, the most frequent first: errors alike but for numbers, ids and quoted parts."""
    letters = views_of(settings_of(ctx)).dead_letters(business, category=category, status=status)
    rows = causes.groups(letters)
    columns = ("group", "count", "category", "cause", "businesses", "first_at", "last_at")
    if not as_json:
        rows = [row | {"businesses": ", ".join(row["businesses"])} for row in rows]
    show_rows("causes", rows, columns, as_json=as_json)


def _chosen(
    views: Views, ids: list[str], wanted: Wanted, *, everything: bool
) -> tuple[list[Row], dict[str, int]]:
    """The dead letters that are meant, oldest first, and how many of a filter's are not for a retry, by category."""
    filtered = everything or any(value is not None for value in msgspec.structs.astuple(wanted))
    if ids and filtered:
        raise WrongUseError("give ids or a filter, not both")
    if ids:
        return [_known(views, name) for name in dict.fromkeys(ids)], {}
    if not filtered:
        raise WrongUseError("say which: ids, a filter such as --group or --category, or --all")
    rows = views.dead_letters(wanted.business, wanted.lead, category=wanted.category, status="failed")
    if wanted.group is not None and not any(causes.group_key(row) == wanted.group for row in rows):
        raise LeadlineError(
            f"no open dead letter is of group {wanted.group}; `leadline dlq groups` lists them"
        )
    taken = [row for row in rows if wanted.takes(row)]
    left_out = Counter(row["category"] for row in taken if row["category"] in SETTLED_OTHERWISE)
    return [row for row in taken if row["category"] not in SETTLED_OTHERWISE], dict(left_out)


def _known(views: Views, dead_letter_id: str) -> Row:
    row = views.dead_letter(dead_letter_id)
    if row is None:
        raise LeadlineError(f"there is no dead letter {dead_letter_id}; `leadline dlq` lists them")
    return row


def _tell_choice(letters: list[Row], left_out: dict[str, int], *, as_json: bool) -> None:
    if as_json:
        ids = [row["id"] for row in letters]
        show_json({"selected": len(letters), "left_out": left_out, "ids": ids, "dry_run": True})
        return
    say(_how_many(letters))
    _tell_left_out(left_out)
    show_rows("causes", causes.groups(letters), ("group", "count", "category", "cause"))


def _agreed(letters: list[Row], left_out: dict[str, int], *, yes: bool, by_filter: bool) -> None:
    """Says how many; asks where there is somebody to ask. Raises `WrongUseError` where a filter needs a yes."""
    note(_how_many(letters))
    _tell_left_out(left_out)
    if yes or not letters:
        return
    if is_terminal():
        if not typer.confirm("Go on?", err=True):
            raise LeadlineError("nothing was done")
    elif by_filter:
        raise WrongUseError("nobody can be asked here: say --yes, or --dry-run to see which")


def _how_many(letters: list[Row]) -> str:
    leads = len({(row["business_id"], row["lead_id"]) for row in letters})
    several = f"{len(letters)} dead letters of {leads} lead{'s' if leads > 1 else ''} are to be retried"
    return "1 dead letter is to be retried" if len(letters) == 1 else several


def _tell_left_out(left_out: dict[str, int]) -> None:
    for category, count in sorted(left_out.items()):
        note(f"{count} more are {category}: `leadline {SETTLED_OTHERWISE[category]}` is for them", "yellow")


def _redriven(settings: Settings, letters: list[Row], pace: Pace, saying: Saying) -> Redrive:
    with closing(runner.open_event_log(settings)) as log:
        redrive = Redrive(
            letters,
            views_of(settings),
            log.last_position,
            lambda name: co.RetryDeadLetter(dead_letter_id=name, **who(saying)),
            pace,
        )
        try:
            asyncio.run(_over_nats(settings.nats.url, redrive))
        except KeyboardInterrupt:
            redrive.stopped = redrive.stopped or "interrupted"
        return redrive


async def _over_nats(url: str, redrive: Redrive) -> None:
    if not redrive.results:
        return
    async with conversation(url) as talk:
        await redrive.run(talk)


def _report(redrive: Redrive, left_out: dict[str, int], *, as_json: bool) -> None:
    """What became of each; exit code 1 unless all came out well."""
    results: list[Result] = list(redrive.results.values())
    if as_json:
        show_json(
            {"selected": len(results), "left_out": left_out, "stopped": redrive.stopped, "results": results}
        )
    else:
        for line in described(results):
            note(line, "red" if "still at work" not in line else "yellow")
        counts = redrive.counts()
        words = {"completed": "completed", "failed": "failed again", "refused": "refused"}
        words |= {"at_work": "still at work", "not_tried": "not tried"}
        said = ", ".join(f"{counts[name]} {word}" for name, word in words.items() if counts.get(name))
        say(said or "nothing to do", "green" if redrive.well else "bold red")
    if redrive.stopped:
        say_error(f"stopped: {redrive.stopped}")
    if not redrive.well:
        raise typer.Exit(FAILED)


def _to_dead_letters(ctx: typer.Context, ids: list[str], saying: Saying, make: Make) -> None:
    settings = settings_of(ctx)
    give(settings, ids, _addresses(settings), saying, make)


def _addresses(settings: Settings) -> Callable[[str], Tokens]:
    """Dead letter → the two tokens of the subject that a command about it goes to."""
    views = views_of(settings)

    def tokens_of(dead_letter_id: str) -> Tokens:
        tokens = views.subject_of_dead_letter(dead_letter_id)
        if tokens is None:
            raise LeadlineError(f"there is no dead letter {dead_letter_id}; `leadline dlq` lists them")
        return tokens

    return tokens_of


def _text_of(payload: Path) -> str:
    """A new body. Raises `WrongUseError` for one that is not UTF-8."""
    body = stdin_bytes().read() if str(payload) == "-" else payload.read_bytes()
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise WrongUseError(
            f"--payload {payload}: not UTF-8 at byte {error.start}: give the body as JSON in UTF-8"
        ) from None


def _change(text: str) -> tuple[str, Any]:
    """`confidence=0.9` as field and value; the lead checks it by the wire's own rules."""
    field, equals, value = text.partition("=")
    if not equals:
        raise WrongUseError(f"--set {text}: say FIELD=VALUE")
    if field not in ("confidence", "entities"):
        return field, value
    try:
        return field, msgspec.json.decode(value)
    except msgspec.DecodeError:
        raise WrongUseError(
            f'--set {text}: {field} takes JSON, such as 0.9 or {{"product": "flour"}}'
        ) from None


def _one_of(option: str, value: str | None, known: tuple[str, ...]) -> Any:
    if value is not None and value not in known:
        raise WrongUseError(f"{option} {value}: say {', '.join(known[:-1])} or {known[-1]}")
    return value
