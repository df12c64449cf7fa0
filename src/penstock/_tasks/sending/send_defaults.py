"""How messages are sent: in general, and as a call chooses."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from msgspec import Struct

from penstock._core.sending.accumulator import Durability
from penstock.codecs import Encode
from penstock.errors import ConfigurationError
from penstock.message import EntryId
from penstock.options import Duration, count, seconds
from penstock.outgoing import chosen_id
from penstock.retention import KEEP_ALL, Retention, retention_of

__all__ = ["MessageChoices", "SendDefaults", "choose", "flag", "timeout_of"]


class SendDefaults(Struct, frozen=True):
    """How messages are sent unless a call says otherwise.

    Attributes:
        encode: Gives a payload's bytes, and their content type.
        timeout: Seconds to the outcome at most.
        retention: How much of the stream is kept.
        replicas: On how many replicas they have to be.
        durable: Whether they have to be in append-only files.
        special: Whether one of these four makes a send another one.
    """

    encode: Encode
    timeout: float | None = None
    retention: Retention | None = None
    replicas: int = 0
    durable: bool = False
    special: bool = False

    @classmethod
    def of(
        cls,
        encode: Encode,
        timeout: float | None,
        retention: Retention | None,
        *,
        replicas: int = 0,
        durable: bool = False,
    ) -> SendDefaults:
        """Make one.

        Raises:
            ConfigurationError: `replicas` or `durable` makes no sense.
        """
        count(replicas, "replicas", least=0)
        flag(durable, "durable")
        special = timeout is not None or retention not in (None, KEEP_ALL)
        special = special or replicas > 0 or durable
        return cls(encode, timeout, retention, replicas, durable, special)

    def override(
        self,
        encode: Encode | None,
        timeout: float | None,
        retention: Retention | None,
        *,
        replicas: int | None = None,
        durable: bool | None = None,
    ) -> SendDefaults:
        """Give the same, but for what is given here.

        Raises:
            ConfigurationError: `replicas` or `durable` makes no sense.
        """
        return SendDefaults.of(
            self.encode if encode is None else encode,
            self.timeout if timeout is None else timeout,
            self.retention if retention is None else retention,
            replicas=self.replicas if replicas is None else replicas,
            durable=self.durable if durable is None else durable,
        )


class MessageChoices(NamedTuple):
    """What is special about a message.

    Attributes:
        limit: Seconds to the outcome at most, or None.
        retention: How much of the stream is kept.
        durability: Where else it has to be.
        id: Its id, or what of it the server is to choose.
        ms: Its time, if that was chosen.
    """

    limit: float | None
    retention: Retention | None
    durability: Durability | None
    id: bytes
    ms: int | None


def timeout_of(value: Duration | None, option: str) -> float | None:
    """Take a timeout.

    Raises:
        ConfigurationError: It is neither None nor a duration above 0.
    """
    return None if value is None else seconds(value, option, zero=False)


def flag(value: bool, option: str) -> bool:  # noqa: FBT001 - it is what is checked
    """Take a yes or no.

    Raises:
        ConfigurationError: It is neither.
    """
    if type(value) is not bool:
        raise ConfigurationError(f"{option}={value!r:.60} won't do; give True or False")
    return value


def choose(
    defaults: SendDefaults,
    *,
    timeout: Duration | None = None,
    retention: Retention | None = None,
    replicas: int | None = None,
    durable: bool | None = None,
    id: EntryId | str | None = None,  # noqa: A002 - as the user says it
    timestamp: datetime | int | None = None,
) -> MessageChoices:
    """Put together what a call chose and how its messages go anyway.

    Raises:
        ConfigurationError: Something makes no sense.
    """
    limit = defaults.timeout if timeout is None else timeout_of(timeout, "timeout")
    kept = defaults.retention if retention is None else retention_of(retention)
    copies = (
        defaults.replicas if replicas is None else count(replicas, "replicas", least=0)
    )
    disk = defaults.durable if durable is None else flag(durable, "durable")
    durability = Durability(copies, disk, limit) if copies or disk else None
    return MessageChoices(limit, kept, durability, *chosen_id(id, timestamp))
