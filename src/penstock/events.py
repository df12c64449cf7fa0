"""What a producer or consumer tells about itself while it runs.

Each event is a small value with a name, a level and facts: counts, ids, addresses,
never a payload or a password. `on_event=` receives them; by default they are logged.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from penstock.errors import ConfigurationError

__all__ = ["Event", "OnEvent", "log_event"]

_LOGGER: Final = logging.getLogger("penstock")
# Lines of one name in a second; what fails fails often.
_MOST: Final = 5


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened and that an operator may want to know.

    Attributes:
        name: What happened, for example `connection_lost`.
        level: How bad it is, as a `logging` level.
        facts: Counts, ids, names. Text from the wire is escaped and cut.
        error: The exception behind it, where there is one; not in the `repr`, since
            that of a handler may quote the payload.
    """

    name: str
    level: int = logging.WARNING
    facts: Mapping[str, object] = field(default_factory=dict)
    # Its text may quote the payload.
    error: BaseException | None = field(default=None, repr=False)

    def __str__(self) -> str:
        facts = " ".join(f"{name}={value}" for name, value in self.facts.items())
        return f"{self.name} {facts}" if facts else self.name


OnEvent: TypeAlias = Callable[[Event], None]


class _Pace(logging.Filter):
    """Lets through a few lines of one name a second, and says how many it did not."""

    def __init__(self) -> None:
        super().__init__()
        # By name: when its second began, and how many there were in it.
        self._seconds: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line is written."""
        name = getattr(record, "event", None)
        if name is None:
            return True
        began, number = self._seconds.get(name, (0.0, 0))
        # A wall clock that is set back must not silence it.
        if not 0 <= record.created - began < 1.0:
            if number > _MOST:
                record.msg += f" left_out={number - _MOST}"
            began, number = record.created, 0
        self._seconds[name] = (began, number + 1)
        return number < _MOST


_LOGGER.addFilter(_Pace())


def log_event(event: Event) -> None:
    """Write an event to the logger `penstock`, one line an event.

    No more than five of one name in a second; the next line after that has
    `left_out=`, how many were not written. A hook of your own is told of all.

    The exception's own text is left out, since a handler's exception may quote the
    payload; its type is among the facts.
    """
    _LOGGER.log(event.level, "%s", event, extra={"event": event.name})


def guarded(on_event: OnEvent) -> OnEvent:
    """Keep a hook's own failure from the task that reports: it is logged instead.

    Raises:
        ConfigurationError: The hook is no function, or an async one or a generator,
            of which no event would arrive.
    """
    called = (on_event, getattr(on_event, "__call__", None))  # noqa: B004
    runs_later = (
        inspect.iscoroutinefunction,
        inspect.isasyncgenfunction,
        inspect.isgeneratorfunction,
    )
    later = any(is_so(each) for is_so in runs_later for each in called)
    if later or not callable(on_event):
        raise ConfigurationError(
            f"on_event={on_event!r:.60} won't do: it is called in the event loop and "
            f"not awaited; give a function that is not async, for example one that "
            f"puts the event into an asyncio.Queue"
        )
    hook: Callable[[Event], object] = on_event
    # Whether it has been found to return what would have to be awaited.
    late = False

    def tell(event: Event) -> None:
        nonlocal late
        try:
            result = hook(event)
            if result is None or not inspect.isawaitable(result):
                return
            if inspect.iscoroutine(result):
                result.close()  # so that Python doesn't warn of each
            if not late:
                late = True
                _LOGGER.error(
                    "on_event returned an awaitable, and nobody awaits it; give a "
                    "function that is not async; events are logged instead"
                )
            log_event(event)
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
