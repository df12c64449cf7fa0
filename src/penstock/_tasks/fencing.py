"""Fencing of outcomes: what the tasks ask that send them, and what they report.

In a shard that is owned, an outcome counts only under the token under which its entry
was handed out. The defaults are those of a shard that is shared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from penstock._core.ledger.entry import Entry
from penstock._core.protocol.fencing import Ownership
from penstock._core.protocol.ownership_replies import Fenced

__all__ = ["FindOwnership", "OnFenced", "ignore", "shared"]

FindOwnership: TypeAlias = Callable[[Entry], Ownership | None]
"""Returns the ownership under which an entry was handed out, also when that is over.

None: the shard is shared, and an outcome is compared with nothing.
"""

OnFenced: TypeAlias = Callable[[Entry, Fenced], None]
"""Called when the server has refused an outcome, for each entry, with the entry and the
server's token. The ledger has lost the entry by then.
"""


def shared(_: Entry) -> None:
    """Return that an entry's shard is shared."""


def ignore(_entry: Entry, _fenced: Fenced) -> None:
    """Do nothing about an outcome that was refused."""
