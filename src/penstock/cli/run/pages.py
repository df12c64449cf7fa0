"""The pages that `penstock run --port` answers with."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from penstock.cli.run.http_server import JSON, MakePage, Page, Pages
from penstock.cli.run.readiness import Readiness

__all__ = ["pages"]


def pages(readiness: Readiness, metrics: MakePage | None = None) -> Pages:
    """Return the pages about the workers.

    Args:
        readiness: Whether they are ready.
        metrics: Makes the page of their metrics; None for no such page.
    """

    async def live() -> Page:
        # Only the parent can say that it does not live, by not answering.
        return Page(HTTPStatus.OK, b"live\n")

    async def ready() -> Page:
        status = HTTPStatus.OK if readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Page(status, f"{readiness}\n".encode())

    async def health() -> Page:
        return Page(HTTPStatus.OK, msgspec.json.encode(readiness.health) + b"\n", JSON)

    more = {} if metrics is None else {"/metrics": metrics}
    return {"/live": live, "/ready": ready, "/health": health, **more}
