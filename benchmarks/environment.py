"""The peers' own environment: made when it is first needed, never the project's."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.processes import ROOT

REQUIREMENTS = Path(__file__).with_name("peers-requirements.txt")
FOLDER = ROOT / ".bench" / "venv"


def peers_python() -> Path:
    """The interpreter that has the peers; installs them unless that was done.

    Raises:
        RuntimeError: They can't be installed.
    """
    python = FOLDER / "bin" / "python"
    wanted = f"{sys.version}\n{REQUIREMENTS.read_text()}"
    # Written last: an environment without it was not finished.
    done = FOLDER / "requirements.txt"
    if not done.exists() or done.read_text() != wanted:
        print("installing the peers, about a minute …", file=sys.stderr, flush=True)
        venv.create(FOLDER, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)]
        if subprocess.run(pip, check=False).returncode:
            raise RuntimeError(
                "the peers could not be installed, see above; `--only penstock raw` "
                "does without them"
            )
        done.write_text(wanted)
    return python
