"""Stream descriptions: ask the server about streams without receiving their entries.

XINFO STREAM sends the whole first and last entry of a stream, and each may be as large
as the largest message. A script on the server returns only the ids and numbers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from penstock._core.protocol import commands, replies, scripts
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorKind, ErrorReply, StreamInfo

__all__ = ["Calls", "StreamInspector"]

Calls: TypeAlias = Callable[[Sequence[Command]], Awaitable[list[Any]]]
"""Sends commands in one write and returns their replies, errors as values."""

More: TypeAlias = Callable[[bytes], Sequence[Command]]

# For these errors the server would refuse XINFO STREAM for the same reason.
_OF_THE_STREAM: Final = frozenset((ErrorKind.REPAIR, ErrorKind.ISOLATE))


class StreamInspector:
    """Describes streams with a script, or with XINFO STREAM if scripts are refused.

    A refusal is remembered, so that the server does not refuse, and log, a script with
    every request.

    Attributes:
        scripted: Whether the script is used. If not, each description brings two whole
            entries, and must not be requested on a connection that has subscribed: the
            server closes such a connection at 32 MB of unread output.
    """

    def __init__(self) -> None:
        self.scripted = True

    async def streams(
        self, calls: Calls, keys: Sequence[bytes], *, bulk: Calls | None = None
    ) -> list[StreamInfo | ErrorReply]:
        """Return the descriptions of streams, or an error reply for a stream.

        Args:
            calls: Sends the requests.
            keys: The streams' keys.
            bulk: Sends requests whose replies contain entries; default: `calls`.

        Raises:
            ConnectionLost: The connection ended before the replies.
        """
        if self.scripted:
            found = await calls([scripts.stream_facts(key) for key in keys])
            if not self._refused(found):
                return found
        return await (bulk or calls)([commands.xinfo_stream(key) for key in keys])

    async def with_more(
        self, calls: Calls, keys: Sequence[bytes], more: More, *, bulk: Calls | None
    ) -> list[list[Any] | ErrorReply]:
        """Describe streams, and send other requests about each in the same transaction.

        Args:
            calls: Sends the requests.
            keys: The streams' keys.
            more: Returns the other requests about a key.
            bulk: Sends requests whose replies contain entries; None: `calls`.

        Returns:
            The replies about each stream, its description first; an error reply if the
            transaction as a whole was refused.

        Raises:
            ConnectionLost: The connection ended before the replies.
        """
        if self.scripted:
            found = await _in_transactions(calls, scripts.stream_facts, keys, more)
            firsts = [f if isinstance(f, ErrorReply) else f[0] for f in found]
            if not self._refused(firsts):
                return found
        return await _in_transactions(bulk or calls, commands.xinfo_stream, keys, more)

    def _refused(self, found: Iterable[Any]) -> bool:
        """Return whether the script was refused, not only its access to a stream."""
        errors = [reply for reply in found if isinstance(reply, ErrorReply)]
        if any(error.kind is ErrorKind.FATAL for error in errors):
            self.scripted = False
        return any(
            error.kind not in _OF_THE_STREAM and not error.temporary for error in errors
        )


async def _in_transactions(
    calls: Calls,
    question: Callable[[bytes], Command],
    keys: Sequence[bytes],
    more: More,
) -> list[list[Any] | ErrorReply]:
    batches = [commands.transaction([question(key), *more(key)]) for key in keys]
    answers = iter(await calls([command for batch in batches for command in batch]))
    found: list[list[Any] | ErrorReply] = []
    for batch in batches:
        answer = replies.transaction_replies([next(answers) for _ in batch])
        # If the transaction as a whole was refused, there is one reply instead of one
        # for each command.
        whole = len(answer) < len(batch) - 2
        found.append(answer[0] if whole else answer)
    return found
