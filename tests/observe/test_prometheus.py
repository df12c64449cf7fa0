"""Metrics and the Prometheus client."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from typing import Any

import pytest
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    generate_latest,
)
from prometheus_client.parser import text_string_to_metric_families

from penstock import ConfigurationError, Consumer, Producer, Router
from penstock.observe.metrics import Family, Sample, merge
from penstock.observe.prometheus import families_of, register, text
from support.waiting import send


def test_what_a_registry_collects_comes_out_as_the_same_text() -> None:
    registry = CollectorRegistry()
    Counter("jobs", "Jobs.", ["kind"], registry=registry).labels('a "b" \\').inc(3)
    Gauge("depth", "Depth.", registry=registry).set(0.5)
    Histogram("took", "Seconds.", registry=registry, buckets=(1, 2)).observe(1.5)
    Info("build", "Build.", registry=registry).info({"version": "1"})
    lines = text(families_of(registry)).decode().splitlines()
    assert 'jobs_total{kind="a \\"b\\" \\\\"} 3.0' in lines
    assert "depth 0.5" in lines
    assert 'took_bucket{le="1.0"} 0.0' in lines
    assert 'took_bucket{le="+Inf"} 1.0' in lines
    assert "took_sum 1.5" in lines
    assert 'build_info{version="1"} 1.0' in lines
    assert not [line for line in lines if "_created" in line]


def test_merged_families_are_text_that_a_parser_reads() -> None:
    registry = CollectorRegistry()
    Counter("jobs", "Jobs.", registry=registry).inc()
    Gauge("depth", "Depth.", registry=registry).set(2)
    families = families_of(registry)
    merged = text(merge({1: families, 2: families})).decode()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(merged)
        for sample in family.samples
    }
    assert found == {("jobs_total",): 2, ("depth", "1"): 2, ("depth", "2"): 2}


def test_line_breaks_in_labels_and_texts_are_escaped() -> None:
    family = Family("a", "gauge", "one\ntwo", (Sample("a", (("b", "c\nd"),), 1),))
    assert text([family]).decode().splitlines() == [
        "# HELP a one\\ntwo",
        "# TYPE a gauge",
        'a{b="c\\nd"} 1.0',
    ]


def test_without_the_extra_there_is_a_sentence_with_the_command() -> None:
    code = (
        "import sys\n"
        "sys.modules['prometheus_client'] = None\n"
        "try:\n"
        "    import penstock.observe.prometheus\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout == (
        "metrics need prometheus_client, which is not installed; "
        "install it with: pip install 'penstock[metrics]'\n"
    )


# -- register --------------------------------------------------------------------------


def lines(registry: CollectorRegistry) -> dict[str, float]:
    """Return the samples of a registry that are not 0, by their text."""
    found = {}
    for family in text_string_to_metric_families(
        generate_latest(registry).decode("utf-8")
    ):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            if sample.value:
                found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


async def test_things_are_collected_until_they_close_and_their_counts_stay(
    url: str, stream: str
) -> None:
    registry = CollectorRegistry(auto_describe=True)
    producer, consumer = Producer(url), Consumer(stream, url=url, group="g")
    register(producer, registry=registry)
    register(consumer, registry=registry)
    async with producer, consumer:
        await producer.send(stream, b"x")
        await consumer.next()
        found = lines(registry)
        assert found["penstock_connected{role=producer}"] == 1
        assert found["penstock_connected{role=consumer}"] == 1
        assert found[f"penstock_handlers_running{{group=g,stream={stream}}}"] == 1
    found = lines(registry)
    assert found[f"penstock_sent_total{{outcome=stored,stream={stream}}}"] == 1
    acknowledged = f"penstock_messages_acknowledged_total{{group=g,stream={stream}}}"
    assert found[acknowledged] == 1
    assert not [name for name in found if "connected" in name or "running" in name]
    assert not [name for name in found if "_created" in name]


async def test_a_closed_handle_removes_what_it_has_registered(
    url: str, stream: str
) -> None:
    registry = CollectorRegistry()
    async with Producer(url) as producer, Producer(url) as other:
        register(other, registry=registry)
        with register(producer, registry=registry):
            await producer.send(stream, b"x")
            assert lines(registry)["penstock_connected{role=producer}"] == 2
        found = lines(registry)
        assert found["penstock_connected{role=producer}"] == 1
        assert found[f"penstock_sent_total{{outcome=stored,stream={stream}}}"] == 1


async def test_a_router_is_removed_with_its_consumers(url: str, stream: str) -> None:
    registry = CollectorRegistry()
    router = Router(url)

    @router.handler(stream, group="g")
    async def handle(_: bytes) -> None: ...

    async with router.running():
        registration = register(router, router, registry=registry)
        assert lines(registry)["penstock_connected{role=consumer}"] == 1
        registration.close()
        registration.close()
        assert "penstock_connected{role=consumer}" not in lines(registry)
    async with router.running():
        assert "penstock_connected{role=consumer}" not in lines(registry)


async def test_the_same_object_is_collected_once(url: str, stream: str) -> None:
    registry, others = CollectorRegistry(), CollectorRegistry()
    async with Producer(url) as producer:
        for each in (registry, registry, others):
            register(producer, registry=each)
        await producer.send(stream, b"x")
        for each in (registry, others):
            found = lines(each)
            assert found[f"penstock_sent_total{{outcome=stored,stream={stream}}}"] == 1


def test_other_objects_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="str has no metrics; pass consumers"):
        register("orders", registry=CollectorRegistry())  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "2"])
def test_a_number_of_series_that_is_none_is_refused(number: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not a number of series; pass"):
        register(registry=CollectorRegistry(), max_series=number)


async def test_names_with_other_characters_are_escaped(url: str) -> None:
    registry = CollectorRegistry()
    stream = 'a"b\\c\nd{}%s é'
    async with Consumer(stream, url=url, group="%g") as consumer:
        register(consumer, registry=registry)
        page = generate_latest(registry).decode()
    assert 'group="%g"' in page
    assert 'stream="a\\"b\\\\c\\nd{}%s é"' in page


async def test_promtool_finds_no_fault(url: str, stream: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; it comes with Prometheus")
    registry = CollectorRegistry()
    producer, consumer = Producer(url), Consumer(stream, url=url, group="g")
    register(producer, consumer, registry=registry)
    async with producer, consumer:
        await producer.send(stream, b"x")
        await consumer.next()
        await consumer.next(timeout=0)
        page = generate_latest(registry)
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def test_a_scrape_in_another_thread_disturbs_nothing(
    url: str, stream: str
) -> None:
    registry = CollectorRegistry()
    consumer = Consumer(stream, url=url, group="g")
    register(consumer, registry=registry)
    stop, errors = threading.Event(), list[Exception]()
    scrapes = 0

    def scrape() -> None:
        nonlocal scrapes
        while not stop.is_set():
            try:
                generate_latest(registry)
            except Exception as error:  # noqa: BLE001 - the test shows it
                errors.append(error)
            scrapes += 1

    await send(url, stream, *range(3000))
    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        async with consumer:

            async def handle(_: Any) -> None:
                await asyncio.sleep(0)

            await consumer.run(handle, concurrency=16, until_caught_up=True)
    finally:
        stop.set()
        await asyncio.to_thread(thread.join)
    assert scrapes > 1
    assert not errors
    found = lines(registry)
    handled = [
        n for name, n in found.items() if name.startswith("penstock_messages_ha")
    ]
    assert handled == [3000]
