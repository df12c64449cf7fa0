"""Commands of operators: INFO, CONFIG, ACL and the like."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from simulation.server.acl import User
from simulation.server.config import USED_MEMORY
from simulation.server.resp import OK, Refusal, Reply, Status, Text
from simulation.server.sessions import Caller, Session
from simulation.server.table import command, container
from simulation.server.texts import arity, integer

if TYPE_CHECKING:
    from simulation.server.server import Server

__all__: list[str] = []

_ADMIN = "admin noscript loading stale"


@command("INFO", -1, "loading stale @dangerous")
def info(caller: Caller, words: list[bytes]) -> Reply:
    wanted = [word.decode().lower() for word in words[1:]] or ["default"]
    every = {"all", "everything"}.intersection(wanted)
    chosen = [
        name
        for name in _SECTIONS
        if every or name in wanted or ("default" in wanted and name != "commandstats")
    ]
    parts = []
    for name in chosen:
        facts = _SECTIONS[name](caller.server)
        lines = [f"# {name.capitalize()}", *(f"{k}:{v}" for k, v in facts.items())]
        parts.append("\r\n".join(lines) + "\r\n")
    return Text("\r\n".join(parts).encode())


def _about_server(server: Server) -> dict[str, object]:
    version = server.version
    facts: dict[str, object] = {}
    if version.valkey:
        facts |= {"redis_version": "7.2.4", "server_name": "valkey"}
        facts["valkey_version"] = version.number
    else:
        facts["redis_version"] = version.number
    uptime = (server.now - server.started) // 1000
    return facts | {
        "redis_mode": "standalone",
        "process_id": 1,
        "run_id": server.run_id.decode(),
        "tcp_port": 6379,
        "uptime_in_seconds": uptime,
        "uptime_in_days": uptime // 86400,
        "hz": server.config.values["hz"],
    }


def _about_clients(server: Server) -> dict[str, object]:
    blocked = [each for each in server.sessions.values() if each.waiter is not None]
    return {
        "connected_clients": len(server.sessions),
        "maxclients": server.config.values["maxclients"],
        "blocked_clients": len(blocked),
    }


def _about_memory(server: Server) -> dict[str, object]:
    values = server.config.values
    return {
        "used_memory": USED_MEMORY,
        "maxmemory": values["maxmemory"],
        "maxmemory_policy": values["maxmemory-policy"],
    }


def _about_persistence(server: Server) -> dict[str, object]:
    return {
        "loading": int(server.guards.loading),
        "rdb_bgsave_in_progress": 0,
        "rdb_last_bgsave_status": "err" if server.guards.misconf else "ok",
        "aof_enabled": int(server.config.values["appendonly"] == "yes"),
    }


def _about_stats(server: Server) -> dict[str, object]:
    return {
        "total_commands_processed": sum(server.calls.values()),
        "total_reads_processed": server.reads,
    }


def _about_replication(server: Server) -> dict[str, object]:
    role = "slave" if server.guards.readonly else "master"
    facts: dict[str, object] = {"role": role}
    if server.guards.readonly:
        facts["master_link_status"] = "up" if server.link else "down"
    return facts | {
        "connected_slaves": server.good_replicas,
        "master_repl_offset": server.offset,
    }


def _about_commands(server: Server) -> dict[str, object]:
    facts: dict[str, object] = {}
    for name in server.calls | server.rejected:
        calls, rejected = server.calls.get(name, 0), server.rejected.get(name, 0)
        times = f"calls={calls},usec={calls},usec_per_call=1.00"
        facts[f"cmdstat_{name}"] = f"{times},rejected_calls={rejected},failed_calls=0"
    return facts


def _about_keys(server: Server) -> dict[str, object]:
    facts: dict[str, object] = {}
    for index in range(int(server.config.values["databases"])):
        database = server.database(index)
        if len(database):
            expires = len(database.expires)
            facts[f"db{index}"] = f"keys={len(database)},expires={expires},avg_ttl=0"
    return facts


_SECTIONS: dict[str, Callable[[Server], dict[str, object]]] = {
    "server": _about_server,
    "clients": _about_clients,
    "memory": _about_memory,
    "persistence": _about_persistence,
    "stats": _about_stats,
    "replication": _about_replication,
    "commandstats": _about_commands,
    "keyspace": _about_keys,
}


container("CONFIG", _ADMIN)


@command("CONFIG|GET", -3, _ADMIN)
def config_get(session: Session, words: list[bytes]) -> Reply:
    return session.server.config.get(words[2:])


@command("CONFIG|SET", -4, _ADMIN)
def config_set(session: Session, words: list[bytes]) -> Reply:
    if len(words) % 2:
        raise arity("config|set")
    for name, value in zip(words[2::2], words[3::2], strict=True):
        session.server.config.set(name.decode().lower(), value.decode())
    return OK


@command("CONFIG|RESETSTAT", 2, _ADMIN)
def resetstat(session: Session, words: list[bytes]) -> Reply:
    session.server.calls.clear()
    session.server.rejected.clear()
    return OK


container("ACL", "admin noscript loading stale")


@command("ACL|SETUSER", -3, _ADMIN)
def setuser(session: Session, words: list[bytes]) -> Reply:
    session.server.users.get_or_make(words[2]).apply(words[3:])
    return OK


@command("ACL|DELUSER", -3, _ADMIN)
def deluser(session: Session, words: list[bytes]) -> Reply:
    server = session.server
    gone = 0
    for name in words[2:]:
        if name == b"default":
            raise Refusal(b"ERR The 'default' user cannot be removed")
        user = server.users.by_name.pop(name, None)
        if user is None:
            continue
        gone += 1
        for each in list(server.sessions.values()):
            if each.user is user:
                each.cut()
    return gone


@command("ACL|WHOAMI", 2, "noscript loading stale")
def whoami(session: Session, words: list[bytes]) -> Reply:
    return session.user.name if session.user else b"default"


@command("ACL|USERS", 2, _ADMIN)
def users(session: Session, words: list[bytes]) -> Reply:
    return sorted(session.server.users.by_name)


@command("ACL|GETUSER", 3, _ADMIN)
def getuser(session: Session, words: list[bytes]) -> Reply:
    user = session.server.users.by_name.get(words[2])
    return None if user is None else _user_facts(user)


def _user_facts(user: User) -> dict[bytes, Reply]:
    return {
        b"flags": [Status(b"on" if user.enabled else b"off")],
        b"passwords": list(user.passwords),
        b"commands": b" ".join(b"+" + name.encode() for name in sorted(user.commands)),
        b"keys": b" ".join(b"~" + pattern for pattern in user.keys),
        b"channels": b" ".join(b"&" + pattern for pattern in user.channels),
    }


@command("ACL|CAT", -2, "noscript loading stale")
def cat(session: Session, words: list[bytes]) -> Reply:
    table = session.server.table
    if len(words) == 2:
        every = {name for each in table.values() for name in each.categories}
        return [name.encode() for name in sorted(every)]
    wanted = words[2].decode().lower()
    return [each.name.encode() for each in table.values() if wanted in each.categories]


@command("ACL|LOG", -2, _ADMIN)
def log(session: Session, words: list[bytes]) -> Reply:
    users_ = session.server.users
    if len(words) > 2 and words[2].upper() == b"RESET":
        users_.log.clear()
        return OK
    count = integer(words[2]) if len(words) > 2 else 10
    return [
        {
            b"count": 1,
            b"reason": denied.reason.encode(),
            b"context": b"toplevel",
            b"object": denied.object,
            b"username": name,
            b"age-seconds": b"0",
            b"client-info": b"",
        }
        for name, denied in users_.log[:count]
    ]


@command("SAVE", 1, _ADMIN)
def save(session: Session, words: list[bytes]) -> Reply:
    session.server.save()
    return OK


@command("BGSAVE", -1, _ADMIN)
def bgsave(session: Session, words: list[bytes]) -> Reply:
    session.server.save()
    return Status(b"Background saving started")


@command("SHUTDOWN", -1, _ADMIN)
def shutdown(session: Session, words: list[bytes]) -> Reply:
    raise Refusal(b"ERR Errors trying to SHUTDOWN. Check logs.")


@command("DEBUG", -2, "admin noscript loading stale")
def debug(session: Session, words: list[bytes]) -> Reply:
    raise Refusal(
        b"ERR DEBUG command not allowed. If the enable-debug-command option is set to "
        b'"local", you can run it from a local connection, otherwise you need to set '
        b"this option in the configuration file, and then restart the server."
    )
