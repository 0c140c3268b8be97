"""The options that many commands share, said once."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Rows at most.")]
Business = Annotated[str | None, typer.Option("--business", help="Of this business only.")]
Lead = Annotated[str | None, typer.Option("--lead", help="Of this lead only.")]

By = Annotated[
    str | None, typer.Option("--by", help="Who gives the command; your account's name by default.")
]
Why = Annotated[str, typer.Option("--why", help="The reason; kept with the event.")]
CommandId = Annotated[
    str | None, typer.Option("--command-id", help="Ask again for the outcome of a command given before.")
]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for the outcome.")]

UntilIdle = Annotated[bool, typer.Option("--until-idle", help="End when nothing is left to do.")]
HttpPort = Annotated[
    int | None, typer.Option("--http-port", min=0, max=65535, help="Port of /metrics; 0 takes any free one.")
]
NatsPort = Annotated[
    int | None, typer.Option("--nats-port", min=0, max=65535, help="Port of NATS; 0 takes any free one.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")]
