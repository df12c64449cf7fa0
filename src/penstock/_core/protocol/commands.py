"""Redis commands as values: one pure builder per command.

A command is the tuple of its words, ready for `hiredis.pack_command`. The facts about
the commands are from their pages at https://redis.io/docs/latest/commands/.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

__all__ = ["Command", "Word", "name_of"]

Word: TypeAlias = bytes | str | int
Command: TypeAlias = tuple[Word, ...]


# Commands whose second word belongs to the name.
_CONTAINERS: Final = frozenset(
    (b"ACL", b"CLIENT", b"COMMAND", b"MEMORY", b"PUBSUB", b"XGROUP", b"XINFO")
)


def name_of(command: Command) -> str:
    """Return a command's name, for a report; it has no argument in it."""
    count = 2 if command[0] in _CONTAINERS else 1
    words = command[:count]
    return " ".join(w.decode() if isinstance(w, bytes) else str(w) for w in words)


def transaction(batch: Iterable[Command]) -> list[Command]:
    """Run commands with no other command in between; the last reply has all theirs."""
    return [(b"MULTI",), *batch, (b"EXEC",)]


def xadd(
    key: bytes,
    fields: Iterable[Word],
    id: Word = b"*",  # noqa: A002
    trim: Command = (),
) -> Command:
    """Append an entry, then trim old entries; the reply is the new entry's id."""
    return (b"XADD", key, *trim, id, *fields)


def xread(
    keys: Sequence[bytes], after: Sequence[Word], count: int, block: int | None
) -> Command:
    """Read the entries above an id, for each key.

    COUNT is per key. The command waits up to `block` milliseconds for the first entry,
    and not at all if `block` is None.
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
    """Read entries that the group has not delivered to any consumer yet.

    COUNT is per key. The command waits up to `block` milliseconds for the first entry,
    and not at all if `block` is None. With NOACK the server counts the entries as
    acknowledged at once.
    """
    head = (b"XREADGROUP", b"GROUP", group, consumer, b"COUNT", count)
    wait: Command = () if block is None else (b"BLOCK", block)
    if noack:
        wait += (b"NOACK",)
    live = (b">",) * len(keys)
    return (*head, *wait, b"STREAMS", *keys, *live)


def xrange_one(key: bytes, id: bytes) -> Command:  # noqa: A002
    """Read one entry, if it exists."""
    return (b"XRANGE", key, id, id)


def xrange_between(key: bytes, low: bytes, high: bytes, count: int) -> Command:
    """Read the entries from one id to another, both included, the lowest first."""
    return (b"XRANGE", key, low, high, b"COUNT", count)


def xrevrange_between(key: bytes, high: bytes, low: bytes, count: int) -> Command:
    """Read the entries from an id down to another, both included, highest first."""
    return (b"XREVRANGE", key, high, low, b"COUNT", count)


def xrevrange_last(key: bytes) -> Command:
    """Read the entry with the highest id, if the stream has any entry."""
    return xrevrange_between(key, b"+", b"-", 1)


def xdel(key: bytes, ids: Iterable[bytes]) -> Command:
    """Delete entries; the reply is the number of them that existed."""
    return (b"XDEL", key, *ids)


def xtrim(key: bytes, trim: Command) -> Command:
    """Trim old entries; the reply is the number of deleted entries."""
    return (b"XTRIM", key, *trim)


def xack(key: bytes, group: Word, ids: Iterable[bytes]) -> Command:
    """Acknowledge entries; the reply is the number of them that were pending."""
    return (b"XACK", key, group, *ids)


def xpending_page(
    key: bytes, group: Word, consumer: Word | None, after: bytes, count: int
) -> Command:
    """List pending entries above an id: id, owner, idle time, deliveries.

    The page has the pending entries of one consumer, or of all consumers if `consumer`
    is None.
    """
    # "(" makes the start exclusive, from Redis 6.2 on.
    page = (b"XPENDING", key, group, b"(" + after, b"+", count)
    return page if consumer is None else (*page, consumer)


def hget(key: bytes, field: Word) -> Command:
    """Return a field of a hash."""
    return (b"HGET", key, field)


def xpending_summary(key: bytes, group: Word) -> Command:
    """Ask for the number and the lowest and highest id of a group's pending entries."""
    return (b"XPENDING", key, group)


def xpending_between(
    key: bytes,
    group: Word,
    consumer: Word | None,
    *,
    low: bytes,
    high: bytes,
    count: int,
    idle: int = 0,
) -> Command:
    """List pending entries from one id to another, both included.

    They are those of a consumer, or of all consumers without one. With `idle`, entries
    that were delivered or claimed in the last so many milliseconds are left out. A `(`
    before an id excludes it.
    """
    own = () if consumer is None else (consumer,)
    longer = (b"IDLE", idle) if idle else ()
    return (b"XPENDING", key, group, *longer, low, high, count, *own)


def xautoclaim(
    key: bytes, group: str, consumer: str, *, idle: int, cursor: bytes, count: int
) -> Command:
    """Claim entries that have been idle for `idle` milliseconds, from a cursor on.

    The server scans at most ten times `count` entries. With JUSTID it does not send the
    bodies and does not change the delivery counts.
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

    Entries that have been idle for less than `idle` milliseconds are not claimed. With
    JUSTID the server does not send the bodies and does not change the delivery counts,
    unless `words` set them.
    """
    return (b"XCLAIM", key, group, consumer, idle, *ids, *words, b"JUSTID")


def xgroup_create(key: bytes, group: str, after: Word, *, mkstream: bool) -> Command:
    """Create a group that delivers the entries above an id (`$`: only new ones)."""
    command = (b"XGROUP", b"CREATE", key, group, after)
    return (*command, b"MKSTREAM") if mkstream else command


def xgroup_setid(key: bytes, group: str, after: bytes) -> Command:
    """Set a group's position, after which it delivers all entries above an id.

    Entries that were delivered before are delivered again. Pending entries stay
    pending.
    """
    return (b"XGROUP", b"SETID", key, group, after)


def exists(keys: Iterable[bytes]) -> Command:
    """Count the keys that exist."""
    return (b"EXISTS", *keys)


def key_type(key: bytes) -> Command:
    """Ask for the type of a key: `stream`, another type, or `none`."""
    return (b"TYPE", key)


def get(key: bytes) -> Command:
    """Read a string; the reply is None if there is no such key."""
    return (b"GET", key)


def mget(keys: Iterable[bytes]) -> Command:
    """Read several strings; None for each key that is missing or no string."""
    return (b"MGET", *keys)


def hgetall(key: bytes) -> Command:
    """Read all fields of a hash; none if there is no such key."""
    return (b"HGETALL", key)


def hmget(key: bytes, fields: Iterable[bytes]) -> Command:
    """Read fields of a hash; None for each that is missing."""
    return (b"HMGET", key, *fields)


def scan_streams(cursor: bytes, count: int) -> Command:
    """List some of the keys that are streams, from a cursor on; the first is `0`."""
    return (b"SCAN", cursor, b"TYPE", b"stream", b"COUNT", count)


def set_if_missing(key: bytes, value: bytes) -> Command:
    """Set a string unless the key exists; then the reply is None."""
    return (b"SET", key, value, b"NX")


def xlen(key: bytes) -> Command:
    """Count the entries of a stream; 0 if there is no such key."""
    return (b"XLEN", key)


def memory_usage(key: bytes, samples: int) -> Command:
    """Estimate the bytes of a key, by so many samples; None if it is missing."""
    return (b"MEMORY", b"USAGE", key, b"SAMPLES", samples)


def unlink(key: bytes) -> Command:
    """Delete a key and free it in the background, unlike DEL; the reply is 1 or 0."""
    return (b"UNLINK", key)


def pexpire(key: bytes, ms: int) -> Command:
    """Delete a key after a time, 0 at once; the reply is 0 if there is no such key."""
    return (b"PEXPIRE", key, ms)


def xinfo_stream(key: bytes) -> Command:
    """Describe a stream, including its last generated id."""
    return (b"XINFO", b"STREAM", key)


def xinfo_groups(key: bytes) -> Command:
    """Describe a stream's groups: consumers, pending, last delivered id, lag."""
    return (b"XINFO", b"GROUPS", key)


def counts_lag() -> Command:
    """Ask for commands that exist only on servers that count the lag correctly.

    These servers are Redis 8.2 and Valkey 9. Before Redis 8.0 and patch releases of
    older versions, a group's counter missed entries that were trimmed or deleted before
    it had delivered them (redis/redis#13957), and no reply of such a server shows that.
    """
    return (b"COMMAND", b"INFO", b"XACKDEL", b"DELIFEQ")


def xinfo_consumers(key: bytes, group: Word) -> Command:
    """Describe a group's consumers: name, pending, idle time."""
    return (b"XINFO", b"CONSUMERS", key, group)


def xgroup_destroy(key: bytes, group: Word) -> Command:
    """Delete a group with all it has pending; the reply is 0 if there was none."""
    return (b"XGROUP", b"DESTROY", key, group)


def xgroup_delconsumer(key: bytes, group: str, consumer: Word) -> Command:
    """Remove a consumer, and with it all its pending entries."""
    return (b"XGROUP", b"DELCONSUMER", key, group, consumer)


def xclaim_restore(
    key: bytes, group: str, consumer: str, ids: Iterable[bytes]
) -> Command:
    """Make entries pending again that are in no pending list, ready to be claimed.

    FORCE adds them to the pending list. Their idle time is a year, which exceeds any
    lease, so the next search for idle entries claims them.
    """
    head: Command = (b"XCLAIM", key, group, consumer, 0, *ids)
    return (*head, b"IDLE", 365 * 86_400_000, b"RETRYCOUNT", 0, b"FORCE", b"JUSTID")


def wait(replicas: int, ms: int) -> Command:
    """Wait until replicas have this connection's writes; the reply is how many do."""
    return (b"WAIT", replicas, ms)


def wait_aof(replicas: int, ms: int) -> Command:
    """Wait until append-only files have this connection's writes, the server's own too.

    The reply is the number of files that have the writes: the server's own (1 or 0),
    and those of replicas.
    """
    return (b"WAITAOF", 1, replicas, ms)


def publish(channel: bytes, message: bytes) -> Command:
    """Publish a message to the subscribers of a channel."""
    return (b"PUBLISH", channel, message)


def pubsub_numsub(channels: Iterable[bytes]) -> Command:
    """Count the subscribers of each channel; the reply is flat pairs."""
    return (b"PUBSUB", b"NUMSUB", *channels)


def subscribe(channels: Sequence[bytes]) -> Command:
    """Subscribe this connection to channels; the server pushes their messages to it."""
    return (b"SUBSCRIBE", *channels)


def hello(user: str | None, password: str | None) -> Command:
    """Choose RESP3, and log in if there is a password."""
    login: Command = ()
    if password is not None:
        login = (b"AUTH", user or b"default", password)
    return (b"HELLO", 3, *login)


def auth(user: str | None, password: str) -> Command:
    """Log in."""
    return (b"AUTH", password) if user is None else (b"AUTH", user, password)


def select(database: int) -> Command:
    """Choose a database."""
    return (b"SELECT", database)


def client_setname(name: str) -> Command:
    """Name this connection, for CLIENT LIST."""
    return (b"CLIENT", b"SETNAME", name)


def client_id() -> Command:
    """Ask for this connection's id."""
    return (b"CLIENT", b"ID")


def client_unblock(client: int) -> Command:
    """End the blocking read of another connection as if its timeout had expired."""
    return (b"CLIENT", b"UNBLOCK", client, b"TIMEOUT")


def time() -> Command:
    """Ask for the server's time."""
    return (b"TIME",)


def role() -> Command:
    """Ask for the server's role: `master`, `slave` or `sentinel`, as the first word."""
    return (b"ROLE",)


def sentinel_primary(service: str) -> Command:
    """Ask a sentinel for the host and port of a service's primary; nil if unknown."""
    return (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", service)


def config_get(setting: bytes) -> Command:
    """Ask for a setting of the server; the reply has the setting by its name."""
    return (b"CONFIG", b"GET", setting)


def info(section: bytes) -> Command:
    """Ask for one section of the server's INFO."""
    return (b"INFO", section)
