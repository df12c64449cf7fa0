"""What the streams of a test hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from penstock.admin import DeadLetter, dead
from penstock.message import Message
from penstock.replay import replay

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["letters", "sent"]

T = TypeVar("T")


@overload
async def sent(url: str, stream: str) -> list[Message[bytes]]: ...
@overload
async def sent(url: str, stream: str, payload: type[T]) -> list[Message[T]]: ...
@overload
async def sent(url: str, stream: str, payload: TypeForm[T]) -> list[Message[T]]: ...
async def sent(url: str, stream: str, payload: Any = bytes) -> list[Message[Any]]:
    """Return the messages of a stream, oldest first, over all its shards.

    Args:
        url: The server.
        stream: The stream's name.
        payload: The payloads' type, as for `Consumer`; default: bytes.

    Returns:
        The messages; an empty list if there is no such stream. `message.payload` raises
        `DecodeError` if it is not of the type.

    Raises:
        PenstockError: See `replay`.

    Example:
        ```python
        from penstock.testing import sent

        messages = await sent("redis://localhost", "orders", Order)
        assert [message.payload for message in messages] == [Order(1)]
        ```
    """
    async with replay(stream, payload=payload, url=url) as messages:
        return [message async for message in messages]


async def letters(url: str, stream: str) -> list[DeadLetter]:
    """Return the dead letters of a stream, oldest first, from all its shards.

    Args:
        url: The server.
        stream: The name of the stream that the messages were in. Its dead letters are
            in `<stream>.dead`.

    Returns:
        The dead letters; an empty list if there are none.

    Raises:
        PenstockError: See `admin.dead.list`.

    Example:
        ```python
        from penstock.testing import letters

        for letter in await letters("redis://localhost", "orders"):
            print(letter.entry_id, letter.reason)
        ```
    """
    return list(await dead.list(stream, url=url, limit=None))
