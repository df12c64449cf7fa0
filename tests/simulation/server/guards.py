"""Refusals that come before a command runs: permissions, and states of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simulation.server.acl import Denied, User
from simulation.server.resp import Refusal

if TYPE_CHECKING:
    from simulation.server.server import Server
    from simulation.server.sessions import Caller, Queue, Session
    from simulation.server.table import Command
    from simulation.server.versions import Version

__all__ = ["Guards", "permit", "permit_in_script"]

_OOM: Final = b"OOM command not allowed when used memory > 'maxmemory'."
_MISCONF: Final = (
    b"MISCONF %b is configured to save RDB snapshots, but it's currently unable to "
    b"persist to disk. Commands that may modify the data set are disabled, because "
    b"this instance is configured to report errors during writes if RDB snapshotting "
    b"fails (stop-writes-on-bgsave-error option). Please check the %b logs for details "
    b"about the RDB error."
)
_READONLY: Final = b"READONLY You can't write against a read only replica."
_NOREPLICAS: Final = b"NOREPLICAS Not enough good replicas to write."
_BUSY: Final = (
    b"BUSY %b is busy running a script. You can only call SCRIPT KILL or SHUTDOWN "
    b"NOSAVE."
)
_MASTERDOWN: Final = (
    b"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."
)
_SUBSCRIBED: Final = frozenset(
    (
        *("subscribe", "unsubscribe", "psubscribe", "punsubscribe"),
        *("ssubscribe", "sunsubscribe", "ping", "quit", "reset"),
    )
)


class Guards:
    """States in which the server refuses commands.

    Attributes:
        loading: It loads its data.
        misconf: It can't write its snapshot, so it takes no writes.
        out_of_memory: It takes no commands that need memory.
        readonly: It is a replica.
        no_replicas: Too few replicas have the writes.
        busy: A script runs for too long.
        refused: Errors for single commands, by name (`xadd`, `client|id`).
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.loading = False
        self.misconf = False
        self.out_of_memory = False
        self.readonly = False
        self.busy = False
        self.refused: dict[str, bytes] = {}

    @property
    def no_replicas(self) -> bool:
        """Whether fewer replicas follow than `min-replicas-to-write` demands."""
        wanted = self._server.config.replicas_to_write
        return wanted > 0 and self._server.good_replicas < wanted

    @property
    def active(self) -> bool:
        """Whether any of them is on."""
        return bool(
            self.loading
            or self.misconf
            or self.out_of_memory
            or self.readonly
            or self.busy
            or self.refused
            or self._server.config.replicas_to_write
        )

    def check(
        self, caller: Caller, command: Command, queue: Queue | None = None
    ) -> None:
        """Check that a command may run in the present state.

        Args:
            caller: Who runs it.
            command: The command.
            queue: The transaction, which EXEC is checked for.

        Raises:
            Refusal: It may not.
        """
        for each in (command, *self._queued(command, queue)):
            text = self._refusal(each, in_script=caller.in_script)
            if text is not None:
                raise Refusal(text)

    def _queued(self, command: Command, queue: Queue | None) -> list[Command]:
        """Return the queued commands that change data, if this is their EXEC."""
        if queue is None or command.name != "exec":
            return []
        return [each for each, _ in queue.commands if each.writes or each.denies_oom]

    def _refusal(self, command: Command, *, in_script: bool) -> bytes | None:
        if command.name in self.refused:
            return self.refused[command.name]
        product = b"Valkey" if self._server.version.valkey else b"Redis"
        if self.out_of_memory and command.denies_oom:
            return _OOM
        if command.writes or (command.may_replicate and not in_script):
            text = self._refusal_of_writes(command, product)
            if text is not None:
                return text
        if self.loading and not command.loading:
            return b"LOADING %b is loading the dataset in memory" % product
        if self.busy and not command.while_busy:
            return _BUSY % product
        return None

    def _refusal_of_writes(self, command: Command, product: bytes) -> bytes | None:
        # What may or may not write is only refused where nothing may be written.
        certain = command.writes
        if self.misconf and certain:
            return _MISCONF % (product, product)
        if certain and self.no_replicas:
            return _NOREPLICAS
        if self.readonly and certain:
            return _READONLY
        return None


def permit(
    server: Server, session: Session, command: Command, words: list[bytes]
) -> None:
    """Check that a client may run a command.

    Raises:
        Refusal: It has not logged in, has no permission, or only listens to messages.
    """
    if not session.authenticated and not command.no_auth:
        raise Refusal(b"NOAUTH Authentication required.")
    user = session.user
    if user is not None and not user.unlimited and not command.no_auth:
        denied = user.denies(command, words)
        if denied is not None:
            server.users.log.insert(0, (user.name, denied))
            raise Refusal(_no_permission(server.version, user, denied))
    if session.listens and not session.resp3 and command.name not in _SUBSCRIBED:
        kinds = b"(P|S)" if server.version.subcommands else b"(P)"
        raise Refusal(
            b"ERR Can't execute '%b': only %bSUBSCRIBE / %bUNSUBSCRIBE / PING / QUIT / "
            b"RESET are allowed in this context"
            % (_shown(command, server.version), kinds, kinds)
        )


def permit_in_script(server: Server, caller: Caller, denied: Denied) -> Refusal:
    """Return the error for what a script's user may not do."""
    user = caller.user
    assert user is not None
    server.users.log.insert(0, (user.name, denied))
    version = server.version
    if version.acl_errors == "7.2":
        return Refusal(b"ERR ACL failure in script: " + _denial(version, user, denied))
    what = {
        "command": b"run this command or subcommand",
        "key": b"access at least one of the keys mentioned in the command arguments",
        "channel": b"publish to the channel mentioned in the command",
    }[denied.reason]
    code = b"ERR " if version.subcommands else b""
    return Refusal(code + b"The user executing the script can't " + what)


def _no_permission(version: Version, user: User, denied: Denied) -> bytes:
    return b"NOPERM " + _denial(version, user, denied)


def _denial(version: Version, user: User, denied: Denied) -> bytes:
    """Return what a user is told, without the code."""
    if version.acl_errors == "7.2":
        if denied.reason == "command":
            text = b"User %b has no permissions to run the '%b' command"
            return text % (user.name, denied.object)
        return b"No permissions to access a %b" % denied.reason.encode()
    if denied.reason != "command":
        text = (
            b"this user has no permissions to access one of the %bs used as arguments"
        )
        return text % denied.reason.encode()
    text = b"this user has no permissions to run the '%b' command"
    if version.acl_errors == "7.0":
        return text % denied.object
    return text % denied.object.partition(b"|")[0] + b" or its subcommand"


def _shown(command: Command, version: Version) -> bytes:
    """Return a command's name in errors."""
    name = command.name if version.subcommands else command.name.partition("|")[0]
    return name.encode()
