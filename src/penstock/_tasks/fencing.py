"""Fencing of outcomes: what the tasks ask that send them, and what they report.

In a shard that is owned, an outcome counts only under the token under which its entry
was handed out. The defaults are those of a shard that is shared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from penstock._core.ledger.entry import Entry
from penstock._core.protocol.fencing import Fence
from penstock._core.protocol.ownership_replies import Fenced

__all__ = ["SHARED", "Fencing"]


class Fencing(NamedTuple):
    """What outcomes are compared with, and who is told that one was refused.

    Attributes:
        find: Returns what the outcome of an entry is compared with: the token of the
            ownership under which it was handed out, also when that is over. None: the
            shard is shared, and the outcome is compared with nothing.
        on_fenced: Called when the server has refused an outcome, for each entry, with
            the entry and the server's token. The ledger has lost the entry by then.
    """

    find: Callable[[Entry], Fence | None]
    on_fenced: Callable[[Entry, Fenced], None]


SHARED: Final = Fencing(lambda _: None, lambda *_: None)
"""The fencing of shards that consumers share."""
