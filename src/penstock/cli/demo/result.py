"""Result of `penstock demo`: the workers' journals compared with the receipts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Result", "Tally", "tally"]


@dataclass(slots=True)
class Tally:
    """Counts of what was sent, and of what the workers wrote down.

    Attributes:
        sent: Lines that have a receipt.
        handled: Lines handled; a line that was handled twice counts twice.
        distinct: Different lines handled, of those that have a receipt.
        strangers: How often a line without a receipt was handled.
        keys: How many different lines were handled, by key.
    """

    sent: int = 0
    handled: int = 0
    distinct: int = 0
    strangers: int = 0
    keys: Counter[bytes] = field(default_factory=Counter)

    @property
    def lost(self) -> int:
        """Lines that were sent and that no worker handled."""
        return self.sent - self.distinct

    @property
    def duplicates(self) -> int:
        """How often a line was handled again."""
        return self.handled - self.distinct - self.strangers


def tally(receipts: Iterable[bytes], journals: Iterable[Path]) -> Tally:
    """Count the lines of the journals.

    Args:
        receipts: The ids of the lines that were sent.
        journals: The workers' files: an id and a key per line.
    """
    sent = set(receipts)
    unhandled = sent.copy()
    result = Tally(sent=len(sent))
    for path in journals:
        with path.open("rb") as journal:
            for line in journal:
                # The kill may tear the last line. Its message was not acknowledged
                # then, so another worker has handled it.
                if not line.endswith(b"\n"):
                    continue
                id_, _, key = line[:-1].partition(b" ")
                result.handled += 1
                if id_ in unhandled:
                    unhandled.remove(id_)
                    result.distinct += 1
                    result.keys[key] += 1
                elif id_ not in sent:
                    result.strangers += 1
    return result


@dataclass(frozen=True, slots=True)
class Result:
    """Result of a run.

    Attributes:
        tally: The lines sent and handled.
        seconds: From the first line sent to the last one acknowledged.
        killed: How many workers were killed.
        in_hand: How many lines they had read and not acknowledged.
        problems: What went wrong, a sentence each, without what the counts say.
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

    def numbers(self) -> dict[str, float]:
        """Return the numbers of the run by name."""
        tally = self.tally
        rate = tally.distinct / self.seconds if self.seconds else 0.0
        return {
            "sent": tally.sent,
            "handled": tally.handled,
            "distinct": tally.distinct,
            "lost": tally.lost,
            "duplicates": tally.duplicates,
            "seconds": round(self.seconds, 3),
            "messages_per_second": round(rate),
            "keys": len(tally.keys),
            "killed": self.killed,
            "in_hand_when_killed": self.in_hand,
        }

    def top(self) -> list[tuple[str, int]]:
        """Return the ten keys with the most lines, as text."""
        # Equal counts by name, so that the same input gives the same list.
        ranked = sorted(self.tally.keys.items(), key=lambda item: (-item[1], item[0]))
        return [(key.decode("utf-8", "backslashreplace"), n) for key, n in ranked[:10]]

    def to_json(self) -> str:
        """Return the result as one line of JSON."""
        more = {"top": dict(self.top()), "problems": self.complaints}
        return json.dumps({**self.numbers(), **more})
