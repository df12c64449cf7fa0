"""Send options: a producer's defaults, and the choices of a single call."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from msgspec import Struct

from penstock._core.messages.envelope import PAYLOAD
from penstock._core.sending.requests import Durability
from penstock._tasks.send_hooks import SendHooks
from penstock.codecs import Encode
from penstock.durations import Duration, count, seconds
from penstock.errors import ConfigurationError
from penstock.message import EntryId
from penstock.outgoing import chosen_id
from penstock.retention import KEEP_ALL, Retention, retention_of

__all__ = ["MessageChoices", "SendDefaults", "choose", "flag", "timeout_of"]


class SendDefaults(Struct, frozen=True):
    """The options of messages whose call does not override them.

    Attributes:
        encode: Returns a payload's bytes, and their content type.
        timeout: The most seconds until the outcome.
        retention: How much of the stream is kept.
        replicas: The number of replicas that must have a message.
        durable: Whether a message must be in the append-only files.
        field: The name of the payload's field.
        special: Whether the timeout, the retention, `replicas` or `durable` changes how
            a message is sent.
        hooks: The functions that see each message first; None if there are none.
    """

    encode: Encode
    timeout: float | None = None
    retention: Retention | None = None
    replicas: int = 0
    durable: bool = False
    field: bytes = PAYLOAD
    special: bool = False
    hooks: SendHooks | None = None

    @classmethod
    def of(
        cls,
        encode: Encode,
        timeout: float | None,
        retention: Retention | None,
        *,
        replicas: int = 0,
        durable: bool = False,
        field: bytes = PAYLOAD,
        hooks: SendHooks | None = None,
    ) -> SendDefaults:
        """Create the defaults.

        Raises:
            ConfigurationError: `replicas` or `durable` is invalid.
        """
        count(replicas, "replicas", least=0)
        flag(durable, "durable")
        special = timeout is not None or retention not in (None, KEEP_ALL)
        special = special or replicas > 0 or durable
        return cls(encode, timeout, retention, replicas, durable, field, special, hooks)

    def override(
        self,
        encode: Encode | None,
        timeout: float | None,
        retention: Retention | None,
        *,
        replicas: int | None = None,
        durable: bool | None = None,
        field: bytes | None = None,
        hooks: SendHooks | None = None,
    ) -> SendDefaults:
        """Return these defaults with the given options replaced.

        Raises:
            ConfigurationError: `replicas` or `durable` is invalid.
        """
        return SendDefaults.of(
            self.encode if encode is None else encode,
            self.timeout if timeout is None else timeout,
            self.retention if retention is None else retention,
            replicas=self.replicas if replicas is None else replicas,
            durable=self.durable if durable is None else durable,
            field=self.field if field is None else field,
            hooks=self.hooks if hooks is None else hooks,
        )


class MessageChoices(NamedTuple):
    """The options of a single message.

    Attributes:
        limit: The most seconds until the outcome; None without a limit.
        retention: How much of the stream is kept.
        durability: The required durability; None if the message only has to be stored.
        id: The entry's id; the server chooses a `*` in it.
        ms: The entry's time in milliseconds; None if the server chooses it.
    """

    limit: float | None
    retention: Retention | None
    durability: Durability | None
    id: bytes
    ms: int | None


def timeout_of(value: Duration | None, option: str) -> float | None:
    """Return a timeout in seconds.

    Raises:
        ConfigurationError: The value is neither None nor a duration above 0.
    """
    return None if value is None else seconds(value, option, zero=False)


def flag(value: bool, option: str) -> bool:  # noqa: FBT001 - the value to check
    """Return a bool, checked.

    Raises:
        ConfigurationError: The value is no bool.
    """
    if type(value) is not bool:
        raise ConfigurationError(
            f"{option}={value!r:.60} is invalid; pass True or False"
        )
    return value


def choose(
    defaults: SendDefaults,
    *,
    timeout: Duration | None = None,
    retention: Retention | None = None,
    replicas: int | None = None,
    durable: bool | None = None,
    id: EntryId | str | None = None,  # noqa: A002 - the public name
    timestamp: datetime | int | None = None,
) -> MessageChoices:
    """Return the options of a message: what its call chose, and the defaults.

    Raises:
        ConfigurationError: An option is invalid.
    """
    limit = defaults.timeout if timeout is None else timeout_of(timeout, "timeout")
    kept = defaults.retention if retention is None else retention_of(retention)
    copies = (
        defaults.replicas if replicas is None else count(replicas, "replicas", least=0)
    )
    disk = defaults.durable if durable is None else flag(durable, "durable")
    durability = Durability(copies, disk, limit) if copies or disk else None
    return MessageChoices(limit, kept, durability, *chosen_id(id, timestamp))
