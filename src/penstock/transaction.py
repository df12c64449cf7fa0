"""Transactions: a message's outputs in Redis and its acknowledgement, applied as one.

This module has the class for users. The modules behind it check a transaction's
commands, encode them and apply them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

from penstock.codecs import Codec
from penstock.errors import UsageError
from penstock.retention import Retention

__all__ = ["Transaction"]

R = TypeVar("R")


class AnyEntryId(Protocol):
    """An `EntryId`, whose module is above this one."""

    @property
    def ms(self) -> int: ...
    @property
    def seq(self) -> int: ...
    def __bytes__(self) -> bytes: ...


Arg: TypeAlias = str | bytes | int | float | AnyEntryId


class TransactionSink(Protocol[R]):
    """Collects the commands of a transaction, and has them applied."""

    applied: bool | None
    results: Sequence[Any]
    receipts: Sequence[R]

    def send(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None,
        headers: Mapping[str, str] | None,
        codec: Codec[Any] | None,
        field: str | None,
        shards: int | None,
        retention: Retention | None,
    ) -> None: ...
    def command(
        self, name: str, args: Sequence[Arg], keys: Iterable[str | bytes] | None
    ) -> None: ...
    async def settle(self) -> None: ...
    def discard(self, error: BaseException) -> None: ...


class Transaction(Generic[R]):
    """A message's outputs and its acknowledgement, in one atomic step.

    `Message.transaction()` returns it. Use it with `async with`. When the block is left
    without an exception, everything that it has added is applied together with the
    acknowledgement, or nothing if the message has been acknowledged already. If the
    block raises, nothing is applied and the exception is raised.

    Leaving the block waits for the server, over any number of reconnects. If that is
    cancelled, the transaction may or may not have been applied. The message may be
    redelivered then, and its outputs will still exist only once.
    """

    __slots__ = ("_over", "_sink")

    def __init__(self, sink: TransactionSink[R]) -> None:
        self._sink = sink
        # None before the block, False inside it, True after it.
        self._over: bool | None = None

    @property
    def applied(self) -> bool | None:
        """Whether this transaction was applied; known after the block.

        True: it was applied, and the message is acknowledged. False: nothing was
        applied, because the message had been acknowledged before, for example by
        another consumer that claimed it, because its stream was deleted and recreated,
        or because its shard has another owner by now. None before the end of the block;
        and after it if a reply was lost: then the message is acknowledged, most likely
        by this very transaction, unless its shard has another owner.
        """
        return self._sink.applied

    @property
    def results(self) -> Sequence[Any]:
        """The replies to `send` and `command`, in their order, if it was applied.

        The replies are as a script receives them, so whole numbers above 2**53 are
        rounded here; the stored values are exact. Empty if `applied` is not True.
        """
        return self._sink.results

    @property
    def receipts(self) -> Sequence[R]:
        """The receipts of the messages sent, in order; empty when `results` is."""
        return self._sink.receipts

    def send(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        codec: Codec[Any] | None = None,
        field: str | None = None,
        shards: int | None = None,
        retention: Retention | None = None,
    ) -> None:
        """Add a message to be sent with the transaction.

        Args:
            stream: The stream's name, on the consumer's server.
            payload: The payload; `bytes` and `str` unchanged, anything else as JSON.
            key: The message's key; default: none.
            headers: Text by name; the name of the payload's field and `key` are
                reserved.
            codec: Encodes the payload in another way.
            field: The name of the entry's field that holds the payload; default
                `"msg"`, whatever the consumer's is.
            shards: The number of keys over which the stream is spread, by `KeyHash`;
                default: it is one key.
            retention: How much of the stream is kept: `MaxLen(n)` or `MaxAge(age)`;
                default: everything, and `unbounded_stream` is reported. `KEEP_ALL` says
                that everything is kept on purpose.

        Raises:
            ConfigurationError: Stream, key, headers, payload or retention can't be
                sent, or are too much for one transaction.
            UsageError: It was called outside the block.
        """
        self._check("send()")
        self._sink.send(
            stream,
            payload,
            key=key,
            headers=headers,
            codec=codec,
            field=field,
            shards=shards,
            retention=retention,
        )

    def command(
        self, name: str, *args: Arg, keys: Iterable[str | bytes] | None = None
    ) -> None:
        """Add a Redis command to be run with the transaction.

        Args:
            name: The command, for example `HINCRBY`.
            *args: Its arguments; numbers and entry ids are converted to text, and
                members of an enum of `str` or `int` to their value. A `bool` is
                refused, because programs write it in different ways.
            keys: The keys that it uses; needed for commands that Penstock does not
                know.

        Raises:
            ConfigurationError: The command is not possible in a transaction (it would
                block, or affects the connection), the server would refuse its
                arguments, or it is too much for one transaction.
            UsageError: It was called outside the block.
        """
        self._check("command()")
        self._sink.command(name, args, keys)

    def _check(self, call: str) -> None:
        if self._over is not False:
            raise UsageError(
                f"{call} was called outside the transaction's block; use it inside "
                f"`async with message.transaction() as tx:`"
            )

    async def __aenter__(self) -> Self:
        if self._over is not None:
            raise UsageError(
                "a transaction is used once; create another one: message.transaction()"
            )
        self._over = False
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Apply the transaction, unless the block raised.

        Raises:
            TransactionFailed: The server refused it; nothing was applied.
            TransactionBroken: The server refused a command of it, and the commands
                before that one are applied and could not be undone. The message goes to
                the dead letters.
            UsageError: The message was given another outcome in the block.
            ClosedError: The consumer has closed.
        """
        self._over = True
        if error is None:
            await self._sink.settle()
        else:
            self._sink.discard(error)

    def __repr__(self) -> str:
        states = {None: "not entered", False: "open", True: "over"}
        return f"<Transaction {states[self._over]}>"
