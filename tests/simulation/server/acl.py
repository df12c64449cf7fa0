"""Users and their permissions."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from simulation.server.resp import Refusal

if TYPE_CHECKING:
    from simulation.server.table import Command

__all__ = ["Denied", "User", "Users", "matches"]


def matches(pattern: bytes, word: bytes) -> bool:
    """Return whether a glob pattern matches a word."""
    if b"\\" in pattern:
        pattern = pattern.replace(b"\\", b"")
        return pattern == word
    return fnmatchcase(
        word.decode("latin-1"), pattern.decode("latin-1").replace("[^", "[!")
    )


class Denied(NamedTuple):
    """What a user may not do.

    Attributes:
        reason: `command`, `key` or `channel`.
        object: The command's name, the key or the channel.
    """

    reason: str
    object: bytes


class User:
    """A user.

    Attributes:
        name: The name.
        enabled: Whether the user may log in.
        needs_no_password: Whether any password will do.
        passwords: Hashes of the passwords.
        commands: The names of the commands that are allowed.
        keys: The patterns of the keys that are allowed, with how: R, W or RW.
        channels: The patterns of the channels that are allowed.
        unlimited: Whether everything is allowed.
        selectors: More permissions, each of which is enough for a command by itself.
    """

    def __init__(self, name: bytes, table: dict[bytes, Command]) -> None:
        self.name = name
        self._table = table
        self.reset()

    def reset(self) -> None:
        """Take all rights."""
        self.enabled = False
        self.needs_no_password = False
        self.passwords: dict[bytes, None] = {}
        self.commands: set[str] = set()
        self.keys: dict[bytes, str] = {}
        self.channels: dict[bytes, None] = {}
        self.rules: list[bytes] = []
        self.unlimited = False
        self.selectors: list[User] = []

    def apply(self, rules: Sequence[bytes]) -> None:
        """Apply rules of ACL SETUSER.

        Raises:
            Refusal: One of them is no rule.
        """
        for rule in rules:
            if not self._apply(rule):
                raise Refusal(
                    b"ERR Error in ACL SETUSER modifier '%b': Syntax error" % rule
                )
        everything = {name for name, _ in self._all()}
        self.unlimited = (
            self.keys.get(b"*") == "RW"
            and b"*" in self.channels
            and everything <= self.commands
        )

    def _apply(self, rule: bytes) -> bool:
        word = rule.lower()
        sign, rest = rule[:1], rule[1:]
        if self._apply_word(word):
            return True
        if sign == b">":
            self.passwords[_hash(rest)] = None
            self.needs_no_password = False
        elif sign == b"<":
            self.passwords.pop(_hash(rest), None)
        elif sign == b"#":
            self.passwords[rest] = None
        elif sign == b"~":
            self.keys[rest] = "RW"
        elif sign == b"%":
            modes, _, pattern = rest.partition(b"~")
            self.keys[pattern] = modes.decode().upper()
        elif sign == b"&":
            self.channels[rest] = None
        elif sign == b"(":
            selector = User(self.name, self._table)
            selector.apply(rule.strip(b"()").split())
            self.selectors.append(selector)
        elif sign in {b"+", b"-"}:
            return self._apply_command(rest.decode().lower(), add=sign == b"+")
        else:
            return False
        return True

    def _apply_word(self, word: bytes) -> bool:
        match word:
            case b"on" | b"off":
                self.enabled = word == b"on"
            case b"nopass":
                self.needs_no_password = True
                self.passwords.clear()
            case b"resetpass":
                self.needs_no_password = False
                self.passwords.clear()
            case b"allkeys":
                self.keys[b"*"] = "RW"
            case b"resetkeys":
                self.keys.clear()
            case b"allchannels":
                self.channels[b"*"] = None
            case b"resetchannels":
                self.channels.clear()
            case b"clearselectors":
                self.selectors.clear()
            case b"allcommands":
                self._apply_command("@all", add=True)
            case b"nocommands":
                self._apply_command("@all", add=False)
            case b"reset":
                self.reset()
            case _:
                return False
        return True

    def _all(self) -> list[tuple[str, Command]]:
        found = []
        for entry in self._table.values():
            found.append((entry.name, entry))
            found += [(sub.name, sub) for sub in entry.subcommands.values()]
        return found

    def _apply_command(self, name: str, *, add: bool) -> bool:
        if name == "@all":
            names = {each for each, _ in self._all()}
        elif name[:1] == "@":
            names = {each for each, c in self._all() if name[1:] in c.categories}
        else:
            names = {
                each
                for each, _ in self._all()
                if each == name or each.startswith(f"{name}|")
            }
            if not names:
                return False
        if add:
            self.commands |= names
        else:
            self.commands -= names
        return True

    def denies(self, command: Command, words: Sequence[bytes]) -> Denied | None:
        """Return what of a command the user may not do, if anything."""
        if self.unlimited:
            return None
        denied = self._denies(command, words)
        if denied is not None and self.selectors:
            more = [each.denies(command, words) for each in self.selectors]
            return None if None in more else denied
        return denied

    def _denies(self, command: Command, words: Sequence[bytes]) -> Denied | None:
        if command.name not in self.commands:
            return Denied("command", command.name.encode())
        mode = "W" if command.writes else "R"
        for key in command.keys_in(words):
            if not self._may_use(key, mode):
                return Denied("key", key)
        for channel in _channels(command, words):
            if not any(matches(pattern, channel) for pattern in self.channels):
                return Denied("channel", channel)
        return None

    def _may_use(self, key: bytes, mode: str) -> bool:
        return any(mode in modes and matches(p, key) for p, modes in self.keys.items())

    def knows(self, password: bytes) -> bool:
        """Return whether the user may log in with a password."""
        known = self.needs_no_password or _hash(password) in self.passwords
        return self.enabled and known


def _channels(command: Command, words: Sequence[bytes]) -> list[bytes]:
    if command.name in {"publish", "spublish"}:
        return list(words[1:2])
    if command.name in {"subscribe", "psubscribe"}:
        return list(words[1:])
    return []


def _hash(password: bytes) -> bytes:
    return sha256(password).hexdigest().encode()


class Users:
    """The users of a server.

    Attributes:
        default: The user of a connection that has not logged in.
        log: What was refused: the user's name, and what; the newest first.
    """

    def __init__(self, table: dict[bytes, Command]) -> None:
        self._table = table
        self.default = User(b"default", table)
        rules = (b"on", b"nopass", b"~*", b"&*", b"+@all")
        self.default.apply(rules)
        self.by_name = {b"default": self.default}
        self.log: list[tuple[bytes, Denied]] = []

    def get_or_make(self, name: bytes) -> User:
        """Return a user, a new one without rights if there is none of the name."""
        user = self.by_name.get(name)
        if user is None:
            user = self.by_name[name] = User(name, self._table)
        return user
