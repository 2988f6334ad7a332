"""Tables and JSON."""

import io
import json

import pytest
from rich.console import Console

from ringlet.bench.debian.report import WIDTH, as_json, tables
from ringlet.bench.debian.results import Timing
from ringlet.bench.debian.rounds import Figures, ProgramsComparison, Settings
from ringlet.bench.debian.rows import Row

ENGINES = ["native", "ringlet", "qemu"]


def timing(seconds: float, rate: float | None = None) -> Timing:
    ns = int(seconds * 1e9)
    return Timing("0", ns, ns * 9 // 10, ns // 10, 1000, "aa", rate, ns, ns * 2)


def made() -> ProgramsComparison:
    perl = Figures(
        Row("perl", "base", "perl program", 3, 1),
        {"native": timing(1.0), "ringlet": timing(2.0), "qemu": timing(8.0)},
        calls=8000,
        counters={"exits": 1234, "flushes": 0, "lookups": 7},
    )
    rsa = Figures(
        Row("rsa", "base", "openssl RSA-2048", 1, 1, "signs/s"),
        {"native": timing(1.0, 3406.0), "ringlet": timing(1.0, 34.06)},
        {"qemu": "wrong result"},
        calls=100,
    )
    call = Figures(
        Row("getppid", "base", "null system call", 1, 1, "calls/s", cost=True),
        {"native": timing(1.0, 1e7), "ringlet": timing(1.0, 2e6), "qemu": timing(1.0, 1e6)},
    )
    fault = Figures(
        Row("fault", "base", "page fault", 1, 1, "faults/s", cost=True),
        {"native": timing(1.0, 1e6), "ringlet": timing(1.0, 1e5)},
    )
    figures, late = (
        [perl, rsa, call, fault],
        {"qemu, gcc": "not finished", "qemu, java": "not finished"},
    )
    return ProgramsComparison(
        ENGINES, Settings(rounds=2), figures, late,
        {"base": {"exits": 5678}}, {"perl": "5.36"},
    )  # fmt: skip


def shown() -> str:
    file = io.StringIO()
    Console(width=WIDTH, color_system=None, file=file).print(tables(made()))
    return file.getvalue()


def rows_of(text: str, name: str) -> list[list[str]]:
    lines = [line.strip() for line in text.splitlines()]
    return [line.removeprefix(name).split() for line in lines if line.startswith(name)]


def test_a_program_has_its_times_ratios_traps_and_their_cost() -> None:
    first, second, *_ = rows_of(shown(), "perl program")

    # 8,000 calls of 0.5 us and 1,000 faults of 10 us.
    assert first == ["1.00", "2.00", "8.00", "2.00", "8.00", "4.00", "10,000", "0.01"]
    assert second[:8] == ["1.00", "0.90", "0.10", "1.00", "1.80", "0.20", "4.00", "4.00"]
    assert second[-2:] == ["8,000", "1,000"]


def test_a_rate_is_shown_and_its_ratio_is_of_times() -> None:
    first = rows_of(shown(), "openssl RSA-2048")[0]

    assert first[:5] == ["3,406", "/s", "34", "/s", "error"]
    assert first[5] == "100.00"


def test_the_cost_of_a_trap_is_shown_in_ns_below_the_mean() -> None:
    text = shown()

    assert rows_of(text, "null system call")[0][:6] == ["100", "ns", "500", "ns", "1,000", "ns"]
    assert text.index("geometric mean") < text.index("null system call")


def test_processor_time_has_a_ratio_and_a_mean_of_the_rows_that_are_timed() -> None:
    text = shown()

    assert rows_of(text, "openssl RSA-2048")[1][7] == "-"
    assert rows_of(text, "geometric mean")[1] == ["4.00", "16.00"]


def test_the_mean_is_of_all_programs_that_have_a_ratio() -> None:
    assert rows_of(shown(), "geometric mean")[0][0] == "14.14"


def test_reasons_and_counters_are_shown() -> None:
    text = shown()

    assert "openssl RSA-2048, QEMU: wrong result" in text
    assert "qemu, gcc; qemu, java: not finished" in text
    assert rows_of(text, "perl program")[2][:2] == ["1,234", "-"]


def test_the_json_has_all_of_it() -> None:
    perl, rsa, *_ = json.loads(json.dumps(as_json(made())))["rows"]

    assert perl["runs"]["ringlet"]["process_ns"] == 4_000_000_000
    assert perl["native_traps_per_user_second"] == 10_000
    assert perl["trap_ns"]["ringlet"] == 14_000_000
    assert perl["processor_ratios"] == {"ringlet/native": 4.0, "qemu/native": 16.0}
    assert perl["counters"] == {"exits": 1234, "flushes": 0, "lookups": 7}
    assert rsa["errors"] == {"qemu": "wrong result"}
    assert rsa["ratios"]["ringlet/native"] == pytest.approx(100)
    assert as_json(made())["ratios"]["qemu/ringlet"]["geometric_mean"] == 4.0
    assert as_json(made())["packages"] == {"perl": "5.36"}
