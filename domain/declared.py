"""What a module of handlers or executors declares, checked: it may be somebody else's code."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import TypeVar

from domain.errors import SettingsError

T = TypeVar("T")


def declared(module: ModuleType, name: str, kind: type[T]) -> Iterator[T]:
    """What stands under a name, and in the list under its plural. Raises `SettingsError` for anything else."""
    several = getattr(module, f"{name}S", ())
    if not isinstance(several, list | tuple):
        raise SettingsError(f"modules: {module.__name__}.{name}S is not a list of {kind.__name__}")
    for one in (getattr(module, name, None), *several):
        if one is None:
            continue
        if not isinstance(one, kind):
            raise SettingsError(f"modules: {module.__name__}.{name} is not an {kind.__name__}")
        yield one
