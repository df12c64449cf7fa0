"""The families of metrics that a process has: their names, kinds and meanings."""

from __future__ import annotations

from typing import Final

from penstock.observe._families import Kind

__all__ = ["FAMILIES"]

FAMILIES: Final[dict[str, tuple[Kind, str]]] = {
    "penstock_messages_received": (
        "counter",
        "Entries read, redelivered ones included.",
    ),
    "penstock_messages_handled": ("counter", "Ended attempts, by their outcome."),
    "penstock_handler_seconds": ("histogram", "Duration of attempts."),
    "penstock_message_age_seconds": (
        "histogram",
        "Age of messages, by their ids, when their first attempt began.",
    ),
    "penstock_handlers_running": ("gauge", "Attempts under way; a batch is one."),
    "penstock_messages_queued": ("gauge", "Messages that wait here for a handler."),
    "penstock_oldest_running_seconds": (
        "gauge",
        "How long the longest attempt under way has taken so far.",
    ),
    "penstock_messages_acknowledged": (
        "counter",
        "Messages whose acknowledgement the server has confirmed.",
    ),
    "penstock_messages_uncommitted": (
        "gauge",
        "Outcomes decided here that the server has not confirmed.",
    ),
    "penstock_retries": ("counter", "Attempts after which a message was put off."),
    "penstock_dead_lettered": ("counter", "Messages moved to the dead letters."),
    "penstock_messages_dropped": (
        "counter",
        "Messages given up without a dead letter.",
    ),
    "penstock_deleted_pending": (
        "counter",
        "Entries deleted from the stream before they were acknowledged.",
    ),
    "penstock_claimed": ("counter", "Messages taken over from other consumers."),
    "penstock_leases_lost": ("counter", "Messages that other consumers took over."),
    "penstock_outcomes_late": (
        "counter",
        "Outcomes that came after another consumer had the message.",
    ),
    "penstock_sent": ("counter", "Messages sent, by their outcome."),
    "penstock_send_seconds": (
        "histogram",
        "Time from the call to the receipt, of stored messages.",
    ),
    "penstock_send_queue_messages": ("gauge", "Messages without an outcome."),
    "penstock_send_queue_bytes": ("gauge", "Bytes of messages without an outcome."),
    "penstock_connected": (
        "gauge",
        "Consumers and producers that the server owes no answer for 15 seconds.",
    ),
    "penstock_reconnects": ("counter", "Outages of a connection that have ended."),
    "penstock_events": ("counter", "Events, as docs/reference/events.md lists them."),
    "penstock_relay_paused": (
        "gauge",
        "1 while `penstock relay` waits for its list to become shorter.",
    ),
    "penstock_info": (
        "gauge",
        "Always 1; the versions of Penstock and of servers are labels.",
    ),
}
"""By name: the kind, and what is counted."""
