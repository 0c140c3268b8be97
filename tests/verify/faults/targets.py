"""Every answer that a target can give; which targets there are, and what they answer, is in the settings."""

from __future__ import annotations

from tests.verify.faults.group import Group

GROUP = Group(
    "targets", "every answer of the targets: failures, throttling, unknown outcomes, hanging, raising"
)
