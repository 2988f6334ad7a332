"""What a benchmark program prints, as values.

* `clock TSC NS`: the time stamp counter at a time of CLOCK_MONOTONIC (native only)
* `mark TSC`: at the program's start and end
* `section NAME TICKS SUM`: a section of `cpu`
* `nano NAME TICKS COUNT`: a measurement of `nano`; COUNT 0: it could not be made here
* `linux NAME TICKS COUNT`: one of `linux`
* `panic: ...`: the guest's kernel met an exception it has no use for

Around the program `linux` there are more lines of use: those of Ringlet's counters, the last of
QEMU's firmware, and what a Linux says that panics.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

LINUX_PANIC = "Kernel panic - not syncing"

# Guests whose counter runs within this of the host's are taken to run at the host's exactly: the
# arrival of a line is known to about a millisecond only.
SAME_RATE = 0.02


@dataclass(frozen=True)
class Line:
    """A line of output and when it arrived, in ns of CLOCK_MONOTONIC."""

    arrived: int
    text: str


@dataclass(frozen=True)
class Measurement:
    """Ticks of the time stamp counter for `count` operations, and the checksum if there is one."""

    ticks: int
    count: int = 1
    checksum: str | None = None


@dataclass
class Output:
    """All that one run of a program said."""

    measurements: dict[str, Measurement] = field(default_factory=dict)
    clocks: list[tuple[int, int]] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)
    complaint: str | None = None
    entered: int | None = None
    """When the guest's kernel was entered, in ns of CLOCK_MONOTONIC, if the output tells."""
    times: dict[str, int] = field(default_factory=dict)
    """What was measured from outside, in ns."""

    @property
    def complete(self) -> bool:
        """The program came to its end."""
        return len(self.marks) >= 2


def parse(lines: Iterable[Line]) -> Output:
    """Reads a program's output.  Lines of anything else (firmware, warnings) are skipped."""
    output = Output()
    for line in lines:
        match line.text.split():
            case ["clock", tsc, ns] if tsc.isdecimal() and ns.isdecimal():
                output.clocks.append((int(tsc), int(ns)))
            case ["mark", tsc] if tsc.isdecimal():
                output.marks.append((int(tsc), line.arrived))
            case ["section", name, ticks, checksum] if ticks.isdecimal():
                output.measurements[name] = Measurement(int(ticks), 1, checksum)
            case ["nano" | "linux", name, ticks, count] if ticks.isdecimal() and count.isdecimal():
                output.measurements[name] = Measurement(int(ticks), int(count))
            case ["panic:" | "nano:" | "linux:" | "parser:", *_]:
                output.complaint = line.text.strip()
            case ["Booting", "from", *_] if not output.marks:
                output.entered = line.arrived
            case _ if LINUX_PANIC in line.text:
                output.complaint = line.text.strip()
    return output


def entry(stderr: str) -> int | None:
    """When Ringlet entered the guest, of the counters it printed."""
    for line in stderr.splitlines():
        match line.split():
            case ["machine_entry_ns", value, *_]:
                return int(value.replace(",", ""))
    return None


def rate(points: Sequence[tuple[int, int]]) -> float | None:
    """Ticks per ns over (ticks, ns) pairs, from the first to the last; None if they are too few."""
    if len(points) < 2 or points[-1][1] <= points[0][1]:
        return None
    return (points[-1][0] - points[0][0]) / (points[-1][1] - points[0][1])


def ticks_per_ns(output: Output, host: float | None) -> float | None:
    """The rate of the counter the program read.

    A native program knows it from the clock.  A guest's is the host's if its marks agree with
    that, else what its marks say.
    """
    own = rate(output.clocks)
    if own is not None:
        return own
    marked = rate(output.marks)
    if host is not None and (marked is None or abs(marked / host - 1) < SAME_RATE):
        return host
    return marked
