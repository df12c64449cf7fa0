"""The permissions of each role: the tables of docs/how-to/security.md.

Its tests compare the page with this table, and live each role's life with these words.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

__all__ = ["PERMISSIONS", "OptionalWords", "Permissions", "Role"]


class Role(StrEnum):
    """What a user does."""

    PRODUCER = "producer"
    """Sends messages."""
    READER = "reader"
    """Reads without a group: `REALTIME`, `replay`, `penstock read` and `tail`."""
    CONSUMER = "consumer"
    """Reads in a group."""
    OWNER = "owner"
    """Reads in a group, and owns shards."""
    OPERATOR = "operator"
    """Changes groups and streams."""
    LOOKER = "looker"
    """Looks, and changes nothing; what exporters and the commands that look need."""


class OptionalWords(NamedTuple):
    """Words of the ACL that a role can do without.

    Attributes:
        words: The words, in which `orders` stands for the stream.
        purpose: What they are for.
        without: What happens without them.
    """

    words: str
    purpose: str
    without: str


class Permissions(NamedTuple):
    """The words of the ACL that a role needs, and those that it can do without.

    Attributes:
        needed: The words that it needs, in which `orders` stands for the stream.
        optional: The others.
    """

    needed: str
    optional: tuple[OptionalWords, ...]


PERMISSIONS: Final = {
    Role.PRODUCER: Permissions(
        "~orders ~orders:* +xadd",
        (
            OptionalWords(
                "~{orders}.sent.* ~{orders:*}.sent.* +eval +hmget +hset +hkeys +hdel "
                "+pexpire",
                "`idempotent=True`",
                "`ConfigurationError` on opening (`+eval`); `SendFailed`",
            ),
            OptionalWords(
                "~{orders}.shards +get +set",
                "`shards=` and `sharder=`: recording how many shards there are, and "
                "comparing",
                "it is not recorded (`shards_unchecked`), and consumers need `shards=`",
            ),
            OptionalWords("+wait", "`replicas=`", "`ConfigurationError` on opening"),
            OptionalWords(
                "+waitaof", "`durable=True`", "`ConfigurationError` on opening"
            ),
            OptionalWords(
                "+config|get",
                "`durable=True`, with `+info`: whether the server's `WAITAOF` can be "
                "believed",
                "`durability_unverified`",
            ),
            OptionalWords("+client|id +info", "see above", ""),
        ),
    ),
    Role.READER: Permissions(
        "~orders ~orders:* +xread +xinfo|stream",
        (
            OptionalWords(
                "~{orders}.shards +get",
                "finding shards by the stream's record (with several streams, `+mget` "
                "saves commands)",
                "the key `orders` alone is read, unless `shards=` names others; "
                "`looking_refused`",
            ),
            OptionalWords(
                "+set",
                "writing the record of shards again if the server has lost it",
                "the next producer that sends does so",
            ),
            OptionalWords(
                "+exists", "reading the key `orders` beside shards", "it is not read"
            ),
            OptionalWords(
                "+type",
                "`shards=DISCOVER`, which needs `+exists` too",
                "the key `orders` alone is read; `looking_refused`",
            ),
            OptionalWords(
                "+eval",
                "looking at a stream without receiving its first and last entries",
                "they are sent with every look: on opening, after an outage, by "
                "`lag()`, and while a stream is quiet, then at 50 kB/s on average",
            ),
            OptionalWords(
                "+client|id +client|unblock",
                "ending a blocked read",
                "closing takes up to a second, `seek`, `assign` and `unassign` up to "
                "two",
            ),
            OptionalWords(
                "+xrange +xrevrange",
                "`replay`, `penstock read` and `tail`, which need `+xinfo|stream` "
                "not, and `+xread` only to follow",
                "`AccessError`",
            ),
            OptionalWords("+info", "see above", ""),
        ),
    ),
    Role.CONSUMER: Permissions(
        "~orders ~orders:* ~orders.dead +xreadgroup +xgroup|create +xack +xpending "
        "+xclaim +xautoclaim +xrange +xadd",
        (
            OptionalWords(
                "~{orders}.shards +get",
                "finding shards by the stream's record",
                "the key `orders` alone is read, unless `shards=` names others; "
                "`looking_refused`",
            ),
            OptionalWords(
                "+set",
                "writing the record of shards again if the server has lost it",
                "the next producer that sends does so",
            ),
            OptionalWords(
                "+exists", "reading the key `orders` beside shards", "it is not read"
            ),
            OptionalWords(
                "+type",
                "`shards=DISCOVER`, which needs `+exists` too",
                "the key `orders` alone is read; `looking_refused`",
            ),
            OptionalWords(
                "+eval",
                "a dead letter written and acknowledged in one; leases renewed and "
                "starts counted only of what is still this consumer's; `lag()` "
                "without receiving each stream's first and last entries",
                "first the one, then the other: a crash in between writes it twice; a "
                "renewal that is late by half a lease may take a message back from "
                "another consumer; `lag()` receives them, on the connection that reads",
            ),
            OptionalWords(
                "+subscribe +publish &penstock:released:orders:* "
                "&penstock:consumer:orders:*",
                "hearing at once that a consumer which closes has given back",
                "others look every second",
            ),
            OptionalWords("+pubsub|numsub", "the warning `name_in_use`", "no warning"),
            OptionalWords(
                "+xinfo|consumers +xgroup|delconsumer",
                "removing consumers that are dead and have nothing pending",
                "they stay; `reaping_refused`",
            ),
            OptionalWords(
                "+xinfo|groups +xinfo|stream",
                "recreating a group that was deleted where it was; `lag()`; `seek` to "
                "`LATEST` or a time; a new group's `start=` as a time; "
                "`until_caught_up()`",
                "it is recreated at the beginning, and all that is in the stream is "
                "handled again; None; `AccessError`; ids of nanoseconds are not "
                "recognized, so that it begins before them; `AccessError`",
            ),
            OptionalWords("+multi +exec", "`lag()`", "None"),
            OptionalWords("+xgroup|setid", "`seek`", "`AccessError`"),
            OptionalWords(
                "+client|id +client|unblock",
                "ending a blocked read, also that of a connection which a failure of "
                "the network has cut off",
                "closing takes up to a second, `seek`, `assign` and `unassign` up to "
                "two; after such a failure a message may be handled after later ones",
            ),
            OptionalWords("+info", "see above", ""),
        ),
    ),
    Role.OWNER: Permissions(
        "~orders ~orders:* ~{orders}.shards ~{orders}.members:* ~{orders}.owner:* "
        "~{orders:*}.owner:* ~orders.dead +get +eval +time +hget +hmget +hgetall "
        "+hset +hdel +xreadgroup +xgroup|create +xack +xpending +xclaim +xrange +xadd",
        (
            OptionalWords(
                "+subscribe +publish &penstock:owners:orders:*",
                "hearing at once that members come and go, and that a shard is free",
                "members find it out with their next beats, every fifth of a lease; a "
                "hand-over takes seconds",
            ),
            OptionalWords(
                "+xinfo|consumers +xgroup|delconsumer",
                "removing the consumers under whose names a shard was read before",
                "they stay, one more with each hand-over; `reaping_refused`",
            ),
            OptionalWords(
                "+set",
                "writing the record of shards again if the server has lost it",
                "the next producer that sends does so",
            ),
            OptionalWords(
                "+exists", "reading the key `orders` beside shards", "it is not read"
            ),
            OptionalWords(
                "+type",
                "`shards=DISCOVER`, which needs `+exists` too",
                "`AccessError` on opening",
            ),
            OptionalWords(
                "+xinfo|groups",
                "recreating a group that was deleted where it was; `until_caught_up()`",
                "it is recreated at the beginning, and all that is in the stream is "
                "handled again; `AccessError`",
            ),
            OptionalWords(
                "+xinfo|stream +multi +exec",
                "`lag()`, with `+xinfo|groups`; of these `+xinfo|stream` also for "
                "`until_caught_up()`",
                "None; `AccessError`",
            ),
            OptionalWords(
                "+client|id +client|unblock",
                "ending a blocked read",
                "closing and handing a shard over take up to two seconds",
            ),
            OptionalWords("+info", "see above", ""),
        ),
    ),
    Role.OPERATOR: Permissions(
        "~orders ~orders:* +multi +exec +xinfo|stream +xinfo|groups +xpending",
        (
            OptionalWords(
                "~{orders}.shards +get +exists",
                "finding shards by the stream's record",
                "the key `orders` alone is looked at; `looking_refused`",
            ),
            OptionalWords(
                "+type",
                "`shards=DISCOVER`, which needs `+exists` too",
                "the key `orders` alone is looked at; `looking_refused`",
            ),
            OptionalWords(
                "+set", "`set_shards`, which needs `+eval` too", "`AccessError`"
            ),
            OptionalWords(
                "+xgroup|create +xgroup|setid +xack", "`reset_group`", "`AccessError`"
            ),
            OptionalWords(
                "+xinfo|consumers",
                "`consumers`, `claim`, `delete_group`, `delete_consumer`",
                "`AccessError`",
            ),
            OptionalWords(
                "+xclaim", "`claim`, which needs `+eval` too", "`AccessError`"
            ),
            OptionalWords(
                "&penstock:released:orders:*",
                "consumers that take what was claimed at once, with `+publish`",
                "they take it with their next search",
            ),
            OptionalWords("+xgroup|destroy", "`delete_group`", "`AccessError`"),
            OptionalWords(
                "+xgroup|delconsumer",
                "`delete_consumer`, which needs `+eval` too",
                "`AccessError`",
            ),
            OptionalWords(
                "+xdel +xrange",
                "`delete_entries`; `+xrange` for `reset_effect` as well",
                "`AccessError`",
            ),
            OptionalWords("+unlink", "`delete_stream`", "`AccessError`"),
            OptionalWords(
                "+exists +hmget",
                "deleting with a stream what groups have stored about its owned "
                "shards, which needs the keys of `owners`, `+eval` and `+time` too",
                "it stays",
            ),
            OptionalWords(
                "+scan",
                "`streams`, which asks for the records of all streams whose names may "
                "be those of shards",
                "`AccessError`",
            ),
            OptionalWords(
                "~{orders}.members:* ~{orders}.owner:* ~{orders:*}.owner:* +time "
                "+hgetall +hmget",
                "`owners`",
                "`AccessError`",
            ),
            OptionalWords(
                "+hget +hset +hdel",
                "`move`, which needs the words of `owners` and `+eval` too",
                "`AccessError`",
            ),
            OptionalWords(
                "+publish &penstock:owners:orders:*",
                "members that look at once when a shard is moved",
                "they look with their next beats, every fifth of a lease",
            ),
            OptionalWords(
                "+eval",
                "`group_state` without receiving each stream's first and last entries",
                "they are sent with every call",
            ),
            OptionalWords("+client|id", "see above", ""),
        ),
    ),
    Role.LOOKER: Permissions(
        "~orders ~orders:* +xinfo|stream +xinfo|groups +xinfo|consumers +xpending",
        (
            OptionalWords(
                "~{orders}.shards +get +exists",
                "finding shards by the stream's record",
                "the key `orders` alone is looked at; `looking_refused`",
            ),
            OptionalWords(
                "+scan",
                "commands without the name of a stream, patterns, and the names that "
                "there are where one is not found",
                "`AccessError`; the names are not listed",
            ),
            OptionalWords(
                "~orders.dead +xlen",
                "the number of dead letters, and the length of streams with large "
                "entries between two descriptions",
                "it is not known; the length is up to a minute old",
            ),
            OptionalWords(
                "+time",
                "ages by the server's clock",
                "they are by the clock of the machine that asks",
            ),
            OptionalWords(
                "+xrange",
                "the age of what was not delivered, where nothing is pending",
                "it is not known",
            ),
            OptionalWords(
                "+command|info",
                "an exact lag after entries were trimmed or deleted, from Redis 8.2 "
                "and Valkey 9 on",
                "an upper bound",
            ),
            OptionalWords("+memory|usage", "the memory of `info`", "it is not known"),
            OptionalWords(
                "+info",
                "the version and memory of `top`; most checks of `doctor`",
                "they are not shown; what `+config|get` does not tell either is not "
                "known",
            ),
            OptionalWords(
                "+config|get",
                "the settings that `doctor` checks",
                "those that `INFO` has come from there; the others are not known",
            ),
            OptionalWords(
                "+acl|whoami +acl|dryrun",
                "`doctor --role`, which asks what the user may do; from Redis 7.0 on",
                "it tries harmless forms of the commands, and `ACL LOG` has a line "
                "for each that is refused",
            ),
            OptionalWords(
                "+ping",
                "the round trips of `doctor`",
                "it measures how long refusals take",
            ),
            OptionalWords(
                "+eval",
                "`doctor` tries a script that does nothing",
                "it warns that scripts are refused",
            ),
            OptionalWords(
                "+client|id",
                "see above; `doctor` tries it",
                "it warns that `CLIENT` is refused",
            ),
        ),
    ),
}
"""The permissions of each role."""
