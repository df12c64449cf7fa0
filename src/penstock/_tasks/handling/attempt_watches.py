"""Attempt watches: what has become of attempts, for those who ask after their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.failure_policy import DeadLettered, Disposition

__all__ = ["AttemptWatches", "OnDisposition"]

OnDisposition: TypeAlias = Callable[
    [Disposition | None, BaseException | None, bytes], None
]
"""Called with what becomes of an entry, the exception of its handler, and the id of its
dead letter; these are None, None and empty where they are not known."""

# Seconds after which a watch ends with what is known by then: middleware may have kept
# an exception for itself, or the server has not taken the dead letter.
_PATIENCE: Final = 5.0


class AttemptWatches:
    """The watches of one consumer: each is called once.

    Args:
        letters: Whether dead letters are written, whose ids are waited for.
    """

    def __init__(self, *, letters: bool = True) -> None:
        self._waits_for_letters = letters
        self._watches: dict[Entry, tuple[OnDisposition, asyncio.TimerHandle]] = {}
        # What is known of those whose dead letter is not written yet.
        self._decided: dict[Entry, tuple[Disposition, BaseException | None]] = {}

    def watch(self, entry: Entry, tell: OnDisposition) -> None:
        """Have a function told what becomes of an entry whose handler has ended."""
        loop = asyncio.get_running_loop()
        self._tell(entry)  # an earlier attempt
        expire = partial(self._expire, entry, tell)
        self._watches[entry] = tell, loop.call_later(_PATIENCE, expire)
        if entry.disposition is not None:
            self.decided(entry, entry.disposition, None)

    def decided(
        self,
        entry: Entry,
        disposition: Disposition | None,
        error: BaseException | None,
    ) -> None:
        """Record what becomes of an entry; None if it has no outcome."""
        if entry not in self._watches:
            return
        if not isinstance(disposition, DeadLettered) or not self._waits_for_letters:
            self._tell(entry, disposition, error)
        else:
            self._decided[entry] = disposition, error

    def written(self, entry: Entry, letter: bytes) -> None:
        """Record the id of an entry's dead letter; it is empty if it is not known."""
        if entry in self._decided:
            disposition, error = self._decided.pop(entry)
            self._tell(entry, disposition, error, letter)

    def _expire(self, entry: Entry, tell: OnDisposition) -> None:
        if self._watches.get(entry, (None,))[0] is tell:
            self._tell(entry)

    def _tell(
        self,
        entry: Entry,
        disposition: Disposition | None = None,
        error: BaseException | None = None,
        letter: bytes = b"",
    ) -> None:
        known = self._decided.pop(entry, None)
        found = self._watches.pop(entry, None)
        if found is not None:
            tell, timer = found
            timer.cancel()
            tell(*(known or (disposition, error)), letter)
