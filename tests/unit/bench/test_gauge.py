"""The speed of the processor during a run, and the times scaled by it."""

import os
import time
from dataclasses import replace

import pytest

from ringlet.bench import gauge as module
from ringlet.bench.debian.results import Timing
from ringlet.bench.debian.rounds import Figures
from ringlet.bench.debian.rows import Row
from ringlet.bench.gauge import Gauge

PERL = Row("perl", "base", "perl program", 3, 1)
RSA = Row("rsa", "base", "RSA", 1, 1, "signs/s")
RUN = Timing("0", 1000, 800, 200, 7, "aa", outside=1000, cpu=4000)


def test_the_gauge_runs_beside_its_thread_and_lets_it_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PERIOD_S", 0.001)
    allowed = os.sched_getaffinity(0)
    with Gauge() as gauge:
        began = time.monotonic_ns()
        chosen = gauge.choose()
        assert os.sched_getaffinity(0) == {chosen}
        deadline = time.monotonic() + 30
        while (pace := gauge.pace(began, time.monotonic_ns())) is None:
            assert time.monotonic() < deadline
    assert os.sched_getaffinity(0) == allowed
    assert 0 < pace <= gauge.best


def test_a_gauge_without_samples_lets_its_thread_go_too() -> None:
    allowed = os.sched_getaffinity(0)
    with Gauge(samples=False) as gauge:
        began = time.monotonic_ns()
        chosen = gauge.choose()
        assert os.sched_getaffinity(0) == {chosen}
    assert os.sched_getaffinity(0) == allowed
    assert gauge.pace(began, time.monotonic_ns()) is None


def test_the_fastest_processor_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 9})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, to: moved.append(set(to)))
    monkeypatch.setattr(module, "_probe", lambda: 100 if moved[-1:] == [{5}] else 200)
    gauge = Gauge()

    assert gauge.choose() == 5
    assert moved[-1] == {5}
    assert gauge.best == 1 / 100


def test_the_pace_is_the_mean_of_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    gauge = Gauge()
    monkeypatch.setattr(gauge, "_samples", [(5, 1), (10, 100), (20, 400), (30, 1)])

    assert gauge.pace(10, 20) == pytest.approx((1 / 100 + 1 / 400) / 2)
    assert gauge.pace(11, 19) is None


def test_times_of_a_slow_processor_are_scaled() -> None:
    half = replace(RUN, speed=0.5)
    figures = Figures(PERL, {"native": RUN, "ringlet": half}, calls=3)

    assert figures.time("ringlet") == 500
    assert figures.ratio("ringlet", "native") == 0.5
    assert figures.processor_ratio("ringlet") == 2.0
    assert Figures(PERL, {"native": half}, calls=3).trap_rate == 10 * 1e9 / 400


def test_a_rate_of_a_slow_processor_is_scaled() -> None:
    timing = replace(RUN, speed=0.5, rate=100.0)

    assert Figures(RSA, {"native": timing}).time("native") == 1e9 / 200
