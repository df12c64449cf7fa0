"""Versions of the server, and the switches by which their behaviour differs.

What each switch stands for was found on the real servers and is held against them by
`test_server_model.py`; FACTS.md lists it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["REDIS_6_2", "REDIS_7_0", "REDIS_8_2", "VALKEY_9", "VERSIONS", "Version"]


@dataclass(frozen=True)
class Version:
    """One server's version.

    Attributes:
        label: The name by which it is chosen, for example on a command line.
        name: The server's own name, as HELLO gives it.
        number: Its version.
        major: The Redis version whose features it has, as (major, minor).
        counts_entries: Whether streams count the entries that they ever had, and groups
            those that they delivered.
        counts_past_deletions: Whether a group's counter is only incremented where no
            deleted entry lies ahead of its position, and else estimated anew.
        checks_entries_read: Whether ENTRIESREAD is bounded by the entries ever added.
        lag_minds_trimming: Whether the lag leaves out entries that were trimmed before
            the group got there.
        setid_minds_deleted: Whether XSETID refuses an id below that of an entry that
            was deleted.
        forgets_deleted: Whether XCLAIM and XAUTOCLAIM remove deleted entries from the
            pending list, and XAUTOCLAIM names them.
        eager_consumers: Whether a consumer is created, and seen, as soon as it asks for
            something, even if it gets nothing.
        active_times: Whether consumers have a time of their last success.
        reruns_blocked: Whether a blocked command is run again from the beginning when
            one of its keys changes, instead of being served from that key alone.
        wakes_on_deletion: Whether a blocked XREADGROUP ends when its key is deleted.
        wait_aof: Whether there is WAITAOF.
        auto_sequence: Whether XADD takes `ms-*`.
        script_errors: How the error of a script is worded: `6.2`, `7.0` or `valkey`.
        acl_errors: How a refusal by the ACL is worded: `6.2`, `7.0` or `7.2`.
        scripts_may_block: Whether a script may ask for BLOCK, which is ignored.
        own_messages_first: Whether a client gets a message that it publishes to itself
            before the reply to PUBLISH.
        subcommands: Whether subcommands are commands of their own, with their own
            arity, permission and name in errors.
    """

    label: str
    name: str
    number: str
    major: tuple[int, int]
    counts_entries: bool = True
    counts_past_deletions: bool = True
    checks_entries_read: bool = False
    lag_minds_trimming: bool = False
    setid_minds_deleted: bool = True
    forgets_deleted: bool = True
    eager_consumers: bool = True
    active_times: bool = True
    reruns_blocked: bool = True
    wakes_on_deletion: bool = True
    wait_aof: bool = True
    auto_sequence: bool = True
    script_errors: str = "7.0"
    acl_errors: str = "7.2"
    scripts_may_block: bool = True
    own_messages_first: bool = False
    subcommands: bool = True

    @property
    def valkey(self) -> bool:
        """Whether this is a Valkey."""
        return self.name == "valkey"


REDIS_6_2 = Version(
    "redis_6_2",
    "redis",
    "6.2.14",
    (6, 2),
    counts_entries=False,
    counts_past_deletions=False,
    setid_minds_deleted=False,
    forgets_deleted=False,
    eager_consumers=False,
    active_times=False,
    reruns_blocked=False,
    wakes_on_deletion=False,
    wait_aof=False,
    auto_sequence=False,
    script_errors="6.2",
    acl_errors="6.2",
    scripts_may_block=False,
    own_messages_first=True,
    subcommands=False,
)
REDIS_7_0 = Version(
    "redis_7_0",
    "redis",
    "7.0.15",
    (7, 0),
    acl_errors="7.0",
    setid_minds_deleted=False,
    eager_consumers=False,
    counts_past_deletions=False,
    active_times=False,
    reruns_blocked=False,
    wait_aof=False,
    scripts_may_block=False,
    own_messages_first=True,
)
REDIS_8_2 = Version(
    "redis_8_2",
    "redis",
    "8.2.3",
    (8, 2),
    checks_entries_read=True,
    lag_minds_trimming=True,
)
VALKEY_9 = Version("valkey_9", "valkey", "9.1.2", (7, 2), script_errors="valkey")

VERSIONS = {
    version.label: version for version in (REDIS_6_2, REDIS_7_0, REDIS_8_2, VALKEY_9)
}
