"""A transaction: what a message brings about in Redis, and its acknowledgement, as one.

What it gathers is checked, worded and applied behind it; here is what a user holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

from penstock.codecs import Codec
from penstock.errors import UsageError

__all__ = ["Transaction"]

R = TypeVar("R")

Arg: TypeAlias = str | bytes | int | float


class TransactionSink(Protocol[R]):
    """Gathers what is to be applied, and has it applied."""

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
        shards: int | None,
    ) -> None: ...
    def command(
        self, name: str, args: Sequence[Arg], keys: Iterable[str | bytes] | None
    ) -> None: ...
    async def settle(self) -> None: ...


class Transaction(Generic[R]):
    """What `Message.transaction()` gives: outputs and the acknowledgement in one step.

    Use it with `async with`. What the block gathers is applied when it is left without
    an exception: everything, and the acknowledgement with it, or nothing where the
    message has been acknowledged already. An exception applies nothing and goes on.

    Leaving the block waits for the server, over any number of reconnects. Cancelling
    that leaves open whether it was applied; the message may come again then, and what
    it brings about will still be there once.
    """

    __slots__ = ("_over", "_sink")

    def __init__(self, sink: TransactionSink[R]) -> None:
        self._sink = sink
        # None before the block, False in it, True after it.
        self._over: bool | None = None

    @property
    def applied(self) -> bool | None:
        """Whether the block's outputs were applied by it; after the block.

        True: they were, and the message is acknowledged. False: nothing was, because
        the message had been acknowledged before, for example by another consumer that
        took it over, or because its stream was deleted and recreated. None before the
        end; and after it where a reply was lost on the way: then the message is
        acknowledged, most likely by this very transaction.
        """
        return self._sink.applied

    @property
    def results(self) -> Sequence[Any]:
        """The replies of `send` and `command`, in their order, if it was applied.

        As a script sees them, so whole numbers above 2**53 are rounded here; what is
        stored is exact. Empty where `applied` is not True.
        """
        return self._sink.results

    @property
    def receipts(self) -> Sequence[R]:
        """The receipts of what was sent, in order; empty as `results` is."""
        return self._sink.receipts

    def send(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        codec: Codec[Any] | None = None,
        shards: int | None = None,
    ) -> None:
        """Have a message sent with the rest.

        Args:
            stream: Where to, on the consumer's server.
            payload: What; `bytes` and `str` as they are, anything else as JSON.
            key: What it belongs to; default: nothing.
            headers: Text by name; `msg` and `key` are reserved.
            codec: Encodes the payload in another way.
            shards: Over how many keys the stream is spread, by `KeyHash`; default: it
                is one key.

        Raises:
            ConfigurationError: Stream, key, headers or payload can't be sent, or are
                too much for one transaction.
            UsageError: Outside the block.
        """
        self._check("send()")
        self._sink.send(
            stream, payload, key=key, headers=headers, codec=codec, shards=shards
        )

    def command(
        self, name: str, *args: Arg, keys: Iterable[str | bytes] | None = None
    ) -> None:
        """Have a Redis command run with the rest.

        Args:
            name: The command, for example `HINCRBY`.
            *args: Its arguments; numbers are written out.
            keys: Which keys it uses; needed for commands that Penstock does not know.

        Raises:
            ConfigurationError: The command can't be in a transaction (it would block,
                or belongs to the connection), an argument won't do, or it is too much
                for one transaction.
            UsageError: Outside the block.
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
                "a transaction is used once; take another one: message.transaction()"
            )
        self._over = False
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Apply it, unless the block raised.

        Raises:
            TransactionFailed: The server refused it; nothing was applied.
            TransactionBroken: The server refused a part of it, and what stood before
                is applied. The message goes to the dead letters.
            UsageError: The message was given another outcome in the block.
            ClosedError: The consumer has closed.
        """
        self._over = True
        if error is None:
            await self._sink.settle()

    def __repr__(self) -> str:
        states = {None: "not entered", False: "open", True: "over"}
        return f"<Transaction {states[self._over]}>"
