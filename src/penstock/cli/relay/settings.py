"""What `penstock relay` moves where; the workers get it in their environment.

The URL of the target may have a password, and every user can read the arguments of a
process.
"""

from __future__ import annotations

import os
from typing import Final, Literal

import msgspec

from penstock._core.protocol.relay_script import Push, to_list, to_stream
from penstock._core.protocol.trimming import trim_words
from penstock.retention import MaxAge, MaxLen

__all__ = ["RelaySettings"]

_VARIABLE: Final = "PENSTOCK_RELAY_SETTINGS"


class RelaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is moved where, and how.

    Attributes:
        stream: The stream.
        group: The group that reads it.
        target: The name of the list, or of the other stream.
        to_stream: Whether the target is a stream.
        to_url: The target's server; None for the stream's own.
        format: What is pushed to a list.
        side: The end of the list at which elements are pushed.
        max_queue: The length of the list from which on nothing is pushed.
        max_len: About how many messages of the target stream are kept.
        max_age: About how old the messages of the target stream may become, in seconds.
        batch: The most messages that are pushed at a time.
        exact: Whether messages are pushed and acknowledged in one step.
        name: The beginning of the consumers' names.
        workers: The file that is locked while workers run; empty for none.
        close_timeout: Seconds that a batch may take when the relay drains.
    """

    stream: str
    group: str
    target: str
    to_stream: bool = False
    to_url: str | None = None
    format: Literal["payload", "fields", "envelope"] = "payload"
    side: Literal["right", "left"] = "right"
    max_queue: int | None = None
    max_len: int | None = None
    max_age: float | None = None
    batch: int = 100
    exact: bool = True
    name: str = "relay"
    workers: str = ""
    close_timeout: float = 10.0

    def hand_over(self) -> None:
        """Have the processes that are started from now on find these settings."""
        os.environ[_VARIABLE] = msgspec.json.encode(self).decode()

    @classmethod
    def handed_over(cls) -> RelaySettings:
        """Return the settings of the process that has started this one."""
        return msgspec.json.decode(os.environ.pop(_VARIABLE), type=cls)

    @property
    def retention(self) -> MaxLen | MaxAge | None:
        """How much of the target stream is kept.

        Raises:
            ConfigurationError: It is not a valid number or age.
        """
        if self.max_len is not None:
            return MaxLen(self.max_len)
        return None if self.max_age is None else MaxAge(self.max_age)

    def push(self, now: float) -> Push:
        """Return where messages go.

        Args:
            now: The time, in seconds since 1970.
        """
        target = self.target.encode()
        if self.to_stream:
            return to_stream(target, trim_words(self.retention, int(now * 1000)))
        return to_list(target, left=self.side == "left", most=self.max_queue)
