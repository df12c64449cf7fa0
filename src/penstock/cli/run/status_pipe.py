"""StatusPipe: the socket pair between `penstock run` and one of its workers.

The worker sends frames: that it is ready, or why it can't be run, and the answers to
what the parent asks. The parent asks by a byte. Threads answer, because a handler may
block the event loop: one about the worker's health, and another one what takes longer.
When the parent ends, however that happens, its end of the socket is closed, and the
worker sees that.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from enum import IntEnum
from queue import SimpleQueue
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

__all__ = [
    "BEAT",
    "COUNTERS",
    "DUMP",
    "HEALTH",
    "METRICS",
    "URL_VARIABLE",
    "WORKERS_VARIABLE",
    "WORKER_VARIABLE",
    "Frame",
    "Frames",
    "StatusPipe",
    "Tally",
]

# Passed in the environment, because every user can read a process's arguments.
URL_VARIABLE: Final = "PENSTOCK_RUN_URL"
# The number of a worker, from 1 on, and how many there are; user code may read them.
WORKER_VARIABLE: Final = "PENSTOCK_WORKER"
WORKERS_VARIABLE: Final = "PENSTOCK_WORKERS"
# Seconds between two questions of the parent for the worker's health.
BEAT: Final = 2.0
# Has a worker's faulthandler write where all threads are. A signal that programs don't
# use for themselves, where there is one.
DUMP: Final[int] = getattr(signal, "SIGRTMAX", 0) or getattr(signal, "SIGUSR2", 0)
# What the parent may ask for: the worker's health, its metrics, or only those metrics
# that are added up.
HEALTH: Final = b"h"
METRICS: Final = b"m"
COUNTERS: Final = b"c"

_LOGGER: Final = logging.getLogger("penstock.run")
_LONGEST: Final = 32_768  # bytes of a reason; writing must not block
_HEAD: Final = struct.Struct("!BI")  # the kind, and the length of what follows


class Frame(IntEnum):
    """The kinds of frames that a worker sends."""

    READY = 1
    """All consumers are open."""
    REFUSED = 2
    """Why the worker can't be run, as text."""
    HEALTH = 3
    """The worker's health, as JSON."""
    METRICS = 4
    """The worker's metrics, as a list of families in MessagePack; empty if they can't
    be collected."""

    CAUGHT_UP = 5
    """No group has lag or pending messages; else why that can't be known, as text."""
    DRAINED = 6
    """What became of the worker's messages, as JSON: a `Tally`."""


class Tally(Struct, frozen=True):
    """What became of the messages of a worker, or of several.

    Attributes:
        handled: Messages whose acknowledgement the server has confirmed.
        given_back: Messages that were read, and given back when the worker drained.
        left: Messages that could neither be acknowledged nor given back: others get
            them after the lease.
    """

    handled: int = 0
    given_back: int = 0
    left: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.handled + other.handled,
            self.given_back + other.given_back,
            self.left + other.left,
        )

    def __str__(self) -> str:
        return f"{self.handled} handled, {self.given_back} given back, {self.left} left"


Answering: TypeAlias = Mapping[bytes, tuple[Frame, Callable[[], bytes]]]
"""By what the parent may ask for, the frame to send and a function that returns its
content."""
_Question: TypeAlias = tuple[Frame, Callable[[], bytes], threading.Event]


class Frames:
    """Cuts what a worker sends into frames."""

    def __init__(self) -> None:
        self._received = bytearray()

    def add(self, data: bytes) -> Iterator[tuple[Frame, bytes]]:
        """Add bytes, and yield the frames that are complete."""
        self._received += data
        while len(self._received) >= _HEAD.size:
            kind, length = _HEAD.unpack_from(self._received)
            end = _HEAD.size + length
            if len(self._received) < end:
                return
            content = bytes(self._received[_HEAD.size : end])
            del self._received[:end]
            yield Frame(kind), content


class StatusPipe:
    """The worker's end of the socket pair.

    Args:
        descriptor: The file descriptor of the worker's end.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        # A process that a handler starts must not keep the socket open.
        self._socket.set_inheritable(False)
        # The threads send too.
        self._sending = threading.Lock()
        # What the second thread is to answer, and what is set when it has.
        self._questions: SimpleQueue[_Question] = SimpleQueue()

    def ready(self) -> None:
        """Send that all consumers are open."""
        self._send(Frame.READY, b"")

    def refuse(self, reason: str) -> None:
        """Send why the worker can't be run."""
        self._send(Frame.REFUSED, reason.encode("utf-8", "backslashreplace")[:_LONGEST])

    def caught_up(self, trouble: str = "") -> None:
        """Send that no group has lag or pending messages, or why nobody knows."""
        self._send(Frame.CAUGHT_UP, trouble.encode("utf-8", "backslashreplace"))

    def drained(self, tally: Tally) -> None:
        """Send what became of the worker's messages."""
        self._send(Frame.DRAINED, msgspec.json.encode(tally))

    def _send(self, kind: Frame, content: bytes) -> None:
        with suppress(OSError), self._sending:  # the parent is gone; `watch` notices
            self._socket.sendall(_HEAD.pack(kind, len(content)) + content)

    def _answer(self, kind: Frame, content: Callable[[], bytes]) -> None:
        try:
            self._send(kind, content())
        except Exception:  # the thread must live on, since it watches the parent too
            _LOGGER.exception("the parent's question %s was not answered", kind.name)

    def answer_last(
        self, kind: Frame, content: Callable[[], bytes], within: float
    ) -> None:
        """Answer unasked, behind all that was asked for before.

        Args:
            kind: The kind of frame.
            content: Returns the content.
            within: Seconds after which this returns, whether or not it has answered.
        """
        self._answer_apart(kind, content).wait(within)

    def _answer_apart(
        self, kind: Frame, content: Callable[[], bytes]
    ) -> threading.Event:
        done = threading.Event()
        self._questions.put((kind, content, done))
        return done

    def _answer_questions(self) -> None:
        while True:
            kind, content, done = self._questions.get()
            self._answer(kind, content)
            done.set()

    def watch(self, grace: float, answers: Answering | None = None) -> None:
        """Start a thread that answers, and ends this process with the parent.

        What is not about the health is answered by a second thread, in the order of the
        questions: it may take long, and the worker must not seem to hang meanwhile.

        Args:
            grace: Seconds to drain when the parent is gone, after which the process
                exits.
            answers: By what the parent may ask for, the frame to send and its content.
        """
        arguments = (grace, answers or {})
        threading.Thread(target=self._watch, args=arguments, daemon=True).start()
        threading.Thread(target=self._answer_questions, daemon=True).start()

    def _watch(self, grace: float, answers: Answering) -> None:
        with suppress(OSError):
            while asked := self._socket.recv(1):
                if asked == HEALTH and asked in answers:
                    self._answer(*answers[asked])
                elif asked in answers:
                    self._answer_apart(*answers[asked])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os._exit(1)
