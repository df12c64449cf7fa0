"""Blocked clients: who waits for which key, and who is served when it changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simulation.server.keyspace import Value
from simulation.server.resp import NO_ARRAY, Fault, Refusal, Reply

if TYPE_CHECKING:
    from simulation.server.server import Server
    from simulation.server.sessions import Session

__all__ = ["Blocked", "Waiter"]


class Waiter:
    """A command that waits.

    Attributes:
        session: Its client.
        words: The command, to run it again; None if that is not how it is served.
        places: The databases' numbers and the keys that it waits for.
        kind: The type that a key must have to serve it.
        wakes_without_key: Whether it is to be served even by a missing key.
        serve: Returns the reply that a changed key brings, or None. For servers that do
            not run the command again.
        on_timeout: The reply at its timeout, or a function that returns it.
        timer: The timer of its timeout.
    """

    __slots__ = (
        "kind",
        "on_timeout",
        "places",
        "serve",
        "session",
        "timer",
        "wakes_without_key",
        "words",
    )

    def __init__(
        self,
        session: Session,
        words: list[bytes] | None,
        places: list[tuple[int, bytes]],
        kind: type[Any] | None = None,
        *,
        wakes_without_key: bool = False,
        serve: Callable[[bytes], Reply | None] | None = None,
        on_timeout: Callable[[], Reply] | Reply = NO_ARRAY,
    ) -> None:
        self.session = session
        self.words = words
        self.places = places
        self.kind = kind
        self.wakes_without_key = wakes_without_key
        self.serve = serve
        self.on_timeout = on_timeout
        self.timer: Any = None


class Blocked:
    """All blocked clients of a server, the longest waiting first for each key."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._by_place: dict[tuple[int, bytes], dict[Waiter, None]] = {}
        self._ready: dict[tuple[int, bytes], None] = {}

    def keys(self, index: int) -> list[bytes]:
        """Return the keys of a database that somebody waits for."""
        return [key for number, key in self._by_place if number == index]

    def add(self, waiter: Waiter, ms: int, timer: Any = None) -> None:
        """Let a client wait.

        Args:
            waiter: What it waits for.
            ms: Its timeout; 0 for none.
            timer: The timer of a wait that goes on.
        """
        waiter.session.waiter = waiter
        for place in waiter.places:
            self._by_place.setdefault(place, {})[waiter] = None
        waiter.timer = timer
        if timer is None and ms:
            waiter.timer = self._server.after(ms / 1000, lambda: self._expire(waiter))

    def remove(self, waiter: Waiter, *, keep_timer: bool = False) -> None:
        """End a wait, without a reply."""
        waiter.session.waiter = None
        for place in waiter.places:
            waiting = self._by_place.get(place)
            if waiting is not None:
                waiting.pop(waiter, None)
                if not waiting:
                    del self._by_place[place]
        if waiter.timer is not None and not keep_timer:
            waiter.timer.cancel()

    def end(self, waiter: Waiter, reply: Reply) -> None:
        """End a wait with a reply."""
        self.remove(waiter)
        waiter.session.reply(reply)
        self._server.resume(waiter.session)

    def time_out(self, waiter: Waiter) -> None:
        """End a wait as its timeout does."""
        reply = waiter.on_timeout
        self.end(waiter, reply() if callable(reply) else reply)

    def _expire(self, waiter: Waiter) -> None:
        # The wait may have been replaced by one that goes on with the same timer.
        current = waiter.session.waiter
        if current is not None and current.timer is waiter.timer:
            self.time_out(current)

    def ready(self, index: int, key: bytes) -> None:
        """Record that a key has changed so that it may serve those who wait for it."""
        if (index, key) in self._by_place:
            self._ready[index, key] = None

    def serve(self) -> None:
        """Serve those whose keys have changed, until nothing changes any more."""
        while self._ready:
            places, self._ready = list(self._ready), {}
            for place in places:
                for waiter in list(self._by_place.get(place, ())):
                    self._serve(waiter, *place)

    def _serve(self, waiter: Waiter, index: int, key: bytes) -> None:
        value = self._server.database(index).find(key)
        if self._server.version.reruns_blocked:
            if waiter.wakes_without_key or type(value) is waiter.kind:
                self._rerun(waiter)
            return
        try:
            reply = self._reply_of(waiter, key, value)
        except Refusal as refusal:
            reply = Fault(refusal.text)
        if reply is not None:
            self.end(waiter, reply)

    def _rerun(self, waiter: Waiter) -> None:
        session = waiter.session
        self.remove(waiter, keep_timer=True)
        assert waiter.words is not None
        session.running_timer = waiter.timer
        session.reruns = True
        try:
            self._server.run_command(session, waiter.words)
        finally:
            session.reruns = False
        if session.waiter is None:
            if waiter.timer is not None:
                waiter.timer.cancel()
            self._server.resume(session)

    def _reply_of(self, waiter: Waiter, key: bytes, value: Value | None) -> Reply:
        if type(value) is waiter.kind:
            return waiter.serve(key) if waiter.serve else None
        if waiter.wakes_without_key and self._server.version.wakes_on_deletion:
            raise Refusal(b"UNBLOCKED the stream key no longer exists")
        return None
