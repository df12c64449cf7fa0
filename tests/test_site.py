"""The site: it builds without a warning, its links work, its reference is complete."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from support import cli_page

ROOT = Path(__file__).parent.parent
MODULES = (
    *("penstock", "penstock.admin", "penstock.admin.dead", "penstock.codecs"),
    *("penstock.embedded", "penstock.errors", "penstock.events", "penstock.health"),
    *("penstock.integrations.asgi", "penstock.integrations.fastapi"),
    *("penstock.monitor", "penstock.observe.logs", "penstock.observe.opentelemetry"),
    *("penstock.observe.prometheus", "penstock.settings", "penstock.sync"),
    "penstock.testing",
)


class Page(HTMLParser):
    """The anchors of a page, and where its links and pictures lead."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in {"href", "src"} and value:
                self.links.append(value)


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
        for each in Page(page).anchors
        if re.fullmatch(r"penstock[\w.]+", each)
    }
    # A name is often found under another module, which has it too: the same object, not
    # merely one of the same name.
    under: dict[str, list[object]] = {}
    for anchor in anchors:
        with suppress(AttributeError, ImportError):
            name = anchor.rpartition(".")[2]
            under.setdefault(name, []).append(pkgutil.resolve_name(anchor))
    for module in MODULES:
        loaded = importlib.import_module(module)
        missing = [
            name
            for name in loaded.__all__
            if f"{module}.{name}" not in anchors
            and not any(each is getattr(loaded, name) for each in under.get(name, ()))
            and name != "__version__"
        ]
        assert missing == [], module


def test_the_reference_of_the_command_line_is_that_of_the_commands() -> None:
    """If not, `cd tests && python -m support.cli_page` writes it."""
    assert cli_page.PAGE.read_text() == cli_page.text()


def test_each_link_leads_to_a_page_and_an_anchor_of_the_site(site: Path) -> None:
    pages = {path: Page(path) for path in site.resolve().rglob("*.html")}
    broken = []
    followed = 0
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            # The page for what is not found has absolute links: it may be anywhere.
            if url.scheme or url.netloc or path.name == "404.html":
                continue
            followed += 1
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(url.fragment)
            known = pages[target].anchors if target in pages else {anchor}
            if not target.exists() or (anchor and anchor not in known):
                broken.append((str(path.relative_to(site.resolve())), link))
    assert broken == []
    assert followed > 1000


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
