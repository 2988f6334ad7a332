"""The table of `ringlet bench io`."""

import io

from rich.console import Console

from ringlet.bench.debian.io_report import WIDTH, speed, table
from ringlet.bench.debian.results import Timing
from ringlet.bench.debian.rounds import Figures, ProgramsComparison, Settings
from ringlet.bench.debian.rows import Row

ENGINES = ["native", "ringlet", "qemu"]


def timing(seconds: float, rate: float | None = None) -> Timing:
    ns = int(seconds * 1e9)
    return Timing("0", ns, 0, 0, 0, "aa", rate, ns, ns * 2)


def made() -> ProgramsComparison:
    read = Figures(
        Row("disk-read", "disk", "disk, read", 1, 1, "MB/s"),
        {"native": timing(2, 1e9), "ringlet": timing(2, 8e8), "qemu": timing(2, 1.6e8)},
        counters={"exits": 500, "doorbells": 30, "interrupts": 7},
    )
    out = Figures(
        Row("net-out", "network", "network, out", 1, 1, "Gbit/s"),
        {"ringlet": timing(1, 2.5e9)}, {"native": "not run", "qemu": "run: no route"},
    )  # fmt: skip
    status = Figures(
        Row("share-status", "share", "git status", 1, 1),
        {"native": timing(0.5), "ringlet": timing(1), "qemu": timing(4)},
    )
    return ProgramsComparison(
        ENGINES, Settings(), [read, out, status], {"native, network": "needs pasta"}
    )


def lines() -> list[str]:
    file = io.StringIO()
    Console(width=WIDTH, color_system=None, file=file).print(table(made()))
    return [line.strip() for line in file.getvalue().splitlines()]


def row(begins: str) -> list[str]:
    line = next(line for line in lines() if line.startswith(begins))
    return line.removeprefix(begins).split()


def test_rates_have_their_unit_and_ratios_are_of_speeds() -> None:
    assert row("disk, read") == [
        "1,000", "MB/s", "800", "MB/s", "160", "MB/s", "0.80", "0.16", "5.00", "2.00", "2.00",
        "250", "15", "4",
    ]  # fmt: skip


def test_a_row_that_is_measured_by_its_time_shows_seconds() -> None:
    assert row("git status")[:9] == ["0.50", "s", "1.00", "s", "4.00", "s", "0.50", "0.12", "4.00"]


def test_missing_figures_have_their_reason_below() -> None:
    shown = lines()

    assert row("network, out")[:4] == ["error", "2.50", "Gbit/s", "error"]
    assert "network, out, QEMU: run: no route" in shown
    assert "native, network: needs pasta" in shown


def test_a_speed_without_both_figures_is_none() -> None:
    assert speed(made().figures[1], "ringlet", "native") is None
