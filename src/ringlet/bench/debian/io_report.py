"""Formats the comparison of `ringlet bench io` as a table."""

from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ringlet.bench.debian.report import errors
from ringlet.bench.debian.rounds import Figures, ProgramsComparison
from ringlet.bench.engines import KVM, NATIVE, QEMU, RINGLET
from ringlet.bench.report import TITLES

WIDTH: Final = 168
"""The columns that the table needs."""

UNITS: Final = {"MB/s": 1e6, "Gbit/s": 1e9, "/s": 1.0}
"""What the rates of rows are divided by."""

SHOWN: Final = ("exits", "doorbells", "interrupts")
"""The counters of Ringlet in the table, for each second of the row; the JSON values have all."""

_SPEEDS: Final = ((RINGLET, NATIVE), (QEMU, NATIVE), (KVM, NATIVE), (RINGLET, QEMU))

NOTE: Final = (
    "Ratios are of speeds: above 1 is faster. Disk: one raw file, natively with O_DIRECT, in "
    "guests through the host's page cache, of which the file is dropped before each row. Network: "
    "iperf3 with a server on the host's loopback, natively through pasta, in guests through passt "
    "or, where it cannot run, libslirp. Share: a directory of the host, in guests by virtio-fs. "
    "Processors: those in use by the engine's processes meanwhile"
)


def table(made: ProgramsComparison) -> RenderableType:
    """Return the comparison as a table, with the reasons for missing figures below."""
    pairs = [p for p in _SPEEDS if p[0] in made.engines and p[1] in made.engines]
    guests = [engine for engine in made.engines if engine != NATIVE]
    rounds = made.settings.rounds
    shown = Table(
        title=f"io: best of {rounds} round{'s' if rounds > 1 else ''}", box=SIMPLE_HEAD,
        pad_edge=False, collapse_padding=True,
    )  # fmt: skip
    shown.add_column("row", no_wrap=True)
    titles = [*(TITLES[engine] for engine in made.engines)]
    titles += [f"{TITLES[above]}\n/{TITLES[below]}" for above, below in pairs]
    titles += [f"{TITLES[engine]}\nprocessors" for engine in guests]
    if RINGLET in made.engines:
        titles += [f"{name}\n/s" for name in SHOWN]
    for title in titles:
        shown.add_column(title, justify="right", no_wrap=True)
    for figures in made.figures:
        cells = [_figure(figures, engine) for engine in made.engines]
        cells += [_ratio(speed(figures, *pair)) for pair in pairs]
        cells += [_ratio(_processors(figures, engine)) for engine in guests]
        if RINGLET in made.engines:
            cells += [_per_second(figures, name) for name in SHOWN]
        shown.add_row(figures.row.label, *cells)
    return Group(shown, Text(NOTE), *errors(made))


def speed(figures: Figures, engine: str, base: str) -> float | None:
    """Return the speed under `engine` as a multiple of that under `base`."""
    return figures.ratio(base, engine)


def _figure(figures: Figures, engine: str) -> str:
    timing = figures.timings.get(engine)
    if timing is None:
        return "error" if engine in figures.errors else "-"
    row = figures.row
    if row.rate and timing.rate is not None:
        value = timing.rate / UNITS[row.rate]
        return f"{value:,.{0 if value >= 100 else 2}f} {row.rate}"
    return f"{timing.wall / 1e9:.2f} s"


def _processors(figures: Figures, engine: str) -> float | None:
    timing = figures.timings.get(engine)
    return timing.cpu / timing.wall if timing is not None and timing.wall else None


def _per_second(figures: Figures, name: str) -> str:
    timing, count = figures.timings.get(RINGLET), figures.counters.get(name)
    if timing is None or count is None or not timing.wall:
        return "-"
    return f"{count * 1e9 / timing.wall:,.0f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
