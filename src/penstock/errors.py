"""The exceptions that Penstock raises deliberately.

```
PenstockError
├── GaveUp                  a message failed permanently, and the consumer stops
├── UsageError              the caller's mistake: the call can't work like this
│   ├── ConfigurationError  an option, name or URL is wrong (also a ValueError)
│   │   ├── MessageTooLarge  a message is larger than the producer may send
│   │   └── ShardsDiffer    the stream is recorded with other shards
│   ├── ClosedError         the producer or consumer is closed, or not open yet
│   ├── NameInUse           another process owns shards under the consumer's name
│   └── BufferFull          the buffer is full, and the call does not wait
└── ServerError             the server failed or refused, or can't be reached
    ├── ConnectError        no connection could be made
    ├── ConnectionLost      a connection ended before the reply came
    ├── AccessError         credentials or permissions were refused
    ├── CommandError        the server refused a command
    │   └── StreamMissing   the stream does not exist, and `mkstream=False`
    ├── SendFailed          a message was not stored, for certain
    ├── SendUnknown         the reply to a send was lost: it is stored once or not
    ├── NotDurable          a message is stored, on fewer servers or disks than asked
    ├── TransactionFailed   a transaction was refused; nothing was applied
    ├── TransactionBroken   a transaction was refused in its middle
    └── DecodeError         an entry is not of the payload type (also a ValueError)
```

Each error has its facts as attributes and builds its message from them. The message
ends with what to do next. No error contains a password or a payload.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AccessError",
    "BufferFull",
    "ClosedError",
    "CommandError",
    "ConfigurationError",
    "ConnectError",
    "ConnectionLost",
    "DecodeError",
    "GaveUp",
    "MessageTooLarge",
    "NameInUse",
    "NotDurable",
    "PenstockError",
    "SendFailed",
    "SendUnknown",
    "ServerError",
    "ShardsDiffer",
    "StreamMissing",
    "TransactionBroken",
    "TransactionFailed",
    "UsageError",
]


class PenstockError(Exception):
    """The base class of all exceptions that Penstock raises deliberately."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The constructors take facts, while `args` holds the message built from them.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    kind: type[PenstockError], args: tuple[Any, ...], facts: dict[str, Any]
) -> PenstockError:
    """Restore a copied or unpickled error."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


class UsageError(PenstockError):
    """A mistake of the caller: the call can't work like this; nothing was lost."""


class ConfigurationError(UsageError, ValueError):
    """An option, a name or a URL is wrong; raised on construction or on opening."""


class MessageTooLarge(ConfigurationError):  # noqa: N818 - the name says it
    """A message is larger than `max_message_bytes`; nothing of it was sent.

    Attributes:
        size: The bytes of its payload, key and headers.
        limit: How many bytes are allowed.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"a message of {size} bytes is larger than max_message_bytes={limit}; "
            f"send less, for example a reference to the data, or raise the limit of "
            f"the producer and of its consumers"
        )


class ShardsDiffer(ConfigurationError):  # noqa: N818 - a state more than an error
    """A producer spreads a stream in another way than the stream's record says.

    Nothing was sent. If both ways were used, messages of one key would be in several
    shards, and consumers would not read all of them.

    Attributes:
        stream: The stream's name.
        number: The producer's number of shards; None if its sharder does not tell it.
        sharder: The name of the producer's sharder.
        recorded_number: The number of shards in the record; None if that is open.
        recorded_sharder: The name of the sharder in the record.
    """

    def __init__(
        self,
        stream: str,
        *,
        number: int | None,
        sharder: str,
        recorded_number: int | None,
        recorded_sharder: str,
    ) -> None:
        self.stream = stream
        self.number = number
        self.sharder = sharder
        self.recorded_number = recorded_number
        self.recorded_sharder = recorded_sharder
        mine, theirs = (
            _spread(number, sharder),
            _spread(recorded_number, recorded_sharder),
        )
        grow = ""
        if (
            number is not None
            and recorded_number is not None
            and number > recorded_number
        ):
            grow = f", or grow it with admin.set_shards({stream!r:.80}, {number})"
        super().__init__(
            f"stream {stream!r:.80} is recorded with {theirs}, and this producer has "
            f"{mine}; use what is recorded{grow}"
        )


def _spread(number: int | None, sharder: str) -> str:
    how_many = "an unknown number of shards" if number is None else f"{number} shards"
    how_many = "1 shard" if number == 1 else how_many
    return f"{how_many} by {sharder:.80}" if sharder else how_many


class ClosedError(UsageError):
    """The producer, consumer, router or admin is closed, or not open yet.

    Attributes:
        what: `"producer"`, `"consumer"`, `"router"` or `"admin"`.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"this {what} is not open; use it inside `async with` or between start() "
            f"and aclose(), create a new one after it was closed, and a separate one "
            f"in a forked process"
        )


class NameInUse(UsageError):  # noqa: N818 - a state more than an error
    """Another process is a member of the group under this consumer's name.

    With owned shards, the one that came later has the shards. Both would take them from
    each other forever, so this consumer takes none any more.

    Attributes:
        group: The group.
        name: The name.
    """

    def __init__(self, group: str, name: str) -> None:
        self.group = group
        self.name = name
        super().__init__(
            f"another process is a member of group {group!r:.80} by the name "
            f"{name!r:.80}, and has taken a shard from this one; give each process a "
            f"name of its own, or leave name= out"
        )


class BufferFull(UsageError):  # noqa: N818 - the design names it
    """The producer's buffer had no space for a message of `enqueue_nowait`.

    Attributes:
        messages: How many messages wait.
        size: How many bytes they hold.
    """

    def __init__(self, messages: int, size: int) -> None:
        self.messages = messages
        self.size = size
        super().__init__(
            f"the producer's buffer is full ({messages} messages, {size} bytes); "
            f"await enqueue() to wait for space, or send less"
        )


class ServerError(PenstockError):
    """The server failed or refused, or could not be reached."""


class ConnectError(ServerError):
    """No connection could be made.

    Attributes:
        address: `host:port` or the socket's path, never with a password.
        reason: The error that the operating system reported, or the server's reply.
    """

    def __init__(
        self,
        address: str,
        reason: str,
        advice: str = (
            "check that a server listens there and that host, port and TLS settings "
            "are right"
        ),
    ) -> None:
        self.address = address
        self.reason = reason
        super().__init__(f"can't connect to {address}: {reason}; {advice}")


class ConnectionLost(ServerError):  # noqa: N818 - a state more than an error
    """A connection ended, or its deadline passed, before the reply came.

    Attributes:
        address: `host:port` or the socket's path.
        reason: The error that the operating system reported.
    """

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(
            f"the connection to {address} was lost: {reason}; "
            f"Penstock reconnects by itself while it is open"
        )


class AccessError(ServerError):
    """The server refused the credentials, or the user lacks a permission.

    Attributes:
        address: `host:port` or the socket's path.
        reason: The server's reply, without the credentials.
    """

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(
            f"{address} refused access: {reason}; check user and password of the "
            f"URL and the user's ACL"
        )


class CommandError(ServerError):
    """The server refused a command.

    Attributes:
        command: The command's name.
        code: The reply's first word, for example `WRONGTYPE`.
        reason: The reply, escaped and truncated.
    """

    def __init__(
        self,
        command: str,
        code: str,
        reason: str,
        hint: str = "check the stream, and what this user may do",
    ) -> None:
        self.command = command
        self.code = code
        self.reason = reason
        super().__init__(f"{command} was refused: {reason}; {hint}")


class SendFailed(ServerError):  # noqa: N818 - the outcome's name
    """A message was not stored, for certain.

    Attributes:
        stream: The stream it was sent to.
        code: The first word of the server's reply, for example `OOM`. `ID` if the
            message's id is not above the last one of the stream. `CLOSED` or `TIMEOUT`
            if the message was never written.
        reason: Why it was not stored.
    """

    def __init__(
        self,
        stream: str,
        code: str,
        reason: str,
        hint: str = "send it again once that is fixed",
    ) -> None:
        self.stream = stream
        self.code = code
        self.reason = reason
        super().__init__(
            f"a message for stream {stream!r} was not stored: {reason}; {hint}"
        )


class StreamMissing(CommandError):  # noqa: N818 - a state more than an error
    """The stream does not exist, and creating it was not allowed.

    Attributes:
        stream: The stream's name.
    """

    def __init__(
        self,
        stream: str,
        command: str = "XGROUP CREATE",
        hint: str = "send to it first, or leave mkstream=True",
    ) -> None:
        self.stream = stream
        super().__init__(command, "ERR", f"stream {stream!r} does not exist", hint)


class SendUnknown(ServerError):  # noqa: N818 - the outcome's name
    """A message was written, but no reply came: it is stored once or not at all.

    With `resend` or `idempotent`, also: a first write was not answered, and its repeat
    was refused; or each connection ended on which the message was written.

    Attributes:
        stream: The stream it was sent to.
        reason: How the connection ended, that the message's time was over, that its
            repeat was refused, or how many connections ended.
    """

    def __init__(self, stream: str, reason: str, hint: str = "") -> None:
        self.stream = stream
        self.reason = reason
        advice = (
            "it is in the stream once or not at all: check the stream, or send the "
            "message again if a duplicate does no harm"
        )
        super().__init__(
            f"a message for stream {stream!r} was written but not confirmed "
            f"({reason}); {hint or advice}"
        )


class NotDurable(ServerError):  # noqa: N818 - the outcome's name
    """A message is stored, but not on as many replicas or disks as requested.

    The replicas may have it a moment later; the message is not withdrawn.

    Attributes:
        stream: The stream it was sent to.
        id: The entry's id.
        receipt: The `Receipt` that the send would have returned.
        wanted: How many replicas were to have it.
        achieved: How many replicas had it when the time was over.
        durable: Whether the server's own append-only file had it; None if that was not
            requested.
        reason: The server's reply if it refused to wait, else empty.
    """

    def __init__(
        self,
        receipt: Any,
        stream: str,
        id: str,  # noqa: A002
        *,
        wanted: int,
        achieved: int,
        durable: bool | None = None,
        reason: str = "",
    ) -> None:
        self.stream = stream
        self.id = id
        self.receipt = receipt
        self.wanted = wanted
        self.achieved = achieved
        self.durable = durable
        self.reason = reason
        facts = [f"{achieved} of {wanted} replicas have confirmed it"] if wanted else []
        if durable is not None:
            facts.append(
                f"the server has {'' if durable else 'not '}confirmed it in its own "
                f"append-only file"
            )
        super().__init__(
            f"entry {id} of stream {stream!r} is stored, but "
            f"{reason or ', '.join(facts)}; "
            f"don't send it again: check the replicas or the append-only file, or "
            f"allow more time"
        )


class TransactionFailed(ServerError):  # noqa: N818 - the outcome's name
    """A message's transaction was refused; nothing was applied or acknowledged.

    Attributes:
        stream: The message's stream.
        id: The message's id.
        code: The reply's first word, for example `WRONGTYPE`.
        reason: The reply, escaped and truncated.
    """

    def __init__(self, stream: str, id: str, code: str, reason: str, hint: str) -> None:  # noqa: A002
        self.stream = stream
        self.id = id
        self.code = code
        self.reason = reason
        super().__init__(
            f"the transaction of entry {id} of stream {stream!r} was refused, and "
            f"nothing of it was applied: {reason}; {hint}"
        )


class TransactionBroken(ServerError):  # noqa: N818 - the outcome's name
    """A command in the middle of a message's transaction was refused.

    Redis does not roll back the commands before it. So the message is not tried again:
    it goes to the dead letters, as with `reject()`.

    Attributes:
        stream: The message's stream.
        id: The message's id.
        applied: How many commands of the transaction were applied.
        total: How many commands it has.
        code: The reply's first word.
        reason: The reply, escaped and truncated.
    """

    def __init__(
        self,
        stream: str,
        id: str,  # noqa: A002
        *,
        applied: int,
        total: int,
        code: str,
        reason: str,
    ) -> None:
        self.stream = stream
        self.id = id
        self.applied = applied
        self.total = total
        self.code = code
        self.reason = reason
        super().__init__(
            f"the transaction of entry {id} of stream {stream!r} broke after {applied} "
            f"of {total} commands: {reason}; check what the first {applied} have "
            f"done before you redrive its dead letter"
        )


class DecodeError(ServerError, ValueError):
    """An entry can't be decoded as the requested payload type.

    Attributes:
        stream: The stream it came from.
        id: The entry's id.
        reason: What does not fit and where, without the payload.
    """

    def __init__(self, stream: str, id: str, reason: str) -> None:  # noqa: A002
        self.stream = stream
        self.id = id
        self.reason = reason
        super().__init__(
            f"entry {id} of stream {stream!r} can't be decoded: {reason}; "
            f"check the payload type against what is sent"
        )


class GaveUp(PenstockError):  # noqa: N818 - a decision more than an error
    """A message was given up, and `dead_letters=STOP` stops the consumer then.

    The message is pending and not in any dead letters.

    Attributes:
        stream: The stream it came from.
        id: The entry's id.
        attempts: How often its handler was started.
        reason: Why it was given up; the handler's exception is the `__cause__`.
    """

    def __init__(self, stream: str, id: str, attempts: int, reason: str) -> None:  # noqa: A002
        self.stream = stream
        self.id = id
        self.attempts = attempts
        self.reason = reason
        super().__init__(
            f"entry {id} of stream {stream!r} was given up after {attempts} attempts: "
            f"{reason}; it is still pending: fix its handler and start again, or "
            f"acknowledge it"
        )
