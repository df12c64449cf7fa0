"""Credentials: asks a provider before each connection, and hears of its new tokens."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePath
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from redis import credentials as redis_py

from penstock._connection.endpoint import Login
from penstock.credentials import Credentials
from penstock.errors import AccessError, ConnectError, ServerError

__all__ = ["Renewable", "follow", "obtain"]

_ADVICE: Final = "check the provider that was passed as credentials="


async def obtain(
    credentials: Credentials, login: Login, server: str, seconds: float
) -> Login:
    """Ask for user and password.

    Args:
        credentials: The provider or function.
        login: What the URL says; its user is used if only a password is returned.
        server: The server's name, for errors.
        seconds: How long the answer may take.

    Raises:
        ConnectError: The provider raised something, or took too long.
        AccessError: It returned something else than user and password.
    """
    failure: ServerError
    try:
        async with asyncio.timeout(seconds) as scope:
            answer = await _ask(credentials)
    except Exception as error:  # noqa: BLE001 - any error of the user's provider
        # Its text may quote a token, so only its type and place are told.
        reason = f"credentials= raised {type(error).__name__}{_place(error)}"
        if scope.expired():
            reason = f"credentials= did not answer within {seconds:g} s"
        failure = ConnectError(server, reason, _ADVICE)
    else:
        found = _login(answer, login)
        if found is not None:
            return found
        reason = (
            f"credentials= returned a {type(answer).__name__} that is neither a "
            f"password nor (user, password)"
        )
        failure = AccessError(server, reason)
    # Raised here, outside the `except` block, the error has no `__context__`.
    raise failure


async def _ask(credentials: Any) -> Any:
    get = getattr(credentials, "get_credentials", None)
    if get is None:
        answer = credentials()
        return await answer if inspect.isawaitable(answer) else answer
    # That of redis-py's base class calls the other one, and it may block.
    base = getattr(redis_py.CredentialProvider, "get_credentials_async", None)
    own = getattr(type(credentials), "get_credentials_async", base)
    if own is not base:
        return await credentials.get_credentials_async()
    return await asyncio.to_thread(get)


def _login(answer: Any, login: Login) -> Login | None:
    """Return the login of a provider's answer; None if it is no login."""
    match answer:
        case str(password) | (str(password),):
            return replace(login, password=password)
        case (str(user), str(password)):
            return replace(login, username=user or None, password=password)
    return None


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}"


class Renewable(Protocol):
    """Something that has connections, whose login may be renewed."""

    def renew(self, change: Callable[[Login], Login | None]) -> None:
        """Log in again, on all connections."""

    def renewal_failed(self, error: BaseException) -> None:
        """Report that a provider could not renew its token."""


class _Followers:
    """Those who want to know of one provider's tokens.

    A provider has one callback of each kind. It may call them from any thread, and
    awaits what they return, or not.
    """

    def __init__(self, provider: Any) -> None:
        self._loops: WeakKeyDictionary[Renewable, asyncio.AbstractEventLoop] = (
            WeakKeyDictionary()
        )
        provider.on_next(self._renewed)
        if hasattr(provider, "on_error"):
            provider.on_error(self._failed)

    def add(self, follower: Renewable) -> None:
        self._loops[follower] = asyncio.get_running_loop()

    def _renewed(self, token: Any) -> _Done:
        for each, loop in list(self._loops.items()):
            _call(loop, each.renew, lambda login: _of_token(token, login))
        return _Done()

    def _failed(self, error: BaseException) -> _Done:
        for each, loop in list(self._loops.items()):
            _call(loop, each.renewal_failed, error)
        return _Done()


class _Done:
    """Something that can be awaited, and needs not be."""

    def __await__(self) -> Iterator[None]:
        return iter(())


def _call(loop: asyncio.AbstractEventLoop, function: Any, value: Any) -> None:
    with suppress(RuntimeError):  # the loop has been closed
        loop.call_soon_threadsafe(function, value)


def _of_token(token: Any, login: Login) -> Login | None:
    """Return the login of a new token, which is redis-py's or what was returned."""
    if hasattr(token, "get_value"):
        user = token.try_get("oid") if hasattr(token, "try_get") else None
        token = (user, token.get_value()) if user else token.get_value()
    return _login(token, login)


_followed: WeakKeyDictionary[Any, _Followers] = WeakKeyDictionary()


def follow(credentials: Credentials | None, follower: Renewable) -> None:
    """Let something renew its logins when a provider has a new token."""
    if hasattr(credentials, "on_next"):
        followers = _followed.get(credentials)
        if followers is None:
            followers = _followed[credentials] = _Followers(credentials)
        followers.add(follower)
