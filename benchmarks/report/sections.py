"""The page's sections: each tells what it has figures for, and its plot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmarks import cost, latency, limit, recovery, scaling, table
from benchmarks.report.figures import Figures
from benchmarks.report.goals import goals
from benchmarks.report.svg import Plot
from benchmarks.running import Row
from benchmarks.spread import Spread

Sections = Iterator[str | Plot]

COLUMNS = """`client µs` and `server µs` are processor time for a message, which is also
processor seconds for a million; `commands` is what the server executed for a message,
what scripts call included. Opening and closing are in all of them."""

# The ways to the server, by the ends of results' names.
WAYS = {
    "asyncio-0ms": "loopback, asyncio",
    "uvloop-0ms": "loopback, uvloop",
    "asyncio-1ms": "1 ms away, asyncio",
    "asyncio-5ms": "5 ms away, asyncio",
}


def all_sections(figures: Figures) -> Sections:
    yield goal_table(figures)
    for job, title in (("consume", "Consuming"), ("send", "Sending")):
        yield from versus(figures, job, title)
    yield from latencies(figures)
    yield from scalings(figures)
    yield from recoveries(figures)
    yield from costs(figures)
    yield from limits(figures)


def goal_table(figures: Figures) -> str:
    head = ("Goal", "wanted", "measured", "")
    return f"## Goals\n\n{table.markdown(head, [g.cells() for g in goals(figures)])}"


def versus(figures: Figures, job: str, title: str) -> Sections:
    """The tables of a job, a way to the server and a loop each, and one plot of all."""
    found = {
        way: figures.rows(f"versus-{job}-{ending}")
        for ending, way in WAYS.items()
        if f"versus-{job}-{ending}" in figures.results
    }
    if not found:
        return
    yield f"## {title}, beside others"
    yield COLUMNS
    plotted = [way for way in found if "uvloop" not in way]
    names = dict.fromkeys(name for rows in found.values() for name in rows)
    lines = {
        name: {way: found[way][name].rate for way in plotted if name in found[way]}
        for name in names
    }
    yield Plot(f"{title}: messages a second", "messages/s", plotted, lines)
    for ending, way in WAYS.items():
        if way in found:
            yield f"### {title}: {way}"
            yield passage(figures.results[f"versus-{job}-{ending}"].parameters)
            limit = figures.limit_for(f"versus-{job}-{ending}")
            yield versus_table(found[way].values(), limit)
            yield from stuck(found[way].values())


def passage(parameters: Mapping[str, Any]) -> str:
    told = parameters["passage"]
    return (
        f"Rounds: {parameters['rounds']}. The way to the server alone: "
        f"{told['round_trip_ms']} ms a round trip, {told['reads']:,} entries a second "
        f"read, {told['adds']:,} written."
    )


def versus_table(rows: Iterable[Row], limit: float | None) -> str:
    head = (
        *("", "messages/s", "lowest … highest", "of raw", "of the server's limit"),
        *("client µs", "server µs", "commands", "messages a run"),
    )
    rows = list(rows)
    raw = next((row.rate.median for row in rows if row.name == "raw"), None)
    return table.markdown(head, [versus_cells(row, raw, limit) for row in rows])


def stuck(rows: Iterable[Row]) -> Iterator[str]:
    """Tell of runs that never ended; no other figure has them in it."""
    for row in rows:
        if row.stuck:
            runs = f"{row.stuck} of {row.stuck + len(row.runs)} runs"
            yield f"{row.name} stood still in {runs}, which do not count."


def versus_cells(row: Row, raw: float | None, limit: float | None) -> list[str]:
    rate = row.rate
    return [
        row.name,
        f"{rate.median:,.0f}",
        f"{rate.low:,.0f} … {rate.high:,.0f}",
        share(rate.median, raw),
        share(rate.median, limit),
        short(row.client_cpu),
        short(row.server_cpu),
        short(row.commands),
        f"{row.runs[0].messages:,}",
    ]


def short(figure: float) -> str:
    """Three digits that count, or all before the point."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def share(one: float, whole: float | None) -> str:
    return f"{one / whole:.2g}" if whole else ""


def latencies(figures: Figures) -> Sections:
    for name, result in figures.results.items():
        if not name.startswith("latency-"):
            continue
        yield f"## Latency, {name.removeprefix('latency-')}"
        cells = {}
        lines = {}
        for row in result.rows:
            for what in ("start", "receipt"):
                subject, *numbers = latency.cells(dict(row), what)
                cells[subject] = [subject, *numbers, late(row)]
                if what == "start":
                    lines[subject.removesuffix(", to the handler's start")] = {
                        f"p{p:g}": Spread.of(
                            [run[what][f"{p:g}"] for run in row["runs"]]
                        )
                        for p in latency.PERCENTILES
                    }
        series = [f"p{p:g}" for p in latency.PERCENTILES]
        yield Plot("From when it was due to its handler's start", "ms", series, lines)
        head = (*latency.HEAD, "sender late, p99 ms")
        yield table.markdown(head, list(cells.values()))


def late(row: Mapping[str, Any]) -> str:
    return f"{Spread.of([run['late']['99'] for run in row['runs']]).median:.2f}"


def scalings(figures: Figures) -> Sections:
    parts = [p for p in scaling.PARTS if f"scaling-{p}" in figures.results]
    if not parts:
        return
    yield "## Scaling"
    limit = figures.limit_for("")
    for part in parts:
        rows = figures.rows(f"scaling-{part}").values()
        yield f"### Scaling: {scaling.PARTS[part]}"
        yield scaling_table(rows, limit)


def scaling_table(rows: Iterable[Row], limit: float | None) -> str:
    head = (*scaling.HEAD, "MB/s", "of the server's limit", "client µs", "server µs")
    cells = []
    for row in rows:
        payload = row.parameters.get("payload")
        bytes_a_second = row.rate.median * (payload or 0) / 1e6
        cells.append(
            [
                *scaling.cells(row),
                f"{bytes_a_second:,.0f}" if payload else "",
                # The limit is that of 200 bytes.
                ""
                if payload or "wait" in row.parameters
                else share(row.rate.median, limit),
                short(row.client_cpu),
                short(row.server_cpu),
            ]
        )
    return table.markdown(head, cells)


def recoveries(figures: Figures) -> Sections:
    if result := figures.results.get("recovery"):
        yield "## Until messages are handled again"
        cells = [recovery.cells(dict(row)) for row in result.rows]
        yield table.markdown(recovery.HEAD, cells)


def costs(figures: Figures) -> Sections:
    memory, idle = (figures.results.get(f"cost-{n}") for n in ("memory", "idle"))
    if memory:
        yield "## Memory with full buffers"
        rows = [cost.full_cells(dict(row)) for row in memory.rows]
        yield table.markdown(cost.FULL, rows)
    if idle:
        yield "## Idle"
        rows = [cost.idle_cells(dict(row)) for row in idle.rows]
        yield table.markdown(cost.IDLE, rows)


def limits(figures: Figures) -> Sections:
    if rows := figures.rows("limit"):
        yield "## The server's limit"
        yield table.markdown(limit.HEAD, limit.cells(list(rows.values())))
