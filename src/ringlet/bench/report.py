"""Formats a comparison as a table and as JSON."""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ringlet.bench.engines import KVM, NATIVE, QEMU, RINGLET
from ringlet.bench.rounds import Cell, Comparison
from ringlet.bench.translation import Pass, Throughput

TITLES = {NATIVE: "native", RINGLET: "Ringlet", QEMU: "QEMU", KVM: "KVM"}
RATIOS = ((RINGLET, NATIVE), (QEMU, NATIVE), (KVM, NATIVE), (QEMU, RINGLET))

LABELS = {
    "syscall": "SYSCALL and SYSRET",
    "int80": "INT 80h and IRETQ",
    "in": "IN from the UART",
    "out": "OUT to the UART",
    "cr8": "CR8 write",
    "apicread": "local APIC read",
    "apicwrite": "local APIC write",
    "deviceread": "I/O APIC read",
    "devicewrite": "I/O APIC write",
    "call": "call and return",
    "pagefault": "page fault and IRETQ",
    "divide": "divide error and IRETQ",
    "pte": "PTE write, INVLPG, read",
    "cr3": "CR3 load, then 500 pages",
    "timer": "timer interrupt",
    "smc": "self-modifying code",
    "pipe": "pipe, there and back",
    "fault": "anonymous page fault",
    "fork": "fork, exit, wait",
    "exec": "fork, exec, exit, wait",
    "boot": "kernel entry to init",
    "start": "command to init",
    "boot_cold": "entry to init, cold",
    "start_cold": "command to init, cold",
}

NATIVE_NOTE = (
    "native: getppid under this host's Linux, which does more than the guest's null system call; "
    "for a divide error a signal, for a page fault a signal and a mapping, for a PTE a mapping: "
    "the lower bounds for a hypervisor that uses these"
)

LINUX_NOTE = (
    "fork and exec: of a process with 1 MiB; native: under this host's Linux, the same executable. "
    "Kernel entry: before the kernel unpacks itself; in QEMU, when its firmware's log ends. Cold: "
    "without translations of earlier runs"
)


def table(comparison: Comparison) -> RenderableType:
    """Return the comparison as a table: `cpu` in seconds, `nano` in ns, `linux` with units."""
    speed = comparison.program in ("cpu", "real")
    unit, text, note = _STYLES[comparison.program]
    pairs = [p for p in RATIOS if p[0] in comparison.engines and p[1] in comparison.engines]
    made = Table(
        title=f"{comparison.program}: {unit}"
        f"minimum of {comparison.rounds} round{'s' if comparison.rounds > 1 else ''}",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    made.add_column("primitive" if comparison.program == "nano" else "section", no_wrap=True)
    for engine in comparison.engines:
        made.add_column(TITLES[engine], justify="right", no_wrap=True)
    for above, below in pairs:
        made.add_column(f"{TITLES[above]}\n/{TITLES[below]}", justify="right", no_wrap=True)
    for row in comparison.rows:
        cells = [_cell(row.cells.get(engine, Cell()), text) for engine in comparison.engines]
        ratios = [_ratio(row.ratio(*pair)) for pair in pairs]
        made.add_row(LABELS.get(row.name, row.name), *cells, *ratios)
    if speed and pairs:
        blank = [""] * len(comparison.engines)
        made.add_section()
        made.add_row("geometric mean", *blank, *(_ratio(comparison.mean(*p)) for p in pairs))
        made.add_row("least", *blank, *(_ratio(_least(comparison, p)) for p in pairs))
        made.add_row("most", *blank, *(_ratio(_most(comparison, p)) for p in pairs))
    notes = [Text(note)] if note else []
    notes += [Text(f"{TITLES[e]}: {why}") for e, why in comparison.errors.items()]
    return Group(made, *notes)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON values.  Times are in ns; a ratio is time over time."""
    return {
        "benchmark": comparison.program,
        "unit": "ns",
        "statistic": "minimum",
        "rounds": comparison.rounds,
        "engines": list(comparison.engines),
        "host": {"processor": processor_name(), "kernel": platform.release()},
        "tsc_khz": comparison.ticks_per_ns and round(comparison.ticks_per_ns * 1e6),
        "sections": [
            {
                "name": row.name,
                "ns": {engine: cell.ns for engine, cell in row.cells.items()},
                "errors": {e: cell.error for e, cell in row.cells.items() if cell.error},
                "ratios": {f"{a}/{b}": row.ratio(a, b) for a, b in RATIOS},
            }
            for row in comparison.rows
        ],
        "ratios": {
            f"{a}/{b}": {
                "geometric_mean": comparison.mean(a, b),
                "least": _least(comparison, (a, b)),
                "most": _most(comparison, (a, b)),
            }
            for a, b in RATIOS
        },
        "errors": comparison.errors,
    }


def throughput_table(throughput: Throughput) -> RenderableType:
    """Return the translator's throughput as a table."""
    made = Table(title="translate: a kernel's text", box=SIMPLE_HEAD, pad_edge=False)
    for title in ("", "cold", "warm"):
        made.add_column(title, justify="right" if title else "left", no_wrap=True)
    cold, warm = throughput.cold, throughput.warm
    made.add_row("start-up, s", f"{throughput.start:.3f}", "-")
    made.add_row("walk, s", f"{cold.seconds:.3f}", f"{warm.seconds:.3f}")
    figures: list[tuple[str, Callable[[Pass], str]]] = [
        ("us per guest instruction", lambda p: f"{p.us_per_instruction:.3f}"),
        ("guest instructions", lambda p: f"{p.instructions:,}"),
        ("fragments", lambda p: f"{p.fragments:,}"),
        ("guest bytes", lambda p: f"{p.guest_bytes:,}"),
        ("bytes left", lambda p: f"{p.skipped_bytes:,}"),
        ("host code bytes per guest byte", lambda p: f"{p.expansion:.2f}"),
        ("code cache bytes per guest byte", lambda p: f"{p.cache_expansion:.2f}"),
    ]
    for label, show in figures:
        made.add_row(label, show(cold), show(warm))
    return made


def throughput_json(throughput: Throughput) -> dict[str, Any]:
    """Return the translator's throughput as JSON values."""

    def of(walked: Pass) -> dict[str, Any]:
        return {
            "seconds": walked.seconds,
            "us_per_instruction": walked.us_per_instruction,
            "instructions": walked.instructions,
            "fragments": walked.fragments,
            "guest_bytes": walked.guest_bytes,
            "host_bytes": walked.host_bytes,
            "cache_bytes": walked.cache_bytes,
            "skipped_bytes": walked.skipped_bytes,
            "expansion": walked.expansion,
            "cache_expansion": walked.cache_expansion,
        }

    return {
        "benchmark": "translate",
        "host": {"processor": processor_name(), "kernel": platform.release()},
        "start_seconds": throughput.start,
        "cold": of(throughput.cold),
        "warm": of(throughput.warm),
    }


def processor_name() -> str:
    """Return the host processor's name from /proc/cpuinfo."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _least(comparison: Comparison, pair: tuple[str, str]) -> float | None:
    return min(comparison.ratios(*pair), default=None)


def _most(comparison: Comparison, pair: tuple[str, str]) -> float | None:
    return max(comparison.ratios(*pair), default=None)


def _cell(cell: Cell, text: Callable[[float], str]) -> str:
    if cell.ns is not None:
        return text(cell.ns)
    return cell.error or "-"


def _seconds(ns: float) -> str:
    return f"{ns / 1e9:.3f}"


def _nanoseconds(ns: float) -> str:
    return f"{ns:,.1f}" if ns < 100 else f"{ns:,.0f}"


def _duration(ns: float) -> str:
    size, unit = next(u for u in _UNITS if ns < 1000 * u[0] or u[1] == "s")
    value = ns / size
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


_UNITS = ((1, "ns"), (1e3, "us"), (1e6, "ms"), (1e9, "s"))

# For each program: the unit in the table's title, the format of a time, the note below the table.
_STYLES: dict[str, tuple[str, Callable[[float], str], str]] = {
    "cpu": ("s, ", _seconds, ""),
    "real": ("s, ", _seconds, ""),
    "nano": ("ns, ", _nanoseconds, NATIVE_NOTE),
    "linux": ("", _duration, LINUX_NOTE),
}


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
