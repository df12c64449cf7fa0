"""Replies as hiredis parses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import hiredis

from penstock._core.protocol.replies import ErrorReply

# How the connection hands over an error reply: as a value.
_ERROR_REPLY = cast("Callable[[str], Exception]", ErrorReply)


def raw(data: bytes) -> Any:
    """Give what hiredis makes of one reply, as the link has it."""
    reader = hiredis.Reader(protocolError=ValueError, replyError=_ERROR_REPLY)
    reader.feed(data)
    reply = reader.gets(False)  # noqa: FBT003 - hiredis' way
    assert not reader.has_data()
    return reply


def words(text: str) -> bytes:
    return text.encode().replace(b" ", b"\r\n") + b"\r\n"
