"""Logs as JSON: one object a line, with the facts of events as fields."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

__all__ = ["JsonFormatter"]

# Set by `penstock run` for its workers.
_WORKER: Final = "PENSTOCK_WORKER"
_PLAIN: Final = (str, int, float, bool, type(None))


class JsonFormatter(logging.Formatter):
    """Formats each log record as one JSON object, in one line.

    Fields are only ever added. Each object has `ts` (RFC 3339 in UTC, to the
    millisecond), `level`, `logger`, `message` and `pid`; in a worker of `penstock run`
    also `worker`, its number from 1 on. A record that is made in a span of
    OpenTelemetry has `trace_id` and `span_id`, in hexadecimal, if the program has
    imported `opentelemetry.trace`. A record of an event has `event`, its name, and each
    of its facts under the fact's own name; docs/reference/events.md lists them.
    `traceback` has frames, if the record has any: those of a handler's exception are
    without texts and source lines (see `log_event`), those of other records are as
    Python formats them.

    A fact of the name of one of these fields gets a `_` at its end.

    Example:
        ```python
        import logging

        from penstock.observe.logs import JsonFormatter

        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
        logging.basicConfig(level="INFO", handlers=[handler])
        ```
    """

    def __init__(self) -> None:
        super().__init__()
        worker = os.environ.get(_WORKER, "")
        self._process: dict[str, object] = {"pid": os.getpid()}
        if worker.isascii() and worker.isdecimal():
            self._process["worker"] = int(worker)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line, without a line break."""
        fields: dict[str, object] = {
            "ts": _time_of(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        event = getattr(record, "event", None)
        if event is not None:
            fields["event"] = event
        if traceback := self._traceback(record):
            fields["traceback"] = traceback
        fields |= self._process
        fields |= _span()
        facts: Mapping[str, object] = getattr(record, "facts", {})
        for name, fact in facts.items():
            fields[f"{name}_" if name in fields else name] = _plain(fact)
        return _line(fields)

    def _traceback(self, record: logging.LogRecord) -> str | None:
        frames: str | None = getattr(record, "traceback", None) or record.exc_text
        if frames is None and record.exc_info:
            frames = self.formatException(record.exc_info)
        return frames


def _span() -> Mapping[str, object]:
    """Return the ids of the current span; nothing without one."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
    }


def _time_of(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(fact: object) -> Any:
    if isinstance(fact, _PLAIN):
        return fact
    if isinstance(fact, tuple | list):
        return [_plain(each) for each in fact]
    return str(fact)


def _line(fields: Mapping[str, object]) -> str:
    try:
        return msgspec.json.encode(fields).decode()
    except UnicodeEncodeError:  # a name that is no UTF-8
        return msgspec.json.encode(_encodable(fields)).decode()


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_encodable(each) for each in value]
    if isinstance(value, Mapping):
        return {_encodable(name): _encodable(each) for name, each in value.items()}
    return value
