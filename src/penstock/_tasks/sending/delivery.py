"""Delivery: runs a producer, from its first connection to its last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import anyio

from penstock import _chance
from penstock._connection.capabilities import require
from penstock._connection.connection import Connection
from penstock._connection.reconnect import Connector, open_connector
from penstock._core.sending.idempotence import IdempotentRuns
from penstock._tasks.lifetime import Lifetime
from penstock._tasks.sending.flusher import Flusher, WriteOptions
from penstock._tasks.sending.sender import Sender
from penstock._tasks.task_scopes import quietly, shielded_until_done, task_group
from penstock.credentials import Credentials
from penstock.events import OnEvent

__all__ = ["Delivery"]

# Seconds in which a connection may be closed cleanly after `close_timeout`.
_CLOSE_GRACE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Delivery:
    """The parts that send the messages of one producer.

    It does not refer to the producer, so that a producer that was dropped while it was
    open is noticed.

    Attributes:
        url: The server.
        credentials: Returns user and password, for each connection.
        sender: Takes messages from callers.
        max_batch: The most messages in one write.
        max_in_flight: The most writes without a reply.
        linger: Seconds for which a batch that is not full waits for more messages.
        resend: Whether messages that were never answered are written again.
        idempotent: Whether messages that are written again are stored only once.
        replicas: Whether some messages must be on replicas.
        durable: Whether some messages must be on a disk.
        open_timeout: Seconds for which connecting is attempted.
        close_timeout: Seconds for which messages are still sent when it is closed.
        on_event: Called with events of what happens in the background.
    """

    url: str | None
    sender: Sender
    max_batch: int
    max_in_flight: int
    linger: float
    resend: bool
    idempotent: bool
    replicas: bool
    durable: bool
    open_timeout: float
    close_timeout: float
    on_event: OnEvent
    credentials: Credentials | None = field(default=None, repr=False)

    @asynccontextmanager
    async def live(self, lifetime: Lifetime[Sender]) -> AsyncIterator[Sender]:
        """Connect, send until the block ends, and close.

        Raises:
            PenstockError: It cannot be opened.
            BaseException: The exception that ended the task that sends, which is a bug.
        """
        sender = self.sender
        sender.reset()
        async with open_connector(
            self.url, self.on_event, self.credentials, client="producer"
        ) as connector:
            sender.server = connector.address.endpoint.place
            connection = await connector.first(self.open_timeout, self._require)
            async with _abort_timer() as set_abort_timer, task_group() as group:
                flusher = self._flusher(connector, connection)
                failures = list[BaseException]()
                group.start_soon(self._flush, flusher, failures, group.cancel_scope)
                sender.open(lifetime.binding)
                try:
                    yield sender
                finally:
                    sender.shut()
                    set_abort_timer(self.close_timeout + _CLOSE_GRACE, connector)

                    async def finish() -> None:
                        await sender.drain()
                        await flusher.delete_notes()

                    try:
                        await shielded_until_done(finish, self.close_timeout)
                    finally:
                        sender.close()
                        flusher.stop()
            # The task may have been cancelled before it could begin.
            flusher.settle()
            for failure in failures:
                raise failure

    async def _flush(
        self,
        flusher: Flusher,
        failures: list[BaseException],
        group: anyio.CancelScope,
    ) -> None:
        with quietly():
            try:
                await flusher.run()
            # SystemExit too, which would stop the event loop if it left a task.
            except BaseException as error:  # noqa: BLE001 - raised by `live`
                failures.append(error)
                group.cancel()

    def _flusher(self, connector: Connector, connection: Connection) -> Flusher:
        name = _chance.token(8).encode()
        runs = IdempotentRuns(name) if self.idempotent else None
        return Flusher(
            connection,
            connector,
            self.sender,
            WriteOptions(
                max_batch=self.max_batch,
                max_in_flight=self.max_in_flight,
                linger=self.linger,
                resend=self.resend,
            ),
            runs=runs,
            on_event=self.on_event,
        )

    async def _require(self, connection: Connection) -> None:
        await require(
            connection,
            scripts=self.idempotent,
            replicas=self.replicas,
            durable=self.durable,
        )


@asynccontextmanager
async def _abort_timer() -> AsyncIterator[Callable[[float, Connector], None]]:
    """Provide a function that schedules an abort of a connector's connections.

    The end of the block cancels the abort.
    """
    timers: list[asyncio.TimerHandle] = []

    def set_abort_timer(seconds: float, connector: Connector) -> None:
        loop = asyncio.get_running_loop()
        timers.append(
            loop.call_later(seconds, connector.abort, "close_timeout has expired")
        )

    try:
        yield set_abort_timer
    finally:
        for timer in timers:
            timer.cancel()
