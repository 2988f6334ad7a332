"""Runs interleaved rounds of the rows over the engines and compares them.

In each round, each group's guest is started once on each engine and runs the group's rows.  A
figure is the best of the rounds, because disturbances only add time.  Times are scaled by the speed
at which the processor ran meanwhile, because others may share its core.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ringlet.bench import engines
from ringlet.bench.debian.image import Image
from ringlet.bench.debian.results import Results, Timing, counters, counters_by_row, parse
from ringlet.bench.debian.rows import (
    FAULT_ROW,
    SYSCALL_ROW,
    Group,
    Row,
    fnv,
    groups_of,
    plan,
)
from ringlet.bench.devices import TAG, Devices, forget_cached, with_devices
from ringlet.bench.engines import NATIVE, RINGLET, Transcript
from ringlet.bench.gauge import Gauge
from ringlet.bench.rounds import geometric_mean
from ringlet.bench.toolchain import DRIVER, Program

PROGRAMS_MEMORY: Final = 1280
"""What programs need beside the initial RAM disk and its files, in MiB."""
# The seconds in which a guest must reach its init, whatever the engine.
_START_S: Final = 180

Runner = Callable[[list[str], float, str], Transcript]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run the rows: rounds, sizes, guest RAM in MiB, options of `ringlet run`.

    `memory` is 0 if it follows from the size of the image; `limit` is the seconds that a row may
    take.  With `counting`, another native run counts system calls.
    """

    rounds: int = 1
    quick: bool = False
    memory: int = 0
    limit: int = 300
    options: Sequence[str] = ()
    counting: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """What a group runs in: image, initial RAM disk of it, directory /bench, the guests' kernel.

    `devices` are what the guests have beside it.
    """

    image: Image
    disk: Path
    bench: Path
    kernel: Path
    devices: Devices = field(default_factory=Devices)


@dataclass
class Figures:
    """A row over all engines: the best timing, or the reason why there is none."""

    row: Row
    timings: dict[str, Timing] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    calls: int | None = None
    """System calls of a native run."""
    counters: dict[str, int] = field(default_factory=dict)
    """By how much Ringlet's counters grew in the last run under Ringlet."""

    def time(self, engine: str) -> float | None:
        """Return the ns for the row, or for one operation if it measures a rate."""
        timing = self.timings.get(engine)
        if timing is None:
            return None
        if self.row.rate:
            return timing.scaled(1e9 / timing.rate) if timing.rate else None
        return timing.scaled(timing.wall)

    def ratio(self, engine: str, base: str) -> float | None:
        """Return the time under `engine` as a multiple of the time under `base`."""
        above, below = self.time(engine), self.time(base)
        return above / below if above and below else None

    def processor_ratio(self, engine: str) -> float | None:
        """Return the processor time of the engine's process as a multiple of the native run's.

        On a busy host it says more than the ratio of times.  A row that measures a rate has none.
        """
        timing, native = self.timings.get(engine), self.timings.get(NATIVE)
        if timing is None or native is None or self.row.rate or not timing.cpu:
            return None
        return timing.scaled(timing.cpu) / native.scaled(native.user + native.system)

    @property
    def traps(self) -> int | None:
        """Return the system calls and page faults of a native run."""
        native = self.timings.get(NATIVE)
        if native is None or self.calls is None:
            return None
        return self.calls + native.faults

    @property
    def trap_rate(self) -> float | None:
        """Return the native traps for each second that user code runs."""
        traps, native = self.traps, self.timings.get(NATIVE)
        if traps is None or native is None or not native.user:
            return None
        return traps * 1e9 / native.scaled(native.user)


@dataclass
class ProgramsComparison:
    """The result of the benchmark."""

    engines: Sequence[str]
    settings: Settings
    figures: list[Figures]
    errors: dict[str, str] = field(default_factory=dict)
    """Why an engine did not finish a run, by "ENGINE, GROUP", or "ENGINE, ROW" of a row alone."""
    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    """Ringlet's counters of the last round, by group or row, with the start of the guest."""
    versions: dict[str, str] = field(default_factory=dict)

    def ratios(self, engine: str, base: str) -> list[float]:
        """Return the ratios of all programs that have one."""
        found = (f.ratio(engine, base) for f in self.figures if not f.row.cost)
        return [ratio for ratio in found if ratio is not None]

    def mean(self, engine: str, base: str) -> float | None:
        """Return the geometric mean of the programs' ratios."""
        return geometric_mean(self.ratios(engine, base))

    def processor_mean(self, engine: str) -> float | None:
        """Return the geometric mean of the programs' ratios of processor time."""
        found = (f.processor_ratio(engine) for f in self.figures)
        return geometric_mean(ratio for ratio in found if ratio is not None)

    def cost(self, name: str, engine: str) -> float | None:
        """Return the ns of one operation of the row `name`, which measures the cost of a trap."""
        return next((f.time(engine) for f in self.figures if f.row.name == name), None)

    def trap_time(self, figures: Figures, engine: str = RINGLET) -> float | None:
        """Return the ns that the traps of a native run would cost under `engine`."""
        native, calls = figures.timings.get(NATIVE), figures.calls
        call, fault = self.cost(SYSCALL_ROW, engine), self.cost(FAULT_ROW, engine)
        if native is None or calls is None or call is None or fault is None:
            return None
        return calls * call + native.faults * fault


def compare(
    rows: Sequence[Row],
    places: Mapping[str, Place],
    chosen: Sequence[str],
    settings: Settings,
    progress: Callable[[str], None] = lambda _: None,
    runner: Runner = engines.run,
    gauge: Gauge | None = None,
) -> ProgramsComparison:
    """Run `rows` on the engines `chosen`; `places` has the place of each group.

    An engine that does not finish a run keeps its figures so far and is not run again for these
    rows; `errors` has the reason.  With a gauge, each run is on the processor that is fastest when
    it starts; without one, speeds are not known.
    """
    made = ProgramsComparison(chosen, settings, [Figures(row) for row in rows])
    runs = [run for group in groups_of(rows) for run in _runs(made, group, places[group.name])]
    for run in runs:
        made.versions |= run.place.image.versions
    if NATIVE in chosen and settings.counting:
        for run in runs:
            progress(f"counting system calls, {run.name}")
            _count(made, run, runner)
    for index in range(settings.rounds):
        for run in runs:
            for engine in chosen:
                if f"{engine}, {run.name}" not in made.errors:
                    progress(f"round {index + 1} of {settings.rounds}, {run.name}, {engine}")
                    _run(made, run, engine, runner, gauge)
    if gauge is not None:
        for figures in made.figures:
            for engine, timing in figures.timings.items():
                speed = timing.speed / gauge.best
                figures.timings[engine] = replace(timing, speed=speed)
    return made


def program(
    place: Place, rows: Sequence[Row], settings: Settings, *, counting: bool = False
) -> Program:
    """Return the program that runs `rows` natively and in a guest."""
    devices = place.devices
    names = plan(rows, quick=settings.quick, port=devices.port)
    native: tuple[str, ...] = (
        "count" if counting else "native", str(place.image.tree), str(place.bench), names,
        str(settings.limit),
    )  # fmt: skip
    if devices.directory is not None:
        native = (*native, str(devices.directory))
    share = f" share={TAG}" * devices.shared
    return Program(
        "programs", place.bench / DRIVER, place.disk, place.kernel, native,
        f"rootfstype=ramfs{share} -- {names} {settings.limit}",
    )  # fmt: skip


def memory(place: Place, settings: Settings) -> int:
    """Return the guest's RAM in MiB."""
    return settings.memory or PROGRAMS_MEMORY + 2 * (place.image.archive.stat().st_size >> 20)


@dataclass(frozen=True, slots=True)
class _Run:
    """The rows that a guest runs from its start to its end."""

    name: str
    figures: list[Figures]
    place: Place

    def program(self, settings: Settings, *, counting: bool = False) -> Program:
        return program(self.place, [f.row for f in self.figures], settings, counting=counting)


def _runs(made: ProgramsComparison, group: Group, place: Place) -> list[_Run]:
    figures = [f for f in made.figures if f.row.group == group.name]
    if group.alone:
        return [_Run(f.row.name, [f], place) for f in figures]
    return [_Run(group.name, figures, place)]


def _count(made: ProgramsComparison, run: _Run, runner: Runner) -> None:
    counted = run.program(made.settings, counting=True)
    command = engines.command(NATIVE, counted, 0)
    transcript = runner(command, _timeout(made.settings, run.figures), "")
    results = parse(transcript.lines)
    for f in run.figures:
        f.calls = results.calls.get(f.row.name)
    if not results.done:
        made.errors["counting system calls, " + run.name] = _reason(transcript, results)


def _run(
    made: ProgramsComparison, run: _Run, engine: str, runner: Runner, gauge: Gauge | None
) -> None:
    figures, settings, devices = run.figures, made.settings, run.place.devices
    size = memory(run.place, settings)
    command = engines.command(engine, run.program(settings), size, settings.options)
    command = with_devices(engine, command, devices, size)
    if devices.image is not None:
        forget_cached(devices.image)
    if gauge is not None:
        gauge.choose()
    transcript = runner(command, _timeout(settings, figures), "row " if engine == RINGLET else "")
    results = parse(transcript.lines) if gauge is None else parse(transcript.lines, gauge.pace)
    if engine == RINGLET:
        made.counters[run.name] = counters(transcript.stderr)
        grown = counters_by_row(transcript.lines, transcript.stderr)
        for f in figures:
            f.counters = grown.get(f.row.name, {})
    for f in figures:
        _take(f, engine, results)
    if not (results.done and transcript.status == 0):
        made.errors[f"{engine}, {run.name}"] = _reason(transcript, results)


def _take(figures: Figures, engine: str, results: Results) -> None:
    """Keep the row's timing if it is right and the best so far."""
    name = figures.row.name
    timing = results.timings.get(name)
    if (error := _mistake(figures, timing, results.said.get(name))) is not None:
        figures.errors[engine] = error
    elif timing is not None:
        best = figures.timings.get(engine)
        if best is None or _better(timing, best):
            figures.timings[engine] = timing


def _mistake(figures: Figures, timing: Timing | None, said: str | None) -> str | None:
    """Return what is wrong with a run of the row; None if nothing is."""
    if said is not None:
        return said
    if timing is None:
        return "not run"
    if timing.status == "late":
        return "over its time"
    if timing.status != "0":
        return f"ended with status {timing.status}"
    if timing.checksum != _expected(figures, timing):
        return "wrong result"
    if figures.row.rate and timing.rate is None:
        return "no rate"
    if timing.clock_is_wrong:
        return f"its clock said {timing.wall / 1e9:.2f} s, the host's {timing.outside / 1e9:.2f} s"
    return None


def _expected(figures: Figures, timing: Timing) -> str:
    """Return the hash of the right output: known, the native one, or that of the first run."""
    if figures.row.output:
        return fnv(figures.row.output.encode())
    seen = [figures.timings.get(NATIVE), *figures.timings.values(), timing]
    return next(other.checksum for other in seen if other is not None)


def _better(timing: Timing, best: Timing) -> bool:
    if timing.rate is not None and best.rate is not None:
        return timing.rate / timing.speed > best.rate / best.speed
    return timing.scaled(timing.wall) < best.scaled(best.wall)


def _timeout(settings: Settings, figures: Sequence[Figures]) -> float:
    # A row may take its limit to prepare, too.
    return _START_S + 2 * settings.limit * len(figures)


def _reason(transcript: Transcript, results: Results) -> str:
    if results.complaint:
        return results.complaint
    if transcript.status is None:
        return "not finished in time"
    last = transcript.stderr.splitlines()[-1:] or ["no message"]
    return f"ended with status {transcript.status}: {last[0].strip(' │')}"
