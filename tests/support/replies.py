"""Replies as hiredis parses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import hiredis

from penstock._core.protocol.replies import ErrorReply

# The connection passes an error reply as a value.
_ERROR_REPLY = cast("Callable[[str], Exception]", ErrorReply)


def raw(data: bytes) -> Any:
    """Return one reply as hiredis parses it for the connection."""
    reader = hiredis.Reader(protocolError=ValueError, replyError=_ERROR_REPLY)
    reader.feed(data)
    reply = reader.gets(False)  # noqa: FBT003 - the signature of hiredis
    assert not reader.has_data()
    return reply


def words(text: str) -> bytes:
    return text.encode().replace(b" ", b"\r\n") + b"\r\n"
