"""Unbounded streams: reports the streams that grow without a bound, each one once."""

from __future__ import annotations

import logging
from typing import Final

from penstock.events import Event, OnEvent
from penstock.retention import Retention

__all__ = ["UnboundedStreams"]

# The most streams that are reported. A program with more of them probably has one
# stream per item of something.
_MAX_REPORTED: Final = 10


class UnboundedStreams:
    """Reports streams that are sent to without a retention, each one once.

    Args:
        on_event: Called for the first ten such streams.
        option: The option that would bound them.
    """

    def __init__(self, on_event: OnEvent, option: str = "retention") -> None:
        self._on_event = on_event
        self._hint = (
            f"pass {option}=, run admin.trim, or pass {option}=KEEP_ALL if the stream "
            f"is meant to keep everything"
        )
        self._reported: set[str] = set()

    def check(self, stream: str, kept: Retention | None) -> None:
        """Report a stream, the first time that something is sent without a retention.

        Args:
            stream: The stream.
            kept: How much of it is kept; None if nobody has said.
        """
        if (
            kept is not None
            or stream in self._reported
            or len(self._reported) == _MAX_REPORTED
        ):
            return
        self._reported.add(stream)
        facts = {"stream": stream, "hint": self._hint}
        if len(self._reported) == _MAX_REPORTED:
            facts["more"] = "not reported"
        self._on_event(Event("unbounded_stream", logging.WARNING, facts))
