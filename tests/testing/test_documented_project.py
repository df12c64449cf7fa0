"""The project of docs/how-to/testing-a-project.md: its tests pass on their own.

The environment is a new one, whose packages are those that the project needs: links to
the ones that are installed here, so that nothing is downloaded. What the development
tools need, and pytest's other plugins, are not in it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import penstock
from support.projects import run_tests

PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "testing-a-project.md"
FILE = re.compile(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDED = ["penstock[embedded]", "pytest", "pytest-asyncio", "fastapi", "httpx"]
MARKED = "import pytest\n\npytestmark = pytest.mark.{}\n\n"
ANYIO = """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

# Starts processes with plugins, of which each takes seconds on a busy machine.
pytestmark = pytest.mark.timeout(240)


def required(names: list[str]) -> dict[str, Distribution]:
    """Return the distributions that are needed, with what they need in turn."""
    found: dict[str, Distribution] = {}
    left = [Requirement(name) for name in names]
    while left:
        requirement = left.pop()
        try:
            known = distribution(requirement.name)
        except PackageNotFoundError:
            pytest.skip(f"{requirement.name} is not installed")
        name = known.metadata["Name"]
        if name in found and not requirement.extras:
            continue
        found[name] = known
        for line in known.requires or ():
            each = Requirement(line)
            extras = requirement.extras or {""}
            if each.marker is None or any(
                each.marker.evaluate({"extra": extra}) for extra in extras
            ):
                left.append(each)
    return found


def link(distributions: dict[str, Distribution], target: Path) -> None:
    """Put the files of distributions into a folder for packages."""
    for each in distributions.values():
        for file in each.files or ():
            top = file.parts[0]
            place = target / top
            if top in {"..", "__pycache__"} or top.endswith(".pth") or place.exists():
                continue
            place.symlink_to(Path(str(each.locate_file(top))))
    source = Path(penstock.__file__).parent.parent
    if not (target / "penstock").exists():  # it is installed in editable form
        (target / "penstock.pth").write_text(f"{source}\n")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Provide the interpreter of a new environment."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    link(required([*NEEDED, "pytest-xdist"]), packages)
    return str(folder / "bin" / "python")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Provide the project of the page."""
    found = FILE.findall(PAGE.read_text())
    for name, text in [*found, ("shop/__init__.py", "")]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def check(project: Path, python: str, *arguments: str) -> str:
    """Run the project's tests with the plugins that pytest finds there."""
    done = run_tests(project, *arguments, plugins=None, python=python)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 passed" in done.stdout
    return done.stdout


def mark(project: Path, marker: str) -> None:
    """Mark all tests of the project."""
    for path in project.glob("tests/test_*.py"):
        path.write_text(MARKED.format(marker) + path.read_text())


def test_the_page_has_all_files_that_it_lists() -> None:
    page = PAGE.read_text()
    listed = re.findall(r"^  (\S+\.(?:py|toml))(?! +\(empty\))", page, re.MULTILINE)
    listed = [name for name in listed if name != "shop/__init__.py"]
    assert sorted(listed) == sorted(name for name, _ in FILE.findall(page))


def test_the_environment_has_nothing_but_what_the_project_needs(python: str) -> None:
    code = (
        "from importlib.metadata import distributions, entry_points\n"
        "names = {d.metadata['Name'] for d in distributions()}\n"
        "assert not names & {'hypothesis', 'mypy', 'ruff', 'pytest-timeout'}, names\n"
        "assert entry_points(group='pytest11', name='penstock')\n"
    )
    subprocess.run([python, "-c", code], check=True)


def test_the_project_s_tests_pass(project: Path, python: str) -> None:
    out = check(project, python)
    assert "plugins: " in out


def test_they_pass_with_pytest_asyncio_in_strict_mode(
    project: Path, python: str
) -> None:
    mark(project, "asyncio")
    check(project, python, "-oasyncio_mode=strict")


def test_they_pass_with_the_plugin_of_anyio(project: Path, python: str) -> None:
    mark(project, "anyio")
    conftest = project / "tests" / "conftest.py"
    conftest.write_text(conftest.read_text() + ANYIO)
    (project / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    check(project, python, "-pno:asyncio")


def test_they_pass_under_xdist(project: Path, python: str) -> None:
    check(project, python, "-n2")
