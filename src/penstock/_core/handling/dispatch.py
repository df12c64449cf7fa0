"""Which of several handlers a message is for, by the type that its header names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from penstock._core.handling.settlement import Settler
from penstock.codecs import Codec, raw_codec
from penstock.events import printable
from penstock.message import Message

__all__ = ["Dispatch", "PayloadReader", "Route", "Unhandled"]

# Types that are told of. They come from the wire, so there is no end of them.
_TYPES: Final = 100
_CUT: Final = 80


class PayloadReader:
    """Gives messages that are read by another codec than their consumer's.

    Args:
        codec: It; None gives whole entries as `Fields`.
    """

    __slots__ = ("_codec", "_settlers")

    def __init__(self, codec: Codec[Any] | None) -> None:
        self._codec = codec
        # A consumer's desk and ours, which is made once. A pair, so that threads
        # that come at the same time never see the halves of two.
        self._settlers: tuple[object, Settler[Any] | None] = (None, None)

    def __call__(self, message: Message[Any]) -> Message[Any]:
        """Give the same message, its payload still to be read."""
        if self._codec is raw_codec:
            return message
        settler: Any = message._settler  # noqa: SLF001 - a message that is made over
        theirs, ours = self._settlers
        if theirs is not settler or ours is None:
            ours = settler.reading(self._codec)
            self._settlers = settler, ours
        return Message(message._entry, ours, message._fields)  # noqa: SLF001


@dataclass(frozen=True, slots=True)
class Route:
    """Where messages of one type go.

    Attributes:
        read: Makes them what the handler takes.
        call: Handles them.
    """

    read: Callable[[Message[Any]], Message[Any]]
    call: Callable[[Message[Any]], Any]


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Calls the handler of a message's type.

    Attributes:
        header: The header with the type in it.
        routes: The handlers by type; that of None is for all others.
        unhandled: Called with a message, and its type, that there is none for.
    """

    header: str
    routes: Mapping[str | None, Route]
    unhandled: Callable[[Message[Any], str | None], object]

    async def call(self, message: Message[Any]) -> object:
        """Handle a message where all handlers are async."""
        route = self._find(message)
        return None if route is None else await route.call(route.read(message))

    def call_sync(self, message: Message[Any]) -> object:
        """Handle a message where none is."""
        route = self._find(message)
        return None if route is None else route.call(route.read(message))

    def _find(self, message: Message[Any]) -> Route | None:
        kind = message.headers.get(self.header)
        route = self.routes.get(kind) or self.routes.get(None)
        if route is None:
            self.unhandled(message, kind)
        return route


@dataclass(slots=True)
class Unhandled:
    """Counts messages that there is no handler for.

    Attributes:
        messages: How many there were.
    """

    messages: int = 0
    _types: set[str] = field(default_factory=set)

    def seen(self, kind: str | None) -> str | None:
        """Count one; gives its type, fit to be told, if that is the first of it.

        After a hundred types no more are told of.
        """
        self.messages += 1
        shown = "(none)" if kind is None else printable(kind, _CUT)
        if shown in self._types or len(self._types) >= _TYPES:
            return None
        self._types.add(shown)
        return shown
