"""What a producer or consumer tells about itself while it runs.

Each event is a small value with a name, a level and facts: counts, ids, addresses,
never a payload or a password. `on_event=` receives them; by default they are logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

__all__ = ["Event", "OnEvent", "log_event"]

_LOGGER: Final = logging.getLogger("penstock")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened and that an operator may want to know.

    Attributes:
        name: What happened, for example `connection_lost`.
        level: How bad it is, as a `logging` level.
        facts: Counts, ids, names. Text from the wire is escaped and cut.
        error: The exception behind it, where there is one.
    """

    name: str
    level: int = logging.WARNING
    facts: Mapping[str, object] = field(default_factory=dict)
    error: BaseException | None = None

    def __str__(self) -> str:
        facts = " ".join(f"{name}={value}" for name, value in self.facts.items())
        return f"{self.name} {facts}" if facts else self.name


OnEvent: TypeAlias = Callable[[Event], None]


def log_event(event: Event) -> None:
    """Write an event to the logger `penstock`, one line an event.

    The exception's own text is left out, since a handler's exception may quote the
    payload; its type is among the facts.
    """
    _LOGGER.log(event.level, "%s", event)


def guarded(on_event: OnEvent) -> OnEvent:
    """Keep a hook's own failure from the task that reports: it is logged instead."""

    def tell(event: Event) -> None:
        try:
            on_event(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, reading goes on
            kind = type(error).__name__
            _LOGGER.error("on_event raised %s for %s", kind, event.name)  # noqa: TRY400

    return tell


def printable(text: str | bytes, limit: int = 200) -> str:
    """Make text from outside fit for a log line: escaped, and cut at `limit`."""
    # Cut first: escaping 10 MB to show 200 characters helps an attacker only.
    if isinstance(text, bytes):
        text = text[: 4 * limit + 4].decode("utf-8", "backslashreplace")
    clean = text[: limit + 1].encode("unicode_escape").decode("ascii")
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
