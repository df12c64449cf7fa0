"""Pages that change nothing: the overview, streams, groups, and the API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from penstock import PenstockError
from penstock.cli import _format
from penstock.cli.looking.shared import lag_text, oldest_text
from penstock.cli.top.view import ORDERS, TopRow, eta_text
from penstock.console.advice import ATTENTION, SHAPES, advice
from penstock.console.spark import points
from penstock.console.state import Observed
from penstock.monitor import Collector, GroupState, Level, StreamStatus

__all__ = ["Pages", "name_of", "path_of"]

_SAFE: Final = ":@$!*,;=~-._"
_CARDS: Final = 3  # groups that are explained above the table
_PENDING: Final = 50  # pending messages that are shown
_LEVELS: Final = (Level.FAIL, Level.WARN, Level.NOTE, Level.OK)
_BAD: Final = (Level.FAIL, Level.WARN)
# The templates that have a part which is refreshed.
_LIVE: Final = frozenset(("overview.html", "stream.html", "group.html", "error.html"))
_JSON: Final = "application/json"


def path_of(name: str) -> str:
    """Return a name as a part of a path: quoted twice, since servers unquote once."""
    return quote(quote(name, safe=_SAFE, errors="surrogateescape"), safe=_SAFE)


def name_of(request: Request, name: str) -> str:
    """Return the name that a part of the path means."""
    return unquote(str(request.path_params[name]), errors="surrogateescape")


class Pages:
    """Makes pages of what was polled, and of what is asked for.

    Args:
        observed: The last poll.
        interval: The seconds between two polls, which is how often pages refresh.
        allow_writes: Whether pages offer changes.
        show_payloads: Whether pages offer payloads.
    """

    def __init__(
        self,
        observed: Observed,
        interval: float,
        *,
        allow_writes: bool,
        show_payloads: bool,
    ) -> None:
        self._observed = observed
        self._environment = Environment(
            loader=PackageLoader("penstock.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            text=_format.text,
            path=path_of,
            duration=_format.duration,
            count=_format.count,
            rate=_format.rate,
            size=_format.size,
        )
        self._environment.globals.update(
            lag_text=lag_text,
            oldest_text=oldest_text,
            eta_text=eta_text,
            shape=SHAPES.__getitem__,
            advice=advice,
            attention=ATTENTION,
            points=points,
            orders=list(ORDERS),
            states=[state.value for state in GroupState],
            refresh=max(interval, 1.0),
            allow_writes=allow_writes,
            show_payloads=show_payloads,
        )

    def show(self, request: Request, name: str, **values: Any) -> HTMLResponse:
        """Return the page that a template makes; with `?fragment=`, its live part."""
        if name in _LIVE and request.query_params.get("fragment") == "live":
            name = name.replace(".html", "_live.html")
        query = request.query_params.multi_items()
        kept = [(key, value) for key, value in query if key != "fragment"]
        parts = "&".join(f"{quote(k)}={quote(v)}" for k, v in kept)
        template = self._environment.get_template(name)
        return HTMLResponse(
            template.render(
                root=request.scope.get("root_path", ""),
                here=request.scope["path"],
                live_query=f"?{parts}&fragment=live" if parts else "?fragment=live",
                observed=self._observed,
                snapshot=self._observed.snapshot,
                session=request.scope.get("session"),
                **values,
            ),
            status_code=values.get("status", 200),
        )

    async def overview(self, request: Request) -> Response:
        """Show all groups, the worst first."""
        rows = self._observed.rows()
        asked = {name: request.query_params.get(name, "") for name in ("q", "state")}
        asked["sort"] = request.query_params.get("sort", "state")
        bad = [row for row in rows if row.group.state in ATTENTION]
        return self.show(
            request,
            "overview.html",
            rows=_chosen(rows, **asked),
            asked=asked,
            total=len(rows),
            bad=bad,
            cards=bad[:_CARDS],
        )

    async def stream(self, request: Request) -> Response:
        """Show one stream: shards, groups, ids, dead letters."""
        status = self._stream(request)
        details = await self._ask(lambda collector: collector.details(status))
        rows = [
            row for row in self._observed.rows() if row.group.stream == status.stream
        ]
        return self.show(
            request, "stream.html", stream=status, details=details, rows=rows
        )

    async def group(self, request: Request) -> Response:
        """Show one group: shards, consumers, and its oldest pending messages."""
        row, status = self._group(request)
        stream, group = status.stream, row.group.group
        consumers = await self._ask(lambda one: one.consumers(stream, group))
        pending = await self._ask(
            lambda one: one.pending(stream, group, limit=_PENDING)
        )
        snapshot = self._observed.snapshot
        shards = [
            (shard, each)
            for shard in (snapshot.shards if snapshot else ())
            if shard.stream == stream
            for each in shard.groups
            if each.group == group
        ]
        return self.show(
            request,
            "group.html",
            row=row,
            stream=status,
            consumers=consumers,
            pending=pending,
            shards=shards,
        )

    async def doctor(self, request: Request) -> Response:
        """Show what `penstock doctor` finds, the worst first."""
        found = await self._ask(lambda one: one.examine())
        findings = sorted(found, key=lambda one: _LEVELS.index(one.level))
        bad = [one for one in findings if one.level in _BAD]
        return self.show(request, "doctor.html", findings=findings, bad=bad)

    async def api_doctor(self, _: Request) -> Response:
        """Return the findings, as `penstock doctor --json` does."""
        return _json(await self._ask(lambda one: one.examine()))

    async def api_streams(self, _: Request) -> Response:
        """Return the streams with their groups, as `penstock streams --json` does."""
        return _json(self._streams())

    async def api_groups(self, _: Request) -> Response:
        """Return all groups, as `penstock lag --json` does."""
        return _json([group for one in self._streams() for group in one.groups])

    async def api_stream(self, request: Request) -> Response:
        """Return one stream, as `penstock info --json` does."""
        status = self._stream(request)
        return _json(await self._ask(lambda collector: collector.details(status)))

    async def api_consumers(self, request: Request) -> Response:
        """Return a group's consumers, as `penstock consumers --json` does."""
        row, _ = self._group(request)
        stream, group = row.group.stream, row.group.group
        return _json(await self._ask(lambda one: one.consumers(stream, group)))

    async def api_pending(self, request: Request) -> Response:
        """Return pending messages of a group, as `penstock pending --json` does."""
        row, _ = self._group(request)
        stream, group = row.group.stream, row.group.group
        return _json(await self._ask(lambda one: one.pending(stream, group)))

    def _streams(self) -> Sequence[StreamStatus]:
        """Return the streams of the last poll.

        Raises:
            HTTPException: The last poll failed; a program must not take old numbers for
                present ones.
        """
        if self._observed.snapshot is None or self._observed.reason is not None:
            raise HTTPException(503, self._observed.reason or "nothing was polled yet")
        return self._observed.snapshot.streams

    def _stream(self, request: Request) -> StreamStatus:
        name = name_of(request, "stream")
        snapshot = self._observed.snapshot
        for one in snapshot.streams if snapshot else ():
            if one.stream == name:
                return one
        raise HTTPException(404, f"no stream {name!a:.80} was found in the last poll")

    def _group(self, request: Request) -> tuple[TopRow, StreamStatus]:
        status = self._stream(request)
        name = name_of(request, "group")
        for row in self._observed.rows():
            if (row.group.stream, row.group.group) == (status.stream, name):
                return row, status
        raise HTTPException(404, f"{status.stream!a:.80} has no group {name!a:.80}")

    async def _ask(self, question: Callable[[Collector], Awaitable[Any]]) -> Any:
        """Ask the server on the connection that polls.

        Raises:
            HTTPException: It did not answer, or said no.
        """
        collector = self._observed.collector
        if collector is None:
            raise HTTPException(503, self._observed.reason or "nothing was polled yet")
        try:
            return await question(collector)
        except PenstockError as error:
            raise HTTPException(502, str(error)) from None


def _chosen(rows: Sequence[TopRow], q: str, state: str, sort: str) -> list[TopRow]:
    """Return the rows that the address asks for, in its order."""
    found = [
        row
        for row in rows
        if q.lower() in f"{row.group.stream} {row.group.group}".lower()
        and _in_state(row, state)
    ]
    order = ORDERS.get(sort)
    return found if order is None else sorted(found, key=order)


def _in_state(row: TopRow, state: str) -> bool:
    if state == "attention":
        return row.group.state in ATTENTION
    return not state or row.group.state == state


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type=_JSON)
