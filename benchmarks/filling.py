"""Full streams, made quickly and before the clock runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

import hiredis
from redis import Redis

# hiredis' stubs ask for a tuple of one word.
pack_command: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command

# Bytes in one write, roughly: neither side has to hold more.
WRITE = 1 << 18


def fill(
    url: str,
    keys: Sequence[str],
    fields: tuple[bytes | str, ...],
    messages: int,
    group: str,
) -> None:
    """Write so many equal entries to the keys in turn; each gets the group at 0."""
    adds = [pack_command((b"XADD", key, b"*", *fields)) for key in keys]
    with Redis.from_url(url) as redis:
        for key in keys:
            redis.xgroup_create(key, group, id="0", mkstream=True)
        execute(redis, adds, messages)


def execute(redis: Any, commands: Sequence[bytes], times: int) -> None:
    """Have packed commands executed in turn, so many in all."""
    turn = cycle(commands)
    most = max(1, min(1000, WRITE // len(commands[0])))
    connection = redis.connection_pool.get_connection()
    try:
        while times:
            batch = min(times, most)
            packed = b"".join(islice(turn, batch))
            connection.send_packed_command([packed], check_health=False)
            for _ in range(batch):
                connection.read_response()
            times -= batch
    finally:
        redis.connection_pool.release(connection)
