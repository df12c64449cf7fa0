"""The site: it builds without a warning, and its reference has each public name."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import cli_page

ROOT = Path(__file__).parent.parent
MODULES = (
    *("penstock", "penstock.admin", "penstock.codecs", "penstock.errors"),
    *("penstock.events", "penstock.health", "penstock.monitor", "penstock.settings"),
    *("penstock.sync", "penstock.testing"),
)
# Constants of the options' enums: each is on the page of its enum.
CONSTANTS = re.compile(r"[A-Z_]+|__version__")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_each_public_name_is_in_the_reference(site: Path) -> None:
    pages = (site / "reference" / "api").rglob("*.html")
    anchors = {
        each
        for page in pages
        for each in re.findall(r'id="(penstock[\w.]+)"', page.read_text())
    }
    names = {anchor.rpartition(".")[2] for anchor in anchors}
    for module in MODULES:
        public = importlib.import_module(module).__all__
        missing = [
            name
            for name in public
            if f"{module}.{name}" not in anchors
            and name not in names
            and not CONSTANTS.fullmatch(name)
        ]
        assert missing == [], module


def test_the_reference_of_the_command_line_is_that_of_the_commands() -> None:
    """If not, `cd tests && python -m support.cli_page` writes it."""
    assert cli_page.PAGE.read_text() == cli_page.text()


def test_nothing_is_loaded_from_other_servers(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]+src="([^"]+)"', page.read_text()
        )
        loaded += re.findall(
            r'<link[^>]+rel="stylesheet"[^>]+href="([^"]+)"', page.read_text()
        )
        outside = [each for each in loaded if re.match(r"(https?:)?//", each)]
        assert outside == [], page
