"""Dispatch: the choice of a message's handler, by the type that its header names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from penstock._core.handling.settlement import Settler
from penstock._core.handling.signature import name_of
from penstock.codecs import Codec, raw_codec
from penstock.events import printable
from penstock.message import Message

__all__ = ["Dispatch", "PayloadReader", "Route", "Unhandled", "namer"]

# The most types that are reported. Types come from the network, so their number is
# unbounded.
_TYPES: Final = 100
_CUT: Final = 80


class PayloadReader:
    """Returns messages whose payload another codec than their consumer's decodes.

    Args:
        codec: The codec; with None payloads are whole entries as `Fields`.
    """

    __slots__ = ("_codec", "_settlers")

    def __init__(self, codec: Codec[Any] | None) -> None:
        self._codec = codec
        # The consumer's settler and the one for this codec, which is made once. They
        # are a pair, so that threads that run at the same time never see halves of two
        # pairs.
        self._settlers: tuple[object, Settler[Any] | None] = (None, None)

    def __call__(self, message: Message[Any]) -> Message[Any]:
        """Return the same message with a payload that is still to be decoded."""
        if self._codec is raw_codec:
            return message
        settler: Any = message._settler  # noqa: SLF001 - for a copy of the message
        theirs, ours = self._settlers
        if theirs is not settler or ours is None:
            ours = settler.with_codec(self._codec)
            self._settlers = settler, ours
        return Message(message._entry, ours, message._fields)  # noqa: SLF001


@dataclass(frozen=True, slots=True)
class Route:
    """The handler for messages of one type.

    Attributes:
        read: Returns the message with the payload that the handler takes.
        call: Handles the message.
        name: The handler's name, for reports.
    """

    read: Callable[[Message[Any]], Message[Any]]
    call: Callable[[Message[Any]], Any]
    name: str


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Calls the handler for a message's type.

    Attributes:
        header: The header that names the type.
        routes: The handlers by type; that of None is for all other types.
        unhandled: Called with a message that has no handler, and the message's type.
    """

    header: str
    routes: Mapping[str | None, Route]
    unhandled: Callable[[Message[Any], str | None], object]

    async def call(self, message: Message[Any]) -> object:
        """Handle a message where all handlers are async."""
        route = self._find(message)
        return None if route is None else await route.call(route.read(message))

    def call_sync(self, message: Message[Any]) -> object:
        """Handle a message where no handler is async."""
        route = self._find(message)
        return None if route is None else route.call(route.read(message))

    def handler_of(self, message: Message[Any]) -> str:
        """Return the name of a message's handler; empty if it has none."""
        route = self._route(message.headers.get(self.header))
        return "" if route is None else route.name

    def _find(self, message: Message[Any]) -> Route | None:
        kind = message.headers.get(self.header)
        route = self._route(kind)
        if route is None:
            self.unhandled(message, kind)
        return route

    def _route(self, kind: str | None) -> Route | None:
        return self.routes.get(kind) or self.routes.get(None)


def namer(handler: Callable[..., object]) -> Callable[[Message[Any]], str]:
    """Return a function that returns the name of the handler of a message.

    Args:
        handler: A handler, or a method of a `Dispatch`, which has several.
    """
    owner = getattr(handler, "__self__", None)
    if isinstance(owner, Dispatch):
        return owner.handler_of
    name = name_of(handler)
    return lambda _: name


@dataclass(slots=True)
class Unhandled:
    """Counts messages that have no handler.

    Attributes:
        messages: The number of such messages.
    """

    messages: int = 0
    _types: set[str] = field(default_factory=set)

    def seen(self, kind: str | None) -> str | None:
        """Count a message, and return its type in printable form if the type is new.

        After a hundred types no more types are reported.
        """
        self.messages += 1
        shown = "(none)" if kind is None else printable(kind, _CUT)
        if shown in self._types or len(self._types) >= _TYPES:
            return None
        self._types.add(shown)
        return shown
