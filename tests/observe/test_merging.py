"""The metrics of several workers, merged."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from penstock.observe.metrics import Family, Labels, Sample, WorkerMetrics, merge

ORDERS: Labels = (("stream", "orders"),)


def handled(number: float, labels: Labels = ORDERS) -> Family:
    sample = Sample("handled_total", labels, number)
    return Family("handled", "counter", "Handled messages.", (sample,))


def queued(number: float, labels: Labels = ORDERS) -> Family:
    return Family(
        "queued", "gauge", "Queued messages.", (Sample("queued", labels, number),)
    )


def took(*counts: int, total: float) -> Family:
    bounds = ("0.1", "1.0", "+Inf")
    buckets = [
        Sample("took_bucket", (*ORDERS, ("le", bound)), count)
        for bound, count in zip(bounds, counts, strict=True)
    ]
    rest = [Sample("took_sum", ORDERS, total), Sample("took_count", ORDERS, counts[-1])]
    return Family("took", "histogram", "Seconds.", (*buckets, *rest))


def values(families: Sequence[Family]) -> dict[tuple[str, Labels], float]:
    return {
        (sample.name, sample.labels): sample.value
        for family in families
        for sample in family.samples
    }


def test_counters_are_added() -> None:
    merged = merge({1: [handled(2)], 2: [handled(3)]})
    assert merged == [handled(5)]


def test_histograms_are_added_bucket_by_bucket() -> None:
    merged = merge({1: [took(1, 2, 3, total=1.5)], 2: [took(0, 4, 4, total=2)]})
    assert merged == [took(1, 6, 7, total=3.5)]


def test_gauges_get_the_number_of_their_worker() -> None:
    merged = merge({1: [queued(2)], 2: [queued(3)]})
    assert values(merged) == {
        ("queued", (*ORDERS, ("worker", "1"))): 2,
        ("queued", (*ORDERS, ("worker", "2"))): 3,
    }


def test_a_label_that_is_called_worker_is_renamed() -> None:
    merged = merge({1: [queued(2, (("worker", "night"),))]})
    assert values(merged) == {
        ("queued", (("exported_worker", "night"), ("worker", "1"))): 2
    }


def test_counters_about_a_process_are_not_added() -> None:
    name = "process_cpu_seconds"
    sample = Sample(f"{name}_total", (), 7.0)
    merged = merge({1: [Family(name, "counter", "CPU.", (sample,))]})
    assert values(merged) == {(f"{name}_total", (("worker", "1"),)): 7.0}


def test_quantiles_of_a_summary_are_not_added() -> None:
    half: Labels = (("quantile", "0.5"),)
    samples = (Sample("size", half, 10), Sample("size_count", (), 4))
    family = Family("size", "summary", "Sizes.", samples)
    merged = merge({1: [family], 2: [family]})
    assert values(merged) == {
        ("size", (*half, ("worker", "1"))): 10,
        ("size", (*half, ("worker", "2"))): 10,
        ("size_count", ()): 8,
    }


def test_times_of_creation_are_left_out() -> None:
    samples = (Sample("handled_total", (), 1), Sample("handled_created", (), 1.7e9))
    merged = merge({1: [Family("handled", "counter", "Handled.", samples)]})
    assert values(merged) == {("handled_total", ()): 1}


def test_a_family_of_another_kind_than_the_first_is_left_out() -> None:
    odd = Family("handled", "gauge", "Handled.", (Sample("handled", (), 9),))
    assert merge({1: [handled(1)], 2: [odd]}) == [handled(1)]


def test_the_counters_of_an_ended_worker_are_kept_and_its_gauges_are_not() -> None:
    metrics = WorkerMetrics()
    metrics.update(1, [handled(2), queued(5)])
    metrics.update(2, [handled(3), queued(6)])
    metrics.ended(1)
    assert values(metrics.families()) == {
        ("handled_total", ORDERS): 5,
        ("queued", (*ORDERS, ("worker", "2"))): 6,
    }


def test_a_worker_that_takes_the_number_of_an_ended_one_adds_to_it() -> None:
    metrics = WorkerMetrics()
    metrics.update(1, [handled(2)])
    metrics.ended(1)
    metrics.ended(1)
    metrics.update(1, [handled(0)])
    metrics.update(1, [handled(3)])
    assert metrics.families() == [handled(5)]


def test_a_silent_worker_keeps_its_counters_only() -> None:
    metrics = WorkerMetrics()
    metrics.update(1, [handled(2), queued(5)])
    metrics.silent(1)
    metrics.silent(2)
    assert values(metrics.families()) == {("handled_total", ORDERS): 2}


def test_families_pass_through_msgpack_unchanged() -> None:
    families = [handled(2), queued(0.5), took(1, 2, 3, total=4.5)]
    packed = msgspec.msgpack.encode(families)
    assert msgspec.msgpack.decode(packed, type=list[Family]) == families


counts = st.dictionaries(st.sampled_from("abc"), st.integers(0, 100), max_size=3)
# A number stands for what the worker has counted by then; None for its end.
lives = st.lists(st.tuples(st.integers(1, 3), st.none() | counts), max_size=20)


@given(lives)
def test_no_counter_ever_falls_and_none_is_counted_twice(
    steps: list[tuple[int, dict[str, int] | None]],
) -> None:
    metrics = WorkerMetrics()
    running: dict[int, dict[str, int]] = {}
    ended: dict[str, int] = {}
    before: dict[tuple[str, Labels], float] = {}
    for worker, counted in steps:
        if counted is None:
            for stream, number in running.pop(worker, {}).items():
                ended[stream] = ended.get(stream, 0) + number
            metrics.ended(worker)
        else:
            now = running.setdefault(worker, {})
            for stream, number in counted.items():
                now[stream] = now.get(stream, 0) + number
            families = [handled(n, (("stream", s),)) for s, n in now.items()]
            metrics.update(worker, families)
        found = values(metrics.families())
        assert all(found[key] >= number for key, number in before.items())
        before = found
    expected = dict(ended)
    for now in running.values():
        for stream, number in now.items():
            expected[stream] = expected.get(stream, 0) + number
    assert before == {
        ("handled_total", (("stream", stream),)): number
        for stream, number in expected.items()
    }
