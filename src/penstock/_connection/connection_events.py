"""Connection events: what is reported of the connections to one server."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from penstock import _clock
from penstock._connection.request_queue import DEMOTED
from penstock.events import Event, OnEvent

__all__ = ["ConnectionEvents"]


class ConnectionEvents:
    """Reports the outages of a server, once each, and other events of its connections.

    Args:
        server: The server's name.
        owner: Whose connections these are: facts for all events.
        on_event: Called with the events.
    """

    def __init__(
        self, server: str, owner: Mapping[str, object], on_event: OnEvent
    ) -> None:
        self._server = server
        self._owner = owner
        self._on_event = on_event
        # When the present outage began, by the monotonic clock; None without one.
        self._since: float | None = None
        # Whether it began with a demotion of the server. As long as the address leads
        # to a replica, a new connection does not end the outage.
        self._demoted = False
        # Whether refused credentials have been reported.
        self._refusal_reported = False

    def lost(self, reason: str) -> None:
        """Record that a connection, or an attempt at one, failed."""
        self._demoted = self._demoted or reason.startswith(DEMOTED)
        if self._since is None:
            self._since = _clock.monotonic()
            self.report("connection_lost", logging.WARNING, reason=reason)

    def refused(self, reason: str) -> None:
        """Record that the server refused the credentials."""
        if not self._refusal_reported:
            self._refusal_reported = True
            self.report("access_refused", logging.ERROR, reason=reason)

    def connected(self) -> None:
        """Record that a connection was made."""
        self._refusal_reported = False
        if not self._demoted:
            self._end()

    def progress(self) -> None:
        """Record that the server has done some real work."""
        if self._demoted:
            self._demoted = False
            self._end()

    def _end(self) -> None:
        if self._since is not None:
            seconds = round(_clock.monotonic() - self._since, 3)
            self._since = None
            self.report("reconnected", logging.INFO, seconds=seconds)

    def report(self, name: str, level: int, **facts: object) -> None:
        """Report an event."""
        facts = {"server": self._server, **self._owner, **facts}
        self._on_event(Event(name, level, facts))
