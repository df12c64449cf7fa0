"""Asking the server about streams without receiving their entries.

XINFO STREAM sends the first and the last entry of a stream whole, and each may be as
large as a message may be. A script on the server picks out the ids and numbers.
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

# XINFO STREAM would be refused for the same reason.
_OF_THE_STREAM: Final = frozenset((ErrorKind.REPAIR, ErrorKind.ISOLATE))


class StreamInspector:
    """Describes streams by a script, or by XINFO STREAM where scripts are refused.

    A refusal is remembered, so that it is not provoked, and logged by the server, with
    every question.

    Attributes:
        scripted: Whether the script is used. If not, each description brings two whole
            entries, and belongs on no connection that has subscribed: the server closes
            that at 32 MB of unread output.
    """

    def __init__(self) -> None:
        self.scripted = True

    async def streams(
        self, calls: Calls, keys: Sequence[bytes], *, bulk: Calls | None = None
    ) -> list[StreamInfo | ErrorReply]:
        """Describe streams; an error reply stands in the place of its stream.

        Args:
            calls: Sends the questions.
            keys: The streams' keys.
            bulk: Sends those that bring entries; default: `calls`.

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
        """Describe streams, and ask more about each in one transaction with that.

        Args:
            calls: Sends the questions.
            keys: The streams' keys.
            more: Gives the other questions about a key.
            bulk: Sends those that bring entries; None: `calls`.

        Returns:
            The replies about each stream, its description first; an error reply where
            the transaction was refused as a whole.

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
        """Check whether the script was refused, and not what it asked."""
        errors = [reply for reply in found if isinstance(reply, ErrorReply)]
        if any(error.trouble is ErrorKind.FATAL for error in errors):
            self.scripted = False
        return any(
            error.trouble not in _OF_THE_STREAM and not error.passing
            for error in errors
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
        answer = replies.together([next(answers) for _ in batch])
        # If it was refused as a whole, there is one reply and not one a command.
        whole = len(answer) < len(batch) - 2
        found.append(answer[0] if whole else answer)
    return found
