"""Redis commands as values: one pure builder per command.

A command is the tuple of its words, ready for `hiredis.pack_command`. Facts about
the commands are from their pages at https://redis.io/docs/latest/commands/.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

__all__ = ["Command", "Word"]

Word: TypeAlias = bytes | str | int
Command: TypeAlias = tuple[Word, ...]


def transaction(batch: Iterable[Command]) -> list[Command]:
    """Have commands done with nothing in between; the last reply has all of theirs."""
    return [(b"MULTI",), *batch, (b"EXEC",)]


def xadd(
    key: bytes,
    fields: Iterable[Word],
    id: Word = b"*",  # noqa: A002
    trim: Command = (),
) -> Command:
    """Append an entry; the reply is its id. What is old is trimmed after that."""
    return (b"XADD", key, *trim, id, *fields)


def xread(
    keys: Sequence[bytes], after: Sequence[Word], count: int, block: int | None
) -> Command:
    """Read what came after an id, per key.

    COUNT is per key. Waits up to `block` milliseconds for the first one, and not at
    all with None.
    """
    wait: Command = () if block is None else (b"BLOCK", block)
    return (b"XREAD", b"COUNT", count, *wait, b"STREAMS", *keys, *after)


def xreadgroup(
    group: str,
    consumer: str,
    keys: Sequence[bytes],
    count: int,
    block: int | None,
    *,
    noack: bool = False,
) -> Command:
    """Read entries that the group has delivered to nobody yet.

    COUNT is per key. Waits up to `block` milliseconds for the first one, and not at
    all with None. With NOACK the server takes them for acknowledged at once.
    """
    head = (b"XREADGROUP", b"GROUP", group, consumer, b"COUNT", count)
    wait: Command = () if block is None else (b"BLOCK", block)
    if noack:
        wait += (b"NOACK",)
    live = (b">",) * len(keys)
    return (*head, *wait, b"STREAMS", *keys, *live)


def xrange_one(key: bytes, id: bytes) -> Command:  # noqa: A002
    """Read one entry, if it is there."""
    return (b"XRANGE", key, id, id)


def xrange_between(key: bytes, low: bytes, high: bytes, count: int) -> Command:
    """Read entries from an id to an id, both included, the lowest first."""
    return (b"XRANGE", key, low, high, b"COUNT", count)


def xrevrange_between(key: bytes, high: bytes, low: bytes, count: int) -> Command:
    """Read entries from an id down to an id, both included, the highest first."""
    return (b"XREVRANGE", key, high, low, b"COUNT", count)


def xrevrange_last(key: bytes) -> Command:
    """Read the entry with the highest id, if there is any."""
    return xrevrange_between(key, b"+", b"-", 1)


def xdel(key: bytes, ids: Iterable[bytes]) -> Command:
    """Delete entries; the reply is how many of them there were."""
    return (b"XDEL", key, *ids)


def xtrim(key: bytes, trim: Command) -> Command:
    """Delete what is old; the reply is how many entries it were."""
    return (b"XTRIM", key, *trim)


def xack(key: bytes, group: str, ids: Iterable[bytes]) -> Command:
    """Acknowledge; the reply is how many were pending."""
    return (b"XACK", key, group, *ids)


def xpending_page(
    key: bytes, group: str, consumer: str | None, after: bytes, count: int
) -> Command:
    """List pending entries above an id: id, owner, idle, deliveries.

    Those of one consumer, or with None of all.
    """
    # "(" makes the start exclusive, since Redis 6.2.
    page = (b"XPENDING", key, group, b"(" + after, b"+", count)
    return page if consumer is None else (*page, consumer)


def xpending_summary(key: bytes, group: Word) -> Command:
    """Ask for a group's number of pending entries and their lowest and highest id."""
    return (b"XPENDING", key, group)


def xpending_between(
    key: bytes, group: str, consumer: Word, *, low: bytes, high: bytes, count: int
) -> Command:
    """List a consumer's pending entries from an id to an id, both included."""
    return (b"XPENDING", key, group, low, high, count, consumer)


def xautoclaim(
    key: bytes, group: str, consumer: str, *, idle: int, cursor: bytes, count: int
) -> Command:
    """Take over what has been idle for `idle` milliseconds, from a cursor on.

    Looks at ten times `count` entries at most. JUSTID keeps bodies off the wire and the
    delivery count as it is.
    """
    head = (b"XAUTOCLAIM", key, group, consumer, idle, cursor)
    return (*head, b"COUNT", count, b"JUSTID")


def xclaim(
    key: bytes,
    group: str,
    consumer: str,
    ids: Iterable[bytes],
    *,
    idle: int,
    words: Sequence[Word] = (),
) -> Command:
    """Claim entries; the reply is the ids of those that are still pending.

    What has been idle for less than `idle` milliseconds is left alone. JUSTID keeps
    bodies off the wire and the delivery count unchanged, unless `words` set it.
    """
    return (b"XCLAIM", key, group, consumer, idle, *ids, *words, b"JUSTID")


def xgroup_create(key: bytes, group: str, after: Word, *, mkstream: bool) -> Command:
    """Create a group that will deliver what lies after an id (`$`: only new)."""
    command = (b"XGROUP", b"CREATE", key, group, after)
    return (*command, b"MKSTREAM") if mkstream else command


def xgroup_setid(key: bytes, group: str, after: bytes) -> Command:
    """Have a group deliver what lies after an id, delivered before or not.

    What is pending stays so.
    """
    return (b"XGROUP", b"SETID", key, group, after)


def exists(keys: Iterable[bytes]) -> Command:
    """Count the keys that there are."""
    return (b"EXISTS", *keys)


def key_type(key: bytes) -> Command:
    """Ask what is at a key: `stream`, another type, or `none`."""
    return (b"TYPE", key)


def unlink(key: bytes) -> Command:
    """Delete a key; unlike DEL, frees it in the background. The reply is how many."""
    return (b"UNLINK", key)


def xinfo_stream(key: bytes) -> Command:
    """Describe a stream; its last generated id among other things."""
    return (b"XINFO", b"STREAM", key)


def xinfo_groups(key: bytes) -> Command:
    """Describe a stream's groups: consumers, pending, last delivered id, lag."""
    return (b"XINFO", b"GROUPS", key)


def counts_lag() -> Command:
    """Ask for commands that came after servers had learned to count a lag correctly.

    Redis 8.2 and Valkey 9. Before Redis 8.0, and patches of older ones, a group's
    counter missed entries that were trimmed or deleted ahead of it
    (redis/redis#13957), and none of what such a server says shows it.
    """
    return (b"COMMAND", b"INFO", b"XACKDEL", b"DELIFEQ")


def xinfo_consumers(key: bytes, group: Word) -> Command:
    """Describe a group's consumers: name, pending, idle."""
    return (b"XINFO", b"CONSUMERS", key, group)


def xgroup_delconsumer(key: bytes, group: str, consumer: Word) -> Command:
    """Remove a consumer, and with it whatever is pending for it."""
    return (b"XGROUP", b"DELCONSUMER", key, group, consumer)


def xclaim_restore(
    key: bytes, group: str, consumer: str, ids: Iterable[bytes]
) -> Command:
    """Make entries pending that are pending for nobody, claimable by the next search.

    FORCE makes them so; their idle time is a year, more than any lease.
    """
    head: Command = (b"XCLAIM", key, group, consumer, 0, *ids)
    return (*head, b"IDLE", 365 * 86_400_000, b"RETRYCOUNT", 0, b"FORCE", b"JUSTID")


def wait(replicas: int, ms: int) -> Command:
    """Wait until replicas have this connection's writes; the reply is how many do."""
    return (b"WAIT", replicas, ms)


def wait_aof(replicas: int, ms: int) -> Command:
    """Wait until append-only files have this connection's writes, our own too.

    The reply is how many do: this server's, 1 or 0, and replicas'.
    """
    return (b"WAITAOF", 1, replicas, ms)


def publish(channel: bytes, message: bytes) -> Command:
    """Tell those who have subscribed to a channel."""
    return (b"PUBLISH", channel, message)


def pubsub_numsub(channels: Iterable[bytes]) -> Command:
    """Count the connections that listen to each channel; the reply is flat pairs."""
    return (b"PUBSUB", b"NUMSUB", *channels)


def subscribe(channels: Sequence[bytes]) -> Command:
    """Have what is published on channels pushed to this connection."""
    return (b"SUBSCRIBE", *channels)


def client_id() -> Command:
    """Ask for this connection's id."""
    return (b"CLIENT", b"ID")


def client_unblock(client: int) -> Command:
    """Let another connection's blocking read end as if its time were over."""
    return (b"CLIENT", b"UNBLOCK", client, b"TIMEOUT")


def time() -> Command:
    """Ask what time the server has."""
    return (b"TIME",)


def role() -> Command:
    """Ask whether this is a `master`, a `slave` or a `sentinel`; its first word."""
    return (b"ROLE",)


def sentinel_primary(service: str) -> Command:
    """Ask a sentinel for host and port of what it watches by a name; nil if nothing."""
    return (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", service)


def info(section: bytes) -> Command:
    """Ask how the server is doing, one section of it."""
    return (b"INFO", section)
