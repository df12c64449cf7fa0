"""Events: reports of producers and consumers about what happens in the background.

Each event is a small value with a name, a level and facts: counts, ids, addresses,
never a payload or a password. `on_event=` receives the events; by default they are
logged.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from penstock._outages import Outages
from penstock._tracebacks import frames_of, text_of
from penstock.errors import ConfigurationError

__all__ = ["LOG_ERRORS", "TRACEBACKS", "Event", "OnEvent", "log_event"]

TRACEBACKS: Final = "PENSTOCK_TRACEBACKS"
"""The environment variable that says when tracebacks are logged; see `log_event`."""
LOG_ERRORS: Final = "PENSTOCK_LOG_ERRORS"
"""The environment variable that has the texts of exceptions logged."""

# Facts that are names which users choose; any character may be in them.
_CHOSEN: Final = frozenset(
    {
        *("consumer", "consumers", "dead_letters", "group", "groups"),
        *("stream", "streams", "target"),
    }
)
_LOGGER: Final = logging.getLogger("penstock")
# Log records of one event name a second; failures tend to repeat. A consumer that takes
# over much reports it page by page.
_MOST: Final = 5
_MOST_OF: Final = {"claimed": 1}
_MOST_CLAIMED: Final = 3  # ids that a record names


@dataclass(frozen=True, slots=True)
class Event:
    """An occurrence that an operator may want to know about.

    Attributes:
        name: What happened, for example `connection_lost`.
        level: The severity, as a `logging` level.
        facts: Counts, ids, names, as plain values: numbers, strings, and tuples of
            these. Text from the network is escaped and truncated.
        error: The exception behind the event, if there is one; not in the `repr`, since
            a handler's exception may quote the payload.
    """

    name: str
    level: int = logging.WARNING
    facts: Mapping[str, Any] = field(default_factory=dict)
    # Not in the `repr`: an exception's text may quote the payload.
    error: BaseException | None = field(default=None, repr=False)

    def __str__(self) -> str:
        facts = [f"{name}={_shown(name, fact)}" for name, fact in self.facts.items()]
        return " ".join([self.name, *facts])


def _shown(name: str, fact: object) -> str:
    """Return a fact as text: names that users choose are quoted, escaped and cut."""
    if isinstance(fact, tuple):
        return ",".join(_shown(name, each) for each in fact)
    return f"{fact!a:.200}" if name in _CHOSEN else str(fact)


OnEvent: TypeAlias = Callable[[Event], None]
"""A function that receives events, as `on_event=` takes it."""


class _Pace(logging.Filter):
    """Allows a few log records of one event name a second, and counts the others."""

    def __init__(self) -> None:
        super().__init__()
        # By event name: when its second began, and how many records it had in it.
        self._seconds: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written."""
        name = getattr(record, "event", None)
        if name is None:
            return True
        # Formatters write it behind the message, as they do with `exc_info`.
        record.exc_text = getattr(record, "traceback", None)
        began, number = self._seconds.get(name, (0.0, 0))
        # A wall clock that is set back must not suppress events.
        most = _MOST_OF.get(name, _MOST)
        if not 0 <= record.created - began < 1.0:
            if number > most:
                record.msg += f" left_out={number - most}"
                # Set by `log_event`, for formatters that write fields.
                facts = getattr(record, "facts", {})
                record.__dict__["facts"] = {**facts, "left_out": number - most}
            began, number = record.created, 0
        self._seconds[name] = (began, number + 1)
        return number < most


_LOGGER.addFilter(_Pace())


def log_event(event: Event) -> None:
    """Write an event to the logger `penstock`, one record per event.

    At most five events of one name are written in a second, and one `claimed` with at
    most three ids; the next record after that has `left_out`, the number of those not
    written. If several consumers and producers of this process lose their connections
    to one server, that is one record, `connection_lost`, with the streams and groups of
    all; it is written 0.2 seconds after the first. A hook of your own is called for all
    of them.

    A record has the event's name as `record.event` and its facts as `record.facts`, a
    dictionary, for formatters that write fields.

    The text of a handler's exception is left out, since it may quote the payload; its
    type is among the facts. Penstock's own exceptions have no payload in their texts,
    so the fact `text` has them. After the last attempt of a handler the record has a
    traceback (`record.traceback`): files, lines and functions, without texts and source
    lines.

    Two environment variables change that. `PENSTOCK_TRACEBACKS` is `last`, `always`
    (with each attempt) or `never`. `PENSTOCK_LOG_ERRORS=1` adds the texts of all
    exceptions, which may quote payloads: for machines without secrets.
    """
    if event.name == "connection_lost":
        _outages.lost(event.facts)
    elif event.name == "reconnected":
        _outages.reconnected(event.facts)
    else:
        _write(event)


def _write(event: Event) -> None:
    extra: dict[str, Any] = {"event": event.name}
    facts = dict(event.facts)
    if event.name == "claimed" and "ids" in facts:
        facts["ids"] = facts["ids"][:_MOST_CLAIMED]
    if event.error is not None and "handler" in facts:
        always = os.environ.get(LOG_ERRORS, "") not in {"", "0"}
        if text := text_of(event.error, always=always):
            facts["text"] = text
        when = os.environ.get(TRACEBACKS, "last")
        last = event.level >= logging.ERROR and when != "never"
        if last or when == "always":
            extra["traceback"] = frames_of(event.error, texts=always)
    extra["facts"] = facts
    _LOGGER.log(event.level, "%s", replace(event, facts=facts), extra=extra)


def _write_outage(name: str, facts: Mapping[str, Any]) -> None:
    level = logging.INFO if name == "reconnected" else logging.WARNING
    _write(Event(name, level, facts))


_outages: Final = Outages(_write_outage)


def guarded(on_event: OnEvent) -> OnEvent:
    """Wrap a hook so that its failures are logged, not raised to the reporting task.

    Raises:
        ConfigurationError: The hook is not a function, or it is an async function or a
            generator, to which no event would be delivered.
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
            f"on_event={on_event!r:.60} is invalid: it is called in the event loop "
            f"and not awaited; pass a function that is not async, for example one "
            f"that puts the event into an asyncio.Queue"
        )
    hook: Callable[[Event], object] = on_event
    # Whether the hook has been found to return an awaitable.
    late = False

    def tell(event: Event) -> None:
        nonlocal late
        try:
            result = hook(event)
            if result is None or not inspect.isawaitable(result):
                return
            if inspect.iscoroutine(result):
                result.close()  # so that Python doesn't warn about each of them
            if not late:
                late = True
                _LOGGER.error(
                    "on_event returned an awaitable, which is never awaited; pass a "
                    "function that is not async; events are logged instead"
                )
            log_event(event)
        except Exception as error:  # noqa: BLE001 - reading must go on in any case
            kind = type(error).__name__
            _LOGGER.error("on_event raised %s for %s", kind, event.name)  # noqa: TRY400

    return tell


def printable(text: str | bytes, limit: int = 200) -> str:
    """Return external text made safe for a log record: escaped, and cut at `limit`."""
    # Cut first: escaping 10 MB to show 200 characters would help only an attacker.
    if isinstance(text, bytes):
        text = text[: 4 * limit + 4].decode("utf-8", "backslashreplace")
    clean = text[: limit + 1].encode("unicode_escape").decode("ascii")
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
