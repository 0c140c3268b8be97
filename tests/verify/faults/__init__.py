"""The faults: one file a group, found here. A group says how settings differ for it, and what it can do."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from tests.verify.faults.group import Group


def discover() -> dict[str, Group]:
    """Name → group, of every module of this package that has a `GROUP`."""
    modules = (import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    groups = (getattr(module, "GROUP", None) for module in modules)
    return {group.name: group for group in groups if isinstance(group, Group)}
