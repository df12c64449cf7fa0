"""Configuration of owned shards: a consumer's options for them, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from penstock._core.ownership.tokens import is_ownership
from penstock.errors import ConfigurationError
from penstock.options import (
    AutoCommit,
    Claim,
    Mode,
    OnShards,
    Owned,
    Ownership,
    choice,
)

__all__ = ["OwnershipConfig", "ownership_of"]


@dataclass(frozen=True, slots=True)
class OwnershipConfig:
    """How a consumer owns shards.

    Attributes:
        options: The lease and so on.
        static: Whether the member's place is kept for a lease when it closes, because
            the user has named it.
        callbacks: The user's functions that are called with shards, by the names of
            their options.
        automatic: Whether it depends on the number of shards if they are owned.
    """

    options: Owned
    static: bool
    callbacks: Mapping[str, OnShards]
    automatic: bool = False


def ownership_of(
    ownership: Owned | Ownership | str,
    *,
    mode: Mode,
    policy: AutoCommit,
    name: str | None,
    claim: Claim,
    picks_shards: bool,
    callbacks: Mapping[str, OnShards | None],
) -> OwnershipConfig | None:
    """Return how shards are owned; None if consumers share them.

    Args:
        ownership: The user's choice.
        mode: The mode.
        policy: Who acknowledges messages.
        name: The consumer's name, if the user has chosen it.
        claim: The lease of messages in shared shards.
        picks_shards: Whether the user has chosen which shards to read.
        callbacks: The functions that are called with shards.

    Raises:
        ConfigurationError: The options don't go together.
    """
    given = {option: each for option, each in callbacks.items() if each is not None}
    options, chosen = Owned(), Ownership.OWNED
    if isinstance(ownership, Owned):
        options = ownership
    else:
        chosen = choice(Ownership, ownership, "ownership")
    if chosen is Ownership.SHARED:
        if given:
            raise ConfigurationError(
                f"{next(iter(given))}= is called with owned shards; pass "
                f"ownership='owned', or leave it out"
            )
        return None
    automatic = chosen is Ownership.AUTO
    why_not = _why_not(mode, policy, claim, picks_shards=picks_shards)
    if why_not is not None:
        if automatic and not given:
            return None
        raise ConfigurationError(why_not)
    _check(name, given)
    return OwnershipConfig(options, name is not None, given, automatic)


def _why_not(
    mode: Mode, policy: AutoCommit, claim: Claim, *, picks_shards: bool
) -> str | None:
    """Return why shards can't be owned with other options, and what to do about it."""
    if mode is not Mode.LOAD_BALANCED:
        return (
            f"ownership='owned' divides the shards among the consumers of a group, "
            f"which {mode.name} does not; name a group and use LOAD_BALANCED"
        )
    if policy in {AutoCommit.IMMEDIATE, AutoCommit.DELAYED}:
        return (
            f"ownership='owned' needs acknowledgements after the handler, which "
            f"{policy.name} does not wait for; choose PROCESSED, ROLLING or DISABLED"
        )
    if claim != Claim():
        return (
            "claim= has no effect on owned shards, which have leases of their own; "
            "pass ownership=Owned(lease=...) instead"
        )
    if picks_shards:
        return (
            "with ownership='owned' each member gets its share of all shards; leave "
            "shards= out, or read these shards with ownership='shared'"
        )
    return None


def _check(name: str | None, callbacks: Mapping[str, Callable[..., object]]) -> None:
    if name is not None and is_ownership(name.encode(errors="replace")):
        raise ConfigurationError(
            f"name={name!r:.60} looks like the name under which a member reads an "
            f"owned shard; choose one that does not end in '#' and a number"
        )
    for option, each in callbacks.items():
        if not callable(each):
            raise ConfigurationError(
                f"{option}={each!r:.60} can't be called; pass an async function of a "
                f"tuple of shards"
            )
