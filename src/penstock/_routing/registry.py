"""The registry of a router: its handlers, and the consumers that they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock._routing.handlers import HandlerSpec, adopt
from penstock._routing.shared_consumers import SharedConsumer, shared_consumers_of
from penstock.errors import UsageError
from penstock.middleware import Middleware

__all__ = ["Registry"]


class Registry:
    """Handlers that are valid, alone and together.

    Args:
        defaults: Options of `Consumer` for all handlers that don't override them.
        middleware: Wraps all handlers, outside of their own middleware.

    Attributes:
        handlers: The handlers.
        shared: The same handlers, grouped by the consumers that they share.
    """

    def __init__(
        self, defaults: Mapping[str, Any], middleware: tuple[Middleware[Any], ...]
    ) -> None:
        self._defaults = defaults
        self._middleware = middleware
        self.handlers: tuple[HandlerSpec, ...] = ()
        self.shared: tuple[SharedConsumer, ...] = ()
        # Whether another registry has included the handlers.
        self._included = False

    def add(self, *handlers: HandlerSpec) -> None:
        """Add handlers: all of them, or none if one is refused.

        Raises:
            ConfigurationError: A handler is invalid, or its messages have one already.
            UsageError: Another registry has included this one.
        """
        if self._included:
            raise UsageError(
                "this router is included in another one already; add its handlers "
                "before that, by importing their modules first"
            )
        adopted = (adopt(each, self._defaults, self._middleware) for each in handlers)
        together = (*self.handlers, *adopted)
        self.shared = shared_consumers_of(together)
        self.handlers = together

    def include(self, other: Registry) -> None:
        """Add the handlers of another registry, which takes no more from then on."""
        self.add(*other.handlers)
        other._included = True
