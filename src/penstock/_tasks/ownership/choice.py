"""The choice between owned and shared shards, for a consumer that leaves it open."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from penstock._connection.command_connection import CommandConnection
from penstock._core.messages import shard_record
from penstock._core.protocol import commands, scripts
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.group import refusal
from penstock.events import Event

__all__ = ["with_ownership"]

T = TypeVar("T")


async def with_ownership(
    config: ConsumerConfig[T], connection: CommandConnection
) -> ConsumerConfig[T]:
    """Return a configuration in which it is decided whether shards are owned.

    They are if each stream has several by its record, and the server allows scripts.

    Args:
        config: The configuration.
        connection: The command connection.

    Raises:
        ServerError: The server can't answer at present, or the connection ended.
    """
    ownership = config.ownership
    if ownership is None or not ownership.automatic:
        return config
    keys = [shard_record.key(stream) for stream in config.streams]
    asked = [scripts.may_script(), *map(commands.get, keys)]
    may_script, *stored = await connection.calls(asked)
    for reply in (may_script, *stored):
        if isinstance(reply, ErrorReply) and reply.kind is ErrorKind.TRANSIENT:
            raise refusal(connection.server, "EVAL or GET", reply)
    numbers = [_number(reply) for reply in stored]
    if isinstance(may_script, ErrorReply) or min(numbers) <= 1:
        return replace(config, ownership=None)
    config.on_event(_event(config, numbers))
    return config


def _number(stored: bytes | ErrorReply | None) -> int:
    """Return the number of shards by a record; 1 if it does not tell."""
    if isinstance(stored, ErrorReply):
        return 1
    try:
        record = shard_record.load(stored)
    except ValueError:
        return 1
    return 1 if record is None or record.number is None else record.number


def _event(config: ConsumerConfig[T], numbers: Sequence[int]) -> Event:
    facts: dict[str, object] = {"streams": config.streams, "shards": tuple(numbers)}
    if config.member is not None:
        facts["group"] = config.member.group
    return Event("shards_owned", logging.INFO, facts)
