"""Pages whose programs and commands are carried out as a reader would.

A page has programs with the name of their file, commands with what they print, and
terminals in which commands go on running:

```python title="name.py"       a file
```console                      commands, each after "$ ", and what they print
```console title="A terminal"   a command that goes on running there
```text title="A terminal"      what appears there meanwhile
```console title="A terminal: Ctrl-C"   what it prints when it is interrupted

In what is printed, `...` stands for anything, ids of entries and times for others, and
4711 and 4712 for the numbers of processes, which later commands may name.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Final, NamedTuple, Self

from support.waiting import eventually

__all__ = ["Block", "Terminals", "blocks"]

_BLOCK: Final = re.compile(
    r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
_FILES: Final = frozenset(("python", "ini"))
_INTERRUPTED: Final = ": Ctrl-C"
_PORT: Final = "6379"
_WILD: Final = {
    r"\d{13}-\d+": r"\d{13}-\d+",
    r"\d+\.\d+s": r"\d+\.\d+s",
    r"\.\.\.": ".*",
}


class Block(NamedTuple):
    """A block of code of a page: its language, its title if there is one, its text."""

    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    """Return a page's blocks that are to be carried out."""
    found = [Block(*each) for each in _BLOCK.findall(page)]
    return [each for each in found if each.title or each.language == "console"]


class Terminals:
    """The terminals of somebody who follows a page, in a folder.

    Args:
        folder: Where the programs are saved.
        variables: Environment variables that are set.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = str(free.getsockname()[1])
        names = {k: v for k, v in os.environ.items() if "REDIS" not in k}
        names["PATH"] = f"{Path(sys.executable).parent}:{names['PATH']}"
        names["PYTHONUNBUFFERED"] = "1"
        names.pop("PYTHONDONTWRITEBYTECODE", None)
        self._variables = names | variables
        self._running: dict[str, _Running] = {}
        # What stands on the page for the number of a process, and the number.
        self._numbers: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for running in self._running.values():
            await running.end()

    async def carry_out(self, block: Block) -> None:
        """Save a program, or type commands and compare what they print."""
        text = block.text.replace(_PORT, self._port)
        if block.language in _FILES:
            (self._folder / block.title).write_text(text)
        elif block.title.endswith(_INTERRUPTED):
            running = self._running.pop(block.title.removesuffix(_INTERRUPTED))
            running.process.send_signal(signal.SIGINT)
            await self._shown(running, text.splitlines())
            assert await running.process.wait() == 0, running.text
        elif block.language == "text":
            await self._shown(self._running[block.title], text.splitlines())
        elif block.title:
            await self._start(block.title, *_commands(text)[0])
        else:
            for command, printed in _commands(text):
                await self._type(command, printed)

    async def _type(self, command: str, printed: list[str]) -> None:
        for name, number in self._numbers.items():
            command = command.replace(name, number)
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self._variables[name] = value
            return
        process = await asyncio.create_subprocess_shell(
            command,
            cwd=self._folder,
            env=self._variables,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        lines = [line.rstrip() for line in output.decode().splitlines()]
        expected = "\n".join(_pattern(line) for line in printed)
        shown = "\n".join(lines)
        assert re.fullmatch(expected.replace(".*\n", "(?s:.*)"), shown), (
            f"$ {command}\n{shown}\n\ninstead of\n\n" + "\n".join(printed)
        )

    async def _start(self, title: str, command: str, printed: list[str]) -> None:
        log = self._folder / f"{len(self._running)} {title}.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command.split(),
                cwd=self._folder,
                env=self._variables,
                stdout=output,
                stderr=output,
            )
        self._running[title] = running = _Running(process, log)
        await self._shown(running, printed)

    async def _shown(self, running: _Running, lines: list[str]) -> None:
        """Wait until lines appear in a terminal, in whatever order they come."""
        for line in lines:
            pattern = re.compile(f"^{_pattern(line)}$", re.MULTILINE)

            async def has_line(pattern: re.Pattern[str] = pattern) -> bool:
                found = pattern.search(running.text, running.read)
                if found is not None:
                    self._numbers |= {k[1:]: v for k, v in found.groupdict().items()}
                return found is not None

            try:
                await eventually(has_line, within=30.0)
            except AssertionError:
                raise AssertionError(
                    f"{line!r} does not appear in:\n{running.text}"
                ) from None
        running.read = len(running.text)


class _Running:
    """A command that goes on running, and what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log
        # Up to where its output has been compared.
        self.read = 0

    @property
    def text(self) -> str:
        return self._log.read_text()

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()


def _commands(text: str) -> list[tuple[str, list[str]]]:
    """Return commands, each with the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        else:
            found[-1][1].append(line.rstrip())
    return found


def _pattern(line: str) -> str:
    """Return a regular expression for a line, in which ids and times may differ."""
    parts = re.split(f"({'|'.join(_WILD)}|47\\d\\d)", line)
    return "".join(_part(part) for part in parts)


def _part(part: str) -> str:
    if re.fullmatch(r"47\d\d", part):
        return rf"(?P<p{part}>\d+)"
    wild = (new for old, new in _WILD.items() if re.fullmatch(old, part))
    return next(wild, re.escape(part))
