"""The command line: its entry point, help texts and errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock import __version__


def penstock(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_version_is_printed() -> None:
    done = penstock("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"penstock {__version__}\n"


def test_the_help_lists_the_commands() -> None:
    done = penstock("--help")
    assert done.returncode == 0
    assert "demo" in done.stdout
    assert "dead" in done.stdout
    assert "run" in done.stdout


def test_the_help_of_run_explains_each_exit_status() -> None:
    done = penstock("run", "--help")
    assert done.returncode == 0
    for status in ("0 drained", "1 a worker failed", "2 wrong usage", "128+n"):
        assert status in done.stdout


@pytest.mark.parametrize("package", ["h11", "typer", "rich"])
def test_without_its_extra_the_error_says_how_to_install_it(package: str) -> None:
    # None in sys.modules makes an import fail as if the package were not installed.
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from penstock.cli.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert package in done.stderr
    assert "pip install 'penstock[cli]'" in done.stderr


def test_a_broken_installation_is_not_taken_for_a_missing_extra() -> None:
    code = (
        "import sys; sys.modules['msgspec'] = None\n"
        "from penstock.cli.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "penstock[cli]" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--input", "missing"], 2, "can't read missing: No such file"),
        (["--input", "."], 2, "can't read .: it is a folder"),
        (["--workers", "0"], 2, "--workers"),
        (["--lines", "-1"], 2, "--lines"),
        (["--url", "http://localhost"], 2, "scheme 'http'"),
        (["--url", "redis://:secret@127.0.0.1:1"], 1, "can't connect to 127.0.0.1:1"),
    ],
)
def test_an_error_is_a_sentence_without_a_traceback(
    arguments: list[str], status: int, words: str, tmp_path: Path
) -> None:
    done = penstock("demo", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr
