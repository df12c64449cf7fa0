"""Type checkers: pyright infers payload types, as mypy does, which checks all files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

USER = Path(__file__).with_name("payloads.py")
# The package has a copy of pyright; no other one is downloaded.
OFFLINE = {"PYRIGHT_PYTHON_USE_BUNDLED_PYRIGHT": "1"}


def pyright(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyright", *arguments],
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(find_spec("pyright") is None, reason="pyright is not installed")
def test_pyright_infers_the_types_of_payloads_in_strict_mode(tmp_path: Path) -> None:
    arguments = ["--pythonpath", sys.executable, "--outputjson"]
    found = pyright(*arguments, str(USER))
    assert found.returncode == 0, found.stdout + found.stderr
    assert json.loads(found.stdout)["summary"]["filesAnalyzed"] == 1
    # A wrong type would be found.
    wrong = tmp_path / "wrong.py"
    wrong.write_text(USER.read_text().replace("  # type: ignore", "  # "))
    found = pyright(*arguments, str(wrong))
    errors = json.loads(found.stdout)["generalDiagnostics"]
    lines = {error["range"]["start"]["line"] for error in errors}
    expected = [
        number
        for number, line in enumerate(USER.read_text().splitlines())
        if "type: ignore" in line
    ]
    assert lines == set(expected)
