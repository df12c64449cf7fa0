"""The layers: a module imports only from layers below its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "penstock"

# From the lowest to the highest. A name is that of a module or of a folder.
LAYERS = [
    ["_chance", "_clock", "_version", "errors", "_payload_types"],
    ["_tracebacks", "_variables", "_outages"],
    ["events"],
    ["_pydantic_codecs"],
    ["codecs", "durations", "fields"],
    ["retention", "injection"],
    ["transaction"],
    ["message", "identity", "embedded", "statistics", "health"],
    ["credentials", "options", "sharding", "middleware"],
    ["retries", "settings"],
    ["outgoing"],
    ["_core"],
    ["_connection"],
    ["_tasks"],
    ["outlet"],
    ["consumer", "producer", "replay", "admin"],
    ["monitor"],
    ["_routing"],
    ["router"],
    ["__init__", "observe", "testing"],
    ["integrations", "sync"],
    ["cli"],
    ["console"],
]
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}
FOLDERS = {
    *("_core", "_connection", "_tasks", "_routing"),
    *("admin", "cli", "console", "integrations", "monitor", "observe", "sync"),
    "testing",
}

# Within a layer: its folders and files, from the lowest to the highest. Those in one
# line do not import each other.
ORDER = {
    "_core": [
        ["backoff", "protocol", "messages"],
        ["ledger", "ownership", "reading", "sending"],
        ["handling", "metrics"],
    ],
    "_tasks": [
        [
            "event_counts",
            "fencing",
            "hooks",
            "loop_binding",
            "loop_watch",
            "reporting",
            "send_hooks",
            "shard_checks",
            "signals",
            "stream_info",
            "unbounded_streams",
            "wakeups",
        ],
        ["attempt_meter", "startup", "task_scopes"],
        ["lifetime"],
        ["openable"],
        ["group", "ownership_config"],
        ["consumer_config"],
        ["sending", "handling"],
        ["leases"],
        ["committing", "reading"],
        ["ownership"],
        ["parts"],
        ["assembly", "closing"],
        ["session"],
        ["consumer_set"],
        ["running_router"],
    ],
    "_routing": [
        ["injecting", "service_pings"],
        ["handlers"],
        ["shared_consumers"],
        ["registry"],
    ],
}

# Packages from which modules are imported, not names.
PACKAGES = {
    ".".join(("penstock", *folder.parent.relative_to(SOURCE).parts))
    for folder in SOURCE.rglob("__init__.py")
}

# The modules and folders that may import these packages.
ONLY_IN = {
    "redis": {"_connection"},
    "hiredis": {"_connection"},
    "typer": {"cli", "console"},
    "h11": {"cli"},
    "watchfiles": {"cli"},
    "rich": {"cli"},
    # The plugin is beside the package.
    "pytest": set(),
    "pytest_penstock": {"testing"},
    "fastapi": {"integrations"},
    "starlette": {"integrations", "console"},
    "uvicorn": {"console"},
    "jinja2": {"console"},
    "prometheus_client": {"observe"},
    "svcs": {"_routing", "router"},
    "opentelemetry": {"observe"},
    "pydantic": {"_pydantic_codecs"},
    "pydantic_core": {"_pydantic_codecs"},
    "asyncio": {
        "_connection",
        "_tasks",
        "producer",
        "outlet",
        "cli",
        "console",
        "admin",
        "consumer",
        "_routing",
        "testing",
    },
    "anyio": {
        "_connection",
        "_tasks",
        "producer",
        "consumer",
        "cli",
        "console",
        "admin",
        "_routing",
        "testing",
        "sync",
    },
    "time": {"_clock", "embedded", "cli"},
    "random": {"_chance", "cli"},
    "secrets": {"_chance", "cli", "console", "testing"},
    "uuid": {"identity"},
}


def layer_name(path: Path) -> str:
    """Return the name by which `LAYERS` lists a module: its own or its folder's."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """Yield the modules that a module imports, those for type checkers included."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                if module in PACKAGES:
                    yield from (f"{module}.{alias.name}" for alias in names)
                else:
                    yield module
            case ast.ImportFrom(level=level) if level:
                pytest.fail(f"{path} has a relative import; write the whole name")


MODULES = sorted(SOURCE.rglob("*.py"))


def place(name: str) -> tuple[str, str, int] | None:
    """Return the layer of a module, its folder or file there, and its height."""
    _, layer, part, *_ = [*name.split("."), "", ""]
    for height, parts in enumerate(ORDER.get(layer, [])):
        if part in parts:
            return layer, part, height
    assert layer not in ORDER or part in {"", "__init__"}, f"give {name} a place here"
    return None


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_folder_of_a_layer_imports_only_from_those_below(path: Path) -> None:
    here = place(
        ".".join(("penstock", *path.relative_to(SOURCE).with_suffix("").parts))
    )
    for name in imports(path):
        there = place(name) if name.startswith("penstock.") else None
        if here is None or there is None or there[0] != here[0]:
            continue
        assert there[1] == here[1] or there[2] < here[2], (
            f"{path} must not import {name}"
        )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_module_imports_only_from_layers_below(path: Path) -> None:
    here = layer_name(path)
    assert here in LAYER_OF, f"give {here} a layer in this test"
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package != "penstock":
            continue
        there = rest.partition(".")[0] or "__init__"
        if there not in LAYER_OF:
            there = "__init__"  # a public name, taken from the package itself
        same_folder = here == there and here in FOLDERS
        below = LAYER_OF[there] < LAYER_OF[here]
        both_lowest = LAYER_OF[there] == LAYER_OF[here] == 0
        assert below or same_folder or both_lowest, f"{here} must not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_package_is_imported_only_where_it_is_allowed(path: Path) -> None:
    for name in imports(path):
        allowed = ONLY_IN.get(name.partition(".")[0])
        assert allowed is None or layer_name(path) in allowed, (
            f"{layer_name(path)} imports {name}"
        )


def test_the_core_uses_no_clock_no_randomness_and_no_io() -> None:
    for path in (SOURCE / "_core").rglob("*.py"):
        for name in imports(path):
            assert name.partition(".")[0] not in {
                "asyncio",
                "anyio",
                "datetime",
                "os",
                "random",
                "secrets",
                "socket",
                "time",
            }, f"{path.name} imports {name}"
            assert name not in {"penstock._clock", "penstock._chance"}, path.name


def test_the_date_is_asked_of_one_clock_only() -> None:
    for path in MODULES:
        if layer_name(path) in {"_clock", "cli"}:
            continue
        asked = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
        }
        assert not asked & {"now", "utcnow", "today"}, path.name


def test_private_modules_are_not_public_names() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {name for name in names if name.startswith("_")} == {"__version__"}
