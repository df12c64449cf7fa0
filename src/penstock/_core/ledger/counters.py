"""Counters of what has happened to a stream's entries since a consumer opened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """What has happened since the consumer opened.

    Attributes:
        received: Entries that were read, those included that recovery has read again.
        acked: Entries whose acknowledgement the server has confirmed.
        left: Times that a handler finished with an entry without an outcome.
        dropped: Entries that were given up and acknowledged.
        late: Outcomes that came when the entry belonged to another consumer.
        undecodable: Entries that could not be decoded as the payload type.
        deleted: Pending entries that were found deleted from the stream.
        claimed: Entries that were claimed from consumers that did not respond.
        lost: Entries that other consumers have claimed from this one.
        retries: Times that an entry was postponed to another attempt, by the name of
            the handler that had it; empty if that isn't known.
        dead_letters: Entries that were copied to the dead letters, by the same name and
            by the cause, see `DeadLettered`.
    """

    received: int = 0
    acked: int = 0
    left: int = 0
    dropped: int = 0
    late: int = 0
    undecodable: int = 0
    deleted: int = 0
    claimed: int = 0
    lost: int = 0
    retries: dict[str, int] = field(default_factory=dict)
    dead_letters: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def retried(self) -> int:
        """Times that an entry was postponed to another attempt."""
        return sum(list(self.retries.values()))

    @property
    def dead(self) -> int:
        """Entries that were copied to the dead letters."""
        return sum(list(self.dead_letters.values()))

    def count_retry(self, handler: str) -> None:
        """Count an entry that was postponed to another attempt."""
        self.retries[handler] = self.retries.get(handler, 0) + 1

    def count_dead_letter(self, handler: str, cause: str) -> None:
        """Count an entry that was copied to the dead letters."""
        key = handler, cause
        self.dead_letters[key] = self.dead_letters.get(key, 0) + 1

    @classmethod
    def total(cls, parts: Iterable[Counters]) -> Counters:
        """Return the sums of several counters."""
        total = cls()
        for part in parts:
            for name in _NUMBERS:
                setattr(total, name, getattr(total, name) + getattr(part, name))
            for handler, number in list(part.retries.items()):
                total.retries[handler] = total.retries.get(handler, 0) + number
            for key, number in list(part.dead_letters.items()):
                total.dead_letters[key] = total.dead_letters.get(key, 0) + number
        return total


_NUMBERS = [each.name for each in fields(Counters) if each.type == "int"]
