"""The script that moves a batch of pending entries to a list or to another stream."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import Any, Final, NamedTuple

from penstock._core.protocol import fencing
from penstock._core.protocol.commands import Command, Word
from penstock._core.protocol.fencing import Fence
from penstock._core.protocol.replies import ErrorReply, ProtocolError

__all__ = [
    "OWNED_SCRIPT",
    "OWNED_SCRIPT_SHA",
    "SCRIPT",
    "SCRIPT_SHA",
    "Item",
    "Push",
    "Relayed",
    "length",
    "push_alone",
    "read",
    "relay",
    "to_list",
    "to_stream",
]

# `relay`, which sends the arguments, explains them. Whether XACK is allowed is known
# before anything is pushed. Redis 6.2 has no other way than to try it, with an id that
# no entry has; but a server looks at its memory only at the first write of a script, so
# there the push is not refused for want of memory. A push to a list is one command,
# which does all or nothing. What an XADD in the middle refuses is reported with what
# was done before it, which is acknowledged. The ids that one XPENDING does not list are
# asked for one by one: they may lie between entries of another batch.
SCRIPT: Final = b"""
local key, target = KEYS[1], KEYS[2]
local group, consumer, most = ARGV[1], ARGV[2], ARGV[3]
local name, between = ARGV[4], tonumber(ARGV[5])
local function plain(err)
  err = string.gsub(string.gsub(err, '^@user_script: ?%d*: ?%-?', ''), '%s+$', '')
  return (string.gsub(err, '^The user executing', 'NOPERM %0'))
end
local ids, bodies, at = {}, {}, 6 + between
while at <= #ARGV do
  local words, ends = {}, at + 1 + tonumber(ARGV[at + 1])
  for i = at + 2, ends do words[#words + 1] = ARGV[i] end
  ids[#ids + 1], bodies[#bodies + 1] = ARGV[at], words
  at = ends + 1
end
local function pending(first, last, count)
  if consumer == '' then
    return redis.pcall('XPENDING', key, group, first, last, count)
  end
  return redis.pcall('XPENDING', key, group, first, last, count, consumer)
end
local found, is = pending(ids[1], ids[#ids], #ids), {}
if found.err then return {'refused', plain(found.err)} end
for _, facts in ipairs(found) do is[facts[1]] = true end
for _, id in ipairs(ids) do
  if not is[id] and #pending(id, id, 1) > 0 then is[id] = true end
end
if redis.acl_check_cmd then
  local known, may = pcall(redis.acl_check_cmd, 'XACK', key, group, '0-0')
  if not known then return {'refused', 'ERR unknown command XACK'} end
  if not may then return {'refused', 'NOPERM this user may not run XACK'} end
else
  local trial = redis.pcall('XACK', key, group, '0-0')
  if type(trial) == 'table' then return {'refused', plain(trial.err)} end
end
if most ~= '' then
  local length = redis.pcall('LLEN', target)
  if type(length) == 'table' then return {'refused', plain(length.err)} end
  if length >= tonumber(most) then return {'full'} end
end
local reply, done = {'relayed', '', ''}, {}
local function command()
  local words = {name, target}
  for i = 6, 5 + between do words[#words + 1] = ARGV[i] end
  return words
end
local all = command()
for i, id in ipairs(ids) do
  if not is[id] then
    reply[#reply + 1] = id
  elseif name ~= 'XADD' then
    done[#done + 1], all[#all + 1] = id, bodies[i][1]
  elseif reply[3] == '' then
    local words = command()
    for _, word in ipairs(bodies[i]) do words[#words + 1] = word end
    local added = redis.pcall(unpack(words))
    if type(added) == 'table' then reply[3] = plain(added.err)
    else done[#done + 1], reply[2] = id, id end
  end
end
if name ~= 'XADD' and #done > 0 then
  local pushed = redis.pcall(unpack(all))
  if type(pushed) == 'table' then return {'refused', plain(pushed.err)} end
  reply[2] = done[#done]
end
if #done > 0 then redis.call('XACK', key, group, unpack(done)) end
return reply
"""
SCRIPT_SHA: Final = sha1(SCRIPT, usedforsecurity=False).hexdigest()
OWNED_SCRIPT: Final = fencing.fenced(SCRIPT)
OWNED_SCRIPT_SHA: Final = sha1(OWNED_SCRIPT, usedforsecurity=False).hexdigest()

Item = tuple[bytes, Sequence[bytes]]
"""The id of an entry, and what is pushed for it: one value, or a message's fields."""


class Push(NamedTuple):
    """Where entries go, and by which command.

    Attributes:
        command: `RPUSH`, `LPUSH` or `XADD`.
        target: The key of the list or of the stream.
        words: What stands between the key and the values: of `XADD`, how the stream is
            trimmed, and the id.
        most: Nothing is pushed to a list that has so many elements; None for any
            length.
    """

    command: bytes
    target: bytes
    words: Sequence[bytes] = ()
    most: int | None = None


def to_list(target: bytes, *, left: bool = False, most: int | None = None) -> Push:
    """Return a push to a list; see `Push`."""
    if left:
        return Push(b"LPUSH", target, most=most)
    return Push(b"RPUSH", target, most=most)


def to_stream(target: bytes, trim: Sequence[bytes] = ()) -> Push:
    """Return a push to a stream, which is trimmed by these arguments of XADD."""
    return Push(b"XADD", target, (*trim, b"*"))


class Relayed(NamedTuple):
    """What has become of a batch.

    Attributes:
        full: Whether the list was too long. Then nothing was done.
        missing: The ids of entries that were not pending: they are not pushed.
        failure: What the server refused; None if it refused nothing.
        last: The id of the last entry that was pushed and acknowledged; empty if none
            was. With a failure, the entries behind it are as they were.
    """

    full: bool = False
    missing: tuple[bytes, ...] = ()
    failure: ErrorReply | None = None
    last: bytes = b""


def relay(
    key: bytes,
    group: str,
    consumer: str,
    push: Push,
    items: Sequence[Item],
    *,
    whole: bool,
    owner: Fence | None = None,
) -> Command:
    """Push entries that are pending, and acknowledge them.

    This is a script so that no other command runs in between, and so that it can be
    sent again when its reply was lost: what was pushed is no longer pending then.

    Args:
        key: The entries' stream.
        group: The group.
        consumer: The consumer for which they have to be pending; empty for any, where
            the owner says who may write.
        push: Where they go.
        items: The entries, a thousand at most, which is far below the limit of Lua's
            stack.
        whole: Whether to send the script itself, because the server may have forgotten
            it (`NOSCRIPT`), instead of its hash.
        owner: The ownership without which nothing is done; None if the shard is shared.
    """
    text, sha = SCRIPT, SCRIPT_SHA
    if owner is not None:
        text, sha = OWNED_SCRIPT, OWNED_SCRIPT_SHA
    script = (b"EVAL", text) if whole else (b"EVALSHA", sha)
    keys = (key, push.target, *fencing.keys_of(owner))
    most: Word = b"" if push.most is None else push.most
    words: list[Word] = [group, consumer, most, push.command]
    words += [len(push.words), *push.words]
    for id_, body in items:
        words += (id_, len(body), *body)
    return (*script, len(keys), *keys, *words, *fencing.words_of(owner))


def length(push: Push) -> Command:
    """Ask for the length of a list."""
    return (b"LLEN", push.target)


def push_alone(push: Push, bodies: Sequence[Sequence[bytes]]) -> list[Command]:
    """Return the commands that push without acknowledging, in the order of the bodies.

    A list needs one command for all, a stream one for each.
    """
    head = (push.command, push.target, *push.words)
    if push.command == b"XADD":
        return [(*head, *body) for body in bodies]
    return [(*head, *(value for body in bodies for value in body))]


def read(reply: Any) -> Relayed:
    """Read the reply of the script.

    Raises:
        ProtocolError: It is not a reply of this script.
    """
    match reply:
        case [b"full"]:
            return Relayed(full=True)
        case [b"refused", bytes(text)]:
            return Relayed(failure=_error(text))
        case [b"relayed", bytes(last), bytes(text), *missing] if all(
            type(id_) is bytes for id_ in missing
        ):
            failure = _error(text) if text else None
            return Relayed(missing=tuple(missing), failure=failure, last=last)
    raise ProtocolError


def _error(text: bytes) -> ErrorReply:
    return ErrorReply(text.decode("utf-8", "replace"))
