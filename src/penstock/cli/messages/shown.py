"""Output of messages: one object of JSON each, or as a person reads them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType
from rich.text import Text

from penstock import _clock
from penstock._core.messages import envelope
from penstock._core.protocol.replies import RawEntry
from penstock.cli import _format
from penstock.cli._output import Output, emit, quiet_pipe
from penstock.events import printable
from penstock.fields import Headers
from penstock.message import EntryId, Shard
from penstock.monitor._observation import age

__all__ = ["MessagePrinter", "MessageRow", "message_row"]

# The most characters of a payload without `--full`, and those of a key or a header.
_CUT: Final = 500
_SHORT: Final = 200
_LONG: Final = 1_000_000_000
# The most bytes of a payload that are laid out as JSON.
_LAID_OUT: Final = 1024 * 1024


class MessageRow(Struct, frozen=True, kw_only=True):
    """A message of a stream. `penstock send --json-lines` reads the same objects.

    Attributes:
        id: The message's id.
        stream: The stream.
        shard: The number of the shard.
        time: When it was sent, by its id; null if the id is no time.
        key: Its key; null if it has none.
        headers: Its headers. Bytes that are not UTF-8 are lone surrogates.
        payload: The payload, if it is text in UTF-8; left out with `--no-payload`.
        payload_base64: The payload, if it is not.
        fields: All fields of an entry that has no payload, because another program
            wrote it; such an entry has no payload and no headers.
    """

    id: str
    stream: str
    shard: int
    time: datetime | None
    key: str | None
    headers: dict[str, str]
    payload: str | UnsetType = UNSET
    payload_base64: str | UnsetType = UNSET
    fields: dict[str, str] | UnsetType = UNSET


def message_row(shard: Shard, entry: RawEntry, *, payload: bool = True) -> MessageRow:
    """Return the row of an entry.

    Args:
        shard: The entry's shard.
        entry: The entry: its id and its fields.
        payload: Whether the payload is included, or the fields of a foreign entry.
    """
    raw_id, fields = entry
    id_ = EntryId.parse(raw_id)
    body = envelope.payload(fields)
    row = MessageRow(
        id=str(id_),
        stream=shard.stream,
        shard=shard.number,
        time=_time(id_),
        key=None if body is None else envelope.decode_key(envelope.key(fields)),
        headers={} if body is None else dict(envelope.headers(fields)),
    )
    if not payload:
        return row
    if body is None:
        return msgspec.structs.replace(row, fields=_all(fields))
    try:
        return msgspec.structs.replace(row, payload=body.decode())
    except UnicodeDecodeError:
        encoded = base64.b64encode(body).decode()
        return msgspec.structs.replace(row, payload_base64=encoded)


def _all(fields: Sequence[bytes]) -> dict[str, str]:
    """Return all fields as text; of several with one name, the first."""
    words = [word.decode("utf-8", "surrogateescape") for word in fields]
    return dict(Headers(list(zip(words[::2], words[1::2], strict=True))))


def _age(id_: EntryId) -> float | None:
    return age(id_, int(1000 * _clock.wall()))


def _time(id_: EntryId) -> datetime | None:
    return None if _age(id_) is None else id_.timestamp


class MessagePrinter:
    """Prints messages as they come.

    Args:
        out: Where they go.
        payload: Whether payloads are shown.
        full: Whether payloads are shown whole.
        several: Whether the messages are of several shards.
    """

    def __init__(
        self, out: Output, *, payload: bool, full: bool, several: bool
    ) -> None:
        self._out = out
        self._payload = payload
        self._full = full
        self._several = several
        self._headed = False

    def add(self, shard: Shard, entry: RawEntry) -> None:
        """Print a message.

        Raises:
            Exit: Nobody reads the output any more.
        """
        if self._out.is_table:
            with quiet_pipe():
                for line in self._lines(shard, entry):
                    self._out.console.print(line, soft_wrap=True)
            return
        row = message_row(shard, entry, payload=self._payload)
        if self._out.json:
            self._out.object(row)
            return
        self.head()
        emit("\t".join(_cells(row, payload=self._payload, full=self._full)))

    def head(self) -> None:
        """Print the headings of a pipe, once.

        Raises:
            Exit: Nobody reads the output any more.
        """
        if not (self._headed or self._out.json or self._out.is_table):
            self._headed = True
            names = ("ID", "SHARD", "KEY", "HEADERS", "PAYLOAD")
            emit("\t".join(names if self._payload else names[:-1]))

    def _lines(self, shard: Shard, entry: RawEntry) -> Iterator[Text]:
        """Yield what a terminal shows of a message."""
        row = message_row(shard, entry, payload=False)
        head = Text(row.id, "bold")
        since = _age(EntryId.parse(row.id))
        head.append("" if since is None else f" ({_format.duration(since)} ago)", "dim")
        if self._several:
            head.append(f" shard={row.shard}")
        if row.key is not None:
            head.append(f" key={printable(row.key, _SHORT)}", "cyan")
        for name, value in row.headers.items():
            shown = f" {printable(name, _SHORT)}={printable(value, _SHORT)}"
            head.append(shown, "green")
        yield head
        if not self._payload:
            return
        body = envelope.payload(entry[1])
        if body is None:
            text = json.dumps(_all(entry[1]), indent=2)
            yield Text("  entry of another program, with these fields:", "dim")
        else:
            text = _laid_out(body, whole=self._full)
        cut = text if self._full else text[:_CUT]
        for line in cut.split("\n"):
            yield Text(f"  {_escaped(line)}")
        if len(text) > len(cut):
            size = sum(map(len, entry[1])) if body is None else len(body)
            yield Text(f"  … of {size:,} bytes; --full shows all", "dim")


def _laid_out(body: bytes, *, whole: bool) -> str:
    """Return a payload as text, and JSON with one value in each line."""
    if not whole and len(body) > _LAID_OUT:
        body = body[: 4 * _CUT + 4]  # enough characters, whatever they are
    elif body.lstrip()[:1] in {b"{", b"["}:
        # It may only begin like JSON.
        with suppress(msgspec.DecodeError, RecursionError, ValueError):
            body = msgspec.json.format(body, indent=2)
    return body.decode("utf-8", "backslashreplace")


def _escaped(line: str) -> str:
    """Escape what acts on a terminal, and keep the letters of all languages."""
    if line.isprintable():
        return line
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in line
    )


def _cells(row: MessageRow, *, payload: bool, full: bool) -> Iterator[str]:
    """Yield the columns of a message in a pipe."""
    yield row.id
    yield str(row.shard)
    yield "-" if row.key is None else printable(row.key, _SHORT)
    yield printable(json.dumps(row.headers), _LONG)
    if payload:
        yield printable(_body(row), _LONG if full else _CUT)


def _body(row: MessageRow) -> str:
    if row.fields is not UNSET:
        return json.dumps(row.fields)
    if row.payload_base64 is not UNSET:
        body = base64.b64decode(row.payload_base64)
        return body.decode("utf-8", "backslashreplace")
    return "" if row.payload is UNSET else row.payload
