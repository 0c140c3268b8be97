"""The command `leadline`: which commands there are. What each does stands in the module it comes from."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer

from cli import backup, commands, dead_letters, doctor, events, operate, publish, queries, rebuild, status
from cli.demo import demo
from cli.output import say
from cli.shell import Common, DefaultGroup, Shell, settle_streams

app = typer.Typer(
    cls=Shell,
    name="leadline",
    help="Messages of WhatsApp leads: an actor for each lead, a plan for each message, every fact an event.",
    epilog="--data, --nats and --config may stand anywhere on the line. Exit codes: 0 done, 1 failed, 2 wrong use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class _Lead(DefaultGroup):
    default = "show"


@app.callback()
def common(
    ctx: typer.Context,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="The data folder (./data).")
    ] = None,
    nats: Annotated[str | None, typer.Option("--nats", metavar="URL", help="The NATS server.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="The settings file (./leadline.toml).")
    ] = None,
) -> None:
    """Keeps the common options for whichever command comes."""
    ctx.obj = Common(data, nats, config)


def version() -> None:
    """Which Leadline this is."""
    try:
        say(f"leadline {version_of('leadline')}")
    except PackageNotFoundError:  # run from the sources, not installed
        say("leadline, not installed")


RUN, ASK, DO = "Run it", "Ask it", "Act on it"

app.command("up", rich_help_panel=RUN)(operate.up)
app.command("run", rich_help_panel=RUN)(operate.run)
app.command("publish", rich_help_panel=RUN)(publish.publish)
app.command("demo", rich_help_panel=RUN)(demo)
app.command("rebuild", rich_help_panel=RUN)(rebuild.rebuild)
app.command("backup", rich_help_panel=RUN)(backup.backup)
app.command("restore", rich_help_panel=RUN)(backup.restore)
app.command("doctor", rich_help_panel=RUN)(doctor.doctor)
app.command("version", rich_help_panel=RUN)(version)

app.command("status", rich_help_panel=ASK)(status.status)
app.command("tasks", rich_help_panel=ASK)(queries.tasks)
app.command("leads", rich_help_panel=ASK)(queries.leads)
app.command("metrics", rich_help_panel=ASK)(queries.metrics)
app.command("breakers", rich_help_panel=ASK)(queries.breakers)

dlq = typer.Typer(
    cls=DefaultGroup, help="Dead letters: list (the default), show, and what people do to them."
)
dlq.command("list")(queries.dead_letters)
dlq.command("show")(queries.dead_letter)
dlq.command("groups")(dead_letters.dlq_groups)
dlq.command("retry")(dead_letters.dlq_retry)
dlq.command("amend")(dead_letters.dlq_amend)
dlq.command("resolve")(dead_letters.dlq_resolve)
dlq.command("discard")(dead_letters.dlq_discard)
app.add_typer(dlq, name="dlq", rich_help_panel=DO)

lead = typer.Typer(cls=_Lead, help="One lead: show BUSINESS LEAD (the default), resume.")
lead.command("show")(queries.lead)
lead.command("resume")(commands.lead_resume)
app.add_typer(lead, name="lead", rich_help_panel=DO)

event = typer.Typer(
    help="The store's events as they are: show, skip one that stops something.", no_args_is_help=True
)
event.command("show")(events.show)
event.command("skip")(events.skip)
app.add_typer(event, name="events", rich_help_panel=DO)

task = typer.Typer(help="Tasks: start, complete, cancel, reassign.", no_args_is_help=True)
task.command("start")(commands.task_start)
task.command("complete")(commands.task_complete)
task.command("cancel")(commands.task_cancel)
task.command("reassign")(commands.task_reassign)
app.add_typer(task, name="task", rich_help_panel=DO)


def main() -> None:
    """The console script, and `python runner.py`."""
    settle_streams()
    app(prog_name="leadline", args=sys.argv[1:])
