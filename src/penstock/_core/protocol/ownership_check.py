"""The check of what a user may do with a shard, by a script that changes nothing.

A member sends some commands only later, inside scripts. If one of them is refused then,
the member has a shard that it can't keep or free. So they are tried on opening.
"""

from __future__ import annotations

from typing import Any, Final

from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply, ProtocolError
from penstock._core.protocol.reply_types import typed

__all__ = ["CHECK", "check", "read_check"]

# Servers look at permissions before anything else. The group may be missing, and `!` is
# no id, so XCLAIM does not even create a consumer. No field of the hash has an empty
# name. The other commands are those of the first beat.
CHECK: Final = b"""
local key, owner, group = KEYS[1], KEYS[2], ARGV[1]
local refused = {}
for _, words in ipairs({
  {'HGET', owner, ''},
  {'HMGET', owner, ''},
  {'HDEL', owner, ''},
  {'XPENDING', key, group},
  {'XCLAIM', key, group, '', 0, '!'},
  {'XACK', key, group, '0-0'},
}) do
  local reply = redis.pcall(unpack(words))
  if type(reply) == 'table' and reply.err then
    refused[#refused + 1] = words[1]
    refused[#refused + 1] = reply.err
  end
end
return refused
"""

_words_typed: Final = typed(list[bytes])


def check(key: bytes, owner: bytes, group: str) -> Command:
    """Try what a member does with a shard; the reply is what the user may not do.

    Args:
        key: The shard's stream.
        owner: The shard's hash.
        group: The group.
    """
    return (b"EVAL", CHECK, 2, key, owner, group)


def read_check(command: Command, reply: Any) -> dict[str, ErrorReply]:
    """Read the reply of CHECK: the commands that the user may not run.

    Raises:
        ProtocolError: It is malformed.
    """
    words = [word.decode(errors="replace") for word in _words_typed(command, reply)]
    if len(words) % 2:
        raise ProtocolError
    errors = dict(zip(words[::2], map(ErrorReply, words[1::2]), strict=True))
    return {n: error for n, error in errors.items() if error.code == "NOPERM"}
