"""`penstock run --reload`: the worker is replaced when its code changes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.run_process import Run, send_words
from support.waiting import eventually

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc"
)

CODE = """
import asyncio, os
from penstock import Claim, Message, Router

router = Router(close_timeout=60, claim=Claim(idle=1))


@router.handler(os.environ["TEST_STREAM"], group="g")
async def note(message: Message[bytes]) -> None:
    if message.payload == b"hang" and message.attempt == 1:
        write("hangs")
        await asyncio.sleep(600)
    write(message.payload.decode() + " by one")


def write(line):
    with open(os.environ["TEST_JOURNAL"], "a") as file:
        file.write(line + "\\n")
"""


async def test_a_change_replaces_the_worker_and_a_broken_one_waits_for_the_next(
    run: Run, url: str, stream: str, tmp_path: Path
) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    module = folder / "shop.py"
    module.write_text(CODE)
    await run.ready("--reload", target="shop", cwd=folder)
    await send_words(url, stream, "first")
    await run.has_handled(1)

    # One with an error is printed, and the parent waits for the next change.
    module.write_text(CODE.replace("Router(close", "Router((close"))
    await run.prints("SyntaxError")
    assert 'shop.py", line 5' in run.output()
    await run.prints("waiting for a change of the code")
    assert "changed: shop.py" in run.output()
    await send_words(url, stream, "second")
    module.write_text(CODE.replace("by one", "by two"))
    await run.has_handled(2)
    assert run.handled() == ["first by one", "second by two"]
    await eventually(run.is_ready, within=20)

    # The name of the router is wrong, and then right again.
    module.write_text(CODE.replace("router", "rooter"))
    await run.prints("module shop has no router")
    module.write_text(CODE.replace("by one", "by six"))
    await send_words(url, stream, "third")
    await run.has_handled(3)
    assert run.handled()[2] == "third by six"

    # A handler that does not end in two seconds is killed, and its message comes again.
    await send_words(url, stream, "hang")
    await run.has_handled(4)
    (folder / "other.txt").write_text("no code")
    module.write_text(CODE.replace("by one", "by ten"))
    await run.has_handled(5)
    assert run.handled()[3:] == ["hangs", "hang by ten"]
    assert "starting another" not in run.output()
    assert "other.txt" not in run.output()
    run.signal(signal.SIGTERM)
    await run.ends(0)


async def test_a_module_that_is_broken_at_the_start_is_waited_for_and_can_be_ended(
    run: Run, tmp_path: Path
) -> None:
    module, watched = tmp_path / "shop.py", tmp_path / "watched"
    watched.mkdir()
    module.write_text("import no_such_thing")
    run.start(
        *("--reload", "--reload-dir", str(watched), "--app-dir", str(tmp_path)),
        target="shop",
    )
    await run.prints("No module named 'no_such_thing'")
    await run.prints("waiting for a change of the code")
    module.write_text(CODE)  # in no folder that is watched
    (watched / "helper.py").write_text("")
    await eventually(run.is_ready, within=20)
    module.write_text("import no_such_thing")
    (watched / "helper.py").write_text("x = 1")
    await eventually(run.is_not_ready, within=20)
    run.signal(signal.SIGTERM)
    await run.ends(0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "2"], "--reload runs one worker"),
        (["--until-caught-up"], "--reload never ends by itself"),
        (["--reload-dir", "/no/such"], "'/no/such' does not exist"),
        ([], "pip install 'penstock[reload]'"),
    ],
)
async def test_a_reload_that_is_impossible_is_refused(
    run: Run, tmp_path: Path, arguments: list[str], words: str
) -> None:
    if not arguments:
        (tmp_path / "sitecustomize.py").write_text(
            "import sys; sys.modules['watchfiles'] = None"
        )
        run.env["PYTHONPATH"] = f"{tmp_path}:{run.env.get('PYTHONPATH', '')}"
    run.start("--reload", *arguments)
    await run.ends(2)
    assert words in run.output()
