"""Context variables: a check whether a handler has left something in its task's."""

from __future__ import annotations

from contextvars import Context, copy_context
from gc import get_referents
from operator import is_
from typing import Any

__all__ = ["Snapshot"]


class Snapshot:
    """The context variables of a task at one moment.

    Values are compared by identity. Equal values may be two lists, of which the next
    handler must not get the wrong one, and a comparison may raise (numpy's arrays do).

    Attributes:
        filled: Whether any variable is set. If none is, `copy_context()` is true as
            soon as one is set, and `changed` need not be called.
    """

    __slots__ = ("_keys", "_table", "_values", "filled")

    def __init__(self) -> None:
        context = copy_context()
        self.filled = bool(context)
        self._table = _table(context)
        self._keys = list(context)
        self._values = list(context.values())

    def changed(self) -> bool:
        """Return whether the running task's variables differ from the snapshot."""
        context = copy_context()
        # Contexts share an immutable table until a variable is set, so the table is
        # usually the same. It need not be: setting a variable and resetting it makes
        # another table of the same values.
        table = _table(context)
        if table is self._table and table is not None:
            return False
        if len(context) != len(self._keys):
            return True
        same = all(map(is_, context, self._keys)) and all(
            map(is_, context.values(), self._values)
        )
        if same:
            self._table = table
        return not same


def _table(context: Context) -> Any:
    """Return the table that holds a context's variables, None if it can't be found.

    Python has no name for the table, but the garbage collector knows it.
    """
    referents = get_referents(context)
    return referents[-1] if len(referents) == 1 else None
