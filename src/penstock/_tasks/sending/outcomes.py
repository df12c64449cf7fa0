"""Outcomes: tells the callers what became of their messages, and reports failures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from penstock._core.metrics.sends import SendOutcome
from penstock._core.protocol.replies import CONNECTION_ENDED, ErrorReply, send_failed
from penstock._core.sending import durability
from penstock._core.sending.durability import DurabilityWait
from penstock._core.sending.requests import SendRequest
from penstock._tasks.reporting import id_list, report_sends, stream_list
from penstock._tasks.sending.send_meter import SendMeter
from penstock.errors import NotDurable, PenstockError, SendFailed, SendUnknown
from penstock.events import Event, OnEvent
from penstock.message import Receipt, Shard

__all__ = ["Outcomes", "Ticket", "fail"]

Ticket: TypeAlias = "asyncio.Future[Receipt]"

_VERIFY: Final = "set appendfsync to always, and allow +config|get and +info to show it"


class Outcomes:
    """Sets the outcomes of messages, which their callers await.

    Args:
        on_event: Called with the number of messages that failed or whose outcome is
            unknown.
        meter: Counts and times messages.
    """

    def __init__(self, on_event: OnEvent, meter: SendMeter) -> None:
        self._on_event = on_event
        self._meter = meter
        # Whether it was reported that durability can't be verified.
        self._unverified = False

    def report(
        self, requests: Sequence[SendRequest[Ticket]], outcomes: Sequence[Any]
    ) -> list[ErrorReply]:
        """Set the outcomes of messages; return the replies that refused one."""
        if self._meter.on:
            self._record(requests, outcomes)
        refused: list[ErrorReply] = []
        doubtful: list[SendRequest[Ticket]] = []
        doubt = ""
        short: list[NotDurable] = []
        failed: list[Shard] = []
        for request, outcome in zip(requests, outcomes, strict=True):
            ticket = request.ticket
            if type(outcome) is bytes:
                # It is done already if the caller has stopped waiting.
                if not ticket.done():
                    shard = request.shard
                    ticket.set_result(Receipt(shard.stream, shard.number, outcome))
            elif isinstance(outcome, NotDurable):
                short.append(outcome)
                fail(ticket, outcome)
            elif request.unanswered:
                # The first write may have been executed, and even be the reason why the
                # repeat is refused: an id may be given only once.
                doubt = doubt or outcome.text
                doubtful.append(request)
                refused.append(outcome)
            else:
                refused.append(outcome)
                failed.append(request.shard)
                fail(ticket, send_failed(request.shard.stream, outcome))
        if doubtful:
            reason = "it was written again, and refused then"
            hint = CONNECTION_ENDED if "Protocol error" in doubt else ""
            self.unknown(doubtful, f"{reason}: {doubt}", hint)
        if failed:
            facts = {"messages": len(failed), "streams": stream_list(failed)}
            facts["reply"] = refused[0].text
            self._on_event(Event("send_failed", facts=facts))
        if short:
            least = min(error.achieved for error in short)
            facts = {"messages": len(short), "replicas": least}
            facts["ids"] = id_list([error.id.encode() for error in short])
            self._on_event(Event("send_not_durable", facts=facts))
        return refused

    def _record(
        self, requests: Sequence[SendRequest[Ticket]], outcomes: Sequence[Any]
    ) -> None:
        by_outcome: dict[SendOutcome, list[SendRequest[Ticket]]] = {}
        for request, outcome in zip(requests, outcomes, strict=True):
            kind: SendOutcome = "stored"
            if isinstance(outcome, NotDurable):
                kind = "not_durable"
            elif type(outcome) is not bytes:
                kind = "unknown" if request.unanswered else "failed"
            by_outcome.setdefault(kind, []).append(request)
        for kind, those in by_outcome.items():
            self._meter.record(those, kind)

    def check_durability(
        self,
        requests: Sequence[SendRequest[Ticket]],
        outcomes: Sequence[Any],
        waits: Sequence[DurabilityWait],
        waited: Sequence[Any],
    ) -> list[Any]:
        """Replace the outcomes of messages that are not as durable as required.

        It is reported, once, if that can't be known.
        """
        sync = durability.sync_of(waits, waited)
        if sync is not None and sync.believed is None and not self._unverified:
            self._unverified = True
            facts = {"reason": sync.reason, "hint": _VERIFY}
            self._on_event(Event("durability_unverified", logging.WARNING, facts))
        return durability.check(requests, outcomes, waits, waited, sync)

    def unknown(
        self, lost: list[SendRequest[Ticket]], reason: str, hint: str = ""
    ) -> None:
        """Fail messages that were written and may be stored."""
        self._meter.record(lost, "unknown")
        for request in lost:
            fail(request.ticket, SendUnknown(request.shard.stream, reason, hint))
        report_sends(self._on_event, "send_unknown", lost, reason)

    def unwritten(
        self, left: list[SendRequest[Ticket]], code: str, reason: str
    ) -> None:
        """Fail messages that were not written and will not be."""
        self._meter.record(left, "failed")
        for request in left:
            fail(request.ticket, SendFailed(request.shard.stream, code, reason))
        report_sends(self._on_event, "send_failed", left, reason)

    def refused(self, left: list[SendRequest[Ticket]], error: PenstockError) -> None:
        """Fail messages that were not written, because of what their sender did."""
        self._meter.record(left, "failed")
        for request in left:
            fail(request.ticket, error)
        report_sends(self._on_event, "send_failed", left, str(error))


def fail(ticket: Ticket, error: BaseException) -> None:
    """Set a message's error, if its caller still waits."""
    if not ticket.done():
        ticket.set_exception(error)
        # The error is reported as an event, so asyncio need not log "never retrieved".
        ticket.exception()
