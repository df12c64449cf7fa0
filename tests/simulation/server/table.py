"""The table of commands: for each its arity, flags, keys and function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from simulation.server.resp import Reply
from simulation.server.texts import unknown_subcommand
from simulation.server.versions import Version

if TYPE_CHECKING:
    from simulation.server.sessions import Caller

__all__ = [
    "BLOCKED",
    "Command",
    "Handler",
    "Keys",
    "command",
    "commands_of",
    "container",
]

Handler: TypeAlias = Callable[[Any, list[bytes]], Reply]
Keys: TypeAlias = tuple[int, int, int] | Callable[[Sequence[bytes]], list[bytes]] | None
"""The first and last place of keys and their distance; or a function; or none."""

BLOCKED: Final = object()
"""What a command returns if its reply comes later."""

_CATEGORIES: Final = {
    "write": ("write",),
    "readonly": ("read",),
    "admin": ("admin", "dangerous"),
    "pubsub": ("pubsub",),
    "blocking": ("blocking",),
}


@dataclass(frozen=True, eq=False)
class Command:
    """A command, or a subcommand.

    Attributes:
        name: Its name in small letters: `xadd`, `client|id`.
        handler: Runs it.
        arity: The number of its words; negative: at least so many.
        flags: Its flags, as COMMAND INFO names them.
        categories: Its ACL categories.
        keys: Where its keys are.
        since: The first Redis version that has it.
        only: The servers that have it: `redis`, `valkey`, or empty for both.
        subcommands: Its subcommands by name in capitals.
    """

    name: str
    handler: Handler
    arity: int
    flags: frozenset[str]
    categories: frozenset[str]
    keys: Keys = None
    since: tuple[int, int] = (0, 0)
    only: str = ""
    subcommands: dict[bytes, Command] = field(default_factory=dict)
    # Copies of flags, because they are asked for each time.
    writes: bool = False
    denies_oom: bool = False
    no_script: bool = False
    stale: bool = False
    loading: bool = False
    no_multi: bool = False
    may_replicate: bool = False
    no_auth: bool = False
    while_busy: bool = False

    def keys_in(self, words: Sequence[bytes]) -> list[bytes]:
        """Return the keys among a command's words."""
        if self.keys is None:
            return []
        if callable(self.keys):
            return self.keys(words)
        first, last, step = self.keys
        end = len(words) + last if last < 0 else last
        return list(words[first : end + 1 : step])

    def exists_on(self, version: Version) -> bool:
        """Return whether a server has this command."""
        return self.since <= version.major and self.only in {"", version.name}

    def fits(self, count: int) -> bool:
        """Return whether a number of words is right."""
        return count == self.arity if self.arity >= 0 else count >= -self.arity


_all: list[Command] = []


def command(
    name: str,
    arity: int,
    flags: str = "",
    *,
    keys: Keys = None,
    since: tuple[int, int] = (0, 0),
    only: str = "",
) -> Callable[[Handler], Handler]:
    """Register a function as a command, or as a subcommand (`CLIENT|ID`).

    Args:
        name: The name.
        arity: The number of words, the name included; negative: at least so many.
        flags: Flags and, with `@`, categories that do not follow from the flags.
        keys: Where the keys are.
        since: The first Redis version that has it.
        only: The one kind of server that has it.
    """
    words = flags.split()
    plain = frozenset(word for word in words if word[0] != "@")
    categories = {word[1:] for word in words if word[0] == "@"}
    for flag in plain:
        categories.update(_CATEGORIES.get(flag, ()))
    categories.add("fast" if "fast" in plain else "slow")

    def register(handler: Handler) -> Handler:
        entry = Command(
            name.lower(),
            handler,
            arity,
            plain,
            frozenset(categories),
            keys,
            since,
            only,
            writes="write" in plain,
            denies_oom="denyoom" in plain,
            no_script="noscript" in plain,
            stale="stale" in plain,
            loading="loading" in plain,
            no_multi="no_multi" in plain,
            may_replicate="may_replicate" in plain,
            no_auth="no_auth" in plain,
            while_busy="allow_busy" in plain,
        )
        _all.append(entry)
        return handler

    return register


def container(name: str, flags: str = "") -> None:
    """Register a command that has subcommands and does nothing itself."""

    def refuse(caller: Caller, words: list[bytes]) -> Reply:
        own = caller.server.version.subcommands
        raise unknown_subcommand(name, words[1], own=own)

    command(name, -2, flags)(refuse)


def commands_of(version: Version) -> dict[bytes, Command]:
    """Return the commands that a server has, by name in capitals.

    A command whose arity differs is registered once for each arity. The newest one that
    the server has is taken.
    """
    table: dict[bytes, Command] = {}
    for entry in sorted(_all, key=lambda each: each.since):
        if entry.exists_on(version) and "|" not in entry.name:
            table[entry.name.upper().encode()] = replace(entry, subcommands={})
    for entry in _all:
        owner, _, sub = entry.name.upper().encode().partition(b"|")
        if sub and entry.exists_on(version):
            table[owner].subcommands[sub] = entry
    return table
