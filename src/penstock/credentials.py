"""Credentials from a provider: user and password that change while a process runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

from penstock.errors import ConfigurationError

__all__ = ["CredentialProvider", "Credentials", "credentials_of"]


class CredentialProvider(Protocol):
    """What redis-py's `redis.CredentialProvider` is, and its subclasses are.

    If a provider has its own `get_credentials_async`, that is called; otherwise
    `get_credentials` is called, in a thread. A provider with `on_next` (redis-py's
    `StreamingCredentialProvider`) tells when there is a new token, and the open
    connections log in again with it.
    """

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the password, or user and password, as a tuple."""


Credentials: TypeAlias = (
    CredentialProvider | Callable[[], Awaitable[str | tuple[str, str]]]
)
"""A provider, or an async function that returns a password, or user and password."""


def credentials_of(given: Any) -> Credentials | None:
    """Check the option `credentials`.

    Raises:
        ConfigurationError: It is neither a provider nor a function.
    """
    provides = callable(given) or hasattr(given, "get_credentials")
    if given is None or (provides and not isinstance(given, type)):
        return given
    raise ConfigurationError(
        f"credentials= is a {type(given).__name__}; pass a CredentialProvider of "
        f"redis-py, or an async function that returns (user, password)"
    )
