"""Runs interleaved rounds of a program over the engines and computes the figures.

Each round runs every engine once, so that a busy host disturbs all engines alike.  A figure is the
minimum over the rounds, because disturbances only add time.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from ringlet.bench import engines
from ringlet.bench.engines import NATIVE, RINGLET, Transcript
from ringlet.bench.gauge import Gauge
from ringlet.bench.output import Measurement, Output, entry, parse, ticks_per_ns
from ringlet.bench.toolchain import Program

# Times from the kernel's entry, and from the start of the command, to the first line of init.
BOOT, START = "boot", "start"
# The same times without translations of earlier runs.
COLD = {BOOT: "boot_cold", START: "start_cold"}

Runner = Callable[[list[str], float], Transcript]


@dataclass
class Cell:
    """One figure: ns per operation, or the reason why there is none; neither: not applicable."""

    ns: float | None = None
    error: str | None = None


@dataclass
class Row:
    """One section or primitive over all engines."""

    name: str
    cells: dict[str, Cell] = field(default_factory=dict)

    def ratio(self, engine: str, base: str = NATIVE) -> float | None:
        """Return the time under `engine` as a multiple of the time under `base`."""
        above = self.cells.get(engine, Cell()).ns
        below = self.cells.get(base, Cell()).ns
        return above / below if above and below else None


@dataclass
class Comparison:
    """The result of a benchmark."""

    program: str
    engines: Sequence[str]
    rounds: int
    rows: list[Row]
    errors: dict[str, str]
    ticks_per_ns: float | None

    def ratios(self, engine: str, base: str = NATIVE) -> list[float]:
        """Return the ratios of all rows that have one."""
        found = (row.ratio(engine, base) for row in self.rows)
        return [ratio for ratio in found if ratio is not None]

    def mean(self, engine: str, base: str = NATIVE) -> float | None:
        """Return the geometric mean of the rows' ratios."""
        return geometric_mean(self.ratios(engine, base))


def geometric_mean(values: Iterable[float]) -> float | None:
    """Return the geometric mean of `values`; None if there are none."""
    logarithms = [math.log(value) for value in values]
    return math.exp(fmean(logarithms)) if logarithms else None


def compare(
    program: Program,
    chosen: Sequence[str],
    rounds: int,
    memory: int = 128,
    timeout: float = 300.0,
    progress: Callable[[str], None] = lambda _: None,
    options: Sequence[str] = (),
    runner: Runner = engines.run,
    gauge: Gauge | None = None,
) -> Comparison:
    """Run `program` under each chosen engine, `rounds` times.

    With a gauge, each run is on the processor that is fastest when it starts.

    An engine that fails keeps its measurements so far and is not run again; `errors` has its
    message.  `memory` is in MiB, `timeout` in seconds for one run.
    """
    outputs: dict[str, list[Output]] = {engine: [] for engine in chosen}
    errors: dict[str, str] = {}
    for index in range(rounds):
        for engine in chosen:
            if engine in errors:
                continue
            progress(f"{program.name}: round {index + 1} of {rounds}, {engine}")
            if gauge is not None:
                gauge.choose()
            transcript = runner(engines.command(engine, program, memory, options), timeout)
            output = parse(transcript.lines)
            if engine != NATIVE and program.kernel is not None:
                output.times = boot_times(transcript, output)
            outputs[engine].append(output)
            if error := failure(engine, program, transcript, output, timeout):
                errors[engine] = error
            elif output.times:
                cold = output.times
                if engine == RINGLET:
                    again = runner(
                        [*engines.command(engine, program, memory, options), "--cold"], timeout
                    )
                    cold = boot_times(again, parse(again.lines))
                output.times = output.times | {COLD[name]: ns for name, ns in cold.items()}
    host = _host_rate(outputs.get(NATIVE, []))
    return Comparison(program.name, chosen, rounds, _rows(outputs, errors, host), errors, host)


def boot_times(transcript: Transcript, output: Output) -> dict[str, int]:
    """Return the ns to the first line of a guest's init, from kernel entry and from the start."""
    entered = output.entered if output.entered is not None else entry(transcript.stderr)
    since = {BOOT: entered, START: transcript.started}
    return {
        name: output.marks[0][1] - begin
        for name, begin in since.items()
        if begin is not None and output.marks
    }


def failure(
    engine: str, program: Program, transcript: Transcript, output: Output, timeout: float
) -> str | None:
    """Return a line that says why a run failed; None if it did not fail."""
    if transcript.status == engines.success(engine, program) and output.complete:
        return None
    if output.complaint:
        return output.complaint
    if transcript.status is None:
        return f"not finished after {timeout:g} s"
    last = transcript.stderr.splitlines()[-1:] or ["no message"]
    return f"ended with status {transcript.status}: {last[0].strip(' │')}"


def _host_rate(outputs: Iterable[Output]) -> float | None:
    rates = [rate for output in outputs if (rate := ticks_per_ns(output, None)) is not None]
    return sorted(rates)[len(rates) // 2] if rates else None


def _rows(
    outputs: dict[str, list[Output]], errors: dict[str, str], host: float | None
) -> list[Row]:
    names: dict[str, None] = {}
    for of_engine in outputs.values():
        for output in of_engine:
            names.update(dict.fromkeys([*output.measurements, *output.times]))
    checksums = _checksums(outputs.get(NATIVE, []))
    rows = []
    for name in names:
        row = Row(name)
        for engine, of_engine in outputs.items():
            row.cells[engine] = _cell(name, of_engine, engine in errors, host, checksums.get(name))
        rows.append(row)
    return rows


def _checksums(outputs: Iterable[Output]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for output in outputs:
        for name, measurement in output.measurements.items():
            found.setdefault(name, measurement.checksum)
    return found


def _cell(
    name: str, outputs: Iterable[Output], failed: bool, host: float | None, checksum: str | None
) -> Cell:
    best: float | None = None
    for output in outputs:
        if name in output.times:
            best = min(output.times[name], best or math.inf)
            continue
        measurement = output.measurements.get(name)
        if measurement is None:
            continue
        if checksum is not None and measurement.checksum != checksum:
            return Cell(error="wrong result")
        ns = _ns(measurement, ticks_per_ns(output, host))
        if ns is not None and (best is None or ns < best):
            best = ns
    return Cell(best, "error" if failed and best is None else None)


def _ns(measurement: Measurement, rate: float | None) -> float | None:
    if rate is None or not measurement.count:
        return None
    return measurement.ticks / measurement.count / rate
