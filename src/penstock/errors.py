"""Everything that Penstock raises on purpose.

```
PenstockError
├── GaveUp                  a message failed for good, and the consumer was to stop
├── UsageError              you did wrong: the call can't work as it stands
│   ├── ConfigurationError  an option, name or URL is wrong (also a ValueError)
│   │   └── MessageTooLarge  a message is larger than the producer may send
│   ├── ClosedError         the producer or consumer is closed, or not open yet
│   └── BufferFull          nothing more fits, and you asked not to wait
└── ServerError             the other side did wrong, or is out of reach
    ├── ConnectError        no connection could be made
    ├── ConnectionLost      a connection ended before the reply came
    ├── AccessError         credentials or permissions were refused
    ├── CommandError        the server refused a command
    │   └── StreamMissing   the stream is not there, and `mkstream=False`
    ├── SendFailed          a message was not stored, for certain
    ├── SendUnknown         the reply to a send was lost: it is stored once or not
    ├── NotDurable          a message is stored, on fewer servers or disks than asked
    ├── TransactionFailed   a transaction was refused; nothing was applied
    ├── TransactionBroken   a transaction was refused in its middle
    └── DecodeError         an entry is not of the payload type (also a ValueError)
```

An error carries its facts as attributes and builds its own sentence from them,
which ends in what to do next. Passwords and payloads are in none of them.
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
    "NotDurable",
    "PenstockError",
    "SendFailed",
    "SendUnknown",
    "ServerError",
    "StreamMissing",
    "TransactionBroken",
    "TransactionFailed",
    "UsageError",
]


class PenstockError(Exception):
    """The root: catches all that Penstock raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Their arguments are facts, and `args` is the sentence made of them.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    kind: type[PenstockError], args: tuple[Any, ...], facts: dict[str, Any]
) -> PenstockError:
    """Make a copied or unpickled error."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


class UsageError(PenstockError):
    """You did wrong: the call can't work as it stands; nothing was lost by it."""


class ConfigurationError(UsageError, ValueError):
    """An option, a name or a URL is wrong; raised on construction or on opening."""


class MessageTooLarge(ConfigurationError):  # noqa: N818 - what it says
    """A message is larger than `max_message_bytes`; nothing of it was sent.

    Attributes:
        size: The bytes of its payload, key and headers.
        limit: How many there may be.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"a message of {size} bytes is larger than max_message_bytes={limit}; "
            f"send less, for example where the data lies, or raise the limit of the "
            f"producer and of its consumers"
        )


class ClosedError(UsageError):
    """The producer, consumer or admin is not open (any more).

    Attributes:
        what: `"producer"`, `"consumer"`, `"router"` or `"admin"`.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"this {what} is not open; use it inside `async with` or between start() "
            f"and aclose(), open a new one after it was closed, and one of its own in "
            f"a forked process"
        )


class BufferFull(UsageError):  # noqa: N818 - the design names it
    """`enqueue_nowait` found no room.

    Attributes:
        messages: How many messages wait.
        size: How many bytes they hold.
    """

    def __init__(self, messages: int, size: int) -> None:
        self.messages = messages
        self.size = size
        super().__init__(
            f"the producer's buffer is full ({messages} messages, {size} bytes); "
            f"await enqueue() to wait for room, or send less"
        )


class ServerError(PenstockError):
    """The server, or the way to it, did wrong."""


class ConnectError(ServerError):
    """No connection could be made.

    Attributes:
        address: `host:port` or the socket's path, never with a password.
        reason: What the system said.
    """

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(
            f"can't connect to {address}: {reason}; check that a server listens "
            f"there and that host, port and TLS settings are right"
        )


class ConnectionLost(ServerError):  # noqa: N818 - a state more than an error
    """A connection ended, or its deadline passed, before the reply came.

    Attributes:
        address: `host:port` or the socket's path.
        reason: What the system said.
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
        reason: The server's words, without the credentials.
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
        reason: The reply, made printable and cut.
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
        stream: Where it was sent to.
        code: The server's first word, for example `OOM`; or `ID`, when its id is not
            above the last one of the stream; or, when it was never written, `CLOSED`
            or `TIMEOUT`.
        reason: Why.
    """

    def __init__(
        self,
        stream: str,
        code: str,
        reason: str,
        hint: str = "send it again once that is mended",
    ) -> None:
        self.stream = stream
        self.code = code
        self.reason = reason
        super().__init__(
            f"a message for stream {stream!r} was not stored: {reason}; {hint}"
        )


class StreamMissing(CommandError):  # noqa: N818 - a state more than an error
    """The stream is not there, and was not to be made.

    Attributes:
        stream: Its name.
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
    """The message left, and its reply never came: it is stored once, or not.

    Attributes:
        stream: Where it was sent to.
        reason: What became of the connection, or that its time was over.
    """

    def __init__(self, stream: str, reason: str) -> None:
        self.stream = stream
        self.reason = reason
        super().__init__(
            f"a message for stream {stream!r} was written but not confirmed "
            f"({reason}); it is in the stream once or not at all: look, or send "
            f"again if a duplicate does no harm"
        )


class NotDurable(ServerError):  # noqa: N818 - the outcome's name
    """A message is stored, but not on as many replicas or disks as was asked for.

    The replicas may have it a moment later; nothing takes it back.

    Attributes:
        stream: Where it was sent to.
        id: The entry's id.
        receipt: The `Receipt` that the send would have given.
        wanted: On how many replicas it was to be.
        achieved: How many had it when the time was over.
        durable: Whether the server's own append-only file had it; None if that was
            not asked for.
        reason: What the server said if it refused to wait, else empty.
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
        told = [f"{achieved} of {wanted} replicas have confirmed it"] if wanted else []
        if durable is not None:
            told.append(f"the server's own disk has {'' if durable else 'not '}done so")
        super().__init__(
            f"entry {id} of stream {stream!r} is stored, but "
            f"{reason or ', '.join(told)}; "
            f"don't send it again: look after the replicas or the append-only file, "
            f"or allow more time"
        )


class TransactionFailed(ServerError):  # noqa: N818 - the outcome's name
    """A message's transaction was refused; nothing was applied or acknowledged.

    Attributes:
        stream: The message's stream.
        id: Its id.
        code: The reply's first word, for example `WRONGTYPE`.
        reason: The reply, made printable and cut.
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

    Redis does not take back what stood before it. So the message is not tried again: it
    goes to the dead letters, as by `reject()`.

    Attributes:
        stream: The message's stream.
        id: Its id.
        applied: How many of its commands were applied.
        total: How many it has.
        code: The reply's first word.
        reason: The reply, made printable and cut.
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
            f"of {total} commands: {reason}; look at what the first {applied} have "
            f"done before its dead letter is sent back"
        )


class DecodeError(ServerError, ValueError):
    """An entry can't be read as the payload type that was asked for.

    Attributes:
        stream: Where it came from.
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
    """A message was given up, and the consumer was to stop then.

    The message is pending and not in any dead letters.

    Attributes:
        stream: Where it came from.
        id: The entry's id.
        attempts: How often its handler was started.
        reason: Why it was given up; what the handler raised is the cause.
    """

    def __init__(self, stream: str, id: str, attempts: int, reason: str) -> None:  # noqa: A002
        self.stream = stream
        self.id = id
        self.attempts = attempts
        self.reason = reason
        super().__init__(
            f"entry {id} of stream {stream!r} was given up after {attempts} attempts: "
            f"{reason}; it is pending: mend its handler and start again, or "
            f"acknowledge it"
        )
