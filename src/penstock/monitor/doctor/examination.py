"""The examination: asks the server, in few commands, and has the replies judged."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from penstock import _chance, _clock
from penstock._connection.address import Address
from penstock._core.protocol import commands, probe_commands
from penstock._core.protocol.replies import ErrorReply
from penstock._core.protocol.scripts import may_script
from penstock.admin._connection import AdminConnection
from penstock.errors import AccessError, CommandError
from penstock.monitor._poll import in_chunks
from penstock.monitor.doctor.facts import SETTINGS, ServerFacts, lines
from penstock.monitor.doctor.findings import Finding, note
from penstock.monitor.doctor.permissions import best, check_permissions
from penstock.monitor.doctor.probes import (
    Answer,
    Probe,
    dryrun_answer,
    probes,
    tried_answer,
)
from penstock.monitor.doctor.roles import Role
from penstock.monitor.doctor.server_checks import check_server
from penstock.monitor.doctor.stream_checks import check_streams
from penstock.monitor.model import Snapshot

__all__ = ["examine"]

_PINGS: Final = 20
_RESP2: Final = 2
_SECTIONS: Final = (b"server", b"memory", b"persistence", b"replication")


async def examine(
    connection: AdminConnection,
    poll: Callable[[], Awaitable[Snapshot]],
    role: Role | None,
    streams: Sequence[str],
) -> list[Finding]:
    """Return all findings; see `Collector.examine`.

    Args:
        connection: The connection.
        poll: Looks at the streams.
        role: The role whose permissions are checked; None for none.
        streams: The streams for whose keys they are checked.

    Raises:
        ServerError: The connection ended.
    """
    found = list(check_server(await _facts(connection)))
    if role is not None:
        for stream in streams or (None,):
            found += await _permissions(connection, role, stream)
    try:
        found += check_streams(await poll())
    except (AccessError, CommandError) as error:
        found.append(
            note(
                "streams",
                f"not known: {error}",
                "groups and dead letters can't be checked",
            )
        )
    return found


async def _facts(connection: AdminConnection) -> ServerFacts:
    """Ask the server about itself."""
    round_trips = []
    for _ in range(_PINGS):
        began = _clock.monotonic()
        await connection.calls([probe_commands.ping()])
        round_trips.append(_clock.monotonic() - began)
    batch = [
        *map(commands.info, _SECTIONS),
        *(commands.config_get(name.encode()) for name in SETTINGS),
        may_script(),
        commands.client_id(),
        probe_commands.acl_whoami(),
    ]
    replies = await connection.calls(batch)
    infos, rest = replies[: len(_SECTIONS)], replies[len(_SECTIONS) :]
    *settings, scripts, client, user = rest
    known = [reply for reply in infos if not isinstance(reply, ErrorReply)]
    address = connection.address
    return ServerFacts(
        address=connection.server,
        local=address is None or _is_local(address),
        tls=address is not None and address.endpoint.tls is not None,
        login=address is not None and _has_login(address),
        user=None if isinstance(user, ErrorReply) else _text(user),
        database=0 if address is None else address.login.database,
        protocol=connection.protocol,
        resp2_asked=address is not None and address.login.protocol == _RESP2,
        round_trips=tuple(round_trips),
        info=lines(b"\r\n".join(known)) if known else None,
        settings=_settings(settings),
        scripts=_error(scripts),
        client=_error(client),
        clock=await _clock_ahead(connection),
    )


def _is_local(address: Address) -> bool:
    host = address.endpoint.host
    if not host or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _has_login(address: Address) -> bool:
    return address.login.password is not None or address.credentials is not None


def _settings(replies: Sequence[Any]) -> dict[str, str]:
    return {
        _text(name): _text(value)
        for reply in replies
        if not isinstance(reply, ErrorReply)
        for name, value in reply.items()
    }


def _text(word: bytes) -> str:
    return word.decode("utf-8", "replace")


def _error(reply: Any) -> str:
    return reply.text if isinstance(reply, ErrorReply) else ""


async def _clock_ahead(connection: AdminConnection) -> float | None:
    """Return the seconds by which the server's clock is ahead of this machine's.

    A reply that took long says little, so its time counts in the server's favour.
    """
    before = _clock.wall()
    [now] = await connection.calls([commands.time()])
    after = _clock.wall()
    if isinstance(now, ErrorReply):
        return None
    server = now / 1000
    if server > after:
        return float(server - after)
    return float(min(server - before, 0.0))


async def _permissions(
    connection: AdminConnection, role: Role, stream: str | None
) -> list[Finding]:
    """Ask for the words of a role, without changing anything."""
    absent = f"penstock-doctor-{_chance.token(8)}".encode()
    asked = list(probes(role, stream, absent))
    [user] = await connection.calls([probe_commands.acl_whoami()])
    name = None if isinstance(user, ErrorReply) else _text(user)
    answers = None if name is None else await _dryrun(connection, user, asked)
    if answers is None:
        answers = await _try(connection, asked)
    found = best(zip([probe.word for probe in asked], answers, strict=True))
    return list(check_permissions(role, found, stream, name))


async def _dryrun(
    connection: AdminConnection, user: bytes, asked: Sequence[Probe]
) -> list[Answer] | None:
    """Have the server say what it would refuse; None if it does not."""
    [reply] = await connection.calls(
        [probe_commands.acl_dryrun(user, probe_commands.ping())]
    )
    if isinstance(reply, ErrorReply):
        return None
    batch = [probe_commands.acl_dryrun(user, probe.command) for probe in asked]
    replies = await in_chunks(connection.calls, batch)
    return [dryrun_answer(*pair) for pair in zip(asked, replies, strict=True)]


async def _try(connection: AdminConnection, asked: Sequence[Probe]) -> list[Answer]:
    """Run the harmless forms, all but those that would change the connection."""
    tried = [probe for probe in asked if probe.trying]
    replies = await in_chunks(connection.calls, [probe.command for probe in tried])
    pairs = zip(tried, replies, strict=True)
    answers = {id(probe): tried_answer(probe, reply) for probe, reply in pairs}
    for probe in asked:
        if probe.word == "+multi" and _may_exec(asked, answers):
            answers[id(probe)] = await _try_multi(connection, probe)
    return [answers.get(id(probe), Answer.UNKNOWN) for probe in asked]


def _may_exec(asked: Sequence[Probe], answers: Mapping[int, Answer]) -> bool:
    """Return whether a transaction that is begun can be ended."""
    return any(
        probe.word == "+exec" and answers.get(id(probe)) is Answer.ALLOWED
        for probe in asked
    )


async def _try_multi(connection: AdminConnection, probe: Probe) -> Answer:
    """Run an empty transaction."""
    reply, _ = await connection.calls(commands.transaction([]))
    return tried_answer(probe, reply)
