"""Unbounded streams: reports the streams that a producer lets grow without a bound."""

from __future__ import annotations

import logging
from typing import Final

from penstock._tasks.sending.send_defaults import SendDefaults
from penstock.events import Event, OnEvent
from penstock.outgoing import MessageOptions

__all__ = ["UnboundedStreams"]

# The most streams that are reported. A producer with more of them probably has one
# stream per item of something.
_MAX_REPORTED: Final = 10
_HINT: Final = (
    "pass retention=, run admin.trim, or pass retention=KEEP_ALL if the stream is "
    "meant to keep everything"
)


class UnboundedStreams:
    """Reports streams that are sent to without a retention, each one once.

    Only the first message to a shard is checked, so that the others cost nothing.

    Args:
        on_event: Called for the first ten such streams.
    """

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._reported: set[str] = set()

    def first_message(
        self, stream: str, defaults: SendDefaults, choices: MessageOptions | None
    ) -> None:
        """Check the options of the first message to a shard."""
        kept = (choices or {}).get("retention") or defaults.retention
        if (
            kept is not None
            or stream in self._reported
            or len(self._reported) == _MAX_REPORTED
        ):
            return
        self._reported.add(stream)
        facts = {"stream": f"{stream!a:.80}", "hint": _HINT}
        if len(self._reported) == _MAX_REPORTED:
            facts["more"] = "not reported"
        self._on_event(Event("unbounded_stream", logging.WARNING, facts))
