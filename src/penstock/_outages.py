"""Outages in the log: one line for all connections of this process to a server.

Each consumer and producer reports its own outage. In a process that has many, the log
would have as many lines, all at once.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from penstock import _clock

__all__ = ["Outages"]

Facts: TypeAlias = Mapping[str, Any]

# Seconds after the first report in which others are put into the same line.
_COLLECTING: Final = 0.2
# Seconds after which an outage counts as another one: what had reported the last one
# may have been closed, and then says no more.
_LONGEST: Final = 60.0
# The most streams or groups that a line names.
_MOST: Final = 10
# What tells apart who reports.
_OWNER: Final = ("client", "consumer", "group", "streams")


@dataclass(slots=True)
class _Outage:
    """The outage of a server.

    Attributes:
        began: When it was reported last, by the monotonic clock.
        first: The facts of the first report.
        members: The facts of the reports, by who reported, of those that have not
            reconnected.
        named: Those of all reports.
        logged: Whether it is in the log already.
        over: Whether one of them has reconnected.
    """

    began: float
    first: Facts
    members: dict[object, Facts] = field(default_factory=dict)
    named: dict[object, Facts] = field(default_factory=dict)
    logged: bool = False
    over: bool = False


class Outages:
    """Puts reports about one server into one line of the log.

    Args:
        log: Writes a line: the event's name, and its facts.
    """

    def __init__(self, log: Callable[[str, Facts], None]) -> None:
        self._log = log
        self._outages: dict[object, _Outage] = {}
        # The line is written by a thread of its own, when the time is over.
        self._lock = threading.RLock()
        atexit.register(self.flush)
        # The lines are its parent's, and its lock may be held forever.
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(after_in_child=self._forget)

    def lost(self, facts: Facts) -> None:
        """Take the report that a connection was lost; the line follows shortly."""
        now = _clock.monotonic()
        with self._lock:
            server = facts.get("server")
            outage = self._outages.get(server)
            if outage is None or outage.over or now - outage.began > _LONGEST:
                outage = self._outages[server] = _Outage(now, facts)
                timer = threading.Timer(_COLLECTING, self._write, [outage])
                timer.daemon = True
                timer.start()
            who = _owner(facts)
            outage.members[who] = outage.named[who] = facts

    def reconnected(self, facts: Facts) -> None:
        """Take the report that a connection was made again."""
        with self._lock:
            server, who = facts.get("server"), _owner(facts)
            outage = self._outages.get(server)
            if outage is None or outage.members.pop(who, None) is None:
                self._log("reconnected", facts)
                return
            self._write(outage)
            if not outage.over:
                outage.over = True
                self._log("reconnected", _merged(facts, outage.named, "seconds"))
            if not outage.members and self._outages.get(server) is outage:
                del self._outages[server]

    def flush(self) -> None:
        """Write the lines that are due shortly."""
        with self._lock:
            for outage in self._outages.values():
                self._write(outage)

    def _forget(self) -> None:
        self._lock = threading.RLock()
        self._outages = {}

    def _write(self, outage: _Outage) -> None:
        with self._lock:
            if not outage.logged:
                outage.logged = True
                facts = _merged(outage.first, outage.named, "reason")
                self._log("connection_lost", facts)


def _owner(facts: Facts) -> object:
    return tuple(facts.get(name) for name in _OWNER)


def _merged(facts: Facts, parts: Mapping[object, Facts], last: str) -> Facts:
    """Return the facts of one report as those of all that were made."""
    if len(parts) == 1:
        return facts
    return {
        "server": facts.get("server"),
        "connections": len(parts),
        "streams": _union([each.get("streams", ()) for each in parts.values()]),
        "groups": _union(
            [(each["group"],) for each in parts.values() if "group" in each]
        ),
        last: facts.get(last),
    }


def _union(lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for one in lists for each in one))[:_MOST]
