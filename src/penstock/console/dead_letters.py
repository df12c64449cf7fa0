"""Pages of dead letters: the list with its counts, and one letter."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from penstock import ConfigurationError, Event, PenstockError
from penstock.admin import Admin
from penstock.admin._selection import Where
from penstock.cli import _values
from penstock.cli.dead.filter import DeadLetterFilter
from penstock.cli.dead.report import count_row, letter_row
from penstock.console.pages import Pages, name_of
from penstock.events import OnEvent, printable

__all__ = ["DeadLetterPages", "address_of", "connected", "filter_of"]

_PAGE: Final = 100  # letters on a page
_FIELDS: Final = ("error", "group", "reason", "before")


class DeadLetterPages:
    """Shows dead letters.

    Args:
        pages: Shows templates.
        url: The server.
        on_event: Called with what was done.
        show_payloads: Whether payloads and headers can be shown.
    """

    def __init__(
        self, pages: Pages, url: str, on_event: OnEvent, *, show_payloads: bool
    ) -> None:
        self._pages = pages
        self._url = url
        self._on_event = on_event
        self._show_payloads = show_payloads

    async def overview(self, request: Request) -> Response:
        """Show the dead letters of a stream, with the numbers by error and group."""
        stream = name_of(request, "stream")
        asked = {name: request.query_params.get(name, "") for name in _FIELDS}
        after = request.query_params.get("after") or None
        async with connected(self._url, self._on_event) as admin:
            wanted = filter_of(stream, request)
            selection = wanted.select("list")
            counts = await admin.dead.select(selection).summary(quiet=True)
            letters = await admin.dead.list(
                stream, limit=_PAGE, after=after, where=_within(wanted)
            )
        return self._pages.show(
            request,
            "dead.html",
            stream=stream,
            asked=asked,
            filtered=wanted.filtered,
            counts=counts,
            number=sum(one.letters for one in counts),
            letters=[letter_row(one) for one in letters],
            more=letters[-1].id if len(letters) == _PAGE else None,
        )

    async def letter(self, request: Request) -> Response:
        """Show one letter; its payload and headers on demand, which is reported."""
        stream = name_of(request, "stream")
        payload = self._show_payloads and request.query_params.get("payload") == "yes"
        async with connected(self._url, self._on_event) as admin:
            id_ = _values.entry_id(request.path_params["id"], "the id")
            found = await admin.dead.read(stream, id_)
        if found is None:
            raise HTTPException(404, f"there is no letter {id_} any more")
        if payload:
            facts = {
                "address": address_of(request),
                "action": "show_payload",
                "stream": stream,
                "filter": f"id={id_}",
                "count": 1,
            }
            self._on_event(Event("console_action", logging.INFO, facts))
        row = letter_row(found, whole=True, payload=payload)
        return self._pages.show(
            request,
            "letter.html",
            stream=stream,
            letter=row,
            traceback=[printable(line, 1000) for line in found.traceback.splitlines()],
            body=_lines(found.payload) if payload else None,
            headers=found.headers.pairs if payload else (),
            payload=payload,
        )

    async def api_list(self, request: Request) -> Response:
        """Return dead letters, as `penstock dead list --json` does."""
        stream = name_of(request, "stream")
        async with connected(self._url, self._on_event) as admin:
            wanted = filter_of(stream, request)
            after = request.query_params.get("after") or None
            letters = await admin.dead.list(
                stream, limit=_PAGE, after=after, where=_within(wanted)
            )
        return _json([letter_row(one) for one in letters])

    async def api_summary(self, request: Request) -> Response:
        """Return the counts, as `penstock dead summary --json` does."""
        stream = name_of(request, "stream")
        async with connected(self._url, self._on_event) as admin:
            selection = filter_of(stream, request).select("summary")
            counts = await admin.dead.select(selection).summary(quiet=True)
        return _json([count_row(stream, one) for one in counts])


@asynccontextmanager
async def connected(url: str, on_event: OnEvent) -> AsyncIterator[Admin]:
    """Open a connection for one request.

    Raises:
        HTTPException: The server is not there or said no, or a value is invalid.
    """
    try:
        async with Admin(url, on_event=on_event) as admin:
            yield admin
    except ConfigurationError as error:
        raise HTTPException(400, str(error)) from None
    except PenstockError as error:
        raise HTTPException(502, str(error)) from None


def filter_of(stream: str, request: Request) -> DeadLetterFilter:
    """Return the filter that the address says.

    Raises:
        ConfigurationError: A value is invalid.
    """
    query = request.query_params
    before = query.get("before")
    return DeadLetterFilter(
        stream,
        None,
        ids=[_values.entry_id(one, "id") for one in query.getlist("id")] or None,
        group=query.get("group") or None,
        error=query.get("error") or None,
        reason=query.get("reason") or None,
        before=_values.bound(before, "before") if before else None,
    )


def address_of(request: Request) -> str:
    """Return the address of the client."""
    return request.client.host if request.client else "unknown"


def _within(wanted: DeadLetterFilter) -> Where:
    """Return the function that selects the letters of a filter for `list`."""
    selection = wanted.select("list")
    return lambda letter: letter.id <= selection.high and selection.matches(letter)


def _lines(payload: bytes | None) -> list[str]:
    if payload is None:
        return []
    return [printable(line, 100_000) for line in payload.split(b"\n")]


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
