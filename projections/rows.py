"""The rows of one table that a batch of events needs: as they stood, and as the fold leaves them.

No SQL in here: `projections/store.py` loads what is wanted before the fold, and writes what is changed after
it, each row once [H28]. Keys are the primary key's values in the order of the table's columns: a text for
a key of one column, else a tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

from msgspec import Struct
from sqlalchemy import Table

from domain.events import Event, Recorded

R = TypeVar("R", bound=Struct)

#: (lead id, business id) of a lead's stream; two empty texts for the other streams.
Owner: TypeAlias = tuple[str, str]

#: What a view needs for one event: the event itself, whose it is.
Need: TypeAlias = Callable[[Any, Owner], None]
Needs: TypeAlias = Mapping[type[Event], Need]
#: What a view does with one event: the envelope, the event itself, whose it is, when it was as the views keep times.
Folding: TypeAlias = Callable[[Recorded, Any, Owner, str], None]
Folds: TypeAlias = Mapping[type[Event], Folding]


class Rows(Generic[R]):
    """What is known of one table. `row` has the table's columns as fields, in their order."""

    __slots__ = (
        "_needed",
        "_worth",
        "changed",
        "get",
        "kept",
        "known",
        "loaded",
        "removed",
        "row",
        "table",
        "wanted_by",
        "whole",
        "will_need",
    )

    def __init__(
        self,
        table: Table,
        row: type[R],
        *,
        whole: bool = False,
        kept: int = 0,
        worth: Callable[[R], bool] | None = None,
    ) -> None:
        """`worth` says of a changed row whether it stays among the kept ones; without it all do."""
        self._worth = worth
        self.table = table
        self.row = row
        #: A small table is loaded once, and kept from batch to batch.
        self.whole = whole
        self.loaded = False
        #: So many rows stay known from batch to batch, where the same ones come again and again.
        self.kept = kept
        #: None where there is no row, or none that matters.
        self.known: dict[Any, R | None] = {}
        # The containers' own methods: what is called with every event is spared a call each.
        #: The row as it stands; None if there is none.
        self.get: Callable[[Any], R | None] = self.known.get
        self._needed: set[Any] = set()
        #: The fold will ask for the row of this key as it stands.
        self.will_need: Callable[[Any], None] = self._needed.add
        #: Columns → their values, where the batch needs rows by something else than the key.
        self.wanted_by: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        self.changed: dict[Any, R] = {}
        self.removed: dict[Any, None] = {}

    def will_make(self, key: Any) -> None:
        """The fold will put the row whatever stands there: no need to load it for what comes after."""
        if key not in self._needed:
            self.known.setdefault(key, None)

    @property
    def wanted(self) -> set[Any]:
        """Keys of the rows to be loaded."""
        return self._needed.difference(self.known)

    def will_need_by(self, columns: tuple[str, ...], values: tuple[str, ...]) -> None:
        """The fold will ask for all rows that have these values in these columns."""
        self.wanted_by.setdefault(columns, set()).add(values)

    def put(self, key: Any, row: R) -> None:
        """A row that may be new."""
        self.known[key] = self.changed[key] = row
        if self.removed:
            self.removed.pop(key, None)

    def touch(self, key: Any, row: R) -> None:
        """A row that was asked for, and changed in place."""
        self.changed[key] = row

    def remove(self, key: Any) -> None:
        self.known.pop(key, None)
        self.changed.pop(key, None)
        self.removed[key] = None

    def loads(self, rows: Iterable[tuple[Any, R]]) -> None:
        """What the store has found. The first finding counts: nothing is folded yet."""
        self.known.update(rows)

    def done(self) -> None:
        """The batch is written."""
        if not self.whole:
            self._forget_some()
        self._needed.clear()
        self.wanted_by.clear()
        self.changed.clear()
        self.removed.clear()

    def forget(self) -> None:
        """The batch is not written, or somebody else has written: nothing that is known can be trusted."""
        self.done()
        self.known.clear()
        self.loaded = False

    def _forget_some(self) -> None:
        worth, known = self._worth, self.known
        if self.kept and worth is not None:
            for key, row in self.changed.items():
                if not worth(row):
                    known.pop(key, None)
        if len(known) > self.kept:
            known.clear()
