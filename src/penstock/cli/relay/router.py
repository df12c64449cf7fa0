"""The router of `penstock relay`: one handler, which pushes batches."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from penstock import (
    Batch,
    Commit,
    Event,
    Fields,
    Message,
    Prefetch,
    Retry,
    Router,
    _clock,
)
from penstock._core.backoff import ReconnectBackoff
from penstock._core.messages.relay_formats import FORMATS, InexpressibleError, copy
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.handling.batch_relay import Body
from penstock._tasks.unbounded_streams import UnboundedStreams
from penstock.cli.relay.pushing import ExactPusher, Pusher, repeating
from penstock.cli.relay.settings import RelaySettings
from penstock.cli.run.status_pipe import WORKER_VARIABLE
from penstock.events import OnEvent, log_event
from penstock.options import Ownership

__all__ = ["RelayRouter"]

_BATCHES: Final = 10  # that are read ahead
_LOOK: Final = 1.0  # seconds between two looks at a list that is too long
# A consumer that is slower than the stream lets the list shrink a little and fill up
# again, for hours. That is one pause for whoever reads the log.
_SAME_PAUSE: Final = 60.0


class RelayRouter(Router):
    """Moves the messages of a stream.

    Args:
        settings: What is moved where.
        on_event: Called with what happens.

    Attributes:
        paused: Whether it waits for the list to become shorter.
    """

    def __init__(self, settings: RelaySettings, on_event: OnEvent = log_event) -> None:
        super().__init__(
            on_event=on_event,
            # No message is to blame if the server refuses it, or if a process is
            # killed.
            retry=Retry(max_attempts=None),
            ownership=Ownership.AUTO,
            close_timeout=settings.close_timeout,
            # What is pushed and not acknowledged when the process is killed is pushed
            # again.
            commit=Commit() if settings.exact else Commit(interval=0),
            # What a killed process had read comes one by one in the next: it might
            # have been to blame. So no more is read than keeps the pushes going.
            prefetch=Prefetch(max_messages=_BATCHES * settings.batch),
        )
        self._settings = settings
        self._on_event = on_event
        self._format = copy if settings.to_stream else FORMATS[settings.format]
        self._stopping = asyncio.Event()
        self._pusher: Pusher | None = None
        self._unbounded = UnboundedStreams(on_event, "--max-len or --max-age")
        self._refusal = ""
        self._backoff = ReconnectBackoff(cap=5.0)
        self.paused = False
        self._unpaused_at = -_SAME_PAUSE
        labels = (("stream", settings.stream),)
        self._gauges.append(("penstock_relay_paused", labels, lambda: self.paused))
        number = os.environ.get(WORKER_VARIABLE, "1")
        self.handler(
            settings.stream,
            group=settings.group,
            name=f"{settings.name}:{number}",
            payload=Fields,
            # Waiting would make it slower; while it pushes, the next batch comes.
            batch=Batch(settings.batch, linger=0),
        )(self.relay)

    async def run(
        self, url: str | None = None, *, on_ready: Callable[[], object] | None = None
    ) -> None:
        """Relay until `stop`; as `Router.run`."""
        push = lambda: self._settings.push(_clock.wall())  # noqa: E731
        if self._settings.exact:
            self._pusher = ExactPusher(push)
            await super().run(url, on_ready=on_ready)
            return
        target = url if self._settings.to_url is None else self._settings.to_url
        async with repeating(target, push, self._on_event) as self._pusher:
            await super().run(url, on_ready=on_ready)

    def stop(self) -> None:
        """Drain: push no further batch."""
        self._stopping.set()
        super().stop()

    async def relay(self, messages: list[Message[Fields]]) -> None:
        """Push messages, for as long as it takes."""
        assert self._pusher is not None  # noqa: S101 - `run` has set it
        if self._settings.to_stream:
            self._unbounded.check(self._settings.target, self._settings.retention)
        bodies: Sequence[Body] = self._bodies(messages)
        while bodies:
            left, reply = await self._pusher.push(bodies)
            if len(left) < len(bodies):
                self._progress()
            bodies = left
            if reply.full:
                self._pause()
                await self._wait(_LOOK)
            elif reply.failure is not None:
                self._refused(reply.failure)
                await self._wait(self._backoff.failed(0.5))
            if self._stopping.is_set() or not (reply.full or reply.failure):
                break
        for message, _ in bodies:
            # Draining gives them back. The others are delivered again, since the group
            # was recreated.
            message.nack(0)

    def _bodies(self, messages: Sequence[Message[Any]]) -> list[Body]:
        """Return what is pushed; a message that can't be expressed is rejected."""
        bodies: list[Body] = []
        for message in messages:
            fields = [word for pair in message.payload for word in pair]
            try:
                body = self._format(message.stream, bytes(message.id), fields)
            except InexpressibleError as error:
                message.reject(str(error))
            else:
                bodies.append((message, body))
        return bodies

    def _progress(self) -> None:
        self._backoff.progress()
        if self.paused:
            self.paused, self._unpaused_at = False, _clock.monotonic()
        if self._refusal:
            self._refusal = ""
            self._report("relay_resumed", logging.INFO)

    def _pause(self) -> None:
        now = _clock.monotonic()
        if not self.paused and now - self._unpaused_at >= _SAME_PAUSE:
            most = self._settings.max_queue
            self._report("relay_paused", logging.WARNING, max_queue=most)
        self.paused = True

    def _refused(self, reply: ErrorReply) -> None:
        if reply.code != self._refusal:
            self._refusal = reply.code
            self._report("relay_refused", logging.ERROR, reply=reply.text)

    def _report(self, name: str, level: int, **facts: object) -> None:
        settings = self._settings
        whence = {"stream": settings.stream, "group": settings.group}
        facts = {**whence, "target": settings.target, **facts}
        self._on_event(Event(name, level, facts))

    async def _wait(self, seconds: float) -> None:
        """Wait, or until the relay drains."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
