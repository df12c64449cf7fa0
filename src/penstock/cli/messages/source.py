"""The input of `penstock send`: a whole payload, or lines."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from penstock import ConfigurationError, Outgoing

__all__ = ["BadLineError", "lines", "message_of", "whole"]

_CHUNK: Final = 64 * 1024


class BadLineError(ConfigurationError):
    """A line of the input that is no message."""


class _Line(Struct):
    """A line of JSON: what `MessageRow` has, as far as it is sent."""

    key: str | None = None
    headers: dict[str, str] | None = None
    payload: str | UnsetType | None = UNSET
    payload_base64: str | UnsetType = UNSET
    fields: dict[str, str] | UnsetType = UNSET


_LINE: Final = msgspec.json.Decoder(_Line)


async def whole() -> bytes:
    """Return all of the standard input."""
    return b"".join([chunk async for chunk in _chunks()])


async def lines() -> AsyncGenerator[bytes, None]:
    """Yield the lines of the standard input, without their ends, as they come."""
    rest: list[bytes] = []
    async for chunk in _chunks():
        first, *others = chunk.split(b"\n")
        rest.append(first)
        for other in others:
            yield b"".join(rest)
            rest = [other]
    if any(rest):
        yield b"".join(rest)


def message_of(line: bytes) -> Outgoing[bytes]:
    """Return the message that a line of JSON has.

    Raises:
        BadLineError: It is no such object.
    """
    try:
        found = _LINE.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        # The text names the place in the object, and no value.
        raise BadLineError(
            f"it is not an object like those of `penstock read --json`: {error}"
        ) from None
    return Outgoing(_body(found), key=found.key, headers=found.headers or None)


def _body(line: _Line) -> bytes:
    if line.payload_base64 is not UNSET:
        try:
            return base64.b64decode(line.payload_base64, validate=True)
        except (binascii.Error, ValueError):
            raise BadLineError("its payload_base64 is not Base64") from None
    if isinstance(line.payload, str):
        return line.payload.encode()
    if line.fields is not UNSET:
        raise BadLineError("it is an entry of another program, which has no payload")
    raise BadLineError(
        'it has no payload; write {"payload": "…"}, or leave out --no-payload of '
        "`penstock read`"
    )


async def _chunks() -> AsyncGenerator[bytes, None]:
    read = _reader()
    while chunk := await _in_thread(read):
        yield chunk


def _reader() -> Callable[[], bytes]:
    """Return a function that waits for some of the input; no bytes are its end.

    Raises:
        ConfigurationError: There is no input.
    """
    if sys.stdin is None:
        raise ConfigurationError(
            "the standard input is closed; pass the payload or --file"
        )
    try:
        number = sys.stdin.fileno()
    except OSError:  # something in memory
        return partial(sys.stdin.buffer.read, _CHUNK)
    return partial(os.read, number, _CHUNK)


async def _in_thread(read: Callable[[], bytes]) -> bytes:
    """Call a function in a thread that nothing waits for at the end of the process.

    A thread of the event loop's own pool would keep the process after Ctrl-C until
    there is more input.
    """
    loop = asyncio.get_running_loop()
    came: asyncio.Future[bytes] = loop.create_future()

    def finish(chunk: bytes, error: OSError | None) -> None:
        if came.done():
            return
        if error is None:
            came.set_result(chunk)
        else:
            came.set_exception(error)

    def work() -> None:
        chunk, error = b"", None
        try:
            chunk = read()
        except OSError as failure:
            error = failure
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, chunk, error)

    threading.Thread(target=work, name="penstock-input", daemon=True).start()
    return await came
