"""Interleaving, minima, ratios, and engines that fail."""

from pathlib import Path

import pytest

from ringlet.bench.engines import Transcript
from ringlet.bench.gauge import Gauge
from ringlet.bench.output import Line
from ringlet.bench.rounds import Comparison, compare, geometric_mean
from ringlet.bench.toolchain import Program

PROGRAM = Program("cpu", Path("/p/cpu"), Path("/p/cpu.elf"))

LINUX = Program("linux", Path("/p/cpu"), Path("/p/linux.cpio"), Path("/k/vmlinuz"))
COUNTERS = "machine_entry_ns 1,000,000,400 ns when the run began"


def transcript(*texts: str, status: int | None, stderr: str = "") -> Transcript:
    """A run whose counter makes one tick a ns: each line arrives a second after the last."""
    return Transcript([Line(10**9 * i, text) for i, text in enumerate(texts)], status, stderr)


def native(fib: int, crc: int = 100) -> Transcript:
    return transcript(
        "clock 0 0", "mark 1000000000", f"section fib {fib} aa", f"section crc32 {crc} bb",
        "mark 4000000000", "clock 5000000000 5000000000", status=0,
    )  # fmt: skip


def guest(fib: int, crc: int = 400, checksum: str = "aa") -> Transcript:
    return transcript(
        "mark 0", f"section fib {fib} {checksum}", f"section crc32 {crc} bb", "mark 3000000000",
        status=1,
    )  # fmt: skip


class Runs:
    """Hands out prepared transcripts by engine and remembers the order of the calls."""

    def __init__(self, **prepared: list[Transcript]) -> None:
        self.prepared = prepared
        self.order: list[str] = []
        self.commands: list[list[str]] = []

    def __call__(self, argv: list[str], timeout: float) -> Transcript:
        self.commands.append(argv)
        engine = "native" if argv[0] == "/p/cpu" else "qemu" if "qemu" in argv[0] else "ringlet"
        self.order.append(engine)
        return self.prepared[engine].pop(0)


def cells(comparison: Comparison, name: str) -> dict[str, tuple[float | None, str | None]]:
    row = next(row for row in comparison.rows if row.name == name)
    return {engine: (cell.ns, cell.error) for engine, cell in row.cells.items()}


def test_engines_take_turns() -> None:
    runs = Runs(native=[native(10), native(10)], qemu=[guest(50), guest(50)])

    compare(PROGRAM, ["native", "qemu"], 2, runner=runs)

    assert runs.order == ["native", "qemu", "native", "qemu"]


def test_each_run_is_on_the_processor_that_is_fastest_then(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(native=[native(10), native(10)], qemu=[guest(50), guest(50)])
    gauge = Gauge(samples=False)
    chosen: list[int] = []
    monkeypatch.setattr(gauge, "choose", lambda: chosen.append(len(runs.order)))

    compare(PROGRAM, ["native", "qemu"], 2, runner=runs, gauge=gauge)

    assert chosen == [0, 1, 2, 3]


def test_a_figure_is_the_minimum_of_the_rounds() -> None:
    runs = Runs(native=[native(12), native(10), native(11)])

    comparison = compare(PROGRAM, ["native"], 3, runner=runs)

    assert cells(comparison, "fib") == {"native": (10.0, None)}


def test_ratios_are_time_over_time() -> None:
    runs = Runs(native=[native(10, 100)], ringlet=[guest(15, 100)], qemu=[guest(60, 400)])

    comparison = compare(PROGRAM, ["native", "ringlet", "qemu"], 1, runner=runs)

    assert comparison.ratios("ringlet") == [1.5, 1.0]
    assert comparison.ratios("qemu") == [6.0, 4.0]
    assert comparison.mean("qemu", "ringlet") == pytest.approx(4.0)


def test_a_failed_engine_is_not_run_again_and_its_reason_is_kept() -> None:
    broken = transcript(status=2, stderr="Usage\nringlet: no such option\n")
    runs = Runs(native=[native(10), native(10)], ringlet=[broken])

    comparison = compare(PROGRAM, ["native", "ringlet"], 2, runner=runs)

    assert comparison.errors == {"ringlet": "ended with status 2: ringlet: no such option"}
    assert cells(comparison, "fib") == {"native": (10.0, None), "ringlet": (None, "error")}
    assert runs.order == ["native", "ringlet", "native"]


def test_a_run_that_panics_keeps_what_it_measured() -> None:
    panicked = transcript("mark 0", "section fib 15 aa", "panic: vector 0d", status=5)
    runs = Runs(native=[native(10)], ringlet=[panicked])

    comparison = compare(PROGRAM, ["native", "ringlet"], 1, runner=runs)

    assert comparison.errors == {"ringlet": "panic: vector 0d"}
    assert cells(comparison, "fib")["ringlet"] == (15.0, None)
    assert cells(comparison, "crc32")["ringlet"] == (None, "error")


def test_a_run_over_its_time_says_so() -> None:
    runs = Runs(native=[native(10)], qemu=[transcript("mark 0", status=None)])

    comparison = compare(PROGRAM, ["native", "qemu"], 1, timeout=7.0, runner=runs)

    assert comparison.errors == {"qemu": "not finished after 7 s"}


def test_a_checksum_unlike_the_native_one_is_no_figure() -> None:
    runs = Runs(native=[native(10)], ringlet=[guest(9, checksum="ab")])

    comparison = compare(PROGRAM, ["native", "ringlet"], 1, runner=runs)

    assert cells(comparison, "fib")["ringlet"] == (None, "wrong result")
    assert comparison.ratios("ringlet") == [4.0]


def test_a_primitive_without_operations_is_not_applicable() -> None:
    output = transcript("mark 0", "nano timer 0 0", "mark 2000000000", status=1)

    comparison = compare(PROGRAM, ["qemu"], 1, runner=Runs(qemu=[output]))

    assert cells(comparison, "timer") == {"qemu": (None, None)}


def test_ticks_are_divided_by_the_operations() -> None:
    output = transcript("mark 0", "nano in 9000 30", "mark 2000000000", status=1)

    comparison = compare(PROGRAM, ["qemu"], 1, runner=Runs(qemu=[output]))

    assert cells(comparison, "in") == {"qemu": (300.0, None)}


def test_geometric_mean_of_reciprocals_is_one() -> None:
    assert geometric_mean([4.0, 0.25]) == pytest.approx(1.0)


def test_geometric_mean_of_nothing_is_none() -> None:
    assert geometric_mean([]) is None


def test_a_linux_guest_is_timed_from_the_start_and_from_its_kernels_entry() -> None:
    lines = [Line(1_000_000_900, "mark 5"), Line(2_000_000_000, "mark 6")]
    cold = [Line(1_000_001_500, "mark 5"), Line(2_000_000_000, "mark 6")]
    made = [Transcript(seen, 0, COUNTERS, 1_000_000_000) for seen in (lines, cold)]
    runs = Runs(ringlet=made)

    comparison = compare(LINUX, ["ringlet"], 1, runner=runs)

    assert cells(comparison, "boot") == {"ringlet": (500, None)}
    assert cells(comparison, "start") == {"ringlet": (900, None)}
    assert cells(comparison, "boot_cold") == {"ringlet": (1100, None)}
    assert cells(comparison, "start_cold") == {"ringlet": (1500, None)}


def test_options_of_ringlet_hold_for_its_cold_run_too() -> None:
    made = [Transcript([Line(2, "mark 5"), Line(3, "mark 6")], 0, COUNTERS, 1) for _ in range(2)]
    runs = Runs(ringlet=made)

    compare(LINUX, ["ringlet"], 1, options=["--exact"], runner=runs)

    assert [argv.count("--exact") for argv in runs.commands] == [1, 1]
    assert runs.commands[1][-1] == "--cold"


def test_the_firmwares_last_line_tells_of_the_kernels_entry() -> None:
    lines = [
        Line(700, "Booting from ROM..."), Line(800, "Booting from c000:0054"),
        Line(1000, "mark 5\r"), Line(1100, "Booting from another place"), Line(2000, "mark 6\r"),
    ]  # fmt: skip
    slower = [Line(100, "Booting from c000:0054"), Line(1000, "mark 5"), Line(2000, "mark 6")]
    runs = Runs(qemu=[Transcript(lines, 0, "", 100), Transcript(slower, 0, "", 100)])

    comparison = compare(LINUX, ["qemu"], 2, runner=runs)

    assert cells(comparison, "boot") == {"qemu": (200, None)}
    assert cells(comparison, "start") == {"qemu": (900, None)}


def test_a_linux_that_does_not_reach_init_has_no_time_of_start() -> None:
    panic = "[    0.5] Kernel panic - not syncing: VFS: Unable to mount root fs"
    runs = Runs(ringlet=[transcript(panic, status=3, stderr=COUNTERS)])

    comparison = compare(LINUX, ["ringlet"], 1, runner=runs)

    assert comparison.errors == {"ringlet": panic}
    assert comparison.rows == []


def test_the_native_program_has_no_time_of_start() -> None:
    comparison = compare(LINUX, ["native"], 1, runner=Runs(native=[native(10)]))

    assert [row.name for row in comparison.rows] == ["fib", "crc32"]
