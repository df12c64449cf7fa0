"""`penstock send`: stores messages in a stream."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from msgspec import Struct

from penstock import (
    KEEP_ALL,
    AccessError,
    ConfigurationError,
    EntryId,
    KeyHash,
    MaxLen,
    Outgoing,
    Producer,
    Random,
    Receipt,
    RoundRobin,
)
from penstock.admin import Admin
from penstock.cli._admin_call import perform, say, say_event
from penstock.cli._errors import INTERRUPTED, plain_errors
from penstock.cli._options import id_option, stream_argument
from penstock.cli._output import emit
from penstock.cli._server import Server, on_server
from penstock.cli.messages import source
from penstock.cli.messages.sending import Outcomes, Sending
from penstock.sharding import Sharder

__all__ = ["SentMessage", "send"]

# Seconds that a message may take, unless --timeout says otherwise.
_TIMEOUT: Final = 10.0
_SHARDERS: Final = {kind.__name__: kind for kind in (KeyHash, RoundRobin, Random)}


class SentMessage(Struct, frozen=True, kw_only=True):
    """A message that was stored.

    Attributes:
        id: Its id.
        stream: The stream.
        shard: The number of the shard.
    """

    id: str
    stream: str
    shard: int


@dataclass(frozen=True, slots=True)
class _Given:
    """Where the messages come from, and what they have.

    Attributes:
        payload: The payload, if it is an argument; `-` is the input.
        file: The file that has the payload.
        lines: Whether each line of the input is a payload.
        json_lines: Whether each line of the input is an object.
        key: The key of each message.
        headers: Its headers.
        id: Its id.
        count: How often it is sent.
    """

    payload: str | None
    file: Path | None
    lines: bool
    json_lines: bool
    key: str | None
    headers: dict[str, str]
    id: EntryId | None
    count: int

    def check(self) -> None:
        """Check that the options fit together.

        Raises:
            ConfigurationError: They do not.
        """
        sources = (self.payload is not None, self.file is not None)
        if (*sources, self.lines, self.json_lines).count(True) != 1:
            raise ConfigurationError(
                "choose the message by exactly one of PAYLOAD, - (the standard "
                "input), --file, --lines and --json-lines"
            )
        several = self.lines or self.json_lines
        if several and self.count != 1:
            raise ConfigurationError(
                "--count repeats one message; leave it out with --lines and "
                "--json-lines"
            )
        if self.id is not None and (several or self.count != 1):
            raise ConfigurationError(
                "--id is the id of one message; leave it out, or send one message"
            )
        if self.json_lines and (self.key is not None or self.headers):
            raise ConfigurationError(
                "with --json-lines each object has its own key and headers; leave "
                "out --key and --header"
            )

    async def messages(
        self,
    ) -> AsyncGenerator[Outgoing[bytes] | source.BadLineError, None]:
        """Yield the messages; or why one of them can't be sent."""
        if self.json_lines:
            async for line in source.lines():
                if line.strip():
                    try:
                        yield source.message_of(line)
                    except source.BadLineError as error:
                        yield error
            return
        if self.lines:
            async for line in source.lines():
                yield self._message(line)
            return
        body = await self._body()
        for _ in range(self.count):
            yield self._message(body)

    async def _body(self) -> bytes:
        if self.file is not None:
            return self.file.read_bytes()
        if self.payload == "-":
            return await source.whole()
        # The bytes of the argument, whatever they are.
        return os.fsencode(self.payload or "")

    def _message(self, body: bytes) -> Outgoing[bytes]:
        return Outgoing(body, key=self.key, headers=self.headers or None, id=self.id)


@on_server
def send(
    stream: Annotated[str, stream_argument("The stream.")],
    payload: Annotated[
        str | None,
        typer.Argument(
            metavar="[PAYLOAD]",
            help="The payload; - is all of the standard input.",
            show_default=False,
        ),
    ] = None,
    *,
    server: Server,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="A file that has the payload.",
        ),
    ] = None,
    lines: Annotated[
        bool,
        typer.Option("--lines", help="Each line of the standard input is a payload."),
    ] = False,
    json_lines: Annotated[
        bool,
        typer.Option(
            "--json-lines",
            help="Each line of the standard input is an object, as `penstock read "
            "--json` prints them.",
        ),
    ] = False,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The key of each message.")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A header; may be repeated."),
    ] = None,
    id: Annotated[  # noqa: A002 - the option's name
        EntryId | None,
        id_option("--id", "The message's id; default: the server chooses it."),
    ] = None,
    count: Annotated[
        int, typer.Option(metavar="N", min=1, help="Send the message so many times.")
    ] = 1,
    shards: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="The number of shards; default: that of the stream's record.",
        ),
    ] = None,
    max_len: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Keep the newest N entries of each shard, or more."
        ),
    ] = None,
) -> None:
    """Store messages in a stream, and print the id of each.

    The bytes of payloads are stored unchanged. After a failure nothing more is sent,
    and it prints how many messages are stored, not stored, and unknown (written, but
    not answered in time).

    Exit status: 0 all messages are stored; 1 no connection, or not all are; 2 wrong
    usage, and nothing was stored.
    """
    with plain_errors():
        given = _Given(
            payload, file, lines, json_lines, key, _headers(header or ()), id, count
        )
        given.check()
    outcomes = Outcomes()

    async def work() -> int:
        sharder = await _sharder(server, stream, shards)
        async with Producer(
            server.url,
            sharder=sharder,
            send_timeout=server.timeout or _TIMEOUT,
            retention=KEEP_ALL if max_len is None else MaxLen(max_len),
            on_event=say_event,
        ) as producer:
            show = partial(_show, server)
            sending = Sending(producer, stream, outcomes, show)
            await sending.run(given.messages())
        if outcomes.complete:
            return 0
        say(str(outcomes))
        untouched = not (outcomes.stored or outcomes.unknown)
        return 2 if outcomes.wrong_usage and untouched else 1

    def interrupted() -> int:
        say(f"{outcomes.stored:,} stored; others that were read may be, or may not")
        return INTERRUPTED

    perform(work, interrupted)


def _headers(texts: list[str] | tuple[()]) -> dict[str, str]:
    """Return headers by name.

    Raises:
        ConfigurationError: One has no name or no value, or a name is repeated.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigurationError(
                f"--header {name!a:.60} has no value; write NAME=VALUE"
                if name
                else "--header has no name; write NAME=VALUE"
            )
        if name in found:
            raise ConfigurationError(
                f"--header {name!a:.60} is there twice; a name has one value"
            )
        found[name] = value
    return found


async def _sharder(server: Server, stream: str, shards: int | None) -> Sharder | None:
    """Return how the stream is spread: as the option says, or as it is recorded.

    Raises:
        ConfigurationError: It is spread by a sharder of a program.
        ServerError: There is no connection, or the record is none.
    """
    if shards is not None:
        return KeyHash(shards)
    async with Admin(server.url, on_event=say_event) as admin:
        try:
            record = await admin.shards(stream)
        except AccessError:
            return None  # a producer that may not read it sends to the one key, too
    if record is None:
        return None
    kind = _SHARDERS.get(record.sharder or KeyHash.__name__)
    if kind is None or record.number is None:
        raise ConfigurationError(
            f"stream {stream!a:.80} is spread by {record.sharder!a:.60}, which "
            f"only the programs have that use it; send with one of them"
        )
    return kind(record.number)


def _show(server: Server, receipt: Receipt) -> None:
    """Print the id of a message."""
    # If nobody reads the ids any more, that is no reason not to send the rest.
    with suppress(typer.Exit):
        if server.out.json:
            id_, stream, shard = str(receipt.id), receipt.stream, receipt.shard
            server.out.object(SentMessage(id=id_, stream=stream, shard=shard))
        else:
            emit(str(receipt.id))
