"""module: what a class of the user's own is made with; the settings name it (`my_company.crm:CrmTarget`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from actors.targets.secret import Secret


class Given(Struct, frozen=True):
    """What the settings give such a class. A call has to end within `timeout` seconds."""

    options: Mapping[str, Any]
    #: Name → secret; `.text()` is asked for at each call, so that a mended one is used.
    secrets: Mapping[str, Secret]
    timeout: float
    connect_timeout: float
