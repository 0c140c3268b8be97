"""The one place that says how logs look: for people on a terminal, JSON lines otherwise; always on stderr."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import Processor


def configure(*, verbose: bool = False, quiet: bool = False) -> None:
    """For the whole process; called once, by the command that starts something. Quiet says what is critical."""
    level = logging.CRITICAL if quiet else logging.DEBUG if verbose else logging.INFO
    for_people = sys.stderr.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if for_people else "iso", utc=not for_people),
    ]
    # A traceback of rich's would show each frame's variables, secrets among them.
    renderer: list[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if for_people
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _bring_in_the_standard_librarys(shared, renderer, level)


def _bring_in_the_standard_librarys(shared: list[Processor], renderer: list[Processor], level: int) -> None:
    """What libraries log through `logging` (Pykka, nats-py) comes out in the same form."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
