"""What came of `penstock demo`: the workers' journals against the receipts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["Result", "Tally", "tally"]

_TOP: Final = 10


@dataclass(slots=True)
class Tally:
    """What was sent, and what the workers wrote down.

    Attributes:
        sent: Lines that have a receipt.
        handled: Lines handled, a line twice if it was handled twice.
        distinct: Different lines handled, of those that have a receipt.
        strangers: How often a line was handled that has none.
        keys: How many different lines were handled, by key.
    """

    sent: int = 0
    handled: int = 0
    distinct: int = 0
    strangers: int = 0
    keys: Counter[bytes] = field(default_factory=Counter)

    @property
    def lost(self) -> int:
        """Lines that were sent and that nobody handled."""
        return self.sent - self.distinct

    @property
    def duplicates(self) -> int:
        """How often a line was handled again."""
        return self.handled - self.distinct - self.strangers


def tally(receipts: Iterable[bytes], journals: Iterable[Path]) -> Tally:
    """Count what the journals say.

    Args:
        receipts: The ids of what was sent.
        journals: The workers' files: an id and a key per line.
    """
    times = dict.fromkeys(receipts, 0)
    result = Tally(sent=len(times))
    for path in journals:
        with path.open("rb") as journal:
            for line in journal:
                # The last one may be torn by the kill. Then the message was not
                # acknowledged, so somebody else has handled it.
                if line.endswith(b"\n"):
                    id_, _, key = line[:-1].partition(b" ")
                    _book(result, times, id_, key)
    return result


def _book(result: Tally, times: dict[bytes, int], id_: bytes, key: bytes) -> None:
    result.handled += 1
    before = times.get(id_)
    if before is None:
        result.strangers += 1
        return
    times[id_] = before + 1
    if not before:
        result.distinct += 1
        result.keys[key] += 1


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run.

    Attributes:
        tally: What was sent and handled.
        seconds: From the first line sent to the last one acknowledged.
        killed: How many workers were killed.
        in_hand: How many lines these had taken and not acknowledged.
        problems: What went wrong, a sentence each; those of the counts left out.
    """

    tally: Tally
    seconds: float
    killed: int
    in_hand: int
    problems: tuple[str, ...] = ()

    @property
    def complaints(self) -> list[str]:
        """All that went wrong, a sentence each; empty for a good run."""
        tally = self.tally
        found = list(self.problems)
        if tally.lost:
            found.append(f"{tally.lost} of {tally.sent} lines were lost")
        if tally.strangers:
            found.append(f"{tally.strangers} messages were handled that nobody sent")
        return found

    @property
    def rate(self) -> float:
        """Lines a second."""
        return self.tally.distinct / self.seconds if self.seconds else 0.0

    def top(self) -> list[tuple[str, int]]:
        """Give the ten keys with the most lines, as text."""
        # Equal counts by name, so that the same input gives the same list.
        ranked = sorted(self.tally.keys.items(), key=lambda item: (-item[1], item[0]))
        return [
            (key.decode("utf-8", "backslashreplace"), count)
            for key, count in ranked[:_TOP]
        ]

    def to_json(self) -> str:
        """Give it as one line of JSON."""
        tally = self.tally
        return json.dumps(
            {
                "sent": tally.sent,
                "handled": tally.handled,
                "distinct": tally.distinct,
                "lost": tally.lost,
                "duplicates": tally.duplicates,
                "seconds": round(self.seconds, 3),
                "messages_per_second": round(self.rate),
                "keys": len(tally.keys),
                "top": dict(self.top()),
                "killed": self.killed,
                "in_hand_when_killed": self.in_hand,
                "problems": self.complaints,
            }
        )
