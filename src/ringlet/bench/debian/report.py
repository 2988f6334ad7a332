"""Formats the comparison of `ringlet bench programs` as tables and as JSON."""

import platform
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ringlet.bench.debian.results import Timing
from ringlet.bench.debian.rounds import Figures, ProgramsComparison
from ringlet.bench.debian.rows import FAULT_ROW, SYSCALL_ROW
from ringlet.bench.engines import NATIVE, RINGLET
from ringlet.bench.report import RATIOS, TITLES, processor_name

WIDTH: Final = 138
"""The columns that the widest table needs."""

SHOWN: Final = (
    "exits", "emulated", "fragments", "kept_fragments", "flushes", "shadow_faults", "guest_faults",
    "interrupts",
)  # fmt: skip
"""The counters in the table; the JSON values have all."""

_HUGE_PAGES: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
NOTE: Final = (
    "Times are scaled by the processor's speed during each run. Ratios are of times. Traps: system "
    "calls and page faults of the native run, for each second of its user time; their cost: as "
    "many null system calls and page faults on new memory as measured under Ringlet"
)
CPU_NOTE: Final = (
    "speed: of the processor meanwhile, as a part of its best, measured by a probe beside the run; "
    "user and system: as the system that runs the program says; process: what Ringlet or QEMU "
    "used on this host meanwhile, and its ratio to the native user and system time"
)


def tables(made: ProgramsComparison) -> RenderableType:
    """Return the comparison as tables: times, processor time, Ringlet's counters."""
    parts: list[RenderableType] = [_times(made), Text(NOTE), _processor_time(made), Text(CPU_NOTE)]
    if any(figures.counters for figures in made.figures):
        parts.append(_counters(made))
    return Group(*parts, *errors(made))


def errors(made: ProgramsComparison) -> list[Text]:
    """Return a line for each reason why figures are missing."""
    lines = [
        f"{figures.row.label}, {TITLES[engine]}: {why}"
        for figures in made.figures
        for engine, why in figures.errors.items()
    ]
    for why in dict.fromkeys(made.errors.values()):
        places = "; ".join(what for what, other in made.errors.items() if other == why)
        lines.append(f"{places}: {why}")
    return [Text(line) for line in lines]


def as_json(made: ProgramsComparison, benchmark: str = "programs") -> dict[str, Any]:
    """Return the comparison as JSON values.  Times are in ns; a ratio is time over time."""
    return {
        "benchmark": benchmark,
        "unit": "ns",
        "statistic": "minimum",
        "rounds": made.settings.rounds,
        "quick": made.settings.quick,
        "options": list(made.settings.options),
        "engines": list(made.engines),
        "host": {
            "processor": processor_name(),
            "kernel": platform.release(),
            "transparent_huge_pages": huge_pages(),
        },
        "trap_ns": {
            name: {engine: made.cost(name, engine) for engine in made.engines}
            for name in (SYSCALL_ROW, FAULT_ROW)
        },
        "rows": [_row_json(made, figures) for figures in made.figures],
        "ratios": {
            f"{a}/{b}": {
                "geometric_mean": made.mean(a, b),
                "least": min(made.ratios(a, b), default=None),
                "most": max(made.ratios(a, b), default=None),
            }
            for a, b in RATIOS
        },
        "processor_ratios": {
            f"{engine}/{NATIVE}": made.processor_mean(engine)
            for engine in made.engines
            if engine != NATIVE
        },
        "counters": made.counters,
        "packages": made.versions,
        "errors": made.errors,
    }


def huge_pages() -> str:
    """Return the host's setting of transparent huge pages; empty if it is not known."""
    try:
        words = _HUGE_PAGES.read_text(encoding="utf-8").split()
    except OSError:
        return ""
    return next((word.strip("[]") for word in words if word.startswith("[")), "")


def _row_json(made: ProgramsComparison, figures: Figures) -> dict[str, Any]:
    return {
        "name": figures.row.name,
        "label": figures.row.label,
        "group": figures.row.group,
        "rate": figures.row.rate or None,
        "runs": {
            engine: {
                "ns": figures.time(engine),
                "wall_ns": timing.wall,
                "user_ns": timing.user,
                "system_ns": timing.system,
                "process_ns": timing.cpu,
                "faults": timing.faults,
                "rate": timing.rate,
                "speed": timing.speed,
            }
            for engine, timing in figures.timings.items()
        },
        "errors": figures.errors,
        "ratios": {f"{a}/{b}": figures.ratio(a, b) for a, b in RATIOS},
        "processor_ratios": {
            f"{engine}/{NATIVE}": figures.processor_ratio(engine)
            for engine in made.engines
            if engine != NATIVE
        },
        "counters": figures.counters,
        "native_system_calls": figures.calls,
        "native_traps_per_user_second": figures.trap_rate,
        "trap_ns": {engine: made.trap_time(figures, engine) for engine in made.engines},
    }


def _times(made: ProgramsComparison) -> Table:
    pairs = [p for p in RATIOS if p[0] in made.engines and p[1] in made.engines]
    rounds = made.settings.rounds
    table = _table(f"programs: s, best of {rounds} round{'s' if rounds > 1 else ''}", "program")
    for engine in made.engines:
        _column(table, TITLES[engine])
    for above, below in pairs:
        _column(table, f"{TITLES[above]}\n/{TITLES[below]}")
    _column(table, "traps\n/user s")
    _column(table, "traps x\ncost, s")
    programs = [f for f in made.figures if not f.row.cost]
    for figures in programs:
        times = [_time(figures, engine) for engine in made.engines]
        ratios = [_ratio(figures.ratio(*pair)) for pair in pairs]
        traps = [_count(figures.trap_rate), _seconds(made.trap_time(figures))]
        table.add_row(figures.row.label, *times, *ratios, *traps)
    blank = [""] * len(made.engines)
    if pairs:
        table.add_section()
        table.add_row("geometric mean", *blank, *(_ratio(made.mean(*p)) for p in pairs))
        worst = [_ratio(max(made.ratios(*p), default=None)) for p in pairs]
        table.add_row("most", *blank, *worst)
    costs = [f for f in made.figures if f.row.cost]
    if costs:
        table.add_section()
    for figures in costs:
        times = [_nanoseconds(figures, engine) for engine in made.engines]
        table.add_row(figures.row.label, *times, *(_ratio(figures.ratio(*p)) for p in pairs))
    return table


def _processor_time(made: ProgramsComparison) -> Table:
    table = _table("programs: processor time, s", "program")
    for engine in made.engines:
        _column(table, f"{TITLES[engine]}\nspeed")
        _column(table, "\nuser")
        _column(table, "\nsystem")
        if engine != NATIVE:
            _column(table, "\nprocess")
            _column(table, "\n/native")
    _column(table, "native\ncalls")
    _column(table, "\nfaults")
    for figures in made.figures:
        cells = []
        for engine in made.engines:
            timing = figures.timings.get(engine)
            times = ["-"] * 4
            if timing is not None:
                spent = (timing.user, timing.system, timing.cpu)
                times = [f"{timing.speed:.2f}", *(_seconds(timing.scaled(ns)) for ns in spent)]
            if engine == NATIVE:
                cells += times[:3]
            else:
                cells += [*times, _ratio(figures.processor_ratio(engine))]
        native = figures.timings.get(NATIVE)
        counts = [_count(figures.calls), _count(None if native is None else native.faults)]
        table.add_row(figures.row.label, *cells, *counts)
    means: list[str] = []
    for engine in made.engines:
        mean = _ratio(made.processor_mean(engine))
        means += ["", "", ""] if engine == NATIVE else ["", "", "", "", mean]
    table.add_section()
    table.add_row("geometric mean", *means)
    return table


def _counters(made: ProgramsComparison) -> Table:
    table = _table(f"programs: {TITLES[RINGLET]}'s counters", "program")
    for name in SHOWN:
        _column(table, name.replace("_", "\n"))
    for figures in made.figures:
        table.add_row(figures.row.label, *(_count(figures.counters.get(name)) for name in SHOWN))
    return table


def _table(title: str, first: str) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    return table


def _column(table: Table, title: str) -> None:
    table.add_column(title, justify="right", no_wrap=True)


def _time(figures: Figures, engine: str) -> str:
    timing: Timing | None = figures.timings.get(engine)
    if timing is None:
        return "error" if engine in figures.errors else "-"
    if figures.row.rate and timing.rate is not None:
        return f"{timing.rate / timing.speed:,.0f} /s"
    return _seconds(figures.time(engine))


def _nanoseconds(figures: Figures, engine: str) -> str:
    time = figures.time(engine)
    return "-" if time is None else f"{time:,.0f} ns"


def _seconds(ns: float | None) -> str:
    return "-" if ns is None else f"{ns / 1e9:.2f}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
