"""Lua scripts: the cache, the sandbox, and the conversion of values both ways.

The scripts run in a real Lua 5.1 (lupa). `redis.call` comes back into the model. What
a script can't do here: `cjson`, `cmsgpack`, `struct`, `bit`, and replies in RESP3.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final

from lupa import lua51

from simulation.server.guards import permit_in_script
from simulation.server.resp import Fault, Refusal, Reply, Status
from simulation.server.sessions import Caller
from simulation.server.streams import Entry
from simulation.server.table import BLOCKED

if TYPE_CHECKING:
    from simulation.server.server import Server
    from simulation.server.sessions import Session
    from simulation.server.table import Command
    from simulation.server.versions import Version

__all__ = ["Scripts"]

# `invoke` and `permitted` are functions of the model. A script's globals are one
# table that it can't change.
_SANDBOX: Final = b"""
local invoke, permitted, product, old, version, number = ...
local function line()
  for level = 3, 8 do
    local info = debug.getinfo(level, 'Sl')
    if not info then return 1 end
    if info.source == '@user_script' and info.currentline > 0 then
      return info.currentline
    end
  end
  return 1
end
local redis = {
  LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  REDIS_VERSION = version, REDIS_VERSION_NUM = number,
}
function redis.call(...)
  local failed, reply = invoke(...)
  if not failed then return reply end
  if old then error(string.format('@user_script:%d: %s', line(), reply), 0) end
  error({err = reply, line = line()}, 0)
end
function redis.pcall(...)
  local failed, reply = invoke(...)
  if not failed then return reply end
  return {err = reply}
end
function redis.error_reply(text)
  if not old then
    if string.sub(text, 1, 1) == '-' then text = string.sub(text, 2) end
    if not string.find(text, ' ', 1, true) then text = 'ERR ' .. text end
  end
  return {err = text}
end
function redis.status_reply(text) return {ok = text} end
function redis.sha1hex(text) return permitted(true, text) end
function redis.log() end
function redis.setresp() end
function redis.replicate_commands() return true end
function redis.breakpoint() return false end
if not old then
  function redis.acl_check_cmd(...)
    local known, may = permitted(false, ...)
    if not known then
      local problem = 'ERR Invalid command passed to ' .. product .. '.acl_check_cmd()'
      error({err = problem, line = line()}, 0)
    end
    return may
  end
end
local globals = {redis = redis, server = redis}
for _, name in ipairs({
  'assert', 'error', 'getmetatable', 'ipairs', 'next', 'pairs', 'pcall', 'rawequal',
  'rawget', 'rawset', 'select', 'setmetatable', 'tonumber', 'tostring', 'type',
  'unpack', 'xpcall', 'string', 'table', 'math',
}) do globals[name] = _G[name] end
globals._G = globals
setmetatable(globals, {
  __index = function(_, name)
    error("Script attempted to access nonexistent global variable '"
      .. tostring(name) .. "'", 2)
  end,
  __newindex = function() error('Attempt to modify a readonly table', 2) end,
})
local function compile(source)
  local made, problem = loadstring(source, '@user_script')
  if not made then return nil, problem end
  return setfenv(made, globals)
end
local function run(script, keys, args)
  rawset(globals, 'KEYS', keys)
  rawset(globals, 'ARGV', args)
  return pcall(script)
end
return compile, run
"""

_TABLE: Final = "table"


class _Engine:
    """A Lua with the sandbox, which all servers of a version share.

    Scripts keep nothing between two runs, so sharing shows nowhere.
    """

    def __init__(self, version: Version) -> None:
        self.caller: Caller | None = None
        self.lua = lua51.LuaRuntime(
            encoding=None, unpack_returned_tuples=True, register_eval=False
        )
        old = version.script_errors == "6.2"
        major, minor = version.major
        self.compile, self._run = self.lua.execute(
            _SANDBOX,
            self._invoke,
            self._permitted,
            b"server" if version.valkey else b"redis",
            old,
            version.number.encode(),
            major << 16 | minor << 8,
        )
        self._old = old
        self._texts = _TEXTS[version.script_errors]
        self._scripts: dict[bytes, Any] = {}

    def script(self, source: bytes) -> Any:
        """Return a compiled script.

        Raises:
            Refusal: It is no Lua.
        """
        made = self._scripts.get(source)
        if made is None:
            made = self.compile(source)
            if isinstance(made, tuple):
                raise Refusal(
                    b"ERR Error compiling script (new function): %b" % made[1]
                )
            self._scripts[source] = made
        return made

    def run(
        self, caller: Caller, script: Any, keys: list[bytes], args: list[bytes]
    ) -> tuple[bool, Any]:
        """Run a script, and return whether it succeeded and what it returned."""
        table = self.lua.table_from
        self.caller = caller
        try:
            result = self._run(script, table(keys), table(args))
        finally:
            self.caller = None
        if result is True or result is False:
            return result, None
        return result[0], result[1]

    def _invoke(self, *words: object) -> tuple[bool, Any]:
        """Run a command of a script, and return whether it failed, and the reply."""
        caller = self.caller
        assert caller is not None
        try:
            reply = self._call(caller, words)
        except Refusal as refusal:
            return True, refusal.text
        if type(reply) is Fault:
            return True, reply.text
        return False, self._to_lua(reply)

    def _call(self, caller: Caller, given: tuple[object, ...]) -> Reply:
        words = [_word(value, self._texts) for value in given]
        if not words:
            raise Refusal(self._texts["empty"])
        server = caller.server
        try:
            command = server.find(words)
        except Refusal as refusal:
            known = refusal.text.startswith(b"ERR wrong number")
            what = "arity" if known else "unknown"
            raise Refusal(self._texts[what]) from None
        if command.no_script:
            raise Refusal(self._texts["forbidden"])
        self._check(caller, command, words)
        reply = server.call(caller, command, words)
        assert reply is not BLOCKED
        return reply

    def _check(self, caller: Caller, command: Command, words: list[bytes]) -> None:
        """Check permissions and the server's state.

        Raises:
            Refusal: One of them forbids the command.
        """
        server, mark = caller.server, b""
        try:
            if caller.user is not None and not caller.user.unlimited:
                denied = caller.user.denies(command, words)
                if denied is not None:
                    raise permit_in_script(server, caller, denied)
            mark = b"-"
            if server.guards.active:
                server.guards.check(caller, command)
        except Refusal as refusal:
            server.reject(command)
            if not self._old:
                raise
            end = b"\r\n" if mark else b""
            text = b"@user_script: 1: %b%b%b" % (mark, refusal.text, end)
            raise Refusal(text) from None

    def _permitted(self, hashes: bool, *given: object) -> Any:  # noqa: FBT001
        """Return whether a command is known, and whether the user may run it."""
        if hashes:
            return _sha(_word(given[0], self._texts))
        caller = self.caller
        assert caller is not None
        words = [_word(value, self._texts) for value in given]
        try:
            command = caller.server.find(words)
        except Refusal:
            return False, False
        return True, caller.user is None or caller.user.denies(command, words) is None

    def _to_lua(self, reply: Reply) -> Any:
        kind = type(reply)
        if kind is bytes or kind is int:
            return reply
        if kind is list or kind is tuple:
            return self.lua.table_from([self._to_lua(item) for item in reply])
        if kind is Entry:
            table = self.lua.table_from
            return table([reply.name, table(reply.fields)])
        return self._rare_to_lua(reply)

    def _rare_to_lua(self, reply: Reply) -> Any:
        table = self.lua.table_from
        if isinstance(reply, Status | Fault):
            name = b"ok" if isinstance(reply, Status) else b"err"
            return table({name: reply.text})
        if isinstance(reply, bytes | float):
            return bytes(reply) if isinstance(reply, bytes) else b"%.17g" % reply
        if isinstance(reply, dict):
            reply = [word for pair in reply.items() for word in pair]
        if isinstance(reply, tuple | list):
            return table([self._to_lua(item) for item in reply])
        return False


def _word(value: object, texts: dict[str, bytes]) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal(texts["types"])
    return b"%d" % value if isinstance(value, int) else b"%.17g" % value


def _from_lua(value: Any) -> Reply:
    """Return the reply that a script's result stands for."""
    if value is False:
        return None
    if isinstance(value, bytes):
        return value
    if isinstance(value, int | float):
        return int(value)
    if lua51.lua_type(value) != _TABLE:
        return None
    return _from_table(value)


def _from_table(value: Any) -> Reply:
    for name, make in ((b"err", Fault), (b"ok", Status)):
        text = value[name]
        if isinstance(text, bytes):
            return make(text.translate(None, b"\r\n"))
    items = []
    place = 1
    while (item := value[place]) is not None:
        items.append(_from_lua(item))
        place += 1
    return items


@cache
def _engine(version: Version) -> _Engine:
    return _Engine(version)


class Scripts:
    """The scripts that a server knows.

    Attributes:
        known: The sources by hash.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._style = server.version.script_errors
        self.known: dict[bytes, bytes] = {}

    def load(self, source: bytes) -> bytes:
        """Remember a script, and return its hash.

        Raises:
            Refusal: It is no Lua.
        """
        digest = _sha(source)
        if digest not in self.known:
            _engine(self._server.version).script(source)
            self.known[digest] = source
        return digest

    def run(
        self, session: Session, digest: bytes, keys: list[bytes], args: list[bytes]
    ) -> Reply:
        """Run a known script.

        Raises:
            Refusal: It failed.
        """
        engine = _engine(self._server.version)
        caller = Caller(self._server, session.user)
        caller.database = session.database
        caller.in_script = True
        script = engine.script(self.known[digest])
        worked, result = engine.run(caller, script, keys, args)
        if worked:
            return _from_lua(result)
        raise Refusal(self._explain(digest, result))

    def _explain(self, digest: bytes, error: Any) -> bytes:
        line = 1
        if isinstance(error, bytes):
            text = error
            place = error.split(b":")[1] if error.startswith(b"user_script:") else b""
            line = int(place) if place.isdigit() else 1
        else:
            text = error[b"err"] or b"ERR unknown error"
            line = error[b"line"] or 1
        text = text.rstrip(b"\r\n")
        if self._style == "6.2":
            if not text.startswith(b"@user_script:"):
                text = b"@user_script:%d: %b" % (line, text)
            return b"ERR Error running script (call to f_%b): %b" % (digest, text)
        if isinstance(error, bytes):
            text = b"ERR " + text
        sha = b"" if self._style == "valkey" else b"%b, " % digest
        return b"%b script: %bon @user_script:%d." % (text, sha, line)


def _sha(source: bytes) -> bytes:
    return sha1(source, usedforsecurity=False).hexdigest().encode()


_TEXTS: Final[dict[str, dict[str, bytes]]] = {
    "6.2": {
        "unknown": b"@user_script: 1: Unknown Redis command called from Lua script",
        "arity": b"@user_script: 1: Wrong number of args calling Redis command From "
        b"Lua script",
        "forbidden": b"@user_script: 1: This Redis command is not allowed from scripts",
        "empty": b"@user_script: 1: Please specify at least one argument for "
        b"redis.call()",
        "types": b"@user_script: 1: Lua redis() command arguments must be strings or "
        b"integers",
    },
    "7.0": {
        "unknown": b"ERR Unknown Redis command called from script",
        "arity": b"ERR Wrong number of args calling Redis command from script",
        "forbidden": b"ERR This Redis command is not allowed from script",
        "empty": b"ERR Please specify at least one argument for this redis lib call",
        "types": b"ERR Lua redis lib command arguments must be strings or integers",
    },
    "valkey": {
        "unknown": b"ERR Unknown command called from script",
        "arity": b"ERR Wrong number of args calling command from script",
        "forbidden": b"ERR This Valkey command is not allowed from script",
        "empty": b"ERR Please specify at least one argument for this call",
        "types": b"ERR Command arguments must be strings or integers",
    },
}
