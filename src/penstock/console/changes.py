"""Redrive and purge: a page that says what will happen, and one that has done it."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from penstock import EntryId, Event
from penstock.admin import Admin, DeadLetterCount
from penstock.admin._selection import Selection
from penstock.cli import _values
from penstock.cli.dead.filter import DeadLetterFilter
from penstock.console.dead_letters import address_of, connected, filter_of
from penstock.console.pages import Pages, name_of
from penstock.console.security import Session
from penstock.events import OnEvent, printable

__all__ = ["Changes"]

_VERBS: Final = ("redrive", "purge")
_FIELDS: Final = 300  # of a form; a page has up to 100 ids


@dataclass(frozen=True, slots=True)
class _Bound:
    """The letters that a confirmation page is about.

    Attributes:
        wanted: The filter, with the id up to which letters are meant.
        through: That id; None if the letters are named.
    """

    wanted: DeadLetterFilter
    through: EntryId | None

    @property
    def fields(self) -> Sequence[tuple[str, str]]:
        """The fields of the form that stand for these letters."""
        wanted = self.wanted
        named = [("id", str(one)) for one in wanted.ids or ()]
        content = {
            "error": wanted.error,
            "group": wanted.group,
            "reason": wanted.reason,
            "through": None if self.through is None else str(self.through),
        }
        return named + [(name, value) for name, value in content.items() if value]

    def selection(self, verb: str) -> Selection:
        """Return the letters for a call."""
        return self.wanted.select(verb)

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.fields)


class Changes:
    """Redrives and purges dead letters, each after a confirmation.

    Args:
        pages: Shows templates.
        url: The server.
        on_event: Called with what was done.
    """

    def __init__(self, pages: Pages, url: str, on_event: OnEvent) -> None:
        self._pages = pages
        self._url = url
        self._on_event = on_event

    async def confirm(self, request: Request) -> Response:
        """Show exactly what will happen; nothing happens yet."""
        verb, stream = _verb(request), name_of(request, "stream")
        async with connected(self._url, self._on_event) as admin:
            wanted = filter_of(stream, request)
            counts = await _counts(admin, wanted.select(verb))
        number = sum(one.letters for one in counts)
        through = max((one.last for one in counts), default=None)
        bound = _bound(wanted, None if wanted.ids else through)
        session = _session(request)
        response = self._pages.show(
            request,
            "confirm.html",
            verb=verb,
            stream=stream,
            number=number,
            counts=counts,
            bound=bound,
            through=through,
            csrf=session.csrf,
        )
        # The form's Origin has to be there for the comparison.
        response.headers["referrer-policy"] = "same-origin"
        return response

    async def apply(self, request: Request) -> Response:
        """Do what the confirmation page said, and show the numbers."""
        verb, stream = _verb(request), name_of(request, "stream")
        form = await request.form(max_fields=_FIELDS)
        given = str(form.get("csrf", ""))
        if not hmac.compare_digest(given.encode(), _session(request).csrf.encode()):
            raise HTTPException(403, "the form is not of this session; open it again")
        refused: dict[str, int] = {}
        async with connected(self._url, self._noting(refused)) as admin:
            bound = _of_form(stream, form)
            done = await _call(admin, verb, bound.selection(verb))
            left = sum(o.letters for o in await _counts(admin, bound.selection(verb)))
        self._report(request, verb, stream, bound, done)
        return self._pages.show(
            request,
            "result.html",
            verb=verb,
            stream=stream,
            asked=_number(form),
            done=done,
            refused=refused.get("letters_refused", 0),
            left=left,
        )

    def _noting(self, refused: dict[str, int]) -> OnEvent:
        """Return a hook that passes events on, and keeps their counts."""

        def hook(event: Event) -> None:
            refused[event.name] = event.facts.get("count", 1)
            self._on_event(event)

        return hook

    def _report(
        self, request: Request, verb: str, stream: str, bound: _Bound, done: int
    ) -> None:
        facts: Mapping[str, object] = {
            "address": address_of(request),
            "action": verb,
            "stream": stream,
            "filter": printable(str(bound)),
            "count": done,
        }
        self._on_event(Event("console_action", logging.INFO, facts))


async def _counts(admin: Admin, selection: Selection) -> Sequence[DeadLetterCount]:
    return await admin.dead.select(selection).summary(quiet=True)


async def _call(admin: Admin, verb: str, selection: Selection) -> int:
    letters = admin.dead.select(selection)
    if verb == "redrive":
        return await letters.redrive(None)
    return await letters.purge(all=False)


def _bound(wanted: DeadLetterFilter, through: EntryId | None) -> _Bound:
    """Return a filter that leaves out letters which come later."""
    if through is None:
        return _Bound(wanted, None)
    return _Bound(replace(wanted, before=through.next()), through)


def _of_form(stream: str, form: FormData) -> _Bound:
    """Return the letters that a form stands for.

    Raises:
        HTTPException: It stands for all letters that there may ever be.
        ConfigurationError: A value is invalid.
    """
    through = str(form.get("through", ""))
    ids = [_values.entry_id(str(one), "id") for one in form.getlist("id")]
    if not through and not ids:
        raise HTTPException(400, "the form names no letters; open it again")
    wanted = DeadLetterFilter(
        stream,
        None,
        ids=ids or None,
        group=str(form.get("group", "")) or None,
        error=str(form.get("error", "")) or None,
        reason=str(form.get("reason", "")) or None,
    )
    return _bound(wanted, _values.entry_id(through, "through") if through else None)


def _verb(request: Request) -> str:
    verb = str(request.path_params["verb"])
    if verb not in _VERBS:
        raise HTTPException(404, "there is no such page")
    return verb


def _session(request: Request) -> Session:
    session: Session | None = request.scope.get("session")
    if session is None:
        raise HTTPException(403, "changes need a session; log in first")
    return session


def _number(form: FormData) -> int:
    text = str(form.get("count", ""))
    return int(text) if text.isdecimal() and len(text) < 19 else 0  # noqa: PLR2004
