"""Tables and JSON."""

import io
import json

from rich.console import Console, RenderableType

from ringlet.bench.report import as_json, table, throughput_json, throughput_table
from ringlet.bench.rounds import Cell, Comparison, Row
from ringlet.bench.translation import Pass, Throughput


def shown(renderable: RenderableType) -> str:
    file = io.StringIO()
    Console(width=80, color_system=None, file=file).print(renderable)
    return file.getvalue()


def comparison(program: str = "cpu") -> Comparison:
    fib = Row("fib", {"native": Cell(1e8), "ringlet": Cell(1.5e8), "qemu": Cell(6e8)})
    crc = Row("crc32", {"native": Cell(2e8), "ringlet": Cell(error="error"), "qemu": Cell(3e8)})
    return Comparison(
        program, ["native", "ringlet", "qemu"], 2, [fib, crc], {"ringlet": "panic: vector 0d"}, 2.6
    )


def row_of(text: str, name: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.strip().startswith(name))


def test_a_speed_table_shows_seconds_and_ratios() -> None:
    assert row_of(shown(table(comparison())), "fib")[1:] == [
        "0.100", "0.150", "0.600", "1.50", "6.00", "4.00",
    ]  # fmt: skip


def test_a_failed_engine_shows_an_error_cell_and_its_reason() -> None:
    text = shown(table(comparison()))

    assert row_of(text, "crc32")[1:] == ["0.200", "error", "0.300", "-", "1.50", "-"]
    assert "Ringlet: panic: vector 0d" in text


def test_a_speed_table_ends_in_mean_least_and_most() -> None:
    text = shown(table(comparison()))

    assert row_of(text, "geometric")[-3:] == ["1.50", "3.00", "4.00"]
    assert row_of(text, "least")[-2:] == ["1.50", "4.00"]
    assert row_of(text, "most")[-2:] == ["6.00", "4.00"]


def test_a_table_of_primitives_shows_ns_and_no_mean() -> None:
    row = Row("cr3", {"native": Cell(), "ringlet": Cell(58275.4), "qemu": Cell(51.64)})
    text = shown(table(Comparison("nano", ["native", "ringlet", "qemu"], 1, [row], {}, 2.6)))

    assert "CR3 load, then 500 pages" in text
    assert row_of(text, "CR3")[-6:] == ["-", "58,275", "51.6", "-", "-", "0.00"]
    assert "geometric" not in text


def test_a_table_of_a_linux_guest_gives_each_time_its_unit() -> None:
    rows = [
        Row("fib", {"native": Cell(9.12e7), "ringlet": Cell(1.5e9)}),
        Row("getppid", {"native": Cell(151.4), "ringlet": Cell(302.8)}),
        Row("exec", {"native": Cell(9999.0), "ringlet": Cell(28_600.0)}),
        Row("boot", {"ringlet": Cell(5e8)}),
    ]
    text = shown(table(Comparison("linux", ["native", "ringlet"], 1, rows, {}, 2.6)))

    assert row_of(text, "fib")[1:] == ["91.2", "ms", "1.50", "s", "16.45"]
    assert row_of(text, "getppid")[1:] == ["151", "ns", "303", "ns", "2.00"]
    assert row_of(text, "fork, exec")[-5:] == ["10.00", "us", "28.6", "us", "2.86"]
    assert row_of(text, "kernel entry")[-4:] == ["-", "500", "ms", "-"]
    assert "geometric" not in text


def test_the_json_has_times_ratios_and_reasons() -> None:
    made = json.loads(json.dumps(as_json(comparison())))

    assert made["tsc_khz"] == 2_600_000
    assert made["sections"][0]["ratios"]["qemu/ringlet"] == 4.0
    assert made["sections"][1]["errors"] == {"ringlet": "error"}
    assert made["ratios"]["qemu/native"]["most"] == 6.0
    assert made["errors"] == {"ringlet": "panic: vector 0d"}


def test_throughput_is_shown_cold_and_warm() -> None:
    throughput = Throughput(0.5, Pass(3.0, 10, 1000, 4000, 6000, 8000, 2),
                            Pass(1.0, 10, 1000, 4000, 6000, 8000, 2))  # fmt: skip

    text = shown(throughput_table(throughput))
    made = throughput_json(throughput)

    assert row_of(text, "us per")[-2:] == ["3000.000", "1000.000"]
    assert row_of(text, "code cache")[-2:] == ["2.00", "2.00"]
    assert made["cold"]["us_per_instruction"] == 3000.0
    assert made["warm"]["expansion"] == 1.5
